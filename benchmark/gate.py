"""Has a change made anything worse? A run against a reference file, cell by cell, with a margin for every metric.

The rule is non-inferiority: a cell passes where the 95% interval of its difference from the reference, paired patient
by patient, stays above minus the margin. So a change fails that lost more than the margin, and also one of which the
test set cannot show that it did not. Where a difference has no interval (of calibration errors, of one patient) the
figures alone are judged, and the verdict says so.

The reference file holds what pairing needs and no more: scores in the order of the samples' names, which patient each
sample is of (numbered as they appear), and one digest of all names. Neither names nor texts are in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from benchmark.comparison import Measured, Place, Run, gain, known_metric, measure, other_question, recorded
from benchmark.errors import BadInput
from benchmark.evaluate.compare import Side
from benchmark.evaluate.metrics import primary_metric
from benchmark.evaluate.predictions import score_columns
from benchmark.result import PROTOCOL_VERSION, CellResult, Estimate, Number, Task, digest, write_atomically

SCHEMA_VERSION = 1
"""Version of the reference file; a reader refuses a newer one."""

MARGIN = 0.02
"""Loss of the primary metric that a new reference tolerates."""

CLASSES_MARGIN = 0.05
"""The same of balanced accuracy, which is one flip of a prediction coarser."""

THROUGHPUT_MARGIN = 0.5
"""Share of the throughput that a new reference tolerates to be lost: rates measured in half a second are rough."""

DIGITS = 6
"""Significant digits of a score in the reference; the run's scores are rounded alike before they are compared."""

RESULT, THROUGHPUT = "result", "images_per_gflop"
"""What is checked of a cell beside its metrics: that it has a result, and its rate against a matrix product's."""

Floats = NDArray[np.float64]
Outcome = Literal["passed", "failed", "not judged"]


