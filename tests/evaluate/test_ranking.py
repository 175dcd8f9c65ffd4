"""Ranks, ties and detectable differences follow their definitions, and mean in simulations what they say they mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmark.evaluate.metrics import Areas
from benchmark.evaluate.ranking import (
    best_row,
    components,
    detectable_difference,
    joint_ranks,
    ranks,
    tied_with_best,
)
from benchmark.evaluate.resample import replicate
from benchmark.evaluate.significance import sign_flip_test

# --------------------------------------------------------------------------------------------- ranks


def test_ranks_and_their_intervals_are_those_counted_by_hand():
    """Two rows that swap places in 3 of 10 resamples, and one that is always last."""
    replicates = np.array([[3.0] * 7 + [1.0] * 3, [2.0] * 10, [0.0] * 10])
    found = ranks(np.array([3.0, 2.0, 0.0]), replicates)
    assert [tuple(r) for r in found] == [(1, 1, 2, 0.7), (2, 1, 2, 0.3), (3, 3, 3, 0.0)]
    turned = ranks(-np.array([3.0, 2.0, 0.0]), -replicates, higher_is_better=False)
    assert turned == found


def test_equal_rows_share_their_rank_and_their_chance_of_being_best():
    rng = np.random.default_rng(0)
    row = rng.random(50)
    found = ranks(np.array([0.5, 0.5, 0.1]), np.stack([row, row, row - 2]))
    assert found[0] == found[1] == (1, 1, 1, 0.5)
    assert found[2] == (3, 3, 3, 0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 100_000), rows=st.integers(1, 8))
def test_chances_of_being_best_add_up_and_intervals_hold_possible_ranks(seed, rows):
    rng = np.random.default_rng(seed)
    replicates = rng.integers(5, size=(rows, 60)).astype(float)
    found = ranks(rng.random(rows), replicates)
    assert sum(r.best for r in found) == pytest.approx(1)
    assert all(1 <= r.low <= r.high <= rows for r in found)
    assert sorted(r.rank for r in found) == list(range(1, rows + 1))


def test_undefined_rows_have_no_rank_and_undefined_resamples_no_say():
    replicates = np.random.default_rng(1).normal(size=(3, 100))
    replicates[1] = np.nan
    replicates[0, :5] = np.nan
    found = ranks(np.array([0.9, np.nan, 0.1]), replicates)
    assert [r.rank for r in found] == pytest.approx([1, np.nan, 2], nan_ok=True)
    assert found[0].best + found[2].best == pytest.approx(1)
    replicates[0, 5] = np.nan
    found = ranks(np.array([0.9, np.nan, 0.1]), replicates)
    assert found[0].rank == 1
    assert np.isnan(found[0].low)
    assert np.isnan(ranks(np.array([np.nan]), replicates[:1])[0].rank)


def test_rank_intervals_cover_the_true_ranks_of_rows_that_differ():
    """300 tables of 5 rows, a standard error apart each: at least 95% of ranks lie within, 1 Monte-Carlo point."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(300):
        patients = np.arange(5.0)[::-1, None] * 0.1 + rng.normal(size=(5, 100))
        weights = rng.multinomial(100, np.full(100, 0.01), size=300)
        found = ranks(patients.mean(axis=1), patients @ weights.T / 100)
        covered += [r.low <= true <= r.high for true, r in enumerate(found, start=1)]
    assert np.mean(covered) > 0.94


def tables_of_patients(rng, gap, *, tables, rows=10, patients=120):
    """Figures and resamples of rows whose true figures lie ``gap`` standard errors of a difference apart."""
    for _ in range(tables):
        true = np.arange(rows)[::-1, None] * gap * np.sqrt(2 / patients)
        scored = true + rng.normal(size=(rows, patients))
        weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=300)
        yield scored.mean(axis=1), scored @ weights.T / patients


