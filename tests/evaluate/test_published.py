"""Rows made from a confusion matrix are found possible, and the paper's table gives what an audit by hand found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from benchmark.errors import BadInput
from benchmark.evaluate.published import AVERAGINGS, Row, averagings, check, printed, scan
from benchmark.registry import Registry

POSITIVES, NEGATIVES = 462, 66
"""Test split of the paper, low back pain being the positive class."""

TABLE = {
    "ConVIRT": ("81.52", "85.10", "94.47", "89.54"),
    "GLoRIA": ("82.25", "84.54", "96.44", "90.09"),
    "MedCLIP-ViT": ("82.94", "84.16", "98.08", "90.59"),
    "MedCLIP-RN50": ("84.24", "86.94", "95.52", "91.03"),
    "LumbarCLIP-RN50": ("95.00", "94.50", "98.08", "94.75"),
    "LumbarCLIP-ViT": ("94.00", "94.00", "94.00", "94.00"),
    "LumbarCLIP-Swin": ("89.00", "89.00", "90.00", "89.00"),
}
"""Table 2 of arXiv:2509.20813: accuracy, precision, recall, F1."""


def row(accuracy, precision, recall, f1, decimals=None):
    return Row(
        accuracy=printed(accuracy, "accuracy", decimals),
        f1=printed(f1, "F1", decimals),
        precision=precision and printed(precision, "precision", decimals),
        recall=recall and printed(recall, "recall", decimals),
    )


def matrices(verdict):
    return [verdict.fits[name].matrices for name in AVERAGINGS]


# --------------------------------------------------------------------------------------------- the paper's table


@pytest.mark.parametrize(
    ("name", "misses", "prevalence"),
    [
        ("ConVIRT", (1.6, 12.6, 8.1, 6.6), (0.8367, 0.8379)),
        ("GLoRIA", (2.3, 11.9, 7.7, 7.1), (0.8368, 0.8381)),
        ("MedCLIP-ViT", (2.8, 11.6, 7.5, 7.6), (0.8364, 0.8378)),
        ("MedCLIP-RN50", (0.3, 10.7, 7.2, 5.7), (0.8363, 0.8378)),
    ],
)
def test_baseline_rows_are_of_another_test_set(name, misses, prevalence):
    """Binary by their F1, all of prevalence .837; on 462/66 no matrix has them, and how far the nearest is off."""
    verdict = check(row(*TABLE[name]), POSITIVES, NEGATIVES)
    assert not verdict.possible
    assert matrices(verdict) == [0, 0, 0, 0]
    assert [verdict.fits[a].nearest_miss for a in AVERAGINGS] == pytest.approx(misses, abs=0.06)
    assert verdict.harmonic_agrees
    assert verdict.prevalence == pytest.approx(prevalence, abs=6e-5)
    assert verdict.prevalence[0] < 0.837 < verdict.prevalence[1]
    assert verdict.majority.accuracy == 87.5 > float(TABLE[name][0])
    assert verdict.majority.f1_binary > 93.3 > float(TABLE[name][3])


@pytest.mark.parametrize("total", [504, 528, 2352])
def test_baseline_rows_are_of_no_split_of_the_paper_whatever_its_classes(total):
    assert not any(scan(row(*TABLE[name]), total).possible for name in list(TABLE)[:4])


def test_the_smallest_set_that_has_all_four_baseline_rows():
    """2,614 samples, 2,188 of them positive: all four are binary there, and not all with one sample less.

    A loop over tp, fn, fp and tn finds no smaller set either. (With a whole last digit of leeway, as for figures that
    were cut off rather than rounded, it would be 2,613.)
    """
    rows = [row(*TABLE[name]) for name in list(TABLE)[:4]]
    assert all(check(r, 2188, 426).fits["binary_positive"].matrices for r in rows)
    assert not scan(rows[1], 2613).possible


@pytest.mark.parametrize(
    ("name", "recall", "weighted"),
    [
        ("LumbarCLIP-RN50", None, 0),
        ("LumbarCLIP-RN50", "95.00", 47),
        ("LumbarCLIP-ViT", None, 69),
        ("LumbarCLIP-Swin", None, 0),
        ("LumbarCLIP-Swin", "89.00", 34),
    ],
)
def test_own_rows_are_weighted_whole_percents_or_impossible(name, recall, weighted):
    """The two decimals are padding (``decimals=0``: half a point of rounding); one recall each spoils two rows."""
    accuracy, precision, given_recall, f1 = TABLE[name]
    as_printed = row(accuracy, precision, recall or given_recall, f1)
    assert not check(as_printed, POSITIVES, NEGATIVES).possible
    whole = row(accuracy, precision, recall or given_recall, f1, decimals=0)
    assert matrices(check(whole, POSITIVES, NEGATIVES)) == [0, 0, 0, weighted]


@pytest.mark.parametrize("entry", ["convirt", "gloria-benchx", "medclip-vit", "medclip-resnet50"])
def test_cards_hold_what_the_audit_by_hand_found(entry):
    """No baseline row of the table can come from its stated test part, by the figures on the models' own cards."""
    (reported,) = Registry.load().model(entry).entry.card.reported
    assert tuple(f"{value:.2f}" for value in reported.values.values()) in TABLE.values()
    assert reported.counts == (POSITIVES, NEGATIVES)
    assert averagings(*reported.values.values(), reported.counts, reported.decimals) == ()


