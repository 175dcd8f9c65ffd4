"""The table of predictions, and everything that is computed from it.

The table has one row per scored sample:

    sample, group, evaluator, space, draw, split      draw numbers the few-shot subsets, 0 elsewhere
    label | label_0 ... label_{C-1}                   class index | 0/1 per class for multilabel
    score_0 ... score_{C-1}                           NaN in rows of ``retrieval`` and ``maps``
    rank_image_to_text, rank_text_to_image            rank of the first right answer among the test samples with a
    identical_texts                                   report, and how many of them carry the same text; NaN elsewhere
    hit, hit_chance, hit_ceiling                      the pointing game of ``maps``; NaN elsewhere

Rows of ``few_shot``, ``retrieval`` and ``maps`` are of the test split alone, as nothing is chosen from them. From the
val rows of the others thresholds are chosen, by those rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset
from benchmark.errors import BadInput
from benchmark.evaluate.metrics import RANKED_BY, Areas, Classification, MeanOver, primary_metric
from benchmark.evaluate.pointing import PointingGame
from benchmark.evaluate.resample import Method, Statistic, estimates, plug_in
from benchmark.evaluate.retrieval import WAYS, Recall
from benchmark.evaluate.threshold import Criterion, Threshold, choose
from benchmark.result import MAPS_EVALUATOR, Measurement, Task

Floats = NDArray[np.float64]
SpaceName = Literal["pooled", "projected"]

PROBABILITIES = ("probe_standard", "probe_paper", "knn")
"""Evaluators whose scores are probabilities: Brier score, log-loss and calibration error are computed for them."""

LOG_ODDS = ("zero_shot",)
"""Evaluators whose scores are log-odds: undecided at 0, where the others are at 0.5."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Consecutive rows of the table that come from one evaluator."""

    evaluator: str
    space: SpaceName
    part: Literal["val", "test"]
    rows: NDArray[np.int64]
    """(m,) samples of the dataset."""
    values: dict[str, Floats]
    """Column name -> (m,) scores or ranks."""
    draw: int = 0


def to_table(pieces: Sequence[Scored], dataset: Dataset) -> pd.DataFrame:
    """Lay pieces one under another, with the identity and label of every sample."""
    rows = np.concatenate([piece.rows for piece in pieces]) if pieces else np.empty(0, dtype=np.int64)
    labels = dataset.labels[rows]
    lengths = np.array([len(piece.rows) for piece in pieces], dtype=np.int64)

    def per_piece(values: Sequence[str]) -> pd.Categorical:
        return pd.Categorical(np.repeat(np.array(values, dtype=object), lengths))

    def column(name: str) -> Floats:
        missing = np.full(len(rows), np.nan)
        return np.concatenate([p.values.get(name, missing[: len(p.rows)]) for p in pieces])

    return pd.DataFrame(
        {
            "sample": np.array(dataset.sample_ids, dtype=object)[rows],
            "group": dataset.groups[rows],
            "evaluator": per_piece([piece.evaluator for piece in pieces]),
            "space": per_piece([piece.space for piece in pieces]),
            "draw": np.repeat(np.array([piece.draw for piece in pieces], dtype=np.int64), lengths),
            "split": per_piece([piece.part for piece in pieces]),
            **({"label": labels} if labels.ndim == 1 else {f"label_{c}": y for c, y in enumerate(labels.T)}),
            **{name: column(name) for name in dict.fromkeys(name for piece in pieces for name in piece.values)},
        }
    )


def recompute(
    predictions: pd.DataFrame,
    *,
    task: Task,
    classes: Sequence[str],
    fingerprint: str,
    replicates: int,
    recall_at: Sequence[int],
    threshold: Criterion,
    intervals: Method = "percentile",
) -> tuple[Measurement, ...]:
    """Measure a table of predictions: every metric on the test split, with its interval and chance level.

    Metrics of predicted classes are measured twice where there are val rows: as the scores stand, and at a threshold
    chosen on those rows (``f1_macro@val_threshold``), which stays fixed while the test patients are resampled.

    Args:
        predictions: As described at the top of this module.
        task: Of the dataset.
        classes: Class names in class order.
        fingerprint: Of the split; it seeds the resamples.
        replicates: Number of patient-level resamples.
        recall_at: The k's of retrieval.
        threshold: What thresholds maximise on val.
        intervals: How they are read from the resamples.

    Raises:
        BadInput: where evaluators were not scored on the same test samples.
    """
    test = predictions[predictions["split"] == "test"]
    found = [(str(e), s, t) for (e, s), t in test.groupby(["evaluator", "space"], sort=False, observed=True)]
    draws = [[t for _, t in table.groupby("draw")] for _, _, table in found]
    if not draws:
        return ()
    samples = draws[0][0]["sample"].to_numpy()
    for (evaluator, _, _), parts in zip(found, draws, strict=True):
        if any(not np.array_equal(part["sample"].to_numpy(), samples) for part in parts):
            raise BadInput(f"predictions: rows of {evaluator} are not of the same test samples as {found[0][0]}")
    chosen = val_thresholds(predictions, task=task, classes=classes, criterion=threshold)
    statistics = [
        _statistic(evaluator, parts, task, classes, recall_at, chosen.get((evaluator, str(space)), ()))
        for (evaluator, space, _), parts in zip(found, draws, strict=True)
    ]
    groups = draws[0][0]["group"].to_numpy()
    measured = estimates(statistics, groups, replicates=replicates, fingerprint=fingerprint, method=intervals)
    return tuple(
        Measurement(evaluator=evaluator, space=space, metric=name, estimate=estimate, chance=statistic.chance(name))
        for (evaluator, space, _), statistic, metrics in zip(found, statistics, measured, strict=True)
        for name, estimate in metrics.items()
    )


