"""The page of an ablation: what regime, augmentation and head do, over models and for each. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmark.evaluate.factorial import AXES, Axis, CellMean, Effect, Factorial, Interaction
from leaderboards.columns import DASH, counts, plus
from leaderboards.view import Bar, Page, bar_of, scale_of

WORDS: dict[Axis, str] = {"regime": "Regime", "augmentation": "Augmentation", "head": "Projection head"}

QUESTIONS: dict[Axis, str] = {
    "regime": "What training the heads, or everything, adds to the model as it starts.",
    "augmentation": "What training on reworded reports adds to training on the reports alone.",
    "head": "What another projection head adds.",
}


@dataclass(frozen=True)
class Line:
    """One effect."""

    who: str
    """A model, a regime, or all of them, in words."""
    text: str
    interval: str
    title: str
    bar: Bar | None
    pairs: int
    models: int
    models_sd: str
    verdict: str
    """Whether the interval leaves 0 out, and on which side."""


@dataclass(frozen=True)
class Contrast:
    """One level of an axis against its base level: over everything, and taken apart."""

    name: str
    overall: Line
    by_regime: tuple[Line, ...]
    by_model: tuple[Line, ...]


@dataclass(frozen=True)
class AxisPart:
    """All that is said about one axis."""

    key: str
    title: str
    question: str
    contrasts: tuple[Contrast, ...]
    not_varied: str


@dataclass(frozen=True)
class Ablation:
    """Everything that the template prints."""

    parts: tuple[AxisPart, ...]
    """The three axes, and the interaction of augmentation and head."""
    means: tuple[CellMean, ...]
    """Over the models, for the interaction plot."""
    summary: tuple[str, ...]
    scale: tuple[float, float]


def make_ablation(board: Page) -> Ablation | None:
    """Lay out the factorial read-out of a run; None where it has none."""
    found = board.analysis.factorial if board.analysis else None
    if found is None or not (found.effects or found.interactions):
        return None
    titles = {row.result.spec.model: row.result.title for row in board.rows}
    estimates = [*(one.estimate for one in found.effects), *(one.estimate for one in found.interactions)]
    scale = scale_of([0.0, *(x for each in estimates for x in (each.low, each.value, each.high))], 0.05)
    parts = [_axis_part(axis, found, titles, scale) for axis in AXES]
    parts.append(_interaction_part(found, titles, scale))
    return Ablation(
        parts=tuple(parts),
        means=tuple(mean for mean in found.means if not mean.model),
        summary=tuple(_summary(parts, board.metric)),
        scale=scale,
    )


def _axis_part(axis: Axis, found: Factorial, titles: dict[str, str], scale: tuple[float, float]) -> AxisPart:
    of_axis = [effect for effect in found.effects if effect.axis == axis]
    names = dict.fromkeys((effect.level, effect.base) for effect in of_axis)
    contrasts = (
        _contrast(f"{level} against {base}", [e for e in of_axis if (e.level, e.base) == (level, base)], titles, scale)
        for level, base in names
    )
    return AxisPart(axis, WORDS[axis], QUESTIONS[axis], tuple(contrasts), found.not_varied.get(axis, ""))


def _interaction_part(found: Factorial, titles: dict[str, str], scale: tuple[float, float]) -> AxisPart:
    def name(one: Interaction) -> str:
        return f"{one.augmentation} with {one.head}, beyond {one.augmentation} with {one.base_head}"

    names = dict.fromkeys(map(name, found.interactions))
    contrasts = (_contrast(n, [one for one in found.interactions if name(one) == n], titles, scale) for n in names)
    return AxisPart(
        key="interaction",
        title="Augmentation x head",
        question="Whether an augmentation does more with one head than with the base head: 0 where effects add up.",
        contrasts=tuple(contrasts),
        not_varied=found.not_varied.get("interaction", ""),
    )


def _contrast(
    name: str, effects: Sequence[Effect] | Sequence[Interaction], titles: dict[str, str], scale: tuple[float, float]
) -> Contrast:
    def lines(chosen: Iterable[Effect | Interaction]) -> Iterator[Line]:
        for one in chosen:
            parts = [titles.get(one.model, one.model), f"in {one.regime}" if one.regime else ""]
            yield _line(
                ", ".join(part for part in parts if part) or ("All models" if one.models > 1 else "One model"),
                one,
                scale,
            )

    overall = next((e for e in effects if not e.model and not e.regime), effects[0])
    return Contrast(
        name=name,
        overall=next(lines([overall])),
        by_regime=tuple(lines(e for e in effects if not e.model and e.regime and e is not overall)),
        by_model=tuple(lines(e for e in effects if e.model and e is not overall)),
    )


def _line(who: str, one: Effect | Interaction, scale: tuple[float, float]) -> Line:
    estimate = one.estimate
    value, low, high = estimate.value, estimate.low, estimate.high
    defined, sure = not math.isnan(value), not math.isnan(low)
    verdict = "no interval" if not sure else "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    return Line(
        who=who,
        text=plus(value) if defined else DASH,
        interval=f"{plus(low)} to {plus(high)}" if sure else "",
        title=estimate.why_undefined or counts(estimate),
        bar=bar_of(estimate, 0.0, scale) if defined else None,
        pairs=one.pairs,
        models=one.models,
        models_sd="" if math.isnan(one.models_sd) else f"{one.models_sd:.3f}",
        verdict=verdict if defined else "undefined",
    )


def _summary(parts: Sequence[AxisPart], metric: str) -> Iterator[str]:
    """The effects over all models, in sentences."""
    for part in parts:
        for contrast in part.contrasts:
            line = contrast.overall
            if line.interval:
                end = "" if line.verdict != "not distinguishable" else ": not distinguishable from 0"
                yield f"{contrast.name}: {line.text} {metric} ({line.interval}){end}."
