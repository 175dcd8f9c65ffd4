"""One row in detail: what its scores come to at a threshold, whether they are probabilities, and for whom it fails.

Thresholds and temperatures come from validation rows (``fit_on_val``) and stay fixed while the test patients are
resampled: intervals say how sure a figure is for *these* thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.evaluate import curves
from benchmark.evaluate.breakdown import Decision, break_down
from benchmark.evaluate.calibration import equal_mass_bins
from benchmark.evaluate.detail_records import (
    Band,
    Bin,
    Calibration,
    Confusion,
    Detail,
    Line,
    NetBenefit,
    OperatingPoint,
    Question,
    Reliability,
)
from benchmark.evaluate.fitted import SPECIFICITIES, Fitted, fit_on_val
from benchmark.evaluate.metrics import Classification
from benchmark.evaluate.predictions import labels_and_scores
from benchmark.evaluate.question import Asked, Shares, asked, rates
from benchmark.evaluate.resample import Statistic, estimates
from benchmark.evaluate.threshold import Criterion
from benchmark.result import Estimate, Task

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BEST_ON_VAL: dict[Criterion, str] = {"youden": "best on validation (Youden)", "f1": "best on validation (F1)"}
"""Names of the operating point that a criterion chose."""

LARGEST_SCORE = "largest score"
"""Name of the operating point of a task whose predicted class is the one with the largest score."""

AT_PREVALENCE = "_at_prevalence"

DECIMALS = 6
"""Of the coordinates of curves: no chart shows more."""


class Prevalence(NamedTuple):
    """Share of positives for which predictive values are stated."""

    value: float
    source: Literal["card", "train"]


@dataclass(frozen=True, eq=False)
class Scope:
    """What is the same for every row of a run."""

    task: Task
    classes: tuple[str, ...]
    criterion: Criterion
    prevalences: Mapping[str, Prevalence]
    """Class or label -> its prevalence."""
    replicates: int
    fingerprint: str
    """Of the split; seeds the resamples."""


@dataclass(frozen=True, eq=False)
class _Row:
    """The test samples of one row, and what was fitted on its validation samples."""

    labels: NDArray[np.int64]
    """(n,) or (n, C)"""
    scores: Floats
    """(n, C)"""
    scaled: Floats | None
    """(n, C) probabilities at the temperatures; None where one is missing."""
    groups: NDArray[np.int64]
    """(n,) patients."""
    fitted: Fitted
    scope: Scope

    def estimates(self, statistics: Sequence[Statistic]) -> list[dict[str, Estimate]]:
        """Figures with intervals over the resamples that all rows share."""
        return estimates(statistics, self.groups, replicates=self.scope.replicates, fingerprint=self.scope.fingerprint)


def detail(val: pd.DataFrame, test: pd.DataFrame, scope: Scope, columns: Mapping[str, pd.Categorical]) -> Detail:
    """Look at one row closely.

    Args:
        val: Its validation rows of one evaluator whose scores are probabilities.
        test: Its test rows of the same.
        scope: What is the same for every row of the run.
        columns: Name -> the subgroup of each test row.
    """
    fitted = fit_on_val(val, scope.task, scope.classes, scope.criterion)
    labels, scores = labels_and_scores(test, scope.task, scope.classes)
    scaled = None if fitted.why_no_scaling else fitted.scaled(scores)
    row = _Row(labels, scores, scaled, test["group"].to_numpy(np.int64), fitted, scope)
    questions = asked(test, scope.task, scope.classes)
    before, after = _calibrations(row)
    return Detail(
        questions=tuple(_question(i, question, row, columns) for i, question in enumerate(questions)),
        before=before,
        after=after,
        reliability=_reliability(row),
        confusion=_confusion(row, questions),
    )


# --------------------------------------------------------------------------------------------- questions


def _question(i: int, question: Asked, row: _Row, columns: Mapping[str, pd.Categorical]) -> Question:
    points = list(_decisions(i, question, row))
    prevalence = row.scope.prevalences.get(question.name, Prevalence(np.nan, "train"))
    statistics = [_AtThreshold(question.positive, decision, prevalence.value) for _, _, decision in points]
    return Question(
        name=question.name,
        n=len(question.positive),
        positives=int(question.positive.sum()),
        prevalence=prevalence.value,
        prevalence_from=prevalence.source,
        points=tuple(
            OperatingPoint(name=name, threshold=threshold, why_not=decision.why_not, **figures)
            for (name, threshold, decision), figures in zip(points, row.estimates(statistics), strict=True)
        ),
        **_curves(i, question, row)._asdict(),
        breakdowns=tuple(
            break_down(question, points[0][2], column, values, row.groups, row.estimates)
            for column, values in columns.items()
        ),
    )


def _decisions(i: int, question: Asked, row: _Row) -> Iterator[tuple[str, float, Decision]]:
    """Name, threshold and decision of every operating point of the i-th question."""
    fitted = row.fitted
    if row.scope.task == "multiclass":
        yield LARGEST_SCORE, np.nan, Decision(row.scores.argmax(axis=1) == i)
    named = {BEST_ON_VAL[row.scope.criterion]: fitted.thresholds[i]} if fitted.thresholds else {}
    named |= {
        f"{target:.0%} specificity on validation": thresholds[i]
        for target, thresholds in zip(SPECIFICITIES, fitted.at_specificity, strict=True)
    }
    for name, threshold in named.items():
        yield name, threshold.value, Decision(question.scores > threshold.value, threshold.why_not)


class _AtThreshold(Statistic):
    """Rates of one decision, and its predictive values at another prevalence."""

    def __init__(self, positive: Bools, decision: Decision, prevalence: float) -> None:
        self.used = np.ones(len(positive), dtype=np.bool_)
        self._rates = Shares(rates(positive, decision.above))
        self._why_not = decision.why_not
        self._prevalence = prevalence
        self._one_sided = "" if positive.any() else "no test sample is positive"
        self._one_sided = "no test sample is negative" if positive.all() else self._one_sided

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        found = self._rates(weights)
        ppv, npv = at_prevalence(found["sensitivity"], found["specificity"], self._prevalence)
        found |= {"ppv" + AT_PREVALENCE: ppv, "npv" + AT_PREVALENCE: npv}
        return {name: np.full_like(v, np.nan) for name, v in found.items()} if self._why_not else found

    def why_undefined(self, metric: str) -> str:
        if self._why_not:
            return self._why_not
        if metric.endswith(AT_PREVALENCE) and np.isnan(self._prevalence):
            return "no prevalence is known"
        of_prevalence = self._one_sided if metric.endswith(AT_PREVALENCE) else ""
        return of_prevalence or self._rates.why_undefined(metric.removesuffix(AT_PREVALENCE))

    def chance(self, metric: str) -> float:  # noqa: ARG002 - it depends on how many are called positive
        return np.nan


def at_prevalence(sensitivity: Floats, specificity: Floats, prevalence: float) -> tuple[Floats, Floats]:
    """Positive and negative predictive value by Bayes' rule; NaN where nobody would be called so."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    spared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return right / (right + wrong), spared / (spared + missed)


