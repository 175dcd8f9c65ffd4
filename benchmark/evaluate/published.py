"""Whether accuracy, precision, recall and F1 as printed can come from one confusion matrix of two classes.

A confusion matrix is four whole numbers, so with known class counts all of them can be tried. A printed figure stands
for the interval that rounds to it; a row fits under an averaging where one matrix has all its figures in their
intervals. Figures are in percent, deviations in percentage points. A precision or F1 whose denominator is 0 is 0, as
scikit-learn has it. Means over several runs or folds come from several matrices and need not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BadInput

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

Averaging = Literal["binary_positive", "binary_negative", "macro", "weighted"]
AVERAGINGS: tuple[Averaging, ...] = ("binary_positive", "binary_negative", "macro", "weighted")
"""How precision, recall and F1 of two classes become one figure: of either class alone, or the mean of both."""

TOLERANCE = 1e-9
"""Points by which a figure may lie outside its interval: rounding of float64, nothing that could be printed."""

MOST = 30_000_000
"""Confusion matrices that are tried at most: some ten seconds."""

_AT_MOST = f"at most {MOST:,} can be tried: give the counts of a smaller part, such as one fold"

BLOCK = 1_000_000
"""Matrices held at a time."""


class Printed(NamedTuple):
    """A figure in percent as it is printed, and half a unit of its last digit."""

    value: float
    half: float

    @property
    def ends(self) -> tuple[float, float]:
        """What rounds to it, as fractions within [0, 1]."""
        return max(self.value - self.half, 0.0) / 100, min(self.value + self.half, 100.0) / 100


@dataclass(frozen=True)
class Row:
    """The figures of one published row; precision and recall may be unknown."""

    accuracy: Printed
    f1: Printed
    precision: Printed | None = None
    recall: Printed | None = None


@dataclass(frozen=True)
class Fit:
    """How well one averaging explains a row."""

    matrices: int
    """Confusion matrices that have all figures of the row."""
    positives: tuple[int, int] | None
    """Fewest and most positives of those; None where there are none."""
    nearest_miss: float | None
    """Largest deviation of the nearest matrix, in points; None where some fit, and where only a total is known."""
    nearest: tuple[int, int, int, int] | None
    """True positives, false negatives, false positives, true negatives of the nearest matrix; None as above."""
    f1_at_accuracy: tuple[float, float] | None
    """Lowest and highest F1, in percent, of all matrices with the printed accuracy; None where no matrix has it, and
    where only a total is known."""


@dataclass(frozen=True)
class Majority:
    """What always answering the more frequent class scores, in percent."""

    accuracy: float
    f1_binary: float
    """Of the class that is always answered."""
    f1_macro: float
    f1_weighted: float
    balanced_accuracy: float = 50.0


@dataclass(frozen=True)
class Verdict:
    """All there is to say about a row."""

    fits: dict[Averaging, Fit]
    tried: int
    """Confusion matrices; where only a total is known, those with the printed accuracy."""
    right_answers: tuple[int, int] | None
    """Fewest and most right answers that round to the printed accuracy; None where no whole number does."""
    harmonic: float | None
    """2PR / (P + R) of the printed precision and recall, in percent; None where one of them is unknown, or both 0."""
    harmonic_agrees: bool | None
    """Whether it may be the printed F1, all three rounded as they are."""
    prevalence: tuple[float, float] | None
    """Shares of the positive class that accuracy, precision and recall leave possible if they are binary."""
    majority: Majority | None
    """On the given counts, or at the middle of ``prevalence`` where only a total is known."""

    @property
    def possible(self) -> bool:
        """Whether any averaging fits."""
        return any(fit.matrices for fit in self.fits.values())


def printed(text: str, what: str, decimals: int | None = None) -> Printed:
    """Read a figure; the number of its decimals says how it was rounded.

    Args:
        text: As printed, in percent.
        what: Its name, for the error.
        decimals: Decimals that were really rounded to, where the last ones shown are padding.

    Raises:
        BadInput: where it is no number from 0 to 100, or shows fewer decimals than ``decimals``.
    """
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    shown = len(text.partition(".")[2])
    if not 0 <= value <= 100 or not text.replace(".", "").isdigit():
        raise BadInput(f"{what} {text!r} is no percentage; write it as it is printed, such as 94.50")
    if decimals is not None and decimals > shown:
        raise BadInput(f"{what} {text} shows {shown} decimals, fewer than --decimals {decimals}; give at most {shown}")
    return Printed(value, 0.5 * 10.0 ** -(shown if decimals is None else decimals))


def check(row: Row, positives: int, negatives: int) -> Verdict:
    """Try all confusion matrices of these class counts.

    Raises:
        BadInput: where a class is empty, or there are more than ``MOST`` matrices.
    """
    if min(positives, negatives) < 1:
        raise BadInput(f"{positives} positives and {negatives} negatives: both classes need at least one sample")
    number = (positives + 1) * (negatives + 1)
    if number > MOST:
        raise BadInput(
            f"{positives} positives and {negatives} negatives have {number:,} confusion matrices; {_AT_MOST}"
        )
    search = _Search(row)
    for matrices in _all_matrices(positives, negatives):
        search.look_at(matrices)
    right = _right_answers(row.accuracy, positives + negatives)
    return _verdict(row, search, number, right, _majority(positives, negatives))


def averagings(
    accuracy: float, precision: float, recall: float, f1: float, counts: tuple[int, int], decimals: int
) -> tuple[Averaging, ...]:
    """Under which averagings a printed row can come from one confusion matrix of these class counts; none is possible.

    Args:
        accuracy: In percent, as are the others.
        precision: Of which class or average is what is asked.
        recall: Likewise.
        f1: Likewise.
        counts: Positives and negatives of the test part.
        decimals: That the figures are really rounded to.
    """
    figures = [printed(f"{value:.{decimals}f}", "figure", decimals) for value in (accuracy, precision, recall, f1)]
    row = Row(accuracy=figures[0], precision=figures[1], recall=figures[2], f1=figures[3])
    return tuple(name for name, fit in check(row, *counts).fits.items() if fit.matrices)


def scan(row: Row, total: int) -> Verdict:
    """Try all class counts of this many samples, and of each all matrices with the printed accuracy.

    Raises:
        BadInput: where the total is below 2, or there are more than ``MOST`` such matrices.
    """
    if total < 2:
        raise BadInput(f"a total of {total} cannot hold two classes; give at least 2")
    right = _right_answers(row.accuracy, total)
    if len(right) * total**2 // 2 > MOST:
        raise BadInput(f"{total} samples have {len(right) * total**2 // 2:,} confusion matrices; {_AT_MOST}")
    search = _Search(row)
    for matrices in _matrices_of_accuracy(right, total):
        search.look_at(matrices)
    likely = _prevalence(row)
    middle = None if likely is None else sum(likely) / 2
    majority = None if middle is None else _majority(middle, 1 - middle)
    return _verdict(row, search, search.tried, right, majority, counts_known=False)


# --------------------------------------------------------------------------------------------- matrices


def _all_matrices(positives: int, negatives: int) -> Iterator[Counts]:
    """(4, m) blocks of tp, fn, fp, tn."""
    rows = max(1, BLOCK // (negatives + 1))
    false_positives = np.arange(negatives + 1)
    for start in range(0, positives + 1, rows):
        hits = np.arange(start, min(start + rows, positives + 1))
        tp, fp = (grid.ravel() for grid in np.meshgrid(hits, false_positives, indexing="ij"))
        yield np.stack([tp, positives - tp, fp, negatives - fp])


def _right_answers(accuracy: Printed, total: int) -> range:
    """How many of ``total`` may be right, the accuracy being rounded as it is."""
    low, high = (total * end for end in accuracy.ends)
    return range(math.ceil(low - TOLERANCE), math.floor(high + TOLERANCE) + 1)


def _matrices_of_accuracy(right: range, total: int) -> Iterator[Counts]:
    """(4, m) matrices of all class counts, one block per count, with as many right answers."""
    for positives in range(1, total):
        tp, correct = (grid.ravel() for grid in np.meshgrid(np.arange(positives + 1), np.array(right), indexing="ij"))
        tn = correct - tp
        matrices = np.stack([tp, positives - tp, total - positives - tn, tn])
        yield matrices[:, (matrices >= 0).all(axis=0)]


def _figures(matrices: Counts) -> dict[Averaging, tuple[Floats, Floats, Floats]]:
    """Precision, recall and F1, in percent, (m,) each, under every averaging."""
    tp, fn, fp, tn = matrices

    def of_class(right: Counts, missed: Counts, alarms: Counts) -> Floats:
        tops, bottoms = (right, right, 2 * right), (right + alarms, right + missed, 2 * right + alarms + missed)
        return np.stack([100 * a / np.maximum(b, 1) for a, b in zip(tops, bottoms, strict=True)])

    positive, negative = of_class(tp, fn, fp), of_class(tn, fp, fn)
    share = (tp + fn) / matrices.sum(axis=0)
    averaged = (positive, negative, (positive + negative) / 2, share * positive + (1 - share) * negative)
    return {name: (p, r, f) for name, (p, r, f) in zip(AVERAGINGS, averaged, strict=True)}


class _Search:
    """The best matrices seen so far, under every averaging."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self.tried = 0
        self.matrices = dict.fromkeys(AVERAGINGS, 0)
        self.positives: dict[Averaging, tuple[int, int]] = {}
        self.nearest: dict[Averaging, tuple[float, tuple[int, int, int, int]]] = {}
        self.f1_at_accuracy: dict[Averaging, tuple[float, float]] = {}

    def look_at(self, matrices: Counts) -> None:
        """Compare a block of (4, m) matrices with the row."""
        if matrices.shape[1] == 0:
            return
        self.tried += matrices.shape[1]
        row = self._row
        accuracy = 100 * (matrices[0] + matrices[3]) / matrices.sum(axis=0)
        as_accurate = _fits(accuracy, row.accuracy)
        for name, figures in _figures(matrices).items():
            named = [(accuracy, row.accuracy), *zip(figures, (row.precision, row.recall, row.f1), strict=True)]
            known = [(values, figure) for values, figure in named if figure is not None]
            self._count(name, matrices[:, np.all([_fits(*pair) for pair in known], axis=0)])
            deviation = np.max([np.abs(values - figure.value) for values, figure in known], axis=0)
            best = int(deviation.argmin())
            if name not in self.nearest or deviation[best] < self.nearest[name][0]:
                tp, fn, fp, tn = (int(n) for n in matrices[:, best])
                self.nearest[name] = float(deviation[best]), (tp, fn, fp, tn)
            if as_accurate.any():
                reached = figures[2][as_accurate]
                low, high = self.f1_at_accuracy.get(name, (np.inf, -np.inf))
                self.f1_at_accuracy[name] = min(low, float(reached.min())), max(high, float(reached.max()))

    def _count(self, name: Averaging, fitting: Counts) -> None:
        if fitting.shape[1]:
            self.matrices[name] += fitting.shape[1]
            positives = fitting[0] + fitting[1]
            fewest, most = self.positives.get(name, (int(positives[0]),) * 2)
            self.positives[name] = min(fewest, int(positives.min())), max(most, int(positives.max()))


