"""Easy data augmentation of radiology reports that leaves every stated fact in place.

Wei & Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks", EMNLP 2019
(arXiv:1901.11196): synonym replacement, random swap and random deletion; their fourth operation, the insertion of
synonyms, is not part of the recipe that this project follows. The original edits any word. Here only words that
state nothing are moved or deleted, and a word is replaced only within its group of synonyms, so that
``facts.skeleton`` is the same before and after: no level, side, grade, number, clinical term or negation is touched,
and none changes its place among the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from benchmark.data.facts import CANONICAL, CLAUSE_END, FILLERS, SENTENCE_END, SYNONYMS, WORD
from benchmark.model import AugmentationEntry

_GROUPS = {group[0]: group for group in SYNONYMS}
_CHOICES = {word: tuple(w for w in _GROUPS[first] if w != word) for word, first in CANONICAL.items()}


@dataclass
class EDA:
    """Per sentence one of the three operations, drawn uniformly among those that can change it.

    Each strength is the paper's alpha, 0.1 as recommended there; 0 switches an operation off. In a sentence of l words

    * ``synonym``: max(1, floor(alpha l)) words that have a synonym are replaced;
    * ``swap``: max(1, floor(alpha l)) times, a filler and the next one in its clause change places;
    * ``deletion``: max(1, floor(alpha l)) fillers are deleted. The paper deletes each word with probability alpha;
      with few words free to go, that would leave most sentences as they are.

    A sentence of fewer than two words, or without a word that may be edited, stays as it is.
    """

    synonym: float = 0.1
    swap: float = 0.1
    deletion: float = 0.1
    name: str = field(default="eda", init=False)

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        """Give ``count`` rewordings of one report; two of them may be equal."""
        words, gaps = _parse(report)
        sentences = _spans(gaps, SENTENCE_END.search)
        plans = [plan for span in sentences if (plan := self._plan(words, gaps, span))]
        return [_edit(words, gaps, plans, rng) for _ in range(count)]

    def _plan(self, words: list[str], gaps: list[str], span: range) -> list[_Operation]:
        """The operations that can change one sentence, with how often each is applied."""
        if len(span) < 2:
            return []
        replaceable = [i for i in span if words[i].lower() in _CHOICES]
        fillers = [i for i in span if words[i].lower() in FILLERS]
        clauses = _clauses(gaps, span)
        neighbours: list[tuple[int, ...]] = [
            pair for pair in pairwise(fillers) if len({clauses[i] for i in pair}) == 1 and _differ(words, pair)
        ]
        offers: list[tuple[float, _Apply, list[tuple[int, ...]]]] = [
            (self.synonym, _replace, [(i,) for i in replaceable]),
            (self.swap, _swap, neighbours),
            (self.deletion, _delete, [(i,) for i in fillers]),
        ]
        return [
            _Operation(apply, places, max(1, int(alpha * len(span))))
            for alpha, apply, places in offers
            if alpha > 0 and places
        ]


_Apply = Callable[[list[str], tuple[int, ...], np.random.Generator], None]


@dataclass(frozen=True)
class _Operation:
    apply: _Apply
    places: list[tuple[int, ...]]
    times: int


def _edit(words: list[str], gaps: list[str], plans: list[list[_Operation]], rng: np.random.Generator) -> str:
    edited = list(words)
    for plan in plans:
        operation = plan[int(rng.integers(len(plan)))]
        for place in rng.permutation(len(operation.places))[: operation.times]:
            operation.apply(edited, operation.places[int(place)], rng)
    return _join(edited, gaps)


def _replace(words: list[str], place: tuple[int, ...], rng: np.random.Generator) -> None:
    (i,) = place
    choices = _CHOICES[words[i].lower()]
    words[i] = _cased_like(words[i], choices[int(rng.integers(len(choices)))])


def _swap(words: list[str], place: tuple[int, ...], _rng: np.random.Generator) -> None:
    i, j = place
    words[i], words[j] = _cased_like(words[i], words[j]), _cased_like(words[j], words[i])


def _delete(words: list[str], place: tuple[int, ...], _rng: np.random.Generator) -> None:
    words[place[0]] = ""


def _differ(words: list[str], pair: tuple[int, int]) -> bool:
    return words[pair[0]].lower() != words[pair[1]].lower()


def _cased_like(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word.lower()


def _parse(report: str) -> tuple[list[str], list[str]]:
    """Split into n words and the n + 1 gaps around them; joined in turn they give the report back."""
    matches = list(WORD.finditer(report))
    starts = [0, *(match.end() for match in matches)]
    ends = [*(match.start() for match in matches), len(report)]
    return [match[0] for match in matches], [report[a:b] for a, b in zip(starts, ends, strict=True)]


def _spans(gaps: list[str], ends: Callable[[str], object]) -> list[range]:
    """Runs of word positions between gaps that hold an end mark."""
    cuts = [0, *(i for i in range(1, len(gaps) - 1) if ends(gaps[i])), len(gaps) - 1]
    return [range(a, b) for a, b in pairwise(cuts)]


def _clauses(gaps: list[str], span: range) -> dict[int, int]:
    """Word position in a sentence to the number of its clause."""
    number = 0
    clauses: dict[int, int] = {}
    for i in span:
        number += i > span.start and CLAUSE_END.search(gaps[i]) is not None
        clauses[i] = number
    return clauses


def _join(words: list[str], gaps: list[str]) -> str:
    """Put words and gaps together; of the blanks on both sides of a deleted word one side stays."""
    text = gaps[0]
    for word, gap in zip(words, gaps[1:], strict=True):
        doubled = not word and (not text or text[-1].isspace())
        text += word + (gap.lstrip(" \t") if doubled else gap)
    return text


ENTRY = AugmentationEntry(
    name="eda",
    summary="Synonym replacement, random swap and random deletion (Wei & Zou 2019); every stated fact stays in place",
    build=EDA,
)
