"""DeLong's variance is the one of the definition, pair by pair; by patient it is right where DeLong's is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmark.evaluate.delong import auroc_interval, aurocs, paired_difference, unpaired_difference


def by_definition(positive, scores):
    """AUROC and DeLong's covariance from the full kernel of every (positive, negative) pair."""
    kernels = []
    for s in scores:
        x, y = s[positive][:, None], s[~positive][None, :]
        kernels.append((x > y) + 0.5 * (x == y))
    v = np.array([k.mean(axis=1) for k in kernels])
    w = np.array([k.mean(axis=0) for k in kernels])
    covariance = np.cov(v).reshape(len(scores), -1) / v.shape[1] + np.cov(w).reshape(len(scores), -1) / w.shape[1]
    return np.array([k.mean() for k in kernels]), covariance


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    n=st.integers(5, 60),
    models=st.integers(1, 3),
    levels=st.sampled_from([2, 5, 10**6]),
)
def test_auroc_and_covariance_are_those_of_all_pairs(seed, n, models, levels):
    """With and without equal scores, one model or several."""
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(n) % 2 == 0)
    scores = rng.integers(levels, size=(models, n)).astype(float)
    found = aurocs(positive, scores)
    values, covariance = by_definition(positive, scores)
    assert found.values == pytest.approx(values)
    assert found.values == pytest.approx([roc_auc_score(positive, s) for s in scores])
    assert found.covariance == pytest.approx(covariance, abs=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000), patients=st.integers(4, 25))
def test_covariance_by_patient_is_that_of_the_paper_summed_patient_by_patient(seed, patients):
    """Obuchowski's S10, S01 and S11, for two models with equal scores and patients of either or both classes."""
    rng = np.random.default_rng(seed)
    groups = np.append(np.arange(patients), rng.integers(patients, size=40))
    positive = rng.random(len(groups)) < 0.4
    positive[:4] = [True, True, False, False]
    scores = rng.integers(6, size=(2, len(groups))).astype(float)
    areas, (m, n) = [roc_auc_score(positive, s) for s in scores], (positive.sum(), (~positive).sum())
    x, y = np.zeros((2, patients)), np.zeros((2, patients))
    for r, s in enumerate(scores):
        kernel = (s[positive][:, None] > s[~positive]) + 0.5 * (s[positive][:, None] == s[~positive])
        for p in range(patients):
            x[r, p] = (kernel[groups[positive] == p].mean(axis=1) - areas[r]).sum()
            y[r, p] = (kernel[:, groups[~positive] == p].mean(axis=0) - areas[r]).sum()
    with_positive, with_negative = len(set(groups[positive])), len(set(groups[~positive]))
    s10 = with_positive / ((with_positive - 1) * m) * x @ x.T
    s01 = with_negative / ((with_negative - 1) * n) * y @ y.T
    s11 = patients / (patients - 1) * x @ y.T
    expected = s10 / m + s01 / n + (s11 + s11.T) / (m * n)
    assert aurocs(positive, scores, groups).covariance == pytest.approx(expected, abs=1e-14)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_order_of_rows_scale_of_scores_and_names_of_patients_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    positive, scores = np.arange(40) % 2 == 0, rng.normal(size=(2, 40))
    groups = rng.integers(12, size=40)
    order = rng.permutation(40)
    found = aurocs(positive, scores, groups)
    moved = aurocs(positive[order], np.exp(scores[:, order]), 7 * groups[order] + 3)
    assert moved.values == pytest.approx(found.values)
    assert moved.covariance == pytest.approx(found.covariance, abs=1e-14)


def test_by_patient_it_is_nearly_the_jackknife_over_patients():
    """An independent reference: leaving out one patient at a time, with patients of both classes and of all sizes."""
    rng = np.random.default_rng(0)
    groups = rng.integers(150, size=600)
    positive = rng.random(600) < 0.3 + 0.4 * (groups % 3 == 0)
    shared = rng.normal(size=150)[groups]
    scores = positive + shared + 0.5 * rng.normal(size=(2, 150))[:, groups] + 0.5 * rng.normal(size=(2, 600))
    found = aurocs(positive, scores, groups)
    without = np.array([aurocs(positive[keep], scores[:, keep]).values for p in range(150) for keep in [groups != p]])
    jackknife = np.cov(without.T) * 149**2 / 150
    assert found.covariance == pytest.approx(jackknife, rel=0.03)
    assert found.covariance[0, 0] > 1.1 * aurocs(positive, scores).covariance[0, 0]


