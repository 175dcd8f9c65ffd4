"""The verbs that set runs against each other: ``gate`` against a reference file, ``compare`` one against another."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmark.cli.options import AS_JSON, PATH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmark.comparison import Comparison, Pair
    from benchmark.gate import Verdict


@click.command()
@click.argument("folder", metavar="RUN", type=PATH)
@click.option("--against", "reference_file", type=PATH, required=True, help="The reference file.")
@click.option("--update", is_flag=True, help="Write the reference from this run; margins stay as they were.")
@click.option("--junit", type=PATH, help="Also write the verdict as JUnit XML.")
@click.option("--summary", "summary_file", type=PATH, help="Also write the verdict as Markdown.")
@AS_JSON
def gate(
    *,
    folder: Path,
    reference_file: Path,
    update: bool,
    junit: Path | None,
    summary_file: Path | None,
    as_json: bool,
) -> None:
    """Fail where a run is worse than a reference, or cannot be shown not to be.

    A cell passes where the 95% interval of its difference from the reference stays above minus the margin that the
    reference file gives. Exit code 1 where a check failed, 2 where the run is on another split.

    \b
    python -m benchmark gate runs/ci --against reference.json --update
    python -m benchmark gate runs/ci --against reference.json
    python -m benchmark gate runs/ci --against reference.json --junit gate.xml --summary gate.md
    """
    from benchmark.comparison import Run
    from benchmark.gate import judge, read_reference
    from benchmark.gate_report import to_junit, to_markdown
    from benchmark.result import write_atomically

    if update and (junit or summary_file):
        raise click.UsageError("--update judges nothing, so there is no verdict for --junit or --summary to hold.")
    run = Run.read(folder)
    if update:
        _update(run, reference_file, as_json=as_json)
        return
    verdict = judge(run, read_reference(reference_file))
    if junit:
        write_atomically(junit, to_junit(verdict))
    if summary_file:
        write_atomically(summary_file, to_markdown(verdict).encode())
    if as_json:
        click.echo(verdict.model_dump_json(indent=1))
    else:
        _show_verdict(verdict)
    if verdict.failed:
        raise SystemExit(1)
