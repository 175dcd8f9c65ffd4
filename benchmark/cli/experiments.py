"""The verb that runs an experiment: several runs from one file, and one page that sets them beside the paper."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import ALLOW_LEAKAGE, AS_JSON, IGNORE, PATH, PLUGIN, broken, listed
from benchmark.cli.runs import build_leaderboard, plan_document, show_plan

if TYPE_CHECKING:
    from benchmark.experiment import Experiment, ExperimentRecord
    from benchmark.progress import Reporter
    from benchmark.run import Prepared


@click.command()
@click.argument("name", required=False)
@click.option("--list", "list_them", is_flag=True, help="List the experiments and what each of them asks.")
@click.option("--models", callback=listed, help="Other models than the experiment's, comma-separated.")
@click.option("--data", type=PATH, help="Card, manifest or folder. Default: the embedded lumbar phantom.")
@click.option("--external", help="Card to test on, for experiments that train on one dataset and test on another.")
@click.option("--preset", default="quick", show_default=True, help="quick (tiny random towers), standard, paper.")
@click.option("--augmentation", "augmentations", callback=listed, help="Other rewordings than the experiment's.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any setting, as full_training.epochs=10.")
@click.option("--seeds", callback=listed, help="Whole numbers, comma-separated.")
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@click.option("--device", help="auto, cpu, cuda.")
@click.option("--workers", help="Units run at a time. Default: one per core at tiny scale, else 1.")
@PLUGIN
@click.option("--out", type=PATH, help="Folder of the page and its runs. Default: runs/experiments/NAME-PRESET.")
@click.option("--cache", type=PATH, help="Decoded pictures and embeddings. Default: .cache beside that folder.")
@click.option("--allow-exclusions", is_flag=True, default=None, help="Leave unusable rows out, and count them.")
@ALLOW_LEAKAGE
@IGNORE
@click.option("--fresh", is_flag=True, help="Forget finished cells of these runs and run them again.")
@click.option("--dry-run", is_flag=True, help="Show the cells and an estimate; train and evaluate nothing.")
@AS_JSON
def experiment(
    *,
    name: str | None,
    list_them: bool,
    settings: tuple[str, ...],
    preset: str,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - the settings, validated by RunConfig
) -> None:
    """Run an experiment, and set what is measured beside what the paper reports. The same command again resumes.

    NAME is one that 'experiment --list' shows, or the path of a YAML file.

    \b
    python -m benchmark experiment --list
    python -m benchmark experiment table2
    python -m benchmark experiment projection --preset standard --data hospital/card.yaml --weights-dir weights
    python -m benchmark experiment external --data ours/card.yaml --external theirs/card.yaml
    torchrun --nproc-per-node 4 -m benchmark experiment table2 --preset paper --data lumbar/card.yaml
    """
    if name is None or list_them:
        _list(as_json=as_json)
        return
    from rich.console import Console

    from benchmark.config import from_words, overlaid
    from benchmark.distributed import follows
    from benchmark.experiment import find
    from benchmark.progress import Reporter
    from benchmark.run import follow

    chosen = find(name)
    given = {key: value for key, value in options.items() if value is not None and value != ()}
    with Reporter(Console(stderr=True, quiet=follows())) as reporter:
        prepared = _prepare(chosen, preset, overlaid(from_words(settings), given), reporter)
    if follows() and not dry_run:
        for each in prepared.values():
            follow(each)
        return
    if dry_run:
        _show_plans(chosen, prepared, as_json=as_json)
        return
    record = _conduct(chosen, preset, prepared, fresh=fresh)
    _show(record, next(iter(prepared.values())).out.parent, as_json=as_json)


def _list(*, as_json: bool) -> None:
    from benchmark.experiment import installed

    known, unusable = installed()
    if as_json:
        rows = [{"name": n, "title": e.title, "question": e.question} for n, e in known.items()]
        click.echo(json.dumps({"experiments": rows, "broken": list(unusable)}, indent=1))
        return
    for name, each in known.items():
        click.echo(f"{name}: {each.title}")
        click.echo(textwrap.fill(each.question, 100, initial_indent="    ", subsequent_indent="    "))
    for sentence in unusable:
        click.echo(f"left out: {sentence}", err=True)


def _prepare(chosen: Experiment, preset: str, given: dict[str, Any], reporter: Reporter) -> dict[str, Prepared]:
    """Prepare all runs, so that what must fail fails before the first of them begins."""
    from benchmark.registry import Registry
    from benchmark.run import heed, prepare
    from benchmark.study import check_task, configurations

    configs = configurations(chosen, preset, given)
    registry = Registry.load(given.get("plugins", ()))
    for line in broken(registry):
        reporter.say(line)
    prepared = {}
    for name, config in configs.items():
        prepared[name] = prepare(config, registry, reporter)
        check_task(chosen, prepared[name])
        heed(prepared[name], reporter, run=name)
    return prepared


def _show_plans(chosen: Experiment, prepared: dict[str, Prepared], *, as_json: bool) -> None:
    documents = {name: plan_document(each) for name, each in prepared.items()}
    if as_json:
        click.echo(json.dumps({"experiment": chosen.name, "runs": documents}, indent=1))
        return
    for name, document in documents.items():
        click.echo(f"run {name}")
        show_plan(document)


def _conduct(chosen: Experiment, preset: str, prepared: dict[str, Prepared], *, fresh: bool) -> ExperimentRecord:
    """Run everything, each run with its leaderboard, then write the experiment's page."""
    from rich.console import Console

    from benchmark.progress import Reporter
    from benchmark.run import run
    from benchmark.study import record
    from leaderboards.experiment import build

    outcomes, pages = {}, {}
    for name, each in prepared.items():
        with Reporter(Console(stderr=True)) as reporter:
            reporter.say(f"run {name} of {chosen.name}")
            outcomes[name] = run(each, reporter, fresh=fresh)
        page = build_leaderboard(outcomes[name], each.out / "leaderboard")
        pages[name] = page.relative_to(each.out.parent).as_posix()
    made = record(chosen, preset, outcomes, pages)
    build(made, next(iter(prepared.values())).out.parent)
    return made


def _show(made: ExperimentRecord, out: Path, *, as_json: bool) -> None:
    failed = [cell for run in made.runs for cell in run.cells if cell.status == "failed"]
    if as_json:
        document = {
            "experiment": made.experiment.name,
            "page": str(out / "index.html"),
            "runs": [
                {
                    "name": run.name,
                    "leaderboard": str(out / run.leaderboard),
                    "cells": [{"id": c.id, "model": c.spec.model, "status": c.status} for c in run.cells],
                }
                for run in made.runs
            ],
            "differences": [difference.model_dump(mode="json") for difference in made.differences],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        for run in made.runs:
            click.echo(f"{run.title}: {len(run.cells)} rows, leaderboard: {out / run.leaderboard}")
        for cell in failed:
            assert cell.failure is not None, "a failed cell records its failure"
            click.echo(f"FAILED {cell.spec.model} ({cell.id}): {cell.failure.summary}", err=True)
        click.echo(f"page: {out / 'index.html'}")
    if failed:
        raise SystemExit(1)
