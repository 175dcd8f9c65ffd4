"""What is minimised: InfoNCE against a loop over the definition, and how texts are mixed and pairs weighted."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from benchmark.config import TrainingConfig
from benchmark.errors import BadInput, BrokenModel
from benchmark.model import Features
from benchmark.objective import InfoNCE, TrainingLoss, make_loss, make_objective


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


def test_equals_the_loop() -> None:
    image, text = unit(7, 5, 0), unit(7, 5, 1)
    losses = InfoNCE().double()(Features(image), Features(text), torch.zeros(7, 2))
    assert losses.shape == (7,)
    assert abs(losses.mean().item() - loop(image, text, 1 / 0.07)) < 1e-6


def test_scale_is_capped_at_one_hundred() -> None:
    objective = InfoNCE().double()
    objective.log_scale.data.fill_(20.0)
    image = unit(4, 3, 3)
    loss = objective(Features(image), Features(image), torch.zeros(4, 2)).mean()
    assert abs(loss.item() - loop(image, image, 100.0)) < 1e-6


# --------------------------------------------------------------------------------------------- what is minimised


def training_loss(**changes: object) -> TrainingLoss:
    return TrainingLoss(InfoNCE(), **changes).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_weighs_original_against_augmented_texts(alpha: float) -> None:
    image, text, other = (Features(unit(7, 5, seed)) for seed in range(3))
    mixed = training_loss(alpha=alpha)(image, text, other, torch.zeros(7, 2))
    expected = alpha * loop(image.pooled, text.pooled, 1 / 0.07) + (1 - alpha) * loop(
        image.pooled, other.pooled, 1 / 0.07
    )
    assert abs(mixed.item() - expected) < 1e-6
    alone, doubled = (training_loss(alpha=alpha)(image, text, again, torch.zeros(7, 2)) for again in (None, text))
    assert alone.item() == pytest.approx(doubled.item(), abs=1e-12)


def test_class_weights_and_focal_factors_enter_pair_by_pair() -> None:
    image, text = (Features(unit(6, 5, seed)) for seed in range(2))
    labels = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 0, 1, 1]]
    losses = InfoNCE().double()(image, text, labels).tolist()
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    balanced = training_loss(class_weights=weights)(image, text, None, labels)
    assert balanced.item() == pytest.approx(
        sum(loss * (0.5 if i < 4 else 2.0) for i, loss in enumerate(losses)) / 6, abs=1e-12
    )
    focal = training_loss(focal=True)(image, text, None, labels)
    assert focal.item() == pytest.approx(sum((1 - math.exp(-loss)) ** 2 * loss for loss in losses) / 6, abs=1e-12)


class Scalar(torch.nn.Module):
    def forward(self, image: Features, text: Features, labels: torch.Tensor) -> torch.Tensor:
        return (image.pooled - text.pooled).square().sum()


def test_an_objective_without_parts_cannot_be_weighted_and_is_not_silently_left_unweighted() -> None:
    image, text = (Features(unit(6, 5, seed)) for seed in range(2))
    plain = TrainingLoss(Scalar())
    assert plain(image, text, None, torch.zeros(6, 2)).item() > 0
    focal = TrainingLoss(Scalar(), focal=True)
    with pytest.raises(BrokenModel, match="Scalar gives a loss of shape"):
        focal(image, text, None, torch.zeros(6, 2))


class Optioned:
    """Stands for a model whose objective has options."""

    card = SimpleNamespace(name="optioned")

    def make_objective(self, temperature: float = 1.0) -> torch.nn.Module:
        made = InfoNCE()
        made.log_scale.data.fill_(-math.log(temperature))
        return made


def test_options_reach_the_objective_and_unknown_ones_are_named() -> None:
    made = make_objective(Optioned(), {"temperature": 0.5})  # type: ignore[arg-type]
    assert float(made.log_scale.detach()) == pytest.approx(math.log(2))
    with pytest.raises(BadInput, match="optioned has no option 'tau'; it has: temperature"):
        make_objective(Optioned(), {"tau": 0.5})  # type: ignore[arg-type]


def test_class_weights_come_from_the_training_labels() -> None:
    labels = torch.eye(2)[[0] * 90 + [1] * 10]
    loss = make_loss(Optioned(), TrainingConfig(imbalance="class_balanced"), labels)  # type: ignore[arg-type]
    assert loss.class_weights is not None
    assert loss.class_weights[1] > 5 * loss.class_weights[0]
    assert make_loss(Optioned(), TrainingConfig(), labels).class_weights is None  # type: ignore[arg-type]