def _numbers(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    return value.split() if isinstance(value, str) else value


def _line(values: Sequence[float]) -> str:
    return " ".join(f"{value:.{DIGITS}g}" for value in values)


Score = Annotated[float, Field(allow_inf_nan=False)]
Scores = Annotated[tuple[Score, ...], BeforeValidator(_numbers), PlainSerializer(_line, when_used="json")]
"""One score a sample; one line of text in the file, which stays short enough for its margins to be edited by hand."""

Codes = Annotated[
    tuple[int, ...],
    BeforeValidator(_numbers),
    PlainSerializer(lambda codes: " ".join(map(str, codes)), when_used="json"),
]
"""One whole number a sample, written likewise."""

Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReferenceCell(_Part):
    """One row of the reference."""

    place: Place
    values: dict[str, Number] = {}
    """Metric -> figure as it was recorded; compared without an interval where there are no scores."""
    images_per_gflop: Number = math.nan
    scores: tuple[Scores, ...] = ()
    """Class -> scores of the test samples, in the order of their names; empty where they were not kept."""


class Reference(_Part):
    """The whole reference file."""

    schema_version: int = SCHEMA_VERSION
    protocol_version: str = PROTOCOL_VERSION
    dataset: str
    split: str
    """Fingerprint."""
    margins: dict[str, Margin] = Field(min_length=1)
    """Metric -> loss that is tolerated."""
    throughput_margin: float | None = Field(THROUGHPUT_MARGIN, ge=0, le=1)
    """Share of ``images_per_gflop`` that may be lost; null leaves throughput alone."""
    samples: str
    """Digest of the names of the test samples, sorted."""
    patients: Codes
    """Patient of each test sample in that order, numbered as they appear."""
    cells: tuple[ReferenceCell, ...] = Field(min_length=1)


class Check(_Part):
    """One thing that was looked at."""

    place: Place
    what: str
    """A metric, ``images_per_gflop``, or ``result``."""
    outcome: Outcome
    before: Number = math.nan
    after: Number = math.nan
    difference: Estimate | None = None
    """After less before, of a metric."""
    margin: Number = math.nan
    why: str = ""
    """Why it failed or was not judged, or what its passing does not rest on."""


class Verdict(_Part):
    """All checks, in the order of the reference."""

    dataset: str
    split: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What a reader should know and nothing failed of."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed; the run passes where there are none."""
        return tuple(check for check in self.checks if check.outcome == "failed")


# --------------------------------------------------------------------------------------------- the reference


def read_reference(file: Path) -> Reference:
    """Read a reference file.

    Raises:
        BadInput: naming the field that is wrong, or where a newer version wrote the file.
    """
    try:
        reference = Reference.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise BadInput(f"{file}: there is no reference yet; --update writes one from this run") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BadInput(
            f"{file}: not a reference ({where}: {first['msg']}); mend it, or delete it and --update"
        ) from error
    if reference.schema_version > SCHEMA_VERSION:
        raise BadInput(f"{file}: written by a newer version (schema {reference.schema_version}); update this program")
    return reference


def write_reference(reference: Reference, file: Path) -> None:
    """Write a reference file."""
    write_atomically(file, (reference.model_dump_json(indent=1) + "\n").encode())


def default_margins(task: Task) -> dict[str, float]:
    """The margins of a new reference."""
    balanced = "balanced_accuracy_macro" if task == "multilabel" else "balanced_accuracy"
    return {primary_metric(task): MARGIN, balanced: CLASSES_MARGIN}


def take_reference(run: Run, old: Reference | None = None) -> Reference:
    """Make a reference of the finished cells of a run, with the margins of an old one.

    Raises:
        BadInput: where nothing is finished, or a margin is of a metric that the run does not have.
    """
    finished = {place: cell for place, cell in run.cells.items() if cell.status == "done"}
    if not finished:
        raise BadInput(f"{run.folder.path} has no finished cell to make a reference of; run it first")
    margins = old.margins if old else default_margins(run.record.dataset.task)
    _check_margins(margins, next(iter(finished.values())))
    sides = {place: run.side(place) for place in finished}
    rows = _rows(next(iter(sides.values())))
    return Reference(
        dataset=run.record.dataset.name,
        split=run.record.split.fingerprint,
        margins=margins,
        throughput_margin=old.throughput_margin if old else THROUGHPUT_MARGIN,
        samples=_digest_of(rows),
        patients=_patients(rows),
        cells=tuple(
            ReferenceCell(
                place=place,
                values={metric: recorded(cell, metric) for metric in margins},
                images_per_gflop=cell.profile.images_per_gflop,
                scores=tuple(tuple(column) for column in _scores(sides[place]).T.tolist()),
            )
            for place, cell in finished.items()
        ),
    )


def _check_margins(margins: dict[str, float], cell: CellResult) -> None:
    for metric in margins:
        known_metric(metric, cell)


def _rows(side: Side) -> pd.DataFrame:
    (rows,) = side.predictions
    return rows


def _digest_of(rows: pd.DataFrame) -> str:
    return digest([str(name) for name in rows["sample"]])


def _patients(rows: pd.DataFrame) -> tuple[int, ...]:
    return tuple(pd.factorize(rows["group"])[0].tolist())


def _scores(side: Side) -> Floats:
    """(n, C) scores as the reference keeps them."""
    table = _rows(side)[score_columns(side.classes)].to_numpy(np.float64)
    return np.array([[float(f"{score:.{DIGITS}g}") for score in row] for row in table])


# --------------------------------------------------------------------------------------------- the verdict


class Ruling(NamedTuple):
    """What a difference comes to."""

    outcome: Outcome
    why: str = ""


def rule(difference: Estimate, metric: str, margin: float) -> Ruling:
    """Decide on one difference, after less before.

    Passes where the worse end of the interval lies no further than the margin on the worse side of zero. Without an
    interval the difference itself stands in for that end, and the reason says so.
    """
    better = gain(difference, metric)
    alone = f"by the figures alone ({difference.why_undefined})"
    if math.isnan(better.low):
        if better.value >= -margin:
            return Ruling("passed", f"judged {alone}")
        return Ruling("failed", f"worse by {-better.value:.4f}, more than the margin of {margin:g}; judged {alone}")
    if better.low >= -margin:
        return Ruling("passed")
    if better.value < -margin:
        return Ruling("failed", f"worse by {-better.value:.4f}, more than the margin of {margin:g}")
    return Ruling(
        "failed",
        f"not shown to be within the margin of {margin:g}: the interval allows a loss of {-better.low:.4f}",
    )


def judge(run: Run, reference: Reference) -> Verdict:
    """Hold a run against a reference.

    Raises:
        BadInput: where the run puts another question: other test patients, labels or pictures; or the reference does
            not hang together.
    """
    record = run.record
    question = other_question((reference.dataset, reference.split), (record.dataset.name, record.split.fingerprint))
    if question:
        raise BadInput(f"cannot gate {run.folder.path}: {question}; --update makes this run the reference")
    finished = next((cell for cell in run.cells.values() if cell.status == "done"), None)
    if finished is not None:
        _check_margins(reference.margins, finished)
    return Verdict(
        dataset=record.dataset.name,
        split=record.split.fingerprint,
        checks=tuple(check for cell in reference.cells for check in _checks(cell, run, reference)),
        notes=tuple(_notes(run, reference)),
    )


def _notes(run: Run, reference: Reference) -> Iterator[str]:
    versions = dict.fromkeys(cell.spec.protocol_version for cell in run.cells.values())
    for version in versions:
        if version != reference.protocol_version:
            yield f"the reference was measured under protocol {reference.protocol_version}, the run under {version}"
    if run.record.status != "done":
        yield f"the run is not over: its status is {run.record.status!r}"
    known = {cell.place for cell in reference.cells}
    for place in run.cells:
        if place not in known:
            yield f"not in the reference, and not judged: {place}"


def _checks(cell: ReferenceCell, run: Run, reference: Reference) -> Iterator[Check]:
    missing = run.why_without(cell.place)
    yield Check(place=cell.place, what=RESULT, outcome="failed" if missing else "passed", why=missing)
    if missing:
        return
    for metric, found in _differences(cell, run, reference).items():
        yield _metric_check(cell.place, metric, found, reference.margins[metric])
    margin = reference.throughput_margin
    if margin is not None and cell.images_per_gflop > 0:
        yield _throughput_check(cell, run.cells[cell.place].profile.images_per_gflop, margin)


def _differences(cell: ReferenceCell, run: Run, reference: Reference) -> dict[str, Measured]:
    if cell.scores:
        after = run.side(cell.place)
        return measure(_side_of(cell, after, reference), _rounded(after), reference.margins, run.record.replicates)
    why = "the reference holds no scores of this cell"
    found = {}
    for metric in reference.margins:
        before, now = cell.values.get(metric, math.nan), recorded(run.cells[cell.place], metric)
        found[metric] = Measured(before, now, Estimate(value=now - before, n=0, n_patients=0, why_undefined=why))
    return found


def _side_of(cell: ReferenceCell, after: Side, reference: Reference) -> Side:
    """The reference's scores on the rows of the run, whose labels and patients are the same."""
    rows = _rows(after)
    shape = (len(after.classes), len(rows))
    if _digest_of(rows) != reference.samples or _patients(rows) != reference.patients:
        raise BadInput(f"the reference has other test samples or patients than {cell.place}; write it with --update")
    if (len(cell.scores), *{len(scores) for scores in cell.scores}) != shape:
        raise BadInput(f"the reference has not {shape[1]} scores in {shape[0]} classes for {cell.place}; --update it")
    return _with_scores(after, np.array(cell.scores).T)


def _rounded(side: Side) -> Side:
    return _with_scores(side, _scores(side))


def _with_scores(side: Side, scores: Floats) -> Side:
    rows = _rows(side)
    columns = dict(zip(score_columns(side.classes), scores.T, strict=True))
    return replace(side, predictions=[rows.assign(group=list(_patients(rows)), **columns)])


def _metric_check(place: Place, metric: str, found: Measured, margin: float) -> Check:
    if math.isnan(found.before):
        ruling = Ruling("not judged", "undefined in the reference")
    elif math.isnan(found.after):
        ruling = Ruling("failed", f"no longer defined: {found.difference.why_undefined}")
    else:
        ruling = rule(found.difference, metric, margin)
    return Check(place=place, what=metric, margin=margin, **found._asdict(), **ruling._asdict())


def _throughput_check(cell: ReferenceCell, after: float, margin: float) -> Check:
    lost = 1 - after / cell.images_per_gflop
    ruling = Ruling("passed")
    if math.isnan(after):
        ruling = Ruling("not judged", "the run recorded no rate against a matrix product")
    elif lost > margin:
        ruling = Ruling("failed", f"{lost:.0%} slower against a matrix product, more than the margin of {margin:.0%}")
    return Check(
        place=cell.place, what=THROUGHPUT, before=cell.images_per_gflop, after=after, margin=margin, **ruling._asdict()
    )
