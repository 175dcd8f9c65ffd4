"""The curves of a yes-or-no question, and where they lie in the resamples.

A band holds each point of its curve with 95% by itself: the curve as a whole leaves it more often.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluate.resample import LEVEL, TOLERATED_UNDEFINED, Statistic, replicate

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_POINTS = 200
"""Points of a drawn curve."""

GRID = np.linspace(0, 1, 51)
"""Where bands of ROC and precision-recall curves are measured."""

ACTING = np.arange(1, 100) / 100
"""Threshold probabilities of the decision curve."""


class Points(NamedTuple):
    """Corners of a line."""

    x: Floats
    y: Floats


def roc(scores: Floats, positive: Bools) -> Points:
    """False positive rate and sensitivity from the highest threshold to the lowest, equal scores in one step."""
    hits, alarms = _counts(scores, positive)
    return Points(np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1]))


def precision_recall(scores: Floats, positive: Bools) -> Points:
    """Recall and precision as steps whose area is the average precision.

    Between the recalls of two thresholds the precision is that of the lower one: nothing is interpolated, as a straight
    line between two points of this plane can't be reached (Davis and Goadrich 2006).
    """
    hits, alarms = _counts(scores, positive)
    recall, precision = hits / hits[-1], hits / (hits + alarms)
    return Points(np.append(0, np.repeat(recall, 2)[:-1]), np.repeat(precision, 2))


def _counts(scores: Floats, positive: Bools) -> tuple[Floats, Floats]:
    """Positives and negatives at or above each distinct score, highest first; of both there must be some."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = positive[order].cumsum()[ends].astype(np.float64)
    return hits, ends + 1 - hits


def net_benefit(probabilities: Floats, positive: Bools) -> Floats:
    """(99,) net benefit of acting where the probability is at least each of ``ACTING``, per sample.

    True positives less false positives times t / (1 - t), over all samples (Vickers and Elkin 2006, equation 1).
    """
    return np.asarray(_gains(probabilities, positive).mean(axis=1), dtype=np.float64)


def treat_all(prevalence: float) -> Floats:
    """(99,) net benefit of acting on everybody."""
    return np.asarray(prevalence - (1 - prevalence) * ACTING / (1 - ACTING), dtype=np.float64)


def _gains(probabilities: Floats, positive: Bools) -> Floats:
    """(99, n) what acting on each sample gains at each threshold."""
    odds = (ACTING / (1 - ACTING))[:, None]
    return np.where(probabilities >= ACTING[:, None], np.where(positive, 1.0, -odds), 0.0)


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """The line with as few corners as draw the same, and at most so many.

    The corner that is farthest from the line so far is taken next (Ramer 1972; Douglas and Peucker 1973), until none is
    off it.
    """
    x, y = points
    kept = [0, len(x) - 1]
    farthest = {kept[0]: _farthest(x, y, kept[0], kept[1])}
    ends = {kept[0]: kept[1]}
    while len(kept) < most:
        start = max(farthest, key=lambda begin: farthest[begin][0])
        distance, corner = farthest[start]
        if distance < 1e-9:
            break
        kept.append(corner)
        ends[corner], ends[start] = ends[start], corner
        farthest |= {begin: _farthest(x, y, begin, ends[begin]) for begin in (start, corner)}
    kept.sort()
    return Points(x[kept], y[kept])


def _farthest(x: Floats, y: Floats, start: int, end: int) -> tuple[float, int]:
    """How far the farthest corner between two others is from the straight line that joins them, and which it is."""
    if end - start < 2:
        return 0.0, start
    dx, dy = x[end] - x[start], y[end] - y[start]
    gone_x, gone_y = x[start + 1 : end] - x[start], y[start + 1 : end] - y[start]
    length = np.hypot(dx, dy)
    off = np.abs(dx * gone_y - dy * gone_x) / length if length > 0 else np.hypot(gone_x, gone_y)
    return float(off.max()), start + 1 + int(off.argmax())


