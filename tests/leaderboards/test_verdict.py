"""The front page's sentences say what the analysis says: who leads, who ties, what is shown, and no more."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest

from benchmark.evaluate.analysis import Analysis
from benchmark.result import CellResult, RunRecord
from leaderboards.verdict import verdict
from leaderboards.view import Page, make_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))


@pytest.fixture(scope="module")
def demo() -> tuple[RunRecord, list[CellResult], Analysis]:
    run, results = DEMO["demo"]()
    return run, results, DEMO["analysis"](results)


def page(demo, **changes: object) -> Page:
    run, results, analysis = demo
    return make_page(run, results, analysis.model_copy(update=changes))


def with_ties(analysis: Analysis, *tied: bool) -> dict[str, object]:
    pairs = zip(analysis.standings.items(), tied, strict=True)
    return {cell: standing.model_copy(update={"tied": yes}) for (cell, standing), yes in pairs}


def test_the_first_sentence_names_the_leader_with_its_interval(demo):
    board = page(demo)
    leader = board.best.ranked[0]
    assert (
        verdict(board)[0]
        == f"{leader.result.title} (tiny, randomly initialised) has the highest ROC AUC: {leader.shown.text} "
        f"(95% interval {leader.interval})."
    )


def test_ties_are_named_and_the_others_counted(demo):
    board = page(demo)
    second = board.best.ranked[1].result.title
    assert f"{second} cannot be told apart from it on the test set's 45 patients; the other 2 can." in verdict(board)


def test_a_leader_that_nobody_ties_with_and_one_that_everybody_does(demo):
    analysis = demo[2]
    alone = page(demo, standings=with_ties(analysis, True, False, False, False))
    assert "It is told apart from every other model on the test set's 45 patients." in verdict(alone)
    assert not any("fastest" in sentence for sentence in verdict(alone))
    everybody = page(demo, standings=with_ties(analysis, True, True, True, True))
    assert any(
        s.startswith("No other model can be told apart from it") and "all 4 tie" in s for s in verdict(everybody)
    )


def test_without_an_analysis_nothing_is_said_of_ties_but_that(demo):
    run, results, _ = demo
    said = verdict(make_page(run, results))
    assert len(said) == 2
    assert said[1].startswith("Which models tie with it was not computed")


def test_the_detectable_difference_is_said_where_it_is_known(demo):
    assert any("true difference of about 0.080" in sentence for sentence in verdict(page(demo)))
    unknown = demo[2].detectable.model_copy(update={"median": math.nan})
    assert not any("true difference" in sentence for sentence in verdict(page(demo, detectable=unknown)))


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ((0.01, 0.01, 0.01, 0.01), "Every model is shown to be better than the naive row that is best on validation"),
        ((0.9, 0.9, 0.9, 0.9), "No model is shown to be better than the naive row that is best on validation"),
        ((0.01, 0.01, 0.01, 0.9), "is not shown to be better than the naive row that is best on validation"),
    ],
)
def test_skill_is_claimed_only_where_it_is_shown(demo, p, said):
    analysis = demo[2]
    of_chosen = dict(zip(analysis.standings, p, strict=True))
    skill = {
        cell: record.model_copy(update={"p": of_chosen.get(cell, math.nan)}) for cell, record in analysis.skill.items()
    }
    sentences = [s for s in verdict(page(demo, skill=skill)) if "naive row" in s]
    assert len(sentences) == 1
    assert said in sentences[0]
    assert "(Metadata only, 0.580)" in sentences[0]


def test_the_fastest_of_those_that_tie_is_named_with_its_size(demo):
    board = page(demo)
    tied = [row for row in board.best.ranked if row.standing and row.standing.tied]
    fastest = max(tied, key=lambda row: row.result.profile.images_per_s)
    (sentence,) = [s for s in verdict(board) if "fastest" in s]
    assert fastest.result.title in sentence
    assert "at a tiny size" in sentence


def test_a_run_without_figures_has_no_answer(demo):
    run, _, _ = demo
    assert verdict(make_page(run, [])) == ()


def test_long_lists_of_names_end_in_a_count(demo):
    """Five tied models beside the leader: three names and a number."""
    run, results, _ = demo
    convirt = next(r for r in results if r.spec.model == "convirt" and r.spec.regime == "frozen")
    specs = [convirt.spec.model_copy(update={"model": f"other-{i}"}) for i in range(3)]
    more = [convirt.model_copy(update={"spec": s, "id": s.id, "title": f"Other {i}"}) for i, s in enumerate(specs)]
    analysis = DEMO["analysis"]([*results, *more])
    everyone = list(analysis.standings)
    flags = [i < len(everyone) - 1 for i in range(len(everyone))]
    tied = analysis.model_copy(update={"standings": with_ties(analysis, *flags)})
    said = verdict(make_page(run, [*results, *more], tied))
    assert " and 2 more cannot be told apart from it" in said[1]


def test_leakage_is_the_first_word(demo):
    run, results, analysis = demo
    leak = run.audit[0].model_copy(update={"severity": "error"})
    board = make_page(run.model_copy(update={"audit": (leak,)}), results, analysis)
    assert verdict(board)[0] == "The split leaks: every figure below is too good."


def test_speeds_of_several_machines_are_not_compared(demo):
    run, results, analysis = demo
    other = [r.model_copy(update={"provenance": {"hardware": r.spec.model}}) for r in results]
    board = make_page(run, other, analysis)
    assert not board.one_machine
    assert not any("fastest" in sentence for sentence in verdict(board))


def test_a_naive_row_that_is_higher_on_test_is_named(demo):
    """The yardstick is chosen on validation; that another naive row has a higher figure on test is no secret."""
    run, results, analysis = demo
    majority = next(r for r in results if r.spec.model == "majority")
    (sentence,) = [
        s
        for s in verdict(make_page(run, results, analysis.model_copy(update={"naive": majority.id})))
        if "naive row" in s
    ]
    assert sentence.endswith("(Majority class, 0.500). On test, Metadata only has 0.580.")
