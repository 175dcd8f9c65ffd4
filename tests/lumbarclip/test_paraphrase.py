"""Paraphrase gives four distinct texts of a report, and the check refuses none of them."""

import csv
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.facts import WORD, facts
from benchmark.data.faithfulness import changes
from benchmark.data.phantom_reports import LEVEL_WORDS, SIDES, Level, write_report
from benchmark.model import Augmentation
from lumbarclip.augment.paraphrase import ENTRY, PHRASES, Paraphrase


def reword(report: str, count: int = 4, seed: int = 0) -> list[str]:
    return Paraphrase().reword(report, count, np.random.default_rng(seed))


def words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))


def phantom_report(seed: int) -> str:
    """A report of the phantom's grammar, over all that can be seen at a level."""
    rng = np.random.default_rng(seed)
    level = Level(
        name=str(rng.choice(list(LEVEL_WORDS))),
        bulge_mm=float(rng.uniform(0, 6)),
        herniation_mm=float(rng.uniform(3, 9)),
        side=str(rng.choice(["", *SIDES])),
        degeneration=float(rng.uniform()),
        ligament_mm=float(rng.uniform(2, 6)),
        facet_mm=float(rng.uniform(4, 9)),
        grade=str(rng.choice(list("ABCD"))),
    )
    return write_report(level, rng)


@given(st.integers(0, 2**31))
def test_phantom_reports_have_four_distinct_rewordings_with_the_same_facts(seed: int) -> None:
    report = phantom_report(seed)
    texts = reword(report, 4, seed)
    assert len({words(text) for text in texts} | {words(report)}) == 5
    stated = facts(report)
    for text in texts:
        assert changes(report, text) == ()
        found = facts(text)
        for kind in ("levels", "sides", "grades", "numbers"):
            assert sorted(getattr(found, kind)) == sorted(getattr(stated, kind))


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["L4/5", ":", ".", ",", "no", "bulge", "is", "\n", "at"])).map(" ".join)
)
def test_any_text_gives_faithful_texts_or_itself(report: str) -> None:
    texts = reword(report, 3)
    assert len(texts) == 3
    assert all(text == report or changes(report, text) == () for text in texts)


@pytest.mark.realdata
def test_nearly_all_real_notes_have_four_distinct_rewordings(real_data: Path) -> None:
    manifest = real_data / "sudirman_lumbar_notes" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("this set of notes is absent")
    with manifest.open(encoding="utf-8", newline="") as file:
        notes = [row["report"] for row in csv.DictReader(file) if row["report"]]
    distinct = [len({words(text) for text in reword(note, 4, i)} - {words(note)}) for i, note in enumerate(notes)]
    assert sum(n == 4 for n in distinct) > 0.9 * len(notes)


@pytest.mark.parametrize(
    ("report", "possible"),
    [
        ("There is a mild bulge at L4/5.", "At L4-L5, a mild bulge."),
        ("L4/5: no stenosis, mild bulge.", "L4/5: mild bulge, no stenosis."),
        ("Lt bulge at L5/S1.", "Left bulge noted at the L5-S1 level."),
        ("No evidence of stenosis.", "There is no stenosis."),
        ("The canal is patent.", "The images show that the canal is patent."),
        ("L4-L5: severe canal stenosis", "At L4/L5 there is severe stenosis of the canal."),
        ("Bulge at D12-L1", "D12/L1: Bulge."),
    ],
)
def test_frames_order_notation_and_phrases_are_exchanged(report: str, possible: str) -> None:
    seen = {text for seed in range(250) for text in reword(report, 4, seed)}
    assert possible in seen


def test_a_title_keeps_its_place_and_a_dependent_clause_its_noun() -> None:
    report = "LSS MRI :\nFeature of muscle spasm.\nDisc bulge noted at L4/L5 level, compressing the thecal sac."
    for seed in range(20):
        for text in reword(report, 4, seed):
            assert text.startswith(("LSS", "Lumbosacral spine"))
            assert "compressing the thecal sac" in text
            assert not text.split(". ")[1].startswith("Compressing")


@pytest.mark.parametrize("report", ["", " \n", "?", "\n-\n"])
def test_what_cannot_be_reworded_comes_back(report: str) -> None:
    assert reword(report, 3) == [report] * 3


def test_fewer_than_asked_for_are_filled_up_with_the_last() -> None:
    texts = reword("Bulge.", 30)
    assert len(texts) == 30
    assert 2 < len(set(texts)) < 30
    assert texts[-1] == texts[-2]
    assert reword("Bulge.", 0) == []


def test_the_same_generator_state_gives_the_same_texts() -> None:
    report = phantom_report(3)
    assert reword(report, 4, 1) == reword(report, 4, 1)
    assert reword(report, 4, 1) != reword(report, 4, 2)


def test_no_phrase_states_more_or_less_than_the_others_of_its_row() -> None:
    for first, *others in PHRASES:
        frames = ("{}", "mild {}", "no {} at L4/5") if changes("no bulge", f"no bulge, {first}") else ("{}",)
        for other in others:
            for frame in frames:
                assert changes(frame.format(first), frame.format(other)) == ()


def test_the_entry_builds_an_augmentation() -> None:
    built = ENTRY.make()
    assert isinstance(built, Augmentation)
    assert built.name == ENTRY.name == "paraphrase"


def test_ten_thousand_reports_would_take_seconds_and_not_minutes() -> None:
    """Ten thousand are to take less than 20 s on one core of its own; the bound here leaves room for a busy machine."""
    reports = [phantom_report(seed) for seed in range(200)]
    start = time.process_time()
    for seed, report in enumerate(reports):
        reword(report, 4, seed)
    assert time.process_time() - start < 200 * 0.008
