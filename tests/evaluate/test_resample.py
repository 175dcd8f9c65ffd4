"""The bootstrap draws patients, the same for every model, and its intervals cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark.evaluate.metrics import Classification
from benchmark.evaluate.resample import estimates, patient_weights, percentile_interval, plug_in, replicate


class Mean:
    """Weighted mean of one value per sample."""

    def __init__(self, values):
        self.values = np.asarray(values, dtype=np.float64)
        self.used = np.ones(len(self.values), dtype=bool)

    def __call__(self, weights):
        return {"mean": self.values @ weights / weights.sum(axis=0)}

    def why_undefined(self, metric):
        return "never"

    def chance(self, metric):
        return np.nan


@settings(max_examples=30, deadline=None)
@given(patients=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_replicate_draws_as_many_patients_as_there_are(patients, seed):
    """Rows sum to the number of patients, repeat exactly, and fewer replicates are a prefix of more."""
    groups = np.repeat(np.arange(patients) * 7, 3)
    weights = patient_weights(groups, replicates=50, fingerprint=f"f{seed}")
    assert weights.shape == (50, patients)
    assert (weights.sum(axis=1) == patients).all()
    assert np.array_equal(weights, patient_weights(groups[::-1], replicates=50, fingerprint=f"f{seed}"))
    assert np.array_equal(weights[:20], patient_weights(groups, replicates=20, fingerprint=f"f{seed}"))
    if patients > 5:
        assert not np.array_equal(weights, patient_weights(groups, replicates=50, fingerprint="other"))


def test_weights_follow_the_binomial_law_of_drawing_with_replacement():
    """A patient is drawn 0, 1, 2, ... times with probabilities of Binomial(P, 1 / P)."""
    weights = patient_weights(np.arange(20), replicates=20_000, fingerprint="law")
    seen = np.bincount(weights.ravel(), minlength=21)[:6] / weights.size
    assert seen == pytest.approx(stats.binom.pmf(np.arange(6), 20, 1 / 20), abs=0.004)


def test_all_samples_of_a_patient_are_drawn_together():
    """A statistic of one replicate is that of the rows of its patients, each as often as the patient was drawn."""
    rng = np.random.default_rng(0)
    groups = rng.integers(12, size=60)
    values = rng.normal(size=60)
    drawn = replicate([Mean(values)], groups, replicates=600, fingerprint="x")[0]["mean"]
    names = np.unique(groups)
    for b, row in enumerate(patient_weights(groups, replicates=600, fingerprint="x")):
        rows = np.concatenate([np.repeat(np.flatnonzero(groups == g), w) for g, w in zip(names, row, strict=True)])
        assert drawn[b] == pytest.approx(values[rows].mean())


def test_two_models_share_their_resamples():
    """The difference of two replicates is the replicate of the difference."""
    rng = np.random.default_rng(1)
    a, b, groups = rng.normal(size=40), rng.normal(size=40), rng.integers(9, size=40)
    first = replicate([Mean(a)], groups, replicates=300, fingerprint="x")[0]["mean"]
    second, difference = replicate([Mean(b), Mean(a - b)], groups, replicates=300, fingerprint="x")
    assert np.abs(first - second["mean"] - difference["mean"]).max() < 1e-12


def test_interval_is_the_one_of_scipy_where_every_patient_has_one_sample():
    """Percentile ends agree with scipy.stats.bootstrap within Monte-Carlo error; the value is the plug-in."""
    values = np.random.default_rng(2).exponential(size=80)
    ours = estimates([Mean(values)], np.arange(80), replicates=20_000, fingerprint="x")[0]["mean"]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean(), rel=1e-14)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert (ours.n, ours.n_patients) == (80, 80)


def test_intervals_cover_the_truth_with_patients_of_many_samples():
    """Nominal 95% covers 91-98% of 400 clustered data sets of 60 patients; drawing samples instead would not."""
    rng = np.random.default_rng(3)
    covered = {"patient": 0, "sample": 0}
    for i in range(400):
        values = (rng.normal(size=(60, 1)) + rng.normal(size=(60, 5)) * 0.5).ravel()
        for unit, groups in (("patient", np.repeat(np.arange(60), 5)), ("sample", np.arange(300))):
            e = estimates([Mean(values)], groups, replicates=300, fingerprint=f"{i}")[0]["mean"]
            covered[unit] += e.low <= 0 <= e.high
    assert 0.91 <= covered["patient"] / 400 <= 0.98
    assert covered["sample"] / 400 < 0.8


def test_undefined_replicates_are_left_out_until_there_are_too_many():
    """5% may be missing; beyond, the interval is NaN and says how many were."""
    values = np.arange(100.0)
    values[:5] = np.nan
    assert percentile_interval(values).low == pytest.approx(np.quantile(np.arange(5.0, 100.0), 0.025))
    values[5] = np.nan
    interval = percentile_interval(values)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    assert interval.why_undefined == "no interval: undefined in 6% of the resamples"


def test_an_estimate_says_why_it_has_no_value_or_no_interval():
    """One class, one positive patient, one patient in all."""
    scores = np.column_stack([np.linspace(1, 0, 12), np.linspace(0, 1, 12)])

    def auroc(labels, groups):
        table = Classification("binary", labels, scores, classes=("a", "b"), probabilities=False)
        return estimates([table], groups, replicates=200, fingerprint="x")[0]["roc_auc"]

    nothing = auroc(np.zeros(12, dtype=np.int64), np.arange(12))
    assert np.isnan(nothing.value)
    assert nothing.why_undefined == "no test sample is 'b'"
    rare = auroc(np.eye(12, dtype=np.int64)[5], np.arange(12))
    assert rare.value == pytest.approx(5 / 11)
    assert np.isnan(rare.low)
    assert "of the resamples" in rare.why_undefined
    alone = auroc(np.arange(12) % 2, np.zeros(12, dtype=np.int64))
    assert alone.n_patients == 1
    assert np.isnan(alone.high)
    assert "one patient" in alone.why_undefined


def test_plug_in_is_the_statistic_at_weights_of_one():
    """Never the mean of the replicates."""
    assert plug_in(Mean([1.0, 2.0, 6.0])) == {"mean": 3.0}
