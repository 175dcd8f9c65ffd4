"""Near texts are found exactly as comparing all pairs would find them; one word changed in a long report is near."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.wordings import BLOCK, NEAR, near, runs, words

TEXTS = st.lists(
    st.lists(st.sampled_from(["disc", "canal", "mild", "no", "severe", "L4"]), max_size=14).map(" ".join), max_size=12
)
REPORT = (
    "Axial T1 and T2 images. At L4/5 there is severe disc degeneration with loss of height, a diffuse disc bulge of "
    "3 mm and a focal right protrusion of 7 mm indenting the thecal sac. Thickened ligamentum flavum. Severe canal "
    "stenosis."
)


@given(TEXTS, TEXTS, st.sampled_from([Fraction(1, 3), Fraction(1, 2), Fraction(4, 5), Fraction(1)]))
def test_as_by_comparing_all_pairs(asked, known, threshold):
    expected = {
        text
        for text in asked
        if any(Fraction(len(runs(text) & runs(one)), len(runs(text) | runs(one))) >= threshold for one in known)
    }
    assert near(asked, known, float(threshold)) == expected


def test_one_changed_word_in_a_long_report_is_near_and_another_report_is_not():
    assert near([REPORT.replace("7 mm", "8 mm")], [REPORT]) == {REPORT.replace("7 mm", "8 mm")}
    assert near([REPORT.replace("Severe", "Mild").replace("right", "left").replace("3", "5")], [REPORT]) == set()


@pytest.mark.parametrize(("one", "other"), [("L3-4: unremarkable.", "L4-5: unremarkable."), ("Normal.", "Mild.")])
def test_short_template_phrases_are_not_near(one, other):
    assert near([one], [other]) == set()


def test_case_blanks_and_punctuation_are_no_words():
    assert words("  L4/5:\nNo BULGE.") == ["l4", "5", "no", "bulge"]
    assert 0 < NEAR < 1


def test_near_texts_are_found_in_every_block():
    asked = [" ".join(f"w{i}x{j}" for j in range(12)) for i in range(2 * BLOCK + 1)]
    known = [f"{asked[i]} more" for i in (0, BLOCK - 1, BLOCK, 2 * BLOCK)]
    assert near(asked, known) == {one.removesuffix(" more") for one in known}
