"""What a reader must know about a dataset and its split before believing a figure: findings with stable codes.

Each check is one small function over a ``Case`` that says what it found, or None; ``CHECKS`` gives them their codes.
A finding names rows of the manifest, never patients, and never quotes a report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from benchmark.data.manifest import Dataset
from benchmark.data.split import Split
from benchmark.result import Finding

_Key = TypeVar("_Key", int, str)

EXAMPLES = 20
"""Rows that a finding names at most."""

CLEAR, TELLING = 0.001, 0.1
"""Fisher's p below which, and difference of shares from which, the absence of a report is said to tell the label."""

ENOUGH_PATIENTS = 10
"""Patients of a class in the test part below which its figures are mostly noise."""


@dataclass(frozen=True, eq=False)
class Case:
    """What is audited."""

    dataset: Dataset
    split: Split
    parts: NDArray[np.str_]
    """(n,) of ``train``, ``val``, ``test``."""

    def rows(self, positions: Iterable[int]) -> list[int]:
        """Row numbers in the manifest of some samples, ascending."""
        return sorted(int(self.dataset.rows[position]) for position in positions)


@dataclass(frozen=True)
class Found:
    """What a check says; ``audit`` adds its code."""

    severity: Literal["error", "warning", "note"]
    message: str
    remedy: str
    rows: Sequence[int] = ()
    count: int | None = None
    """How many there are; the number of rows where it is not said."""


def audit(dataset: Dataset, split: Split) -> tuple[Finding, ...]:
    """Run every check; findings come in the order of their codes."""
    parts = np.full(len(dataset), "train")
    parts[split.val], parts[split.test] = "val", "test"
    case = Case(dataset, split, parts)
    findings = []
    for code, check in CHECKS.items():
        found = check(case)
        if found is not None:
            findings.append(
                Finding(
                    code=code,
                    severity=found.severity,
                    message=found.message,
                    count=len(found.rows) if found.count is None else found.count,
                    rows=tuple(found.rows[:EXAMPLES]),
                    remedy=found.remedy,
                )
            )
    return tuple(findings)


def patient_overlap(case: Case) -> Found | None:
    """Find rows of patients who are in more than one part."""
    crossing = [same for same in _repeats(case.dataset.groups.tolist()) if len(set(case.parts[same])) > 1]
    if case.dataset.grouped_by != "patient" or not crossing:
        return None
    rows = case.rows(position for same in crossing for position in same)
    patients = _count(len(crossing), "patient is", "patients are")
    return Found(
        "error",
        f"{patients} in more than one part of the split ({_count(len(rows), 'row', 'rows')}): test figures flatter",
        "divide by patient: take 'columns.split' out of the card, or mend the split column",
        rows,
    )


def identical_pictures(case: Case) -> Found | None:
    """Find rows that show the same pixels; an error where they lie in different parts."""
    dataset = case.dataset
    same_pictures = _repeats(dataset.pixel_hashes)
    if not same_pictures:
        return None
    crossing = [same for same in same_pictures if len(set(case.parts[same])) > 1]
    rows = case.rows(position for same in crossing or same_pictures for position in same)
    where = "in different parts of the split" if crossing else "within one part of the split"
    message = f"{_count(len(rows), 'row shows', 'rows show')} a picture that another row shows too, {where}"
    conflicting = sum(len(np.unique(dataset.labels[same], axis=0)) > 1 for same in same_pictures)
    if conflicting:
        message += f"; {_count(conflicting, 'picture has', 'pictures have')} conflicting labels"
    several = sum(len(np.unique(dataset.groups[same])) > 1 for same in same_pictures)
    if several:
        message += f"; {_count(several, 'picture is', 'pictures are')} under several patient ids"
    remedy = "give rows of one picture one patient id and one label, or keep one of them"
    return Found("error" if crossing else "note", message, remedy, rows)


def identical_texts(case: Case) -> Found | None:
    """Find validation and test rows whose report, but for case and blanks, is also a training report."""
    reports = [" ".join((report or "").lower().split()) for report in case.dataset.reports or ()]
    if not reports:
        return None
    known = {reports[position] for position in case.split.train} - {""}
    in_test = [position for position in case.split.test if reports[position] in known]
    in_val = [position for position in case.split.val if reports[position] in known]
    if not in_test and not in_val:
        return None
    return Found(
        "warning" if in_test else "note",
        f"{_count(len(in_test), 'test row', 'test rows')} and {len(in_val)} of validation have a report that training "
        "has too: results of text, and of retrieval, partly measure memory",
        "read text and retrieval figures with care; template phrases are natural, copies are not",
        case.rows(in_test) + case.rows(in_val),
    )


def few_patients(case: Case) -> Found | None:
    """Find classes with fewer than ten patients in the test part, or none to learn from."""
    unit = "patients" if case.dataset.grouped_by == "patient" else "different pictures"
    few = []
    for name, has in _classes(case.dataset):
        n = {part: len(np.unique(case.dataset.groups[has & (case.parts == part)])) for part in ("train", "val", "test")}
        if n["test"] < ENOUGH_PATIENTS or not n["train"] or not n["val"]:
            few.append(f"{name!r} {n['train']}/{n['val']}/{n['test']}")
    if not few:
        return None
    return Found(
        "warning",
        f"{_count(len(few), 'class has', 'classes have')} fewer than {ENOUGH_PATIENTS} {unit} in the test part, or "
        f"none to learn from (train/val/test: {', '.join(few)}): figures about them are uncertain or undefined",
        "add patients, merge rare classes in the card, or go by the intervals",
        count=len(few),
    )


