"""What a radiology report states: levels, sides, grades, numbers and negated words, and which words state nothing.

Everything is read from the report's *skeleton*: its words and punctuation in order, without fillers and with each
synonym put as the first of its group. A rewording that keeps the skeleton therefore keeps every fact, whatever the
report is about: a word that is not known to be harmless counts as a fact.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

WORD = re.compile(r"\w+(?:(?:[-/'*]|(?<=\d)[.,](?=\d))\w+)*")
"""A word. Compounds are one word, so that ``L4-L5``, ``6.5mm`` and ``well-defined`` are never taken apart."""

SENTENCE_MARKS = frozenset(".;!?\n")
"""Marks that end a sentence."""

SENTENCE_END = re.compile(r"[.;!?\n]")
"""Marks between two words that end a sentence. Reports are written in lines, so a line's end is one."""

CLAUSE_MARKS = SENTENCE_MARKS | frozenset(",:()[]")
"""Marks that end a clause."""

CLAUSE_END = re.compile(r"[.;!?\n,:()\[\]]")
"""Marks between two words that end a clause."""

FILLERS = frozenset(
    WORD.findall(
        "the this these that is are be been being there here it its at of in on upon also as "
        "noted seen identified observed demonstrated visualised visualized visible evident evidence indication "
        "shows show showing reveals reveal revealing demonstrates demonstrate demonstrating displays displaying"
    )
)
"""Words that state nothing by themselves; lower case.

Not here, for what they state in a phrase: ``a`` (grade A), ``level`` (air-fluid level), ``sign`` (vacuum sign),
``well`` (not well seen), ``to`` (L3 to L5), ``with``.
"""

SYNONYMS = (
    ("noted", "seen", "identified", "observed", "demonstrated", "visible", "evident"),
    ("shows", "demonstrates", "reveals", "displays"),
    ("showing", "demonstrating", "revealing", "displaying"),
    ("show", "demonstrate", "reveal"),
    ("evidence", "indication"),
    ("feature", "finding"),
    ("features", "findings"),
    ("visualised", "visualized"),
    ("adequate", "sufficient"),
    ("multiple", "several"),
    ("associated", "combined"),
    ("causing", "producing"),
    ("causes", "produces"),
    ("advised", "recommended", "suggested"),
    ("further", "additional"),
    ("mainly", "chiefly", "predominantly"),
    ("noticeably", "notably"),
    ("appears", "looks"),
    ("about", "approximately"),
    ("within", "inside"),
    ("examination", "exam"),
    ("preserved", "maintained"),
    ("entire", "whole"),
)
"""Groups of words that say the same in a report; lower case."""

CANONICAL = {word: group[0] for group in SYNONYMS for word in group}
"""Word to the first of its group."""

_JOINING = frozenset({"or", "and", "any", "for", "to", "with", "from", "by"})

NEGATIONS = frozenset(
    WORD.findall("no not neither without absent absence lack lacks lacking negative nor never none cannot")
)
"""Words that negate what follows them in their clause or, where nothing follows, what precedes them."""

TURNS = frozenset({"but", "however", "although", "though", "except", "yet", "otherwise", "whereas", "while"})
"""Words after which a negation no longer holds."""

SIDES = {
    "left": "left",
    "lt": "left",
    "right": "right",
    "rt": "right",
    "bilateral": "bilateral",
    "bilaterally": "bilateral",
    "both": "bilateral",
    "central": "central",
    "centrally": "central",
    "midline": "central",
    "paracentral": "paracentral",
}
"""Words for a side or zone, to the form that is compared."""

_TOKEN = re.compile(rf"{WORD.pattern}|\n|\S")
LEVEL = re.compile(
    r"(?<![A-Za-z0-9])[CTDLS]\d{1,2}(?!\d)(?:\s*[-/]\s*[CTDLS]?\d{1,2}(?![\d.]|\s*[mc]m))*",
    re.IGNORECASE,
)
"""What is written as a level; ``levels_of`` says which it is, if any."""

