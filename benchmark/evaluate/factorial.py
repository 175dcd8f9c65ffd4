"""What each axis of the design does: main effects, and whether an augmentation helps one head more than another.

Regime, augmentation and head are crossed, so every effect is a mean of differences between rows that differ in one
axis alone. It is a contrast of the rows' figures, a weighted sum whose weights add up to 0, and its interval is that
of the same contrast in shared patient-level resamples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from benchmark.evaluate.resample import as_estimate, percentile_interval
from benchmark.result import REGIMES, CellSpec, Estimate, Number

Floats = NDArray[np.float64]

Axis = Literal["regime", "augmentation", "head"]
AXES: tuple[Axis, ...] = ("regime", "augmentation", "head")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Effect(_Record):
    """How far one level of an axis lies from its base level, all else equal."""

    axis: Axis
    level: str
    base: str
    model: str = ""
    """Name of the model; empty over the models, each with the same weight. One model alone has no effect of its own
    beside that."""
    regime: str = ""
    """The regime it was measured in; empty over all of them. Regimes stand apart only where there are several."""
    estimate: Estimate
    """Mean of the paired differences of the primary metric, level less base."""
    pairs: int
    """Pairs of variants that differ in this axis alone."""
    models: int
    """Models that have such pairs."""
    models_sd: Number = math.nan
    """Standard deviation of the models' own effects, chance included; NaN for fewer than two."""


class Interaction(_Record):
    """How much more an augmentation does with one head than with the base head."""

    augmentation: str
    base_augmentation: str
    head: str
    base_head: str
    model: str = ""
    """As in ``Effect``."""
    regime: str = ""
    """As in ``Effect``."""
    estimate: Estimate
    """Mean of (y[a, h] - y[a0, h]) - (y[a, h0] - y[a0, h0])."""
    pairs: int
    """Differences of such differences, four variants each."""
    models: int
    models_sd: Number = math.nan


class CellMean(_Record):
    """Mean figure of an augmentation with a head: one point of an interaction plot."""

    regime: str
    augmentation: str
    head: str
    model: str = ""
    """Empty over the models that have every cell of the regime's table, so that its points compare like with like."""
    estimate: Estimate
    models: int


class Factorial(_Record):
    """The read-out of a designed experiment. Nothing is adjusted for the number of effects."""

    effects: tuple[Effect, ...] = ()
    """Axis by axis; of each contrast first the one over the models and regimes."""
    interactions: tuple[Interaction, ...] = ()
    means: tuple[CellMean, ...] = ()
    not_varied: dict[str, str] = {}
    """Axis -> why it has no effect to show; ``interaction`` for that of augmentation and head."""


# --------------------------------------------------------------------------------------------- the read-out


class Variant(NamedTuple):
    """A point of the three axes."""

    regime: str
    augmentation: str
    head: str


FROZEN = Variant("frozen", "none", "none")
"""The one variant of its regime: as nothing is trained there, it stands for every augmentation and head."""

UNVARIED = {
    "regime": "every row is of the regime",
    "augmentation": "every trained row has the augmentation",
    "head": "every trained row has the head",
}


def factorial(specs: Sequence[CellSpec], values: Floats, replicates: Floats, groups: NDArray[np.int64]) -> Factorial:
    """Read the three axes as a designed experiment.

    An effect of a level is the mean of its paired differences from the base level: pairs of variants of one model that
    differ in this axis alone, each with its mean over the seeds that both have. Over the models it is the mean of
    their own effects, so that a model with more variants has no more weight. The models are the ones at hand, not a
    sample of models, and training again is not part of it: intervals cover other patients.

    * Base of the augmentations is ``none``, of the heads the first linear one: the head ``none`` has nothing to train
      where the towers are frozen, and so nothing to be paired with there. Where the rows lack them it is the first.
    * Regimes are compared in steps, heads with frozen and full with heads, and from end to end.
    * A frozen row has no part in effects of augmentation or head, which would only be diluted by its zeros.

    Args:
        specs: k rows of one test split, in the order of the plan.
        values: (k,) their primary metric; rows where it is NaN are left out.
        replicates: (k, b) of the same rows in shared resamples.
        groups: (n,) group code of each test sample.
    """
    known = np.flatnonzero(~np.isnan(values)).tolist()
    design = _Design([specs[i] for i in known])
    rows = _Rows(values[known], replicates[known], groups)
    effects = tuple(
        Effect(axis=axis, level=level, base=base, **scope)
        for axis in AXES
        for level, base in _contrasts(axis, design.levels(axis))
        for scope in _scopes(rows, design.differences(axis, level, base))
    )
    interactions = tuple(_interactions(rows, design))
    return Factorial(
        effects=effects,
        interactions=interactions,
        means=tuple(_means(rows, design)),
        not_varied=_not_varied(design, {effect.axis for effect in effects}, bool(interactions)),
    )