@pytest.mark.parametrize(
    ("entry", "possible"), [("lumbarclip-resnet50", ()), ("lumbarclip-vit", ("weighted",)), ("lumbarclip-swin", ())]
)
def test_cards_of_the_papers_own_models_say_which_row_is_possible(entry, possible):
    (reported,) = Registry.load().model(entry).entry.card.reported
    assert averagings(*reported.values.values(), reported.counts, reported.decimals) == possible


def test_the_odd_recall_breaks_the_harmonic_mean():
    """96.26 with the recall of the table, 94.75 exactly with 95.00; and 95.00 % is no number of 528."""
    odd = check(row(*TABLE["LumbarCLIP-RN50"]), POSITIVES, NEGATIVES)
    assert odd.harmonic == pytest.approx(96.26, abs=0.005)
    assert odd.harmonic_agrees is False
    assert odd.right_answers is None
    mended = check(row("95.00", "94.50", "95.00", "94.75"), POSITIVES, NEGATIVES)
    assert mended.harmonic == pytest.approx(94.75, abs=0.005)
    assert mended.harmonic_agrees


@pytest.mark.parametrize(
    ("accuracy", "ceiling", "claimed"), [("92", 86.1, "93"), ("90", 83.1, "89"), ("89", 81.9, "90")]
)
def test_macro_f1_of_the_figure_is_above_its_ceiling(accuracy, ceiling, claimed):
    """Without precision and recall: the highest macro F1 at an accuracy, and what was claimed fits as weighted only."""
    verdict = check(row(accuracy, None, None, claimed), POSITIVES, NEGATIVES)
    assert verdict.fits["macro"].f1_at_accuracy[1] == pytest.approx(ceiling, abs=0.05)
    assert verdict.fits["macro"].matrices == 0
    assert verdict.fits["weighted"].matrices > 0
    assert verdict.prevalence is verdict.harmonic is None


def test_macro_f1_of_the_best_row_is_possible():
    assert check(row("95", None, None, "88"), POSITIVES, NEGATIVES).fits["macro"].matrices > 0


def test_always_answering_the_larger_class():
    """On 462/66, and at the prevalence that a row implies where only a total is known."""
    on_counts = check(row(*TABLE["ConVIRT"]), POSITIVES, NEGATIVES).majority
    assert (on_counts.accuracy, on_counts.balanced_accuracy) == (87.5, 50.0)
    found = [on_counts.f1_binary, on_counts.f1_macro, on_counts.f1_weighted]
    assert found == pytest.approx([93.33, 46.67, 81.67], abs=0.005)
    implied = scan(row(*TABLE["ConVIRT"]), 528).majority
    assert (implied.accuracy, implied.f1_binary) == pytest.approx((83.7, 91.13), abs=0.05)


# --------------------------------------------------------------------------------------------- any row


@st.composite
def confusions(draw):
    """tp, fn, fp, tn of both classes."""
    tp, fp = draw(st.integers(0, 25)), draw(st.integers(0, 25))
    return tp, draw(st.integers(0 if tp else 1, 25)), fp, draw(st.integers(0 if fp else 1, 25))


def from_scikit_learn(confusion, averaging, decimals):
    truth, guess = np.repeat([1, 1, 0, 0], confusion), np.repeat([1, 0, 1, 0], confusion)
    options = {"average": "binary", "pos_label": 1 if averaging == "binary_positive" else 0}
    if not averaging.startswith("binary"):
        options = {"average": averaging}
    p, r, f, _ = precision_recall_fscore_support(truth, guess, zero_division=0, **options)
    return [f"{100 * v:.{decimals}f}" for v in (accuracy_score(truth, guess), p, r, f)]


