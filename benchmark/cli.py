"""The command line: parse, call, print, exit code. Everything heavy is imported inside the verb that needs it.

Exit codes: 0 done; 1 a check failed or some cells failed; 2 bad input; 130 interrupted, and the same command resumes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmark.registry import Registry
    from benchmark.result import CellResult, Estimate
    from benchmark.run import Outcome, Prepared


class _Verbs(click.Group):
    """Turns the errors a user can meet into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        try:
            return super().invoke(ctx)
        except BenchmarkError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.filename is None:  # not about a file of the user's: a closed pipe, for one
                raise
            click.echo(f"error: {error.filename}: {error.strerror}; give another place or mend this one", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only break into the way out
            click.echo("interrupted; everything finished is kept, and the same command resumes", err=True)
            ctx.exit(130)


def _listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated option."""
    if value is None:
        return None
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise click.BadParameter("needs at least one value")
    return parts


PATH = click.Path(path_type=Path)
PLUGIN = click.option("--plugin", "plugins", multiple=True, type=PATH, help="Python file that defines ENTRIES.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lumbarclip-benchmark")
@click.pass_context
def main(context: click.Context) -> None:
    """Compare medical vision-language models on your own pictures, on one patient-level split.

    \b
    python -m benchmark run --models all                     the embedded phantom, every model, a leaderboard
    python -m benchmark run --data my/card.yaml              your pictures
    python -m benchmark models                               what there is
    python -m benchmark check-model my-model --plugin my.py  does my model keep the contract?
    """
    if context.invoked_subcommand != "weights":
        # Set before any hub library is imported: weights are read locally, and only `weights fetch` may ask a hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# --------------------------------------------------------------------------------------------- run


@main.command()
@click.option("--models", callback=_listed, help="Names, comma-separated, or 'all' (the default).")
@click.option("--data", type=PATH, help="Card, manifest or folder. Default: the embedded lumbar phantom.")
@click.option("--preset", default=None, help="quick (default: tiny random towers), standard, paper.")
@click.option("--config", "config_file", type=PATH, help="YAML with any setting; options on this line win.")
@click.option("--regime", "regimes", callback=_listed, help="frozen, heads, full.")
@click.option("--augmentation", "augmentations", callback=_listed, help="none, eda, or a plug-in's name.")
@click.option("--heads", callback=_listed, help="none, linear-D, mlp-D.")
@click.option("--seeds", callback=_listed, help="Whole numbers, comma-separated.")
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
@click.option("--fresh", is_flag=True, help="Forget finished cells of this plan and run them again.")
@click.option("--dry-run", is_flag=True, help="Show the cells and an estimate; train and evaluate nothing.")
@click.option("--print-config", is_flag=True, help="Print the resulting configuration as YAML and stop.")
@AS_JSON
def run(
    *,
    config_file: Path | None,
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
    """
    from rich.console import Console

    from benchmark.config import make_config
    from benchmark.progress import Reporter
    from benchmark.registry import Registry
    from benchmark.run import prepare
    from benchmark.run import run as run_plan

    given = {name: value for name, value in options.items() if value is not None and value != ()}
    config = make_config(given.pop("preset", "quick"), config_file, given)
    if print_config:
        click.echo(config.to_yaml(), nl=False)
        return
    registry = Registry.load(config.plugins)
    with Reporter(Console(stderr=True)) as reporter:
        for line in _broken(registry):
            reporter.say(line)
        prepared = prepare(config, registry, reporter)
        for finding in prepared.findings:
            if finding.severity != "note":
                reporter.say(f"{finding.code} {finding.severity}: {finding.message}")
        if dry_run:
            _show_plan(prepared, as_json=as_json)
            return
        outcome = run_plan(prepared, reporter, fresh=fresh)
        page = _build_leaderboard(outcome, outcome.out / "leaderboard")
    _show_outcome(outcome, page, as_json=as_json)
    if outcome.failed:
        raise SystemExit(1)


def _show_plan(prepared: Prepared, *, as_json: bool) -> None:
    from benchmark.estimate import estimate
    from benchmark.run_folder import RunFolder

    folder = RunFolder(prepared.out)
    cells = [
        {"id": spec.id, "model": spec.model, "variant": str(variant), "seed": spec.seed, "cached": folder.has(spec.id)}
        for unit in prepared.plan.units
        for variant, spec in unit.cells
    ]
    expected = estimate(prepared, [unit for unit in prepared.plan.units if not folder.finished(unit)])
    if as_json:
        plan = prepared.plan
        document = {"cells": cells, "collapsed": plan.collapsed, "impossible": plan.impossible, "estimate": expected}
        click.echo(json.dumps(document, indent=1))
        return
    for cell in cells:
        state = "cached" if cell["cached"] else "to run"
        click.echo(f"{state:7} {cell['id']}  {cell['model']:22} {cell['variant']}, seed {cell['seed']}")
    for what, why in prepared.plan.collapsed.items():
        click.echo(f"{'same':7} {what}: {why}")
    impossible: dict[str, list[str]] = {}
    for what, why in prepared.plan.impossible.items():
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


def _build_leaderboard(outcome: Outcome, out: Path) -> Path:
    from leaderboards.build import build

    return build(outcome.record, outcome.results, out)


@main.command()
@click.argument("folder", type=PATH)
@click.option("--out", type=PATH, help="Where to write the site. Default: FOLDER/leaderboard.")
def report(folder: Path, out: Path | None) -> None:
    """Write the leaderboard of a finished, interrupted or running run again.

    \b
    python -m benchmark report runs/lumbar-phantom-quick
    """
    from benchmark.run import read_run

    click.echo(f"leaderboard: {_build_leaderboard(read_run(folder), out or folder / 'leaderboard')}")


# --------------------------------------------------------------------------------------------- models


def _broken(registry: Registry) -> list[str]:
    return [f"left out: {problem}" for problem in registry.broken]


@main.command()
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@PLUGIN
@AS_JSON
def models(*, weights_dir: Path | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List registered models: what they are, how large, whether they can be trained, where their weights are.

    \b
    python -m benchmark models
    python -m benchmark models --weights-dir weights --plugin my_model.py --json
    """
    from benchmark.registry import Registry
    from benchmark.weights import listing

    registry = Registry.load(plugins)
    entries = registry.models()
    files: dict[str, list[dict[str, Any]]] = {}
    for listed in listing([r.entry.card for r in entries.values()], weights_dir):
        source = dict(listed)
        files.setdefault(str(source.pop("model")), []).append(source)
    rows: list[dict[str, Any]] = [
        {
            "name": r.name,
            "title": r.entry.card.title,
            "kind": r.entry.kind,
            "provider": r.provider,
            "summary": r.entry.card.summary,
            "inputs": list(r.entry.card.inputs),
            "encodes": list(r.entry.card.encodes) if r.entry.kind == "encoder" else [],
            "regimes": list(r.entry.regimes),
            "licence": r.entry.card.licence,
            "training_data": r.entry.card.training_data,
            "sizes": {scale: size.model_dump() for scale, size in r.entry.card.sizes.items()},
            "weights": files.get(r.name, []),
        }
        for r in entries.values()
    ]
    if as_json:
        click.echo(json.dumps({"models": rows, "broken": list(registry.broken)}, indent=1))
        return
    click.echo("\n\n".join(_model_block(row) for row in rows))
    for line in _broken(registry):
        click.echo(line, err=True)


_TRAINING = {
    1: "cannot be trained: frozen only",
    2: "can be trained: heads only",
    3: "can be trained: heads and towers",
}
"""What can be trained of a model, by the number of its regimes."""


def _model_block(row: dict[str, Any]) -> str:
    """A model in a few lines of at most 100 columns; only names, paths and addresses longer than that go beyond."""
    trains = "naive row" if row["kind"] == "naive" else _TRAINING[len(row["regimes"])]
    lines = [("scored", f"from {' + '.join(row['inputs']) or 'nothing'}; {trains}")]
    if row["training_data"]:
        lines.append(("data", row["training_data"]))
    for scale, size in row["sizes"].items():
        widths = f"features {size['image_dim']} image, {size['text_dim']} text"
        side = size["input_size"]
        lines.append((scale, f"{_millions(size['parameters'])} parameters; {widths}; input {side} x {side}"))
    for i, source in enumerate(row["weights"]):
        licence = source["licence"].replace("not stated", "licence not stated")
        revision = source["revision"][:12] if source["pinned"] else "not pinned"
        what = f"{source['repo_id']} ({source['tower']}, {licence}, {revision})"
        lines.append(("" if i else "weights", f"{what}: {_whereabouts(source)}"))
    head = f"{row['name']}: {row['title']}  [{row['provider']}]"
    body = [_filled(f"    {label:9}", text) for label, text in lines]
    return "\n".join([head, _filled(" " * 4, row["summary"]), *body])


def _whereabouts(source: Mapping[str, Any]) -> str:
    """Where the files of a source are, or that they are not here, and who must get them."""
    if source["present"]:
        return f"in {source['where']}"
    return f"not here; download from {source['address']}" if source["address"] else "not here"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters:,}"


def _filled(start: str, text: str) -> str:
    # Paths and addresses are copied from here, so they are not broken.
    rest = " " * len(start)
    return textwrap.fill(
        text, 100, initial_indent=start, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


@main.command("check-model")
@click.argument("name")
@click.option("--scale", type=click.Choice(["paper", "tiny"]), default="tiny", show_default=True)
@PLUGIN
@AS_JSON
def check_model(*, name: str, scale: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """Check that a model keeps the contract, clause by clause. Exit code 1 where one fails.

    \b
    python -m benchmark check-model lumbarclip-vit
    python -m benchmark check-model my-model --plugin my_model.py
    """
    from benchmark.conformance import EXAMPLE_REPORTS, check
    from benchmark.model import BuildRequest
    from benchmark.registry import Registry

    entry = Registry.load(plugins).model(name).entry
    request = BuildRequest(scale="paper" if scale == "paper" else "tiny", train_reports=EXAMPLE_REPORTS)
    clauses = check(entry, request)
    if as_json:
        click.echo(json.dumps([{"clause": c.name, "passed": c.passed, "detail": c.detail} for c in clauses], indent=1))
    else:
        marks = {True: "pass", False: "FAIL", None: "n/a"}
        for clause in clauses:
            click.echo(f"{marks[clause.passed]:4}  {clause.name}{': ' + clause.detail if clause.detail else ''}")
    if any(clause.passed is False for clause in clauses):
        raise SystemExit(1)


# --------------------------------------------------------------------------------------------- data


@main.group()
def data() -> None:
    """Check a dataset, or write the phantom to files."""


@data.command("check")
@click.argument("path", type=PATH)
@click.option("--cache", type=PATH, default=Path("runs/.cache"), show_default=True, help="Decoded pictures.")
@click.option("--allow-exclusions", is_flag=True, help="Leave unusable rows out, and count them.")
@AS_JSON
def data_check(*, path: Path, cache: Path, allow_exclusions: bool, as_json: bool) -> None:
    """Read a dataset as a run would, divide it, and say what could fool a reader. Exit code 1 on an error found.

    \b
    python -m benchmark data check hospital/card.yaml
    """
    from benchmark.data.audit import audit
    from benchmark.data.manifest import load
    from benchmark.data.split import make_split
    from benchmark.run import split_record

    dataset = load(path, cache=cache, allow_exclusions=allow_exclusions)
    split = make_split(dataset)
    findings = audit(dataset, split)
    record = split_record(dataset, split)
    if as_json:
        document = {
            "dataset": dataset.card.name,
            "task": dataset.card.task,
            "samples": len(dataset),
            "split": record.model_dump(mode="json"),
            "findings": [finding.model_dump(mode="json") for finding in findings],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(f"{dataset.card.name}: {len(dataset)} pictures, {dataset.card.task}, split {split.fingerprint}")
        groups = "patients" if record.grouped_by == "patient" else "groups of identical pictures"
        for part, n in record.n.items():
            classes = ", ".join(f"{name} {count}" for name, count in record.class_counts[part].items())
            click.echo(f"  {part:5} {n} pictures of {record.n_patients[part]} {groups}: {classes}")
        for f in findings:
            click.echo(f"{f.code} {f.severity}: {f.message}" + (f"\n  -> {f.remedy}" if f.remedy else ""))
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


@data.command("phantom")
@click.option("--out", type=PATH, required=True, help="Folder to write into.")
@click.option("--patients", default=300, show_default=True, type=click.IntRange(min=20))
@click.option("--seed", default=0, show_default=True)
def data_phantom(*, out: Path, patients: int, seed: int) -> None:
    """Write the lumbar phantom as pictures, masks, manifest and card: a template for your own data.

    \b
    python -m benchmark data phantom --out phantom && python -m benchmark run --data phantom
    """
    from benchmark.data.phantom import write

    click.echo(f"card: {write(out, patients, seed=seed)}")


# --------------------------------------------------------------------------------------------- weights


@main.group()
def weights() -> None:
    """Published weights: what is on this machine, and fetching them."""


@weights.command("list")
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@PLUGIN
@AS_JSON
def weights_list(*, weights_dir: Path | None, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List the files each model needs, and whether they are here. Asks no hub."""
    from benchmark.registry import Registry
    from benchmark.weights import listing

    rows = listing([r.entry.card for r in Registry.load(plugins).models().values()], weights_dir)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(
            f"{row['model']}: {row['repo_id']}@{row['revision'][:12]} ({', '.join(row['files'])}), "
            f"{row['licence']}: {_whereabouts(row)}"
        )


@weights.command("fetch")
@click.argument("name")
@click.option("--weights-dir", type=PATH, help="Where to put them. Default: the user's cache folder.")
@PLUGIN
def weights_fetch(*, name: str, weights_dir: Path | None, plugins: tuple[Path, ...]) -> None:
    """Download the pinned weights of one model: the only command that uses the network.

    \b
    python -m benchmark weights fetch lumbarclip-resnet50
    """
    from benchmark.registry import Registry
    from benchmark.weights import default_folder, fetch

    card = Registry.load(plugins).model(name).entry.card
    for folder in fetch(card, weights_dir or default_folder(), progress=lambda line: click.echo(line, err=True)):
        click.echo(str(folder))
