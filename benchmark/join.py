"""Several runs of one question as one run: which may be joined, and what their common record says.

Runs are joined where a row of one could have been a row of the other: the same dataset and split, the same classes, the
same version and settings of the evaluation. What differs otherwise (models, training, machines) is what joining is for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.bundle import numbered, opened
from benchmark.comparison import recorded
from benchmark.errors import BadInput
from benchmark.evaluate.analysis import Analysis, analyse
from benchmark.evaluate.metrics import primary_metric
from benchmark.result import CellResult, Finding, Maps, RunRecord
from benchmark.run_folder import RunFolder, read_record

AGREEMENT = 0.005
"""How far the primary metric of one cell may lie apart in two runs: two kinds of processor round differently, and a
training carries that on. A cell's id says that code, weights, data and settings were the same."""


SETTINGS = "evaluation."
"""Before the names of settings in what two runs must agree in, as on the command line."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What one run left behind, or several that were joined."""

    name: str
    """How its user named it, for errors."""
    record: RunRecord
    results: tuple[CellResult, ...]
    """In the order of the plan."""
    folders: Mapping[str, RunFolder]
    """Cell id -> where its predictions and maps lie."""

    @classmethod
    def read(cls, folder: Path, name: str = "") -> Recorded:
        """Read a run folder.

        Raises:
            BadInput: where it holds no run, or a damaged one.
        """
        files, record = RunFolder(folder), read_record(folder)
        results = tuple(files.results(record))
        return cls(name or str(folder), record, results, dict.fromkeys((r.id for r in results), files))

    def predictions(self, cell: str) -> pd.DataFrame:
        """The predictions of a finished cell, its samples numbered, so that a folder's pair with a bundle's.

        Raises:
            Damaged: where there are none, or something else.
        """
        return numbered(self.folders[cell].predictions(cell))

    def analysis(self, *, kept: bool = True) -> Analysis:
        """What the rows say together. Samples of several folders are numbered, so that their subgroups are not known.

        Args:
            kept: whether an analysis that lies in the run's folder will do, and one that is made may be left there.

        Raises:
            BadInput: where rows were not scored on the same test samples.
        """
        folders = set(self.folders.values())
        if len(folders) != 1:
            return analyse(self.record, self.results, self.predictions)
        (folder,) = folders
        if kept:
            return folder.analysis(self.record, self.results)
        return analyse(self.record, self.results, folder.predictions, folder.samples())

    def maps(self) -> dict[str, Maps]:
        """Cell id -> its similarity maps, where it has some."""
        return {cell: maps for cell, folder in self.folders.items() if (maps := folder.read_maps(cell)) is not None}


@contextmanager
def recorded_runs(paths: Sequence[Path]) -> Iterator[list[Recorded]]:
    """The runs in some run folders and bundles; what bundles hold lies in a temporary folder until the block ends.

    Raises:
        BadInput: where one is neither.
    """
    with ExitStack() as stack:
        runs = []
        for path in paths:
            folder = stack.enter_context(opened(path))
            try:
                runs.append(Recorded.read(folder, str(path)))
            except BadInput as error:  # the user knows the bundle, not where it was unpacked
                raise type(error)(str(error).replace(str(folder), str(path))) from error
        yield runs


def join(runs: Sequence[Recorded]) -> Recorded:
    """Make one run of several; of one, itself.

    Cells of one id stand once: a finished one before a failed one, else the first. Findings, models and collapsed
    variants are united. What was impossible in one run and is a cell of another is not impossible.

    Raises:
        BadInput: where two of them put different questions, or disagree about a cell.
    """
    first, *others = runs
    for other in others:
        _check_question(first, other)
    if not others:
        return first
    results, folders = _each_once(runs)
    cells = tuple(dict.fromkeys(cell for run in runs for cell in run.record.cells))
    ordered = tuple(results[cell] for cell in cells if cell in results)
    return Recorded(" and ".join(run.name for run in runs), _record(runs, cells, ordered), ordered, folders)


# --------------------------------------------------------------------------------------------- one question


def _check_question(first: Recorded, other: Recorded) -> None:
    ours, theirs = _question(first), _question(other)
    for what in ours | theirs:
        if (what in ours) != (what in theirs) and not what.startswith(SETTINGS):
            continue  # a run without results does not say what they would have been
        values = [json.dumps(facts.get(what), ensure_ascii=False) for facts in (ours, theirs)]
        if values[0] != values[1]:
            raise BadInput(
                f"cannot join {first.name} and {other.name}: {what} differs, {values[0]} in the first and {values[1]} "
                "in the second; only runs of one dataset, split and evaluation make one leaderboard"
            )


