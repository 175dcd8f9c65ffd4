"""How sure a figure is: the patient-level bootstrap, one set of resamples for every model on a split.

Pictures of one patient are not independent, so whole patients are drawn with replacement (cluster bootstrap; Field
and Welsh 2007). A resample is a vector of integer weights, and a statistic is a function of weights: the plug-in
value is the statistic at weights of one. Because the weights depend on the split alone, every model, evaluator and
metric sees the same resamples, and any difference between two of them is paired replicate by replicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmark.result import Estimate
from benchmark.seeding import generator

LEVEL = 0.95
"""Coverage that intervals aim at."""

Method = Literal["percentile", "bca"]
"""How an interval is read from the resamples. ``percentile``: their quantiles. ``bca``: quantiles moved for the bias
and the skewness of the figure (Efron 1987), which costs one more evaluation for each patient."""

TOLERATED_UNDEFINED = 0.05
"""Share of resamples in which a metric may be undefined before its interval is too."""

BLOCK = 256
"""Replicates evaluated at once: keeps (samples x replicates) arrays small enough for the processor's cache."""


class Statistic(Protocol):
    """Metrics of one table of predictions, as functions of sample weights."""

    used: NDArray[np.bool_]
    """(n,) which samples enter."""

    def __call__(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metric name -> (b,) values under each column of (n, b) weights; NaN where undefined."""

    def why_undefined(self, metric: str) -> str:
        """Why the metric is NaN at weights of one, in words."""

    def chance(self, metric: str) -> float:
        """What answering at random would give; NaN where that is not known."""

    @property
    def smooth(self) -> Statistic:
        """The same without its sums of absolute values: what is evaluated in resamples as it stands."""
        return self

    @property
    def sums(self) -> Mapping[str, AbsoluteSum]:
        """Metrics that are sums of absolute values: resamples make every part noisier, and so the sum larger."""
        return {}


@dataclass(frozen=True, eq=False)
class AbsoluteSum:
    """A metric that is a sum of absolute values, such as a calibration error over its bins."""

    parts: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """(n, b) weights -> (parts, b): what the absolute values are taken of, smooth in the weights."""

    def __call__(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The parts under (n, b) weights, as ``_under`` takes them."""
        return {"parts": self.parts(weights)}


def mean_of(sums: Sequence[AbsoluteSum]) -> AbsoluteSum:
    """The mean of several sums of absolute values, which is one too."""
    return AbsoluteSum(lambda weights: np.concatenate([of.parts(weights) for of in sums]) / len(sums))


Weighted = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]
"""Name -> values under each column of (n, b) weights, along the last axis."""


class Interval(NamedTuple):
    """A two-sided interval, or NaN twice and the reason."""

    low: float
    high: float
    why_undefined: str = ""


def patient_weights(groups: NDArray[np.int64], *, replicates: int, fingerprint: str) -> NDArray[np.int32]:
    """How often each patient is drawn in each replicate, (replicates, patients); every row sums to the patients.

    Columns stand in ascending order of group code. The first B replicates are the same however many are drawn.

    Args:
        groups: (n,) group code of each test sample.
        replicates: Number of resamples.
        fingerprint: Of the split; seeds the draw.
    """
    return _draw(len(np.unique(groups)), replicates, fingerprint)


@lru_cache(maxsize=4)
def _draw(patients: int, replicates: int, fingerprint: str) -> NDArray[np.int32]:
    drawn = generator(fingerprint, "patient bootstrap").integers(patients, size=(replicates, patients))
    drawn += np.arange(replicates)[:, None] * patients
    weights = np.bincount(drawn.ravel(), minlength=replicates * patients).reshape(replicates, patients).astype(np.int32)
    weights.setflags(write=False)
    return weights


def plug_in(statistic: Statistic) -> dict[str, float]:
    """The metrics themselves: the statistic with every sample counted once."""
    return {name: float(value[0]) for name, value in statistic(np.ones((len(statistic.used), 1))).items()}


def replicate(
    statistics: Sequence[Statistic], groups: NDArray[np.int64], *, replicates: int, fingerprint: str
) -> list[dict[str, NDArray[np.float64]]]:
    """Values of every statistic in every replicate: metric name -> (replicates,), one dict per statistic.

    Sums of absolute values are left out. One patient alone says nothing about the spread between patients: all is NaN.

    Args:
        statistics: Over the same n samples.
        groups: (n,) group code of each sample.
        replicates: Number of resamples.
        fingerprint: Of the split.
    """
    smooth = [statistic.smooth for statistic in statistics]
    drawn = _resampled(smooth, groups, replicates=replicates, fingerprint=fingerprint)
    if len(np.unique(groups)) < 2:
        return [{name: np.full_like(values, np.nan) for name, values in of.items()} for of in drawn]
    return drawn


