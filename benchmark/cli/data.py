"""The verbs about data sets: reading one as a run would, and writing the phantom as a template."""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmark.cli.options import AS_JSON, PATH


@click.group()
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
