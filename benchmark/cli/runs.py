"""The verbs that run the benchmark and write its leaderboard."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from benchmark.cli.options import ADJUST, ALLOW_LEAKAGE, AS_JSON, IGNORE, PATH, PLUGIN, broken, listed

if TYPE_CHECKING:
    from benchmark.join import Recorded
    from benchmark.result import Adjustment, CellResult
    from benchmark.run import Outcome, Prepared
    from leaderboards.view import Row


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
    from leaderboards.verdict import verdict
    from leaderboards.view import make_page

    metric = primary_metric(outcome.record.dataset.task)
    view = make_page(outcome.record, outcome.results, outcome.analysis)
    if as_json:
        rows = {row.result.id: row for row in view.rows}
        document = {
            "run": str(outcome.out),
            "leaderboard": str(page),
            "primary_metric": metric,
            "answer": verdict(view),
            "cells": [_cell_line(result, rows.get(result.id)) for result in outcome.results],
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
    click.echo(
        "* each model's variant chosen on validation; below the line naive rows, which a model must beat to have shown "
        "anything, and what reads the report or the patient's data"
    )
    for notice in view.notices:
        if notice.text and notice.severity != "note" and not notice.link.startswith("data.html"):
            click.echo(f"{notice.title}: {notice.text}")  # the audit's findings were said at the start
    for sentence in verdict(view):
        click.echo(sentence)
    for result in outcome.failed:
        assert result.failure is not None, "a failed cell records its failure"
        click.echo(f"FAILED {result.spec.model} ({result.id}): {result.failure.summary}", err=True)
    click.echo(f"leaderboard: {page}")


def _cell_line(result: CellResult, row: Row | None) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return None if value is None or value != value else value  # NaN is null in JSON

    spec = result.spec
    estimate = row.primary.estimate if row and row.primary else None
    standing, skill = (row.standing, row.skill) if row else (None, None)
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
        "chosen": row is not None and row.chosen,
        "value": number(estimate.value) if estimate else None,
        "low": number(estimate.low) if estimate else None,
        "high": number(estimate.high) if estimate else None,
        "why_undefined": estimate.why_undefined if estimate else None,
        "tied_with_best": standing.tied if standing else None,
        "ranks": [number(standing.rank.joint_low), number(standing.rank.joint_high)] if standing else None,
        "gain_over_naive": number(skill.gain.value) if skill else None,
        "gain_shown": skill.shown if skill else None,
        "images_per_s": number(result.profile.images_per_s),
    }


def build_leaderboard(outcome: Outcome, out: Path) -> Path:
    """Write the leaderboard of a run; the path of its page."""
    from benchmark.run_folder import RunFolder
    from leaderboards.build import build

    folder = RunFolder(outcome.out)
    maps = {result.id: found for result in outcome.results if (found := folder.read_maps(result.id)) is not None}
    return build(outcome.record, outcome.results, out, maps, outcome.analysis)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, help="Where to write the site. Default, for one folder: RUN/leaderboard.")
@click.option("--recompute", is_flag=True, help="Measure everything again from the predictions.")
@click.option("--replicates", type=click.IntRange(min=1), help="With --recompute: patient-level resamples.")
@click.option(
    "--intervals",
    type=click.Choice(["percentile", "bca"]),
    help="With --recompute: how intervals are read from them. Default: percentile.",
)
@ADJUST
@AS_JSON
def report(
    *,
    runs: tuple[Path, ...],
    out: Path | None,
    recompute: bool,
    replicates: int | None,
    intervals: Literal["percentile", "bca"] | None,
    adjustment: Adjustment | None,
    as_json: bool,
) -> None:
    """Write the leaderboard of a finished, interrupted or running run again, or of several runs together.

    A RUN is a run folder or a bundle. Several are joined, row by row, where they have one dataset, split and
    evaluation; others are refused. No result of a run is changed.

    Pictures of patients are on the pages only if a run itself was given --include-images.

    \b
    python -m benchmark report runs/lumbar-phantom-quick
    python -m benchmark report runs/ours theirs.zip --out joined
    python -m benchmark report runs/ours --recompute --replicates 10000 --intervals bca
    python -m benchmark report runs/lumbar-phantom-quick --adjust benjamini-hochberg
    """
    from benchmark.join import join, recorded_runs
    from leaderboards.build import build

    if not recompute and (replicates or intervals):
        raise click.UsageError("--replicates and --intervals say how to compute again; they need --recompute.")
    place = _page_folder(runs, out)
    missing: tuple[str, ...] = ()
    with recorded_runs(runs) as read:
        joined = join(read)
        if adjustment is not None:
            joined = replace(joined, record=joined.record.adjusted_by(adjustment))
        if recompute:
            joined, missing = _recomputed(joined, replicates, intervals or "percentile")
        analysis = joined.analysis(kept=not recompute)
        page = build(joined.record, joined.results, place, joined.maps(), analysis)
    if as_json:
        document = {
            "leaderboard": str(page),
            "runs": [run.name for run in read],
            "cells": [{"id": r.id, "model": r.spec.model, "status": r.status} for r in joined.results],
            "not_recomputed": list(missing),
        }
        click.echo(json.dumps(document, indent=1))
        return
    for line in missing:
        click.echo(f"not computed again, and left out: {line}", err=True)
    if len(read) > 1:
        click.echo(f"joined {len(read)} runs: {len(joined.results)} rows")
    click.echo(f"leaderboard: {page}")


def _page_folder(runs: tuple[Path, ...], out: Path | None) -> Path:
    """Where the page goes: nothing joined is written into one of the runs."""
    if out is None:
        if len(runs) > 1 or runs[0].is_file():
            raise click.UsageError("Several runs, or a bundle, have no place of their own for a page; give --out.")
        return runs[0] / "leaderboard"
    inside = [run for run in runs if len(runs) > 1 and out.resolve().is_relative_to(run.resolve())]
    if inside:
        raise click.UsageError(f"--out {out} lies in {inside[0]}; the page of several runs belongs to none of them.")
    return out


def _recomputed(
    joined: Recorded, replicates: int | None, intervals: Literal["percentile", "bca"]
) -> tuple[Recorded, tuple[str, ...]]:
    from rich.console import Console

    from benchmark.progress import Reporter
    from benchmark.recompute import recomputed

    with Reporter(Console(stderr=True)) as reporter:
        advance = reporter.lane().stage("computing again")
        found = recomputed(joined, replicates=replicates, intervals=intervals, progress=advance)
    return found.run, found.missing


@click.command()
@click.argument("folder", metavar="RUN", type=PATH)
@click.option("--out", type=PATH, required=True, help="The file to write, as results.zip.")
@click.option(
    "--include-images", is_flag=True, help="Also the similarity maps of a run that kept pictures of patients."
)
@AS_JSON
def bundle(*, folder: Path, out: Path, include_images: bool, as_json: bool) -> None:
    """Pack a run into one file, for 'report' to join on another machine.

    It holds results and predictions, without names of samples or patients, reports, or folders of this machine.
    Similarity maps, which show test pictures with phrases of their reports, are in it where a program drew the
    pictures; of patients only with --include-images.

    \b
    python -m benchmark bundle runs/ours --out ours.zip
    python -m benchmark report ours.zip theirs.zip --out joined
    """
    from benchmark.bundle import write_bundle

    contents = write_bundle(folder, out, include_images=include_images)
    kinds = ("cells", "predictions", "maps")
    counts = {kind: sum(name.startswith(f"{kind}/") for name in contents.members) for kind in kinds}
    if as_json:
        click.echo(json.dumps({"bundle": str(out), "bytes": out.stat().st_size, **counts}, indent=1))
        return
    click.echo(
        f"{out}: {counts['cells']} cells, {counts['predictions']} with predictions, "
        f"{counts['maps']} with pictures; {out.stat().st_size / 1e6:.1f} MB"
    )