def no_patient_ids(case: Case) -> Found | None:
    """Find that nobody said which rows belong to one patient."""
    if case.dataset.grouped_by == "patient":
        return None
    return Found(
        "warning",
        "there are no patient ids: rows are grouped by identical picture, so pictures of one patient may lie in "
        "different parts, and the split may leak",
        "add a patient or study id to the manifest and name it in the card's field 'columns.patient_id'",
        count=len(case.dataset),
    )


def rows_without_report(case: Case) -> Found | None:
    """Find rows without a report in a dataset that has reports."""
    positions = [position for position, report in enumerate(case.dataset.reports or ()) if not report]
    if not positions:
        return None
    return Found(
        "note",
        f"{_count(len(positions), 'row has', 'rows have')} no report: the image task counts them, training on "
        "text and retrieval leave them out, and rows scored from text take them as empty",
        "add the reports, or set 'require_report: true' in the card to refuse such rows",
        case.rows(positions),
    )


def telling_absence(case: Case) -> Found | None:
    """Find that whether a row has a report goes with its label, so that no word need be read to guess it."""
    dataset = case.dataset
    absent = np.array([report is None for report in dataset.reports or ()], dtype=bool)
    if not absent.any() or absent.all():
        return None
    shares = {}
    for name, members in _classes(dataset):
        table = np.array([[(absent & where).sum(), (~absent & where).sum()] for where in (members, ~members)])
        inside, outside = table[:, 0] / table.sum(axis=1).clip(min=1)
        if inside - outside >= TELLING and fisher_exact(table).pvalue < CLEAR:
            shares[name] = f"{name!r} {inside:.0%}, the others {outside:.0%}"
    if not shares:
        return None
    return Found(
        "warning",
        f"whether there is a report goes with the label (share of rows without one: {'; '.join(shares.values())}): "
        "what is scored from text may score its absence",
        "set 'require_report: true' in the card, or read text rows with this in mind",
        count=int(absent.sum()),
    )


def no_reports(case: Case) -> Found | None:
    """Find that a dataset has pictures alone."""
    if case.dataset.reports is not None:
        return None
    return Found(
        "note",
        "there are no reports: text columns, training on text, zero-shot of trained text and retrieval are left out",
        "name the report column in the card's field 'columns.report' if there is one",
    )


def excluded_rows(case: Case) -> Found | None:
    """Find rows that were left out because the user allowed it."""
    exclusions = case.dataset.exclusions
    if not exclusions:
        return None
    reasons = Counter(exclusion.reason for exclusion in exclusions).most_common()
    counted = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    return Found(
        "note",
        f"{_count(len(exclusions), 'row was', 'rows were')} left out: {counted}",
        "mend these rows; a result on the rest is a result about the rest",
        [exclusion.row for exclusion in exclusions],
    )


def empty_columns(case: Case) -> Found | None:
    """Find columns that the card names and that are empty in every row, so that they count as absent."""
    dataset, columns = case.dataset, case.dataset.card.columns
    named = {
        "columns.report": (columns.report, dataset.reports is None),
        "columns.patient_id": (columns.patient_id, dataset.grouped_by != "patient"),
        "columns.split": (columns.split, dataset.given_split is None),
        "columns.mask": (columns.mask, dataset.masks is None),
        "columns.view": (columns.view, dataset.views is None),
    }
    empty = [f"{column!r} ({field})" for field, (column, absent) in named.items() if column and absent]
    present = () if dataset.structured is None else dataset.structured.columns
    empty += [f"{column!r} (structured)" for column in dataset.card.structured if column not in present]
    if not empty:
        return None
    return Found(
        "note",
        f"{_count(len(empty), 'column', 'columns')} that the card names are empty in every row and count as absent: "
        f"{', '.join(empty)}",
        "fill them, or take them out of the card",
        count=len(empty),
    )


def validation_from_training(case: Case) -> Found | None:
    """Find that a given split had no validation part, so that one was made."""
    if not case.split.val_from_train:
        return None
    return Found(
        "note",
        f"the given split has no validation part: {_count(len(case.split.val), 'row was', 'rows were')} taken out of "
        "its training part, by patient",
        "mark validation rows in the split column to choose them yourself",
        case.rows(case.split.val),
    )


def two_sources(case: Case) -> Found | None:
    """Find that training and test pictures are of two datasets, and what was left out in joining them."""
    sources = case.dataset.sources
    if sources is None:
        return None
    return Found(
        "note",
        f"trained on {sources.train!r}, tested on {sources.test!r}, whose rows are counted on after those of the "
        f"first: {'; '.join(sources.notes)}",
        "patient ids of the two are not compared: somebody in both is found only by identical pictures",
        count=len(case.split.test),
    )


CHECKS: dict[str, Callable[[Case], Found | None]] = {
    "LB001": patient_overlap,
    "LB002": identical_pictures,
    "LB003": identical_texts,
    "LB009": few_patients,
    "LB010": no_patient_ids,
    "LB011": rows_without_report,
    "LB012": no_reports,
    "LB013": excluded_rows,
    "LB014": empty_columns,
    "LB015": validation_from_training,
    "LB016": telling_absence,
    "LB017": two_sources,
}
"""Code, which never changes its meaning, to check."""


def _repeats(keys: Sequence[_Key]) -> list[list[int]]:
    # positions that share a key, for every key that occurs more than once
    where: dict[_Key, list[int]] = {}
    for position, key in enumerate(keys):
        where.setdefault(key, []).append(position)
    return [positions for positions in where.values() if len(positions) > 1]


def _classes(dataset: Dataset) -> Iterable[tuple[str, NDArray[np.bool_]]]:
    # who has each class; a label of a multilabel task needs patients with it and patients without it
    for index, name in enumerate(dataset.classes):
        if dataset.labels.ndim == 1:
            yield name, dataset.labels == index
        else:
            yield name, dataset.labels[:, index] == 1
            yield f"no {name}", dataset.labels[:, index] == 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
