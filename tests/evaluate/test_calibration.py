"""Temperatures against a grid, and bins against the calibration error that they draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from benchmark.evaluate.calibration import (
    LARGEST,
    SMALLEST,
    equal_mass_bins,
    fit_binary,
    fit_multiclass,
    scaled_binary,
    scaled_multiclass,
)
from benchmark.evaluate.metrics import Classification
from benchmark.evaluate.resample import plug_in

GRID = np.exp(np.linspace(np.log(SMALLEST), np.log(LARGEST), 251))


def overconfident(n: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that follow log-odds, and probabilities whose log-odds are so many times larger."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 1.5, n)
    return expit(slope * log_odds), rng.random(n) < expit(log_odds)


@pytest.mark.parametrize("slope", [0.4, 1.0, 3.0])
def test_binary_temperature_is_the_best_of_a_grid(slope):
    scores, positive = overconfident(400, slope)
    fitted = fit_binary(scores, positive).value
    losses = [log_loss(positive, scaled_binary(scores, t)) for t in GRID]
    assert fitted == pytest.approx(GRID[np.argmin(losses)], rel=0.025)
    assert log_loss(positive, scaled_binary(scores, fitted)) <= min(losses) + 1e-9


def test_temperature_finds_how_overconfident_probabilities_are():
    assert fit_binary(*overconfident(20_000, 3.0)).value == pytest.approx(3.0, rel=0.05)


def test_multiclass_temperature_is_the_best_of_a_grid():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (300, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    scores = softmax(2.5 * logits, axis=1)
    fitted = fit_multiclass(scores, labels).value
    losses = [log_loss(labels, scaled_multiclass(scores, t)) for t in GRID]
    assert fitted == pytest.approx(GRID[np.argmin(losses)], rel=0.025)
    scaled = scaled_multiclass(scores, fitted)
    assert (scaled.argmax(axis=1) == scores.argmax(axis=1)).all()
    assert log_loss(labels, scaled) < log_loss(labels, scores)


@given(st.floats(SMALLEST, LARGEST))
def test_binary_scaling_changes_neither_order_nor_decision(temperature):
    scores, positive = overconfident(60, 1.0)
    scaled = scaled_binary(scores, temperature)
    assert roc_auc_score(positive, scaled) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert ((scaled > 0.5) == (scores > 0.5)).all()


def test_two_classes_are_scaled_alike_both_ways():
    scores, positive = overconfident(50, 2.0)
    both = np.stack([1 - scores, scores], axis=1)
    assert scaled_multiclass(both, 1.7)[:, 1] == pytest.approx(scaled_binary(scores, 1.7))
    assert fit_multiclass(both, positive.astype(int)).value == pytest.approx(fit_binary(scores, positive).value)


def test_scores_that_are_all_alike_are_left_alone():
    assert fit_binary(np.full(10, 0.5), np.arange(10) < 4).value == 1.0


def test_certain_probabilities_have_a_finite_temperature():
    scores, positive = np.array([0.0, 1.0, 1.0, 0.0]), np.array([False, True, False, True])
    assert fit_binary(scores, positive).value == pytest.approx(LARGEST, rel=0.01)
    assert np.isfinite(scaled_binary(scores, LARGEST)).all()


@pytest.mark.parametrize(("positive", "why"), [(np.ones(3, bool), "negative"), (np.zeros(3, bool), "positive")])
def test_one_class_on_validation_gives_no_temperature(positive, why):
    fitted = fit_binary(np.array([0.2, 0.5, 0.8]), positive)
    assert np.isnan(fitted.value)
    assert fitted.why_not == f"no validation sample is {why}"


def test_one_class_on_validation_gives_no_temperature_for_several_classes_either():
    assert "two classes" in fit_multiclass(np.full((3, 3), 1 / 3), np.ones(3, dtype=np.int64)).why_not
    assert "two classes" in fit_multiclass(np.empty((0, 3)), np.empty(0, dtype=np.int64)).why_not


@given(st.lists(st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.8, 0.9]), min_size=1, max_size=60), st.integers(0, 10))
def test_bins_are_those_of_the_calibration_error(values, seed):
    confidence = np.array(values)
    labels = np.random.default_rng(seed).integers(2, size=len(values))
    bins = equal_mass_bins(confidence)
    gaps = [(bins == b).mean() * abs((confidence - labels)[bins == b].mean()) for b in np.unique(bins)]
    scores = np.stack([1 - confidence, confidence], axis=1)
    table = Classification("binary", labels, scores, classes=("no", "yes"), probabilities=True)
    assert sum(gaps) == pytest.approx(plug_in(table)["ece"])


def test_bins_of_distinct_confidences_are_scikit_learns_quantiles():
    scores, positive = overconfident(200, 1.0)
    bins = equal_mass_bins(scores)
    observed, predicted = calibration_curve(positive, scores, n_bins=10, strategy="quantile")
    assert [positive[bins == b].mean() for b in range(10)] == pytest.approx(observed)
    assert [scores[bins == b].mean() for b in range(10)] == pytest.approx(predicted)
