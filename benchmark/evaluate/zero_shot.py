"""Zero-shot classification: each picture against an ensemble of prompts per class, nothing fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from benchmark.evaluate.cosine import unit_rows

TEMPERATURE = 0.01
"""Divides the cosines: the limit that CLIP sets its own at (Radford et al. 2021).

It changes no predicted class and, with two classes, no ranking, as the score is then the difference of the two
cosines. With more classes the one-vs-rest rankings do depend on it, which is why it is fixed for all models. It is
calibrated on nothing, so no calibration metric is computed from these scores.
"""


def class_vectors(prompts: Mapping[str, NDArray[Any]], classes: Sequence[str]) -> NDArray[np.float32]:
    """One unit vector per class, (C, d): the mean of its prompts' unit vectors, scaled to length 1 again.

    Args:
        prompts: Class name -> (k, d) encoded prompts.
        classes: Class names in class order; each has at least one prompt.
    """
    return unit_rows(np.stack([unit_rows(prompts[name]).mean(axis=0, dtype=np.float64) for name in classes]))


def scores(images: NDArray[Any], classes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds of each class against the others: (n, d) pictures and (C, d) class vectors to (n, C).

    The logit of the softmax over cosine / ``TEMPERATURE``, and so in the same order; a probability itself would be
    rounded to 1 for every clear case, and their order lost.
    """
    logits = unit_rows(images).astype(np.float64) @ classes.T.astype(np.float64) / TEMPERATURE
    others = [logsumexp(np.delete(logits, c, axis=1), axis=1) for c in range(logits.shape[1])]
    return np.asarray(logits - np.stack(others, axis=1), dtype=np.float64)
