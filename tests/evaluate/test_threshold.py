"""Thresholds are the best on val by trying all, the nearest to undecided among equals, and absent with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_curve

from benchmark.evaluate.threshold import at_specificity, choose


@st.composite
def validation_sets(draw):
    """Scores with ties, of both classes."""
    n = draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    scores = rng.integers(0, draw(st.sampled_from([2, 6, 1000])), size=n) / draw(st.sampled_from([1.0, 7.0, 1000.0]))
    labels = rng.integers(2, size=n)
    labels[:2] = [0, 1]
    return scores - draw(st.sampled_from([0.0, 0.5])), labels


def merit(criterion, labels, guess):
    if criterion == "youden":
        return balanced_accuracy_score(labels, guess)
    return f1_score(labels, guess, zero_division=0)


@pytest.mark.parametrize("criterion", ["youden", "f1"])
@pytest.mark.parametrize("neutral", [0.0, 0.5])
@settings(max_examples=25, deadline=None)
@given(data=validation_sets())
def test_no_threshold_is_better_and_none_as_good_is_nearer(criterion, neutral, data):
    """By scikit-learn's figures at every score, between all of them and beyond: first the merit, then the distance."""
    scores, labels = data
    chosen = choose(scores, labels == 1, criterion, neutral=neutral).value
    reached = merit(criterion, labels, scores > chosen)
    values = np.unique(scores)
    middles = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1]]])
    merits = np.array([merit(criterion, labels, scores > t) for t in middles])
    assert reached == pytest.approx(merits.max(), abs=1e-12)
    inner = middles[1:-1][merits[1:-1] > merits.max() - 1e-12]
    if len(inner):
        assert abs(chosen - neutral) <= np.abs(inner - neutral).min() + 1e-12
    if values[0] < chosen < values[-1]:
        assert np.abs(middles - chosen).min() <= 1e-15 + 1e-15 * abs(chosen), "a midpoint, to its last bit"


def test_youden_is_the_best_point_of_the_roc_curve():
    """The guesses at the threshold are at scikit-learn's point of largest tpr - fpr."""
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.2
    scores = rng.normal(size=300) + 1.5 * labels
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    guess = scores > choose(scores, labels, "youden", neutral=0.0).value
    assert guess[labels].mean() - guess[~labels].mean() == pytest.approx((true - false).max())


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.2, 0.6, 0.8], [0, 0, 1, 1], 0.4),  # the middle of the gap
        ([0.6, 0.7, 0.8, 0.9], [0, 0, 1, 1], 0.75),
        ([0.1, 0.3, 0.4, 0.8], [0, 1, 0, 1], 0.6),  # 0.2 is as good and farther from 0.5
        ([0.7, 0.7], [0, 1], 0.5),  # nothing parts them: below all scores lies 0.5 itself
        ([0.2, 0.2], [0, 1], 0.5),  # above all scores too
        ([0.8, 0.1], [0, 1], 0.8),  # the wrong way round: all negative is as bad as all positive, and nearer
        ([1.0, 0.0, 1.0], [1, 0, 1], 0.5),
    ],
)
def test_thresholds_by_hand(scores, labels, expected):
    scores, positive = np.array(scores), np.array(labels) == 1
    chosen = choose(scores, positive, "youden")
    assert chosen.value == pytest.approx(expected)
    assert chosen.why_not == ""


def test_neighbouring_floats_are_parted():
    """Their midpoint is not representable; the lower of the two parts them, as a positive lies above it."""
    low = np.nextafter(0.5, 1.0)
    high = np.nextafter(low, 1.0)
    chosen = choose(np.array([low, high]), np.array([False, True]), "youden").value
    assert low <= chosen < high


def test_criteria_differ_where_a_class_is_rare():
    """F1 asks for more certainty of a rare class than the balanced accuracy does."""
    rng = np.random.default_rng(1)
    labels = rng.random(500) < 0.05
    scores = 1 / (1 + np.exp(-(rng.normal(size=500) + labels - 3)))
    youden, f1 = (choose(scores, labels, c) for c in ("youden", "f1"))
    assert youden.value < f1.value < 0.5


@pytest.mark.parametrize(
    ("label", "reason"), [(0, "no validation sample is positive"), (1, "no validation sample is negative")]
)
def test_one_class_gives_no_threshold(label, reason):
    chosen = choose(np.array([0.1, 0.7]), np.array([label, label]) == 1, "youden")
    assert np.isnan(chosen.value)
    assert chosen.why_not == reason


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.6, 0.9]), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.9, 0.95, 1.0]),
)
def test_threshold_of_a_specificity_is_the_smallest_that_has_it(samples, target):
    scores, positive = np.array([s for s, _ in samples]), np.array([p for _, p in samples])
    found = at_specificity(scores, positive, target)
    if positive.all():
        assert found.why_not == "no validation sample is negative"
        return
    reaching = [t for t in np.unique(scores) if (scores[~positive] <= t).mean() >= target - 1e-9]
    assert found.value == min(reaching)


@pytest.mark.parametrize("n", [10, 20, 40, 60, 100, 180])
def test_specificities_that_can_be_had_exactly_are(n):
    """0.95 of 20 negatives are 19 of them, however the product is rounded."""
    scores = np.arange(n) / n
    for target in (0.9, 0.95):
        if (target * n) % 1 < 1e-9:
            found = at_specificity(scores, np.zeros(n, dtype=bool), target)
            assert (scores <= found.value).mean() == pytest.approx(target)
