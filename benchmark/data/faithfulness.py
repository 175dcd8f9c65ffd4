"""Whether a rewording states what its report states: the findings, and the level, side, grade and figures of each.

Order may change, and so may words. What may not change is which finding is where: ``left bulge at L4/5, right bulge
at L5/S1`` and the same with the sides exchanged hold the same words, and state different things. A text is therefore
read into *statements*: a finding, affirmed or negated, at a level; and a side, grade or number of a finding at a
level. Two texts agree where their sets of statements do.

How a sentence is taken apart: clauses end at marks, joining words (``and``, ``with``) and turns (``but``). Sides,
grades and numbers belong to all findings of their clause; a clause of nothing else (``, grade B``) belongs to the one
before it, or opens the next. A level holds for its clause and the clauses after it in the sentence; a level that comes
first and ends in a colon, for all sentences up to the next level; and a report's only level, for the whole report. The
vertebra of a nerve root (``L5 root``) is a detail like a side.

What it cannot see, and what follows: findings are known by a list and by medical endings, so an unknown word may be
added or exchanged unnoticed, unless it is negated; which structure a finding is about (canal, foramen, root), size and
shape in words (``small``, ``broad-based``) and number words are not compared; a level that a pronoun or ``the same
level`` carries on is lost to it, so that a right but roundabout text may be refused. It reads English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from benchmark.data.facts import CLAUSE_MARKS, FILLERS, SENTENCE_MARKS, TURNS, WORD, Fact, Reading, read

VERSION = "1"
"""Raised whenever the check would judge other texts faithful: part of the id of every cell with an augmentation."""

How = Literal["contradicts", "adds", "omits"]
Kind = Literal["level", "side", "grade", "number", "negation", "finding"]
KINDS: tuple[Literal["level", "side", "grade", "number"], ...] = ("level", "side", "grade", "number")
"""Facts that have a value, as ``facts`` reads them."""

FINDINGS = {
    "bulge": r"bulg\w*",
    "protrusion": r"protru\w*",
    "extrusion": r"extru\w*",
    "herniation": r"herni\w*",
    "prolapse": r"prolaps\w*",
    "sequestration": r"sequest\w*",
    "migration": r"migrat\w*",
    "stenosis": r"stenos\w*|stenotic|narrow\w*",
    "compression": r"compress\w*|comprss\w*",
    "indentation": r"indent\w*",
    "impingement": r"imping\w*",
    "contact": r"abut\w*",
    "encroachment": r"encroach\w*",
    "desiccation": r"desiccat\w*|dehydrat\w*|dissicat\w*",
    "hydration": r"hydrated",
    "degeneration": r"degenerat\w*",
    "hypertrophy": r"hypertroph\w*|hyperatroph\w*|thicken\w*",
    "arthropathy": r"(?:osteo)?arthropath\w*|(?:osteo)?arthros\w*",
    "fracture": r"fractur\w*",
    "cyst": r"cysts?|cystic",
    "haemangioma": r"ha?emangiomas?",
    "mass": r"mass(?:es)?|tumou?rs?|neoplas\w*",
    "lesion": r"lesions?",
    "oedema": r"o?edema\w*",
    "spasm": r"spasm\w*",
    "tear": r"tears?|torn|fissur\w*",
    "nodule": r"nodul\w*|schmorl\w*",
    "osteophyte": r"osteophyt\w*|spur\w*",
    "infection": r"infect\w*|abscess\w*",
    "effusion": r"effusions?",
    "opacity": r"opacit\w*|opacif\w*|infiltrat\w*",
    "consolidation": r"consolidat\w*",
    "pneumothorax": r"\w*pneumothora\w*",
    "haemorrhage": r"ha?emorrhag\w*|bleed\w*",
    "loss": r"loss|lost|decreas\w*|reduc\w*|diminish\w*",
    "increase": r"increas\w*|enlarg\w*|dilat\w*",
    "normal": r"normal\w*|unremarkable",
    "abnormality": r"abnormal\w*",
    "patency": r"patent|patency",
    "preservation": r"preserved|maintained",
    "adequacy": r"adequate|sufficient",
}
"""Finding -> the words for it, synonyms only where they say the same of a spine."""

ENDINGS = re.compile(
    r"\w{2,}(?:itis|oma|omata|osis|iosis|pathy|lysis|listhesis|megaly|ectasis|ectasia|penia|sclerosis|algia|plasia)"
)
"""Endings by which a medical word for a finding is known, whatever the region; the word itself is then the finding."""

JOINTS = frozenset({"and", "or", "nor", "with", "without", "&", "plus"})
"""Words at which a new clause begins, beside the turns."""

ROOT = frozenset({"nerve", "root", "roots", "exit", "exiting", "traversing"})
"""Words behind a vertebra that make it the name of a nerve root, and no place where a finding is."""

LIGHT = FILLERS | frozenset(
    WORD.findall(
        "a an and or nor with level levels disc discs side sided aspect more to up measuring measures mm cm "
        "degrees type stage class grade graded modic schizas pfirrmann feature features"
    )
)
"""Words that a clause may hold and still say nothing but a level, a side, a grade or a number."""

_ENDS = CLAUSE_MARKS | JOINTS | TURNS
_KNOWN = re.compile("|".join(f"(?P<{name}>{words})" for name, words in FINDINGS.items()))


@dataclass(frozen=True)
class Change:
    """One thing that a rewording states otherwise than its report."""

    how: How
    kind: Kind
    what: str
    """In words: a value, or a finding and its value."""

    @property
    def label(self) -> str:
        """Without what it is about: what changes are counted by, and all that may be published."""
        return f"{self.how} {self.kind}"

    def __str__(self) -> str:
        return f"{self.label} ({self.what})"


def changes(report: str, rewording: str) -> tuple[Change, ...]:
    """What a rewording states otherwise than its report; nothing where it is faithful.

    ``contradicts``: something stated is stated otherwise, or of another finding or level. ``adds``: something is
    stated that the report does not state. ``omits``: something that the report states is not there.
    """
    old, new = _statements(report), _statements(rewording)
    if old == new:
        return ()
    found = dict.fromkeys([*_values(old, new), *_findings(old, new), *_details(old, new)])
    otherwise = {change.kind for change in found if change.how == "contradicts"}
    # What moved is also missing where it was: that is one thing, and said once.
    return tuple(change for change in found if change.how != "omits" or change.kind not in otherwise)


def refused(found: Iterable[Change], *, may_omit: bool) -> tuple[Change, ...]:
    """The changes for which a rewording is not used: all, or all but omissions where these are allowed.

    A text that leaves something out is still true of its picture; one that contradicts or adds may not be.
    """
    return tuple(change for change in found if not (may_omit and change.how == "omits"))


# --------------------------------------------------------------------------------------------- comparing


@dataclass(frozen=True)
class _Statements:
    values: dict[str, set[str]]
    """Kind of fact -> all values, wherever they stand."""
    findings: dict[tuple[str, bool], set[str]]
    """Finding, whether negated -> levels; ``""`` is a level that is not said."""
    details: dict[tuple[str, str, str], set[str]]
    """Finding (``""`` where none is known), kind, value -> levels."""
    reading: Reading = field(compare=False)

    @property
    def affirmed(self) -> set[str]:
        """Words that no negation holds for."""
        return {word for at, word in enumerate(self.reading.words) if at not in self.reading.negated}

    @property
    def only_level(self) -> str:
        return next(iter(self.values["level"])) if len(self.values["level"]) == 1 else ""


def _values(old: _Statements, new: _Statements) -> Iterable[Change]:
    """Levels, sides, grades and numbers that one text has and the other has not."""
    for kind in KINDS:
        added, gone = new.values[kind] - old.values[kind], old.values[kind] - new.values[kind]
        how: How = "contradicts" if gone else "adds"
        yield from (Change(how, kind, value) for value in sorted(added))
        if not added:
            yield from (Change("omits", kind, value) for value in sorted(gone))


def _findings(old: _Statements, new: _Statements) -> Iterable[Change]:
    """Findings that are negated in one text alone, that moved to another level, came or went."""
    for (finding, negated), levels in new.findings.items():
        if _all_in(levels, old.findings.get((finding, negated)), old):
            continue
        name = f"no {finding}" if negated else finding
        if _all_in(levels, old.findings.get((finding, not negated)), old) or (negated and finding in old.affirmed):
            yield Change("contradicts", "negation", name)
        elif (finding, negated) in old.findings:
            yield Change("contradicts", "level", name)
        else:
            yield Change("adds", "finding", name)
    for (finding, negated), levels in old.findings.items():
        if _still_in(levels, new.findings.get((finding, negated)), new):
            continue
        name = f"no {finding}" if negated else finding
        if negated and finding in new.affirmed:
            yield Change("contradicts", "negation", name)
        elif (finding, negated) in new.findings:
            yield Change("omits", "level", name)
        else:
            yield Change("omits", "finding", name)


def _details(old: _Statements, new: _Statements) -> Iterable[Change]:
    """Sides, grades and numbers that both texts have, and have of different findings or levels."""
    known = {finding for finding, _ in old.findings} | {""}
    for (finding, kind, value), levels in new.details.items():
        if finding not in known or value not in old.values[kind]:
            continue  # said already
        homes = [f for f, k, v in old.details if (k, v) == (kind, value) and finding in ("", f)]
        if not any(_all_in(levels, old.details[home, kind, value], old) for home in homes):
            yield Change("contradicts", _kind(kind), f"{value} of {finding or 'a finding'}")
    named = {finding for finding, _ in new.findings} | {""}
    for (finding, kind, value), levels in old.details.items():
        if finding not in named or value not in new.values[kind]:
            continue
        if not _still_in(levels, new.details.get((finding, kind, value)), new):
            yield Change("omits", _kind(kind), f"{value} of {finding or 'a finding'}")


def _kind(kind: str) -> Kind:
    return next(each for each in KINDS if each == kind)


def _all_in(levels: set[str], there: set[str] | None, old: _Statements) -> bool:
    """Whether the report has it wherever the rewording has it; a level that the report never names is said already."""
    if there is None:
        return False
    return all(level in there or level == "" or level not in old.values["level"] for level in levels)


def _still_in(levels: set[str], there: set[str] | None, new: _Statements) -> bool:
    """Whether the rewording still has it wherever the report has it; a level that is gone is said already."""
    if there is None:
        return False
    gone = {level for level in levels if level == "" or level not in new.values["level"]}
    unsaid = {new.only_level} if "" in there else set()
    return levels <= there | gone | unsaid


# --------------------------------------------------------------------------------------------- reading


@dataclass
class _Clause:
    findings: set[tuple[str, bool]] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    details: set[tuple[str, str]] = field(default_factory=set)
    """Kind and value of sides, grades, numbers and levels of nerve roots."""
    bare: bool = True
    """Whether it holds nothing but facts and light words."""
    colon: bool = False
    """Whether it ends in one."""

    @property
    def says_something(self) -> bool:
        return not self.bare or bool(self.findings or self.levels or self.details)


@lru_cache(maxsize=2**10)  # a report is compared with each of its rewordings
def _statements(text: str) -> _Statements:
    reading = read(text)
    values = _valued(reading.facts)
    unsaid = set(values["level"] if len(values["level"]) == 1 else {""})
    findings: dict[tuple[str, bool], set[str]] = {}
    details: dict[tuple[str, str, str], set[str]] = {}
    heading: set[str] = set()
    for clauses in _sentences(reading):
        opening, groups = _grouped(clauses)
        if opening.colon and opening.levels:
            heading = opening.levels
        elif opening.levels or any(group.levels for group in groups):
            heading = set()
        for group, levels in zip(groups, _scopes(opening, groups, heading), strict=True):
            for finding, negated in group.findings:
                if finding:
                    findings.setdefault((finding, negated), set()).update(levels or unsaid)
                for kind, value in group.details:
                    details.setdefault((finding, kind, value), set()).update(levels or unsaid)
    return _Statements(values, findings, details, reading)


def _valued(facts: Sequence[Fact]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for fact in facts:
        values[fact.kind].add(fact.value)
    return values


def _sentences(reading: Reading) -> Iterable[list[_Clause]]:
    """The clauses of each sentence, in order."""
    facts_at: dict[int, list[Fact]] = {}
    for fact in reading.facts:
        facts_at.setdefault(fact.at, []).append(fact)
    words, negated = reading.words, reading.negated
    for span in _spans(words):
        known = any(finding_of(words[at]) for at in span if at in negated) if negated else True
        clause = _Clause()
        clauses = [clause]
        for at in span:
            word = words[at]
            if word in _ENDS:
                if clause.says_something:
                    clause.colon = word == ":"
                    clause = _Clause()
                    clauses.append(clause)
            elif finding := finding_of(word):
                clause.findings.add((finding, at in negated))
            elif at not in facts_at and word not in LIGHT and word[0].isalpha():
                # A negated stretch without a known finding makes findings of its words.
                if not known and at in negated:
                    clause.findings.add((word, True))
                else:
                    clause.bare = False
            for fact in facts_at.get(at, ()):
                if fact.kind != "level" or _is_root(fact, words, span):
                    clause.details.add((fact.kind, fact.value))
                else:
                    clause.levels.add(fact.value)
        yield clauses if clause.says_something else clauses[:-1]


def _is_root(fact: Fact, words: Sequence[str], span: range) -> bool:
    """Whether a vertebra names a nerve root."""
    return "-" not in fact.value and fact.at + 1 < span.stop and words[fact.at + 1] in ROOT


def _spans(words: Sequence[str]) -> Iterable[range]:
    """Sentences as ranges of positions. A line that ends in a colon is no sentence of its own, but opens the next."""
    start = 0
    for at, word in enumerate(words):
        if word in SENTENCE_MARKS and not (word == "\n" and at and words[at - 1] == ":"):
            yield range(start, at)
            start = at + 1
    yield range(start, len(words))


@lru_cache(maxsize=2**14)
def finding_of(word: str) -> str:
    """The finding that a word, in lower case, stands for; nothing where it stands for none."""
    for part in (word, *word.split("-")):
        match = _KNOWN.fullmatch(part)
        if match and match.lastgroup:
            return match.lastgroup
        if ENDINGS.fullmatch(part.removesuffix("s")):
            return part.removesuffix("s")
        if ENDINGS.fullmatch(part):
            return part
    return ""


def _grouped(clauses: Sequence[_Clause]) -> tuple[_Clause, list[_Clause]]:
    """What opens a sentence before its first finding, and its findings with what belongs to them."""
    opening, groups = _Clause(), list[_Clause]()
    for clause in clauses:
        if clause.findings or not clause.bare:
            clause.findings = clause.findings or {("", False)}
            clause.details |= set() if groups else opening.details
            groups.append(clause)
        elif not groups:
            opening.levels |= clause.levels
            opening.details |= clause.details
            opening.colon = clause.colon
        elif clause.levels and clause.details:  # mild bulge at L4/5 and severe at L5/S1
            clause.findings = groups[-1].findings
            groups.append(clause)
        else:
            groups[-1].levels |= clause.levels
            groups[-1].details |= clause.details
    if not groups and opening.details:
        groups = [_Clause({("", False)}, set(), opening.details)]
    return opening, groups


def _scopes(opening: _Clause, groups: Sequence[_Clause], heading: set[str]) -> list[set[str]]:
    """The levels that each group is about: its own, else those before it, else those after it, else the heading."""
    after = next((group.levels for group in groups if group.levels), heading)
    scopes: list[set[str]] = []
    for group in groups:
        before = scopes[-1] if scopes else opening.levels
        scopes.append(group.levels or before or after)
    return scopes
