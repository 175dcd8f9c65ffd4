"""Rewording of radiology reports by rules, offline: other sentence frames, order, level notation and phrases.

A report is read into blocks: a level, where one is named, and the findings stated of it. Each rewording writes them
anew: ``There is a bulge at L4/5. No stenosis.`` becomes ``At the L4-L5 level, no evidence of stenosis, a bulge.``
What cannot be taken apart safely keeps its words. Every text is held against the report by the same check that the
harness applies, and only a faithful one is given; so the rules may be simple.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from benchmark.data.facts import LEVEL, WORD, levels_of
from benchmark.data.faithfulness import changes, finding_of
from benchmark.model import AugmentationEntry

T = TypeVar("T")

TRIES = 6
"""Texts tried for each one asked for, before a report is taken to have no more."""

PHRASES = (
    ("spinal canal stenosis", "stenosis of the spinal canal"),
    ("canal stenosis", "stenosis of the canal"),
    ("narrowing of the spinal canal", "spinal canal narrowing"),
    ("nerve root compression", "compression of the nerve root"),
    ("facet joint hypertrophy", "hypertrophy of the facet joints"),
    ("hypertrophic facet arthropathy", "hypertrophic arthropathy of the facet joints"),
    ("facet arthropathy", "facet joint arthropathy"),
    ("facet arthrosis", "arthrosis of the facet joints"),
    ("disc desiccation", "desiccation of the disc"),
    ("disc degeneration", "degeneration of the disc"),
    ("ligamentum flavum hypertrophy", "hypertrophy of the ligamentum flavum"),
    ("thickened ligamentum flavum", "thickening of the ligamentum flavum"),
    ("loss of disc signal", "disc signal loss"),
    ("loss of height", "height loss"),
    ("compression of the thecal sac", "thecal sac compression"),
    ("unremarkable facet joints", "normal facet joints"),
    ("protrusion measuring", "protrusion of"),
    ("bulge of", "bulge measuring"),
    ("muscle spasm", "spasm of the muscles"),
    ("magnetic resonance imaging", "MRI", "MR imaging"),
    ("lumbosacral spine", "LSS"),
    ("lumbar spine", "LS spine"),
    ("left", "Lt"),
    ("right", "Rt"),
)
"""Phrases that say the same. A phrase is exchanged for another of its row; those written with capitals are
abbreviations, which are written out and never put in."""

SEEN = ("noted", "seen", "identified", "observed", "demonstrated", "visible", "evident")
PROPER = frozenset({"Schmorl", "Schmorls", "Tarlov", "Modic", "Pfirrmann", "Schizas", "Baastrup", "Schmorl's"})
"""Words that keep their capital inside a sentence."""

_LEVELS = rf"{LEVEL.pattern}(?:\s*(?:,|&|and)\s*(?:{LEVEL.pattern}))*"
_SEEN = rf"(?:{'|'.join(SEEN)})"
_SENTENCE = re.compile(r"(?:(?<=[;!?])|(?<=[\w)][\w) ]\.))\s+")
"""Between two sentences of a line; not behind ``1.`` or ``c.``."""

_BULLET = re.compile(r"^[\s\-•*/.,]+")
_HEADING = re.compile(rf"(?:at\s+(?:the\s+)?)?(?P<level>{_LEVELS})(?:\s+levels?)?\s*:\s*(?P<rest>.*)", re.I | re.S)
_OPENING = re.compile(
    rf"at\s+(?:the\s+)?(?P<level>{_LEVELS})(?:\s+levels?)?\s*,?\s*(?:there\s+(?:is|are)\s+)?(?P<rest>\w.*)", re.I | re.S
)
_TRAILING = re.compile(
    rf"(?P<core>[^,:]+?)\s*(?:\b(?:is|are)\s+)?(?:\b{_SEEN}\b)?\s*,?\s*\bat\s+(?:the\s+)?(?P<level>{_LEVELS})"
    rf"(?:\s*levels?)?\s*(?P<rest>,.*)?",
    re.I | re.S,
)
_NEGATED = re.compile(
    rf"(?:there\s+(?:is|are)\s+)?no\s+(?:(?:evidence|indication)\s+of\s+)?(?P<core>[^,]+?)(?:\s+(?:is|are))?(?:\s+{_SEEN})?",
    re.I,
)
_STATED = re.compile(rf"(?:there\s+(?:is|are)\s+)?(?P<core>.+?)(?:\s+(?:is|are))?(?:\s+{_SEEN})?", re.I | re.S)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|reveals?|demonstrates?|appears?|remains?|measures?)\b", re.I)
_DEPENDENT = re.compile(r"\s*(?:\w+ing|and|or|with|which|more|grade\w*|also|associated|causing|w/)\b", re.I)
_BEHIND_HEAD = re.compile(r"\s+(?:of|at|in|on|with|to|\w+ing|\d\S*)\b", re.I)
_PLURAL = re.compile(r"\w+[^siu]s", re.I)
_START = re.compile(r"(?:^|\. )[a-z]")
_ROWS = {phrase.lower(): tuple(other for other in row if other.islower()) for row in PHRASES for phrase in row}
_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _ROWS), key=len, reverse=True))})\b(?!\s+of\s+\d)", re.I)
"""A phrase, but for one with a size behind it: the size would come to stand behind the wrong noun."""


@dataclass(frozen=True)
class _Item:
    """One thing that is stated."""

    kind: Literal["stated", "negated", "clause", "fixed", "opaque"]
    """``clause`` has a verb of its own; ``fixed`` says *noted* inside, and keeps its words; ``opaque`` names no
    finding, and keeps its words and its place."""
    core: str
    tail: str = ""
    """What hangs on it, from its comma on."""


@dataclass
class _Block:
    """What is stated of one level, or of none."""

    level: str
    items: list[_Item] = field(default_factory=list)
    open: bool = False
    """Whether following sentences belong to it, as under a heading."""


@dataclass
class Paraphrase:
    """Rewords a report by rules; the same generator state gives the same texts."""

    name: str = field(default="paraphrase", init=False)

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        """Give ``count`` rewordings that differ in words or their order from the report and from each other.

        Where there are not so many, the last is repeated; a report that cannot be reworded comes back as it is.
        """
        blocks, writer = _parse(report), _Writer(rng)
        texts: list[str] = []
        seen = {_words(report)}
        for _ in range(TRIES * count):
            if len(texts) == count:
                break
            text = writer.write(blocks)
            words = _words(text)
            if words not in seen and not changes(report, text):
                seen.add(words)
                texts.append(text)
        texts = texts or [report]
        return (texts + texts[-1:] * count)[:count]


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))


# --------------------------------------------------------------------------------------------- reading


def _parse(report: str) -> list[_Block]:
    blocks: list[_Block] = []
    for line in report.splitlines():
        for sentence in _SENTENCE.split(line):
            text = _BULLET.sub("", sentence).rstrip(" .;\t")
            if not WORD.search(text):
                continue
            if LEVEL.search(text):
                blocks.append(_with_level(text))
            elif blocks and blocks[-1].open:
                blocks[-1].items += _items(text.rstrip(" :"))
            else:
                blocks.append(_Block("", _items(text.rstrip(" :"))))
    return blocks


def _with_level(text: str) -> _Block:
    """A sentence that names a level: in front, at its end, or where it has to stay."""
    if heading := _HEADING.fullmatch(text):
        return _Block(heading["level"], _items(heading["rest"]), open=True)
    text = text.rstrip(" :")
    if opening := _OPENING.fullmatch(text):
        return _Block(opening["level"], _items(opening["rest"]))
    trailing = _TRAILING.fullmatch(text)
    if trailing and not LEVEL.search(trailing["core"]):
        return _Block(trailing["level"], [_item(trailing["core"], trailing["rest"] or "")])
    return _Block("", _items(text))


def _items(text: str) -> list[_Item]:
    """What a sentence lists between commas; a clause that cannot stand alone stays with the one before it."""
    parts: list[str] = []
    for part in re.split(r"\s*,\s*", text.strip()):
        if parts and (not _names_finding(part) or _DEPENDENT.match(part) or not _names_finding(parts[0])):
            parts[-1] += f", {part}"
        elif part:
            parts.append(part)
    return [_item(core, comma + tail) for core, comma, tail in (part.partition(",") for part in parts)]


def _item(core: str, tail: str) -> _Item:
    core = " ".join(core.split())
    if not _names_finding(core) or ":" in core or re.match(r"\d+[.)]", core):
        return _Item("opaque", core, tail)
    if (negated := _NEGATED.fullmatch(core)) and not _VERB.search(negated["core"]):
        return _Item("negated", negated["core"], tail)
    stated = _STATED.fullmatch(core)
    if stated is None or re.search(rf"\b{_SEEN}\b", stated["core"], re.I):
        return _Item("fixed", core, tail)
    if _VERB.search(stated["core"]):
        return _Item("clause", core, tail)
    return _Item("stated", stated["core"], tail)


def _names_finding(text: str) -> bool:
    return any(finding_of(word.lower()) for word in WORD.findall(text))


# --------------------------------------------------------------------------------------------- writing


class _Writer:
    """Writes rewordings, each time drawing anew."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._draws = _draws(rng)
        self.joint = "/"
        self.short = True
        """How discs are written: ``L4/5``, or ``L4/L5`` where it is false."""

    def pick(self, *options: str) -> str:
        return options[int(next(self._draws) * len(options))]

    def chance(self, p: float) -> bool:
        return next(self._draws) < p

    def shuffled(self, things: Sequence[T]) -> list[T]:
        return sorted(things, key=lambda _: next(self._draws))

    def write(self, blocks: Sequence[_Block]) -> str:
        """All blocks, what names no finding in its place, the others in any order."""
        self.joint, self.short = self.pick("/", "-"), self.chance(0.5)
        movable = [i for i, block in enumerate(blocks) if all(item.kind != "opaque" for item in block.items)]
        order = list(range(len(blocks)))
        if self.chance(0.5):
            for place, source in zip(movable, self.shuffled(movable), strict=True):
                order[place] = source
        # A block without a level must not come to stand under the heading of another.
        under_heading = any(not block.level and block.items for block in blocks)
        text = " ".join(self.block(blocks[i], heading=not under_heading) for i in order)
        return _START.sub(lambda start: start[0].upper(), self.levels(self.phrases(text)))

    def block(self, block: _Block, *, heading: bool) -> str:
        items = list(block.items)
        if len(items) > 1 and all(item.kind != "opaque" for item in items) and self.chance(0.7):
            items = self.shuffled(items)
        if not items:
            return f"{block.level}:"
        if not block.level:
            return " ".join(self.sentence(item) for item in items)
        if len(items) == 1:
            return self.single(block.level, items[0], heading=heading)
        listed = [self.listed(item) for item in items]
        form = self.pick("heading", "heading", "at", "sentences") if heading else "at"
        if form == "at":
            return f"At {self.place(block.level)}{self.there(items[0])}{self.joined(listed)}."
        start = self.pick("{}:", "Level {}:", "At {}:", "At the {} level:").format(block.level)
        if form == "heading":
            return f"{start} {self.joined(listed)}."
        return f"{start} " + " ".join(self.sentence(item) for item in items)

    def single(self, level: str, item: _Item, *, heading: bool) -> str:
        """A level with one thing stated of it."""
        place = self.place(level)
        forms = ["at"]
        if heading:
            forms.append("heading")
        if item.kind in ("stated", "negated"):
            forms += ["behind", "behind"]
        form = self.pick(*forms)
        if form == "heading":
            return f"{level}: {_capital(self.listed(item))}."
        if form == "behind":
            seen = self.pick("", f" {self.pick(*SEEN[:4])}", f" {_be(item.core)} noted")
            return f"{_capital(self.bare(item))}{seen} at {place}{item.tail}."
        return f"At {place}{self.there(item)}{self.listed(item)}."

    def sentence(self, item: _Item) -> str:
        """One thing as a sentence of its own."""
        if item.kind in ("fixed", "opaque"):
            return f"{_capital(item.core)}{item.tail}."
        if item.kind == "clause":
            form = self.pick("{}", "{}", "It is noted that {}", "The images show that {}")
        elif item.kind == "negated":
            form = self.pick("{}", "{} seen", "{} identified", f"There {_be(item.core)} {{}}")
        else:
            there = "{}" if item.core.lower().startswith("feature") else f"There {_be(item.core)} {{}}"
            form = self.pick("{}", "{} noted", "{} seen", there, "The images show {}", "{} can be identified")
        bare = self.bare(item) if item.kind != "clause" else item.core
        return _capital(form.format(bare if form.startswith("{}") else _lowered(bare))) + f"{item.tail}."

    def listed(self, item: _Item) -> str:
        """One thing inside a list."""
        return _lowered(self.bare(item)) + item.tail

    def bare(self, item: _Item) -> str:
        if item.kind == "negated":
            return f"{self.pick('no', 'no', 'no evidence of')} {_lowered(item.core)}"
        return item.core

    def there(self, item: _Item) -> str:
        """What leads from a level to the first thing stated of it."""
        return f" there {_be(item.core)} " if item.kind in ("stated", "negated") and self.chance(0.4) else ", "

    def joined(self, listed: Sequence[str]) -> str:
        if len(listed) > 1 and self.chance(0.5):
            return f"{', '.join(listed[:-1])}, and {listed[-1]}"
        return ", ".join(listed)

    def place(self, level: str) -> str:
        return self.pick(level, level, f"the {level} level{'s' if re.search(r',|&|and', level) else ''}")

    def phrases(self, text: str) -> str:
        """Exchange phrases for others of their row, each with even odds."""

        def other(match: re.Match[str]) -> str:
            phrase = match[0]
            choices = [each for each in _ROWS[phrase.lower()] if each != phrase.lower()]
            if not choices or self.chance(0.5):
                return phrase
            chosen = self.pick(*choices)
            return _capital(chosen) if phrase[0].isupper() and len(phrase) > 3 else chosen

        return _PHRASE.sub(other, text)

    def levels(self, text: str) -> str:
        """Write all discs in one notation: ``L4/5``, ``L4-5``, ``L4/L5`` or ``L4-L5``."""

        def written(match: re.Match[str]) -> str:
            found = levels_of(match[0])
            if len(found) != 1 or "-" not in found[0]:
                return match[0]
            upper, lower = found[0].split("-")
            if match[0][0] in "Dd":  # the report's letter for the thoracic spine stays
                upper, lower = upper.replace("T", "D"), lower.replace("T", "D")
            return upper + self.joint + (lower[1:] if self.short and lower[0] == upper[0] else lower)

        return LEVEL.sub(written, text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lowered(text: str) -> str:
    """Lower the first letter, but of names and abbreviations."""
    first = text.split(" ", 1)[0]
    if first in PROPER or not first[1:].islower() or not first.isalpha():
        return text
    return text[:1].lower() + text[1:]


def _be(core: str) -> str:
    """``is`` or ``are``, by the last word of the noun phrase that something begins with."""
    head = _BEHIND_HEAD.split(core, maxsplit=1)[0].split()
    return "are" if head and _PLURAL.fullmatch(head[-1]) else "is"


def _draws(rng: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1), many drawn at a time: a call of the generator for each would be most of the work."""
    while True:
        yield from rng.random(64).tolist()


ENTRY = AugmentationEntry(
    name="paraphrase",
    summary="Other sentence frames, order, level notation and phrases, by rules; every stated fact is kept",
    build=Paraphrase,
)
