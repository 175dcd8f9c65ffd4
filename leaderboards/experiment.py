"""Write an experiment's page: what the paper reports beside what was measured, with both as CSV and JSON.

Reads figures; computes none. A reported figure is in a line of its own that says so, whatever it is shown beside.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from benchmark.evaluate.analysis import is_naive
from benchmark.evaluate.metrics import primary_metric
from benchmark.experiment import PRIMARY, Chart, Column, Difference, ExperimentRecord, Ran, Reported, on_axis
from benchmark.result import CellResult, Estimate, Measurement, public, write_atomically
from leaderboards import figures
from leaderboards.build import fill
from leaderboards.columns import DASH, METRIC_LABELS, MINUS, counts, describe, find
from leaderboards.notices import Notice
from leaderboards.view import Row, make_page

EVALUATORS = {"probe_standard": "Standard probe", "probe_paper": "The paper’s probe"}
"""Evaluators in words; another one stands under its own name."""

WORDS = {
    "accuracy": "Accuracy",
    "subset_accuracy": "Subset accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "average_precision": "Average precision",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "mcc": "MCC",
    "specificity": "Specificity",
    "brier": "Brier",
    "log_loss": "Log-loss",
    "ece": "ECE",
}
"""Metrics in words, their averaging left out."""

AVERAGINGS = ("binary", "macro", "weighted")


@dataclass(frozen=True)
class Figure:
    """One figure of a line."""

    text: str
    interval: str = ""
    title: str = ""
    """Counts, or why there is no figure."""
    clear: bool = False
    """Of a difference: whether its interval leaves 0 out."""


@dataclass(frozen=True)
class Line:
    """One line of the main table: a measured cell, or what somebody reported."""

    kind: Literal["measured", "reported", "computed"]
    title: str
    variant: str
    weights: str
    random: bool
    figures: tuple[Figure, ...]
    leakage: tuple[str, ...] = ()
    """Codes of what makes the figures of its run flatter."""


@dataclass(frozen=True)
class Group:
    """All lines about one model."""

    title: str
    lines: tuple[Line, ...]
    reference: bool
    """Whether it is a naive row: a yardstick."""


@dataclass(frozen=True)
class DifferenceLine:
    """One comparison of two variants."""

    title: str
    what: str
    alike: str
    figures: tuple[Figure, ...]
    leakage: tuple[str, ...]


@dataclass(frozen=True)
class ClassLine:
    """Recall and precision of each class of one cell."""

    title: str
    variant: str
    recalls: tuple[Figure, ...]
    precisions: tuple[Figure, ...]
    leakage: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentPage:
    """Everything that the template prints."""

    record: ExperimentRecord
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    differences: tuple[DifferenceLine, ...]
    difference_columns: tuple[Column, ...]
    by_class: tuple[ClassLine, ...]
    notices: tuple[Notice, ...]
    chart: Markup | None
    chart_lines: tuple[str, ...]
    """Names of the rows that are dotted lines in the chart."""


def build(record: ExperimentRecord, out: Path) -> Path:
    """Write ``index.html``, ``experiment.csv`` and ``experiment.json`` into ``out``: same input, same bytes.

    Returns:
        The path of ``index.html``.
    """
    runs = tuple(run.model_copy(update={"cells": tuple(public(cell) for cell in run.cells)}) for run in record.runs)
    record = record.model_copy(update={"runs": runs})
    write_atomically(out / "experiment.csv", _csv(record).encode())
    write_atomically(out / "experiment.json", (record.model_dump_json(indent=1) + "\n").encode())
    index = out / "index.html"
    write_atomically(index, render(make_experiment_page(record)).encode())
    return index


def render(page: ExperimentPage) -> str:
    """The page as HTML. It needs no script, and allows none."""
    return fill(
        "experiment.html.j2",
        page=page,
        experiment=page.record.experiment,
        paper=page.record.experiment.paper,
        run=page.record.runs[0].record,
        label=label,
        evaluators=_spans(page.columns),
    )


def make_experiment_page(record: ExperimentRecord) -> ExperimentPage:
    """Lay out the page of an experiment."""
    rows = {run.name: _rows(run) for run in record.runs}
    columns = _present(record)
    chart, lines = _chart(record, rows)
    yardsticks = {cell.spec.model for run in record.runs for cell in run.cells if is_naive(cell)}
    return ExperimentPage(
        record=record,
        columns=columns,
        groups=_groups(record, rows, columns, yardsticks),
        differences=tuple(
            _difference_lines(record, sorted(record.differences, key=lambda one: one.model in yardsticks))
        ),
        difference_columns=tuple(dict.fromkeys(difference.column for difference in record.differences)),
        by_class=tuple(_class_lines(record, rows)),
        notices=tuple(_notices(record)),
        chart=chart,
        chart_lines=lines,
    )


def label(column: Column) -> str:
    """A metric in words; its averaging stays in the name."""
    metric = column.metric
    if metric in METRIC_LABELS:
        return METRIC_LABELS[metric]
    for averaging in AVERAGINGS:
        name = metric.removesuffix(f"_{averaging}")
        if name != metric:
            return f"{WORDS[name]} ({averaging})"
    return WORDS[metric]


# --------------------------------------------------------------------------------------------- main table


def _rows(run: Ran) -> dict[str, Row]:
    """The rows of a run's own leaderboard by cell id; failed cells have none."""
    return {row.result.id: row for row in make_page(run.record, run.cells).rows}


