"""Running a plan: everything before the first unit, resume, isolation of failures, the record of the run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark import augment
from benchmark.config import EMBEDDED, RunConfig
from benchmark.data.audit import audit, muted, refuse_leakage
from benchmark.data.external import join
from benchmark.data.manifest import Dataset, load
from benchmark.data.split import Split, make_split, training_pairs
from benchmark.data.subgroups import subgroup_table
from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput, BenchmarkError, MissingWeights, OutOfStep
from benchmark.model import Modality, ReportedFigures
from benchmark.plan import Candidate, Plan, Unit, plan
from benchmark.progress import Listener, Reporter
from benchmark.registry import Registry
from benchmark.result import (
    MAPS_EVALUATOR,
    CellResult,
    DatasetRecord,
    Finding,
    ModelRecord,
    ReportedRecord,
    RunRecord,
    SplitRecord,
)
from benchmark.run_folder import ProcessDied, RunFolder, read_record
from benchmark.store import ArrayStore
from benchmark.weights import resolve
from benchmark.workers import run_workers, worker_count

if TYPE_CHECKING:
    import torch

    from benchmark.evaluate.analysis import Analysis
    from benchmark.execute import Bench


TINY_THREADS = 1
"""Threads of a process at ``tiny`` scale. Its layers are too small to share out: four threads train hardly faster than
one, and far slower where anything else runs. Units run side by side instead, with the same bits on any number of cores.
"""

PLACES = ("out", "cache", "weights_dir", "data", "external", "plugins", "rewordings")
"""Settings that name files of this machine: they are in no record."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that is known before the first unit is run."""

    config: RunConfig
    registry: Registry
    dataset: Dataset
    split: Split
    findings: tuple[Finding, ...]
    plan: Plan
    augmentations: Mapping[str, augment.Source]
    out: Path
    cache: Path


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run came to."""

    out: Path
    record: RunRecord
    results: tuple[CellResult, ...]
    """In the order of the plan; cells that another process is still working on are absent."""

    @cached_property
    def analysis(self) -> Analysis:
        """What the rows say together, made or read once."""
        return RunFolder(self.out).analysis(self.record, self.results)

    @property
    def failed(self) -> tuple[CellResult, ...]:
        """Cells that raised."""
        return tuple(result for result in self.results if result.status == "failed")


# --------------------------------------------------------------------------------------------- before


def prepare(config: RunConfig, registry: Registry, reporter: Reporter, *, audited: bool = True) -> Prepared:
    """Resolve, load, split, plan and audit, cheapest checks first, so that what must fail fails in seconds.

    Args:
        config: what to run.
        registry: models and augmentations.
        reporter: told what is being read.
        audited: whether to audit; a worker of a run need not do again what the run has done.

    Raises:
        BadInput: for anything in the command, the data or the plug-ins that cannot be used.
        MissingWeights: where published weights were asked for and are not on this machine.
    """
    from benchmark.embed import pick_device, resolve_precision

    candidates, absent = find_candidates(config, registry)
    _check_objectives(config, [candidate.registered.name for candidate in candidates])
    sources = augment.find(config, registry)
    precision = resolve_precision(pick_device(config.device), config.precision)
    runs = config.out.parent if config.out else Path("runs")
    cache = config.cache or runs / ".cache"
    dataset = _dataset(config, cache, reporter)
    out = config.out or runs / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', dataset.card.name)}-{config.preset}"
    split = make_split(dataset, seed=config.split_seed)
    planned = plan(
        config,
        candidates,
        dataset=dataset.card.name,
        fingerprint=split.fingerprint,
        content=dataset.content,
        has=_modalities(dataset, split),
        precision=precision,
        rewordings={name: source.identity for name, source in sources.items()},
    )
    planned = replace(planned, impossible=planned.impossible | absent)
    if not planned.units:
        why = "; ".join(f"{what}: {reason}" for what, reason in planned.impossible.items())
        raise BadInput(f"nothing of what was asked for can be run. {why}")
    augment.check_files(sources.values(), dataset, split)
    findings: tuple[Finding, ...] = ()
    if audited:
        looked = reporter.lane().stage("auditing pictures")
        findings = muted(audit(dataset, split, looked), config.ignore)
    return Prepared(config, registry, dataset, split, findings, planned, sources, out, cache)


def heed(prepared: Prepared, reporter: Reporter, *, run: str = "") -> None:
    """Say what the audit warns of, after the name of the run where there are several, and stop at leakage.

    Raises:
        Leakage: where the split leaks, and that is not allowed.
    """
    for finding in prepared.findings:
        if finding.severity != "note" and not finding.muted:
            reporter.say(f"{run + ': ' if run else ''}{finding.code} {finding.severity}: {finding.message}")
    if not prepared.config.allow_leakage:
        refuse_leakage(prepared.findings)


def find_candidates(config: RunConfig, registry: Registry) -> tuple[list[Candidate], dict[str, str]]:
    """The models asked for with their weights, and why one that only ``all`` asks for is not among them."""
    candidates, absent = [], {}
    for registered in registry.select_models(config.models):
        entry = registered.entry
        if entry.kind == "naive":
            weights = {config.seeds[0]: resolve(entry.card, "random", None, seed=config.seeds[0])}
        else:
            try:
                resolved = {s: resolve(entry.card, config.weights, config.weights_dir, seed=s) for s in config.seeds}
            except MissingWeights:
                if not entry.card.published_only or registered.name in config.models:
                    raise
                absent[registered.name] = (
                    "its published weights are not on this machine; "
                    f"'python -m benchmark weights fetch {registered.name}' gets them"
                )
                continue
            differ = len({r.digest for r in resolved.values()}) > 1
            weights = resolved if differ else {config.seeds[0]: resolved[config.seeds[0]]}
        candidates.append(Candidate(registered, weights))
    return candidates, absent


def _check_objectives(config: RunConfig, models: Sequence[str]) -> None:
    for name in ("heads_training", "full_training"):
        unknown = sorted(set(getattr(config, name).objective) - set(models))
        if unknown:
            raise BadInput(
                f"{name}.objective has options for {unknown[0]!r}, which is not among the models of this run"
                f"{did_you_mean(unknown[0], models)}"
            )


def _modalities(dataset: Dataset, split: Split) -> list[Modality]:
    """What can be learned from: reports count where at least two training samples have one."""
    has: list[Modality] = ["image"]
    if len(training_pairs(dataset, split)) >= 2:
        has.append("text")
    if dataset.structured is not None:
        has.append("structured")
    return has


def _dataset(config: RunConfig, cache: Path, reporter: Reporter) -> Dataset:
    """The dataset to run on: one, or, with an external one, both of them joined."""
    from benchmark.data.phantom import draw, draw_elsewhere

    patients, task = config.phantom_patients, config.phantom_task
    if config.data is None:
        reporter.say(f"drawing the lumbar phantom: {patients} patients")
        dataset = draw(patients, task=task)
    else:
        dataset = _load(config.data, config, cache, reporter)
    if config.external is None:
        return dataset
    if config.external == EMBEDDED:
        reporter.say(f"drawing {patients} other patients on another scanner")
        return join(dataset, draw_elsewhere(patients, task=task), seed=config.split_seed)
    return join(dataset, _load(config.external, config, cache, reporter), seed=config.split_seed)


def _load(path: Path, config: RunConfig, cache: Path, reporter: Reporter) -> Dataset:
    reporter.say(f"reading {path}")
    return load(
        path,
        cache=cache,
        allow_exclusions=config.allow_exclusions,
        progress=reporter.lane().stage("decoding pictures"),
    )


# --------------------------------------------------------------------------------------------- during


def run(prepared: Prepared, reporter: Reporter, *, fresh: bool = False) -> Outcome:
    """Run every cell that has no result yet, and record it the moment it is finished.

    A second process given the same command works beside the first: each unit is taken under a lock that the system
    drops when its holder dies, however it dies. That is also how the workers of one run share its units.
    """
    if not prepared.config.allow_leakage:
        refuse_leakage(prepared.findings)
    # The heavy stack is needed from here on, and not for a plan or a refusal.
    from benchmark.distributed import Ranks
    from benchmark.execute import failed
    from benchmark.provenance import provenance

    device = device_of(prepared.config)
    ranks = Ranks.join(device)
    folder = RunFolder(prepared.out)
    if fresh:
        folder.forget(prepared.plan)
    at_a_time = worker_count(prepared.config, device.type)
    record = folder.begin(_record(prepared, provenance(device, at_a_time)))
    folder.write_samples(subgroup_table(prepared.dataset, prepared.split))
    others = folder.cells() - set(record.cells)
    if others:
        reporter.say(
            f"{len(others)} finished rows of other commands in {prepared.out} are kept, and are not on this page: "
            "name their models and settings in one command to see them together"
        )
    pending = [unit for unit in prepared.plan.units if not folder.finished(unit)]
    for name in prepared.config.models:
        if name in prepared.plan.collapsed:
            reporter.say(f"{name}: {prepared.plan.collapsed[name]}")
    with_rows = {spec.model for spec in prepared.plan.specs}
    reasons = {what.partition(": ")[0]: why for what, why in prepared.plan.impossible.items()}
    for name in sorted(reasons.keys() - with_rows):
        reporter.say(f"{name} has no row: {reasons[name]}")
    kept = len(prepared.plan.units) - len(pending)
    if kept:
        reporter.say(f"{kept} of {len(prepared.plan.units)} units are finished already and are kept")
    if prepared.config.include_images and not prepared.dataset.card.synthetic:
        without = sum(_lacks_pictures(folder, spec.id) for spec in prepared.plan.specs)
        if without:
            reporter.say(
                f"{without} finished rows were run without --include-images and have no similarity maps; "
                "--fresh runs them again"
            )
    workers = min(at_a_time, len(pending))
    session = f"{os.getpid()} {time.time_ns()}"
    reporter.expect(len(pending))
    try:
        if workers <= 1:
            work(prepared, session, reporter.lane())
        else:
            reporter.say(f"{len(pending)} units, {workers} at a time")
            run_workers(prepared.config, workers, pending, session, reporter)
    except KeyboardInterrupt:
        folder.write_record(record.model_copy(update={"status": "interrupted"}))
        raise
    ranks.dismiss()  # not after a failure or Ctrl-C: torchrun ends all of them then, and they would not hear it
    for unit in prepared.plan.units:
        for _, spec in unit.cells:
            if folder.read(spec.id) is None:  # every worker is gone, and none of them lived to say why
                folder.write(failed(unit, spec, record.provenance, ProcessDied()), None)
    record = record.model_copy(update={"status": "done"})
    folder.write_record(record)
    return Outcome(prepared.out, record, tuple(folder.results(record)))


def _lacks_pictures(folder: RunFolder, cell: str) -> bool:
    """Whether a finished cell could have had maps, and has none because its pictures were not to be kept."""
    result = folder.read(cell) if folder.has(cell) else None
    if result is None or result.spec.start == "none":
        return False
    return MAPS_EVALUATOR not in result.left_out and not folder.has_maps(cell)


def work(prepared: Prepared, session: str, listener: Listener, *, longest_first: bool = False) -> None:
    """Run the units that nobody else is working on, one after another, in this process.

    Args:
        prepared: the run.
        session: names one start of the command, with all its workers. A unit that a dead worker of this session
            had begun is not begun again, for it would most likely kill this process too; another session may try.
        listener: told of units and stages.
        longest_first: for one of several processes: trainings of towers before all others, so that at the end no
            process waits long for the last one. A process of its own keeps the plan's order, quick rows first.
    """
    from benchmark.execute import execute, failed

    bench = bench_of(prepared)
    folder = bench.folder
    pending = [unit for unit in prepared.plan.units if not folder.finished(unit)]
    if longest_first:
        pending.sort(key=passes, reverse=True)
    for unit in _taken_in_turn(folder, pending, session):
        listener.begin(unit.name)
        start = time.perf_counter()
        todo = replace(unit, cells=tuple(cell for cell in unit.cells if not folder.has(cell[1].id)))
        try:
            with folder.attempt(unit, session):
                for finished in execute(todo, bench, listener.stage):
                    folder.write(finished.result, finished.predictions, finished.maps)
        except (Exception, SystemExit) as error:
            for _, spec in unit.cells:
                if not folder.has(spec.id):
                    folder.write(failed(unit, spec, bench.provenance, error), None)
            if isinstance(error, OutOfStep):
                raise
        listener.end(unit.name, _outcome(folder, unit), time.perf_counter() - start)


def bench_of(prepared: Prepared) -> Bench:
    """What the units of a run share, in this process."""
    from benchmark.distributed import Ranks
    from benchmark.execute import Bench
    from benchmark.provenance import provenance

    device = device_of(prepared.config)
    return Bench(
        config=prepared.config,
        dataset=prepared.dataset,
        split=prepared.split,
        augmentations=prepared.augmentations,
        cache=prepared.cache,
        store=ArrayStore(prepared.cache / "embeddings"),
        device=device,
        provenance=provenance(device, worker_count(prepared.config, device.type)),
        folder=RunFolder(prepared.out),
        ranks=Ranks.join(device),
    )


def follow(prepared: Prepared) -> None:
    """Take part in every training that the leading process begins, until it says that no other comes.

    A training that diverges or is refused is so in all processes alike, and the leader records it. Any other failure
    here ends this process, and with it, by ``torchrun``, all of them; the same command resumes from the last epoch.
    """
    from benchmark.execute import train_towers

    bench = bench_of(prepared)
    units = {unit.id: unit for unit in prepared.plan.units}
    while (unit := bench.ranks.say(None)) is not None:
        with suppress(BenchmarkError):
            train_towers(units[unit], bench, lambda _: lambda _done, _total: None)


def device_of(config: RunConfig) -> torch.device:
    """The device that was asked for, with this process's threads set for the scale."""
    import torch

    from benchmark.distributed import started_together
    from benchmark.embed import pick_device

    if config.scale == "tiny":
        torch.set_num_threads(TINY_THREADS)
    device = pick_device(config.device)
    if device == torch.device("cuda") and started_together() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def passes(unit: Unit) -> int:
    """How often a unit takes the training texts through an encoder with gradients: twice with rewordings."""
    return sum((variant.augmentation != "none") + 1 for variant, _ in unit.cells) if unit.kind == "full" else 0


