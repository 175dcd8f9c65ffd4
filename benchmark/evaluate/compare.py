"""How far two rows are apart, with an interval: paired on one test split, unpaired between two.

Two rows on one split share patients and resamples, so their difference is taken replicate by replicate: what makes a
resample hard makes it hard for both, and cancels. Rows on two test sets share nobody; each is resampled by itself, and
the spreads add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.errors import BadInput
from benchmark.evaluate.metrics import ByClass, MeanOver
from benchmark.evaluate.predictions import SpaceName, classification
from benchmark.evaluate.resample import Statistic, estimates, percentile_interval, plug_in, replicate
from benchmark.result import Estimate, Measurement, Task

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a comparison: the same variant under one or more seeds, on one test split."""

    predictions: Sequence[pd.DataFrame]
    """One table a seed, as ``predictions`` describes it; figures are averaged over them."""
    space: SpaceName
    task: Task
    classes: tuple[str, ...]
    fingerprint: str
    """Of the split; seeds the resamples."""

    def rows(self, evaluator: str) -> list[pd.DataFrame]:
        """The test rows of one evaluator in each table.

        Raises:
            BadInput: where a table has none.
        """
        found = []
        for table in self.predictions:
            mine = (table["split"] == "test") & (table["evaluator"] == evaluator) & (table["space"] == self.space)
            if not mine.any():
                raise BadInput(
                    f"no predictions of {evaluator} in the space {self.space!r}; it was not run for this row"
                )
            found.append(table[mine])
        return found

    def statistic(self, evaluator: str) -> Statistic:
        """Metrics of one evaluator, averaged over the seeds."""
        of_seeds = [
            classification(evaluator, [draw for _, draw in rows.groupby("draw")], self.task, self.classes)
            for rows in self.rows(evaluator)
        ]
        return of_seeds[0] if len(of_seeds) == 1 else MeanOver(of_seeds)

    def samples(self, evaluator: str) -> tuple[list[str], NDArray[np.int64]]:
        """Test samples in the order of the predictions, and the patient of each."""
        rows = self.rows(evaluator)[0]
        rows = rows[rows["draw"] == rows["draw"].iloc[0]]
        return rows["sample"].tolist(), rows["group"].to_numpy(np.int64)


class Difference:
    """Metrics of one table less those of another over the same samples."""

    def __init__(self, variant: Statistic, base: Statistic) -> None:
        self.used = variant.used
        self._variant, self._base = variant, base

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) differences; NaN where either is undefined."""
        variant, base = self._variant(weights), self._base(weights)
        return {name: variant[name] - base[name] for name in variant}

    def why_undefined(self, metric: str) -> str:
        """The reasons of both sides."""
        return "; ".join(dict.fromkeys(w for s in (self._variant, self._base) if (w := s.why_undefined(metric))))

    def chance(self, metric: str) -> float:  # noqa: ARG002 - the same for every metric
        """Nothing: two guesses do not differ."""
        return 0.0


def paired(variant: Side, base: Side, evaluator: str, *, replicates: int) -> dict[str, Estimate]:
    """Difference of every metric, variant less base, with an interval over shared patient-level resamples.

    Raises:
        BadInput: where the two were not scored on the same test samples.
    """
    names, groups = variant.samples(evaluator)
    if names != base.samples(evaluator)[0] or variant.fingerprint != base.fingerprint:
        raise BadInput(f"two rows of {evaluator} are not of the same test samples; a paired difference needs one split")
    difference = Difference(variant.statistic(evaluator), base.statistic(evaluator))
    return estimates([difference], groups, replicates=replicates, fingerprint=variant.fingerprint)[0]


def unpaired(variant: Side, base: Side, evaluator: str, *, replicates: int) -> dict[str, Estimate]:
    """Difference of every metric, variant less base, between two test sets, each resampled by its own patients.

    ``n`` and ``n_patients`` count both.
    """
    sides = [(side.statistic(evaluator), side.samples(evaluator)[1], side.fingerprint) for side in (variant, base)]
    values = [plug_in(statistic) for statistic, _, _ in sides]
    drawn = [
        replicate([statistic], groups, replicates=replicates, fingerprint=fingerprint)[0]
        for statistic, groups, fingerprint in sides
    ]
    n = sum(len(groups) for _, groups, _ in sides)
    patients = [len(np.unique(groups)) for _, groups, _ in sides]
    found = {}
    for name in values[0]:
        value = values[0][name] - values[1][name]
        low, high, why = percentile_interval(drawn[0][name] - drawn[1][name])
        if np.isnan(value):
            why = "; ".join(dict.fromkeys(w for statistic, _, _ in sides if (w := statistic.why_undefined(name))))
        elif min(patients) < 2:
            why = "no interval: all samples of one side are of one patient"
        if why:
            low, high = np.nan, np.nan
        found[name] = Estimate(value=value, low=low, high=high, n=n, n_patients=sum(patients), why_undefined=why)
    return found


def by_class(side: Side, evaluator: str, *, replicates: int) -> tuple[Measurement, ...]:
    """Precision and recall of each class, of a side with one table of one draw."""
    (rows,) = side.rows(evaluator)
    labels = [f"label_{c}" for c in range(len(side.classes))] if side.task == "multilabel" else "label"
    scores = rows[[f"score_{c}" for c in range(len(side.classes))]].to_numpy(np.float64)
    statistic = ByClass(side.task, rows[labels].to_numpy(np.int64), scores, classes=side.classes)
    _, groups = side.samples(evaluator)
    (found,) = estimates([statistic], groups, replicates=replicates, fingerprint=side.fingerprint)
    return tuple(
        Measurement(evaluator=evaluator, space=side.space, metric=name, estimate=estimate)
        for name, estimate in found.items()
    )