class _Rows(NamedTuple):
    """Figures of k rows."""

    values: Floats
    replicates: Floats
    groups: NDArray[np.int64]

    def estimate(self, contrast: Floats) -> Estimate:
        """The weighted sum of the rows' figures under (k,) weights."""
        used = contrast != 0
        drawn = contrast[used] @ self.replicates[used]
        value = float(contrast[used] @ self.values[used])
        return as_estimate(value, percentile_interval(drawn), self.groups, why_undefined="")


class _Difference(NamedTuple):
    """Rows that differ in one axis, or in two for an interaction: a contrast of one model in one regime."""

    model: str
    regime: str
    """Empty for a difference between regimes."""
    contrast: Floats


class _Design:
    """Which rows there are, by model and variant."""

    def __init__(self, specs: Sequence[CellSpec]) -> None:
        self.specs = specs
        self.models: defaultdict[str, defaultdict[Variant, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, spec in enumerate(specs):
            self.models[spec.model][Variant(spec.regime, spec.augmentation, spec.head)].append(i)

    def levels(self, axis: Axis) -> list[str]:
        """Levels of an axis in the order of the rows, regimes in theirs; the frozen row has no level of the others."""
        variants = [variant for variants in self.models.values() for variant in variants]
        if axis == "regime":
            return [regime for regime in REGIMES if any(variant.regime == regime for variant in variants)]
        return list(dict.fromkeys(getattr(variant, axis) for variant in variants if variant != FROZEN))

    def mean(self, model: str, variant: Variant) -> Floats:
        """(k,) weights that give the mean of a variant over its seeds."""
        return self._mean(self.models[model][variant])

    def differences(self, axis: Axis, level: str, base: str) -> Iterator[_Difference]:
        """Every pair of variants that differ in this axis alone."""
        for model, variant in self._with(axis, level):
            contrast = self._contrast(model, [variant], [_at(variant, axis, base)])
            if contrast is not None:
                yield _Difference(model, "" if axis == "regime" else variant.regime, contrast)

    def interactions(self, augmentation: str, base: str, head: str, base_head: str) -> Iterator[_Difference]:
        """Every four variants that the interaction is a difference of differences of."""
        for model, variant in self._with("augmentation", augmentation):
            if variant.head == head:
                plain, of_base_head = variant._replace(augmentation=base), variant._replace(head=base_head)
                neither = plain._replace(head=base_head)
                contrast = self._contrast(model, [variant, neither], [plain, of_base_head])
                if contrast is not None:
                    yield _Difference(model, variant.regime, contrast)

    def _with(self, axis: Axis, level: str) -> list[tuple[str, Variant]]:
        """Models and their trained variants of a level."""
        return [
            (model, variant)
            for model, variants in self.models.items()
            for variant in variants
            if variant != FROZEN and getattr(variant, axis) == level
        ]

    def _contrast(self, model: str, plus: Sequence[Variant], minus: Sequence[Variant]) -> Floats | None:
        """(k,) weights of some variants less others, over the seeds that all have; None where there are none."""
        variants = self.models[model]
        rows = [variants.get(variant, []) for variant in (*plus, *minus)]
        seeds = [{self.specs[i].seed for i in of} for of in rows if not self._stands_for_every_seed(of)]
        shared = set.intersection(*seeds)
        if not shared or not all(rows):
            return None
        kept = [
            of if self._stands_for_every_seed(of) else [i for i in of if self.specs[i].seed in shared] for of in rows
        ]
        means = np.array([self._mean(of) for of in kept])
        contrast: Floats = means[: len(plus)].sum(axis=0) - means[len(plus) :].sum(axis=0)
        return contrast

    def _stands_for_every_seed(self, rows: Sequence[int]) -> bool:
        """Whether nothing in them is random: frozen towers of published weights, which are run once."""
        return any(self.specs[i].regime == "frozen" and not self.specs[i].random_weights for i in rows)

    def _mean(self, rows: Sequence[int]) -> Floats:
        weights = np.zeros(len(self.specs))
        weights[list(rows)] = 1 / len(rows)
        return weights


def _at(variant: Variant, axis: Axis, level: str) -> Variant:
    """The variant with another level of one axis."""
    moved = variant._replace(**{axis: level})
    return FROZEN if moved.regime == "frozen" else moved


def _contrasts(axis: Axis, levels: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a level and what it is compared with."""
    if axis == "regime":
        steps = [("heads", "frozen"), ("full", "heads"), ("full", "frozen")]
        return [(level, base) for level, base in steps if level in levels and base in levels]
    base = _base(axis, levels)
    return [(level, base) for level in levels if level != base]


def _base(axis: Literal["augmentation", "head"], levels: Sequence[str]) -> str:
    liked = [level for level in levels if (level == "none" if axis == "augmentation" else level.startswith("linear"))]
    return next(iter([*liked, *levels]), "none")


def _scopes(rows: _Rows, differences: Iterable[_Difference]) -> Iterator[dict[str, Any]]:
    """The fields that effects and interactions share: over regimes and models first, then each apart."""
    found = list(differences)
    regimes = list(dict.fromkeys(difference.regime for difference in found))
    for regime in ["", *(regimes if len(regimes) > 1 else [])]:
        of_model: defaultdict[str, list[Floats]] = defaultdict(list)
        for difference in found:
            if regime in ("", difference.regime):
                of_model[difference.model].append(difference.contrast)
        if of_model:
            yield from _over_models(rows, regime, of_model)


def _over_models(rows: _Rows, regime: str, of_model: Mapping[str, Sequence[Floats]]) -> Iterator[dict[str, Any]]:
    means = {model: np.mean(contrasts, axis=0) for model, contrasts in of_model.items()}
    own = {model: rows.estimate(contrast) for model, contrast in means.items()}
    several = len(own) > 1
    yield {
        "regime": regime,
        "estimate": rows.estimate(np.mean(list(means.values()), axis=0)),
        "pairs": sum(map(len, of_model.values())),
        "models": len(own),
        "models_sd": float(np.std([estimate.value for estimate in own.values()], ddof=1)) if several else math.nan,
    }
    for model, estimate in own.items() if several else ():
        pairs = len(of_model[model])
        yield {"model": model, "regime": regime, "estimate": estimate, "pairs": pairs, "models": 1}


def _interactions(rows: _Rows, design: _Design) -> Iterator[Interaction]:
    """Of every augmentation with every head, but the base ones."""
    augmentations, heads = design.levels("augmentation"), design.levels("head")
    base, base_head = _base("augmentation", augmentations), _base("head", heads)
    for augmentation, head in product(augmentations, heads):
        if augmentation != base and head != base_head:
            for scope in _scopes(rows, design.interactions(augmentation, base, head, base_head)):
                yield Interaction(
                    augmentation=augmentation, base_augmentation=base, head=head, base_head=base_head, **scope
                )


def _means(rows: _Rows, design: _Design) -> Iterator[CellMean]:
    """The table of every regime, over models and for each."""
    for regime in design.levels("regime"):
        of_model = {m: [v for v in variants if v.regime == regime] for m, variants in design.models.items()}
        table = list(dict.fromkeys(v for variants in of_model.values() for v in variants))
        whole = [model for model, variants in of_model.items() if len(variants) == len(table)]
        for variant in table:
            of_each = {m: design.mean(m, variant) for m, variants in of_model.items() if variant in variants}
            if whole:
                over = np.mean([of_each[model] for model in whole], axis=0)
                yield CellMean(**variant._asdict(), estimate=rows.estimate(over), models=len(whole))
            for model, weights in of_each.items():
                yield CellMean(**variant._asdict(), model=model, estimate=rows.estimate(weights), models=1)


def _not_varied(design: _Design, shown: Collection[Axis], interactions: bool) -> dict[str, str]:
    """Why axes that are not shown, or their interactions, have nothing to show."""
    found: dict[str, str] = {axis: _why_not(axis, design.levels(axis)) for axis in AXES if axis not in shown}
    lacking = [axis for axis in ("augmentation", "head") if axis in found]
    if not interactions:
        crossed = "no model has two heads with and without an augmentation"
        found["interaction"] = f"{' and '.join(lacking)} not varied" if lacking else crossed
    return found


def _why_not(axis: Axis, levels: Sequence[str]) -> str:
    if not levels:
        return "nothing was trained"
    return f"{UNVARIED[axis]} {levels[0]!r}" if len(levels) == 1 else "no two variants of a model differ in it alone"