# --------------------------------------------------------------------------------------------- resamples


class Ends(NamedTuple):
    """Ends of a pointwise interval along a curve; empty where there is none."""

    low: Floats
    high: Floats


class Bands(NamedTuple):
    """Pointwise intervals of the curves of one question."""

    roc: Ends
    precision_recall: Ends
    net_benefit: Ends


def bands(
    scores: Floats,
    probabilities: Floats | None,
    positive: Bools,
    groups: NDArray[np.int64],
    *,
    replicates: int,
    fingerprint: str,
) -> Bands:
    """Where the curves lie in the patient-level resamples: sensitivity and precision on ``GRID``, net benefit.

    Args:
        scores: (n,) of the positive class.
        probabilities: (n,) scaled ones for the decision curve, or None.
        positive: (n,) the truth.
        groups: (n,) patient of each sample.
        replicates: Number of resamples.
        fingerprint: Of the split; seeds the draw.
    """
    curves = _Curves(scores, probabilities, positive)
    (drawn,) = replicate([curves], groups, replicates=replicates, fingerprint=fingerprint)
    return Bands(*(_ends(drawn[name].T) for name in Bands._fields))


def _ends(drawn: Floats) -> Ends:
    """Quantiles of (replicates, k) values down the columns, where few enough replicates are undefined."""
    missing = np.isnan(drawn).any(axis=1)
    if not drawn.shape[1] or missing.mean() > TOLERATED_UNDEFINED:
        return Ends(np.empty(0), np.empty(0))
    low, high = np.quantile(drawn[~missing], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Ends(low, high)


class _Curves(Statistic):
    """All curves under sample weights, each name giving (k, b) values: one column per weighting."""

    def __init__(self, scores: Floats, probabilities: Floats | None, positive: Bools) -> None:
        self.used = np.ones(len(scores), dtype=np.bool_)
        self._order = np.argsort(-scores, kind="stable")
        self._ends = np.append(np.flatnonzero(np.diff(scores[self._order])), len(scores) - 1)
        self._positive = positive[self._order].astype(np.float64)
        self._gains = np.empty((0, len(scores))) if probabilities is None else _gains(probabilities, positive)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        ordered = np.ascontiguousarray(weights.T[:, self._order])
        hits = (ordered * self._positive).cumsum(axis=1)[:, self._ends]
        reached = ordered.cumsum(axis=1)[:, self._ends]
        rows = [_on_grid(h, r) for h, r in zip(hits, reached, strict=True)]
        return {
            "roc": np.stack([sensitivity for sensitivity, _ in rows], axis=-1),
            "precision_recall": np.stack([precision for _, precision in rows], axis=-1),
            "net_benefit": self._gains @ weights / weights.sum(axis=0),
        }

    def why_undefined(self, metric: str) -> str:  # noqa: ARG002 - curves are asked for where they are defined
        return ""

    def chance(self, metric: str) -> float:  # noqa: ARG002 - a curve has none
        return np.nan


def _on_grid(hits: Floats, reached: Floats) -> tuple[Floats, Floats]:
    """Sensitivity at each false positive rate, and precision at each recall, from running counts of one weighting."""
    positives, negatives = hits[-1], reached[-1] - hits[-1]
    if positives == 0 or negatives == 0:
        return np.full(len(GRID), np.nan), np.full(len(GRID), np.nan)
    # Of equal false positive rates the last counts, which is the highest sensitivity.
    sensitivity = np.interp(GRID, np.append(0, (reached - hits) / negatives), np.append(0, hits / positives))
    # The first threshold that reaches a recall, none of it lost to rounding.
    first = np.searchsorted(hits, GRID * positives - 1e-9)
    first = np.maximum(first, np.searchsorted(reached, 0, side="right"))
    return sensitivity, hits[first] / reached[first]
