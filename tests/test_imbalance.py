"""Weights, factors and shifts against imbalance are what their papers and other implementations have."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from benchmark.imbalance import (
    balanced_sigmoid,
    balanced_softmax,
    class_balanced_weights,
    focal_factor,
    pair_weights,
)

COUNTS = st.lists(st.integers(1, 5000), min_size=2, max_size=6)


# --------------------------------------------------------------------------------------------- class weights


@settings(max_examples=50, deadline=None)
@given(counts=COUNTS, beta=st.sampled_from([Fraction(0), Fraction(9, 10), Fraction(999, 1000)]))
def test_class_weights_are_the_exact_effective_numbers(counts, beta):
    """Sums of beta^j in rational arithmetic: the effective number is 1 + beta + ... + beta^(n-1)."""
    effective = [(1 - beta**n) / (1 - beta) for n in counts]
    scale = sum(counts) / sum(Fraction(n) / e for n, e in zip(counts, effective, strict=True))
    weights = class_balanced_weights(torch.tensor(counts), float(beta))
    assert weights.dtype == torch.float32
    assert weights.numpy() == pytest.approx([float(scale / e) for e in effective], rel=1e-6)
    assert float((weights * torch.tensor(counts)).sum()) == pytest.approx(sum(counts), rel=1e-5)


def test_class_weights_up_to_scale_as_the_paper_scales_them():
    """Averaging 1 over the classes instead, they are the figures of the authors' formula for 500 and 5 samples."""
    weights = class_balanced_weights(torch.tensor([500.0, 5.0], dtype=torch.float64), 0.99)
    effective = np.array([(1 - 0.99**500) / 0.01, 1 + 0.99 + 0.99**2 + 0.99**3 + 0.99**4])
    theirs = (1 / effective) / (1 / effective).sum() * 2
    assert (weights / weights.sum() * 2).numpy() == pytest.approx(theirs, rel=1e-12)
    assert weights.dtype == torch.float64


def test_class_weights_reach_their_limits():
    """All alike at beta 0 (and for single samples), inverse frequency towards 1, nothing for a class that is absent."""
    counts = torch.tensor([90, 10, 0])
    assert class_balanced_weights(counts, 0.0).tolist() == [1.0, 1.0, 0.0]
    assert class_balanced_weights(counts, 1 - 1e-12).numpy() == pytest.approx([100 / 180, 5.0, 0.0], rel=1e-5)


@pytest.mark.parametrize(
    ("counts", "beta", "message"),
    [([3, 2], 1.0, "beta is 1.0"), ([3, -1], 0.9, "none may be negative"), ([0, 0], 0.9, "one must be above 0")],
)
def test_weights_of_nothing_are_refused(counts, beta, message):
    with pytest.raises(ValueError, match=message):
        class_balanced_weights(torch.tensor(counts), beta)


def test_pair_weights_are_means_over_the_labels_that_hold():
    """One class: its weight. Several: their mean. None: 1."""
    weights = torch.tensor([0.5, 2.0, 4.0])
    labels = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert pair_weights(labels, weights).tolist() == pytest.approx([0.5, 4.0, 1.25, 6.5 / 3, 1.0])
    assert pair_weights(labels.float(), weights.double()).dtype == torch.float64


@settings(max_examples=25, deadline=None)
@given(counts=COUNTS)
def test_pair_weights_of_the_training_samples_average_one(counts):
    """What the scale of the class weights is for: the weighted loss of one-class samples keeps its size."""
    labels = F.one_hot(torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)), len(counts))
    weights = pair_weights(labels, class_balanced_weights(torch.tensor(counts).double()))
    assert float(weights.mean()) == pytest.approx(1.0)