@settings(max_examples=60, deadline=None)
@given(confusion=confusions(), averaging=st.sampled_from(AVERAGINGS), decimals=st.integers(0, 3))
def test_a_row_of_a_real_matrix_is_possible(confusion, averaging, decimals):
    """Rounded figures of scikit-learn fit under their own averaging, at their own counts, and by their total alone."""
    tp, fn, fp, tn = confusion
    figures = row(*from_scikit_learn(confusion, averaging, decimals))
    verdict = check(figures, tp + fn, fp + tn)
    assert verdict.fits[averaging].matrices >= 1
    assert verdict.fits[averaging].nearest is None
    assert verdict.tried == (tp + fn + 1) * (fp + tn + 1)
    assert verdict.right_answers[0] <= tp + tn <= verdict.right_answers[1]
    low, high = verdict.fits[averaging].f1_at_accuracy
    assert low - figures.f1.half - 1e-9 <= figures.f1.value <= high + figures.f1.half + 1e-9
    by_total = scan(figures, sum(confusion))
    assert by_total.fits[averaging].matrices >= verdict.fits[averaging].matrices
    fewest, most = by_total.fits[averaging].positives
    assert fewest <= tp + fn <= most
    if averaging == "binary_positive":
        assert verdict.harmonic_agrees is not False
        if verdict.prevalence is not None:
            low, high = verdict.prevalence
            assert low - 1e-9 <= (tp + fn) / sum(confusion) <= high + 1e-9


@settings(max_examples=6, deadline=None)
@given(confusion=confusions(), averaging=st.sampled_from(AVERAGINGS))
def test_the_nearest_miss_is_the_smallest_by_trying_all(confusion, averaging):
    """One figure moved by ten points; scikit-learn's figures of every matrix, one at a time, are no nearer."""
    tp, fn, fp, tn = (min(n, 4) for n in confusion)
    positives, negatives = max(tp + fn, 1), max(fp + tn, 1)
    figures = from_scikit_learn((positives, 0, 0, negatives), averaging, 2)
    moved = row(figures[0], "71.00", "93.00", "55.00")
    fit = check(moved, positives, negatives).fits[averaging]
    wanted = np.array([moved.accuracy.value, 71, 93, 55])
    deviations = {
        (a, positives - a, b, negatives - b): np.abs(
            np.array(from_scikit_learn((a, positives - a, b, negatives - b), averaging, 12), dtype=float) - wanted
        ).max()
        for a in range(positives + 1)
        for b in range(negatives + 1)
    }
    assert fit.nearest_miss == pytest.approx(min(deviations.values()), abs=1e-9)
    assert deviations[fit.nearest] == pytest.approx(fit.nearest_miss, abs=1e-9)


def test_large_counts_are_tried_in_blocks(monkeypatch):
    """The same verdict, however few matrices are held at a time."""
    figures = row(*TABLE["LumbarCLIP-ViT"], decimals=0)
    whole = check(figures, 300, 40)
    monkeypatch.setattr("benchmark.evaluate.published.BLOCK", 500)
    assert check(figures, 300, 40) == whole


def test_decimals_say_how_a_figure_was_rounded():
    """Those shown, unless fewer are said to be real."""
    assert printed("95", "accuracy").half == 0.5
    assert printed("95.0", "accuracy").half == pytest.approx(0.05)
    assert printed("95.00", "accuracy").half == pytest.approx(0.005)
    assert printed("95.00", "accuracy", 0).half == 0.5
    assert printed("100", "accuracy").ends == (0.995, 1.0)


@pytest.mark.parametrize("text", ["", "x", "-1", "101", "nan", "1e1", "95%", "1.2.3"])
def test_what_is_no_percentage_is_refused(text):
    with pytest.raises(BadInput, match="is no percentage; write it as it is printed"):
        printed(text, "recall")


def test_impossible_questions_are_refused():
    """More decimals than shown, an empty class, a total of one, and more matrices than can be tried."""
    with pytest.raises(BadInput, match="shows 1 decimals, fewer than --decimals 2"):
        printed("95.0", "accuracy", 2)
    figures = row(*TABLE["ConVIRT"])
    with pytest.raises(BadInput, match="both classes need at least one sample"):
        check(figures, 10, 0)
    with pytest.raises(BadInput, match="cannot hold two classes"):
        scan(figures, 1)
    with pytest.raises(BadInput, match="at most 30,000,000 can be tried"):
        check(figures, 10_000, 10_000)
    with pytest.raises(BadInput, match="at most 30,000,000 can be tried"):
        scan(figures, 50_000)


def test_degenerate_rows_have_no_prevalence():
    """No errors leave the share of positives open; a precision that may be 0 does too."""
    assert check(row("100", "100", "100", "100"), 5, 5).prevalence is None
    assert check(row("50", "0", "0", "0"), 5, 5).prevalence is None
    assert check(row("50", "0", "0", "0"), 5, 5).harmonic is None