def _present(record: ExperimentRecord) -> tuple[Column, ...]:
    """The columns that a row has, or that somebody reported, the primary metric under its name."""
    cells = [cell for run in record.runs for cell in run.cells]
    primary = primary_metric(record.runs[0].record.dataset.task)
    wanted = (
        column.model_copy(update={"metric": primary}) if column.metric == PRIMARY else column
        for column in record.experiment.page.columns
    )
    return tuple(
        column for column in dict.fromkeys(wanted) if any(find(c, column.evaluator, column.metric) for c in cells)
    )


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Evaluators in words over the number of columns beneath each."""
    spans: list[tuple[str, int]] = []
    for column in columns:
        words = EVALUATORS.get(column.evaluator, column.evaluator)
        if spans and spans[-1][0] == words:
            spans[-1] = (words, spans[-1][1] + 1)
        else:
            spans.append((words, 1))
    return spans


def _groups(
    record: ExperimentRecord, rows: dict[str, dict[str, Row]], columns: Sequence[Column], yardsticks: Collection[str]
) -> tuple[Group, ...]:
    """Models as the paper lists them, then other encoders, then yardsticks; what is measured comes first in each."""
    several = len(record.runs) > 1
    lines: dict[str, list[Line]] = {}
    titles: dict[str, str] = {}
    for run in record.runs:
        for cell in run.cells:
            row = rows[run.name].get(cell.id)
            if row is None:
                continue
            titles.setdefault(cell.spec.model, cell.title)
            lines.setdefault(cell.spec.model, []).append(_measured(row, run, columns, several=several))
    reported = record.experiment.paper.figures if record.experiment.paper else ()
    for one in reported:
        titles.setdefault(one.model, one.title)
        lines.setdefault(one.model, []).append(_reported(one, columns))
    order = list(dict.fromkeys([*(one.model for one in reported), *titles]))
    order.sort(key=lambda model: model in yardsticks)
    return tuple(Group(titles[model], tuple(lines[model]), model in yardsticks) for model in order)


def _measured(row: Row, run: Ran, columns: Sequence[Column], *, several: bool) -> Line:
    spec = row.result.spec
    variant = row.variant if spec.start != "none" else f"from {row.reads}"
    return Line(
        kind="measured",
        title="measured",
        variant=" · ".join([*([run.name] if several else []), variant]),
        weights=row.weights if spec.start != "none" else "",
        random=spec.random_weights,
        figures=tuple(_figure(find(row.result, column.evaluator, column.metric)) for column in columns),
        leakage=run.record.leakage,
    )


def _figure(measurement: Measurement | None) -> Figure:
    if measurement is None:
        return Figure(DASH, title="not measured for this row")
    return Figure(
        DASH if math.isnan(measurement.estimate.value) else _number(measurement.estimate.value),
        _interval(measurement.estimate),
        describe(measurement),
    )


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS)


def _interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{_number(estimate.low)}–{_number(estimate.high)}"


def _reported(one: Reported, columns: Sequence[Column]) -> Line:
    """A reported figure stands in the first column of its metric, whichever evaluator's that is."""
    first = {column.metric: place for place, column in reversed(list(enumerate(columns)))}
    shown = [Figure("")] * len(columns)
    for metric, value in one.figures.items():
        if metric in first:
            ends = value if isinstance(value, tuple) else (value,)
            shown[first[metric]] = Figure("–".join(f"{end:.3f}" for end in ends))
    return Line(
        kind="computed" if one.computed else "reported",
        title=one.title,
        variant=one.note,
        weights="",
        random=False,
        figures=tuple(shown),
    )


