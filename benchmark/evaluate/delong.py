"""Standard errors, intervals and tests of AUROC in closed form (DeLong, DeLong and Clarke-Pearson 1988), by patient.

AUROC is the share of (positive, negative) pairs in which the positive scores higher, equal scores counting half. Its
variance follows from how often each positive outscores the negatives and each negative is outscored: the placements.
They are computed by sorting, in O(n log n) (Sun and Xu 2014). DeLong's variance takes samples for independent; given
the patient of each sample, placements are summed within patients first (Obuchowski 1997), and with one sample per
patient that is DeLong's variance to the last digit.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from benchmark.evaluate.resample import LEVEL, Interval

Floats = NDArray[np.float64]

Scale = Literal["plain", "logit"]
"""Where the interval is symmetric. ``logit``: on log(A / (1 - A)), so that it stays within 0 and 1 (Pepe 2003)."""

TOO_FEW = "no interval: fewer than two patients with a positive, or with a negative"
"""Where a variance can't be estimated."""


class Aurocs(NamedTuple):
    """AUROC of several models on the same samples."""

    values: Floats
    """(k,) AUROC; NaN without positives or without negatives."""
    covariance: Floats
    """(k, k) of the estimates; NaN where fewer than two patients have a positive, or a negative."""


class AurocDifference(NamedTuple):
    """First AUROC less the second."""

    value: float
    standard_error: float
    interval: Interval
    p: float
    """Two-sided, of the hypothesis that both are equal; 1 for the same model twice."""


def aurocs(positive: NDArray[np.bool_], scores: NDArray[Any], groups: NDArray[np.int64] | None = None) -> Aurocs:
    """AUROC of k models and the covariance of these estimates.

    With m positives i and n negatives j, psi(x, y) = 1, 1/2 or 0 as x is above, equal to or below y, and placements
    V_i = mean of psi(x_i, y_j) over j, W_j = mean of psi(x_i, y_j) over i, AUROC A is the mean of V and of W. For
    models r and s, with v_p and w_p the sums of V - A and W - A over the samples of patient p,

        cov(A_r, A_s) = I_1 / (I_1 - 1) sum_p v_p^r v_p^s / m^2 + I_0 / (I_0 - 1) sum_p w_p^r w_p^s / n^2
                        + I / (I - 1) sum_p (v_p^r w_p^s + w_p^r v_p^s) / (m n),

    where I patients were seen, I_1 of them with positives, I_0 with negatives (Obuchowski 1997). Where no patient has
    two samples the last sum is 0 and the rest is DeLong's.

    It is an approximation for many patients: with fewer than about 30 on either side prefer the bootstrap.

    Args:
        positive: (n,) whether a sample is of the positive class.
        scores: (k, n) of k models; one may be given as (n,).
        groups: (n,) group code of each sample. None takes every sample for a patient of its own, which is right only
            where that is so: standard errors are too small otherwise.
    """
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    patient = np.unique(np.arange(len(positive)) if groups is None else groups, return_inverse=True)[1]
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return Aurocs(np.full(len(scores), np.nan), np.full((len(scores),) * 2, np.nan))
    among_all, above, below = (_midranks(x) for x in (scores, scores[:, positive], scores[:, ~positive]))
    v, w = (among_all[:, positive] - above) / n, 1 - (among_all[:, ~positive] - below) / m
    values = v.mean(axis=1)
    v_sums = _by_patient(v - values[:, None], patient[positive], patient.max() + 1) / m
    w_sums = _by_patient(w - values[:, None], patient[~positive], patient.max() + 1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = _unbiased(len(np.unique(patient))) * (v_sums @ w_sums.T)
        covariance = (
            _unbiased(len(np.unique(patient[positive]))) * (v_sums @ v_sums.T)
            + _unbiased(len(np.unique(patient[~positive]))) * (w_sums @ w_sums.T)
            + crossed
            + crossed.T
        )
    return Aurocs(values, covariance)


def _midranks(scores: Floats) -> Floats:
    return np.asarray(rankdata(scores, axis=1), dtype=np.float64)


def _by_patient(values: Floats, patient: NDArray[np.int64], patients: int) -> Floats:
    """(k, patients) sums of (k, m) values."""
    return np.stack([np.bincount(patient, row, minlength=patients) for row in values])


def _unbiased(patients: int) -> float:
    """I / (I - 1); of one patient nothing is known, which is NaN."""
    return patients / (patients - 1) if patients > 1 else np.nan


def auroc_interval(value: float, variance: float, *, scale: Scale = "logit", level: float = LEVEL) -> Interval:
    """Interval of one AUROC from its variance.

    plain: A +- z SE. logit: the inverse logit of logit(A) +- z SE / (A (1 - A)). At 0 or 1 the estimated variance is
    0 whatever the truth, so there is no interval.
    """
    if np.isnan(variance):
        return Interval(np.nan, np.nan, TOO_FEW)
    if value in (0.0, 1.0):
        return Interval(np.nan, np.nan, f"no interval: AUROC is {value:.0f}, where its variance can't be estimated")
    half = norm.ppf((1 + level) / 2) * np.sqrt(variance)
    if scale == "plain":
        return Interval(float(value - half), float(value + half))
    middle, half = np.log(value / (1 - value)), half / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(middle + np.array([-half, half]))))
    return Interval(float(low), float(high))


def paired_difference(both: Aurocs, *, level: float = LEVEL) -> AurocDifference:
    """First model less second on the same samples: var = var_1 + var_2 - 2 cov."""
    (first, second), cov = both.values, both.covariance
    return _difference(first - second, cov[0, 0] + cov[1, 1] - 2 * cov[0, 1], level)


def unpaired_difference(first: Aurocs, second: Aurocs, *, level: float = LEVEL) -> AurocDifference:
    """One model less one other on samples of other patients: the variances add up."""
    return _difference(first.values[0] - second.values[0], first.covariance[0, 0] + second.covariance[0, 0], level)


def _difference(value: float, variance: float, level: float) -> AurocDifference:
    error = float(np.sqrt(max(variance, 0.0)))  # rounding may leave a hair below 0
    why = TOO_FEW if np.isnan(variance) else ""
    if error == 0 and value != 0:
        why = "no interval: all pairs are alike, so that the variance can't be estimated"
    if why:
        return AurocDifference(float(value), np.nan, Interval(np.nan, np.nan, why), np.nan)
    half = float(norm.ppf((1 + level) / 2)) * error
    p = float(2 * norm.sf(abs(value) / error)) if error > 0 else 1.0
    return AurocDifference(float(value), error, Interval(float(value - half), float(value + half)), p)
