"""What is said of one row in detail: operating points, calibration, curves, confusion matrix, subgroups.

Every task is taken apart into questions with a yes and a no: a binary task is one, a multilabel task one per label, a
multiclass task one per class against the rest. ``detail`` computes these records; pages print them.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from benchmark.result import Estimate, Number

Numbers = tuple[Number, ...]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OperatingPoint(_Record):
    """What a threshold from validation comes to on test."""

    name: str
    """How the threshold was chosen, in words."""
    threshold: Number = math.nan
    """A sample is positive where its score is above; NaN where the largest score decides, or there is none."""
    why_not: str = ""
    """Why there is no threshold; then no figure is defined."""
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    """Positive predictive value among the test samples."""
    npv: Estimate
    """Negative predictive value among the test samples."""
    ppv_at_prevalence: Estimate
    """By Bayes' rule from sensitivity and specificity, at the question's prevalence."""
    npv_at_prevalence: Estimate


class Line(_Record):
    """A curve as a chart draws it, its points joined by straight lines."""

    x: Numbers = ()
    y: Numbers = ()


class Band(_Record):
    """Where a curve lies in 95% of the resamples, at each x by itself; empty where that is not defined."""

    x: Numbers = ()
    low: Numbers = ()
    high: Numbers = ()


class NetBenefit(_Record):
    """The decision curve: net benefit of acting on the scaled probability, in true positives per test sample.

    Source: Vickers and Elkin 2006.
    """

    thresholds: Numbers
    """Probabilities from which on one would act."""
    model: Numbers
    low: Numbers = ()
    high: Numbers = ()
    """Ends of the 95% interval at each threshold; empty where there is none."""
    treat_all: Numbers
    """Acting on everybody. Acting on nobody has a net benefit of 0."""


class Group(_Record):
    """Test samples that share a value of one column."""

    name: str
    n: int
    hidden: bool = False
    """Whether it has too few events for any figure: then nothing was computed, and nothing but ``n`` is said."""
    n_patients: int = 0
    events: int = 0
    """Positive samples."""
    auroc: Estimate | None = None
    sensitivity: Estimate | None = None
    """At the first operating point, the same for every group."""
    specificity: Estimate | None = None


class Breakdown(_Record):
    """The groups of one column, and how far the best of them is from the worst."""

    column: str
    groups: tuple[Group, ...]
    best: str = ""
    worst: str = ""
    """Names of the groups with the highest and lowest AUROC; empty where fewer than two have one."""
    gap: Estimate | None = None
    """AUROC of the best less that of the worst."""


class Question(_Record):
    """One yes-or-no question of the task."""

    name: str
    """The class or label that counts as positive."""
    n: int
    positives: int
    prevalence: Number
    """Share of positives for which predictive values are stated."""
    prevalence_from: Literal["card", "train"]
    """Whether the dataset's card states it, or it is that of the train split."""
    points: tuple[OperatingPoint, ...]
    """The first is the one at which subgroups are looked at."""
    roc: Line = Line()
    roc_band: Band = Band()
    precision_recall: Line = Line()
    precision_recall_band: Band = Band()
    decision: NetBenefit | None = None
    """None where there is no temperature."""
    breakdowns: tuple[Breakdown, ...] = ()


class Calibration(_Record):
    """How well probabilities agree with what happened."""

    ece: Estimate
    brier: Estimate
    log_loss: Estimate


class Bin(_Record):
    """Test samples of similar confidence."""

    predicted: Number
    """Mean confidence."""
    observed: Number
    """Share of which it came true."""
    low: Number = math.nan
    high: Number = math.nan
    n: int


class Reliability(_Record):
    """Confidence against what happened, in bins of equal mass: those of the calibration error."""

    name: str
    """Of what: a class, a label, or the predicted class."""
    temperature: Number
    why_not: str = ""
    """Why there is no temperature."""
    before: tuple[Bin, ...]
    after: tuple[Bin, ...] = ()
    """With the temperature applied; empty where there is none."""


class Confusion(_Record):
    """Test samples by true (rows) and predicted class (columns)."""

    name: str
    """Of a multilabel task the label; else empty."""
    decided: str
    """How the predicted class was found, in words."""
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Detail(_Record):
    """One row in detail, on the test split, with thresholds and temperatures from the val split."""

    questions: tuple[Question, ...]
    before: Calibration
    """As the scores stand."""
    after: Calibration | None = None
    """With temperatures from validation; None where one is missing."""
    reliability: tuple[Reliability, ...]
    confusion: tuple[Confusion, ...]
