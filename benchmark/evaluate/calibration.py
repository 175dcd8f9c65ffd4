"""Whether probabilities mean what they say: temperature scaling, and confidence against what happened.

A temperature T divides the log-odds of a yes-or-no question, or the log-probabilities of several classes (Guo et al.
2017). It changes no decision: T is positive, so log-odds keep their sign and order, and the largest probability stays
the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from benchmark.evaluate.metrics import ECE_BINS

Floats = NDArray[np.float64]

SMALLEST, LARGEST = 0.05, 20.0
"""Temperatures among which one is looked for."""

FLOOR = float(np.finfo(np.float64).eps)
"""Probabilities nearer to 0 or 1 than this are taken as this near, as log-loss does."""


class Temperature(NamedTuple):
    """A temperature, or NaN and the reason why there is none. Below 1 it sharpens probabilities, above it softens."""

    value: float
    why_not: str = ""


def fit_binary(scores: Floats, positive: NDArray[np.bool_]) -> Temperature:
    """The temperature of least log-loss on val.

    Args:
        scores: (m,) validation probabilities of the positive class.
        positive: (m,) whether a sample is of that class.
    """
    if not positive.any():
        return Temperature(np.nan, "no validation sample is positive")
    if positive.all():
        return Temperature(np.nan, "no validation sample is negative")
    signed = np.where(positive, 1, -1) * logit(np.clip(scores, FLOOR, 1 - FLOOR))
    return _least(lambda inverse: float(np.logaddexp(0, -signed * inverse).mean()))


def fit_multiclass(scores: Floats, labels: NDArray[np.int64]) -> Temperature:
    """The temperature of least log-loss on val.

    Args:
        scores: (m, C) validation probabilities.
        labels: (m,) class index.
    """
    if len(np.unique(labels)) < 2:
        return Temperature(np.nan, "validation samples are not of two classes at least")
    logs = np.log(np.maximum(scores, FLOOR))
    mine = np.arange(len(labels)), labels
    return _least(lambda inverse: float(-log_softmax(logs * inverse, axis=1)[mine].mean()))


def _least(loss: Callable[[float], float]) -> Temperature:
    """Minimise over 1 / T, in which log-loss is convex; 1 where nothing is better, as for scores that are all alike."""
    found = minimize_scalar(loss, bounds=(1 / LARGEST, 1 / SMALLEST), method="bounded", options={"xatol": 1e-6})
    return Temperature(1 / float(found.x) if loss(float(found.x)) < loss(1.0) - 1e-12 else 1.0)


def scaled_binary(scores: Floats, temperature: float) -> Floats:
    """Probabilities of the positive class at a temperature."""
    return np.asarray(expit(logit(np.clip(scores, FLOOR, 1 - FLOOR)) / temperature), dtype=np.float64)


def scaled_multiclass(scores: Floats, temperature: float) -> Floats:
    """(m, C) probabilities at a temperature."""
    return np.asarray(softmax(np.log(np.maximum(scores, FLOOR)) / temperature, axis=1), dtype=np.float64)


def equal_mass_bins(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each sample: those of the expected calibration error, where equal confidences share one."""
    _, which, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = (counts.cumsum() - counts / 2) / len(confidence)
    return np.minimum((middle * ECE_BINS).astype(np.int64), ECE_BINS - 1)[which]
