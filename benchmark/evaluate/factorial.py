"""What each axis of the design does: main effects, and whether an augmentation helps one head more than another.

Regime, augmentation and head are crossed, so every effect is a mean of differences between rows that differ in one
axis alone. It is a contrast of the rows' figures, a weighted sum whose weights add up to 0, and its interval is that
of the same contrast in shared patient-level resamples.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from benchmark.result import Estimate, Number

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
