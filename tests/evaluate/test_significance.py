"""The sign-flip test swaps whole patients and holds its level; McNemar and the adjustments follow their definitions."""

from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from benchmark.evaluate.metrics import Areas, Classification
from benchmark.evaluate.resample import Statistic
from benchmark.evaluate.significance import adjust, mcnemar, sign_flip_test

CLASSES = ("a", "b")


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


def columns(score):
    return np.column_stack([1 - score, score])


def flip_test(a, b, groups, *, flips=10_000, fingerprint="f"):
    return sign_flip_test(Mean(np.concatenate([a, b])), groups, flips=flips, fingerprint=fingerprint)["mean"]


# --------------------------------------------------------------------------------------------- sign flips


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_the_exact_test_of_means_is_scipys_where_every_patient_has_one_sample(seed):
    """All 2^9 swaps, with equal values among them."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(6, size=(2, 9)).astype(float)
    ours = flip_test(a, b, np.arange(9))
    theirs = stats.permutation_test((a, b), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples")
    assert ours.exact
    assert ours.flips == 512
    assert ours.difference == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_the_exact_test_of_areas_is_that_of_swapping_rows_by_hand(metric):
    """Every swap of 7 patients with 1 to 4 pictures, by building both tables and asking scikit-learn."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(7), [1, 2, 3, 4, 1, 2, 3])
    labels = rng.permutation(np.arange(16) % 2)
    a, b = labels + rng.normal(size=16), rng.normal(size=16).round(1)
    score = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}[metric]
    differences = []
    for swap in product([False, True], repeat=7):
        swapped = np.array(swap)[groups]
        first, second = np.where(swapped, b, a), np.where(swapped, a, b)
        differences.append(score(labels, first) - score(labels, second))
    expected = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)
    areas = Areas("binary", np.tile(labels, 2), columns(np.concatenate([a, b])), classes=CLASSES)
    found = sign_flip_test(areas, groups, flips=1000, fingerprint="f")[metric]
    assert found.difference == pytest.approx(differences[0])
    assert found.exact
    assert found.p == pytest.approx(expected)


def test_the_test_of_accuracy_is_mcnemars_exact_one_where_every_patient_has_one_sample():
    rng = np.random.default_rng(2)
    labels = np.arange(12) % 2
    a, b = rng.random(12), rng.random(12)
    a[:10] = labels[:10]
    table = Classification(
        "binary", np.tile(labels, 2), columns(np.concatenate([a, b])), classes=CLASSES, probabilities=True
    )
    found = sign_flip_test(table, np.arange(12), flips=5000, fingerprint="f")["accuracy"]
    pairs = mcnemar((a > 0.5) == labels, (b > 0.5) == labels)
    assert pairs.only_first != pairs.only_second
    assert found.p == pytest.approx(pairs.p_exact)


def test_random_swaps_come_close_to_all_of_them_and_never_to_zero():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=12) + 0.5, rng.normal(size=12)
    exact, random = flip_test(a, b, np.arange(12), flips=4096), flip_test(a, b, np.arange(12), flips=4095)
    assert exact.exact
    assert not random.exact
    assert random.p == pytest.approx(exact.p, abs=3 * np.sqrt(exact.p / 4095))
    sure = flip_test(np.ones(40), np.zeros(40), np.arange(40), flips=199)
    assert sure.p == 1 / 200


def test_swapping_the_two_models_turns_the_sign_and_nothing_else():
    rng = np.random.default_rng(4)
    a, b, groups = rng.normal(size=60), rng.normal(size=60), np.repeat(np.arange(20), 3)
    there, back = flip_test(a, b, groups, flips=500), flip_test(b, a, groups, flips=500)
    assert (back.difference, back.p) == pytest.approx((-there.difference, there.p))
    assert flip_test(a, b, groups, flips=500) == there
    assert flip_test(a, b, groups, flips=500, fingerprint="g") != there
    assert flip_test(a, a, groups, flips=500).p == 1


def test_one_patient_proves_nothing_and_undefined_metrics_are_not_tested():
    assert flip_test(np.ones(9), np.zeros(9), np.zeros(9, dtype=int)).p == 1
    table = Areas("binary", np.zeros(8, dtype=np.int64), columns(np.arange(8.0)), classes=CLASSES)
    found = sign_flip_test(table, np.arange(4), flips=100, fingerprint="f")["roc_auc"]
    assert np.isnan(found.p)
    assert "undefined" in found.why_undefined


def test_swaps_that_leave_a_metric_undefined_count_against_the_difference():
    """Base never says 'b': models that take it over for every patient who was called 'b' have no precision."""
    labels = np.array([0, 1, 0, 1])
    scores = columns(np.concatenate([[0.1, 0.9, 0.1, 0.9], [0.1, 0.9, 0.1, 0.1]]))
    table = Classification("binary", np.tile(labels, 2), scores, classes=CLASSES, probabilities=False)
    found = sign_flip_test(table, np.array([0, 0, 1, 1]), flips=100, fingerprint="f")
    assert found["recall_binary"].p == found["precision_binary"].p == 1


