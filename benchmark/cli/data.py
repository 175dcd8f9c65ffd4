"""The verbs about data sets: reading one as a run would, writing the phantom, importing a published archive."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from benchmark.cli.options import AS_JSON, PATH, PLUGIN
from benchmark.errors import BadInput


@click.group()
def data() -> None:
    """Check a dataset, reword its training reports, write the phantom to files, or import a published archive."""


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


@data.command("import-lumbar")
@click.argument("source", type=PATH, metavar="SRC")
@click.option("--out", type=PATH, required=True, help="Folder to write into; what is finished there is kept.")
@click.option("--notes", type=PATH, help="Spreadsheet of the notes. Default: found in SRC or beside it.")
@click.option("--labels", default="notes-v1", show_default=True, help="Labelling rule; also notes-spasm-v1.")
@click.option(
    "--split",
    type=click.Choice(["patient", "image-level"]),
    default="patient",
    show_default=True,
    help="image-level: the paper's, written into the manifest, and reported as leaking.",
)
@click.option("--seed", default=0, show_default=True, help="Of the image-level split.")
@AS_JSON
def data_import_lumbar(
    *,
    source: Path,
    out: Path,
    notes: Path | None,
    labels: str,
    split: Literal["patient", "image-level"],
    seed: int,
    as_json: bool,
) -> None:
    """Import the Mendeley lumbar MRI data: the last three discs in T1 and T2, labelled from the notes.

    SRC is the archive of doi:10.17632/k57fr854j2.2, unpacked or as a zip file, or a folder that holds the zip file;
    the notes are those of doi:10.17632/s6bgczr8s2.2. The same command again reads only what changed.

    \b
    python -m benchmark data import-lumbar downloads/ --out lumbar && python -m benchmark data check lumbar
    python -m benchmark data import-lumbar lumbar.zip --notes report.xlsx --out paper --split image-level
    """
    from rich.console import Console

    from benchmark.data.lumbar import import_lumbar
    from benchmark.progress import Reporter

    with Reporter(Console(stderr=True)) as reporter:
        report = import_lumbar(
            source,
            out,
            notes=notes,
            labels=labels,
            split=split,
            seed=seed,
            progress=reporter.lane().stage("reading patients"),
        )
    if as_json:
        click.echo(json.dumps({**asdict(report), "card": str(report.card), "excluded": report.excluded()}, indent=1))
        return
    click.echo(f"card: {report.card}")
    click.echo(f"{report.pictures} pictures of {report.patients} patients, labels by {labels}:")
    for label, n in report.labels.items():
        share = n / report.pictures
        click.echo(f"  {label}: {n} pictures ({share:.1%}) of {report.patients_of[label]} patients")
    for title, counts in (("left out, in patients", report.excluded()), ("files left aside", report.aside)):
        if counts:
            click.echo("\n".join([f"{title}:", *(f"  {n} {what}" for what, n in counts.items())]))
    if report.exclusions:
        click.echo(f"who was left out, and why: {out / 'exclusions.csv'}")
    if report.notes_alone:
        click.echo(f"{report.notes_alone} patients of the notes have no pictures in the archive")
