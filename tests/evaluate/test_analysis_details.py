"""The analysis of a run holds the details of the row that stands for each model, and is made anew where they differ."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmark.errors import BadInput
from benchmark.evaluate.analysis import Analysis, analyse, identity
from benchmark.evaluate.detail import BEST_ON_VAL
from benchmark.run_folder import RunFolder

DEMO = runpy.run_path(str(Path(__file__).parents[1] / "leaderboards" / "demo.py"))
predictions = runpy.run_path(str(Path(__file__).with_name("made_up.py")))["predictions"]
CLASSES = ("No finding", "Low back pain")


def made(**dataset: object):
    """Two variants of one model, of which the second is better on validation, and a row that reads reports."""
    _, results = DEMO["demo"]()
    report = next(r for r in results if r.spec.model == "tfidf-report")
    variants = [r for r in results if r.spec.model == "lumbarclip-vit" and r.primary_space == "pooled"][:2]
    better = [
        r.model_copy(update={"fits": {"selection": {"metric": "roc_auc", "value": value}}})
        for r, value in zip(variants, (0.6, 0.8), strict=True)
    ]
    results = [report, *better]
    run = DEMO["run_record"](results, classes=CLASSES, **dataset)
    evaluation = {"replicates": 30, "threshold": "f1"}
    tables = {r.id: predictions("binary", CLASSES, seed=i) for i, r in enumerate(results)}
    return run.model_copy(update={"config": {"evaluation": evaluation}}), results, tables


def samples() -> pd.DataFrame:
    names = [f"s{i}" for i in range(210)][::-1]  # in another order than the predictions
    sex = pd.Categorical(np.where(np.arange(210)[::-1] // 3 % 2, "F", "M"), ["F", "M"], ordered=True)
    return pd.DataFrame({"sample": names, "split": "test", "by: sex": sex})


def test_every_model_has_the_details_of_the_row_that_stands_for_it():
    run, results, tables = made()
    found = analyse(run, results, tables.__getitem__, samples())
    assert set(found.details) == {results[0].id, results[2].id}
    (question,) = found.details[results[2].id].questions
    assert (question.name, question.points[0].name) == (CLASSES[1], BEST_ON_VAL["f1"])
    assert (question.prevalence, question.prevalence_from) == (756 / 1260, "train")
    test = tables[results[2].id].query("split == 'test'")
    counted = (test["group"] % 2 == 1).sum()
    assert [(g.name, g.n) for g in question.breakdowns[0].groups] == [("F", counted), ("M", 120 - counted)]
    assert Analysis.model_validate_json(found.model_dump_json()).model_dump_json() == found.model_dump_json()


def test_prevalence_of_the_card_comes_first():
    run, results, tables = made(prevalence=0.1)
    found = analyse(run, results, tables.__getitem__).details[results[0].id].questions[0]
    assert (found.prevalence, found.prevalence_from, found.breakdowns) == (0.1, "card", ())


def test_analysis_is_another_where_prevalence_threshold_or_subgroups_are():
    run, results, _ = made()
    with_prevalence = made(prevalence=0.1)[0]
    youden = run.model_copy(update={"config": {"evaluation": {"replicates": 30, "threshold": "youden"}}})
    several = [(run, None), (run, samples()), (with_prevalence, None), (youden, None)]
    assert len({identity(record, results, table) for record, table in several}) == 4


def test_subgroups_of_other_samples_are_refused():
    run, results, tables = made()
    with pytest.raises(BadInput, match=r"samples.parquet lacks 120 of the test samples"):
        analyse(run, results, tables.__getitem__, samples().iloc[120:])


def test_run_folder_makes_the_analysis_anew_when_subgroups_come(tmp_path):
    run, results, tables = made()
    folder = RunFolder(tmp_path)
    for result in results:
        folder.write(result, tables[result.id])
    assert folder.analysis(run, results).details[results[0].id].questions[0].breakdowns == ()
    folder.write_samples(samples())
    again = folder.analysis(run, results)
    assert [b.column for b in again.details[results[0].id].questions[0].breakdowns] == ["sex"]
    written = (tmp_path / "analysis.json").stat().st_mtime_ns
    assert folder.analysis(run, results) == Analysis.model_validate_json((tmp_path / "analysis.json").read_bytes())
    assert (tmp_path / "analysis.json").stat().st_mtime_ns == written
