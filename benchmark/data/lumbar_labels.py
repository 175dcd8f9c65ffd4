"""Labels of the Mendeley lumbar data by a named rule: what a clinician's note affirms, denies, or leaves open.

The published data have no labels. The paper's two (``LBP``, ``No Finding``) are a reading of the notes, so the reading
is a rule with a name and explicit words. A word counts when it begins like one of the vocabulary and is close to it,
because a third of the notes are misspelt (``protrotion``, ``comprssing``, ``spodylolithesis``). A finding counts as
denied under a negation and as open under a hedge, both after the manner of NegEx (Chapman et al. 2001,
doi:10.1006/jbin.2001.1029).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

Label = Literal["LBP", "No Finding"]

FINDINGS = {
    "bulge": "bulg bulge bulges bulged bulging buldge buldging",
    "protrusion": "protrusion protrusions protruding protruded",
    "extrusion": "extrusion extrusions extruded",
    "herniation": "herniation herniations herniated hernia",
    "sequestration": "sequestration sequestrated sequestered",
    "prolapse": "prolapse prolapsed prolapses",
    "stenosis": "stenosis stenotic stenosed",
    "narrowing": "narrow narrowing narrowed",
    "compression": "compression compressing compressed compresses compress abutting abuts effacing effacement "
    "encroaching encroachment encroached encroaches impinging impingement indenting indentation obliterating",
    "listhesis": "spondylolisthesis listhesis anterolisthesis retrolisthesis spondylolysis",
    "degeneration": "degeneration degenerative degenerated spondylosis spondylotic osteophyte osteophytes modic modec "
    "desiccation desiccated desiccating desiccative dissicating dissicated dissecating dissecated dehydrated "
    "dehydration schmorl schmorls hypertrophy hypertrophied hypertrophic",
    "tear": "tear tears torn fissure",
    "fracture": "fracture fractures fractured wedging collapse collapsed",
    "deformity": "scoliosis kyphosis",
    "inflammation": "discitis spondylodiscitis arachnoiditis sacroiliitis granulation edema oedema",
    "tumour": "tumour tumor mass metastasis metastases",
}
"""Finding -> words for it, in lower case."""

SPASM = {"spasm": "spasm spasms spam musclespasm straightening straightened"}
"""A finding for ``notes-spasm-v1`` alone: two in five notes without any other finding begin with it."""

INCIDENTAL = {
    "incidental": "abnormal abnormality abnormalities hemangioma haemangioma hemangiomas tarlov tarlove cyst cysts "
    "lipoma fibroid kidney renal marrow lesion lesions island operation operations surgery postoperative screws "
    "laminectomy fenestration fixation"
}
"""What is neither one of the findings nor a normal study: alone, it leaves the label unknown."""

RULES: dict[str, dict[str, str]] = {"notes-v1": FINDINGS, "notes-spasm-v1": {**FINDINGS, **SPASM}}
"""Name of a rule, which never changes its meaning -> the findings that make a note ``LBP``."""

TOLERANCE = ((10, 2), (6, 1))
"""Letters a word of the vocabulary must have -> edits it may be misspelt by; shorter ones are taken as they stand."""

_NEGATION = re.compile(r"\b(?:no|not|without|nor|never|negative for|free of|absence of|absent|denies|rules out)\b")
_NEGATION_BEHIND = re.compile(
    r"\s*:?[^,:]*?\b(?:absent|excluded|ruled out|nil|none|negative|"
    r"not (?:seen|noted|present|identified|evident|detected|demonstrated|found|appreciated|visuali[sz]ed))\b"
)
_HEDGE = re.compile(
    r"\?|\b(?:possible|possibly|probable|probably|suspected|suspicious|suspicion|suggestive|likely|query|"
    r"(?:to )?rule out|r/o|cannot exclude|history of|versus)\b"
)
_HEDGE_BEHIND = re.compile(r"\s*\?|[^,:]*?\b(?:cannot be (?:excluded|ruled out)|is (?:suspected|possible|likely))\b")
_TURN = re.compile(r"\b(?:but|however|although|though|except|yet|whereas|while|apart from|aside from|other than)\b")
_COMMA = re.compile(r",(?![^,]*\b(?:or|nor)\b)")
"""A comma that ends a negation: none of a list, as in ``no bulge, protrusion or stenosis``."""

_PRESERVED = re.compile(r"\b(?:preserved|normal|intact|maintained|unremarkable)\b")
_NORMAL_STUDY = re.compile(
    r"\b(?:normal|unremarkable)\b.*\b(?:study|mri|exam|examination|scan|lss|spine|appearances?|findings)\b|"
    r"\b(?:study|mri|exam|examination|scan|lss|spine)\b.*\b(?:normal|unremarkable)\b|\W*(?:normal|unremarkable)\W*"
)
_CERVICAL = re.compile(r"\bc\s?[1-7]\b|\bcspine\b|\bcervical\b")
_LUMBAR = re.compile(r"\bl\s?[1-5]|\bs\s?1\b|\blss\b|\blumb")
_GOES_ON = re.compile(r"(\b(?:no|not|of|or|nor|and|any|with|without|the|evidence|significant|definite)|,)[ \t]*\n\s*")


@dataclass(frozen=True)
class Reading:
    """What a rule makes of one note."""

    label: Label | None
    """None where the note leaves it open."""
    why: str
    """The findings behind ``LBP``, or why there is no label."""


def read_note(note: str, rule: str = "notes-v1") -> Reading:
    """Label one note.

    ``LBP`` where a finding of the rule is affirmed; ``No Finding`` where none is, and a finding is denied or the study
    is called normal; nothing where findings are only hedged, where something stands there that is neither, or where
    nothing is said of the lumbar spine. Statements about the cervical spine alone do not count.

    Args:
        note: a clinician's free text.
        rule: a key of ``RULES``.
    """
    if not note.strip():
        return Reading(None, "no note")
    affirmed: set[str] = set()
    hedged = incidental = denied = False
    for statement in _lumbar_statements(note):
        for name, start, end in _mentions(statement, rule):
            stands = _stands(statement, start, end)
            denied |= stands == "denied"
            hedged |= stands == "hedged" and name != "incidental"
            if stands == "affirmed" and name == "incidental":
                incidental |= not _PRESERVED.search(statement)
            elif stands == "affirmed":
                affirmed.add(name)
        denied |= bool(_NORMAL_STUDY.search(statement)) and not _NEGATION.search(statement)
    if affirmed:
        return Reading("LBP", ", ".join(sorted(affirmed)))
    if hedged:
        return Reading(None, "findings are only suspected")
    if incidental:
        return Reading(None, "only what is no named finding")
    return Reading("No Finding", "") if denied else Reading(None, "neither a finding nor a denial")


def _lumbar_statements(note: str) -> list[str]:
    """Statements in lower case, those about the cervical spine alone left out.

    A line is a statement, unless it breaks off inside a phrase; a heading like ``C4-C5`` holds until the next one.
    """
    text = note.lower().replace("’", "'")
    text = re.sub(r"\bc\s*\.?\s*-?\s*spine\b", "cspine", text)
    text = _GOES_ON.sub(r"\1 ", text)
    statements, cervical = [], False
    for statement in re.split(r"[;!\n]|//|\.(?!\d)", text):
        if _LUMBAR.search(statement):
            cervical = False
        elif _CERVICAL.search(statement):
            cervical = True
        if statement.strip() and not cervical:
            statements.append(statement)
    return statements


def _mentions(statement: str, rule: str) -> list[tuple[str, int, int]]:
    """Every word of a statement that names a finding, with its place."""
    found = []
    for match in re.finditer(r"[a-z]+(?='s\b)|[a-z]+", statement):
        name = _finding(match[0], rule)
        if name is not None:
            found.append((name, match.start(), match.end()))
    return found


def _stands(statement: str, start: int, end: int) -> Literal["affirmed", "denied", "hedged"]:
    before, after = statement[:start], statement[end:]
    if _HEDGE_BEHIND.match(after):
        return "hedged"
    if _reaches(_NEGATION, before, statement) or _NEGATION_BEHIND.match(after):
        return "denied"
    return "hedged" if _reaches(_HEDGE, before, before) else "affirmed"


def _reaches(cue: re.Pattern[str], before: str, statement: str) -> bool:
    """Whether the last cue before a word holds up to it: no turn between them, and no comma that ends it.

    The commas are judged by ``statement``: all of it for a list of the denied, the part before for a hedge.
    """
    cues = list(cue.finditer(before))
    if not cues:
        return False
    place = cues[-1].end()
    if _TURN.search(before, place):
        return False
    return not any(comma.start() < len(before) for comma in _COMMA.finditer(statement, place))


@lru_cache(maxsize=4096)
def _finding(word: str, rule: str) -> str | None:
    """The finding that a word names; the closest word of the vocabulary decides."""
    near = []
    for name, words in {**RULES[rule], **INCIDENTAL}.items():
        for known in words.split():
            edits = next((edits for length, edits in TOLERANCE if len(known) >= length), 0)
            if word == known:
                return name
            if edits and word[0] == known[0] and abs(len(word) - len(known)) <= edits:
                near.append((_edits(word, known), edits, name))
    close = [(distance, name) for distance, edits, name in near if distance <= edits]
    return min(close)[1] if close else None


def _edits(one: str, other: str) -> int:
    """Letters inserted, left out, replaced or swapped with their neighbour (optimal string alignment)."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i, j in product(range(1, len(one) + 1), range(1, len(other) + 1)):
        same = one[i - 1] == other[j - 1]
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same))
        if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
            table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(one), len(other)]
