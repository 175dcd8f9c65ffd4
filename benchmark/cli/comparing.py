"""The verbs that set runs against each other: ``gate`` against a reference file, ``compare`` one against another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmark.cli.options import AS_JSON, PATH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmark.comparison import Comparison, Pair, Run
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
        click.echo(json.dumps({"passed": not verdict.failed, **verdict.model_dump(mode="json")}, indent=1))
    else:
        _show_verdict(verdict)
    if verdict.failed:
        raise SystemExit(1)


def _update(run: Run, file: Path, *, as_json: bool) -> None:
    from benchmark.gate import read_reference, take_reference, write_reference

    old = read_reference(file) if file.exists() else None
    reference = take_reference(run, old)
    write_reference(reference, file)
    places = {cell.place for cell in reference.cells}
    left_out = [str(place) for place in run.cells if place not in places]
    gone = [str(cell.place) for cell in old.cells if cell.place not in places] if old else []
    if as_json:
        document = {
            "reference": str(file),
            "cells": [str(cell.place) for cell in reference.cells],
            "margins": reference.margins,
            "failed_in_run": left_out,
            "no_longer_gated": gone,
        }
        click.echo(json.dumps(document, indent=1))
        return
    for what, cells in (("failed in this run, not in the reference", left_out), ("no longer gated", gone)):
        for place in cells:
            click.echo(f"{what}: {place}", err=True)
    margins = ", ".join(f"{metric} {margin:g}" for metric, margin in reference.margins.items())
    click.echo(f"{file}: {len(reference.cells)} cells; margins {'kept' if old else 'by default'}: {margins}")


def _show_verdict(verdict: Verdict) -> None:
    from benchmark.gate_report import figures, plain, summary

    head = ("", "cell", "check", "before", "after", "difference", "margin")
    words = {"failed": "FAILED"}
    rows = [(words.get(c.outcome, c.outcome), str(c.place), c.what, *figures(c)) for c in verdict.checks]
    _print_table(head, rows)
    for check in verdict.checks:
        if check.why:
            click.echo(f"{check.outcome}: {plain(str(check.place))}: {check.what}: {plain(check.why)}")
    for note in verdict.notes:
        click.echo(plain(note))
    click.echo(summary(verdict))


@click.command()
@click.argument("before", metavar="RUN_A", type=PATH)
@click.argument("after", metavar="RUN_B", type=PATH)
@click.option("--metric", help="Of the standard probe. Default: the primary metric.")
@AS_JSON
def compare(before: Path, after: Path, metric: str | None, *, as_json: bool) -> None:
    """Set two runs on one split side by side, cell by cell.

    Differences are RUN_B less RUN_A, with 95% intervals paired patient by patient. Exit code 2 where the runs are on
    different splits: then no row can be compared.

    \b
    python -m benchmark compare runs/before runs/after
    python -m benchmark compare runs/before runs/after --metric f1_macro --json
    """
    from benchmark.comparison import Run
    from benchmark.comparison import compare as compare_runs

    found = compare_runs(Run.read(before), Run.read(after), metric)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        _show_comparison(found)
    if found.question:
        raise SystemExit(2)


def _show_comparison(found: Comparison) -> None:
    from benchmark.gate_report import plain

    head = ("", "cell", "before", "after", f"difference in {found.metric}")
    _print_table(head, [(pair.mark, str(pair.place), *_numbers(pair)) for pair in found.pairs])
    if found.question:
        click.echo(f"error: {plain(found.question)}; compare runs on one split", err=True)
        return
    for pair in found.pairs:
        if pair.note:
            click.echo(f"{plain(str(pair.place))}: {plain(pair.note)}")


def _numbers(pair: Pair) -> tuple[str, str, str]:
    from benchmark.gate_report import number, with_interval

    difference = "" if pair.difference is None else with_interval(pair.difference)
    return number(pair.before), number(pair.after), difference


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from benchmark.gate_report import plain

    table = Table(*head, box=box.SIMPLE)
    for row in rows:
        table.add_row(*map(plain, row))
    # A pipe has no width of its own: lines stay whole there. Names are shown as they are, brackets and all.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    console.print(table)
