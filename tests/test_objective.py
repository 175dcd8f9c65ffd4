"""Symmetric InfoNCE against a double-precision loop over the definition."""

import math

import torch
from torch.nn import functional as F

from benchmark.model import Features
from benchmark.objective import InfoNCE


def loop(image: torch.Tensor, text: torch.Tensor, scale: float) -> float:
    n = len(image)
    total = 0.0
    for i in range(n):
        rows = [math.exp(scale * float(image[i] @ text[k])) for k in range(n)]
        columns = [math.exp(scale * float(image[k] @ text[i])) for k in range(n)]
        total -= math.log(rows[i] / sum(rows)) + math.log(columns[i] / sum(columns))
    return total / (2 * n)


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_equals_the_loop_with_and_without_augmented_texts() -> None:
    image, text, other = unit(7, 5, 0), unit(7, 5, 1), unit(7, 5, 2)
    objective = InfoNCE().double()
    labels = torch.zeros(7, 2)
    plain = objective(Features(image), Features(text), None, labels)
    assert abs(plain.item() - loop(image, text, 1 / 0.07)) < 1e-6
    both = objective(Features(image), Features(text), Features(other), labels)
    assert abs(both.item() - (loop(image, text, 1 / 0.07) + loop(image, other, 1 / 0.07)) / 2) < 1e-6


def test_scale_is_capped_at_one_hundred() -> None:
    objective = InfoNCE().double()
    objective.log_scale.data.fill_(20.0)
    image = unit(4, 3, 3)
    loss = objective(Features(image), Features(image), None, torch.zeros(4, 2))
    assert abs(loss.item() - loop(image, image, 100.0)) < 1e-6
