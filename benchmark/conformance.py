"""Conformance: does a registered model keep the contract? Clause by clause, each failure under its clause's name.

A clause whose ground is gone (one it needs has failed) is not checked, so that one defect is named once.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.conformance_clause import (
    Broken,
    Check,
    NotApplicable,
    Outputs,
    Subject,
    builds,
    card_complete,
    equal,
    own_card,
    pickles,
)
from benchmark.conformance_clause import Clause as Clause
from benchmark.conformance_encoder import ENCODER_CLAUSES, Encoder
from benchmark.conformance_examples import EXAMPLE_REPORTS as EXAMPLE_REPORTS
from benchmark.conformance_examples import (
    TRAIN,
    example_dataset,
    with_other_held_out_inputs,
    with_other_held_out_labels,
)
from benchmark.errors import UnsupportedModality
from benchmark.model import BuildRequest, ModelEntry, NaiveModel


def check(entry: ModelEntry, request: BuildRequest) -> tuple[Clause, ...]:
    """Check a registered model against every clause that its kind has."""
    subject = Naive(entry, request) if entry.kind == "naive" else Encoder(entry, request)
    clauses: list[Clause] = []
    unfounded: set[str] = set()
    for each in NAIVE_CLAUSES if entry.kind == "naive" else ENCODER_CLAUSES:
        lost = [name for name in each.needs if name in unfounded]
        clause = (
            Clause(each.name, None, f"not checked, as {lost[0]!r} does not hold") if lost else _judge(each, subject)
        )
        if lost or clause.passed is False:
            unfounded.add(each.name)
        clauses.append(clause)
    return tuple(clauses)


def _judge(each: Check, subject: Naive | Encoder) -> Clause:
    try:
        return Clause(each.name, True, each.run(subject))
    except NotApplicable as reason:
        return Clause(each.name, None, str(reason))
    except Broken as reason:
        return Clause(each.name, False, str(reason))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever foreign code raises is the finding
        return Clause(each.name, False, f"{type(error).__name__}: {error}{_place(error)}")


def _place(error: BaseException) -> str:
    """The last line of foreign code that an error passed through, and nothing where it passed through none."""
    own = Path(__file__).parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if own not in Path(frame.filename).parents]
    foreign = [frame for frame in frames if "site-packages" not in frame.filename]
    return f" ({Path(foreign[-1].filename).name}, line {foreign[-1].lineno})" if foreign else ""


# --------------------------------------------------------------------------------------------- naive rows


class Naive(Subject):
    """A row without an encoder, with the example dataset."""

    def outputs(self, model: Any) -> Outputs:  # noqa: ANN401 - whether it is what it should be is the question
        """Features of the example dataset."""
        return {"features": model.features(example_dataset(), TRAIN)}


def _is_naive(subject: Naive) -> str:
    if not isinstance(subject.model, NaiveModel):
        raise Broken("it lacks 'card' or 'features'")
    own_card(subject)
    if subject.entry.trainable:
        raise Broken("a naive row has no towers to train; register it with trainable=False")
    return ""


def _gives_features(subject: Naive) -> str:
    try:
        features = subject.outputs(subject.model)["features"]
    except UnsupportedModality as error:
        raise Broken(f"it refuses a dataset that has everything: {error}") from error
    n = len(example_dataset())
    if features.ndim != 2 or len(features) != n or not np.isfinite(features).all():
        raise Broken(f"features of shape {features.shape} for {n} samples; they must be (n, d) and finite")
    return f"{features.shape[1]} columns"


def _repeats(subject: Naive) -> str:
    equal(subject.outputs(subject.model), subject.outputs(subject.model), "the same dataset again gives other values")
    return ""


def _fits_on_train(subject: Naive) -> str:
    data, features = example_dataset(), subject.model.features
    expected = features(data, TRAIN)
    seen = features(with_other_held_out_inputs(data), TRAIN)
    equal({"train rows": expected[TRAIN]}, {"train rows": seen[TRAIN]}, "held-out rows decide about train rows")
    seen = features(with_other_held_out_labels(data), TRAIN)
    equal({"features": expected}, {"features": seen}, "held-out labels are read")
    return ""


NAIVE_CLAUSES = (
    Check("builds", builds),
    Check("card", card_complete),
    Check("protocol", _is_naive, ("builds",)),
    Check("features", _gives_features, ("protocol",)),
    Check("deterministic", _repeats, ("features",)),
    Check("fitted on train only", _fits_on_train, ("features", "deterministic")),
    Check("pickling for workers", pickles, ("features", "deterministic")),
)
"""What a naive row is checked for, in this order."""
