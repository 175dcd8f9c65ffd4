"""The verbs that run the benchmark and write its leaderboard."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import ADJUST, ALLOW_LEAKAGE, AS_JSON, IGNORE, PATH, PLUGIN, broken, listed

if TYPE_CHECKING:
    from benchmark.result import Adjustment, CellResult, Estimate
    from benchmark.run import Outcome, Prepared


@click.command()
@click.option("--models", callback=listed, help="Names, comma-separated, or 'all' (the default).")
@click.option("--data", type=PATH, help="Card, manifest or folder. Default: the embedded lumbar phantom.")
@click.option("--external", help="Card to test on, all of it; or 'embedded', the phantom from another scanner.")
@click.option("--preset", default=None, help="quick (default: tiny random towers), standard, paper.")
@click.option("--config", "config_file", type=PATH, help="YAML with any setting; options on this line win.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any setting, as full_training.epochs=10.")
@click.option("--regime", "regimes", callback=listed, help="frozen, heads, full.")
@click.option("--augmentation", "augmentations", callback=listed, help="none, eda, paraphrase, mllm, file…")
@click.option("--rewordings", type=PATH, help="Texts of the augmentation 'file', as 'data augment' writes them.")
@click.option("--heads", callback=listed, help="none, linear-D, mlp-D.")
@click.option("--seeds", callback=listed, help="Whole numbers, comma-separated.")
@click.option("--scale", type=click.Choice(["paper", "tiny"]), help="Published size, or narrow and shallow.")
@click.option("--weights", help="pretrained, random, or the path of a state dict.")
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@click.option("--device", help="auto, cpu, cuda.")
@click.option("--workers", help="Units run at a time. Default: one per core at tiny scale, else 1.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="auto: bf16 on a GPU, else fp32.")
@PLUGIN
@click.option("--out", type=PATH, help="Run folder. Default: runs/DATASET-PRESET.")
@click.option("--cache", type=PATH, help="Decoded pictures and embeddings. Default: .cache beside the run folder.")
@click.option("--allow-exclusions", is_flag=True, default=None, help="Leave unusable rows out, and count them.")
@ALLOW_LEAKAGE
@IGNORE
@ADJUST
@click.option(
    "--include-images", is_flag=True, default=None, help="Keep and show a few test pictures with report phrases."
)
@click.option("--fresh", is_flag=True, help="Forget finished cells of this plan and run them again.")
@click.option("--dry-run", is_flag=True, help="Show the cells and an estimate; train and evaluate nothing.")
@click.option("--print-config", is_flag=True, help="Print the resulting configuration as YAML and stop.")
@AS_JSON
def run(
    *,
    config_file: Path | None,
    settings: tuple[str, ...],
    fresh: bool,
    dry_run: bool,
    print_config: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - the settings, validated by RunConfig
) -> None:
    """Run the benchmark and write its leaderboard. The same command again resumes.

    \b
    python -m benchmark run --models all
    python -m benchmark run --models lumbarclip-vit,convirt --regime full --heads none,linear-256,mlp-256
    python -m benchmark run --data hospital/card.yaml --preset standard --weights-dir weights
    python -m benchmark run --models lumbarclip-vit --regime full --set full_training.epochs=20
    torchrun --nproc-per-node 4 -m benchmark run --models lumbarclip-vit --regime full --preset paper
    """
    from rich.console import Console

    from benchmark.config import from_words, make_config, overlaid
    from benchmark.registry import Registry

    given = {name: value for name, value in options.items() if value is not None and value != ()}
    config = make_config(given.pop("preset", "quick"), config_file, overlaid(from_words(settings), given))
    if print_config:
        click.echo(config.to_yaml(), nl=False)
        return
    registry = Registry.load(config.plugins)
    # Only now what needs torch: a wrong setting is told at once.
    from benchmark.distributed import follows
    from benchmark.progress import Reporter
    from benchmark.run import follow, heed, prepare
    from benchmark.run import run as run_plan

    following = follows()
    with Reporter(Console(stderr=True, quiet=following)) as reporter:
        for line in broken(registry):
            reporter.say(line)
        prepared = prepare(config, registry, reporter)
        heed(prepared, reporter)
        if dry_run:
            document = plan_document(prepared)
            if as_json:
                click.echo(json.dumps(document, indent=1))
            else:
                show_plan(document)
            return
        if following:
            follow(prepared)
            return
        outcome = run_plan(prepared, reporter, fresh=fresh)
        page = build_leaderboard(outcome, outcome.out / "leaderboard")
    _show_outcome(outcome, page, as_json=as_json)
    if outcome.failed:
        raise SystemExit(1)


def plan_document(prepared: Prepared) -> dict[str, Any]:
    """What a run would do, and what that would cost."""
    from benchmark.estimate import estimate
    from benchmark.run_folder import RunFolder

    folder = RunFolder(prepared.out)
    cells = [
        {"id": spec.id, "model": spec.model, "variant": str(variant), "seed": spec.seed, "cached": folder.has(spec.id)}
        for unit in prepared.plan.units
        for variant, spec in unit.cells
    ]
    expected = estimate(prepared, [unit for unit in prepared.plan.units if not folder.finished(unit)])
    plan = prepared.plan
    return {"cells": cells, "collapsed": plan.collapsed, "impossible": plan.impossible, "estimate": expected}


def show_plan(document: dict[str, Any]) -> None:
    """Print a plan in lines."""
    cells, expected = document["cells"], document["estimate"]
    for cell in cells:
        state = "cached" if cell["cached"] else "to run"
        click.echo(f"{state:7} {cell['id']}  {cell['model']:22} {cell['variant']}, seed {cell['seed']}")
    for what, why in document["collapsed"].items():
        click.echo(f"{'same':7} {what}: {why}")
    impossible: dict[str, list[str]] = {}
    for what, why in document["impossible"].items():
        impossible.setdefault(why, []).append(what)
    for why, whats in impossible.items():
        click.echo(f"{'cannot':7} be run, as {why}:\n{'':8}{(os.linesep + ' ' * 8).join(whats)}")
    for name, why in expected["unknown"].items():
        click.echo(f"{'no idea':7} what {name} will take: {why}")
    click.echo(
        f"{len(cells)} cells, {sum(not c['cached'] for c in cells)} to run; "
        f"{expected['image_passes']} pictures and {expected['text_passes']} texts through frozen encoders, "
        f"about {expected['minutes']:.1f} min and {expected['megabytes']:.0f} MB of embeddings"
    )


def _show_outcome(outcome: Outcome, page: Path, *, as_json: bool) -> None:
    from benchmark.evaluate.metrics import primary_metric
    from leaderboards.view import make_page

    metric = primary_metric(outcome.record.dataset.task)
    view = make_page(outcome.record, outcome.results)
    figures = {row.result.id: row.primary.estimate for row in view.rows if row.primary}
    chosen = {row.result.id for row in view.rows if row.chosen}
    if as_json:
        document = {
            "run": str(outcome.out),
            "leaderboard": str(page),
            "primary_metric": metric,
            "cells": [_cell_line(r, figures.get(r.id), chosen=r.id in chosen) for r in outcome.results],
        }
        click.echo(json.dumps(document, indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = ("", "model", "scored from", "regime", "augmentation", "head", "seed", "weights")
    table = Table(*columns, metric, "95% interval", "images/s", box=box.SIMPLE)
    for part in (view.everything.ranked, view.everything.references):
        for row in part:
            spec, rate = row.result.spec, row.result.profile.images_per_s
            table.add_row(
                "*" if row.chosen else "",
                *(spec.model, row.reads, spec.regime, spec.augmentation, spec.head, str(spec.seed), spec.start),
                *(row.shown.text, row.interval, f"{rate:.0f}" if rate > 0 else ""),
            )
        table.add_section()
    # A pipe has no width of its own: lines stay whole there.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    click.echo("* each model's variant chosen on validation; below the line, references that answer another question")
    for notice in view.notices:
        if notice.text and notice.severity != "note":  # the audit's findings were said at the start
            click.echo(f"{notice.title}: {notice.text}")
    for result in outcome.failed:
        assert result.failure is not None, "a failed cell records its failure"
        click.echo(f"FAILED {result.spec.model} ({result.id}): {result.failure.summary}", err=True)
    click.echo(f"leaderboard: {page}")


def _cell_line(result: CellResult, estimate: Estimate | None, *, chosen: bool) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if value != value else value  # NaN is null in JSON

    spec = result.spec
    return {
        "id": result.id,
        "model": spec.model,
        "inputs": list(result.inputs),
        "weights": spec.start,
        "regime": spec.regime,
        "augmentation": spec.augmentation,
        "head": spec.head,
        "seed": spec.seed,
        "status": result.status,
        "chosen": chosen,
        "value": number(estimate.value) if estimate else None,
        "low": number(estimate.low) if estimate else None,
        "high": number(estimate.high) if estimate else None,
        "why_undefined": estimate.why_undefined if estimate else None,
        "images_per_s": number(result.profile.images_per_s),
    }


def build_leaderboard(outcome: Outcome, out: Path) -> Path:
    """Write the leaderboard of a run; the path of its page."""
    from benchmark.run_folder import RunFolder
    from leaderboards.build import build

    folder = RunFolder(outcome.out)
    maps = {result.id: found for result in outcome.results if (found := folder.read_maps(result.id)) is not None}
    analysis = folder.analysis(outcome.record, outcome.results)
    return build(outcome.record, outcome.results, out, maps=maps, analysis=analysis)


@click.command()
@click.argument("folder", type=PATH)
@click.option("--out", type=PATH, help="Where to write the site. Default: FOLDER/leaderboard.")
@ADJUST
def report(folder: Path, out: Path | None, adjustment: Adjustment | None) -> None:
    """Write the leaderboard of a finished, interrupted or running run again.

    Pictures of patients are on it only if the run itself was given --include-images.

    \b
    python -m benchmark report runs/lumbar-phantom-quick
    python -m benchmark report runs/lumbar-phantom-quick --adjust benjamini-hochberg
    """
    from benchmark.run import read_run

    outcome = read_run(folder)
    if adjustment is not None:
        outcome = replace(outcome, record=outcome.record.adjusted_by(adjustment))
    click.echo(f"leaderboard: {build_leaderboard(outcome, out or folder / 'leaderboard')}")
