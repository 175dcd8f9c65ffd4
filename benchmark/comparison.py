"""Two runs, cell by cell: which cells are the same row measured twice, and how far apart the figures are.

Cells are matched by where they stand (model, regime, augmentation, head, seed) and not by id, which changes with every
version of a model. Figures are those of the evaluator that rows are ranked by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict

from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput
from benchmark.evaluate.compare import Side, paired
from benchmark.evaluate.metrics import AT_VAL, RANKED_BY, primary_metric
from benchmark.evaluate.predictions import SpaceName
from benchmark.evaluate.resample import plug_in
from benchmark.result import CellResult, CellSpec, Estimate, Number, RunRecord
from benchmark.run_folder import RunFolder, read_record

LOWER_IS_BETTER = ("brier", "log_loss", "ece")
"""Metrics that measure errors; of all others more is better."""

Mark = Literal["worse", "better", "not distinguishable", "not comparable"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Part):
    """Where a cell stands in the matrix of a run."""

    model: str
    regime: str
    augmentation: str
    head: str
    seed: int

    @classmethod
    def of(cls, spec: CellSpec) -> Self:
        """The place of a cell."""
        return cls(model=spec.model, regime=spec.regime, augmentation=spec.augmentation, head=spec.head, seed=spec.seed)

    def __str__(self) -> str:
        return f"{self.model}, {self.regime} / {self.augmentation} / {self.head}, seed {self.seed}"


@dataclass(frozen=True)
class Run:
    """A run as it lies on disk."""

    folder: RunFolder
    record: RunRecord
    cells: Mapping[Place, CellResult]
    """Those that have a result, failed ones too, in the order of the plan."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a run folder.

        Raises:
            BadInput: where there is none, or it is damaged.
        """
        folder, record = RunFolder(path), read_record(path)
        return cls(folder, record, {Place.of(cell.spec): cell for cell in folder.results(record)})

    def why_without(self, place: Place) -> str:
        """Why a place has no figures; empty where it has."""
        cell = self.cells.get(place)
        if cell is None:
            return f"{self.folder.path} has no such cell"
        return f"it failed in {self.folder.path}: {cell.failure.summary}" if cell.failure else ""

    def side(self, place: Place) -> Side:
        """The predictions of a finished cell, in the order of its samples' names."""
        cell = self.cells[place]
        rows = ranked_rows(self.folder.predictions(cell.id), cell.primary_space, str(place))
        dataset = self.record.dataset
        return Side([rows], cell.primary_space, dataset.task, dataset.classes, self.record.split.fingerprint)


def ranked_rows(table: pd.DataFrame, space: SpaceName, place: str) -> pd.DataFrame:
    """The test rows that a row of the leaderboard is ranked by, in an order that the manifest's does not change.

    Raises:
        BadInput: where there are none.
    """
    mine = (table["split"] == "test") & (table["evaluator"] == RANKED_BY) & (table["space"] == space)
    if not mine.any():
        raise BadInput(f"{place}: no predictions of {RANKED_BY} in the space {space!r}; run it again with --fresh")
    return table[mine].sort_values("sample", ignore_index=True)


def known_metric(word: str, cell: CellResult) -> str:
    """Check the name of a metric against those that a cell was measured in.

    Raises:
        BadInput: with the nearest name that can be compared.
    """
    names = [m.metric for m in cell.measurements if m.evaluator == RANKED_BY and not m.metric.endswith(AT_VAL)]
    known = list(dict.fromkeys(names))
    if word not in known:
        raise BadInput(
            f"no metric {word!r} of {RANKED_BY} can be compared{did_you_mean(word, known)}; known: {', '.join(known)}"
        )
    return word


def recorded(cell: CellResult, metric: str) -> float:
    """A figure as the run wrote it down; NaN where it did not."""
    mine = (RANKED_BY, cell.primary_space, metric)
    return next((m.estimate.value for m in cell.measurements if (m.evaluator, m.space, m.metric) == mine), math.nan)


