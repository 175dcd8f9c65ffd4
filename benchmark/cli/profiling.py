"""The verb that measures what models cost, without a dataset."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmark.cli.options import AS_JSON, PATH, PLUGIN, broken, listed
from benchmark.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from benchmark.plan import Candidate
    from benchmark.sweep import ModelCosts, Rates


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Batch sizes in rising order, each once."""
    words = listed(context, parameter, value) or ()
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value!r}: give whole numbers from 1 on, comma-separated, such as 1,8,32")
    return tuple(sorted({int(word) for word in words}))


@click.command()
@click.option("--models", callback=listed, help="Names, comma-separated, or 'all' (the default).")
@click.option("--batch-sizes", callback=_sizes, default="1,8,32,128", show_default=True, help="Comma-separated.")
@click.option("--preset", default="quick", show_default=True, help="quick (tiny random towers), standard, paper.")
@click.option("--scale", type=click.Choice(["paper", "tiny"]), help="Published size, or narrow and shallow.")
@click.option("--weights", help="pretrained, random, or the path of a state dict.")
@click.option("--weights-dir", type=PATH, help="Folder with one subfolder per hub repository.")
@click.option("--device", help="auto, cpu, cuda.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="auto: bf16 on a GPU, else fp32.")
@PLUGIN
@click.option("--out", type=PATH, help="CSV file to write too, one line a model, as soon as each is measured.")
@AS_JSON
def profile(*, batch_sizes: tuple[int, ...], preset: str, out: Path | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - the settings, validated by RunConfig
    """Measure what models cost: memory, latency, rates over batch sizes, operations, time to probe and to adapt.

    Needs no dataset: pictures and reports are those of the embedded phantom. A batch size that does not fit into
    memory is shown as such. Exit code 1 where a model fails; the others are measured all the same.

    \b
    python -m benchmark profile --models all
    python -m benchmark profile --models convirt,lumbarclip-vit --scale paper --batch-sizes 1,4,16
    python -m benchmark profile --models my-model --plugin my_model.py --out costs.csv --json
    """
    from rich.console import Console

    from benchmark.config import make_config
    from benchmark.registry import Registry
    from benchmark.run import find_candidates

    config = make_config(preset, None, {name: value for name, value in options.items() if value not in (None, ())})
    registry = Registry.load(config.plugins)
    found, left_out = find_candidates(config, registry)
    candidates = _encoders(found, config.seeds[0], left_out)
    if out is not None and out.is_dir():
        raise BadInput(f"--out {out} is a folder; give the path of a CSV file")
    # Only now what needs torch: a wrong setting is told at once.
    from benchmark import sweep
    from benchmark.embed import resolve_precision
    from benchmark.progress import Reporter
    from benchmark.provenance import provenance
    from benchmark.result import write_atomically
    from benchmark.run import device_of

    device = device_of(config)
    rows: list[ModelCosts] = []
    with Reporter(Console(stderr=True)) as reporter:
        for line in broken(registry):
            reporter.say(line)
        for name, why in left_out.items():
            reporter.say(f"left out: {name}: {why}")
        if out is not None:  # what cannot be written is told of now
            write_atomically(out, sweep.to_csv([], batch_sizes).encode())
        for row in sweep.measure_each(candidates, config, batch_sizes, device, reporter):
            rows.append(row)
            if out is not None:
                write_atomically(out, sweep.to_csv(rows, batch_sizes).encode())
    document = {
        "scale": config.scale,
        "precision": resolve_precision(device, config.precision),
        "batch_sizes": list(batch_sizes),
        "left_out": left_out,
        "models": [row.model_dump(mode="json") for row in rows],
        "provenance": provenance(device),
    }
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(f"{document['scale']} scale, {document['precision']}, {provenance(device)['hardware']}")
        _show(rows, batch_sizes)
    if any(row.failure for row in rows):
        raise SystemExit(1)


def _encoders(found: Sequence[Candidate], seed: int, left_out: dict[str, str]) -> list[Candidate]:
    """Those that can be measured; why the others can't is added to ``left_out``.

    Raises:
        BadInput: where none can.
    """
    measured = []
    for candidate in found:
        entry = candidate.registered.entry
        if entry.kind == "naive":
            left_out[candidate.registered.name] = "it has no encoder"
        elif entry.card.published_only and candidate.at(seed).kind != "pretrained":
            left_out[candidate.registered.name] = "it stands for its published weights alone"
        else:
            measured.append(candidate)
    if not measured:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise BadInput(f"there is nothing to measure ({why}); 'models' lists others")
    return measured


def _show(rows: Sequence[ModelCosts], batch_sizes: Sequence[int]) -> None:
    """Print what was measured: one table of costs, one of rates, and a line for each failure."""
    from rich.console import Console

    # A pipe has no width of its own: lines stay whole there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    measured = [row for row in rows if not row.failure]
    console.print(_costs(measured))
    console.print(_rates(measured, batch_sizes))
    if any(row.weights == "random" for row in rows):
        click.echo("random: untrained weights, which cost what trained ones do; nothing here says how good a model is")
    for row in rows:
        if row.failure:
            click.echo(f"FAILED {row.model}: {row.failure.summary}", err=True)


def _costs(rows: Sequence[ModelCosts]) -> Table:
    """Size, memory and time of a picture, as papers print them, and what explains them."""
    table = _table("model", "weights")
    for heading in (
        *("parameters", "peak\nMiB", "ms a picture\np50 / p95 / p99", "GFLOPs\nan image", "GFLOPs\na text"),
        *("FLOPs\nutilisation", "bytes\na study", "s to\nprobe", "s to adapt\nheads"),
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        costs = row.profile
        latency = " / ".join(_number(ms) for ms in (costs.latency_p50_ms, costs.latency_p95_ms, costs.latency_p99_ms))
        table.add_row(
            *(row.model, row.weights, f"{costs.parameters / 1e6:.2f} M", f"{costs.peak_memory_mb:.0f}", latency),
            *(_number(costs.gflops_per_image), _number(costs.gflops_per_text), _number(costs.flops_utilisation)),
            *(f"{costs.bytes_per_study:,}", _number(costs.evaluate_s), _number(costs.adapt_s)),
        )
    return table


def _rates(rows: Sequence[ModelCosts], batch_sizes: Sequence[int]) -> Table:
    """Images/s and texts/s at each batch size."""
    table = _table("model")
    for what in ("images/s", "texts/s"):
        for size in batch_sizes:
            table.add_column(f"{what}\nat {size}", justify="right")
    for row in rows:
        table.add_row(row.model, *(_rate(rates, size) for rates in (row.images, row.texts) for size in batch_sizes))
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE)


def _rate(rates: Rates, size: int) -> str:
    """A rate, or why there is none at this size; empty where the model has no such encoder."""
    if size in rates.per_s:
        return _number(rates.per_s[size])
    return "no memory" if rates.out_of_memory_at is not None else ""


def _number(value: float) -> str:
    """Three leading digits, never in exponents; empty for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