# --------------------------------------------------------------------------------------------- curves


class _Drawn(NamedTuple):
    """The curves of one question; empty where the test samples are all positive or all negative."""

    roc: Line = Line()
    roc_band: Band = Band()
    precision_recall: Line = Line()
    precision_recall_band: Band = Band()
    decision: NetBenefit | None = None


def _curves(i: int, question: Asked, row: _Row) -> _Drawn:
    scores, positive = question.scores, question.positive
    if positive.all() or not positive.any():
        return _Drawn()
    probabilities = None if row.scaled is None else row.scaled[:, 1 if row.scope.task == "binary" else i]
    bands = curves.bands(
        scores,
        probabilities,
        positive,
        row.groups,
        replicates=row.scope.replicates,
        fingerprint=row.scope.fingerprint,
    )
    return _Drawn(
        roc=_line(curves.roc(scores, positive)),
        roc_band=_band(bands.roc),
        precision_recall=_line(curves.precision_recall(scores, positive)),
        precision_recall_band=_band(bands.precision_recall),
        decision=None
        if probabilities is None
        else NetBenefit(
            thresholds=_short(curves.ACTING),
            model=_short(curves.net_benefit(probabilities, positive)),
            low=_short(bands.net_benefit.low),
            high=_short(bands.net_benefit.high),
            treat_all=_short(curves.treat_all(float(positive.mean()))),
        ),
    )


