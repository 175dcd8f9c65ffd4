"""How a row does in subgroups of the test samples, and how far the best is from the worst.

Groups with few events are not looked at: figures of a handful of patients mislead, and may say something of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.evaluate.detail_records import Breakdown, Group
from benchmark.evaluate.metrics import Areas, primary_metric
from benchmark.evaluate.question import Asked, Shares, rates
from benchmark.evaluate.resample import Statistic, plug_in
from benchmark.result import Estimate

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.int64]

FEWEST_EVENTS = 10
"""Patients with a positive sample, and patients with a negative one, that a group must have to be looked at."""

AUROC = primary_metric("binary")


@dataclass(frozen=True)
class Decision:
    """What a row decides on each test sample at one operating point, or why it decides nothing."""

    above: Bools
    why_not: str = ""


Estimator = Callable[[Sequence[Statistic]], list[dict[str, Estimate]]]
"""Gives figures with intervals over the resamples that all rows of a run share."""


def break_down(
    question: Asked, decision: Decision, column: str, values: pd.Categorical, groups: Codes, estimator: Estimator
) -> Breakdown:
    """Look at every group of one column.

    The gap is between the groups that are best and worst on the test split itself. These were picked for being far
    apart, which its interval does not know of: with many groups a gap is to be expected without any true one.

    Args:
        question: Truth and scores of the n test samples.
        decision: At the operating point of all groups.
        column: Its name.
        values: (n,) the group of each test sample; its categories are in the order in which groups are shown.
        groups: (n,) patient of each sample.
        estimator: Of the intervals.
    """
    masks = {str(name): np.asarray(values == name) for name in values.categories if (values == name).any()}
    seen = {
        name: _Within(question, decision, mask)
        for name, mask in masks.items()
        if _events(question, mask, groups) >= FEWEST_EVENTS
    }
    areas = {name: plug_in(within)[AUROC] for name, within in seen.items()}
    best, worst = (max(areas, key=areas.__getitem__), min(areas, key=areas.__getitem__)) if len(areas) > 1 else ("", "")
    gaps = [_Gap(seen[best], seen[worst])] if best else []
    found = estimator([*seen.values(), *gaps]) if seen else []
    figures = dict(zip(seen, found, strict=False))
    return Breakdown(
        column=column,
        groups=tuple(_group(name, question, mask, figures.get(name)) for name, mask in masks.items()),
        best=best,
        worst=worst,
        gap=found[-1][AUROC] if gaps else None,
    )


def _events(question: Asked, mask: Bools, groups: Codes) -> int:
    """Patients on the smaller side: many pictures of few patients are few events."""
    return min(len(np.unique(groups[mask & side])) for side in (question.positive, ~question.positive))


def _group(name: str, question: Asked, mask: Bools, found: Mapping[str, Estimate] | None) -> Group:
    n = int(mask.sum())
    if found is None:
        return Group(name=name, n=n, hidden=True)
    return Group(
        name=name,
        n=n,
        n_patients=found[AUROC].n_patients,
        events=int(question.positive[mask].sum()),
        auroc=found[AUROC],
        sensitivity=found["sensitivity"],
        specificity=found["specificity"],
    )


class _Within(Statistic):
    """Figures of the samples of one group."""

    def __init__(self, question: Asked, decision: Decision, mask: Bools) -> None:
        self.used = mask
        self._why_not = decision.why_not
        positive, scores = question.positive[mask], question.scores[mask]
        both = np.stack([-scores, scores], axis=1)
        self._areas = Areas("binary", positive.astype(np.int64), both, classes=("rest", question.name))
        parts = rates(positive, decision.above[mask])
        self._rates = Shares({name: parts[name] for name in ("sensitivity", "specificity")})

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        mine = weights[self.used]
        decided = self._rates(mine)
        if self._why_not:
            decided = {name: np.full_like(values, np.nan) for name, values in decided.items()}
        return {AUROC: self._areas(mine)[AUROC]} | decided

    def why_undefined(self, metric: str) -> str:
        if metric == AUROC:
            return self._areas.why_undefined(metric)
        return self._why_not or self._rates.why_undefined(metric)

    def chance(self, metric: str) -> float:
        return 0.5 if metric == AUROC else np.nan


class _Gap(Statistic):
    """AUROC of one group less that of another, in the same resamples."""

    def __init__(self, best: _Within, worst: _Within) -> None:
        self.used = best.used | worst.used
        self._best, self._worst = best, worst

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        return {AUROC: self._best(weights)[AUROC] - self._worst(weights)[AUROC]}

    def why_undefined(self, metric: str) -> str:
        return self._best.why_undefined(metric) or self._worst.why_undefined(metric)

    def chance(self, metric: str) -> float:  # noqa: ARG002 - two guesses do not differ
        return 0.0
