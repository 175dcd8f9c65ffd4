"""The charts of the page: seaborn draws, and the SVG is made fit for inlining.

Inlined means: no prolog, no metadata, no fixed size, ids that are unique in the page and the same in every run, text as
text in the page's own font, and colours as CSS variables, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmark.evaluate.factorial import CellMean
from benchmark.result import REGIMES, Regime
from leaderboards.columns import compact

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#fdfdfd"
REFERENCE, REPORTED = "reference", "reported"
PALETTE: dict[str, str] = dict(zip(REGIMES, sns.color_palette("colorblind").as_hex()[:3], strict=True)) | {
    REFERENCE: MUTED
}
"""Seaborn's colour-blind safe palette; the marker says the same thing again."""

CLASS_COLOURS = tuple(f"#0000{i:02x}" for i in range(1, 9))
"""Stand-ins for the colours of classes, which are ``--class-0`` to ``--class-7``."""

CSS_COLOURS = (
    {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--surface"}
    | {PALETTE[regime]: f"--{regime}" for regime in REGIMES}
    | {colour: f"--class-{i}" for i, colour in enumerate(CLASS_COLOURS)}
)
"""Drawn colour -> the CSS variable that replaces it; INK and its like are stand-ins, seen nowhere else."""

MARKERS = {"frozen": "o", "heads": "s", "full": "D", REFERENCE: "X"}

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
REFERENCES = re.compile(r"(?:(?<=url\(#)|(?<=^#))[\w.-]+")
"""Ids that an attribute refers to."""
FONT = re.compile(r"font-family:[^;]*;\s*")

DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
"""Of lines that stand for values of one axis."""

SPREAD = 0.24
"""How far apart the regimes' points stand on their model's line."""

WIDTH_IN = 8.6
NARROW_IN = 6.2
"""Of a chart that stands beside a table."""
AXES_HEIGHT_PT = 260.0
"""Of the second chart, near enough to push names apart by."""
PANELS_ACROSS = 3
"""Panels side by side, so that a model's name fits above each."""
LONGEST_NAME = 36
"""Characters of a model's name that fit beside a chart."""

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leaderboard",
    "text.parse_math": False,  # a name with two dollar signs is a name, not a formula
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


@dataclass(frozen=True)
class Point:
    """One row of the leaderboard as the charts see it; ``value`` is defined."""

    model: str
    regime: Regime
    value: float
    low: float
    high: float
    """Interval ends, NaN where there is no interval."""
    images_per_s: float
    """NaN where there is no encoder."""
    chosen: bool
    reference: bool
    """Whether its score is computed from something else than the picture."""

    @property
    def group(self) -> str:
        """What colour and marker stand for."""
        return REFERENCE if self.reference else self.regime


def quality(points: Sequence[Point], *, metric: str, chance: float) -> Markup | None:
    """Primary metric per model: every variant a point, the chosen one large with its interval, references as lines.

    Returns:
        An inline SVG; None where no point is given.
    """
    if not points:
        return None
    models = _by_best(points)
    with style():
        figure = Figure(figsize=(WIDTH_IN, max(4.4, 0.95 + 0.42 * len(models))), layout="constrained")
        axes = figure.subplots()
        for point in (point for point in points if point.reference):
            axes.axvline(point.value, color=MUTED, linewidth=0.9, linestyle=(0, (1, 3)), zorder=1)
        offsets = _offsets(points)
        for point in (point for point in points if point.chosen):
            ends = models.index(point.model) + offsets[point.group], point.low, point.high
            axes.hlines(*ends, color=PALETTE[point.group], linewidth=2.2, zorder=4)
        _scatter(axes, _frame(points, models, offsets), x="value", y="row")
        axes.set(xlabel=f"{metric} on test", ylabel="", ylim=(len(models) - 0.4, -0.6))
        axes.set_yticks(range(len(models)), [short(model) for model in models])
        axes.grid(visible=False, axis="y")
        if not math.isnan(chance):
            axes.axvline(chance, color=MUTED, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
            axes.annotate(
                "chance",
                (chance, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                color=MUTED,
                fontsize=9,
                va="top",
            )
        return inline(figure, "quality", f"{metric} on test of every variant, by model", _in_words(points))


def speed(points: Sequence[Point], *, metric: str) -> Markup | None:
    """Primary metric against images per second on a log scale, the chosen variants named, and their Pareto front.

    Returns:
        An inline SVG; None where no point has both.
    """
    timed = [point for point in points if not point.reference and point.images_per_s > 0]
    if not timed:
        return None
    front = pareto_front([point for point in timed if point.chosen])
    with style():
        figure = Figure(figsize=(NARROW_IN, 4.4), layout="constrained")
        axes = figure.subplots()
        _log_axis(axes, [point.images_per_s for point in timed])
        _scatter(axes, _frame(timed, _by_best(timed), _offsets(timed)), x="images_per_s", y="value")
        axes.step(
            *([point.images_per_s for point in front], [point.value for point in front]),
            where="pre",
            color=MUTED,
            linewidth=1.1,
            zorder=2,
        )
        axes.set(xlabel="Images per second (log scale)", ylabel=f"{metric} on test")
        axes.tick_params(axis="y", labelcolor=MUTED)
        axes.margins(y=0.12)
        _name_points(axes, [point for point in timed if point.chosen])
        words = f"{_in_words(timed)} Beaten by none in both: {', '.join(point.model for point in front) or 'nobody'}."
        return inline(figure, "speed", f"{metric} on test against images per second", words)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Points that no other is at least as good and as fast as, the slowest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.images_per_s, -point.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return front[::-1]


@dataclass(frozen=True)
class Mark:
    """One figure as the chart of an experiment sees it; ``value`` is defined."""

    panel: str
    row: str
    value: float
    low: float
    high: float
    """Interval ends, NaN where there is no interval."""
    group: str
    """A regime, ``REFERENCE`` or ``REPORTED``: colour and marker."""


def panels(marks: Sequence[Mark], *, metric: str, lines: Mapping[str, float]) -> Markup | None:
    """One metric in one panel a model, a line for each value of an axis; what is reported is hollow.

    Args:
        marks: panels and rows stand in the order in which they first occur.
        metric: in words, for the axis.
        lines: name -> value, drawn across every panel as dotted lines.

    Returns:
        An inline SVG; None where nothing is measured.
    """
    if all(mark.group == REPORTED for mark in marks):
        return None
    names, rows = (list(dict.fromkeys(getattr(mark, axis) for mark in marks)) for axis in ("panel", "row"))
    groups = [group for group in (*PALETTE, REPORTED) if any(mark.group == group for mark in marks)]
    shift = {group: SPREAD * (i - (len(groups) - 1) / 2) for i, group in enumerate(groups)}
    with style():
        across = min(len(names), PANELS_ACROSS)
        down = math.ceil(len(names) / across)
        figure = Figure(figsize=(WIDTH_IN, 1.1 + (0.4 + 0.42 * len(rows)) * down), layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for panel in grid[len(names) :]:
            panel.set_visible(False)
        for name, panel in zip(names, grid[: len(names)], strict=True):
            for value in lines.values():
                panel.axvline(value, color=MUTED, linewidth=0.9, linestyle=(0, (1, 3)), zorder=1)
            for mark in (mark for mark in marks if mark.panel == name):
                _mark(panel, mark, rows.index(mark.row) + shift[mark.group])
            panel.set_title(short(name), fontsize=10.5, loc="left")
            panel.set(ylim=(len(rows) - 0.4, -0.6))
            panel.grid(visible=False, axis="y")
        grid[0].set_yticks(range(len(rows)), [short(row) for row in rows])
        figure.supxlabel(f"{metric} on test", color=MUTED, fontsize=10.5)
        handles = [Line2D([], [], label=group, **_look(group)) for group in groups]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(groups), handletextpad=0.1)
        return inline(figure, "panels", f"{metric} on test, by model and row", _marks_in_words(marks))


def _mark(axes: Axes, mark: Mark, at: float) -> None:
    look = _look(mark.group)
    if not math.isnan(mark.low):
        axes.hlines(at, mark.low, mark.high, color=look["markeredgecolor"], linewidth=2.2, zorder=3)
    axes.plot([mark.value], [at], zorder=4, **look)


def _look(group: str) -> dict[str, Any]:
    """A filled marker in the group's colour; a hollow one where the figure is only reported."""
    if group == REPORTED:
        return {"marker": "d", "linestyle": "", "markersize": 8, "markerfacecolor": PAPER, "markeredgecolor": INK}
    colour = PALETTE[group]
    return {
        "marker": MARKERS[group],
        "linestyle": "",
        "markersize": 8,
        "markerfacecolor": colour,
        "markeredgecolor": colour,
    }


def _marks_in_words(marks: Sequence[Mark]) -> str:
    said = []
    for mark in marks:
        interval = "" if math.isnan(mark.low) else f" (95% interval {mark.low:.3f} to {mark.high:.3f})"
        where = ", ".join(part for part in (mark.panel, mark.row, mark.group) if part)
        said.append(f"{where}: {mark.value:.3f}{interval}")
    return "; ".join(said) + "."


def interaction(means: Sequence[CellMean], *, metric: str) -> Markup | None:
    """Mean figure of each head, a line for each augmentation, a panel for each regime: parallel where effects add up.

    Returns:
        An inline SVG; None where no panel has two heads and two augmentations.
    """
    drawn = [mean for mean in means if not math.isnan(mean.estimate.value)]
    regimes = [regime for regime in REGIMES if _is_crossed([mean for mean in drawn if mean.regime == regime])]
    if not regimes:
        return None
    heads = list(dict.fromkeys(mean.head for mean in drawn))
    texts = list(dict.fromkeys(mean.augmentation for mean in drawn))
    with style():
        figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
        for axes, regime in zip(figure.subplots(1, len(regimes), sharey=True, squeeze=False)[0], regimes, strict=True):
            for i, text in enumerate(texts):
                own = {mean.head: mean.estimate for mean in drawn if (mean.regime, mean.augmentation) == (regime, text)}
                at = [heads.index(head) + 0.08 * (i - (len(texts) - 1) / 2) for head in own]
                values = [estimate.value for estimate in own.values()]
                ends = [
                    (e.value if math.isnan(e.low) else e.low, e.value if math.isnan(e.high) else e.high)
                    for e in own.values()
                ]
                axes.vlines(at, [low for low, _ in ends], [high for _, high in ends], color=MUTED, linewidth=1.2)
                look = {"color": INK, "linestyle": DASHES[i % len(DASHES)], "marker": "osD^v"[i % 5]}
                axes.plot(at, values, label=short(text), markersize=6, linewidth=1.4, zorder=3, **look)
            axes.set_xticks(range(len(heads)), [short(head) for head in heads], color=MUTED)
            axes.set_title(regime, fontsize=10.5, loc="left")
            axes.tick_params(axis="y", labelcolor=MUTED)
            axes.margins(x=0.2)
        first = figure.axes[0]
        first.set_ylabel(f"Mean {metric}")
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=len(texts))
        said = [f"{m.regime}, {m.augmentation}, {m.head}: {m.estimate.value:.3f}" for m in drawn]
        return inline(
            figure, "interaction", f"Mean {metric} of each augmentation with each head", f"{'; '.join(said)}."
        )


def _is_crossed(means: Sequence[CellMean]) -> bool:
    return len({mean.head for mean in means}) > 1 and len({mean.augmentation for mean in means}) > 1


@dataclass(frozen=True)
class Curve:
    """The training loss of one variant."""

    variant: str
    """In words, unlike that of any other curve of the model."""
    regime: Regime
    augmentation: str
    losses: tuple[float, ...]
    """Mean of each epoch."""


def losses(curves: Sequence[Curve]) -> Markup | None:
    """Training loss by epoch, a line per variant: its colour says what was trained, its dashes on which texts.

    Returns:
        An inline SVG; None where no curve is given.
    """
    if not curves:
        return None
    frame = pd.DataFrame(
        [
            {"epoch": epoch, "loss": loss, "variant": i, "regime": c.regime, "texts": short(c.augmentation)}
            for i, c in enumerate(curves)
            for epoch, loss in enumerate(c.losses, start=1)
        ]
    )
    with style():
        figure = Figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
        axes = figure.subplots()
        sns.lineplot(
            frame,
            x="epoch",
            y="loss",
            hue="regime",
            style="texts",
            units="variant",
            estimator=None,
            hue_order=[regime for regime in REGIMES if (frame["regime"] == regime).any()],
            style_order=sorted(frame["texts"].unique(), key=lambda texts: (texts != "none", texts)),
            palette=PALETTE,
            linewidth=1.4,
            ax=axes,
        )
        axes.set(xlabel="Epoch", ylabel="Training loss")
        axes.tick_params(axis="y", labelcolor=MUTED)
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for line in legend.get_lines():  # seaborn's own grey of the dashes would be one of no colour scheme
            line.set_color(line.get_color() if line.get_color() in PALETTE.values() else INK)
        words = "; ".join(f"{c.variant}: from {c.losses[0]:.3f} to {c.losses[-1]:.3f}" for c in curves)
        return inline(figure, "losses", "Training loss by epoch of every trained variant", f"{words}.")


def style() -> AbstractContextManager[None]:
    """Matplotlib's settings while a chart is drawn."""
    return mpl.rc_context(STYLE)


def _by_best(points: Sequence[Point]) -> list[str]:
    """Models by their chosen (else their best) figure, those computed from the picture first."""

    def order(model: str) -> tuple[bool, float, str]:
        own = [point for point in points if point.model == model]
        return own[0].reference, -max((p.value for p in own if p.chosen), default=max(p.value for p in own)), model

    return sorted({point.model for point in points}, key=order)


def _offsets(points: Sequence[Point]) -> dict[str, float]:
    """How far from their model's line the points of each group stand: regimes side by side, one alone on the line."""
    present = [regime for regime in REGIMES if any(point.group == regime for point in points)]
    return {REFERENCE: 0.0} | {r: SPREAD * (i - (len(present) - 1) / 2) for i, r in enumerate(present)}


def _frame(points: Sequence[Point], models: Sequence[str], offsets: Mapping[str, float]) -> pd.DataFrame:
    """One row per point, with its group and its place among the models."""
    return pd.DataFrame(
        [
            asdict(point) | {"group": point.group, "row": models.index(point.model) + offsets[point.group]}
            for point in points
        ],
    )


def _scatter(axes: Axes, frame: pd.DataFrame, *, x: str, y: str) -> None:
    """All points, the chosen ones larger and on top; one legend for both."""
    groups = [group for group in PALETTE if (frame["group"] == group).any()]
    for rows, size, alpha, rim, layer in (
        (frame[~frame["chosen"]], 30, 0.55, 0.6, 3),
        (frame[frame["chosen"]], 95, 1.0, 1.2, 5),
    ):
        if rows.empty:  # seaborn would warn that there is nothing to colour
            continue
        sns.scatterplot(
            rows,
            x=x,
            y=y,
            hue="group",
            style="group",
            hue_order=groups,
            style_order=groups,
            palette=PALETTE,
            markers=MARKERS,
            edgecolor=PAPER,
            s=size,
            alpha=alpha,
            linewidth=rim,
            zorder=layer,
            ax=axes,
        )
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(
        handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=len(groups), handletextpad=0.1
    )


def _log_axis(axes: Axes, speeds: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 of each decade in plain figures, and room for names on both sides."""
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.6, max(speeds) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write model names beside points, pushed apart upwards where they would overlap."""
    low, high = axes.get_ylim()
    middle = math.sqrt(math.prod(axes.get_xlim()))
    gap = (high - low) * min(0.06, 0.9 / max(1, len(points)))
    floor = -math.inf
    for point in sorted(points, key=lambda point: (point.value, point.model)):
        at = max(point.value, floor)
        floor = at + gap
        right = point.images_per_s <= middle
        axes.annotate(
            short(point.model),
            (point.images_per_s, point.value),
            xytext=(12 if right else -12, (at - point.value) / (high - low) * AXES_HEIGHT_PT),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=9.5,
            zorder=6,
        )


def short(name: str) -> str:
    """A name as far as it fits beside a chart."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _in_words(points: Sequence[Point]) -> str:
    """The chart for those who do not see it."""
    lines = []
    for model in _by_best(points):
        own = [point for point in points if point.model == model]
        best = max(own, key=lambda point: (point.chosen, point.value))
        interval = "" if math.isnan(best.low) else f" (95% interval {best.low:.3f} to {best.high:.3f})"
        lines.append(f"{model}: {best.value:.3f}{interval}")
    return "; ".join(lines) + "."


# --------------------------------------------------------------------------------------------- SVG


def inline(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Draw a figure into an SVG element that can stand in a page."""
    drawn = io.StringIO()
    with warnings.catch_warnings():
        # The browser writes the text, in fonts that may well have the letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            drawn, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    root = ET.fromstring(drawn.getvalue())  # noqa: S314 - written by matplotlib a line above
    for parent in root.iter():
        for child in [child for child in parent if child.tag in (f"{SVG}metadata", f"{SVG}style")]:
            parent.remove(child)
    _clean(root, name)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "class": "chart",
    }
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, id=f"{name}-{tag}")
        element.text = text
        root.insert(position, element)
    return Markup(_recoloured(ET.tostring(root, encoding="unicode")))  # noqa: S704 - escaped by ElementTree


def _clean(root: ET.Element, name: str) -> None:
    """Drop namespaces, fonts, line breaks and idle ids; make the other ids the chart's own."""
    used = {id_ for element in root.iter() for value in element.attrib.values() for id_ in REFERENCES.findall(value)}
    for element in root.iter():
        attributes = {}
        for key, value in element.attrib.items():
            if key == "id" and value not in used:
                continue
            prefixed = f"{name}-{value}" if key == "id" else REFERENCES.sub(rf"{name}-\g<0>", value)
            attributes[key.removeprefix(XLINK)] = " ".join(FONT.sub("", prefixed).split())
        element.tag = element.tag.removeprefix(SVG)
        element.attrib = attributes
        element.tail = None
        if element.tag != "text":
            element.text = None


def _recoloured(svg: str) -> str:
    return re.sub("|".join(CSS_COLOURS), lambda found: f"var({CSS_COLOURS[found[0]]})", svg)
