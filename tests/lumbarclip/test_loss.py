"""The soft CLIP loss is the paper's equations, term by term, and can be trained for many heads at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from benchmark.config import TrainingConfig
from benchmark.model import Features
from benchmark.objective import TrainingLoss
from lumbarclip.loss import SoftCLIPLoss


def batch(seed: int, n: int = 7, d: int = 5, classes: int = 2, *lead: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors of images, texts and rewordings, and one-hot labels of classes of unequal size, in double."""
    random = torch.Generator().manual_seed(seed)
    vectors = [F.normalize(torch.randn(*lead, n, d, generator=random, dtype=torch.float64), dim=-1) for _ in range(3)]
    labels = torch.randint(0, classes, (*lead, n), generator=random)
    labels[..., :3] = 0
    return *vectors, F.one_hot(labels, classes).double()


def one_way(queries: list[list[float]], keys: list[list[float]], y: list[list[float]], tau: float) -> float:
    """Equations 4 and 5, or 4 and 6, written out: each query against all keys, its own row of soft targets."""
    n = len(queries)
    total = 0.0
    for i in range(n):
        overlaps = [sum(a * b for a, b in zip(y[i], y[j], strict=True)) for j in range(n)]
        similarities = [sum(a * b for a, b in zip(queries[i], keys[j], strict=True)) for j in range(n)]
        target_sum = sum(math.exp(overlaps[k] / tau) for k in range(n))
        logit_sum = sum(math.exp(similarities[k] / tau) for k in range(n))
        for j in range(n):
            target = math.exp(overlaps[j] / tau) / target_sum
            total += target * math.log(math.exp(similarities[j] / tau) / logit_sum)
    return -total / n


def loop(image: Tensor, text: Tensor, augmented: Tensor | None, labels: Tensor, tau: float, alpha: float) -> float:
    """Equation 7 from explicit loops over Python floats (double precision)."""
    i, t, y = image.tolist(), text.tolist(), labels.tolist()
    original = one_way(i, t, y, tau) + one_way(t, i, y, tau)
    if augmented is None:
        return original
    a = augmented.tolist()
    return alpha * original + (1 - alpha) * (one_way(i, a, y, tau) + one_way(a, i, y, tau))


def apply(
    loss: SoftCLIPLoss, image: Tensor, text: Tensor, augmented: Tensor | None, labels: Tensor, alpha: float = 0.5
) -> Tensor:
    mixed = TrainingLoss(loss, alpha=alpha)
    return mixed(Features(image), Features(text), None if augmented is None else Features(augmented), labels)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("tau", [0.07, 0.5, 1.0])
@pytest.mark.parametrize("with_augmented", [False, True])
def test_equals_the_equations_in_double_precision(alpha: float, tau: float, with_augmented: bool) -> None:
    image, text, augmented, labels = batch(0)
    given_augmented = augmented if with_augmented else None
    loss = apply(SoftCLIPLoss(tau), image, text, given_augmented, labels, alpha)
    assert float(loss) == pytest.approx(loop(image, text, given_augmented, labels, tau, alpha), abs=1e-10)


def test_multi_label_vectors_are_allowed() -> None:
    image, text, augmented, _ = batch(1)
    labels = torch.randint(0, 2, (7, 4), generator=torch.Generator().manual_seed(2)).double()
    labels[0] = 0  # no finding of the list
    loss = apply(SoftCLIPLoss(), image, text, augmented, labels)
    assert float(loss) == pytest.approx(loop(image, text, augmented, labels, 0.07, 0.5), abs=1e-10)


def test_defaults_are_the_papers() -> None:
    assert (SoftCLIPLoss().temperature, TrainingConfig().alpha) == (0.07, 0.5)
    assert list(SoftCLIPLoss().parameters()) == []


def test_text_to_image_is_another_term_than_image_to_text() -> None:
    """Equation 6 read with the S of equation 3 would be equation 5 again, its two summation indices renamed."""
    image, text, _, labels = batch(3)
    i, t, y = image.tolist(), text.tolist(), labels.tolist()
    both = float(apply(SoftCLIPLoss(0.5), image, text, None, labels))
    assert abs(both - 2 * one_way(i, t, y, 0.5)) > 1e-3


