"""The verbs about models: what there is, whether one keeps the contract, and where published weights are."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import AS_JSON, PATH, PLUGIN, broken

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command()
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
            "naive": r.entry.naive,
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
    for line in broken(registry):
        click.echo(line, err=True)


_TRAINING = {
    1: "cannot be trained: frozen only",
    2: "can be trained: heads only",
    3: "can be trained: heads and towers",
}
"""What can be trained of a model, by the number of its regimes."""


def _model_block(row: dict[str, Any]) -> str:
    """A model in a few lines of at most 100 columns; only names, paths and addresses longer than that go beyond."""
    trains = "naive row" if row["naive"] else _TRAINING[len(row["regimes"])]
    lines = [("scored", f"from {' + '.join(row['inputs']) or 'nothing'}; {trains}")]
    if row["training_data"]:
        lines.append(("data", row["training_data"]))
    for scale, size in row["sizes"].items():
        widths = f"features {size['image_dim']} image" + (f", {size['text_dim']} text" if size["text_dim"] else "")
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


@click.command("check-model")
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


# --------------------------------------------------------------------------------------------- weights


@click.group()
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
