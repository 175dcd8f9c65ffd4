"""Everything that is fitted to the scores of an evaluator, by one function that is handed validation rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.evaluate import calibration
from benchmark.evaluate.calibration import Temperature
from benchmark.evaluate.predictions import labels_and_scores
from benchmark.evaluate.question import asked
from benchmark.evaluate.threshold import Criterion, Threshold, at_specificity, choose
from benchmark.result import Task

Floats = NDArray[np.float64]

SPECIFICITIES = (0.90, 0.95)
"""Specificities on validation for which a threshold is looked for."""


@dataclass(frozen=True)
class Fitted:
    """Thresholds and temperatures, of every question of the task in order."""

    task: Task
    thresholds: tuple[Threshold, ...]
    """What the criterion chose; empty for multiclass, where the largest score decides."""
    at_specificity: tuple[tuple[Threshold, ...], ...]
    """For each of ``SPECIFICITIES`` the smallest threshold that has it."""
    temperatures: tuple[Temperature, ...]
    """One for the whole task, but for multilabel one per label."""

    @property
    def why_no_scaling(self) -> str:
        """Why probabilities cannot be scaled; empty where they can."""
        return "; ".join(dict.fromkeys(t.why_not for t in self.temperatures if t.why_not))

    def scaled(self, scores: Floats) -> Floats:
        """(n, C) class probabilities at the temperatures, given that there are some."""
        values = [t.value for t in self.temperatures]
        if self.task == "multiclass":
            return calibration.scaled_multiclass(scores, values[0])
        if self.task == "binary":
            positive = calibration.scaled_binary(scores[:, 1], values[0])
            return np.stack([1 - positive, positive], axis=1)
        return np.stack([calibration.scaled_binary(s, t) for s, t in zip(scores.T, values, strict=True)], axis=1)


def fit_on_val(val: pd.DataFrame, task: Task, classes: Sequence[str], criterion: Criterion) -> Fitted:
    """Fit thresholds and temperatures to the validation rows of one evaluator whose scores are probabilities.

    No test row comes in here, so nothing of what follows from the result can have seen a test label.

    Args:
        val: Rows of one evaluator and space, as ``predictions`` describes them, of the val split alone.
        task: Of the dataset.
        classes: Class names in class order.
        criterion: What the first threshold of each question maximises.

    Raises:
        ValueError: where a row is of another split.
    """
    if not (val["split"] == "val").all():
        raise ValueError("thresholds and temperatures are fitted to validation rows, and there are others among these")
    questions = asked(val, task, classes)
    if task == "multiclass":
        labels, scores = labels_and_scores(val, task, classes)
        temperatures: tuple[Temperature, ...] = (calibration.fit_multiclass(scores, labels),)
    else:
        temperatures = tuple(calibration.fit_binary(q.scores, q.positive) for q in questions)
    return Fitted(
        task,
        () if task == "multiclass" else tuple(choose(q.scores, q.positive, criterion) for q in questions),
        tuple(tuple(at_specificity(q.scores, q.positive, target) for q in questions) for target in SPECIFICITIES),
        temperatures,
    )
