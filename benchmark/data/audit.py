"""What a reader must know about a dataset and its split before believing a figure: findings with stable codes.

Each check is one small function over a ``Case`` that says what it found, or None; ``CHECKS`` gives them their codes.
A finding names rows of the manifest, never patients, and never quotes a report. An error means leakage, parts that
share patients or pictures, and stops a run; what only may be leakage, or makes figures hard to read, is a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from benchmark.data import lookalikes, telling
from benchmark.data.audit_texts import (
    identical_texts,
    named_labels,
    no_reports,
    rows_without_report,
    similar_texts,
    telling_absence,
    telling_reports,
)
from benchmark.data.case import Case, Found, Progress, amount, memberships
from benchmark.data.manifest import Dataset
from benchmark.data.split import Split
from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput, Leakage
from benchmark.result import Finding

_Key = TypeVar("_Key", int, str)

EXAMPLES = 20
"""Rows that a finding names at most."""

FAR = 0.75
"""Lower end of the AUROC's interval from which structured columns are said to tell the label: less than of reports,
for who was scanned where should say little about it."""

ENOUGH_PATIENTS = 10
"""Patients of a class in the test part below which its figures are mostly noise."""


def audit(dataset: Dataset, split: Split, progress: Progress | None = None) -> tuple[Finding, ...]:
    """Run every check; findings come in the order of their codes.

    Args:
        dataset: validated samples.
        split: how they are divided.
        progress: called with (pictures looked at, pictures in all).
    """
    parts = np.full(len(dataset), "train")
    parts[split.val], parts[split.test] = "val", "test"
    case = Case(dataset, split, parts, progress)
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
    patients = amount(len(crossing), "patient is", "patients are")
    return Found(
        "error",
        f"{patients} in more than one part of the split ({amount(len(rows), 'row', 'rows')}): test figures flatter",
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
    message = f"{amount(len(rows), 'row shows', 'rows show')} a picture that another row shows too, {where}"
    conflicting = sum(len(np.unique(dataset.labels[same], axis=0)) > 1 for same in same_pictures)
    if conflicting:
        message += f"; {amount(conflicting, 'picture has', 'pictures have')} conflicting labels"
    several = sum(len(np.unique(dataset.groups[same])) > 1 for same in same_pictures)
    if several:
        message += f"; {amount(several, 'picture is', 'pictures are')} under several patient ids"
    remedy = "give rows of one picture one patient id and one label, or keep one of them"
    return Found("error" if crossing else "note", message, remedy, rows)


def similar_pictures(case: Case) -> Found | None:
    """Find pictures of different patients in different parts that look alike though their pixels differ."""
    dataset = case.dataset
    hashes_of = np.unique(np.array(dataset.pixel_hashes), return_inverse=True)[1]
    reduced = lookalikes.reduce_all(dataset.pixels, case.progress)
    hashes = lookalikes.hash_all(reduced)
    of_part = {part: np.flatnonzero(case.parts == part) for part in ("train", "val", "test")}
    found: set[int] = set()
    for one, other in (("test", "train"), ("val", "train"), ("test", "val")):
        ours, theirs = of_part[one], of_part[other]
        for i, j in lookalikes.near_pairs(hashes[ours], hashes[theirs]):
            a, b = ours[i], theirs[j]
            apart = (dataset.groups[a] != dataset.groups[b]) & (hashes_of[a] != hashes_of[b])
            a, b = a[apart], b[apart]
            alike = lookalikes.look_alike(reduced, a, b)
            found.update(a[alike].tolist(), b[alike].tolist())
    if not found:
        return None
    who = "of different patients" if dataset.grouped_by == "patient" else "of whom nobody knows the patient"
    return Found(
        "warning",
        f"{len(found)} rows show pictures {who} in different parts that look like copies of each other, their pixels "
        "not the same: if they are, test figures flatter",
        "look at these rows; give copies one patient id, or keep one of them",
        case.rows(found),
    )


def telling_metadata(case: Case) -> Found | None:
    """Find that the structured columns tell the label, to samples of patients who were not learned from."""
    guess = telling.from_metadata(case.dataset, case.split.train)
    if guess is None or guess.low <= 0.5:
        return None
    far = guess.low >= FAR
    return Found(
        "warning" if far else "note",
        f"the structured columns tell {'the label' if far else 'something about the label'}: {guess}",
        "read a picture model's figures beside the row of metadata alone: it may have learned who was scanned where",
        count=len(case.split.train),
    )


def few_patients(case: Case) -> Found | None:
    """Find classes with fewer than ten patients in the test part, or none to learn from."""
    unit = "patients" if case.dataset.grouped_by == "patient" else "different pictures"
    few = []
    for name, has in memberships(case.dataset):
        n = {part: len(np.unique(case.dataset.groups[has & (case.parts == part)])) for part in ("train", "val", "test")}
        if n["test"] < ENOUGH_PATIENTS or not n["train"] or not n["val"]:
            few.append(f"{name!r} {n['train']}/{n['val']}/{n['test']}")
    if not few:
        return None
    return Found(
        "warning",
        f"{amount(len(few), 'class has', 'classes have')} fewer than {ENOUGH_PATIENTS} {unit} in the test part, or "
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


def excluded_rows(case: Case) -> Found | None:
    """Find rows that were left out because the user allowed it."""
    exclusions = case.dataset.exclusions
    if not exclusions:
        return None
    reasons = Counter(exclusion.reason for exclusion in exclusions).most_common()
    counted = ", ".join(f"{reason} ({n})" for reason, n in reasons)
    return Found(
        "note",
        f"{amount(len(exclusions), 'row was', 'rows were')} left out: {counted}",
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
        f"{amount(len(empty), 'column', 'columns')} that the card names are empty in every row and count as absent: "
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
        f"the given split has no validation part: {amount(len(case.split.val), 'row was', 'rows were')} taken out of "
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
        "patient ids of the two are not compared: somebody in both is found only by identical or copied pictures",
        count=len(case.split.test),
    )


def small_subgroups(case: Case) -> Found | None:
    """Find views, and categories of structured columns, with fewer than ten patients in the test part."""
    dataset = case.dataset
    columns = (
        {} if dataset.views is None else {str(dataset.card.columns.view): pd.Series(dataset.views, dtype="category")}
    )
    if dataset.structured is not None:
        columns |= {str(name): dataset.structured[name] for name in dataset.structured}
    few = []
    for name, column in columns.items():
        if column.dtype != "category":
            continue
        patients = pd.DataFrame({"value": column, "patient": dataset.groups, "test": case.parts == "test"})
        tested = patients["patient"].where(patients["test"]).groupby(patients["value"], observed=True).nunique()
        if (small := int((tested < ENOUGH_PATIENTS).sum())) and len(tested) > 1:
            few.append(f"{small} of {len(tested)} in {name!r}")
    if not few:
        return None
    unit = "patients" if dataset.grouped_by == "patient" else "different pictures"
    return Found(
        "note",
        f"subgroups with fewer than {ENOUGH_PATIENTS} {unit} in the test part: {', '.join(few)}",
        "say nothing about these subgroups from this test part, or add patients",
        count=len(few),
    )


CHECKS: dict[str, Callable[[Case], Found | None]] = {
    "LB001": patient_overlap,
    "LB002": identical_pictures,
    "LB003": identical_texts,
    "LB004": telling_reports,
    "LB005": similar_pictures,
    "LB006": similar_texts,
    "LB007": telling_metadata,
    "LB008": named_labels,
    "LB009": few_patients,
    "LB010": no_patient_ids,
    "LB011": rows_without_report,
    "LB012": no_reports,
    "LB013": excluded_rows,
    "LB014": empty_columns,
    "LB015": validation_from_training,
    "LB016": telling_absence,
    "LB017": two_sources,
    "LB018": small_subgroups,
}
"""Code, which never changes its meaning, to check."""


def muted(findings: Sequence[Finding], ignored: Collection[str]) -> tuple[Finding, ...]:
    """Mark the findings whose codes are to be ignored: they stay in the record, and out of the way.

    Raises:
        BadInput: for a code that there is not, or one that stands for leakage found here.
    """
    for code in ignored:
        if code not in CHECKS:
            raise BadInput(
                f"--ignore {code}: there is no such finding{did_you_mean(code, CHECKS)}; docs/data.md lists all"
            )
    for finding in findings:
        if finding.leaks and finding.code in ignored:
            raise BadInput(
                f"--ignore {finding.code}: leakage cannot be ignored; mend the split, or give --allow-leakage, which "
                "marks every row"
            )
    return tuple(f.model_copy(update={"muted": True}) if f.code in ignored else f for f in findings)


def refuse_leakage(findings: Sequence[Finding]) -> None:
    """Stop where the parts of the split share patients or pictures.

    Raises:
        Leakage: naming the codes, and the way on.
    """
    if leaks := [finding.code for finding in findings if finding.leaks]:
        raise Leakage(
            f"the split leaks ({', '.join(leaks)}), so test figures would flatter: mend it as 'data check' says, or "
            "give --allow-leakage to run nevertheless, with every row marked"
        )


def _repeats(keys: Sequence[_Key]) -> list[list[int]]:
    # positions that share a key, for every key that occurs more than once
    where: dict[_Key, list[int]] = {}
    for position, key in enumerate(keys):
        where.setdefault(key, []).append(position)
    return [positions for positions in where.values() if len(positions) > 1]
