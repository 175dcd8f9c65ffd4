"""EDA rewords reports without touching a fact, and ``facts`` reads what reports in the wild say."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.facts import FILLERS, NEGATIONS, SIDES, SYNONYMS, TURNS, Facts, facts, skeleton
from benchmark.model import Augmentation
from lumbarclip.augment.eda import EDA, ENTRY

# What must never be touched, written down again without the module under test: everything here, in this order, must
# be found in a rewording as it was in the report.
PROTECTED = re.compile(
    r"[CTDLS]\d+(?:[-/][CTDLS]?\d+)*|\d+(?:\.\d+)?\s*(?:mm|cm)?"
    r"|\b(?:no|not|without|absent|negative|nor|but|or|and|with)\b"
    r"|\b(?:left|right|lt|rt|bilateral|both|central|paracentral)\b"
    r"|\b(?:mild|moderate|severe)(?:ly)?\b|\bgrade\s+(?:[A-D]|I+)\b|[.,;:\n]"
    r"|\b(?:disc|herniation|protrusion|bulge|stenosis|thecal|sac|nerve|roots?|compress\w+|canals?|foramen|spasm|cyst)\b",
    re.IGNORECASE,
)


def protected(text: str) -> list[str]:
    return [re.sub(r"\s+", "", found).lower() if found != "\n" else found for found in PROTECTED.findall(text)]


def reword(report: str, count: int = 8, seed: int = 0, eda: EDA | None = None) -> list[str]:
    return (eda or EDA()).reword(report, count, np.random.default_rng(seed))


LEVELS = st.sampled_from(["L4/5", "L4-L5", "L5/S1", "L4/L5 &L5/S1", "D12/L1", "L3-L4 and L4-L5", "T12"])
SIDE = st.sampled_from(["left", "right", "Lt", "Rt", "bilateral", "central", "Central and Lt paracentral"])
GRADES = st.sampled_from(["mild", "moderate", "Severe", "mildly", "grade A", "grade B", "Grade II"])
NEGATORS = st.sampled_from(["no", "No", "not", "without", "absent", "negative", "isn't"])
TERMS = st.sampled_from(["disc herniation", "thecal sac", "nerve root compression", "canal stenosis", "6.5mm", "12 cm"])
HARMLESS = st.sampled_from(sorted(FILLERS) + [word for group in SYNONYMS for word in group] + ["The", "NOTED", "Is"])
MARKS = st.sampled_from([",", " .", ".\n", ";", ":", " ,", "\n-", "(", ")", " -", "but", "or", "\n"])
REPORTS = st.lists(st.one_of(HARMLESS, HARMLESS, LEVELS, SIDE, GRADES, NEGATORS, TERMS, MARKS), max_size=30).map(
    " ".join
)


@given(REPORTS, st.integers(0, 2**32 - 1))
def test_facts_are_equal_before_and_after_for_any_report_of_a_grammar(report: str, seed: int) -> None:
    """Whatever the order of facts and harmless words, a rewording states the same facts, in the same order."""
    for reworded in reword(report, 3, seed):
        assert facts(reworded) == facts(report)
        assert protected(reworded) == protected(report)


@given(st.text(max_size=80), st.integers(0, 100))
def test_any_text_keeps_its_skeleton(text: str, seed: int) -> None:
    """Unicode, marks and blanks of any kind never break the rewording, and no fact moves."""
    for reworded in reword(text, 2, seed):
        assert skeleton(reworded) == skeleton(text)
        assert facts(reworded) == facts(text)


@pytest.mark.realdata
def test_real_notes_keep_their_facts_and_are_reworded(real_data: Path) -> None:
    """On real clinicians' notes every rewording states the same, and nearly every note has rewordings that differ."""
    manifest = real_data / "sudirman_lumbar_notes" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("this set of notes is absent")
    with manifest.open(encoding="utf-8", newline="") as file:
        notes = [row["report"] for row in csv.DictReader(file) if row["report"]]
    assert len(notes) > 200
    changed = 0
    for seed, note in enumerate(notes):
        rewordings = reword(note, 4, seed)
        assert all(facts(each) == facts(note) and protected(each) == protected(note) for each in rewordings)
        changed += len(set(rewordings) - {note}) >= 2
    assert changed > 0.95 * len(notes)


def test_the_same_generator_state_gives_the_same_rewordings() -> None:
    """Rewordings depend on the report, the count and the generator alone; another seed gives others."""
    report = "The disc bulge is noted at the L4/L5 level, compressing the thecal sac. There is no evidence of stenosis."
    assert reword(report, 20, seed=3) == reword(report, 20, seed=3)
    assert reword(report, 20, seed=3) != reword(report, 20, seed=4)


@pytest.mark.parametrize("report", ["", " ", "\n", "Normal", "noted", "Noted.", "the\nnoted\n", "L4-L5"])
def test_reports_without_two_words_in_a_sentence_come_back_unchanged(report: str) -> None:
    """Nothing is invented for an empty report, and a single word is never replaced or deleted."""
    assert reword(report, 3) == [report] * 3


def test_zero_rewordings_are_none() -> None:
    """A count of zero gives an empty list."""
    assert reword("The bulge is noted at L4-L5.", 0) == []


def test_synonym_replacement_replaces_alpha_of_the_words_within_their_group() -> None:
    """With the other operations off, exactly floor(alpha l) words differ, each by a synonym in the same case."""
    report = "Features noted and evidence Multiple CAUSING further appears mainly advised"
    eda = EDA(synonym=0.3, swap=0, deletion=0)
    for reworded in reword(report, 50, eda=eda):
        pairs = [(old, new) for old, new in zip(report.split(), reworded.split(), strict=True) if old != new]
        assert len(pairs) == 3
        for old, new in pairs:
            assert any({old.lower(), new.lower()} <= set(group) for group in SYNONYMS)
            assert (old.isupper(), old[0].isupper()) == (new.isupper(), new[0].isupper())


