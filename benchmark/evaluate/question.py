"""A task taken apart into questions with a yes and a no, and shares of samples under many weightings at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.evaluate.predictions import labels_and_scores
from benchmark.evaluate.resample import Statistic
from benchmark.result import Task

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Asked(NamedTuple):
    """One question, and what a row answers: a binary task asks one, multilabel one per label, multiclass per class."""

    name: str
    positive: Bools
    """(n,) the truth."""
    scores: Floats
    """(n,) of the positive class."""


def asked(table: pd.DataFrame, task: Task, classes: Sequence[str]) -> tuple[Asked, ...]:
    """The questions of a task, in class order, over the rows of one evaluator and draw."""
    labels, scores = labels_and_scores(table, task, classes)
    truth = labels == 1 if task == "multilabel" else labels[:, None] == np.arange(len(classes))
    of = [1] if task == "binary" else range(len(classes))
    return tuple(Asked(classes[c], truth[:, c], scores[:, c]) for c in of)


class Shares(Statistic):
    """Of some samples, how many are others, too: rates such as sensitivity, as a function of sample weights."""

    def __init__(self, parts: Mapping[str, tuple[Bools, Bools, str]]) -> None:
        """Take by name (n,) which samples are looked for, (n,) among which, and why there may be none of those."""
        self._names = tuple(parts)
        self._among = np.stack([among for _, among, _ in parts.values()]).astype(np.float64)
        self._found = np.stack([found & among for found, among, _ in parts.values()]).astype(np.float64)
        self._why = {name: why for name, (_, _, why) in parts.items()}
        self.used = np.ones(self._among.shape[1], dtype=np.bool_)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Name -> (b,) shares under (n, b) weights; NaN where there is nothing to look among."""
        found, among = self._found @ weights, self._among @ weights
        shares = np.divide(found, among, out=np.full_like(found, np.nan), where=among > 0)
        return dict(zip(self._names, shares, strict=True))

    def why_undefined(self, metric: str) -> str:
        """Why there is nothing to look among."""
        return self._why[metric]

    def chance(self, metric: str) -> float:  # noqa: ARG002 - it depends on how the samples are found
        """Not known."""
        return np.nan


def rates(positive: Bools, above: Bools) -> dict[str, tuple[Bools, Bools, str]]:
    """What ``Shares`` takes for a yes-or-no decision: sensitivity, specificity and the predictive values."""
    return {
        "sensitivity": (above, positive, "no test sample is positive"),
        "specificity": (~above, ~positive, "no test sample is negative"),
        "ppv": (positive, above, "no test sample is called positive"),
        "npv": (~positive, ~above, "no test sample is called negative"),
    }
