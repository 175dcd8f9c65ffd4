"""The page that sets what papers print beside what was measured here. Reads figures; computes none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmark.evaluate.metrics import RANKED_BY
from benchmark.result import Measurement, ReportedRecord
from leaderboards.columns import DASH, Shown, counts, describe, find
from leaderboards.view import Page, Row

AVERAGINGS = {
    "binary": "of the positive class",
    "macro": "mean over the classes",
    "weighted": "mean weighted by class size",
}
"""Averagings of precision, recall and F1, in words. A paper's row that names none stands under its own name."""

FITS = {
    "binary_positive": "of the positive class",
    "binary_negative": "of the negative class",
    "macro": "mean over the classes",
    "weighted": "mean weighted by class size",
}

METRICS = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class MeasuredLine:
    """A model's chosen row under one averaging."""

    averaging: str
    figures: tuple[Shown, ...]
    """Accuracy, precision, recall, F1; in percent, as papers print them."""


@dataclass(frozen=True)
class ReportedLine:
    """One row of a paper."""

    record: ReportedRecord
    figures: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class ReportedGroup:
    """All that is printed of one model, and its chosen row."""

    title: str
    reported: tuple[ReportedLine, ...]
    row: Row | None
    """The row that stands for the model; None where none was chosen or all failed."""
    measured: tuple[MeasuredLine, ...]


def make_reported_groups(board: Page) -> tuple[ReportedGroup, ...]:
    """The models of a run that papers print figures of, in the order of the leaderboard's models."""
    chosen = {row.result.spec.model: row for row in board.rows if row.chosen}
    return tuple(
        ReportedGroup(
            title=record.title,
            reported=tuple(_line(each) for each in record.reported),
            row=chosen.get(name),
            measured=_measured(chosen[name]) if name in chosen else (),
        )
        for name, record in board.run.models.items()
        if record.reported
    )


def _line(record: ReportedRecord) -> ReportedLine:
    named = {name.lower(): value for name, value in record.values.items()}
    figures = tuple(f"{named[m]:.{record.decimals}f}" if m in named else DASH for m in METRICS)
    return ReportedLine(record, figures, _verdict(record))


def _verdict(record: ReportedRecord) -> str:
    if record.fits is None or record.counts is None:
        return "not checked: the row or the class counts are incomplete"
    counts = f"{record.counts[0]} positives and {record.counts[1]} negatives"
    if not record.fits:
        return f"impossible: no confusion matrix of {counts} gives this row, under any averaging"
    return f"possible on {counts}, as {' or '.join(FITS[name] for name in record.fits)}"


def _measured(row: Row) -> tuple[MeasuredLine, ...]:
    lines = []
    for suffix, words in AVERAGINGS.items():
        names = ("accuracy", *(f"{metric}_{suffix}" for metric in METRICS[1:]))
        found = [find(row.result, RANKED_BY, name) for name in names]
        if any(measurement is not None for measurement in found[1:]):
            lines.append(MeasuredLine(words, tuple(_in_percent(measurement) for measurement in found)))
    return tuple(lines)


def _in_percent(measurement: Measurement | None) -> Shown:
    if measurement is None:
        return Shown(DASH, None, "not measured for this task")
    estimate = measurement.estimate
    if math.isnan(estimate.value):
        return Shown(DASH, None, describe(measurement))
    ends = "" if math.isnan(estimate.low) else f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"
    return Shown(f"{100 * estimate.value:.1f}", title=counts(estimate), interval=ends)