def _taken_in_turn(folder: RunFolder, units: Sequence[Unit], session: str) -> Iterator[Unit]:
    """Yield each unit under its lock: first those that nobody works on, then, waiting for them, the others."""
    busy = []
    for unit in units:
        with folder.claim(unit, wait=False) as claimed:
            if not claimed:
                busy.append(unit)
            elif not folder.settled(unit, session):
                yield unit
    for unit in busy:
        with folder.claim(unit, wait=True):
            if not folder.settled(unit, session):
                yield unit


def _outcome(folder: RunFolder, unit: Unit) -> str:
    failures = [r for _, spec in unit.cells if (r := folder.read(spec.id)) and r.status == "failed"]
    if not failures:
        return "done"
    failure = failures[0].failure
    assert failure is not None, "a failed cell records its failure"
    return f"FAILED, {len(failures)} of {len(unit.cells)} cells: {failure.summary}"


# --------------------------------------------------------------------------------------------- record


def read_run(folder: Path) -> Outcome:
    """Read a finished or unfinished run back."""
    record = read_record(folder)
    return Outcome(folder, record, tuple(RunFolder(folder).results(record)))


def _record(prepared: Prepared, provenance: dict[str, object]) -> RunRecord:
    dataset, card = prepared.dataset, prepared.dataset.card
    positive = dataset.classes[-1] if card.task == "binary" else None
    reasons = pd.Series([e.reason for e in dataset.exclusions], dtype=str).value_counts()
    return RunRecord(
        name=prepared.out.name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        config=prepared.config.model_dump(mode="json", exclude=set(PLACES))
        | {"weights": _weights_word(prepared.config.weights)},
        dataset=DatasetRecord(
            name=card.name,
            task=card.task,
            classes=dataset.classes,
            positive_class=positive,
            prevalence=card.prevalence,
            n=len(dataset),
            has_reports=dataset.reports is not None,
            has_structured=dataset.structured is not None,
            licence=card.licence,
            citation=card.citation,
            exclusions={str(reason): int(count) for reason, count in reasons.items()},
            synthetic=card.synthetic,
            trained_on=dataset.sources.train if dataset.sources else "",
            tested_on=dataset.sources.test if dataset.sources else "",
        ),
        split=split_record(dataset, prepared.split),
        audit=prepared.findings,
        cells=tuple(spec.id for spec in prepared.plan.specs),
        collapsed=prepared.plan.collapsed,
        impossible=prepared.plan.impossible,
        models={u.candidate.registered.name: _model_record(u.candidate, prepared.config) for u in prepared.plan.units},
        provenance=provenance,
    )


