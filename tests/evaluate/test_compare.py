"""Differences between rows: paired ones share resamples, unpaired ones add up, and both cover what they promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from benchmark.errors import BadInput
from benchmark.evaluate.compare import Difference, Side, by_class, paired, unpaired
from benchmark.evaluate.resample import Statistic, estimates, plug_in, replicate

CLASSES = ("no", "yes")


def table(labels, scores, groups, *, evaluator="probe_standard", names=None, draw=0) -> pd.DataFrame:
    """Predictions of a binary task as a run leaves them; ``scores`` is that of the positive class."""
    return pd.DataFrame(
        {
            "sample": names if names is not None else [f"s{i}" for i in range(len(labels))],
            "group": groups,
            "evaluator": evaluator,
            "space": "pooled",
            "draw": draw,
            "split": "test",
            "label": labels,
            "score_0": 1 - np.asarray(scores),
            "score_1": scores,
        }
    )


def side(*tables: pd.DataFrame, fingerprint: str = "f", task: str = "binary", classes=CLASSES) -> Side:
    return Side(tables, "pooled", task, classes, fingerprint)


def scored(rng, patients: int, each: int, *, signal: float, shared=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and patients, where scores follow labels, a patient's own offset, and chance."""
    groups = np.repeat(np.arange(patients), each)
    labels = np.repeat(np.arange(patients) % 2, each)
    offset = np.repeat(rng.normal(size=patients) if shared is None else shared, each)
    raw = signal * labels + offset + 0.5 * rng.normal(size=len(labels))
    return labels, stats.norm.cdf(raw), groups


def test_a_difference_is_that_of_the_two_figures_in_every_metric():
    rng = np.random.default_rng(0)
    labels, a, groups = scored(rng, 30, 3, signal=1.5)
    b = stats.norm.cdf(0.3 * labels + rng.normal(size=len(labels)))
    found = paired(side(table(labels, a, groups)), side(table(labels, b, groups)), "probe_standard", replicates=50)
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(labels, a) - roc_auc_score(labels, b))
    assert found["accuracy"].value == pytest.approx(((a > 0.5) == labels).mean() - ((b > 0.5) == labels).mean())
    assert found["roc_auc"].n == 90
    assert found["roc_auc"].n_patients == 30


def test_a_row_less_itself_is_nothing_with_no_spread():
    labels, a, groups = scored(np.random.default_rng(1), 20, 2, signal=1.0)
    one = paired(side(table(labels, a, groups)), side(table(labels, a, groups)), "probe_standard", replicates=100)
    assert (one["roc_auc"].value, one["roc_auc"].low, one["roc_auc"].high) == (0, 0, 0)


def test_swapping_the_sides_turns_the_sign_and_the_interval():
    rng = np.random.default_rng(2)
    labels, a, groups = scored(rng, 25, 2, signal=1.0)
    b = rng.random(len(labels))
    first, second = side(table(labels, a, groups)), side(table(labels, b, groups))
    there = paired(first, second, "probe_standard", replicates=200)["f1_macro"]
    back = paired(second, first, "probe_standard", replicates=200)["f1_macro"]
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


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


