"""Whether two rows on the same test samples differ at all: tests by exchange of patients, of pairs, and of many rows.

The patient is the unit. Where two models do equally well, nothing is changed by swapping what they said about one
patient, all of the patient's pictures at once; the test counts how often such swaps give a difference as large as the
one observed. Swapping pictures one by one would take the pictures of a patient for independent, and finds differences
where there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmark.evaluate.resample import BLOCK, Statistic
from benchmark.result import Adjustment
from benchmark.seeding import generator

Floats = NDArray[np.float64]

TIE = 1e-10
"""Differences closer than this are equal: sums of the same numbers in another order differ by less."""


class FlipTest(NamedTuple):
    """Outcome of a sign-flip test of one metric."""

    difference: float
    """Variant less base; NaN where either is undefined."""
    p: float
    """Two-sided."""
    exact: bool
    """Whether every way to swap patients was looked at."""
    flips: int
    """Ways to swap patients that were looked at."""
    why_undefined: str = ""


def sign_flip_test(both: Statistic, groups: NDArray[np.int64], *, flips: int, fingerprint: str) -> dict[str, FlipTest]:
    """Test by swapping the predictions of two models patient by patient, for any metric.

    A statistic is a function of sample weights, so both models' predictions are laid one under another, and a model
    made of variant's answers on some patients and base's on the others is a vector of zeros and ones. With T the
    metric of that model less the metric of its complement, and T_0 that without a swap,

        p = #{|T| >= |T_0|} / 2^P            over all swaps of the P patients where there are at most ``flips``,
        p = (1 + #{|T| >= |T_0|}) / (1 + B)  over B = ``flips`` random ones otherwise (Phipson and Smyth 2010).

    For a mean it is Fisher's randomisation test of paired differences (1935); for AUROC on ranks within each model,
    that of Bandos, Rockette and Gur (2005). It holds its level where the two models' predictions are exchangeable
    within every patient, and asks for nothing else: not for independent pictures, nor for any law. A swap that leaves
    the metric undefined counts against the difference.

    Args:
        both: Over 2n rows: the n samples as the variant scored them, then the same samples in the same order as the
            base did. Metrics of the order of scores need scores on a common scale, such as ranks within each model.
        groups: (n,) group code of each sample.
        flips: Most swaps to look at.
        fingerprint: Of the split; seeds the random swaps.
    """
    column = np.unique(groups, return_inverse=True)[1]
    patients = int(column.max()) + 1
    exact = 2**patients <= flips
    observed = _differences(both, np.zeros((len(groups), 1)))
    extreme = dict.fromkeys(observed, 0)
    for block in _all_swaps(patients) if exact else _random_swaps(patients, flips, fingerprint):
        for name, values in _differences(both, block[column]).items():
            # Written so that NaN counts.
            extreme[name] += int((~(np.abs(values) < np.abs(observed[name]) - TIE)).sum())
    return {name: _outcome(float(value[0]), extreme[name], patients, flips, exact) for name, value in observed.items()}


def _outcome(difference: float, extreme: int, patients: int, flips: int, exact: bool) -> FlipTest:
    looked_at = 2**patients if exact else flips
    if np.isnan(difference):
        return FlipTest(difference, np.nan, exact, looked_at, "no test: the metric is undefined for one of the two")
    return FlipTest(difference, extreme / looked_at if exact else (1 + extreme) / (1 + looked_at), exact, looked_at)


def _differences(both: Statistic, swapped: Floats) -> dict[str, Floats]:
    """Metric name -> (b,) differences where (n, b) samples are swapped (1) or not (0)."""
    variant = np.concatenate([1 - swapped, swapped])
    first, second = both(variant), both(1 - variant)
    return {name: first[name] - second[name] for name in first}


def _all_swaps(patients: int) -> Iterator[Floats]:
    """Every subset of the patients, in blocks of (patients, b) zeros and ones."""
    for start in range(0, 2**patients, BLOCK):
        numbers = np.arange(start, min(start + BLOCK, 2**patients))
        yield ((numbers >> np.arange(patients)[:, None]) & 1).astype(np.float64)


def _random_swaps(patients: int, flips: int, fingerprint: str) -> Iterator[Floats]:
    """Random subsets of the patients, each with probability 1/2; fewer are a prefix of more."""
    rng = generator(fingerprint, "patient flips")
    for start in range(0, flips, BLOCK):
        yield (rng.random((min(BLOCK, flips - start), patients)) < 0.5).T.astype(np.float64)


# --------------------------------------------------------------------------------------------- pairs


class McNemar(NamedTuple):
    """McNemar's test of two models that were right or wrong on the same samples."""

    only_first: int
    """Samples that the first model alone has right."""
    only_second: int
    p_exact: float
    """Two-sided, by the binomial law; never too small, often too large."""
    p_mid: float
    """Two-sided mid-p: half the probability of what was observed counts."""


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Compare two models that were right (True) or wrong on the same n *independent* samples (McNemar 1947).

    With b and c the samples that one model alone has right and X binomial(b + c, 1/2), the exact p-value is
    2 P(X <= min(b, c)), at most 1, and mid-p is 2 P(X <= min(b, c)) - P(X = min(b, c)) (Fagerland, Lydersen and Laake
    2013). Pictures of one patient are not independent: with several per patient use ``sign_flip_test`` of accuracy,
    which is the same exact test where every patient has one picture.
    """
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    law = stats.binom(b + c, 0.5)
    below = 2 * float(law.cdf(min(b, c)))
    return McNemar(b, c, min(below, 1.0), min(below - float(law.pmf(min(b, c))), 1.0))


# --------------------------------------------------------------------------------------------- many rows


def adjust(p: NDArray[Any], method: Adjustment = "holm") -> Floats:
    """Adjusted p-values, in the order given: compare them with the level of the whole family.

    Holm: with p_(1) <= ... <= p_(m), the i-th is max over j <= i of min(1, (m - j + 1) p_(j)).

    Args:
        p: (m,) p-values; NaN where there was no test, which stays NaN and does not count in m.
        method: Which of the two.
    """
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    if method == "benjamini-hochberg":
        adjusted[tested] = stats.false_discovery_control(p[tested])
        return adjusted
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]), 1)
    return adjusted
