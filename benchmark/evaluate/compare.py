"""How far two rows are apart, with an interval: paired on one test split, unpaired between two.

Two rows on one split share patients and resamples, so their difference is taken replicate by replicate: what makes a
resample hard makes it hard for both, and cancels. Rows on two test sets share nobody; each is resampled by itself, and
the spreads add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.errors import BadInput
from benchmark.evaluate.metrics import ByClass, MeanOver
from benchmark.evaluate.predictions import SpaceName, areas, classification, labels_and_scores, score_columns
from benchmark.evaluate.resample import (
    NO_INTERVAL,
    Method,
    Statistic,
    estimates,
    percentile_interval,
    plug_in,
    replicate,
)
from benchmark.evaluate.significance import FlipTest, sign_flip_test
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

    def rows(self, evaluator: str, *, part: Literal["val", "test"] = "test") -> list[pd.DataFrame]:
        """The rows of one evaluator in each table, those of the test split unless the others are asked for.

        Raises:
            BadInput: where a table has no test rows.
        """
        found = []
        for table in self.predictions:
            mine = (table["split"] == part) & (table["evaluator"] == evaluator) & (table["space"] == self.space)
            if part == "test" and not mine.any():
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

    def areas(self, evaluator: str) -> Statistic:
        """The metrics of the order of its scores alone, the primary one among them, averaged over the seeds."""
        of_seeds = [
            areas([draw for _, draw in rows.groupby("draw")], self.task, self.classes) for rows in self.rows(evaluator)
        ]
        return of_seeds[0] if len(of_seeds) == 1 else MeanOver(of_seeds)

    def samples(self, evaluator: str) -> tuple[list[str], NDArray[np.int64]]:
        """Test samples in the order of the predictions, and the patient of each."""
        rows = self.rows(evaluator)[0]
        rows = rows[rows["draw"] == rows["draw"].iloc[0]]
        return rows["sample"].tolist(), rows["group"].to_numpy(np.int64)


class Difference(Statistic):
    """Metrics of one table less those of another over the same samples."""

    def __init__(self, variant: Statistic, base: Statistic) -> None:
        self.used = variant.used
        self._variant, self._base = variant, base

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) differences; NaN where either is undefined."""
        variant, base = self._variant(weights), self._base(weights)
        return {name: variant[name] - base[name] for name in variant}

    @property
    def smooth(self) -> Statistic:
        """The difference of both without sums of absolute values."""
        return Difference(self._variant.smooth, self._base.smooth)

    def why_undefined(self, metric: str) -> str:
        """The reasons of both sides."""
        return "; ".join(dict.fromkeys(w for s in (self._variant, self._base) if (w := s.why_undefined(metric))))

    def chance(self, metric: str) -> float:  # noqa: ARG002 - the same for every metric
        """Nothing: two guesses do not differ."""
        return 0.0


def paired(
    variant: Side, base: Side, evaluator: str, *, replicates: int, method: Method = "percentile"
) -> dict[str, Estimate]:
    """Difference of every metric, variant less base, with an interval over shared patient-level resamples.

    Raises:
        BadInput: where the two were not scored on the same test samples.
    """
    groups = shared_groups([variant, base], evaluator)
    difference = Difference(variant.statistic(evaluator), base.statistic(evaluator))
    return estimates([difference], groups, replicates=replicates, fingerprint=variant.fingerprint, method=method)[0]


def shared_groups(sides: Sequence[Side], evaluator: str) -> NDArray[np.int64]:
    """The patient of each test sample, given that all sides were scored on the same ones.

    Raises:
        BadInput: where they were not.
    """
    names, groups = sides[0].samples(evaluator)
    for other in sides[1:]:
        if names != other.samples(evaluator)[0] or sides[0].fingerprint != other.fingerprint:
            raise BadInput(
                f"two rows of {evaluator} are not of the same test samples; a paired difference needs one split"
            )
    return groups


def exchanged(
    variant: Side, base: Side, evaluator: str, *, flips: int, metrics: Literal["all", "areas"] = "all"
) -> dict[str, FlipTest]:
    """Test of every metric, variant against base, by swapping their predictions patient by patient.

    Metrics of the order of scores are tested on ranks within each model, draw and class, so that models whose scores
    lie on other scales can be mixed; the figures themselves do not change by that.

    Args:
        variant: One side.
        base: The other, on the same test samples and with as many seeds; its n-th seed is swapped with the n-th.
        evaluator: Which predictions of both.
        flips: Most swaps to look at.
        metrics: ``areas`` tests those of the order of scores alone, at a fraction of the cost.

    Raises:
        BadInput: where the two were not scored on the same test samples, or not as often.
    """
    groups = shared_groups([variant, base], evaluator)
    ranked = _together(variant, base, evaluator, "ranks").areas(evaluator)
    found = sign_flip_test(ranked, groups, flips=flips, fingerprint=variant.fingerprint)
    if metrics == "areas":
        return found
    plain = _together(variant, base, evaluator, "scores").statistic(evaluator)
    return sign_flip_test(plain, groups, flips=flips, fingerprint=variant.fingerprint) | found


def _together(variant: Side, base: Side, evaluator: str, what: Literal["scores", "ranks"]) -> Side:
    """A side whose tables hold the rows of both, variant's first, as they are or with ranks in place of scores."""
    pairs = list(zip(variant.rows(evaluator), base.rows(evaluator), strict=False))
    counts = [[rows["draw"].value_counts().to_dict() for rows in side.rows(evaluator)] for side in (variant, base)]
    if counts[0] != counts[1]:
        raise BadInput(
            f"two rows of {evaluator} have other seeds or draws ({len(counts[0])} and {len(counts[1])} tables of "
            "predictions); swapping patients needs as many of both"
        )
    if what == "ranks":
        pairs = [(_ranked(a, variant.classes), _ranked(b, variant.classes)) for a, b in pairs]
    tables = [pd.concat([a, b.assign(space=variant.space)], ignore_index=True) for a, b in pairs]
    return replace(variant, predictions=tables)


def _ranked(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    scores = score_columns(classes)
    return rows.assign(**rows.groupby("draw")[scores].rank())


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
        low, high, why = NO_INTERVAL
        if name in drawn[0]:
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
    statistic = ByClass(side.task, *labels_and_scores(rows, side.task, side.classes), classes=side.classes)
    _, groups = side.samples(evaluator)
    (found,) = estimates([statistic], groups, replicates=replicates, fingerprint=side.fingerprint)
    return tuple(
        Measurement(evaluator=evaluator, space=side.space, metric=name, estimate=estimate)
        for name, estimate in found.items()
    )
