"""A table of rows on one test split as its primary metric orders them, and how much of that order is luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.evaluate.compare import Side, exchanged, shared_groups
from benchmark.evaluate.metrics import primary_metric
from benchmark.evaluate.ranking import (
    Detectable,
    JointRank,
    Rank,
    best_row,
    detectable_difference,
    joint_ranks,
    ranks,
    tied_with_best,
)
from benchmark.evaluate.resample import plug_in, replicate
from benchmark.evaluate.significance import FlipTest, adjust
from benchmark.result import Adjustment


@dataclass(frozen=True)
class Standing:
    """One row."""

    value: float
    """The primary metric; NaN where undefined."""
    rank: Rank
    """With the percentile interval of this row alone."""
    joint_rank: JointRank
    """Ranks that hold for all rows at once, equal rows or not."""
    tied: bool
    """Whether this test set cannot tell the row from the best one."""
    against_best: FlipTest | None
    """Best row against this one; None for the best row itself and where there is no best row."""
    p_adjusted: float
    """Of ``against_best``, adjusted; NaN where there was no test."""


@dataclass(frozen=True)
class Standings:
    """All rows, in the order given."""

    metric: str
    rows: tuple[Standing, ...]
    best: int | None
    """Index of the best row; None where the metric is undefined for all."""
    detectable: Detectable
    """How large a difference between two of these rows must be for this test set to show it."""


def standings(
    sides: Sequence[Side], evaluator: str, *, replicates: int, flips: int, adjustment: Adjustment = "holm"
) -> Standings:
    """Rank rows by the primary metric of one evaluator.

    Args:
        sides: At least one row, all on one test split and with as many seeds each.
        evaluator: Whose predictions are compared.
        replicates: Number of patient-level resamples, shared by all rows.
        flips: Most swaps of patients in each test against the best row. With k rows, the smallest p-value that random
            swaps can give, 1 / (1 + flips), must lie below 0.05 / (k - 1) for any row to be told apart.
        adjustment: Of the p-values for the number of rows.

    Raises:
        BadInput: where rows were not scored on the same test samples, or not as often.
    """
    metric = primary_metric(sides[0].task)
    groups = shared_groups(sides, evaluator)
    areas = [side.areas(evaluator) for side in sides]
    values = np.array([plug_in(area)[metric] for area in areas])
    drawn = replicate(areas, groups, replicates=replicates, fingerprint=sides[0].fingerprint)
    table = np.stack([of[metric] for of in drawn])
    best = best_row(values)
    tests = [None if i == best else _against(sides, best, i, evaluator, metric, flips) for i in range(len(sides))]
    p = np.array([np.nan if test is None else test.p for test in tests])
    tied = np.zeros(len(sides), dtype=np.bool_) if best is None else tied_with_best(best, p, adjustment=adjustment)
    columns = (ranks(values, table), joint_ranks(values, table), tied.tolist(), tests, adjust(p, adjustment).tolist())
    return Standings(
        metric=metric,
        rows=tuple(Standing(*row) for row in zip(values.tolist(), *columns, strict=True)),
        best=best,
        detectable=detectable_difference(table[~np.isnan(values)]),
    )


def _against(
    sides: Sequence[Side], best: int | None, row: int, evaluator: str, metric: str, flips: int
) -> FlipTest | None:
    if best is None:
        return None
    return exchanged(sides[best], sides[row], evaluator, flips=flips, metrics="areas")[metric]