def _resampled(
    functions: Sequence[Weighted], groups: NDArray[np.int64], *, replicates: int, fingerprint: str
) -> list[dict[str, NDArray[np.float64]]]:
    column = np.unique(groups, return_inverse=True)[1]
    by_patient = patient_weights(groups, replicates=replicates, fingerprint=fingerprint).T
    return _under(functions, column, (by_patient[:, i : i + BLOCK] for i in range(0, replicates, BLOCK)))


def replicate_parts(
    statistics: Sequence[Statistic], groups: NDArray[np.int64], *, replicates: int, fingerprint: str
) -> list[dict[str, Parts]]:
    """The parts of every sum of absolute values in the replicates of ``replicate``, one dict per statistic."""
    sums = [(i, name, of) for i, statistic in enumerate(statistics) for name, of in statistic.sums.items()]
    found: list[dict[str, Parts]] = [{} for _ in statistics]
    if sums:
        patients, one = len(np.unique(groups)), np.ones((len(groups), 1))
        drawn = _resampled([of for _, _, of in sums], groups, replicates=replicates, fingerprint=fingerprint)
        for (i, name, of), parts in zip(sums, drawn, strict=True):
            found[i][name] = Parts(of.parts(one)[:, 0], parts["parts"], patients)
    return found


def jackknife(statistics: Sequence[Statistic], groups: NDArray[np.int64]) -> list[dict[str, NDArray[np.float64]]]:
    """Values of every statistic without one patient at a time: metric name -> (patients,), one dict per statistic.

    Args:
        statistics: Over the same n samples.
        groups: (n,) group code of each sample; patients are left out in ascending order of code.
    """
    names, column = np.unique(groups, return_inverse=True)
    patients = len(names)
    left_out = (1 - np.eye(patients, min(BLOCK, patients - i), -i) for i in range(0, patients, BLOCK))
    return _under([statistic.smooth for statistic in statistics], column, left_out)


def _under(
    functions: Sequence[Weighted], column: NDArray[np.int64], blocks: Iterable[NDArray[Any]]
) -> list[dict[str, NDArray[np.float64]]]:
    """Values under blocks of (patients, b) weights, where ``column`` is the patient of each sample."""
    found: list[list[dict[str, NDArray[np.float64]]]] = [[] for _ in functions]
    for block in blocks:
        weights = block.astype(np.float64)[column]
        for values, function in zip(found, functions, strict=True):
            values.append(function(weights))
    return [{name: np.concatenate([b[name] for b in values], axis=-1) for name in values[0]} for values in found]


