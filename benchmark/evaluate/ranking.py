"""What the order of a table of rows is worth: ranks with intervals, the group that ties with the best, what is visible.

All rows are scored on one test split and share their patient-level resamples, so a replicate of the whole table is a
table that other patients would have given. Everything here reads two arrays: the (k,) figures of k rows and their
(k, b) replicates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from benchmark.evaluate.resample import LEVEL, TOLERATED_UNDEFINED
from benchmark.evaluate.significance import adjust
from benchmark.result import Adjustment

Floats = NDArray[np.float64]

NOTHING = 1e-12
"""Standard errors below this are rounding."""

ALPHA = 1 - LEVEL
"""Chance of calling equal rows different that tests accept."""

POWER = 0.8
"""Chance of finding a difference that the minimum detectable difference is made for."""


class Rank(NamedTuple):
    """Where a row stands, and where it stood in the resamples."""

    rank: float
    """1 is best, equal figures share the smallest; NaN where the figure is undefined."""
    low: float
    """Best rank of the 95% interval; NaN where it is undefined in too many resamples."""
    high: float
    """Worst rank of the interval."""
    best: float
    """Share of resamples in which the row is the best, shared among equal ones."""


def ranks(values: Floats, replicates: Floats, *, higher_is_better: bool = True, level: float = LEVEL) -> list[Rank]:
    """Rank of each row with the percentile interval of its rank over the resamples (Goldstein and Spiegelhalter 1996).

    The ends are ranks that were seen. ``best`` says how often a row came first when patients were drawn again; it is
    no probability that the model is the best one. Where rows are nearly equal, resamples repeat the luck of the test
    set and these intervals are too narrow (Hall and Miller 2009): of ten equal rows they cover 83% of the ranks, of
    twenty 80%, where rows a third of a standard error apart have 97% (simulated). ``joint_ranks`` holds there too.

    A row whose figure is undefined has no rank, and rows are ranked among the others.

    Args:
        values: (k,) figures of the rows; NaN where undefined.
        replicates: (k, b) of the same rows in shared resamples. Those in which a row that has a rank is undefined are
            left out for all rows; with more than ``TOLERATED_UNDEFINED`` of them nobody has an interval.
        higher_is_better: Whether the largest figure is rank 1.
        level: Coverage of the interval.
    """
    sign = -1 if higher_is_better else 1
    found = np.full((len(values), 4), np.nan)
    ranked = ~np.isnan(values)
    if not ranked.any():
        return [Rank(*row) for row in found]
    found[ranked, 0] = rankdata(sign * values[ranked], method="min")
    drawn = sign * replicates[ranked]
    undefined = np.isnan(drawn).any(axis=0)
    if undefined.mean() <= TOLERATED_UNDEFINED:
        places = rankdata(drawn[:, ~undefined], method="min", axis=0)
        levels = [(1 - level) / 2, (1 + level) / 2]
        found[ranked, 1:3] = np.quantile(places, levels, axis=1, method="inverted_cdf").T
        first = places == 1
        found[ranked, 3] = (first / first.sum(axis=0)).mean(axis=1)
    return [Rank(*map(float, row)) for row in found]


class JointRank(NamedTuple):
    """Ranks that a row may have; with those of all other rows, right at once at the level."""

    low: float
    """1 and one more for each row that is surely better; NaN where there is no rank or no interval."""
    high: float
    """Number of rows less those that are surely worse."""


def joint_ranks(values: Floats, replicates: Floats, *, level: float = LEVEL) -> list[JointRank]:
    """Ranks of all rows, largest first, that hold together with at least the level's probability, equal rows or not.

    A row is surely better than another where the interval of their difference leaves 0 out, with one multiplier c of
    standard errors for all pairs: the quantile over resamples of

        max over pairs |(theta*_i - theta*_j) - (theta_i - theta_j)| / SE_ij

    (Mogstad, Romano, Shaikh and Wilhelm 2024). Wide by design: it promises for the table what ``ranks`` promises for
    a row.

    Args:
        values: As in ``ranks``; of a metric that is better when higher.
        replicates: As in ``ranks``.
        level: Chance that every interval holds its row's true rank.
    """
    found = np.full((len(values), 2), np.nan)
    ranked = ~np.isnan(values)
    drawn = replicates[ranked]
    undefined = np.isnan(drawn).any(axis=0)
    if not ranked.any() or undefined.mean() > TOLERATED_UNDEFINED:
        return [JointRank(*row) for row in found]
    theta, drawn = values[ranked], drawn[:, ~undefined]
    errors = _errors_of_differences(drawn)
    errors[errors < NOTHING] = np.inf  # a row and itself, its copy, or one patient alone: never surely better
    off = drawn - theta[:, None]
    furthest = np.max(
        [(np.abs(off - one) / error[:, None]).max(axis=0) for one, error in zip(off, errors, strict=True)], 0
    )
    multiplier = np.quantile(furthest, level)
    ahead = (theta - theta[:, None]) / errors
    found[ranked, 0] = 1 + (ahead > multiplier).sum(axis=1)
    found[ranked, 1] = len(theta) - (ahead < -multiplier).sum(axis=1)
    return [JointRank(*map(float, row)) for row in found]


def _errors_of_differences(replicates: Floats) -> Floats:
    """(k, k) standard errors of paired differences: SE^2 = var_i + var_j - 2 cov_ij of (k, b) shared replicates."""
    covariance = np.atleast_2d(np.cov(replicates))
    spread = np.diag(covariance)
    return np.sqrt(np.maximum(spread[:, None] + spread - 2 * covariance, 0))


def best_row(values: Floats, *, higher_is_better: bool = True) -> int | None:
    """Index of the best figure, the first of equals; None where all are undefined."""
    if np.isnan(values).all():
        return None
    return int(np.nanargmax(values) if higher_is_better else np.nanargmin(values))


def tied_with_best(best: int, p: Floats, *, alpha: float = ALPHA, adjustment: Adjustment = "holm") -> NDArray[np.bool_]:
    """Which rows this test set cannot tell from the best one: (k,), True for the best row itself.

    A row is out where the paired difference between it and the row with the best figure is significant at ``alpha``
    after Holm's adjustment over the k - 1 comparisons. What that means:

    * It is *not* that tied rows are equally good: a small test set ties everybody (see ``detectable_difference``).
    * Had the best row been named beforehand, the chance that any row as good as it is out would be at most alpha.
      It is picked by the same data, which leans towards finding it better. A *given* row that is as good as the best
      is out in 2 to 3% of test sets at alpha 5%, for 2 to 50 equal rows: the p-value is two-sided, which makes up for
      the choice. That *some* of many equal rows is out is likelier: 5% with two rows, 15% with ten, 38% with fifty
      (simulated, normal figures).
    * Being in the group is not transitive, and a row may be in it with a figure lower than that of one which is out.

    Args:
        best: Index of the row with the best figure.
        p: (k,) two-sided p-values of each row against the best, from ``sign_flip_test``; the best row's own is not
            read. A row without a p-value (NaN) is in no group.
        alpha: Level of the family.
        adjustment: Of the p-values; what is said above is said of Holm's. With Benjamini and Hochberg's more rows are
            out, of which at most a share of alpha is expected to be as good.
    """
    others = np.asarray(p, dtype=np.float64).copy()
    others[best] = np.nan
    tied: NDArray[np.bool_] = adjust(others, adjustment) > alpha
    tied[best] = True
    return tied


class Detectable(NamedTuple):
    """How large a difference must be for this test set to show it."""

    median: float
    """Over the pairs of rows; NaN where there is no pair."""
    smallest: float
    largest: float


def detectable_difference(replicates: Floats, *, alpha: float = ALPHA, power: float = POWER) -> Detectable:
    """Minimum detectable difference of a paired comparison on this test set, over all pairs of rows.

        MDD = (z_(1 - alpha / 2) + z_power) SE,      SE^2 = var_i + var_j - 2 cov_ij of the shared replicates.

    With a true difference of this size a two-sided test at ``alpha`` of *one* pair finds it with chance ``power``
    (Bloom 1995). A table of many comparisons needs more. It follows from the spread of the rows at hand, so it is no
    excuse after the fact: it is a property of the test set and of how alike the rows are.

    Args:
        replicates: (k, b) of k rows in shared resamples; resamples in which any row is undefined are left out.
        alpha: Level of the test.
        power: Chance of finding the difference.
    """
    drawn = replicates[:, ~np.isnan(replicates).any(axis=0)]
    if len(drawn) < 2 or drawn.shape[1] < 2:
        return Detectable(np.nan, np.nan, np.nan)
    errors = _errors_of_differences(drawn)[np.triu_indices(len(drawn), 1)]
    sizes = (norm.ppf(1 - alpha / 2) + norm.ppf(power)) * errors
    return Detectable(float(np.median(sizes)), float(sizes.min()), float(sizes.max()))


class Components(NamedTuple):
    """Where the variance of a figure that was measured under several seeds comes from."""

    patients: float
    """Variance between test sets of as many patients, with seeds averaged out."""
    seeds: float
    """Variance between seeds with patients averaged out: how much training again moves the model."""
    interaction: float
    """What is left: seeds that do better on these patients and would not on others."""
    measured: int
    """Seeds."""

    @property
    def standard_error(self) -> float:
        """Of the mean over the seeds, for other patients *and* other seeds."""
        return float(np.sqrt(self.patients + (self.seeds + self.interaction) / self.measured))


def components(values: Floats, replicates: Floats) -> Components:
    """Part the variance of one model's figure into that of patients and that of seeds.

    The figure of seed s on a test set is mu + P + S_s + I_s. Over the shared resamples, deviations of seeds from their
    mean carry I alone, and the mean over seeds carries P and I / k; over the k seeds the figures themselves vary by
    S + I. Each is solved for, and a negative estimate is 0 (method of moments, as in a two-way random-effects analysis
    of variance; Searle, Casella and McCulloch 1992).

    Args:
        values: (k,) figure of each seed, k > 1, on one test set.
        replicates: (k, b) of the same seeds in shared resamples, without NaN.
    """
    seeds = len(values)
    mean = replicates.mean(axis=0)
    interaction = float((replicates - mean).var(axis=1, ddof=1).sum() / (seeds - 1))
    patients = max(0.0, float(mean.var(ddof=1)) - interaction / seeds)
    between = max(0.0, float(np.var(values, ddof=1)) - interaction)
    return Components(patients, between, interaction, seeds)