def _model_record(candidate: Candidate, config: RunConfig) -> ModelRecord:
    """What a model's page says of it, beside its figures."""
    card = candidate.registered.entry.card
    size = card.sizes.get(config.scale)
    published = any(weights.kind == "pretrained" for weights in candidate.weights.values())
    return ModelRecord(
        title=card.title,
        summary=card.summary,
        paper=card.paper,
        licence=card.licence,
        training_data=card.training_data,
        weights=tuple(
            f"{source.repo_id} at {source.revision}: {source.tower} (licence: {source.licence})"
            for source in (card.weights if published else ())
        ),
        parameters=size.parameters if size else None,
        input_size=size.input_size if size else None,
        reported=tuple(_reported_record(figures) for figures in card.reported),
    )


def _reported_record(figures: ReportedFigures) -> ReportedRecord:
    """A paper's row, with the averagings under which it can be true where it has all that is needed to tell."""
    from benchmark.evaluate.published import averagings

    row = [figures.values.get(name) for name in ("Accuracy", "Precision", "Recall", "F1")]
    known = [value for value in row if value is not None]
    fits = None
    if figures.counts is not None and len(known) == len(row):
        accuracy, precision, recall, f1 = known
        fits = averagings(accuracy, precision, recall, f1, figures.counts, figures.decimals)
    return ReportedRecord(**figures.model_dump(), fits=fits)


def split_record(dataset: Dataset, split: Split) -> SplitRecord:
    """How the samples are divided, in numbers."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return SplitRecord(
        fingerprint=split.fingerprint,
        origin=split.origin,
        grouped_by=dataset.grouped_by,
        seed=split.seed,
        n={part: len(rows) for part, rows in parts.items()},
        n_patients={part: len(set(dataset.groups[rows].tolist())) for part, rows in parts.items()},
        class_counts={part: _class_counts(dataset, rows) for part, rows in parts.items()},
    )


def _weights_word(weights: str) -> str:
    """``pretrained``, ``random`` or ``file``: a path of this machine is nobody else's business."""
    return weights if weights in ("pretrained", "random") else "file"


def _class_counts(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, int]:
    labels = dataset.labels[rows]
    if labels.ndim == 2:
        return {name: int(labels[:, i].sum()) for i, name in enumerate(dataset.classes)}
    return {name: int((labels == i).sum()) for i, name in enumerate(dataset.classes)}