def test_intervals_by_patient_cover_the_truth_and_those_by_picture_do_not():
    """500 data sets of 60 patients with 4 alike pictures each; the Monte-Carlo error is one point."""
    rng = np.random.default_rng(1)
    groups, positive = np.repeat(np.arange(60), 4), np.repeat(np.arange(60) % 2 == 1, 4)
    truth = stats.norm.cdf(1.0 / np.sqrt(2))
    covered = {"patient": 0, "picture": 0}
    for _ in range(500):
        scores = positive + 0.8 * np.repeat(rng.normal(size=60), 4) + 0.6 * rng.normal(size=240)
        for unit, of in (("patient", groups), ("picture", None)):
            found = aurocs(positive, scores, of)
            interval = auroc_interval(found.values[0], found.covariance[0, 0])
            covered[unit] += interval.low <= truth <= interval.high
    assert 0.93 <= covered["patient"] / 500 <= 0.97
    assert covered["picture"] / 500 < 0.8


def test_the_paired_test_by_patient_holds_its_level():
    """500 data sets with two equally good models: 5% are called different; the Monte-Carlo error is one point."""
    rng = np.random.default_rng(2)
    groups, positive = np.repeat(np.arange(80), 3), np.repeat(np.arange(80) % 2 == 1, 3)
    called = 0
    for _ in range(500):
        own = rng.normal(size=(2, 80))[:, groups]
        scores = positive + 0.6 * rng.normal(size=80)[groups] + 0.6 * own + 0.5 * rng.normal(size=(2, 240))
        called += paired_difference(aurocs(positive, scores, groups)).p < 0.05
    assert 0.03 <= called / 500 <= 0.07


def test_differences_paired_and_unpaired_add_up_as_variances_do():
    rng = np.random.default_rng(3)
    positive = np.arange(200) % 2 == 0
    shared = rng.normal(size=200)
    both = aurocs(positive, np.array([positive * shift + shared + rng.normal(size=200) for shift in (1.5, 0.8)]))
    alone = [type(both)(both.values[[i]], both.covariance[[i]][:, [i]]) for i in (0, 1)]
    paired, unpaired = paired_difference(both), unpaired_difference(*alone)
    assert paired.value == unpaired.value == pytest.approx(both.values[0] - both.values[1])
    assert unpaired.standard_error == pytest.approx(np.sqrt(np.trace(both.covariance)))
    assert paired.standard_error < 0.9 * unpaired.standard_error
    z = paired.value / paired.standard_error
    assert paired.p == pytest.approx(2 * stats.norm.cdf(-abs(z)))
    assert (paired.interval.low + paired.interval.high) / 2 == pytest.approx(paired.value)
    assert (paired.p < 0.05) == (paired.interval.low > 0 or paired.interval.high < 0)


def test_the_logit_interval_stays_within_bounds_where_the_plain_one_leaves_them():
    logit, plain = (auroc_interval(0.98, 0.02**2, scale=scale) for scale in ("logit", "plain"))
    assert logit.high < 1 < plain.high
    assert logit.low < plain.low
    narrow = [auroc_interval(0.7, 1e-8, scale=scale)[:2] for scale in ("logit", "plain")]
    assert narrow[0] == pytest.approx(narrow[1], abs=1e-7)


def test_what_cannot_be_estimated_says_so():
    positive = np.array([True, True, False, False])
    perfect = aurocs(positive, np.array([[3.0, 4, 1, 2], [1.0, 2, 3, 4]]))
    assert perfect.values.tolist() == [1, 0]
    assert "AUROC is 1" in auroc_interval(perfect.values[0], perfect.covariance[0, 0]).why_undefined
    assert "all pairs are alike" in paired_difference(perfect).interval.why_undefined
    assert np.isnan(paired_difference(perfect).p)
    same = paired_difference(aurocs(positive, np.array([[3.0, 1, 2, 0]] * 2)))
    assert (same.value, same.interval.low, same.interval.high, same.p) == (0, 0, 0, 1)
    lone = aurocs(positive, np.array([3.0, 1, 2, 0]), np.array([0, 0, 1, 2]))
    assert lone.values[0] == 0.75
    assert "fewer than two patients" in auroc_interval(lone.values[0], lone.covariance[0, 0]).why_undefined
    assert np.isnan(aurocs(np.ones(4, dtype=bool), np.arange(4.0)).values[0])