# --------------------------------------------------------------------------------------------- focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_and_its_gradient_are_torchvisions(gamma):
    """Per label of a sigmoid, in value and in slope; alpha is off, as weights are something else here."""
    rng = np.random.default_rng(0)
    ours = torch.from_numpy(rng.normal(size=(40, 3)) * 3).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    targets = torch.from_numpy(rng.integers(2, size=(40, 3)).astype(np.float64))
    losses = F.binary_cross_entropy_with_logits(ours, targets, reduction="none")
    focal = focal_factor(losses, gamma) * losses
    reference = sigmoid_focal_loss(theirs, targets, alpha=-1, gamma=gamma)
    assert torch.allclose(focal, reference, rtol=1e-12, atol=1e-14)
    focal.sum().backward()
    reference.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-10, atol=1e-13)


def test_focal_gradient_over_classes_is_the_papers():
    """Appendix B of the paper, d FL / d log p, by the chain rule on softmax cross-entropies."""
    p = torch.tensor([0.05, 0.5, 0.9, 0.999], dtype=torch.float64)
    losses = (-p.log()).requires_grad_()
    (focal_factor(losses) * losses).sum().backward()
    assert losses.grad is not None
    assert torch.allclose(-losses.grad, 2 * p * (1 - p) * p.log() - (1 - p) ** 2, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_factor_stays_finite_at_both_ends(gamma, dtype):
    """A loss of exactly 0, which float32 reaches, and one of 200 have finite values and gradients."""
    losses = torch.tensor([0.0, 1e-9, 200.0], dtype=dtype).requires_grad_()
    focal = focal_factor(losses, gamma) * losses
    focal.sum().backward()
    assert torch.isfinite(focal).all()
    assert losses.grad is not None
    assert torch.isfinite(losses.grad).all()
    assert float(focal[-1].detach()) == 200.0
    assert focal.dtype == dtype


def test_a_negative_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma is -1"):
        focal_factor(torch.ones(1), -1)


# --------------------------------------------------------------------------------------------- balanced softmax


def test_balanced_softmax_is_a_softmax_weighted_by_counts():
    """Eq. 3 of the paper, written out; and a class that training lacks gets no probability."""
    rng = np.random.default_rng(1)
    logits, counts = rng.normal(size=(7, 4)), np.array([1000, 30, 1, 0])
    ours = balanced_softmax(torch.from_numpy(logits), torch.from_numpy(counts)).softmax(dim=1).numpy()
    weighted = counts * np.exp(logits)
    assert np.abs(ours - weighted / weighted.sum(axis=1, keepdims=True)).max() < 1e-15
    assert np.abs(ours - softmax(logits[:, :3] + np.log(counts[:3]), axis=1) @ np.eye(3, 4)).max() < 1e-15
    assert balanced_softmax(torch.zeros(2, 2), torch.tensor([3, 1])).dtype == torch.float32


def test_balanced_losses_learn_nothing_from_frequency_alone():
    """Where features say nothing, the gradient vanishes at equal logits: the plain scores then favour no class."""
    counts = torch.tensor([80, 15, 5])
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    labels = torch.repeat_interleave(torch.arange(3), counts)
    F.cross_entropy(balanced_softmax(logits, counts).expand(100, 3), labels).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-15
    logits.grad = None
    targets = F.one_hot(labels, 3).double()
    F.binary_cross_entropy_with_logits(balanced_sigmoid(logits, counts, 100).expand(100, 3), targets).backward()
    assert logits.grad.abs().max() < 1e-15


def test_balanced_sigmoid_is_the_balanced_softmax_of_two_classes():
    """Label by label, with logits 0 and z; a label that never varies stays finite."""
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    ours = balanced_sigmoid(z[:, None], torch.tensor([12]), 100).sigmoid()[:, 0]
    two = balanced_softmax(torch.stack([torch.zeros(7), z], dim=1), torch.tensor([88, 12])).softmax(dim=1)[:, 1]
    assert torch.allclose(ours, two, rtol=1e-14)
    extremes = balanced_sigmoid(torch.zeros(2), torch.tensor([0, 50]), 50)
    assert extremes.numpy() == pytest.approx([-np.log(50), np.log(50)])
    with pytest.raises(ValueError, match="of 10 samples"):
        balanced_sigmoid(torch.zeros(2), torch.tensor([3, 11]), 10)


# --------------------------------------------------------------------------------------------- upsampling