def choices(
    predictions: pd.DataFrame, *, task: Task, classes: Sequence[str], criterion: Criterion
) -> dict[str, dict[str, Any]]:
    """Decide what is decided on val, by its rows alone.

    Returns:
        Space -> ``selection``, the primary metric of the standard probe on val (None where undefined), for choosing
        between variants without a look at the test split; and ``val_thresholds``, reported evaluator -> class -> the
        threshold, or the reason why there is none.
    """
    metric, found = primary_metric(task), dict[str, dict[str, Any]]()
    val = predictions[(predictions["split"] == "val") & (predictions["evaluator"] == RANKED_BY)]
    for space, rows in val.groupby("space", sort=False, observed=True):
        value = plug_in(classification(RANKED_BY, [rows], task, classes))[metric]
        found[str(space)] = {"selection": {"metric": metric, "value": None if np.isnan(value) else value}}
    names = classes[1:] if task == "binary" else classes
    thresholds = val_thresholds(predictions, task=task, classes=classes, criterion=criterion)
    for (evaluator, space), chosen in thresholds.items():
        by_class = {name: t.why_not or t.value for name, t in zip(names, chosen, strict=True)}
        found.setdefault(space, {}).setdefault("val_thresholds", {})[evaluator] = by_class
    return found


def val_thresholds(
    predictions: pd.DataFrame, *, task: Task, classes: Sequence[str], criterion: Criterion
) -> dict[tuple[str, str], tuple[Threshold, ...]]:
    """Choose thresholds from the val rows of a table, for every evaluator and space that has some.

    Returns:
        (evaluator, space) -> one threshold for score_1 of a binary task, one per label for multilabel. Empty for
        multiclass, where the largest score decides and no threshold is asked for.
    """
    if task == "multiclass":
        return {}
    val = predictions[predictions["split"] == "val"]
    scored = {1: "label"} if task == "binary" else {c: f"label_{c}" for c in range(len(classes))}
    return {
        (str(evaluator), str(space)): tuple(
            choose(
                table[f"score_{c}"].to_numpy(np.float64),
                table[label].to_numpy() == 1,
                criterion,
                neutral=0.0 if evaluator in LOG_ODDS else 0.5,
            )
            for c, label in scored.items()
        )
        for (evaluator, space), table in val.groupby(["evaluator", "space"], sort=False, observed=True)
    }


def _statistic(
    evaluator: str,
    draws: Sequence[pd.DataFrame],
    task: Task,
    classes: Sequence[str],
    recall_at: Sequence[int],
    thresholds: Sequence[Threshold],
) -> Statistic:
    if evaluator == "retrieval":
        table = draws[0]
        ranks = {way: table[f"rank_{way}"].to_numpy(np.float64) for way in WAYS}
        return Recall(ranks, table["identical_texts"].to_numpy(np.float64), recall_at)
    if evaluator == MAPS_EVALUATOR:
        hit, chance, ceiling = (draws[0][f"hit{of}"].to_numpy(np.float64) for of in ("", "_chance", "_ceiling"))
        return PointingGame(hit, chance, ceiling)
    return classification(evaluator, draws, task, classes, thresholds)


def classification(
    evaluator: str,
    draws: Sequence[pd.DataFrame],
    task: Task,
    classes: Sequence[str],
    thresholds: Sequence[Threshold] = (),
) -> Statistic:
    """Classification metrics of one evaluator's rows, averaged over its draws."""
    tables = [
        Classification(
            task,
            *labels_and_scores(draw, task, classes),
            classes=classes,
            probabilities=evaluator.startswith(PROBABILITIES),
            thresholds=thresholds,
        )
        for draw in draws
    ]
    return tables[0] if len(tables) == 1 else MeanOver(tables)


def areas(draws: Sequence[pd.DataFrame], task: Task, classes: Sequence[str]) -> Statistic:
    """The metrics of the order of the scores alone, averaged over draws."""
    tables = [Areas(task, *labels_and_scores(draw, task, classes), classes=classes) for draw in draws]
    return tables[0] if len(tables) == 1 else MeanOver(tables)


def labels_and_scores(table: pd.DataFrame, task: Task, classes: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
    """(n,) class indices, or (n, C) of 0/1 for multilabel, and (n, C) class scores."""
    labels = [f"label_{c}" for c in range(len(classes))] if task == "multilabel" else "label"
    return table[labels].to_numpy(np.int64), table[score_columns(classes)].to_numpy(np.float64)


def score_columns(classes: Sequence[str]) -> list[str]:
    """Columns of the class scores, in class order."""
    return [f"score_{c}" for c in range(len(classes))]
