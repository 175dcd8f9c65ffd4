"""Curves against scikit-learn and closed forms, bands against resamples that are looked at one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from benchmark.evaluate import curves
from benchmark.evaluate.curves import ACTING, GRID, Points, bands, net_benefit, thinned, treat_all
from benchmark.evaluate.resample import patient_weights


def sample(n: int, seed: int, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    positive[:2] = True, False
    scores = 1 / (1 + np.exp(-(positive + rng.normal(0, 1, n))))
    return (np.round(scores, 1) if ties else scores), positive


def distance(x: float, y: float, line: Points) -> float:
    """How far a point is from a line of several corners."""
    start = np.stack([line.x, line.y], axis=1)[:-1]
    step = np.diff(np.stack([line.x, line.y], axis=1), axis=0)
    along = np.clip((([x, y] - start) * step).sum(axis=1) / (step**2).sum(axis=1), 0, 1)
    return float(np.hypot(*(start + along[:, None] * step - [x, y]).T).min())


def height(alarms: np.ndarray, hits: np.ndarray, at: float) -> float:
    """A ROC curve at a false positive rate: the highest point where it is upright."""
    before = int(np.searchsorted(alarms, at, side="right")) - 1
    if before == len(alarms) - 1:
        return float(hits[-1])
    share = (at - alarms[before]) / (alarms[before + 1] - alarms[before])
    return float(hits[before] + share * (hits[before + 1] - hits[before]))


@given(st.integers(2, 80), st.integers(0, 1000), st.booleans())
def test_roc_is_scikit_learns(n, seed, ties):
    scores, positive = sample(n, seed, ties=ties)
    x, y = curves.roc(scores, positive)
    alarms, hits, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert x == pytest.approx(alarms)
    assert y == pytest.approx(hits)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(positive, scores))


@given(st.integers(2, 80), st.integers(0, 1000), st.booleans())
def test_precision_recall_is_scikit_learns_in_steps(n, seed, ties):
    scores, positive = sample(n, seed, ties=ties)
    x, y = curves.precision_recall(scores, positive)
    precision, recall, _ = precision_recall_curve(positive, scores)
    assert x[1::2] == pytest.approx(recall[:-1][::-1])
    assert y[1::2] == pytest.approx(precision[:-1][::-1])
    assert np.trapezoid(y, x) == pytest.approx(average_precision_score(positive, scores))


@given(st.integers(2, 60), st.integers(0, 1000))
def test_thinning_drops_only_corners_that_draw_nothing(n, seed):
    for curve in (curves.roc, curves.precision_recall):
        whole = curve(*sample(n, seed, ties=True))
        thin = thinned(whole)
        assert len(thin.x) <= len(whole.x)
        assert np.trapezoid(thin.y, thin.x) == pytest.approx(np.trapezoid(whole.y, whole.x))


def test_thinned_curve_of_many_samples_has_few_corners_and_draws_the_same():
    whole = curves.roc(*sample(5000, 0))
    assert len(whole.x) > 1000
    thin = thinned(whole)
    assert len(thin.x) == 200
    off = [distance(x, y, thin) for x, y in zip(*whole, strict=True)]
    assert max(off) < 0.003  # of the axis: less than a pixel
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (0, 0, 1, 1)


def test_thinning_a_line_that_turns_back_on_itself():
    back = Points(np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0]))
    assert thinned(back).x.tolist() == [0, 1, 0]


def test_net_benefit_by_hand():
    probabilities, positive = np.array([0.1, 0.3, 0.3, 0.9]), np.array([False, True, False, True])
    found = dict(zip(ACTING, net_benefit(probabilities, positive), strict=True))
    assert found[0.05] == pytest.approx((2 - 2 * 0.05 / 0.95) / 4)
    assert found[0.3] == pytest.approx((2 - 1 * 0.3 / 0.7) / 4)  # who is at the threshold is treated
    assert found[0.31] == pytest.approx(1 / 4)
    assert found[0.95] == 0


def test_acting_on_everybody_is_worth_nothing_at_the_prevalence():
    everybody = treat_all(0.4)
    assert everybody[39] == pytest.approx(0, abs=1e-12)
    assert everybody == pytest.approx(net_benefit(np.ones(10), np.arange(10) < 4))


@pytest.mark.parametrize("ties", [False, True])
def test_bands_are_quantiles_of_curves_drawn_again(ties):
    scores, positive = sample(60, 5, ties=ties)
    groups = np.arange(60) // 3
    found = bands(scores, scores, positive, groups, replicates=40, fingerprint="f")
    drawn = {"roc": [], "pr": [], "net": []}
    for weights in patient_weights(groups, replicates=40, fingerprint="f"):
        again = np.repeat(np.arange(60), weights[groups])
        s, y = scores[again], positive[again]
        alarms, hits, _ = roc_curve(y, s, drop_intermediate=False)
        drawn["roc"].append([height(alarms, hits, at) for at in GRID])
        precision, recall, _ = precision_recall_curve(y, s)
        reached = [precision[:-1][recall[:-1] >= r - 1e-9][-1] for r in GRID]
        drawn["pr"].append(reached)
        drawn["net"].append(net_benefit(s, y))
    for ends, values in ((found.roc, "roc"), (found.precision_recall, "pr"), (found.net_benefit, "net")):
        low, high = np.quantile(np.array(drawn[values]), [0.025, 0.975], axis=0)
        assert ends.low == pytest.approx(low)
        assert ends.high == pytest.approx(high)


def test_no_band_where_many_resamples_are_of_one_class_or_one_patient():
    scores, positive = np.array([0.9, 0.1, 0.2, 0.3]), np.array([True, False, False, False])
    apart = bands(scores, None, positive, np.arange(4), replicates=100, fingerprint="f")
    assert len(apart.roc.low) == 0
    assert len(apart.net_benefit.low) == 0
    scores, positive = sample(40, 1)
    alone = bands(scores, scores, positive, np.zeros(40, dtype=np.int64), replicates=20, fingerprint="f")
    assert [len(ends.low) for ends in alone] == [0, 0, 0]