def test_a_text_is_trained_to_its_own_row_of_targets() -> None:
    """Row softmax makes the targets asymmetric where classes differ in size, so that the row matters."""
    image, text, _, labels = batch(4)
    target = (labels @ labels.T / 0.5).softmax(dim=1)
    assert (target - target.T).abs().max() > 0.005
    logits = image @ text.T / 0.5
    i2t, t2i = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
    swapped = -(target.T * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    loss = float(apply(SoftCLIPLoss(0.5), image, text, None, labels))
    assert loss == pytest.approx(float(i2t + t2i), abs=1e-12)
    assert abs(float(t2i - swapped)) > 1e-4


@pytest.mark.parametrize("learnable", [False, True])
def test_gradients_are_those_of_finite_differences(learnable: bool) -> None:
    image, text, augmented, labels = batch(6, n=4, d=3)
    loss = SoftCLIPLoss(0.5, learnable=learnable).double()
    inputs = [x.requires_grad_(True) for x in (image, text, augmented)]
    assert torch.autograd.gradcheck(lambda i, t, a: apply(loss, i, t, a, labels), inputs)


def test_learned_temperature_starts_at_its_setting_and_leaves_targets_alone() -> None:
    image, text, augmented, labels = batch(7)
    fixed, learned = SoftCLIPLoss(0.2), SoftCLIPLoss(0.2, learnable=True).double()
    expected = apply(fixed, image, text, augmented, labels)
    loss = apply(learned, image, text, augmented, labels)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-6)  # log(1/tau) is stored as float32
    loss.backward()
    # Finite difference in the logits' scale alone, the targets held where they are.
    target = (labels @ labels.T / 0.2).softmax(dim=1)

    def at(log_scale: float) -> float:
        total = 0.0
        for other in (text, augmented):
            logits = image @ other.T * math.exp(log_scale)
            total += float(F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return total

    start, step = math.log(1 / 0.2), 1e-5
    assert float(learned.log_scale.grad) == pytest.approx((at(start + step) - at(start - step)) / (2 * step), abs=1e-5)


def test_learned_scale_is_capped_at_one_hundred() -> None:
    image, text, _, labels = batch(8)
    learned = SoftCLIPLoss(0.001, learnable=True).double()
    capped = float(apply(learned, image, text, None, labels).detach())
    assert capped == pytest.approx(float(apply(SoftCLIPLoss(0.01), image, text, None, labels)), abs=1e-10)


@pytest.mark.parametrize("with_augmented", [False, True])
def test_many_heads_at_once_equal_one_after_another(with_augmented: bool) -> None:
    loss = SoftCLIPLoss()
    image, text, augmented, labels = batch(9, 6, 4, 3, 5)
    inputs = (image, text, augmented if with_augmented else None, labels)
    dims = (0, 0, 0 if with_augmented else None, 0)

    def of_one(*one: Tensor | None) -> Tensor:
        return apply(loss, *one)

    values, gradients = [], []
    for m in range(5):
        one = [x[m].clone().requires_grad_(True) if x is not None else None for x in inputs]
        value = of_one(*one)
        gradients.append(torch.autograd.grad(value, one[0])[0])
        values.append(value.detach())
    together, gradient = torch.func.vmap(lambda *one: torch.func.grad_and_value(of_one)(*one)[::-1], in_dims=dims)(
        *inputs
    )
    assert torch.allclose(together, torch.stack(values), atol=1e-12)
    assert torch.allclose(gradient, torch.stack(gradients), atol=1e-12)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), classes=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_bounded_by_the_targets_entropy_and_blind_to_order(seed: int, n: int, classes: int) -> None:
    """Cross-entropy is at least the entropy of its targets, both ways; a batch has no order."""
    random = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(n, 6, generator=random, dtype=torch.float64), dim=-1) for _ in range(2))
    labels = F.one_hot(torch.randint(0, classes, (n,), generator=random), classes).double()
    loss = float(apply(SoftCLIPLoss(0.3), image, text, None, labels))
    target = (labels @ labels.T / 0.3).softmax(dim=1)
    assert loss >= 2 * float(-(target * target.log()).sum(dim=1).mean()) - 1e-9
    order = torch.randperm(n, generator=random)
    shuffled = apply(SoftCLIPLoss(0.3), image[order], text[order], None, labels[order])
    assert float(shuffled) == pytest.approx(loss, abs=1e-10)


def test_similarities_beyond_the_range_of_exp_stay_finite() -> None:
    image = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    loss = apply(SoftCLIPLoss(0.001), image, -image, None, torch.eye(4))
    assert torch.isfinite(loss)
