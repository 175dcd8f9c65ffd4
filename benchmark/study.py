"""Conducting an experiment: the configurations of its runs, and what is computed across them once they are done.

Its runs are ordinary ones in ordinary folders, side by side in the experiment's own: they resume, fail and are
reported as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.config import EMBEDDED, RunConfig, layered, overlaid
from benchmark.data.card import find_card
from benchmark.errors import BadInput
from benchmark.evaluate.compare import Side, by_class, paired, unpaired
from benchmark.evaluate.metrics import primary_metric
from benchmark.experiment import (
    PRIMARY,
    Axis,
    Column,
    Comparison,
    Difference,
    Experiment,
    ExperimentRecord,
    Ran,
    on_axis,
)
from benchmark.result import CellResult
from benchmark.run import Outcome, Prepared
from benchmark.run_folder import RunFolder

AXES: tuple[Axis, ...] = ("model", "regime", "augmentation", "head", "run")


def configurations(experiment: Experiment, preset: str, options: Mapping[str, Any]) -> dict[str, RunConfig]:
    """The configuration of each run by its name: preset, file, and the command line's options on top.

    Raises:
        BadInput: naming the setting that is wrong, or what the experiment lacks for the options.
    """
    outside = [run.name for run in experiment.runs if "external" in run.settings]
    if options.get("external") and not outside:
        raise BadInput(
            f"experiment {experiment.name!r} has no run on another dataset, which --external could give; "
            "'experiment external' has"
        )
    if options.get("data") and not options.get("external"):
        for run in experiment.runs:
            if run.settings.get("external") == EMBEDDED:
                raise BadInput(
                    f"experiment {experiment.name!r} tests on another dataset than --data: give --external CARD"
                )
    out = options.get("out") or default_folder(experiment, preset, options)
    configs = {}
    for run in experiment.runs:
        values = overlaid(experiment.settings, experiment.presets.get(preset, {}), run.settings)
        given = {k: v for k, v in options.items() if k != "external" or run.name in outside}
        places = {"out": out / run.name, "cache": options.get("cache") or out.parent / ".cache"}
        configs[run.name] = layered(preset, values, {**given, **places}, place=f"experiment {experiment.name}")
    return configs


def default_folder(experiment: Experiment, preset: str, options: Mapping[str, Any]) -> Path:
    """``runs/experiments/NAME-PRESET``, with the names of the user's datasets between the two."""
    given = [options[key] for key in ("data", "external") if options.get(key) not in (None, EMBEDDED)]
    names = [experiment.name, *(find_card(Path(path))[0].name for path in given), preset]
    return Path("runs") / "experiments" / "-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", name) for name in names)


def check_task(experiment: Experiment, prepared: Prepared) -> None:
    """Refuse a dataset that the experiment's question makes no sense on.

    Raises:
        BadInput: naming the dataset, and what would do.
    """
    card = prepared.dataset.card
    if card.task not in experiment.tasks:
        raise BadInput(
            f"experiment {experiment.name!r} needs a dataset whose task is {' or '.join(experiment.tasks)}; "
            f"{card.name!r} is {card.task}"
        )


def record(
    experiment: Experiment, preset: str, outcomes: Mapping[str, Outcome], pages: Mapping[str, str]
) -> ExperimentRecord:
    """Put runs together, and compute what lies between their cells.

    Args:
        experiment: the file.
        preset: that the runs were made under.
        outcomes: run name -> what it came to.
        pages: run name -> its leaderboard, relative to the experiment's folder.
    """
    ran = tuple(
        Ran(
            name=run.name,
            title=run.title,
            record=outcomes[run.name].record,
            cells=outcomes[run.name].results,
            leaderboard=pages[run.name],
        )
        for run in experiment.runs
    )
    folders = {name: RunFolder(outcome.out) for name, outcome in outcomes.items()}
    return ExperimentRecord(
        experiment=experiment,
        preset=preset,
        runs=ran,
        differences=tuple(_differences(experiment.compare, ran, folders)) if experiment.compare else (),
        by_class=_by_class(ran, folders) if experiment.page.by_class else {},
    )


def _differences(compare: Comparison, ran: tuple[Ran, ...], folders: Mapping[str, RunFolder]) -> Iterator[Difference]:
    groups = _groups(ran)
    for key, cells in groups.items():
        place = dict(zip(AXES, key, strict=True))
        base = compare.base_of(place[compare.axis])
        other = groups.get(tuple(base if axis == compare.axis else place[axis] for axis in AXES)) if base else None
        if base is None or other is None:
            continue
        seeds = sorted({cell.spec.seed for _, cell in cells} & {cell.spec.seed for _, cell in other})
        if not seeds:
            continue
        ours, theirs = (_side([(r, c) for r, c in each if c.spec.seed in seeds], folders) for each in (cells, other))
        run, cell = cells[0]
        replicates = run.record.replicates
        same_split = ours.fingerprint == theirs.fingerprint
        for column in compare.columns:
            metric = primary_metric(run.record.dataset.task) if column.metric == PRIMARY else column.metric
            if not any(m.evaluator == column.evaluator and m.metric == metric for m in cell.measurements):
                continue
            between = paired if same_split else unpaired
            yield Difference(
                model=cell.spec.model,
                title=cell.title,
                alike={axis: place[axis] for axis in AXES[1:] if axis != compare.axis},
                axis=compare.axis,
                value=place[compare.axis],
                base=base,
                column=Column(evaluator=column.evaluator, metric=metric),
                seeds=len(seeds),
                paired=same_split,
                estimate=between(ours, theirs, column.evaluator, replicates=replicates)[metric],
            )


def _groups(ran: tuple[Ran, ...]) -> dict[tuple[str, ...], list[tuple[Ran, CellResult]]]:
    """Finished cells that differ in nothing but the seed, by their place on all axes, in the order of the plan."""
    groups: dict[tuple[str, ...], list[tuple[Ran, CellResult]]] = {}
    for run in ran:
        for cell in run.cells:
            if cell.status == "done":
                key = tuple(on_axis(cell.spec, run.name, axis) for axis in AXES)
                groups.setdefault(key, []).append((run, cell))
    return groups


def _side(cells: list[tuple[Ran, CellResult]], folders: Mapping[str, RunFolder]) -> Side:
    run, first = cells[0]
    return Side(
        predictions=[folders[run.name].predictions(cell.id) for _, cell in cells],
        space=first.primary_space,
        task=run.record.dataset.task,
        classes=run.record.dataset.classes,
        fingerprint=run.record.split.fingerprint,
    )


def _by_class(ran: tuple[Ran, ...], folders: Mapping[str, RunFolder]) -> dict[str, Any]:
    return {
        cell.id: by_class(_side([(run, cell)], folders), "probe_standard", replicates=run.record.replicates)
        for run in ran
        for cell in run.cells
        if cell.status == "done"
    }