# --------------------------------------------------------------------------------------------- chart


def _chart(record: ExperimentRecord, rows: dict[str, dict[str, Row]]) -> tuple[Markup | None, tuple[str, ...]]:
    chart = record.experiment.page.chart
    if chart is None:
        return None, ()
    primary = primary_metric(record.runs[0].record.dataset.task)
    column = chart.column if chart.column.metric != PRIMARY else chart.column.model_copy(update={"metric": primary})
    lines: dict[str, float] = {}
    marks: list[figures.Mark] = []
    for run in record.runs:
        for cell in run.cells:
            row = rows[run.name].get(cell.id)
            found = find(cell, column.evaluator, column.metric)
            if row is None or found is None or math.isnan(found.estimate.value):
                continue
            if is_naive(cell) and chart.across not in ("model", "run"):
                lines[cell.title] = found.estimate.value  # it has no place on the axis
            else:
                marks.append(_mark(cell, run, chart, found))
    marks.sort(key=lambda mark: mark.group == figures.REFERENCE)
    titles = {cell.spec.model: cell.title for run in record.runs for cell in run.cells}
    marks += _reported_marks(record, chart, column, titles, {mark.row for mark in marks})
    return figures.panels(marks, metric=label(column), lines=lines), tuple(lines)


def _mark(cell: CellResult, run: Ran, chart: Chart, found: Measurement) -> figures.Mark:
    return figures.Mark(
        panel="" if chart.across == "model" else cell.title,
        row=cell.title if chart.across == "model" else on_axis(cell.spec, run.name, chart.across),
        value=found.estimate.value,
        low=found.estimate.low,
        high=found.estimate.high,
        group=figures.REFERENCE if is_naive(cell) else cell.spec.regime,
    )


def _reported_marks(
    record: ExperimentRecord, chart: Chart, column: Column, titles: dict[str, str], rows: set[str]
) -> Iterator[figures.Mark]:
    """Reported single figures of models that were run, where the source says which row they belong to."""
    for one in record.experiment.paper.figures if record.experiment.paper else ():
        value = one.figures.get(column.metric)
        row = titles.get(one.model) if chart.across == "model" else getattr(one, chart.across)
        if isinstance(value, float) and one.model in titles and row in rows:
            panel = "" if chart.across == "model" else titles[one.model]
            yield figures.Mark(panel, row, value, math.nan, math.nan, figures.REPORTED)


# --------------------------------------------------------------------------------------------- other tables


def _difference_lines(record: ExperimentRecord, differences: Sequence[Difference]) -> Iterator[DifferenceLine]:
    columns = list(dict.fromkeys(difference.column for difference in differences))
    lines: dict[tuple[str, ...], dict[Column, Difference]] = {}
    for one in differences:
        key = (one.model, one.value, one.base, *one.alike.values())
        lines.setdefault(key, {})[one.column] = one
    for of_column in lines.values():
        one = next(iter(of_column.values()))
        alike = [value for axis, value in one.alike.items() if value != "none" and axis != "run"]
        if one.seeds > 1:
            alike.append(f"mean of {one.seeds} seeds")
        yield DifferenceLine(
            title=one.title,
            what=f"{one.value} less {one.base}",
            alike=" · ".join(alike),
            figures=tuple(_difference(of_column[c].estimate) if c in of_column else Figure(DASH) for c in columns),
            leakage=_leakage(record, one),
        )


def _leakage(record: ExperimentRecord, one: Difference) -> tuple[str, ...]:
    """Codes of what makes the figures of either run of a difference flatter."""
    names = (one.value, one.base) if one.axis == "run" else (one.alike["run"],)
    return tuple(sorted({code for run in record.runs if run.name in names for code in run.record.leakage}))


