"""The bootstrap draws patients, the same for every model, and its intervals cover what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from benchmark.evaluate.compare import Difference
from benchmark.evaluate.metrics import Areas, Classification
from benchmark.evaluate.resample import (
    NO_INTERVAL,
    Parts,
    Statistic,
    absolute_interval,
    bca_interval,
    estimates,
    jackknife,
    patient_weights,
    percentile_interval,
    plug_in,
    replicate,
    replicate_parts,
)


class Mean(Statistic):
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


# --------------------------------------------------------------------------------------------- BCa


def test_the_jackknife_leaves_out_one_patient_after_the_other():
    """More patients than one block holds; each value is the mean of the rows of all the others."""
    rng = np.random.default_rng(10)
    groups = rng.permutation(np.repeat(np.arange(300) * 3, 2))
    values = rng.normal(size=600)
    (found,) = jackknife([Mean(values)], groups)
    expected = [values[groups != patient].mean() for patient in np.unique(groups)]
    assert found["mean"] == pytest.approx(expected)


def test_bca_interval_is_the_one_of_scipy_where_every_patient_has_one_sample():
    """Skewed values, so that bias and acceleration both count: the ends differ from the percentile ones."""
    values = np.random.default_rng(11).exponential(size=30) ** 2

    def ends(method):
        (found,) = estimates([Mean(values)], np.arange(30), replicates=40_000, fingerprint="x", method=method)
        return np.array([found["mean"].low, found["mean"].high])

    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(0))
    bca, percentile = ends("bca"), ends("percentile")
    assert bca == pytest.approx(np.array(theirs.confidence_interval), abs=0.05)
    assert (np.abs(bca - percentile) > 0.15).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_bca_without_bias_or_skewness_is_the_percentile_interval(seed):
    values = np.random.default_rng(seed).normal(size=101)
    symmetric = bca_interval(values, value=float(np.median(values)), without_one=np.array([-1.0, 0.0, 1.0]))
    assert symmetric[:2] == pytest.approx(percentile_interval(values)[:2])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([-3.0, 0.01, 7.0]))
def test_bca_interval_follows_a_change_of_units(seed, scale):
    rng = np.random.default_rng(seed)
    values, without = rng.gamma(2.0, size=400), rng.gamma(2.0, size=20)
    there = bca_interval(values, value=2.0, without_one=without)
    moved = bca_interval(scale * values + 1, value=scale * 2.0 + 1, without_one=scale * without + 1)
    assert sorted(moved[:2]) == pytest.approx(sorted(scale * np.array(there[:2]) + 1))


def test_bca_says_why_there_is_no_interval_and_needs_none_without_spread():
    values = np.linspace(1, 2, 50)
    one_sided = bca_interval(values, value=0.0, without_one=np.ones(3))
    assert one_sided.why_undefined == "no interval: all resamples lie on one side of the figure itself"
    undefined = bca_interval(values, value=1.5, without_one=np.array([1.0, np.nan]))
    assert undefined.why_undefined == "no interval: undefined without one of the patients"
    nowhere = bca_interval(np.full(50, np.nan), value=1.5, without_one=np.ones(3))
    assert nowhere.why_undefined == "no interval: undefined in 100% of the resamples"
    assert bca_interval(np.ones(50), value=1.0, without_one=np.ones(3))[:2] == (1.0, 1.0)


def test_both_intervals_of_auroc_cover_the_truth_where_patients_have_several_pictures():
    """500 data sets of 80 patients with 3 alike pictures each: 95% is met within 2 points, 2 Monte-Carlo errors."""
    rng = np.random.default_rng(12)
    groups, covered = np.repeat(np.arange(80), 3), {"percentile": 0, "bca": 0}
    labels = np.repeat(np.arange(80) % 2, 3)
    truth = stats.norm.cdf(1.0 / np.sqrt(2 * (0.7**2 + 0.7**2)))
    for i in range(500):
        scores = labels + 0.7 * np.repeat(rng.normal(size=80), 3) + 0.7 * rng.normal(size=240)
        areas = Areas("binary", labels, np.column_stack([-scores, scores]), classes=("a", "b"))
        (drawn,) = replicate([areas], groups, replicates=400, fingerprint=f"{i}")
        (without,) = jackknife([areas], groups)
        value = plug_in(areas)["roc_auc"]
        for method, interval in (
            ("percentile", percentile_interval(drawn["roc_auc"])),
            ("bca", bca_interval(drawn["roc_auc"], value=value, without_one=without["roc_auc"])),
        ):
            covered[method] += interval.low <= truth <= interval.high
    assert 0.93 <= covered["percentile"] / 500 <= 0.97
    assert 0.93 <= covered["bca"] / 500 <= 0.97


# --------------------------------------------------------------------------------------------- sums of absolute values


def calibrated(rng, patients, *, boldness=1.0):
    """Three pictures a patient: log-odds that are right, told ``boldness`` times as far from 0; (labels, scores)."""

    def alike():
        return np.sqrt(0.5) * (rng.normal(size=(patients, 1)) + rng.normal(size=(patients, 3)))

    odds = 1.2 * alike()
    labels = (stats.norm.cdf(alike()) < special.expit(odds)).astype(np.int64)
    return labels.ravel(), special.expit(boldness * odds).ravel()


def probabilities(labels, score):
    scores = np.column_stack([1 - score, score])
    return Classification("binary", labels, scores, classes=("a", "b"), probabilities=True)


def test_parts_of_the_calibration_error_add_up_to_it_and_keep_their_bins_in_resamples():
    labels, score = calibrated(np.random.default_rng(1), 30, boldness=2.0)
    table, groups = probabilities(labels, score), np.repeat(np.arange(30), 3)
    (found,) = replicate_parts([table], groups, replicates=50, fingerprint="x")
    parts = found["ece"]
    assert np.abs(parts.figures).sum() == pytest.approx(plug_in(table)["ece"])
    bins = np.array_split(np.argsort(score, kind="stable"), 10)
    weights = patient_weights(groups, replicates=50, fingerprint="x")[:, groups]
    by_hand = [[(w * (score - labels))[b].sum() / w.sum() for w in weights] for b in bins]
    assert parts.replicates == pytest.approx(np.array(by_hand))
    assert "ece" not in replicate([table], groups, replicates=2, fingerprint="x")[0]


def test_a_sum_whose_parts_are_all_sure_has_the_interval_of_the_signed_sum():
    errors = np.random.default_rng(2).normal(0, 0.01, (3, 2000))
    figures = np.array([0.5, -0.7, 0.9])
    found = absolute_interval(Parts(figures, figures[:, None] + errors, 50))
    signed = (np.sign(figures)[:, None] * errors).sum(axis=0)
    assert (found.low, found.high) == pytest.approx(2.1 - np.quantile(signed, [0.975, 0.025]))
    nothing = absolute_interval(Parts(0 * figures, errors, 50))
    assert nothing.low == 0


@pytest.mark.parametrize(("boldness", "least"), [(1.0, 0.93), (2.5, 0.93)])
def test_the_interval_of_the_calibration_error_covers_it_where_it_is_0_and_where_it_is_not(boldness, least):
    """300 data sets of 100 patients; the percentile interval would leave a perfect calibration out nearly always."""
    rng, groups, covered, percentile = np.random.default_rng(4), np.repeat(np.arange(100), 3), 0, 0
    odds = np.sort(1.2 * np.random.default_rng(0).normal(size=1_000_000))
    gaps = (special.expit(boldness * odds) - special.expit(odds)).reshape(10, -1).mean(axis=1)
    truth = np.abs(gaps).mean()
    for i in range(300):
        table = probabilities(*calibrated(rng, 100, boldness=boldness))
        (found,) = replicate_parts([table], groups, replicates=300, fingerprint=f"{i}")
        interval = absolute_interval(found["ece"])
        covered += interval.low <= truth <= interval.high
        percentile += np.quantile(np.abs(found["ece"].replicates).sum(axis=0), 0.025) <= truth
    assert covered / 300 >= least
    assert percentile < covered
    assert boldness != 1 or percentile < 30


def test_a_difference_of_calibration_errors_has_no_interval_and_says_why():
    rng, groups = np.random.default_rng(5), np.repeat(np.arange(20), 3)
    labels, score = calibrated(rng, 20)
    difference = Difference(probabilities(labels, score), probabilities(labels, score**2))
    (found,) = estimates([difference], groups, replicates=50, fingerprint="x")
    assert np.isnan(found["ece"].low)
    assert found["ece"].value != 0
    assert found["ece"].why_undefined == NO_INTERVAL.why_undefined
    assert found["brier"].low < found["brier"].high