def _fits(values: Floats, figure: Printed) -> NDArray[np.bool_]:
    return np.abs(values - figure.value) <= figure.half + TOLERANCE


def _verdict(
    row: Row, search: _Search, tried: int, right: range, majority: Majority | None, *, counts_known: bool = True
) -> Verdict:
    fits: dict[Averaging, Fit] = {}
    for name in AVERAGINGS:
        missed = search.nearest.get(name) if counts_known and not search.matrices[name] else None
        fits[name] = Fit(
            matrices=search.matrices[name],
            positives=search.positives.get(name),
            nearest_miss=missed and missed[0],
            nearest=missed and missed[1],
            f1_at_accuracy=search.f1_at_accuracy.get(name) if counts_known else None,
        )
    reachable = (right[0], right[-1]) if right else None
    return Verdict(fits, tried, reachable, *_harmonic(row), _prevalence(row), majority)


# --------------------------------------------------------------------------------------------- identities


def _harmonic(row: Row) -> tuple[float | None, bool | None]:
    """2PR / (P + R) in percent, and whether F1 as printed may be it; it grows with either, so the ends decide."""
    if row.precision is None or row.recall is None or row.precision.value + row.recall.value == 0:
        return None, None
    mean = 2 * row.precision.value * row.recall.value / (row.precision.value + row.recall.value)
    low, high = (
        200 * p * r / (p + r) if p + r > 0 else 0.0 for p, r in zip(row.precision.ends, row.recall.ends, strict=True)
    )
    printed_low, printed_high = (100 * end for end in row.f1.ends)
    return mean, low <= printed_high + TOLERANCE and high >= printed_low - TOLERANCE


def _prevalence(row: Row) -> tuple[float, float] | None:
    """Shares p of the positive class with 1 - A = p [(1 - R) + R (1 / P - 1)], the errors counted class by class.

    p is monotone in each of A, P and R, so that its extremes over the rounding intervals are at their ends. None where
    a figure is unknown, where no share from 0 to 1 does it, and where precision may be 0 or there may be no errors.
    """
    if row.precision is None or row.recall is None:
        return None
    shares = []
    for accuracy, precision, recall in product(row.accuracy.ends, row.precision.ends, row.recall.ends):
        if precision == 0:
            return None
        errors_per_positive = (1 - recall) + recall * (1 / precision - 1)
        if errors_per_positive <= TOLERANCE:
            return None
        shares.append((1 - accuracy) / errors_per_positive)
    low, high = min(shares), min(max(shares), 1.0)
    return None if low > 1 else (low, high)


def _majority(positives: float, negatives: float) -> Majority:
    """Of counts, or of shares."""
    share = max(positives, negatives) / (positives + negatives)
    f1 = 2 * share / (1 + share)
    return Majority(accuracy=100 * share, f1_binary=100 * f1, f1_macro=50 * f1, f1_weighted=100 * share * f1)