def test_the_paired_interval_of_means_is_that_of_the_paired_t_test():
    """One sample a patient: the spread of the difference of means is its standard error, as in a paired t-test."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=400)
    a, b = shared + 0.3 + 0.2 * rng.normal(size=400), shared + 0.2 * rng.normal(size=400)
    (found,) = estimates([Difference(Mean(a), Mean(b))], np.arange(400), replicates=4000, fingerprint="x")
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found["mean"].low == pytest.approx(low, abs=0.003)
    assert found["mean"].high == pytest.approx(high, abs=0.003)
    width = found["mean"].high - found["mean"].low
    unpaired_width = np.subtract(*stats.ttest_ind(a, b).confidence_interval(0.95)[::-1])
    assert width < unpaired_width / 3


def test_the_spread_between_two_test_sets_is_the_root_of_the_sum_of_both_squared():
    """The closed form for independent sides, from each side's own replicates."""
    rng = np.random.default_rng(4)
    ours, theirs = scored(rng, 60, 2, signal=1.0), scored(rng, 40, 3, signal=0.4)
    a, b = side(table(*ours), fingerprint="a"), side(table(*theirs), fingerprint="b")
    found = unpaired(a, b, "probe_standard", replicates=4000)["roc_auc"]
    spreads = [
        replicate([s.statistic("probe_standard")], groups, replicates=4000, fingerprint=s.fingerprint)[0]["roc_auc"]
        for s, groups in ((a, ours[2]), (b, theirs[2]))
    ]
    spread = np.hypot(spreads[0].std(), spreads[1].std())
    assert found.value == pytest.approx(roc_auc_score(*ours[:2]) - roc_auc_score(*theirs[:2]))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.05)
    assert (found.n, found.n_patients) == (240, 100)


def test_paired_intervals_of_equal_models_hold_nothing_in_nineteen_of_twenty():
    """Coverage by simulation: two models of the same quality on fresh patients, whose pictures resemble each other."""
    rng = np.random.default_rng(5)
    holds = []
    for trial in range(100):
        shared = rng.normal(size=40)
        labels, a, groups = scored(rng, 40, 2, signal=1.0, shared=shared)
        _, b, _ = scored(rng, 40, 2, signal=1.0, shared=shared)
        both = [side(table(labels, s, groups), fingerprint=f"t{trial}") for s in (a, b)]
        found = paired(*both, "probe_standard", replicates=150)["roc_auc"]
        holds.append(found.low <= 0 <= found.high)
    assert 0.88 <= np.mean(holds) <= 0.99


def test_seeds_are_averaged_before_the_difference_is_taken():
    rng = np.random.default_rng(6)
    labels, a, groups = scored(rng, 20, 2, signal=1.0)
    b, c = rng.random(len(labels)), rng.random(len(labels))
    found = paired(
        side(table(labels, a, groups), table(labels, b, groups)),
        side(table(labels, c, groups)),
        "probe_standard",
        replicates=20,
    )
    aucs = [roc_auc_score(labels, s) for s in (a, b, c)]
    assert found["roc_auc"].value == pytest.approx((aucs[0] + aucs[1]) / 2 - aucs[2])


def test_draws_of_few_shot_are_averaged_within_a_side():
    rng = np.random.default_rng(7)
    labels, a, groups = scored(rng, 20, 2, signal=1.0)
    b = rng.random(len(labels))
    both = pd.concat([table(labels, s, groups, evaluator="few_shot_k4", draw=d) for d, s in enumerate((a, b))])
    found = paired(side(both), side(table(labels, b, groups, evaluator="few_shot_k4")), "few_shot_k4", replicates=20)
    assert found["roc_auc"].value == pytest.approx((roc_auc_score(labels, a) - roc_auc_score(labels, b)) / 2)


def test_rows_of_other_samples_or_other_evaluators_are_refused():
    labels, a, groups = scored(np.random.default_rng(8), 10, 2, signal=1.0)
    other = table(labels, a, groups, names=[f"t{i}" for i in range(20)])
    with pytest.raises(BadInput, match="not of the same test samples"):
        paired(side(table(labels, a, groups)), side(other), "probe_standard", replicates=10)
    with pytest.raises(BadInput, match="no predictions of knn_k5"):
        paired(side(other), side(other), "knn_k5", replicates=10)