def _difference(estimate: Estimate) -> Figure:
    if math.isnan(estimate.value):
        return Figure(DASH, title=f"undefined: {estimate.why_undefined or 'no reason recorded'}")
    interval = "" if math.isnan(estimate.low) else f"{_signed(estimate.low)} to {_signed(estimate.high)}"
    title = counts(estimate)
    clear = not math.isnan(estimate.low) and not estimate.low <= 0 <= estimate.high
    return Figure(_signed(estimate.value), interval, estimate.why_undefined or title, clear)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _class_lines(record: ExperimentRecord, rows: dict[str, dict[str, Row]]) -> Iterator[ClassLine]:
    for run in record.runs:
        for cell in sorted(run.cells, key=is_naive):  # yardsticks last
            row, found = rows[run.name].get(cell.id), record.by_class.get(cell.id)
            if row is None or found is None:
                continue
            by_name = {measurement.metric: _figure(measurement) for measurement in found}
            classes = run.record.dataset.classes
            yield ClassLine(
                title=cell.title,
                variant=row.variant if cell.spec.start != "none" else f"from {row.reads}",
                recalls=tuple(by_name[f"recall: {name}"] for name in classes),
                precisions=tuple(by_name[f"precision: {name}"] for name in classes),
                leakage=run.record.leakage,
            )


# --------------------------------------------------------------------------------------------- notices


def _notices(record: ExperimentRecord) -> Iterator[Notice]:
    """What the leaderboards of the runs say, each thing once; and that small models stand for nothing."""
    if any(cell.spec.scale == "tiny" for run in record.runs for cell in run.cells):
        text = (
            "Every model is a narrow and shallow one of the same kind as the published one. No figure says what the"
            " published model can do, or whether the paper is right; this page shows what the experiment looks like."
        )
        yield Notice("warning", "Small models", text)
    of_runs = {
        run.name: [replace(notice, link="") for notice in make_page(run.record, run.cells).notices]
        for run in record.runs
    }
    for notice in dict.fromkeys(notice for notices in of_runs.values() for notice in notices):
        names = [name for name, notices in of_runs.items() if notice in notices]
        title = notice.title if len(names) == len(of_runs) else f"{', '.join(names)}: {notice.title}"
        yield replace(notice, title=title)


# --------------------------------------------------------------------------------------------- CSV

FIELDS = (
    *("kind", "run", "model", "title", "regime", "augmentation", "head", "seed", "less"),
    *("evaluator", "metric", "value", "low", "high", "n", "n_patients", "note", "leakage"),
)
"""Columns of ``experiment.csv``; ``kind`` is measured, reported, computed or difference."""


def _csv(record: ExperimentRecord) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_measured_lines(record))
    writer.writerows(_reported_lines(record))
    for one in record.differences:
        axes = one.alike | {one.axis: one.value}
        estimate = _estimate(one.estimate)
        writer.writerow(
            {"kind": "difference", "model": one.model, "title": one.title, "less": one.base}
            | axes
            | one.column.model_dump()
            | estimate
            | {"leakage": " ".join(_leakage(record, one))}
        )
    return text.getvalue()


def _measured_lines(record: ExperimentRecord) -> Iterator[dict[str, object]]:
    for run in record.runs:
        for cell in run.cells:
            shown = [m for c in _present(record) if (m := find(cell, c.evaluator, c.metric)) is not None]
            for measurement in [*shown, *record.by_class.get(cell.id, ())]:
                yield {
                    "kind": "measured",
                    "run": run.name,
                    "model": cell.spec.model,
                    "title": cell.title,
                    "regime": cell.spec.regime,
                    "augmentation": cell.spec.augmentation,
                    "head": cell.spec.head,
                    "seed": cell.spec.seed,
                    "evaluator": measurement.evaluator,
                    "metric": measurement.metric,
                    "leakage": " ".join(run.record.leakage),
                } | _estimate(measurement.estimate)


def _reported_lines(record: ExperimentRecord) -> Iterator[dict[str, object]]:
    for one in record.experiment.paper.figures if record.experiment.paper else ():
        about = one.model_dump(include={"run", "model", "title", "regime", "augmentation", "head", "note"})
        for metric, value in one.figures.items():
            low, high = value if isinstance(value, tuple) else ("", "")
            figure = {"metric": metric, "value": "" if isinstance(value, tuple) else value, "low": low, "high": high}
            yield {"kind": "computed" if one.computed else "reported"} | about | figure


def _estimate(estimate: Estimate) -> dict[str, object]:
    numbers = estimate.model_dump(include={"value", "low", "high", "n", "n_patients"})
    return {name: "" if value != value else value for name, value in numbers.items()} | {"note": estimate.why_undefined}