def _question(run: Recorded) -> dict[str, Any]:
    """Everything that two runs must agree in, under the words of an error."""
    dataset = run.record.dataset
    facts: dict[str, Any] = {
        "the dataset": dataset.name,
        "the task": dataset.task,
        "the list of classes": dataset.classes,
        "the positive class": dataset.positive_class,
        "the stated prevalence": dataset.prevalence,
        "the split (samples, patients, labels, pixels or parts)": run.record.split.fingerprint,
    }
    for spec in (result.spec for result in run.results[:1]):
        facts["the version of the protocol"] = spec.protocol_version
        facts["the content (reports, structured columns, class names or prompts)"] = spec.content
    settings = run.record.config.get("evaluation", {})
    return facts | {SETTINGS + name: value for name, value in settings.items()}


# --------------------------------------------------------------------------------------------- one row a cell


def _each_once(runs: Iterable[Recorded]) -> tuple[dict[str, CellResult], dict[str, RunFolder]]:
    kept: dict[str, tuple[CellResult, Recorded]] = {}
    for run in runs:
        for result in run.results:
            before, holder = kept.get(result.id, (None, run))
            if before is not None and before.status == result.status == "done":
                _check_agreement(before, holder, result, run)
            if before is None or (before.status == "failed" and result.status == "done"):
                kept[result.id] = (result, run)
    return (
        {cell: result for cell, (result, _) in kept.items()},
        {cell: run.folders[cell] for cell, (_, run) in kept.items()},
    )


def _check_agreement(before: CellResult, holder: Recorded, result: CellResult, run: Recorded) -> None:
    metric = primary_metric(run.record.dataset.task)
    values = [recorded(cell, metric) for cell in (before, result)]
    undefined = [math.isnan(value) for value in values]
    if before.spec == result.spec and (all(undefined) or abs(values[0] - values[1]) <= AGREEMENT):
        return
    raise BadInput(
        f"cannot join {holder.name} and {run.name}: they disagree about cell {result.id} of {result.spec.model}, "
        f"{metric} {values[0]:.4f} in the first and {values[1]:.4f} in the second; one specification gives one result, "
        "so run it again with --fresh in the one that is wrong, or leave that run out"
    )


# --------------------------------------------------------------------------------------------- one record


def _record(runs: Sequence[Recorded], cells: tuple[str, ...], results: Iterable[CellResult]) -> RunRecord:
    records = [run.record for run in runs]
    models, places = set(), set()
    for spec in (result.spec for result in results):
        models.add(spec.model)
        places.add(f"{spec.model}: {spec.regime} / {spec.augmentation} / {spec.head}")
    states = {record.status for record in records}
    return records[0].model_copy(
        update={
            "name": _all_of(record.name for record in records),
            "started": min(record.started for record in records),
            "config": _config([record.config for record in records]),
            "audit": _audit(records),
            "cells": cells,
            "collapsed": {
                what: why for record in records for what, why in record.collapsed.items() if what not in models
            },
            "impossible": {
                what: why for record in records for what, why in record.impossible.items() if what not in places
            },
            "models": {name: card for record in reversed(records) for name, card in record.models.items()},
            "provenance": _provenance([record.provenance for record in records]),
            "status": next(state for state in ("running", "interrupted", "done") if state in states),
        }
    )


def _config(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was asked in all runs together. Of a setting that differs nothing is said: every cell has its own."""
    joined = {}
    for name in dict.fromkeys(name for config in configs for name in config):
        values = [config[name] for config in configs if name in config]
        if all(value == values[0] for value in values):
            joined[name] = values[0]
        elif all(isinstance(value, list) for value in values):
            joined[name] = _each_of(values)
        elif all(isinstance(value, bool) for value in values):
            joined[name] = any(values)
        elif all(isinstance(value, str) for value in values):
            joined[name] = _all_of(values)
    return joined


def _audit(records: Sequence[RunRecord]) -> tuple[Finding, ...]:
    """Every finding once, muted where every run that has it muted it."""
    loud: dict[Finding, bool] = {}
    for finding in (finding for record in records for finding in record.audit):
        plain = finding.model_copy(update={"muted": False})
        loud[plain] = loud.get(plain, False) or not finding.muted
    united = (finding.model_copy(update={"muted": not heard}) for finding, heard in loud.items())
    return tuple(sorted(united, key=lambda finding: finding.code))


def _provenance(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Versions, commits and hardware of all runs; every cell still has its own."""
    packages = dict.fromkeys(name for one in each for name in one.get("packages", {}))
    joined: dict[str, Any] = {
        "packages": {name: _all_of(one.get("packages", {}).get(name) for one in each) for name in packages}
    }
    for what in ("python", "commit"):
        joined |= {what: words} if (words := _all_of(one.get(what) for one in each)) else {}
    machines = list(dict.fromkeys(one.get("hardware") or "hardware that was not recorded" for one in each))
    joined["hardware"] = machines[0]
    if len(machines) > 1:
        joined["hardware"] = (
            f"several machines, so speed, memory and time of rows can't be compared ({'; '.join(machines)})"
        )
    return joined


def _each_of(lists: Iterable[Sequence[Any]]) -> list[Any]:
    items: list[Any] = []
    for item in chain.from_iterable(lists):
        if item not in items:
            items.append(item)
    return items


def _all_of(words: Iterable[str | None]) -> str:
    return " and ".join(dict.fromkeys(word for word in words if word))
