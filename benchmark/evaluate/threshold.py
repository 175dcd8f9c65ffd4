"""Where a score becomes a yes: a threshold chosen on validation scores and labels, and nothing else.

A sample is positive where its score is *above* the threshold, as it is above 0.5 where none is chosen.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Criterion = Literal["youden", "f1"]
"""What a threshold maximises on val. ``youden``: sensitivity + specificity - 1 (Youden 1950), and so the balanced
accuracy. ``f1``: F1 of the positive class."""


class Threshold(NamedTuple):
    """A threshold, or NaN and the reason why there is none."""

    value: float
    why_not: str = ""


def choose(scores: Floats, positive: NDArray[np.bool_], criterion: Criterion, *, neutral: float = 0.5) -> Threshold:
    """The threshold that is best on val; among equally good ones the nearest to the neutral value.

    Thresholds between two adjacent scores decide alike and are represented by their midpoint; those below or above all
    scores, by the one nearest to ``neutral``.

    Args:
        scores: (m,) validation scores of the positive class.
        positive: (m,) whether a sample is of that class.
        criterion: What "best" means.
        neutral: The threshold where nothing is known: 0.5 for probabilities, 0 for log-odds.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return Threshold(np.nan, f"no validation sample is {'positive' if positives == 0 else 'negative'}")
    values = np.unique(scores)
    # Above each candidate, which lies before the score of the same place, or after all of them.
    above = np.searchsorted(np.sort(scores[positive]), values), np.searchsorted(np.sort(scores[~positive]), values)
    hits = positives - np.append(above[0], positives)
    alarms = negatives - np.append(above[1], negatives)
    # Whole numbers and correctly rounded quotients: what is equal compares equal.
    merit = hits * negatives - alarms * positives if criterion == "youden" else 2 * hits / (hits + alarms + positives)
    best = _candidates(values, neutral)[merit == merit.max()]
    return Threshold(float(best[np.abs(best - neutral).argmin()]))


def _candidates(values: Floats, neutral: float) -> Floats:
    """(k + 1,) thresholds that part (k,) ascending scores in all ways."""
    low, high = values[:-1], values[1:]
    middle = low + (high - low) / 2
    # Between neighbouring floats the midpoint is rounded to one of them; the upper would no longer be above it.
    between = np.where(middle < high, middle, low)
    below_all = min(neutral, np.nextafter(values[0], -np.inf))
    return np.concatenate([[below_all], between, [max(neutral, values[-1])]])


def at_specificity(scores: Floats, positive: NDArray[np.bool_], target: float) -> Threshold:
    """The smallest threshold at which at least the target share of the negative val samples is called negative.

    Args:
        scores: (m,) validation scores of the positive class.
        positive: (m,) whether a sample is of that class.
        target: Specificity in (0, 1].
    """
    negatives = np.sort(scores[~positive])
    if not len(negatives):
        return Threshold(np.nan, "no validation sample is negative")
    needed = math.ceil(target * len(negatives) - 1e-9)  # 0.95 of 20 is 19, however the product is rounded
    return Threshold(float(negatives[needed - 1]))
