"""``check-row`` on the command line: words, JSON and exit codes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmark.cli import main

RESNET = ["--accuracy", "95.00", "--precision", "94.50", "--recall", "98.08", "--f1", "94.75"]
MENDED = [*RESNET[:5], "95.00", *RESNET[6:], "--decimals", "0"]
COUNTS = ["--positives", "462", "--negatives", "66"]


def check_row(*arguments):
    return CliRunner().invoke(main, ["check-row", *arguments])


def test_a_row_that_no_matrix_has():
    """Exit code 1; what was tried, the nearest misses, the identity, the majority class, the verdict."""
    done = check_row(*RESNET, *COUNTS)
    assert done.exit_code == 1
    for words in (
        "462 positives and 66 negatives: 31,021 confusion matrices",
        "binary, of the positives  none fits, the nearest is 1.59 points off",
        "no number of right answers has accuracy 95: are its last decimals padding?",
        "F1 94.75 is not 2PR/(P+R), which is 96.26",
        "always answering the larger class scores accuracy 87.50, balanced accuracy 50, F1 93.33 binary",
        "no averaging fits",
    ):
        assert words in done.output


def test_a_row_that_fits():
    """Exit code 0, and the averaging."""
    done = check_row(*MENDED, *COUNTS)
    assert done.exit_code == 0
    assert "weighted                  47 fit; at this accuracy F1 is 93.82 to 95.74" in done.output
    assert done.output.splitlines()[-1] == "possible as: weighted"


def test_json_has_all_of_it():
    """One document; the exit code is the same."""
    done = check_row(*RESNET, *COUNTS, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["possible"] is False
    assert found["fits"]["weighted"]["matrices"] == 0
    assert found["fits"]["weighted"]["nearest_miss"] == pytest.approx(1.80, abs=0.005)
    assert sum(found["fits"]["macro"]["nearest"]) == 528
    assert found["harmonic_agrees"] is False


def test_a_total_alone_scans_class_counts():
    figures = ["--accuracy", "81.52", "--precision", "85.10", "--recall", "94.47", "--f1", "89.54"]
    done = check_row(*figures, "--total", "528")
    assert done.exit_code == 1
    assert "imply that 83.67% to 83.79% are positive" in done.output
    fits = check_row(*figures, "--total", "2614")
    assert fits.exit_code == 0
    assert "2 fit, with 2188 to 2189 positives" in fits.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--positives", "462"], "give --positives and --negatives, or --total alone"),
        ([*COUNTS, "--total", "528"], "give --positives and --negatives, or --total alone"),
        ([*COUNTS, "--accuracy", "0.95"], "accuracy 0.95 is taken as percent; write all figures as percent"),
        ([*COUNTS, "--decimals", "3"], "shows 2 decimals, fewer than --decimals 3"),
    ],
)
def test_bad_questions_are_one_sentence(arguments, words):
    done = check_row(*RESNET, *arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output