_CONTRAST = re.compile(r"\s*T[12]\s*(/\s*T[12]\s*)?", re.IGNORECASE)
_VERTEBRA = re.compile(r"[A-Za-z]?\d+")
_VERTEBRAE = {"C": 8, "T": 12, "L": 6, "S": 5}
_GRADE = re.compile(
    r"\b(?i:grade[ds]?|type|stage|class|modic|schizas|pfirrmann)\s*[-:]?\s*([A-D][1-4]?|IV|V|I{1,3}|[0-5])(?![\w.])"
)
_ROMAN = {"I": "1", "II": "2", "III": "3", "IV": "4", "V": "5"}
_SIDE = re.compile(rf"(?<![a-z])(?:{'|'.join(sorted(SIDES, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
_SEVERITY = re.compile(r"\b(mild|moderate|severe|marked|minimal|slight)(?:ly)?\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?(?:\s*(?:[mc]m[²2]?|%|°|degrees?|ml|cc)(?![A-Za-z]))?", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What a report states, each kind in order of appearance; two reports agree where these are equal."""

    levels: tuple[str, ...]
    """Vertebral levels and discs: ``L4`` or ``L4-L5``, however written (``L4/5``, ``L4-l5``); D12 is T12."""
    sides: tuple[str, ...]
    """``left``, ``right``, ``bilateral``, ``central``, ``paracentral``."""
    grades: tuple[str, ...]
    """Letters and figures after the word grade, type, Modic…: ``B``, ``2`` (for II), then severities: ``mild``."""
    numbers: tuple[str, ...]
    """Figures that are neither level nor grade, with their unit: ``6.5mm``. Number words are not read."""
    negated: tuple[str, ...]
    """Words under a negation, fillers left out; lower case."""


class Fact(NamedTuple):
    """One level, side, grade or number, and where it stands."""

    kind: Literal["level", "side", "grade", "number"]
    value: str
    at: int
    """Index of its first word in the skeleton."""


@dataclass(frozen=True)
class Reading:
    """A report's skeleton, and what was found in it."""

    words: tuple[str, ...]
    """The skeleton in lower case."""
    facts: tuple[Fact, ...]
    """In order of appearance, but for severities, which come after the other grades."""
    negated: frozenset[int]
    """Indices of words under a negation."""


def read(text: str) -> Reading:
    """Read a report, and where in its skeleton each fact stands.

    A negation holds to the end of its sentence, to a turn (``but``), or to a comma that no ``or`` follows, after the
    manner of NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029). ``absent``, and any negation with nothing
    after it, reaches back to the start of its clause instead.
    """
    words = skeleton(text)
    line = " ".join(words)
    lowered = tuple(word.lower() for word in words)
    starts = list(accumulate((len(word) + 1 for word in words), initial=0))
    found: list[Fact] = []

    def add(kind: Literal["level", "side", "grade", "number"], value: str, start: int) -> None:
        found.append(Fact(kind, value, bisect_right(starts, start) - 1))

    rest = line
    for match in LEVEL.finditer(line):
        levels = levels_of(match[0])
        for level in levels:
            add("level", level, match.start())
        rest = _blanked(rest, match) if levels else rest
    for match in _SIDE.finditer(line):
        add("side", SIDES[match[0].lower()], match.start())
    for match in _GRADE.finditer(rest):
        add("grade", _ROMAN.get(match[1], match[1]), match.start())
        rest = _blanked(rest, match)
    for match in _SEVERITY.finditer(line):
        add("grade", match[1].lower(), match.start())
    for match in _NUMBER.finditer(rest):
        add("number", re.sub(r"\s", "", match[0].lower()), match.start())
    return Reading(lowered, tuple(found), _negated(lowered))


def facts(text: str) -> Facts:
    """Read the facts of a report, apart from where they stand."""
    reading = read(text)

    def values(kind: str) -> tuple[str, ...]:
        return tuple(fact.value for fact in reading.facts if fact.kind == kind)

    return Facts(
        levels=values("level"),
        sides=values("side"),
        grades=values("grade"),
        numbers=values("number"),
        negated=tuple(reading.words[at] for at in sorted(reading.negated)),
    )


def _blanked(line: str, match: re.Match[str]) -> str:
    """A line with one match made blank, so that its figures are not read again and all else keeps its place."""
    return line[: match.start()] + " " * len(match[0]) + line[match.end() :]


def skeleton(text: str) -> tuple[str, ...]:
    """Words and marks of a report in order, fillers left out, each synonym as the first of its group."""
    return tuple(
        CANONICAL.get(lowered, token) for token in _TOKEN.findall(text) if (lowered := token.lower()) not in FILLERS
    )


def levels_of(written: str) -> list[str]:
    """Normalise ``L4/5`` to ``L4-L5``; nothing where it is no level (``T2``, the contrast; ``L9``)."""
    if _CONTRAST.fullmatch(written):
        return []
    vertebrae: list[str] = []
    letter = ""
    for part in _VERTEBRA.findall(written):
        letter = part[0].upper().replace("D", "T") if part[0].isalpha() else letter
        number = int(part.lstrip("CTDLSctdls"))
        if not 1 <= number <= _VERTEBRAE[letter]:
            return []
        vertebrae.append(f"{letter}{number}")
    return [f"{upper}-{lower}" for upper, lower in pairwise(vertebrae)] or vertebrae


def _negated(words: Sequence[str]) -> frozenset[int]:
    """Positions under any negation; ``words`` in lower case."""
    under: set[int] = set()
    for position, word in enumerate(words):
        if word in NEGATIONS or word.endswith("n't"):
            after, before = _ahead(words, position), _behind(words, position)
            under |= (before or after) if word == "absent" else (after or before)
    return frozenset(under)


def _ahead(words: Sequence[str], position: int) -> set[int]:
    reached: set[int] = set()
    for here in range(position + 1, len(words)):
        if words[here] in SENTENCE_MARKS or words[here] in TURNS:
            break
        if words[here] == "," and not _list_goes_on(words, here):
            break
        if _says_something(words[here]):
            reached.add(here)
    return reached


def _behind(words: Sequence[str], position: int) -> set[int]:
    reached: set[int] = set()
    for here in range(position - 1, -1, -1):
        if words[here] in CLAUSE_MARKS or words[here] in TURNS:
            break
        if _says_something(words[here]):
            reached.add(here)
    return reached


def _list_goes_on(words: Sequence[str], comma: int) -> bool:
    """Whether an ``or`` follows in the sentence, as in ``no bulge, protrusion or stenosis``."""
    for word in words[comma + 1 :]:
        if word in SENTENCE_MARKS or word in TURNS:
            return False
        if word in {"or", "nor"}:
            return True
    return False


def _says_something(word: str) -> bool:
    """Whether a word can be what is negated: not a mark, joining word, negation, level or figure."""
    return word[0].isalpha() and word not in _JOINING | NEGATIONS and not LEVEL.match(word)
