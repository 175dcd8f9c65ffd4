"""A model's page shows its row in detail, says what is undefined, hides small groups and escapes every name."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.evaluate.analysis import Analysis
from benchmark.evaluate.detail import Prevalence, Scope, detail
from benchmark.evaluate.detail_records import Detail
from benchmark.result import CellResult, RunRecord
from leaderboards import detail_figures
from leaderboards.build import render_model
from leaderboards.detail_view import figure
from leaderboards.model_page import make_model_pages
from leaderboards.view import make_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))
HOSTILE, HOSTILE_ATTRIBUTE = DEMO["HOSTILE"], DEMO["HOSTILE_ATTRIBUTE"]
predictions = runpy.run_path(str(Path(__file__).parents[1] / "evaluate" / "made_up.py"))["predictions"]
Tags = runpy.run_path(str(Path(__file__).with_name("test_model_page.py")))["Tags"]
CLASSES = {"binary": ("No Finding", "LBP"), "multiclass": ("A", "B", "C"), "multilabel": ("disc", "canal")}


@dataclass(frozen=True)
class Case:
    """How a detail is made up."""

    task: str = "binary"
    classes: tuple[str, ...] | None = None
    one_class: str = ""
    """Part of the split in which all labels are 1."""
    column: str = "sex"
    rare: str = "rare"
    prevalence: float = 0.3


def look(case: Case) -> Detail:
    classes = case.classes or CLASSES[case.task]
    table = predictions(case.task, classes)
    if case.one_class:
        for name in [c for c in table if c.startswith("label")]:
            table.loc[table["split"] == case.one_class, name] = 1
    val, test = (table[table["split"] == part] for part in ("val", "test"))
    order = np.unique(test["group"], return_inverse=True)[1]
    groups = pd.Categorical(np.where(order < 2, case.rare, np.where(order < 20, "F", "M")))
    prevalences = {name: Prevalence(case.prevalence, "card") for name in classes}
    return detail(val, test, Scope(case.task, classes, "youden", prevalences, 100, "f"), {case.column: groups})


def page(case: Case, found: Detail | None = None) -> str:
    """The page of ConVIRT with such details of its only row."""
    run, results = DEMO["demo"]()
    results = [r for r in results if r.spec.model == "convirt" and r.spec.regime == "frozen"]
    classes = case.classes or CLASSES[case.task]
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"task": case.task, "classes": classes})})
    analysis = Analysis(of="", metric="roc_auc", replicates=100, details={results[0].id: found or look(case)})
    return render(run, results, analysis)


def render(run: RunRecord, results: list[CellResult], analysis: Analysis | None) -> str:
    (model,) = make_model_pages(make_page(run, results, analysis), {})
    return render_model(model)


def words(html: str) -> str:
    return " ".join(Tags(html).text.split())


def test_page_shows_points_curves_matrix_and_subgroups():
    found = look(Case())
    html = page(Case(), found)
    text = words(html)
    for heading in ("Operating points", "Curves", "Confusion matrix", "Subgroups"):
        assert heading in text
    point = found.questions[0].points[1]
    assert "90% specificity on validation" in text
    assert f"{point.sensitivity.value:.3f} {point.sensitivity.low:.3f}–{point.sensitivity.high:.3f}" in text
    assert f"{point.specificity.value:.3f} {point.specificity.low:.3f}–{point.specificity.high:.3f}" in text
    assert "Predictive values at a prevalence of 30%, stated by the dataset’s card." in text
    assert f"Temperature of LBP: {found.reliability[0].temperature:.3g}." in text
    (matrix,) = found.confusion
    assert f"truly LBP {matrix.counts[1][0]}" in text
    group = found.questions[0].breakdowns[0].groups[0]
    assert f"{group.n} {group.n_patients} {group.events} {group.auroc.value:.3f}" in text
    gap = found.questions[0].breakdowns[0].gap
    assert f"Best less worst {gap.value:.3f}" in text


def test_page_of_a_group_with_few_events_gives_no_figure_of_it():
    text = words(page(Case()))
    assert "rare 6 fewer than 10 events" in text


def test_charts_are_four_images_with_words_and_ids_of_their_own():
    tags = Tags(page(Case())).tags
    charts = [a["aria-labelledby"] for tag, a in tags if tag == "svg"]
    assert [c.split("-title")[0] for c in charts] == ["roc", "precision-recall", "reliability", "decision"]
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["tabindex"] == "0" and a["aria-label"] for tag, a in tags if a.get("class") == "scroll")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_several_questions_have_tables_of_their_own_and_share_charts(task):
    html = page(Case(task))
    text = words(html)
    for name in CLASSES[task]:
        assert f"Operating points of {name}" in html
        assert f"Subgroups, {name}" in html
    assert text.count("test samples. Predictive values at") == len(CLASSES[task])
    assert html.count('role="img"') >= 4


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("part", ["val", "test"])
def test_page_of_what_is_undefined_is_written_and_says_so(task, part):
    html = page(Case(task, one_class=part))
    assert "undefined:" in html
    assert "nan" not in words(html).lower().split()
    if part == "test" and task == "binary":
        assert "no ROC curve is defined" in html
    if part == "val" and task == "binary":
        assert "No threshold could be chosen on validation" in html


def test_page_without_an_analysis_has_no_such_section():
    run, results = DEMO["demo"]()
    html = render(run, [r for r in results if r.spec.model == "convirt"][:1], None)
    assert 'id="points"' not in html
    assert "#points" not in html


@pytest.mark.parametrize("hostile", [HOSTILE, HOSTILE_ATTRIBUTE, "_under", "$x$", "{{ 7 * 7 }}"])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_hostile_classes_columns_and_values_are_text(hostile, task):
    classes = (*CLASSES[task][:-1], hostile)
    html = page(Case(task, classes=classes, column=hostile, rare=hostile))
    tags = Tags(html)
    assert not any(tag == "script" or any(key.startswith("on") for key in a) for tag, a in tags.tags)
    assert not any(a.get("src") == "x" for _, a in tags.tags)
    assert tags.text.count(" ".join(hostile.split())) >= 3


def test_charts_take_many_classes_and_are_the_same_each_time():
    found = look(Case("multiclass", classes=tuple(f"class {i}" for i in range(11))))
    drawn = [detail_figures.roc(found.questions) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "var(--class-7)" in str(drawn[0])
    assert "#0000" not in str(drawn[0])
    for chart in (drawn[0], detail_figures.reliability(found.reliability), detail_figures.decision(found.questions)):
        ET.fromstring(str(chart))


def test_figure_without_interval_says_why_on_asking():
    found = look(Case())
    one = found.questions[0].points[0].sensitivity
    assert figure(one).interval
    alone = one.model_copy(update={"low": float("nan"), "high": float("nan"), "why_undefined": "one patient"})
    assert figure(alone).interval == ""
    assert figure(alone).title.endswith("; one patient")
