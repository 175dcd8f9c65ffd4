"""The verb that checks a published row of figures against its class counts."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from benchmark.cli.options import AS_JSON
from benchmark.errors import BadInput

if TYPE_CHECKING:
    from benchmark.evaluate.published import Fit, Row, Verdict

WORDS = {
    "binary_positive": "binary, of the positives",
    "binary_negative": "binary, of the negatives",
    "macro": "macro",
    "weighted": "weighted",
}
"""Averagings in words."""


@click.command("check-row")
@click.option("--accuracy", required=True, help="In percent, as printed: 95.00 and 95 are rounded differently.")
@click.option("--precision", help="As printed; may be left out.")
@click.option("--recall", help="As printed; may be left out.")
@click.option("--f1", required=True, help="As printed.")
@click.option("--positives", type=click.IntRange(min=1), help="Samples of the positive class.")
@click.option("--negatives", type=click.IntRange(min=1), help="Samples of the other class.")
@click.option("--total", type=click.IntRange(min=2), help="All samples, where the class counts are unknown.")
@click.option("--decimals", type=click.IntRange(min=0), help="Decimals really rounded to, where fewer than shown.")
@AS_JSON
def check_row(
    *,
    accuracy: str,
    precision: str | None,
    recall: str | None,
    f1: str,
    positives: int | None,
    negatives: int | None,
    total: int | None,
    decimals: int | None,
    as_json: bool,
) -> None:
    """Check whether published figures of two classes can come from one confusion matrix.

    All confusion matrices of the class counts are tried, under every averaging. Exit code 1 where none fits.

    \b
    python -m benchmark check-row --accuracy 95.00 --precision 94.50 --recall 98.08 --f1 94.75 \\
        --positives 462 --negatives 66
    python -m benchmark check-row --accuracy 94.00 --precision 94.00 --recall 94.00 --f1 94.00 \\
        --positives 462 --negatives 66 --decimals 0
    python -m benchmark check-row --accuracy 81.52 --precision 85.10 --recall 94.47 --f1 89.54 --total 528
    """
    from benchmark.evaluate.published import Row, check, printed, scan

    row = Row(
        accuracy=printed(accuracy, "accuracy", decimals),
        f1=printed(f1, "F1", decimals),
        precision=None if precision is None else printed(precision, "precision", decimals),
        recall=None if recall is None else printed(recall, "recall", decimals),
    )
    if row.accuracy.value <= 1:
        raise BadInput(f"accuracy {accuracy} is taken as percent; write all figures as percent, 95.0 for 0.950")
    if positives is not None and negatives is not None and total is None:
        verdict, where = check(row, positives, negatives), f"{positives} positives and {negatives} negatives"
    elif total is not None and positives is None and negatives is None:
        verdict, where = scan(row, total), f"{total} samples, of all class counts those of this accuracy"
    else:
        raise BadInput("give --positives and --negatives, or --total alone where the class counts are unknown")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(verdict) | {"possible": verdict.possible}, indent=1))
    else:
        click.echo("\n".join(_lines(row, verdict, where)))
    if not verdict.possible:
        raise SystemExit(1)


def _lines(row: Row, verdict: Verdict, where: str) -> list[str]:
    lines = [f"{where}: {verdict.tried:,} confusion matrices"]
    lines += [f"  {WORDS[name]:25} {_in_words(fit)}" for name, fit in verdict.fits.items()]
    if verdict.right_answers is None:
        lines.append(f"no number of right answers has accuracy {row.accuracy.value:g}: are its last decimals padding?")
    if verdict.harmonic is not None:
        verb = "can be" if verdict.harmonic_agrees else "is not"
        lines.append(f"F1 {row.f1.value:g} {verb} 2PR/(P+R), which is {verdict.harmonic:.2f}")
    if verdict.prevalence is not None:
        low, high = verdict.prevalence
        lines.append(f"if binary, accuracy, precision and recall imply that {low:.2%} to {high:.2%} are positive")
    if verdict.majority is not None:
        m = verdict.majority
        lines.append(
            f"always answering the larger class scores accuracy {m.accuracy:.2f}, balanced accuracy 50, "
            f"F1 {m.f1_binary:.2f} binary, {m.f1_macro:.2f} macro, {m.f1_weighted:.2f} weighted"
        )
    fitting = [WORDS[name] for name, fit in verdict.fits.items() if fit.matrices]
    lines.append(
        f"possible as: {'; '.join(fitting)}" if fitting else "no averaging fits: not the figures of one such matrix"
    )
    return lines


def _in_words(fit: Fit) -> str:
    if fit.positives is not None:
        fewest, most = fit.positives
        words = f"{fit.matrices:,} fit" + ("" if fewest == most else f", with {fewest} to {most} positives")
    else:
        words = "none fits"
    if fit.nearest_miss is not None and fit.nearest is not None:
        tp, fn, fp, tn = fit.nearest
        words += f", the nearest is {fit.nearest_miss:.2f} points off (tp {tp}, fn {fn}, fp {fp}, tn {tn})"
    if fit.f1_at_accuracy is not None:
        low, high = fit.f1_at_accuracy
        words += f"; at this accuracy F1 is {low:.2f} to {high:.2f}"
    return words
