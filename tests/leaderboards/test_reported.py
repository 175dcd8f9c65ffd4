"""What papers print stands beside what was measured, and says whether it can be true."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from leaderboards.reported import make_reported_groups
from leaderboards.view import make_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))


def groups(**changes: object):
    """The demo's page, with other values in the one reported row."""
    run, results = DEMO["demo"]()
    models = {
        name: model.model_copy(update={"reported": tuple(r.model_copy(update=changes) for r in model.reported)})
        for name, model in run.models.items()
    }
    return make_reported_groups(make_page(run.model_copy(update={"models": models}), results))


def test_only_models_with_a_reported_row_are_shown_beside_their_chosen_row():
    (group,) = groups()
    assert group.title == "ConVIRT"
    assert group.row is not None
    assert group.row.chosen
    assert group.reported[0].figures == ("81.52", "85.10", "94.47", "89.54")


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"fits": ()}, "impossible: no confusion matrix of 462 positives and 66 negatives"),
        ({"fits": ("weighted",)}, "possible on 462 positives and 66 negatives, as mean weighted by class size"),
        ({"fits": ("binary_positive", "macro")}, "as of the positive class or mean over the classes"),
        ({"fits": None}, "not checked"),
        ({"counts": None}, "not checked"),
    ],
)
def test_the_verdict_says_what_the_record_says(changes, verdict):
    assert verdict in groups(**changes)[0].reported[0].verdict


def test_figures_are_shown_with_the_decimals_that_they_have():
    assert groups(decimals=0)[0].reported[0].figures == ("82", "85", "94", "90")


def test_measured_lines_name_their_averaging_and_leave_gaps_as_dashes():
    """The demo measures F1 averaged over classes alone: one line, with dashes for what is missing, and never a 0."""
    (group,) = groups()
    (line,) = group.measured
    assert line.averaging == "mean over the classes"
    assert [figure.text for figure in line.figures][:3] == ["—", "—", "—"]
    assert float(line.figures[3].text) > 1
    low, high = map(float, line.figures[3].interval.split("–"))
    assert 1 < low < float(line.figures[3].text) < high


def test_a_model_without_a_row_still_shows_what_is_printed():
    run, results = DEMO["demo"]()
    rest = [r for r in results if r.spec.model != "convirt"]
    (group,) = make_reported_groups(make_page(run, rest))
    assert group.row is None
    assert group.measured == ()