def test_undefined_figures_give_no_difference_and_one_patient_no_interval():
    ones = np.ones(6, dtype=int)
    labels = np.array([0, 1, 0, 1, 0, 1])
    lone = side(table(labels, np.linspace(0, 1, 6), np.zeros(6, dtype=int)), fingerprint="lone")
    several = side(table(labels, np.linspace(0, 1, 6), np.arange(6)), fingerprint="several")
    found = unpaired(lone, several, "probe_standard", replicates=20)["accuracy"]
    assert found.value == 0
    assert np.isnan(found.low)
    assert "one patient" in found.why_undefined
    single = side(table(ones, np.linspace(0, 1, 6), np.arange(6)), fingerprint="single")
    found = unpaired(single, several, "probe_standard", replicates=20)["roc_auc"]
    assert np.isnan(found.value)
    assert found.why_undefined == "no test sample is 'no'"


def test_recall_and_precision_of_each_class_are_scikit_learns():
    rng = np.random.default_rng(9)
    labels, groups = rng.integers(3, size=90), np.repeat(np.arange(30), 3)
    scores = rng.random((90, 3)) + np.eye(3)[labels] * 0.4
    rows = table(labels, scores[:, 1], groups).drop(columns=["score_0", "score_1"])
    rows[["score_0", "score_1", "score_2"]] = scores
    found = {
        m.metric: m.estimate
        for m in by_class(side(rows, task="multiclass", classes=("a", "b", "c")), "probe_standard", replicates=100)
    }
    guess = scores.argmax(axis=1)
    for c, name in enumerate("abc"):
        assert found[f"recall: {name}"].value == pytest.approx(recall_score(labels, guess, average=None)[c])
        assert found[f"precision: {name}"].value == pytest.approx(precision_score(labels, guess, average=None)[c])
        assert found[f"recall: {name}"].low < found[f"recall: {name}"].value < found[f"recall: {name}"].high


def test_a_class_that_is_never_named_has_no_precision_and_says_so():
    rows = table([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], np.arange(4))
    found = {m.metric: m.estimate for m in by_class(side(rows), "probe_standard", replicates=20)}
    assert found["recall: yes"].value == 0
    assert np.isnan(found["precision: yes"].value)
    assert found["precision: yes"].why_undefined == "'yes' is never predicted"


def test_recall_of_several_labels_counts_the_positive_side():
    labels, scores = np.array([[1, 0], [1, 1], [0, 1], [0, 0]]), np.array([[0.9, 0.1], [0.2, 0.9], [0.8, 0.7], [0, 0]])
    rows = table([0] * 4, [0.0] * 4, np.arange(4)).drop(columns=["label", "score_0", "score_1"])
    rows[["label_0", "label_1"]], rows[["score_0", "score_1"]] = labels, scores
    found = {
        m.metric: m.estimate.value for m in by_class(side(rows, task="multilabel"), "probe_standard", replicates=5)
    }
    assert found == {"recall: no": 0.5, "recall: yes": 1.0, "precision: no": 0.5, "precision: yes": 1.0}


def test_unpaired_differences_of_calibration_errors_have_no_interval_as_paired_ones_have_none():
    rng = np.random.default_rng(9)
    sides = [side(table(labels, a, groups)) for labels, a, groups in (scored(rng, 30, 2, signal=1.0) for _ in range(2))]
    for found in (
        unpaired(*sides, "probe_standard", replicates=60),
        paired(sides[0], sides[0], "probe_standard", replicates=60),
    ):
        assert np.isnan(found["ece"].low)
        assert "absolute values" in found["ece"].why_undefined
        assert found["brier"].low <= found["brier"].value <= found["brier"].high


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_parts_of_a_calibration_error_add_up_to_its_mean_over_seeds(seeds):
    rng = np.random.default_rng(10)
    labels, _, groups = scored(rng, 30, 2, signal=1.0)
    statistic = side(*(table(labels, rng.random(60), groups) for _ in range(seeds))).statistic("probe_standard")
    parts = statistic.sums["ece"].parts(np.ones((60, 1)))
    assert parts.shape == (10 * seeds, 1)
    assert np.abs(parts).sum() == pytest.approx(plug_in(statistic)["ece"])
    assert "ece" not in plug_in(statistic.smooth)
