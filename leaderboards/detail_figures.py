"""The charts of one row in detail: ROC, precision-recall, reliability and decision curves, a colour per question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.evaluate.detail_records import Band, Bin, Question, Reliability
from leaderboards.figures import CLASS_COLOURS, INK, MUTED, PAPER, inline, short, style

SIZE_IN = (4.6, 4.1)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""Colours come again after ``CLASS_COLOURS``; the dashes tell their lines apart."""

SAID_AT = (0.1, 0.2, 0.5)
"""Where a curve is said in words."""


def roc(questions: Sequence[Question]) -> Markup | None:
    """Sensitivity by false positive rate, with the operating points of a task of one question.

    Returns:
        An inline SVG; None where no question has a curve.
    """
    drawn = [(i, question) for i, question in enumerate(questions) if question.roc.x]
    if not drawn:
        return None
    with style():
        figure, axes = _square("1 − specificity", "Sensitivity")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        for i, question in drawn:
            _band(axes, question.roc_band, i, alone=len(questions) == 1)
            axes.plot(question.roc.x, question.roc.y, zorder=3, **_line(i))
        if len(questions) == 1:
            found = [p for p in questions[0].points if p.specificity.value == p.specificity.value]
            places = [1 - p.specificity.value for p in found], [p.sensitivity.value for p in found]
            axes.plot(*places, "o", markersize=7, markerfacecolor=PAPER, markeredgecolor=INK, zorder=4)
        _legend(figure, [(i, question.name) for i, question in drawn])
        words = [f"{q.name}: sensitivity {_said(q.roc.x, q.roc.y, 'false positive rate')}" for _, q in drawn]
        return inline(figure, "roc", "ROC curve on test", "; ".join(words) + ".")


def precision_recall(questions: Sequence[Question]) -> Markup | None:
    """Precision by recall; the dotted line is the share of positives, which guessing has.

    Returns:
        An inline SVG; None where no question has a curve.
    """
    drawn = [(i, question) for i, question in enumerate(questions) if question.precision_recall.x]
    if not drawn:
        return None
    with style():
        figure, axes = _square("Recall (sensitivity)", "Precision (PPV)")
        for i, question in drawn:
            _band(axes, question.precision_recall_band, i, alone=len(questions) == 1)
            axes.plot(question.precision_recall.x, question.precision_recall.y, zorder=3, **_line(i))
            share = question.positives / question.n
            axes.axhline(share, color=CLASS_COLOURS[i % len(CLASS_COLOURS)], linewidth=0.9, linestyle=(0, (1, 3)))
        _legend(figure, [(i, question.name) for i, question in drawn])
        words = [
            f"{q.name}: precision {_said(q.precision_recall.x, q.precision_recall.y, 'recall')}, "
            f"by guessing {q.positives / q.n:.2f}"
            for _, q in drawn
        ]
        return inline(figure, "precision-recall", "Precision-recall curve on test", "; ".join(words) + ".")


def reliability(curves: Sequence[Reliability]) -> Markup | None:
    """What happened by how sure the row was: hollow as the scores stand, filled with the temperature.

    Intervals are drawn for a task of one curve.

    Returns:
        An inline SVG; None where there is no curve.
    """
    if not curves:
        return None
    alone = len(curves) == 1
    with style():
        figure, axes = _square("Mean confidence of a bin", "Share of which it was so")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        for i, curve in enumerate(curves):
            colour = CLASS_COLOURS[i % len(CLASS_COLOURS)]
            if alone or not curve.after:
                _bins(axes, curve.before, i, face=PAPER, width=0.9)
            if curve.after:
                _bins(axes, curve.after, i, face=colour, width=1.6)
            if alone:
                shown = [b for b in curve.after or curve.before if b.low == b.low]
                places = [b.predicted for b in shown], [b.low for b in shown], [b.high for b in shown]
                axes.vlines(*places, color=colour, linewidth=1.4, alpha=0.6, zorder=2)
        _legend(figure, [(i, curve.name) for i, curve in enumerate(curves)])
        words = [f"{c.name}: {_bins_said(c.after or c.before)}" for c in curves]
        return inline(figure, "reliability", "Reliability curve on test", "; ".join(words) + ".")


def decision(questions: Sequence[Question]) -> Markup | None:
    """Net benefit by threshold probability: the row, acting on everybody (dotted) and on nobody (the line at 0).

    Returns:
        An inline SVG; None where no question has a curve.
    """
    drawn = [(i, question, question.decision) for i, question in enumerate(questions) if question.decision]
    if not drawn:
        return None
    with style():
        figure, axes = _square("Threshold probability", "Net benefit")
        best = max(max(curve.treat_all[0], *curve.model) for _, _, curve in drawn)
        axes.set_ylim(-0.25 * best, 1.1 * best)
        axes.axhline(0, color=MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
        for i, _, curve in drawn:
            colour = CLASS_COLOURS[i % len(CLASS_COLOURS)]
            of_all = MUTED if len(questions) == 1 else colour
            axes.plot(curve.thresholds, curve.treat_all, color=of_all, linewidth=1.1, linestyle=(0, (1, 2)), zorder=2)
            _band(axes, Band(x=curve.thresholds, low=curve.low, high=curve.high), i, alone=len(questions) == 1)
            axes.plot(curve.thresholds, curve.model, zorder=3, **_line(i))
        _legend(figure, [(i, question.name) for i, question, _ in drawn])
        words = [
            f"{question.name}: net benefit {_said(curve.thresholds, curve.model, 'threshold')}, of acting on everybody "
            f"{_said(curve.thresholds, curve.treat_all, 'threshold')}"
            for _, question, curve in drawn
        ]
        return inline(figure, "decision", "Decision curve on test", "; ".join(words) + ".")


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.tick_params(axis="y", labelcolor=MUTED)
    return figure, axes


def _line(i: int) -> dict[str, Any]:
    """How the i-th question is drawn."""
    colours = len(CLASS_COLOURS)
    return {"color": CLASS_COLOURS[i % colours], "linestyle": DASHES[i // colours % len(DASHES)], "linewidth": 1.8}


def _band(axes: Axes, band: Band, i: int, *, alone: bool) -> None:
    """Where a curve may lie; several bands over each other could not be read."""
    if alone and band.low:
        axes.fill_between(band.x, band.low, band.high, color=CLASS_COLOURS[i], alpha=0.18, linewidth=0, zorder=2)


def _bins(axes: Axes, bins: Sequence[Bin], i: int, *, face: str, width: float) -> None:
    look = _line(i) | {"linewidth": width, "marker": "o", "markersize": 5, "markerfacecolor": face}
    axes.plot([b.predicted for b in bins], [b.observed for b in bins], zorder=3, **look)


def _legend(figure: Figure, named: Sequence[tuple[int, str]]) -> None:
    """Names beside colours, where there are several. Matplotlib would leave out one that begins with a line below."""
    if len(named) < 2:
        return
    handles = [Line2D([], [], **_line(i)) for i, _ in named]
    labels = [f" {name}" if name.startswith("_") else name for name in (short(name) for _, name in named)]
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=9)


def _said(x: Sequence[float], y: Sequence[float], what: str) -> str:
    """A curve in words, at a few places."""
    # Of several heights at one place the last counts, as in the drawing from left to right.
    found = ((at, float(np.interp(at, x, y))) for at in SAID_AT)
    return ", ".join(f"{height:.2f} at {what} {at:g}" for at, height in found).replace("-", "−")


def _bins_said(bins: Sequence[Bin]) -> str:
    return ", ".join(f"{b.observed:.2f} where {b.predicted:.2f} was expected ({b.n} samples)" for b in bins)