def percentile_interval(values: NDArray[Any], level: float = LEVEL) -> Interval:
    """Percentile bootstrap interval (Efron 1979); replicates in which the metric is undefined are left out.

    Undefined where more than ``TOLERATED_UNDEFINED`` of them are: what is left would describe only the resamples in
    which the metric happened to exist.
    """
    missing = float(np.isnan(values).mean())
    if missing > TOLERATED_UNDEFINED:
        return Interval(np.nan, np.nan, f"no interval: undefined in {missing:.0%} of the resamples")
    low, high = np.quantile(values[~np.isnan(values)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bca_interval(values: NDArray[Any], *, value: float, without_one: NDArray[Any], level: float = LEVEL) -> Interval:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987; Efron and Tibshirani 1993, equation 14.10).

    The percentile interval's levels p = (1 - level) / 2 and 1 - p become

        Phi(z0 + (z0 + z_p) / (1 - a (z0 + z_p))),
        z0 = Phi^-1(share of resamples below the figure, those equal to it counting half),
        a = sum d_i^3 / (6 (sum d_i^2)^(3/2)),    d_i = mean of theta_(j) over j, less theta_(i),

    with theta_(i) the figure without patient i. Without spread between patients a is 0.

    Args:
        values: (b,) the metric in each resample.
        value: The metric itself.
        without_one: (patients,) the metric without each patient, from ``jackknife``.
        level: Coverage aimed at.
    """
    percentile = percentile_interval(values, level)
    if percentile.why_undefined:
        return percentile
    if np.isnan(without_one).any():
        return Interval(np.nan, np.nan, "no interval: undefined without one of the patients")
    defined = values[~np.isnan(values)]
    z0 = ndtri((np.mean(defined < value) + np.mean(defined <= value)) / 2)
    if not np.isfinite(z0):
        return Interval(np.nan, np.nan, "no interval: all resamples lie on one side of the figure itself")
    gaps = without_one.mean() - without_one
    size = np.sum(gaps**2) ** 1.5
    acceleration = np.sum(gaps**3) / (6 * size) if size > 0 else 0.0  # at most 1/6, so nothing below divides by 0
    shifted = z0 + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(defined, ndtr(z0 + shifted / (1 - acceleration * shifted)))
    return Interval(float(low), float(high))


class Parts(NamedTuple):
    """The signed parts of a sum of absolute values, and the same in resamples."""

    figures: NDArray[np.float64]
    """(parts,)."""
    replicates: NDArray[np.float64]
    """(parts, b)."""
    patients: int
    """That were resampled."""


def absolute_interval(parts: Parts, level: float = LEVEL) -> Interval:
    """Interval of a sum of absolute values, by the bootstrap of its directional derivative (Fang and Santos 2019).

    With g the parts and e* = g* - g in a resample, the sum of |g| moves by

        d* = sum of sgn(g) e*   over parts that are surely not 0: |g| > sqrt(log P) SD(g*) for P patients,
             sum of |e*|        over the others, of which noise alone makes absolute values,

    and its lower end is the sum less the upper quantile of d*, or 0. At the upper end all parts count as surely not 0,
    which is wider: noise has made the sum larger, and by how much is not known. So the interval covers what it says
    where no part is small, and more elsewhere. Simulated for calibration errors over ten bins with three pictures a
    patient: 95 to 99.9% for 100 and 300 patients; for 40, 93% where calibration is perfect and more elsewhere.

    Args:
        parts: Their figures and replicates.
        level: Coverage aimed at.
    """
    figures = parts.figures[:, None]
    errors = parts.replicates - figures
    straight = np.sign(figures) * errors
    unsure = np.abs(figures) <= np.sqrt(np.log(parts.patients)) * errors.std(axis=1, keepdims=True)
    value = float(np.abs(figures).sum())
    up = np.quantile(np.where(unsure, np.abs(errors), straight).sum(axis=0), (1 + level) / 2)
    down = np.quantile(straight.sum(axis=0), (1 - level) / 2)
    return Interval(max(value - float(up), 0.0), value - float(down))


NO_INTERVAL = Interval(
    np.nan, np.nan, "no interval: resamples make absolute values larger, on both sides of a difference"
)
"""Of the difference of two sums of absolute values: an interval that surely holds, as wide as both together, would
hardly ever leave 0 out. The test by exchange of patients has no such trouble."""


def estimates(
    statistics: Sequence[Statistic],
    groups: NDArray[np.int64],
    *,
    replicates: int,
    fingerprint: str,
    method: Method = "percentile",
) -> list[dict[str, Estimate]]:
    """Plug-in value and interval of every metric of every statistic, all from the same resamples.

    One patient alone says nothing about the spread between patients: then there is no interval.
    """
    drawn = replicate(statistics, groups, replicates=replicates, fingerprint=fingerprint)
    values = [plug_in(statistic) for statistic in statistics]
    if method == "percentile":
        intervals = [{name: percentile_interval(b) for name, b in of.items()} for of in drawn]
    else:
        intervals = [
            {name: bca_interval(of[name], value=value[name], without_one=without[name]) for name in of}
            for of, value, without in zip(drawn, values, jackknife(statistics, groups), strict=True)
        ]
    parts = replicate_parts(statistics, groups, replicates=replicates, fingerprint=fingerprint)
    for found, sums in zip(intervals, parts, strict=True):
        found |= {name: absolute_interval(of) for name, of in sums.items()}
    return [
        {
            name: _estimate(statistic, name, v, interval.get(name, NO_INTERVAL), groups[statistic.used])
            for name, v in value.items()
        }
        for statistic, value, interval in zip(statistics, values, intervals, strict=True)
    ]


def _estimate(statistic: Statistic, name: str, value: float, interval: Interval, groups: NDArray[np.int64]) -> Estimate:
    why_undefined = statistic.why_undefined(name) if np.isnan(value) else ""
    return as_estimate(value, interval, groups, why_undefined=why_undefined)


def as_estimate(value: float, interval: Interval, groups: NDArray[np.int64], *, why_undefined: str) -> Estimate:
    """A figure with its interval, as it is written down: without the interval where one patient is all there is.

    Args:
        value: The figure.
        interval: Of it, from resamples of the patients.
        groups: (n,) group code of each sample that it was computed on.
        why_undefined: Why the figure is NaN, where it is.
    """
    patients = len(np.unique(groups))
    if np.isnan(value):
        return Estimate(value=value, n=len(groups), n_patients=patients, why_undefined=why_undefined)
    if patients < 2:
        interval = Interval(np.nan, np.nan, "no interval: all samples are of one patient")
    return Estimate(
        value=float(value),
        low=interval.low,
        high=interval.high,
        n=len(groups),
        n_patients=patients,
        why_undefined=interval.why_undefined,
    )