def test_swaps_exchange_fillers_of_one_clause_only() -> None:
    """Words before and after a comma never change places, and each clause keeps its words."""
    report = "bulge noted at L4/5 level, the canal is of interest"
    seen = set(reword(report, 100, eda=EDA(synonym=0, swap=0.1, deletion=0)))
    assert seen == {
        "bulge at noted L4/5 level, the canal is of interest",
        "bulge noted at L4/5 level, is canal the of interest",
        "bulge noted at L4/5 level, the canal of is interest",
    }


def test_deletion_drops_fillers_and_one_of_the_blanks_around_them() -> None:
    """One of the two fillers goes, never another word."""
    seen = set(reword("No evidence of stenosis", 50, eda=EDA(synonym=0, swap=0, deletion=0.1)))
    assert seen == {"No of stenosis", "No evidence stenosis"}


def test_deletion_never_glues_figures_together() -> None:
    """``5.the 5`` must not become the number 5.5."""
    for reworded in reword("cyst 5.the 5 mm of the 5", 20, eda=EDA(synonym=0, swap=0, deletion=1)):
        assert facts(reworded).numbers == ("5", "5mm", "5")


def test_nothing_switched_on_changes_nothing() -> None:
    """Strength 0 switches an operation off."""
    report = "The bulge is noted at L4-L5."
    assert reword(report, 5, eda=EDA(synonym=0, swap=0, deletion=0)) == [report] * 5


def test_the_tables_keep_what_they_promise() -> None:
    """Groups are disjoint and whole (all fillers or none), and no table holds a negation, side, turn or letter."""
    words = [word for group in SYNONYMS for word in group]
    assert len(words) == len(set(words))
    assert all(len(FILLERS.intersection(group)) in {0, len(group)} for group in SYNONYMS)
    for word in {*words, *FILLERS}:
        assert word.islower()
        assert len(word) > 1
        assert word not in NEGATIONS | TURNS | set(SIDES)
        assert not PROTECTED.search(word)


def test_the_entry_builds_an_augmentation() -> None:
    """The entry point's object gives something that satisfies the protocol under its own name."""
    built = ENTRY.make()
    assert isinstance(built, Augmentation)
    assert built.name == ENTRY.name == "eda"


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("L4/5", ("L4-L5",)),
        ("L4-l5: bulge", ("L4-L5",)),
        ("L4 - L5", ("L4-L5",)),
        ("L4/L5 &L5/S1", ("L4-L5", "L5-S1")),
        ("L2/L3,L3/L4&L5/S1levels", ("L2-L3", "L3-L4", "L5-S1")),
        ("L4/5/S1", ("L4-L5", "L5-S1")),
        ("D11/D12 and D12-L1", ("T11-T12", "T12-L1")),
        ("L5 over S1", ("L5", "S1")),
        ("the S1 nerve root. C5/C6", ("S1", "C5-C6")),
        ("T2-weighted and T1 images, T1/T2 contrast", ()),
        ("L4 - 5 mm protrusion", ("L4",)),
        ("L9, XL4, L45", ()),
    ],
)
def test_levels_are_read_however_they_are_written(text: str, levels: tuple[str, ...]) -> None:
    """Spellings of one level compare equal; MR contrasts and impossible levels are none."""
    assert facts(text).levels == levels


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("No evidence of disc herniation. Adequate spinal canal.", ("disc", "herniation")),
        ("no disc herniation\nmild bulge", ("disc", "herniation")),
        ("No thecal sac or nerve root compression noted", ("thecal", "sac", "nerve", "root", "compression")),
        ("no bulge, protrusion or stenosis, canal adequate", ("bulge", "protrusion", "stenosis")),
        ("No herniation, adequate canal", ("herniation",)),
        ("no stenosis but mild bulge", ("stenosis",)),
        ("bulge at L4-L5 without stenosis", ("stenosis",)),
        ("Herniation is not seen at L4-L5", ("herniation",)),
        ("At L4: reflexes are absent.", ("reflexes",)),
        ("Negative for fracture.", ("fracture",)),
        ("the scan isn't normal", ("normal",)),
        ("mild bulge at L4-L5, compressing the thecal sac", ()),
        ("non-specific changes; nodules noted", ()),
    ],
)
def test_negation_reaches_what_it_negates(text: str, negated: tuple[str, ...]) -> None:
    """Scope ends with the sentence, a turn or a comma outside a list; post-posed negations reach back."""
    assert facts(text).negated == negated


def test_sides_grades_and_numbers_of_one_report() -> None:
    """Each kind is read in order and normalised; a figure belongs to one kind only."""
    report = (
        "Grade II listhesis of L4-5, Lt sided moderately severe stenosis grade B (6.5mm, 12 %), both roots; central."
    )
    assert facts(report) == Facts(
        levels=("L4-L5",),
        sides=("left", "bilateral", "central"),
        grades=("2", "B", "moderate", "severe"),
        numbers=("6.5mm", "12%"),
        negated=(),
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("No disc herniation", "Disc herniation"),
        ("left bulge", "right bulge"),
        ("L4-L5 bulge", "L3-L4 bulge"),
        ("mild stenosis", "severe stenosis"),
        ("grade B stenosis", "grade C stenosis"),
        ("5 mm", "6 mm"),
        ("no bulge, stenosis noted", "bulge, no stenosis noted"),
    ],
)
def test_changed_facts_are_told_apart(one: str, other: str) -> None:
    """A rewording that changed what the report states would be noticed."""
    assert facts(one) != facts(other)
