"""What a reader must know before reading a run's figures, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmark.evaluate.analysis import is_naive
from benchmark.result import CellResult, DatasetRecord, Finding, RewordingRecord, RunRecord

if TYPE_CHECKING:
    from leaderboards.view import Row


Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Notice:
    """Something to know before reading the figures."""

    severity: Severity
    title: str
    text: str
    link: str = ""
    """Where more is said: an address relative to the leaderboard's page."""
    everywhere: bool = False
    """Whether every page of the site must say it."""


def notices(run: RunRecord, rows: Sequence[Row], failures: Sequence[CellResult]) -> list[Notice]:
    """All that a run gives cause to say, the gravest first."""
    candidates = [
        leakage(run),
        _unfinished(run, len(rows) + len(failures)),
        _failed(failures),
        _undefined(rows),
        _no_intervals(rows),
        _no_naive(rows),
        _random(rows),
        _from_file(rows),
        _patients_shown(run),
        _synthetic(run.dataset),
        _ungrouped(run),
        _no_reports(run.dataset, rows),
        _excluded(run.dataset),
        *_rewordings(rows),
        *(_audit(run.audit)),
    ]
    return [notice for notice in candidates if notice is not None]


def leakage(run: RunRecord) -> Notice | None:
    """What is said on every page of a run whose split leaks."""
    if not run.leakage:
        return None
    text = (
        f"Parts of the split share patients or pictures ({', '.join(run.leakage)}), and the run was allowed to go on"
        " with that. Every figure is too good: none says how well a model does on patients it has not seen."
    )
    return Notice("error", "Leakage: test is not held out", text, everywhere=True)


def _unfinished(run: RunRecord, finished: int) -> Notice | None:
    if finished >= len(run.cells):
        return None
    text = f"{finished} of {len(run.cells)} planned rows have a result; the others are not on this page."
    return Notice("warning", "This run is not finished", text)


def _failed(failures: Sequence[CellResult]) -> Notice | None:
    if not failures:
        return None
    names = ", ".join(dict.fromkeys(result.title for result in failures))
    return Notice(
        "error", f"{_count(len(failures), 'row')} failed", f"Of {names}. All other rows stand.", link="#failed"
    )


def _undefined(rows: Sequence[Row]) -> Notice | None:
    reasons = [row.primary.estimate.why_undefined for row in rows if row.primary and math.isnan(row.value)]
    if not reasons:
        return None
    text = f"Of {_count(len(reasons), 'row')}, which therefore {'has' if len(reasons) == 1 else 'have'} no rank: "
    return Notice("warning", "The figure that rows are ranked by is undefined", text + _reasons(reasons))


def _no_intervals(rows: Sequence[Row]) -> Notice | None:
    reasons = [
        row.primary.estimate.why_undefined
        for row in rows
        if row.primary and not math.isnan(row.value) and math.isnan(row.primary.estimate.low)
    ]
    if not reasons:
        return None
    return Notice("warning", "No interval", f"{_count(len(reasons), 'row')}: {_reasons(reasons)}")


def _reasons(reasons: Sequence[str | None]) -> str:
    words = ((reason or "no reason recorded").removeprefix("no interval: ") for reason in reasons)
    return "; ".join(dict.fromkeys(words)) + "."


def _no_naive(rows: Sequence[Row]) -> Notice | None:
    if not rows or any(is_naive(row.result) for row in rows):
        return None
    text = (
        "Nothing here says what can be had for nothing: the majority class, metadata, the report's words, picture"
        " statistics, random and ImageNet features. Run with all models to see them."
    )
    return Notice("warning", "No naive rows", text)