def test_the_test_holds_its_level_by_patient_and_would_not_by_picture():
    """500 data sets in which neither of two models is better, each with its own luck with each of 40 patients.

    By patient, 5% are called different (Monte-Carlo error 1 point); by picture, several times as many: four pictures
    on which a model was lucky once are taken for four pieces of evidence. That is why whole patients are swapped.
    """
    rng = np.random.default_rng(5)
    patients, pictures = np.repeat(np.arange(40), 4), np.arange(160)
    called = {"patient": 0, "picture": 0}
    for i in range(500):
        a, b = (np.repeat(rng.normal(size=40), 4) + 0.5 * rng.normal(size=160) for _ in range(2))
        for unit, groups in (("patient", patients), ("picture", pictures)):
            called[unit] += flip_test(a, b, groups, flips=199, fingerprint=f"{i}").p <= 0.05
    assert 0.03 <= called["patient"] / 500 <= 0.07
    assert called["picture"] / 500 > 0.2


def test_the_test_of_auroc_holds_its_level_on_ranks_within_each_model():
    """300 data sets, scores on scales of their own: 5% are called different; the Monte-Carlo error is 1.3 points."""
    rng = np.random.default_rng(6)
    groups, labels = np.repeat(np.arange(40), 3), np.repeat(np.arange(40) % 2, 3)
    called = 0
    for i in range(300):
        a, b = (labels + np.repeat(rng.normal(size=40), 3) + 0.5 * rng.normal(size=120) for _ in range(2))
        ranks = np.concatenate([rankdata(a), rankdata(np.exp(5 * b))])
        areas = Areas("binary", np.tile(labels, 2), columns(ranks), classes=CLASSES)
        called += sign_flip_test(areas, groups, flips=199, fingerprint=f"{i}")["roc_auc"].p <= 0.05
    assert 0.02 <= called / 300 <= 0.08


# --------------------------------------------------------------------------------------------- McNemar


def test_mcnemar_gives_the_published_figures():
    """Airway hyperresponsiveness before and after transplantation: 1 and 7 discordant (Fagerland et al. 2013)."""
    before, after = np.repeat([[True, False], [False, True], [True, True]], [1, 7, 13], axis=0).T
    found = mcnemar(before, after)
    assert found[:2] == (1, 7)
    assert found.p_exact == pytest.approx(0.0703, abs=1e-4)
    assert found.p_mid == pytest.approx(0.0391, abs=1e-4)


@given(b=st.integers(0, 30), c=st.integers(0, 30), both=st.integers(0, 5))
def test_mcnemar_follows_the_binomial_law(b, c, both):
    first = np.repeat([True, False, True], [b, c, both])
    second = np.repeat([False, True, True], [b, c, both])
    found, n = mcnemar(first, second), b + c
    law = [comb(n, k) / 2**n for k in range(n + 1)]
    at_most = 2 * sum(law[: min(b, c) + 1])
    assert found.p_exact == pytest.approx(min(1, at_most))
    assert found.p_mid == pytest.approx(at_most - law[min(b, c)])
    if n:
        assert found.p_exact == pytest.approx(stats.binomtest(b, n).pvalue)
    assert found.p_mid <= found.p_exact


# --------------------------------------------------------------------------------------------- adjustment


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.3, 1.0]) | st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closure_of_bonferroni(p):
    """A hypothesis is rejected where every set of hypotheses that holds it is, by its smallest p-value."""
    expected = [
        max(
            min(1.0, len(family) * min(p[j] for j in family))
            for size in range(1, len(p) + 1)
            for family in combinations(range(len(p)), size)
            if i in family
        )
        for i in range(len(p))
    ]
    assert adjust(np.array(p)) == pytest.approx(expected)


def test_adjusted_values_are_those_of_r():
    """p.adjust(c(0.01, 0.04, 0.03, 0.005)), by hand from the definition; what was not tested stays out."""
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert adjust(p) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert adjust(p, "benjamini-hochberg") == pytest.approx([0.02, 0.04, np.nan, 0.04, 0.02], nan_ok=True)
    assert np.isnan(adjust(np.array([np.nan]))).all()
    assert np.isnan(adjust(np.array([np.nan]), "benjamini-hochberg")).all()


@settings(max_examples=50, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_values_are_those_of_statsmodels(p):
    for ours, theirs in (("holm", "holm"), ("benjamini-hochberg", "fdr_bh")):
        assert adjust(np.array(p), ours) == pytest.approx(multipletests(p, method=theirs)[1], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(only_first=st.integers(0, 40), only_second=st.integers(0, 40))
def test_mcnemar_is_the_exact_test_of_statsmodels(only_first, only_second):
    first = np.repeat([True, False, True], [only_first, only_second, 5])
    second = np.repeat([False, True, True], [only_first, only_second, 5])
    theirs = mcnemar_of_statsmodels([[5, only_first], [only_second, 0]], exact=True).pvalue
    assert mcnemar(first, second).p_exact == pytest.approx(theirs)