def _line(points: curves.Points) -> Line:
    x, y = curves.thinned(points)
    return Line(x=_short(x), y=_short(y))


def _band(ends: curves.Ends) -> Band:
    return Band(x=_short(curves.GRID), low=_short(ends.low), high=_short(ends.high)) if len(ends.low) else Band()


def _short(values: Floats) -> tuple[float, ...]:
    return tuple(np.round(values, DECIMALS).tolist())


# --------------------------------------------------------------------------------------------- probabilities


def _calibrations(row: _Row) -> tuple[Calibration, Calibration | None]:
    """Calibration as the scores stand, and with temperatures."""
    statistics = [
        Classification(row.scope.task, row.labels, scores, classes=row.scope.classes, probabilities=True)
        for scores in (row.scores, row.scaled)
        if scores is not None
    ]
    before, *after = (
        Calibration(ece=found["ece"], brier=found["brier"], log_loss=found["log_loss"])
        for found in row.estimates(statistics)
    )
    return before, after[0] if after else None


def _confidences(row: _Row, scores: Floats) -> list[tuple[str, Floats, Bools]]:
    """Of what, how sure, and whether it came true: of the positive class, of each label, or of the predicted class."""
    classes = row.scope.classes
    if row.scope.task == "binary":
        return [(classes[1], scores[:, 1], row.labels == 1)]
    if row.scope.task == "multiclass":
        return [("the predicted class", scores.max(axis=1), scores.argmax(axis=1) == row.labels)]
    return [(name, scores[:, c], row.labels[:, c] == 1) for c, name in enumerate(classes)]


def _reliability(row: _Row) -> tuple[Reliability, ...]:
    before = _confidences(row, row.scores)
    after = [] if row.scaled is None else _confidences(row, row.scaled)
    return tuple(
        Reliability(
            name=name,
            temperature=temperature.value,
            why_not=row.fitted.why_no_scaling,
            before=_bins(confidence, happened, row),
            after=_bins(*after[i][1:], row) if after else (),
        )
        for i, ((name, confidence, happened), temperature) in enumerate(
            zip(before, row.fitted.temperatures, strict=True)
        )
    )


def _bins(confidence: Floats, happened: Bools, row: _Row) -> tuple[Bin, ...]:
    """The bins of one curve. They hold the same samples in every resample."""
    of = equal_mass_bins(confidence)
    members = [of == place for place in np.unique(of)]
    shares = Shares({str(i): (happened, mine, "") for i, mine in enumerate(members)})
    (found,) = row.estimates([shares])
    return tuple(
        Bin(
            predicted=float(confidence[mine].mean()),
            observed=estimate.value,
            low=estimate.low,
            high=estimate.high,
            n=int(mine.sum()),
        )
        for mine, estimate in zip(members, found.values(), strict=True)
    )


# --------------------------------------------------------------------------------------------- confusion


def _confusion(row: _Row, questions: Sequence[Asked]) -> tuple[Confusion, ...]:
    """Counts of the test samples at the first operating point; none for a question without a threshold."""
    classes = row.scope.classes
    if row.scope.task == "multiclass":
        return (_counted("", LARGEST_SCORE, classes, row.labels, row.scores.argmax(axis=1)),)
    decided = BEST_ON_VAL[row.scope.criterion]
    binary = row.scope.task == "binary"
    return tuple(
        _counted(
            "" if binary else question.name,
            decided,
            classes if binary else ("no", "yes"),
            question.positive.astype(np.int64),
            (question.scores > threshold.value).astype(np.int64),
        )
        for question, threshold in zip(questions, row.fitted.thresholds, strict=True)
        if not threshold.why_not
    )


def _counted(
    name: str, decided: str, classes: tuple[str, ...], truth: NDArray[np.int64], guess: NDArray[np.int64]
) -> Confusion:
    size = len(classes)
    counts = np.bincount(truth * size + guess, minlength=size * size).reshape(size, size)
    return Confusion(name=name, decided=decided, classes=classes, counts=tuple(map(tuple, counts.tolist())))