def _random(rows: Sequence[Row]) -> Notice | None:
    random = [row for row in rows if row.result.spec.random_weights]
    if not random:
        return None
    untrained = sum(row.untrained for row in random)
    every = "Every model starts" if len(random) == sum(row.competes for row in rows) else "Some models start"
    if untrained == len(random):
        state = "none of their rows is trained"
    else:
        be = "is" if untrained == 1 else "are"
        state = f"{untrained} of their {len(random)} rows {be} untrained, the others were trained on this dataset alone"
    text = (
        f"{every} from random numbers instead of published weights: {state}. Each is labelled. None of them says what"
        " the published model can do."
    )
    return Notice("warning", "Random weights", text, everywhere=True)


def _from_file(rows: Sequence[Row]) -> Notice | None:
    count = sum(row.result.spec.start == "file" for row in rows)
    if not count:
        return None
    text = (
        f"{_count(count, 'row')} from a saved state that was given by its path. What that was trained on is not known"
        " here: if patients of this test part were among it, these figures are too good."
    )
    return Notice("warning", "Weights from a file", text)


def _patients_shown(run: RunRecord) -> Notice | None:
    if run.dataset.synthetic or not run.config.get("include_images"):
        return None
    text = (
        "The models' pages show test pictures and phrases of their reports, as --include-images asked for. Make sure"
        " that they may be shown before this folder leaves the house."
    )
    return Notice("warning", "Pictures of patients", text)


def _synthetic(dataset: DatasetRecord) -> Notice | None:
    if not dataset.synthetic:
        return None
    return Notice(
        "warning", "Synthetic data", "A program drew these pictures. No figure here is about patients.", everywhere=True
    )


def _ungrouped(run: RunRecord) -> Notice | None:
    if run.split.grouped_by == "patient":
        return None
    text = (
        "Rows are grouped by identical picture instead: two pictures of one patient may lie on both sides of the"
        " split. Figures may be too good, and intervals too narrow."
    )
    return Notice("warning", "No patient ids, so the split may leak", text)


def _no_reports(dataset: DatasetRecord, rows: Sequence[Row]) -> Notice | None:
    if dataset.has_reports:
        return None
    image = [row.result.left_out for row in rows if row.competes]
    everywhere = [name for name in (image[0] if image else {}) if all(name in left for left in image)]
    missing = ", ".join(name.replace("_", "-") for name in everywhere)
    text = "This dataset has pictures and labels only, so no model is trained on pairs."
    return Notice("note", "No reports", f"{text} Left out: {missing}." if missing else text)


def _excluded(dataset: DatasetRecord) -> Notice | None:
    if not dataset.exclusions:
        return None
    reasons = "; ".join(f"{reason} ({count})" for reason, count in dataset.exclusions.items())
    return Notice("warning", f"{_count(sum(dataset.exclusions.values()), 'sample')} left out", f"{reasons}.")


def _rewordings(rows: Sequence[Row]) -> list[Notice]:
    """What was refused of each augmentation's texts; in counts, for a page shows no report's words."""
    records = [RewordingRecord.model_validate(found) for row in rows if (found := _reworded(row.result))]
    said: dict[str, RewordingRecord] = {record.augmentation: record for record in records if record.worth_saying}
    return [
        Notice("warning", f"Rewordings of the augmentation {name}", f"{record.summary}.")
        for name, record in sorted(said.items())
    ]


def _reworded(result: CellResult) -> dict[str, object] | None:
    found: dict[str, object] | None = (result.fits.get("training") or {}).get("rewordings")
    return found


def _audit(findings: Sequence[Finding]) -> list[Notice]:
    notices = []
    for severity in SEVERITIES:
        found = [finding for finding in findings if finding.severity == severity and not finding.muted]
        if found:
            notices.append(_found(severity, f"Audit of the data: {_count(len(found), severity)}", found))
    if muted := [finding for finding in findings if finding.muted]:
        notices.append(_found("note", f"Audit of the data: {_count(len(muted), 'finding')} muted by --ignore", muted))
    return notices


def _found(severity: Severity, title: str, findings: Sequence[Finding]) -> Notice:
    text = "; ".join(f"{finding.code}, {finding.message}" for finding in findings)
    return Notice(severity, title, f"{text}.", "data.html#audit")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
