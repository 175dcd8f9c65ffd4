"""What the clauses of every kind of model share: the subject under test, the verdicts, and a few clauses themselves."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.model import BuildRequest, ModelEntry

Outputs = Mapping[str, NDArray[Any]]
"""Modality -> (n, d) features, on the CPU."""


@dataclass(frozen=True)
class Clause:
    """One clause of the contract, checked."""

    name: str
    passed: bool | None
    """None where the clause does not apply or could not be checked; ``detail`` says why."""
    detail: str = ""


class Broken(Exception):
    """The clause under way does not hold; the message says how."""


class NotApplicable(Exception):
    """The clause under way says nothing about this model; the message says why."""


@dataclass(frozen=True)
class Check:
    """How a clause is checked."""

    name: str
    run: Callable[[Any], str]
    """Takes the subject, gives a remark (possibly empty), raises where the clause does not hold."""
    needs: tuple[str, ...] = ()
    """Clauses that must not have failed, or this one would only repeat their finding."""


@dataclass(eq=False)
class Subject:
    """The model under test, built once."""

    entry: ModelEntry
    request: BuildRequest

    @cached_property
    def model(self) -> Any:  # noqa: ANN401 - whether it is what it should be is the question
        """What the entry builds."""
        return self.entry.make(self.request)

    def outputs(self, model: Any) -> Outputs:  # noqa: ANN401 - as above
        """Features of all examples."""
        raise NotImplementedError


def builds(subject: Subject) -> str:
    """The entry's build function is found and gives a model."""
    return type(subject.model).__qualname__


def card_complete(subject: Subject) -> str:
    """The card says what a reader must know, and pins what it downloads."""
    entry, card = subject.entry, subject.entry.card
    empty = [name for name in ("name", "title", "summary", "paper", "licence") if not getattr(card, name).strip()]
    if empty:
        raise Broken(f"empty on the card: {', '.join(empty)}")
    if entry.kind == "encoder" and not card.inputs:
        raise Broken("the card's 'inputs' is empty; say what a sample's score is computed from, as ('image',)")
    for source in card.weights:
        if not re.fullmatch("[0-9a-f]{40}", source.revision) and not source.unpinned:
            raise Broken(
                f"{source.repo_id}: revision {source.revision!r} is not a commit (40 hex digits), so can move, "
                "and 'unpinned' does not say why"
            )
        if not source.files:
            raise Broken(f"{source.repo_id}: no files are listed")
    return "; ".join(f"{s.repo_id} is not pinned: {s.unpinned}" for s in card.weights if s.unpinned)


def own_card(subject: Subject) -> None:
    """Refuse a model that carries another card than its entry."""
    if subject.model.card != subject.entry.card:
        raise Broken("the model's card is not the card of its registered entry")


def pickles(subject: Subject) -> str:
    """Entry and request, not the model, are what travels to a worker; there it must come out the same."""
    entry, request = pickle.loads(pickle.dumps((subject.entry, subject.request)))  # noqa: S301 - our own bytes
    equal(subject.outputs(subject.model), subject.outputs(entry.make(request)), "a worker's copy gives other features")
    return ""


def equal(first: Outputs, second: Outputs, otherwise: str) -> None:
    """Refuse features that differ in a single bit, saying ``otherwise`` and by how much."""
    for modality, a in first.items():
        b = second[modality]
        if a.shape != b.shape:
            raise Broken(f"{otherwise}: {modality} of shape {b.shape} where it was {a.shape}")
        if not np.array_equal(a, b):
            raise Broken(f"{otherwise}: {modality} differs by up to {np.abs(a - b).max():.3g}")
