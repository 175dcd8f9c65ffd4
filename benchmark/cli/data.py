"""The verbs about data sets: reading one as a run would, and writing the phantom as a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmark.cli.options import AS_JSON, PATH, PLUGIN
from benchmark.errors import BadInput


@click.group()
def data() -> None:
    """Check a dataset, reword its training reports, or write the phantom to files."""


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


@data.command("augment")
@click.argument("path", type=PATH)
@click.option("--augmentation", required=True, help="eda, paraphrase, mllm, or a plug-in's name.")
@click.option("--out", type=PATH, required=True, help="CSV file to write; it must not exist.")
@click.option("--count", default=4, show_default=True, type=click.IntRange(min=1), help="Texts per report.")
@click.option("--include-dropped", is_flag=True, help="Write also the texts that the check refuses, with its reasons.")
@click.option("--split-seed", type=click.IntRange(min=0), help="As in the run that will use the texts. Default: 0.")
@click.option("--config", "config_file", type=PATH, help="YAML with settings, among them augmentation_options.")
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@click.option("--device", help="auto, cpu, cuda.")
@click.option("--cache", type=PATH, default=Path("runs/.cache"), show_default=True, help="Pictures, finished texts.")
@click.option("--allow-exclusions", is_flag=True, default=None, help="Leave unusable rows out, and count them.")
@PLUGIN
@AS_JSON
def data_augment(
    *,
    path: Path,
    augmentation: str,
    out: Path,
    count: int,
    include_dropped: bool,
    config_file: Path | None,
    cache: Path,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - settings, validated by RunConfig
) -> None:
    """Write the rewordings of the TRAINING reports to a file that a person can read and correct.

    Each row is one text and what the check says of it. Correct the texts, write yes or no under 'use' where you
    overrule the check, and train on them. A killed command goes on where it was: the same command again.

    \b
    python -m benchmark data augment hospital/card.yaml --augmentation paraphrase --out texts.csv
    python -m benchmark run --data hospital/card.yaml --augmentation none,file --rewordings texts.csv
    """
    from rich.console import Console

    from benchmark import augment
    from benchmark.cli.options import broken
    from benchmark.config import make_config
    from benchmark.data.manifest import load
    from benchmark.data.split import make_split
    from benchmark.embed import pick_device
    from benchmark.model import RewordContext
    from benchmark.progress import Reporter
    from benchmark.registry import Registry

    if out.exists():
        raise BadInput(f"{out} exists, and may hold corrections; give another --out, or move it away")
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    config = make_config("quick", config_file, given | {"augmentations": (augmentation,), "rewordings": None})
    registry = Registry.load(config.plugins)
    if augmentation in ("none", augment.FILE):
        raise BadInput(f"--augmentation {augmentation} writes no texts; known: {', '.join(registry.augmentations())}")
    source = augment.find(config, registry)[augmentation]
    with Reporter(Console(stderr=True)) as reporter:
        for line in broken(registry):
            reporter.say(line)
        lane = reporter.lane()
        decoding = lane.stage("decoding pictures")
        dataset = load(path, cache=cache, allow_exclusions=config.allow_exclusions, progress=decoding)
        split = make_split(dataset, seed=config.split_seed)
        pairs = augment.captions(dataset, split)
        if not pairs:
            raise BadInput(f"{path}: no training sample has a report, so there is nothing to reword")
        context = RewordContext(
            cache=cache / "rewordings" / augmentation,
            device=str(pick_device(config.device)),
            weights_dir=config.weights_dir,
            fingerprint=split.fingerprint,
            progress=lane.stage("rewording texts"),
        )
        record = augment.write_file(out, source, pairs, count, context, include_dropped=include_dropped)
        lane.clear()
    if as_json:
        document = {"file": str(out), "split": split.fingerprint, "rewordings": record.model_dump(mode="json")}
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(f"{out}: {record.summary}")
    click.echo(f"of the {record.pairs} training pairs of split {split.fingerprint}; no other report was reworded")


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
