"""Rows of a table against one another: the figures, the tests by exchange of patients, and the group of the best."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmark.errors import BadInput
from benchmark.evaluate.compare import Side, exchanged, paired
from benchmark.evaluate.standings import standings

GROUPS = np.repeat(np.arange(60), 2)
LABELS = GROUPS % 2


def table(score, *, labels=LABELS, evaluator="probe_standard", space="pooled", draw=0, names=None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample": names if names is not None else [f"s{i}" for i in range(len(labels))],
            "group": GROUPS[: len(labels)],
            "evaluator": pd.Categorical([evaluator] * len(labels)),
            "space": pd.Categorical([space] * len(labels)),
            "draw": draw,
            "split": "test",
            "label": labels,
            "score_0": 1 - np.asarray(score),
            "score_1": score,
        }
    )


def side(*tables: pd.DataFrame, space="pooled", task="binary", classes=("no", "yes")) -> Side:
    return Side(tables, space, task, classes, "f")


def scores(seed: int, signal: float) -> np.ndarray:
    """Probabilities that follow the labels, with what makes a patient hard shared by all models."""
    shared = np.random.default_rng(99).normal(size=60)[GROUPS]
    return stats.norm.cdf(signal * LABELS + 0.5 * shared + 0.5 * np.random.default_rng(seed).normal(size=120))


def test_a_clear_difference_is_found_in_every_metric_and_none_between_alike_models():
    good, alike, bad = (side(table(scores(*of))) for of in ((2, 2.0), (5, 2.0), (3, 0.0)))
    clear = exchanged(good, bad, "probe_standard", flips=499)
    assert clear["roc_auc"].p == 1 / 500
    assert clear["accuracy"].p < 0.05
    assert clear["brier"].p < 0.05
    assert clear["roc_auc"].difference == pytest.approx(
        paired(good, bad, "probe_standard", replicates=2)["roc_auc"].value
    )
    assert exchanged(good, alike, "probe_standard", flips=499)["roc_auc"].p > 0.05
    assert exchanged(good, bad, "probe_standard", flips=499, metrics="areas").keys() == {"roc_auc", "average_precision"}


def test_a_model_against_itself_on_another_scale_differs_in_no_area():
    """Ranks within each model take the scale away; without them, mixing the two would look like two bad models."""
    one = scores(1, 1.0)
    found = exchanged(side(table(one)), side(table(one / 50)), "probe_standard", flips=199)
    assert (found["roc_auc"].difference, found["roc_auc"].p) == (0, 1)
    assert found["brier"].p < 0.05


def test_rows_of_two_spaces_with_seeds_and_draws_are_swapped_each_with_its_like():
    def few_shot(seed, space):
        draws = [table(scores(seed + d, 1.0), evaluator="few_shot_k4", space=space, draw=d) for d in range(2)]
        return pd.concat(draws)

    pooled = side(few_shot(1, "pooled"), few_shot(11, "pooled"))
    projected = side(few_shot(21, "projected"), few_shot(31, "projected"), space="projected")
    found = exchanged(pooled, projected, "few_shot_k4", flips=199)["roc_auc"]
    aucs = [
        np.mean([roc_auc_score(LABELS, scores(s + d, 1.0)) for s in of for d in (0, 1)]) for of in ((1, 11), (21, 31))
    ]
    assert found.difference == pytest.approx(aucs[0] - aucs[1])
    with pytest.raises(BadInput, match="2 and 1 tables"):
        exchanged(pooled, side(few_shot(1, "pooled")), "few_shot_k4", flips=9)


def test_other_samples_are_refused():
    other = side(table(scores(1, 1.0), names=[f"t{i}" for i in range(120)]))
    with pytest.raises(BadInput, match="not of the same test samples"):
        exchanged(other, side(table(scores(2, 1.0))), "probe_standard", flips=9)
    with pytest.raises(BadInput, match="not of the same test samples"):
        standings([other, side(table(scores(2, 1.0)))], "probe_standard", replicates=9, flips=9)


def test_standings_name_the_best_what_ties_with_it_and_what_does_not():
    rows = [side(table(scores(*of))) for of in ((1, 0.0), (2, 1.0), (3, 1.05), (4, 0.0))]
    found = standings(rows, "probe_standard", replicates=300, flips=499)
    values = [row.value for row in found.rows]
    assert values == pytest.approx([roc_auc_score(LABELS, scores(*of)) for of in ((1, 0), (2, 1), (3, 1.05), (4, 0))])
    assert found.best == int(np.argmax(values))
    assert found.rows[found.best].against_best is None
    assert [row.tied for row in found.rows] == [False, True, True, False]
    assert sorted(row.rank.rank for row in found.rows) == [1, 2, 3, 4]
    assert found.rows[0].p_adjusted >= found.rows[0].against_best.p
    assert found.rows[0].rank.low >= 3
    assert [(row.joint_rank.low, row.joint_rank.high) for row in found.rows] == [(3, 4), (1, 2), (1, 2), (3, 4)]
    assert 0.01 < found.detectable.median < 0.3


def test_standings_of_an_undefined_metric_have_no_best_row():
    found = standings(
        [side(table(scores(1, 1.0), labels=np.zeros(120, dtype=int)))] * 2, "probe_standard", replicates=9, flips=9
    )
    assert found.best is None
    assert not any(row.tied for row in found.rows)
    assert np.isnan(found.rows[0].rank.rank)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_standings_of_several_classes(task):
    rng = np.random.default_rng(5)
    labels = rng.integers(3, size=120) if task == "multiclass" else rng.integers(2, size=(120, 3))
    truth = np.eye(3)[labels] if task == "multiclass" else labels

    def row(signal):
        rows = table(np.zeros(120)).drop(columns=["label", "score_0", "score_1"])
        rows[[f"score_{c}" for c in range(3)]] = stats.norm.cdf(signal * truth + rng.normal(size=(120, 3)))
        rows[["label"] if task == "multiclass" else [f"label_{c}" for c in range(3)]] = labels.reshape(120, -1)
        return side(rows, task=task, classes=("a", "b", "c"))

    found = standings([row(2.0), row(0.0)], "probe_standard", replicates=50, flips=199)
    assert [r.tied for r in found.rows] == [True, False]
