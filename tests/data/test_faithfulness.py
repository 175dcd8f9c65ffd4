"""The check lets through what says the same in another order, and nothing that moves, adds, negates or loses a fact."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.facts import skeleton
from benchmark.data.faithfulness import FINDINGS, Change, changes, refused
from lumbarclip.augment.eda import EDA


def labels(report: str, rewording: str) -> set[str]:
    return {change.label for change in changes(report, rewording)}


@pytest.mark.parametrize(
    ("report", "rewording"),
    [
        ("left bulge at L4/5, right bulge at L5/S1", "At L5-S1 there is a right bulge, at L4-L5 a left bulge."),
        ("L4/5: Mild disc bulge. No stenosis.", "At L4-L5 there is no stenosis, but a mild disc bulge is noted."),
        ("L4/5: mild disc bulge, severe stenosis, grade D.", "Severe stenosis, grade D, and mild bulging at L4-5"),
        ("No thecal sac or nerve root compression", "There is no compression of the thecal sac or nerve roots."),
        ("L3-L4, L4-L5:\nMild disc bulges noted.", "Mild disc bulges at L3-L4 and L4-L5."),
        ("Moderate stenosis at L4/5.", "At L4/5 the canal is moderately narrowed."),
        ("No disc herniation.", "Absence of disc herniation."),
        ("Bulge of 5 mm at L4/5, facet arthropathy.", "L4-L5: facet arthrosis, and a disc bulge of 5mm."),
        ("Mild bulge at L4/5. Muscle spasm. Cyst at L1.", "Muscle spasm.\nCyst at L1. L4-L5: Mild bulge."),
        ("Midline protrusion", "central protrusion"),
        ("", ""),
    ],
)
def test_the_same_in_other_words_and_order_is_faithful(report: str, rewording: str) -> None:
    assert changes(report, rewording) == ()
    assert changes(rewording, report) == ()


@pytest.mark.parametrize(
    ("report", "rewording", "expected"),
    [
        # what moves from one finding or level to another, all words staying the same
        ("left bulge at L4/5, right bulge at L5/S1", "right bulge at L4/5, left bulge at L5/S1", "contradicts side"),
        ("left bulge and right protrusion", "right bulge and left protrusion", "contradicts side"),
        ("mild bulge, severe stenosis", "severe bulge, mild stenosis", "contradicts grade"),
        ("mild bulge at L4/5 and severe at L5/S1", "severe bulge at L4/5 and mild at L5/S1", "contradicts grade"),
        ("bulge of 3 mm, cyst of 7 mm", "bulge of 7 mm, cyst of 3 mm", "contradicts number"),
        ("bulge at L4/5. protrusion at L5/S1", "protrusion at L4/5. bulge at L5/S1", "contradicts level"),
        ("L4/5: bulge. L5/S1: no bulge.", "L4/5: no bulge. L5/S1: bulge.", "contradicts negation"),
        ("bulge, no stenosis", "stenosis, no bulge", "contradicts negation"),
        # what is exchanged
        ("bulge at L4/5", "bulge at L3/4", "contradicts level"),
        ("left bulge", "right bulge", "contradicts side"),
        ("stenosis, grade B", "stenosis, grade C", "contradicts grade"),
        ("bulge of 5 mm", "bulge of 6 mm", "contradicts number"),
        ("no bulge", "bulge", "contradicts negation"),
        ("no pneumohaematosomething", "pneumohaematosomething is seen", "contradicts negation"),
        ("haematosomething is seen", "no haematosomething", "contradicts negation"),
        # what is added
        ("bulge", "bulge at L4/5", "adds level"),
        ("bulge", "left bulge", "adds side"),
        ("stenosis", "severe stenosis", "adds grade"),
        ("bulge", "bulge of 4 mm", "adds number"),
        ("bulge at L4/5", "bulge and spondylolisthesis at L4/5", "adds finding"),
        ("bulge at L4/5", "bulge, no stenosis, at L4/5", "adds finding"),
        # what is left out
        ("left bulge at L4/5", "left bulge", "omits level"),
        ("left bulge at L4/5", "bulge at L4/5", "omits side"),
        ("bulge at L4/5. left protrusion at L5/S1", "bulge at L4/5", "omits finding"),
        ("bulge, no stenosis", "bulge", "omits finding"),
    ],
)
def test_what_is_moved_exchanged_added_or_left_out_is_named(report: str, rewording: str, expected: str) -> None:
    assert expected in labels(report, rewording)


def test_what_only_leaves_out_is_never_called_a_contradiction_or_an_addition() -> None:
    report = "LSS MRI. Muscle spasm.\nMild left bulge of 4 mm at L4/5.\nNo stenosis at L5/S1, grade A."
    for rewording in ("Mild bulge at L4/5.", "Muscle spasm", "Left bulge.", "No stenosis.", "An image of a spine."):
        found = changes(report, rewording)
        assert {change.how for change in found} == {"omits"}
        assert refused(found, may_omit=False) == found
        assert refused(found, may_omit=True) == ()


def test_a_change_says_what_it_is_about_and_its_label_does_not() -> None:
    (change,) = changes("bulge at L4/5", "bulge at L3/4")
    assert change == Change("contradicts", "level", "L3-L4")
    assert str(change) == "contradicts level (L3-L4)"
    assert change.label == "contradicts level"


LEVELS = ("L2/3", "L3-L4", "L4/5", "L5-S1")
SIDES = ("left ", "right ", "")
GRADES = ("mild ", "severe ", "")
NOUNS = ("bulge", "protrusion", "stenosis", "cyst")
CLAUSE = st.tuples(st.sampled_from(SIDES), st.sampled_from(GRADES), st.booleans(), st.sampled_from(("", " of 4 mm")))
STATED = st.lists(
    st.tuples(st.sampled_from(LEVELS), st.sampled_from(NOUNS), CLAUSE),
    min_size=1,
    max_size=4,
    unique_by=lambda s: s[:2],
)


def written(statements: list[tuple[str, str, tuple[str, str, bool, str]]]) -> str:
    """One sentence a statement."""
    return " ".join(
        f"{level}: {'no ' if negated else ''}{side}{grade}{noun}{size}."
        for level, noun, (side, grade, negated, size) in statements
    )


@given(STATED, st.randoms(use_true_random=False))
def test_sentences_in_any_order_state_the_same(statements: list, random: object) -> None:
    shuffled = list(statements)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert changes(written(statements), written(shuffled)) == ()


@given(STATED, STATED)
def test_two_sets_of_statements_are_told_apart_exactly_where_they_differ(one: list, other: list) -> None:
    """Neither soundness nor mercy fails on this grammar: equal sets pass, unequal ones do not."""
    assert (changes(written(one), written(other)) == ()) == (set(one) == set(other))


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_faithful_to_itself_and_comparing_any_two_never_fails(one: str, other: str) -> None:
    assert changes(one, one) == ()
    assert len({(c.how, c.kind, c.what) for c in changes(one, other)}) == len(changes(one, other))


@pytest.mark.realdata
def test_eda_passes_on_real_notes_and_exchanged_facts_do_not(real_data: Path) -> None:
    """A check that let everything pass would be of no use: sides and levels exchanged in real notes are found."""
    manifest = real_data / "sudirman_lumbar_notes" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("this set of notes is absent")
    with manifest.open(encoding="utf-8", newline="") as file:
        notes = [row["report"] for row in csv.DictReader(file) if row["report"]]
    exchanged = 0
    for seed, note in enumerate(notes):
        for text in EDA().reword(note, 2, np.random.default_rng(seed)):
            assert skeleton(text) == skeleton(note)
            assert changes(note, text) == ()
        if note.count("Lt") and not note.count("Rt"):
            exchanged += 1
            assert {"contradicts side", "adds side"} & labels(note, note.replace("Lt", "Rt"))
    assert exchanged > 10


def test_every_finding_has_words_of_its_own() -> None:
    """The first name that matches wins, so a word of two findings would hide one of them."""
    for name in FINDINGS:
        assert name.isidentifier()
    assert labels("osteoarthrosis", "spondylosis") == {"adds finding", "omits finding"}
