"""The verb that looks at this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from benchmark.cli.options import AS_JSON, PATH, PLUGIN


@click.command()
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Folder that runs are written into.")
@click.option("--cache", type=PATH, help="Decoded pictures and embeddings. Default: .cache in that folder.")
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@PLUGIN
@AS_JSON
def doctor(
    *, out: Path, cache: Path | None, weights_dir: Path | None, plugins: tuple[Path, ...], as_json: bool
) -> None:
    """Look whether this machine can run the benchmark, and say how to mend what cannot. Exit code 1 on a FAIL.

    \b
    python -m benchmark doctor
    python -m benchmark doctor --weights-dir weights --json
    """
    from benchmark.doctor import Places, examine

    failed, lines = False, []
    for line in examine(Places(out, cache or out / ".cache", weights_dir, plugins)):
        failed |= line.status == "FAIL"
        lines.append(asdict(line))
        if not as_json:
            click.echo(f"{line.status}  {line.name}: {line.message}" + (f"\n      -> {line.fix}" if line.fix else ""))
    if as_json:
        click.echo(json.dumps(lines, indent=1))
    if failed:
        raise SystemExit(1)