def test_joint_ranks_hold_for_all_equal_rows_at_once_where_rank_intervals_do_not():
    """150 tables of 10 rows that are as good as equal: 95% of the tables, to 2 Monte-Carlo points."""
    joint, alone = [], []
    for values, replicates in tables_of_patients(np.random.default_rng(9), 1e-6, tables=150):
        joint.append(all(r.low <= t <= r.high for t, r in enumerate(joint_ranks(values, replicates), start=1)))
        alone += [r.low <= t <= r.high for t, r in enumerate(ranks(values, replicates), start=1)]
    assert np.mean(joint) > 0.93
    assert np.mean(alone) < 0.9


def test_joint_ranks_of_rows_far_apart_are_their_ranks_and_of_copies_all_ranks():
    values, replicates = next(tables_of_patients(np.random.default_rng(10), 12.0, tables=1, rows=4))
    assert [tuple(r) for r in joint_ranks(values, replicates)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert [tuple(r) for r in joint_ranks(values[[0, 0]], replicates[[0, 0]])] == [(1, 2), (1, 2)]
    assert joint_ranks(values[:1], replicates[:1]) == [(1, 1)]
    found = joint_ranks(np.array([0.5, np.nan]), np.stack([replicates[0], replicates[1] * np.nan]))
    assert found[0] == (1, 1)
    assert np.isnan(found[1]).all()


# --------------------------------------------------------------------------------------------- the best group


def test_the_group_is_what_holm_cannot_tell_from_the_best():
    """0.03 is out alone, but not as the second of three."""
    assert tied_with_best(0, np.array([np.nan, 0.03])).tolist() == [True, False]
    assert tied_with_best(1, np.array([0.03, 0.0, 0.001, 0.4])).tolist() == [True, True, False, True]
    assert tied_with_best(0, np.array([np.nan, np.nan, 0.9])).tolist() == [True, False, True]
    assert tied_with_best(0, np.array([np.nan])).tolist() == [True]
    assert best_row(np.array([np.nan, 0.2, 0.7, 0.7])) == 2
    assert best_row(np.array([np.nan, 0.2, 0.7, 0.7]), higher_is_better=False) == 1
    assert best_row(np.array([np.nan])) is None


def test_a_row_as_good_as_the_best_is_seldom_out_but_some_row_of_many_often_is():
    """What the documentation says of ten equal rows, 2000 tables: Monte-Carlo errors of 0.3 and 0.8 points."""
    rng = np.random.default_rng(3)
    given, some = 0, 0
    for figures in rng.normal(size=(2000, 10)):
        best = figures.argmax()
        tied = tied_with_best(best, 2 * stats.norm.sf((figures[best] - figures) / np.sqrt(2)))
        given += not tied[0]
        some += not tied.all()
    assert given / 2000 < 0.03
    assert 0.12 < some / 2000 < 0.18


# --------------------------------------------------------------------------------------------- differences and seeds


def test_detectable_difference_is_that_of_the_paired_closed_form():
    """(1.96 + 0.84) SE with SE of the differences themselves; the pairs' median, least and most."""
    rng = np.random.default_rng(4)
    replicates = rng.normal(size=500) + rng.normal(size=(3, 500)) * np.array([[0.1], [0.2], [0.3]])
    sizes = [2.8016 * (replicates[i] - replicates[j]).std(ddof=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = detectable_difference(replicates)
    assert found == pytest.approx((np.median(sizes), min(sizes), max(sizes)), rel=1e-4)
    assert np.isnan(detectable_difference(replicates[:1]).median)
    holed = np.concatenate([replicates, np.full((3, 1), np.nan)], axis=1)
    assert detectable_difference(holed) == pytest.approx(found)


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five():
    """A paired t-test on 400 test sets of 200 patients with just that difference: 80%, 2 Monte-Carlo points."""
    rng = np.random.default_rng(5)

    def patients(shift):
        a, b = rng.normal(size=200) + 0.4 * rng.normal(size=(2, 200))
        return a + shift, b

    weights = rng.multinomial(200, np.full(200, 1 / 200), size=2000)
    size = detectable_difference(np.stack(patients(0)) @ weights.T / 200).median
    found = [stats.ttest_rel(*patients(size)).pvalue < 0.05 for _ in range(400)]
    assert 0.72 < np.mean(found) < 0.88


def test_a_difference_of_auroc_of_the_detectable_size_is_found_by_swapping_patients_four_times_in_five():
    """200 test sets of 100 patients with two alike pictures each: 80% power, two Monte-Carlo errors of 2.8 points."""
    rng, groups = np.random.default_rng(12), np.repeat(np.arange(100), 2)
    labels = groups % 2

    def scores(signal):
        """Of the better model and of one with a signal of 0.8; their variances are 1, half of it shared."""
        hard, noise = np.sqrt(0.5) * rng.normal(size=100)[groups], np.sqrt(0.25) * rng.normal(size=(2, 100))[:, groups]
        return np.array([[signal], [0.8]]) * labels + hard + noise + np.sqrt(0.25) * rng.normal(size=(2, 200))

    def areas(labels, score):
        return Areas("binary", labels, np.column_stack([-score, score]), classes=("no", "yes"))

    def detectable(signal):
        rows = [areas(labels, score) for score in scores(signal)]
        drawn = replicate(rows, groups, replicates=200, fingerprint="power")
        return detectable_difference(np.stack([of["roc_auc"] for of in drawn])).median

    def auc(signal):
        return stats.norm.cdf(signal / np.sqrt(2))

    size, signal = 0.1, 0.8
    for _ in range(3):  # the spread depends a little on how good the better model is
        signal = np.sqrt(2) * stats.norm.ppf(auc(0.8) + size)
        size = np.mean([detectable(signal) for _ in range(40)])
    signal = np.sqrt(2) * stats.norm.ppf(auc(0.8) + size)
    found = 0
    for i in range(200):
        ranked = areas(np.tile(labels, 2), np.concatenate([stats.rankdata(score) for score in scores(signal)]))
        found += sign_flip_test(ranked, groups, flips=199, fingerprint=f"{i}")["roc_auc"].p <= 0.05
    assert 0.74 <= found / 200 <= 0.86


def test_components_are_those_that_made_the_figures():
    """Patients 1, seeds 0.04 and interaction 4 over 100 patients, from 300 simulated models of 4 seeds each."""
    rng = np.random.default_rng(6)
    weights = rng.multinomial(100, np.full(100, 0.01), size=300) / 100
    found = []
    for _ in range(300):
        patients = rng.normal(size=100) + 0.2 * rng.normal(size=(4, 1)) + 2 * rng.normal(size=(4, 100))
        found.append(components(patients.mean(axis=1), patients @ weights.T)[:3])
    assert np.mean(found, axis=0) == pytest.approx([0.01, 0.04, 0.04], rel=0.2)


def test_components_without_luck_of_seeds_are_the_patients_alone():
    row = np.random.default_rng(7).normal(size=200)
    found = components(np.array([0.8, 0.8, 0.8]), np.stack([row] * 3))
    assert found == pytest.approx((row.var(ddof=1), 0, 0, 3))
    assert found.standard_error == pytest.approx(row.std(ddof=1))


def test_the_standard_error_covers_other_patients_and_other_seeds():
    """Estimated variance of the mean of 5 seeds against that over 300 repetitions with fresh patients and seeds."""
    rng = np.random.default_rng(8)
    weights = rng.multinomial(100, np.full(100, 0.01), size=200) / 100
    means, errors = [], []
    for _ in range(300):
        patients = rng.normal(size=100) + 0.1 * rng.normal(size=(5, 1)) + rng.normal(size=(5, 100))
        means.append(patients.mean())
        errors.append(components(patients.mean(axis=1), patients @ weights.T).standard_error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.1)