def gain(difference: Estimate, metric: str) -> Estimate:
    """A difference turned so that more is better."""
    if metric not in LOWER_IS_BETTER:
        return difference
    turned = {"value": -difference.value, "low": -difference.high, "high": -difference.low}
    return difference.model_copy(update=turned)


# --------------------------------------------------------------------------------------------- two runs


class Pair(_Part):
    """One cell in both runs."""

    place: Place
    before: Number = math.nan
    after: Number = math.nan
    difference: Estimate | None = None
    """After less before, with a paired interval."""
    mark: Mark
    note: str = ""
    """Why the two are not comparable or have no interval, and what differs beside the code."""


class Comparison(_Part):
    """All cells of two runs, those of the first in its order, then those that the second alone has."""

    metric: str
    question: str = ""
    """How the questions that the two runs put differ; empty where they are the same."""
    pairs: tuple[Pair, ...]


def compare(before: Run, after: Run, metric: str | None = None) -> Comparison:
    """Set every cell of two runs side by side.

    Args:
        before: one run.
        after: the other; differences are after less before.
        metric: of the ranking evaluator; the primary one where none is given.

    Raises:
        BadInput: where the metric is unknown.
    """
    finished = [cell for run in (before, after) for cell in run.cells.values() if cell.status == "done"]
    chosen = metric or primary_metric(before.record.dataset.task)
    if metric is not None and finished:
        known_metric(metric, finished[0])
    question = other_question(
        (before.record.dataset.name, before.record.split.fingerprint),
        (after.record.dataset.name, after.record.split.fingerprint),
    )
    places = dict.fromkeys([*before.cells, *after.cells])
    return Comparison(
        metric=chosen,
        question=question,
        pairs=tuple(_pair(place, before, after, chosen, question) for place in places),
    )


def other_question(before: tuple[str, str], after: tuple[str, str]) -> str:
    """How two (name of dataset, fingerprint of split) differ, in words; empty where the fingerprints are the same."""
    if before[1] == after[1]:
        return ""
    old, new = (f"{name!r} split as {fingerprint}" for name, fingerprint in (before, after))
    return f"a different question (other samples, patients, labels, pictures or parts): {old} before, {new} now"


def _pair(place: Place, before: Run, after: Run, metric: str, question: str) -> Pair:
    whys = [question] if question else [why for run in (before, after) if (why := run.why_without(place))]
    if whys:
        values = [recorded(run.cells[place], metric) if place in run.cells else math.nan for run in (before, after)]
        return Pair(place=place, before=values[0], after=values[1], mark="not comparable", note="; ".join(whys))
    found = measure(before.side(place), after.side(place), [metric], after.record.replicates)[metric]
    changes = _changes(before.cells[place].spec, after.cells[place].spec)
    return Pair(
        place=place,
        before=found.before,
        after=found.after,
        difference=found.difference,
        mark=mark(found.difference, metric),
        note="; ".join(filter(None, [found.difference.why_undefined, *changes])),
    )


def mark(difference: Estimate, metric: str) -> Mark:
    """What an interval says: worse or better where it lies on one side of nothing, zero itself left out."""
    better = gain(difference, metric)
    if math.isnan(better.value):
        return "not comparable"
    if better.high < 0:
        return "worse"
    return "better" if better.low > 0 else "not distinguishable"


def _changes(before: CellSpec, after: CellSpec) -> list[str]:
    """What else differs between the two, beside the code."""
    axes = {"scale": "scale", "start": "weights", "protocol_version": "protocol"}
    values = [(words, getattr(before, name), getattr(after, name)) for name, words in axes.items()]
    return [f"{words} {old} before, {new} after" for words, old, new in values if old != new]


class Measured(NamedTuple):
    """One metric of both sides and their difference."""

    before: float
    after: float
    difference: Estimate


def measure(before: Side, after: Side, metrics: Iterable[str], replicates: int) -> dict[str, Measured]:
    """Metrics of both sides, and after less before over shared patient-level resamples."""
    values = [plug_in(side.statistic(RANKED_BY)) for side in (before, after)]
    differences = paired(after, before, RANKED_BY, replicates=replicates)
    return {name: Measured(values[0][name], values[1][name], differences[name]) for name in metrics}
