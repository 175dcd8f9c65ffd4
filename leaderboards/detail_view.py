"""From the details of one row to what the page of its model shows. Reads figures; computes none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmark.evaluate.analysis import Analysis
from benchmark.evaluate.breakdown import FEWEST_EVENTS
from benchmark.evaluate.detail_records import Breakdown, Calibration, Confusion, Detail, Group, OperatingPoint, Question
from benchmark.result import Estimate
from leaderboards import detail_figures
from leaderboards.columns import DASH, Shown, counts, signed
from leaderboards.view import Row

PREVALENCE_FROM = {"card": "stated by the dataset’s card", "train": "that of the training samples"}


@dataclass(frozen=True)
class PointShown:
    """One operating point."""

    name: str
    threshold: str
    figures: tuple[Shown, ...]
    """Sensitivity, specificity, predictive values on test, and at the prevalence."""


@dataclass(frozen=True)
class GroupShown:
    """One subgroup."""

    name: str
    n: int
    few: str
    """Why there are no figures; empty where there are some."""
    n_patients: int
    events: int
    figures: tuple[Shown, ...]
    """AUROC, sensitivity, specificity."""
    place: str
    """Whether it is the best or the worst of its column."""


@dataclass(frozen=True)
class BreakdownShown:
    """The subgroups of one column."""

    column: str
    groups: tuple[GroupShown, ...]
    gap: Shown | None


@dataclass(frozen=True)
class QuestionShown:
    """The tables of one yes-or-no question."""

    name: str
    positives: str
    prevalence: str
    points: tuple[PointShown, ...]
    decided: str
    """At which operating point subgroups are looked at."""
    breakdowns: tuple[BreakdownShown, ...]


@dataclass(frozen=True)
class CalibrationShown:
    """One line of the table of calibration."""

    name: str
    figures: tuple[Shown, ...]
    """Calibration error, Brier score, log-loss."""


@dataclass(frozen=True)
class CellShown:
    """One count of a confusion matrix."""

    count: int
    share: str
    """Of the row."""
    right: bool


@dataclass(frozen=True)
class ConfusionShown:
    """One confusion matrix."""

    name: str
    decided: str
    classes: tuple[str, ...]
    rows: tuple[tuple[CellShown, ...], ...]


@dataclass(frozen=True)
class DetailShown:
    """Everything that the sections print."""

    row: Row
    questions: tuple[QuestionShown, ...]
    calibrations: tuple[CalibrationShown, ...]
    temperatures: tuple[tuple[str, str], ...]
    """Of what, and the temperature or why there is none."""
    roc: Markup | None
    precision_recall: Markup | None
    reliability: Markup | None
    decision: Markup | None
    confusion: tuple[ConfusionShown, ...]
    fewest: int
    """Events that a subgroup must have."""


def detail_of(rows: Sequence[Row], analysis: Analysis | None) -> DetailShown | None:
    """The details of the row that stands for a model; None where no row does or nothing was computed."""
    details = analysis.details if analysis else {}
    return next((_shown(row, details[row.result.id]) for row in rows if row.result.id in details), None)


def _shown(row: Row, detail: Detail) -> DetailShown:
    calibrations = [("As the scores stand", detail.before)]
    if detail.after is not None:
        calibrations.append(("With the temperature from validation", detail.after))
    return DetailShown(
        row=row,
        questions=tuple(_question(question) for question in detail.questions),
        calibrations=tuple(_calibration(name, figures) for name, figures in calibrations),
        temperatures=tuple((r.name, r.why_not or f"{r.temperature:.3g}") for r in detail.reliability),
        roc=detail_figures.roc(detail.questions),
        precision_recall=detail_figures.precision_recall(detail.questions),
        reliability=detail_figures.reliability(detail.reliability),
        decision=detail_figures.decision(detail.questions),
        confusion=tuple(_confusion(matrix) for matrix in detail.confusion),
        fewest=FEWEST_EVENTS,
    )


def _question(question: Question) -> QuestionShown:
    known = not math.isnan(question.prevalence)
    return QuestionShown(
        name=question.name,
        positives=f"{question.positives} of {question.n}",
        prevalence=f"{_percent(question.prevalence)}, {PREVALENCE_FROM[question.prevalence_from]}" if known else "",
        points=tuple(_point(point) for point in question.points),
        decided=question.points[0].name,
        breakdowns=tuple(_breakdown(breakdown) for breakdown in question.breakdowns),
    )


def _point(point: OperatingPoint) -> PointShown:
    figures = (
        *(point.sensitivity, point.specificity),
        *(point.ppv, point.npv),
        *(point.ppv_at_prevalence, point.npv_at_prevalence),
    )
    threshold = DASH if math.isnan(point.threshold) else f"{point.threshold:.3g}"
    return PointShown(point.name, threshold, tuple(figure(each) for each in figures))


def _calibration(name: str, found: Calibration) -> CalibrationShown:
    return CalibrationShown(name, tuple(figure(each) for each in (found.ece, found.brier, found.log_loss)))


def _breakdown(breakdown: Breakdown) -> BreakdownShown:
    return BreakdownShown(
        column=breakdown.column,
        groups=tuple(_group(group, breakdown) for group in breakdown.groups),
        gap=None if breakdown.gap is None else figure(breakdown.gap),
    )


def _group(group: Group, breakdown: Breakdown) -> GroupShown:
    places = {breakdown.best: "best", breakdown.worst: "worst"} if breakdown.gap else {}
    figures = (group.auroc, group.sensitivity, group.specificity)
    return GroupShown(
        name=group.name,
        n=group.n,
        few=f"fewer than {FEWEST_EVENTS} events" if group.hidden else "",
        n_patients=group.n_patients,
        events=group.events,
        figures=tuple(figure(each) for each in figures if each is not None),
        place=places.get(group.name, ""),
    )


def _confusion(matrix: Confusion) -> ConfusionShown:
    return ConfusionShown(
        name=matrix.name,
        decided=matrix.decided,
        classes=matrix.classes,
        rows=tuple(
            tuple(
                CellShown(count, _percent(count / sum(counts)) if sum(counts) else DASH, right=place == i)
                for place, count in enumerate(counts)
            )
            for i, counts in enumerate(matrix.counts)
        ),
    )


def figure(estimate: Estimate) -> Shown:
    """An estimate as a table prints it."""
    if math.isnan(estimate.value):
        return Shown(DASH, title=f"undefined: {estimate.why_undefined or 'no reason recorded'}")
    if math.isnan(estimate.low):
        return Shown(
            signed(estimate.value), title=f"{counts(estimate)}; {estimate.why_undefined or 'no interval recorded'}"
        )
    return Shown(
        signed(estimate.value), title=counts(estimate), interval=f"{signed(estimate.low)}–{signed(estimate.high)}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
