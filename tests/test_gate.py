"""The gate and the comparison of two runs, on small made-up run folders of 40 patients with two pictures each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from benchmark.cli import main
from benchmark.comparison import LOWER_IS_BETTER
from benchmark.evaluate.predictions import recompute
from benchmark.gate import rule
from benchmark.result import (
    CellResult,
    CellSpec,
    DatasetRecord,
    Estimate,
    Failure,
    Profile,
    RunRecord,
    SplitRecord,
)
from benchmark.run_folder import RunFolder

LABELS = np.repeat(np.arange(40) % 2, 2)
GROUPS = np.repeat(np.arange(40), 2)
NAMES = np.array([f"patient-{g}-picture-{i}" for i, g in enumerate(GROUPS)], dtype=object)
HOSTILE = '</code><b>|[x](http://evil.example) @everyone #1 ]]> & "\x1b[31m\x00\ud800'


def scored(signal: float, seed: int = 0) -> np.ndarray:
    """Probabilities that follow the labels the more, the stronger the signal."""
    return norm.cdf(signal * (LABELS - 0.5) + 0.4 * np.random.default_rng(seed).normal(size=len(LABELS)))


def predictions(scores: np.ndarray, order: np.ndarray) -> pd.DataFrame:
    """As a run leaves them, the samples in any order and the patients numbered as they come."""
    return pd.DataFrame(
        {
            "sample": NAMES[order],
            "group": pd.factorize(GROUPS[order])[0],
            "evaluator": "probe_standard",
            "space": "pooled",
            "draw": 0,
            "split": "test",
            "label": LABELS[order],
            "score_0": 1 - scores[order],
            "score_1": scores[order],
        }
    )


def make_run(
    folder: Path,
    models: dict[str, np.ndarray | None],
    *,
    split: str = "aaaa",
    version: str = "1",
    rate: float = 10.0,
    order: np.ndarray | None = None,
    message: str = "no luck",
) -> Path:
    """A run folder with one cell a model; a model without scores failed."""
    order = np.arange(len(LABELS)) if order is None else order
    files, cells = RunFolder(folder), []
    for model, scores in models.items():
        spec = CellSpec(
            model=model,
            model_version=version,
            provider="test",
            scale="tiny",
            weights="none",
            regime="frozen",
            augmentation="none",
            head="none",
            seed=0,
            dataset="demo",
            split=split,
            content="c",
            protocol={},
        )
        result = CellResult(id=spec.id, spec=spec, title=model, inputs=("image",), status="done")
        if scores is None:
            failure = Failure(kind="RuntimeError", message=message, traceback_tail="")
            files.write(result.model_copy(update={"status": "failed", "failure": failure}), None)
        else:
            table = predictions(scores, order)
            settings = {"task": "binary", "classes": ("no", "yes"), "recall_at": (1,), "threshold": "youden"}
            found = recompute(table, fingerprint=split, replicates=100, **settings)
            update = {"measurements": found, "profile": Profile(images_per_gflop=rate)}
            files.write(result.model_copy(update=update), table)
        cells.append(spec.id)
    files.write_record(
        RunRecord(
            name=folder.name,
            started="2025-01-01T00:00:00+00:00",
            config={"evaluation": {"replicates": 100}},
            dataset=DatasetRecord(
                name="demo", task="binary", classes=("no", "yes"), n=80, has_reports=False, has_structured=False
            ),
            split=SplitRecord(
                fingerprint=split, origin="seeded", grouped_by="patient", seed=0, n={}, n_patients={}, class_counts={}
            ),
            cells=tuple(cells),
            status="done",
        )
    )
    return folder


def call(*words: object, code: int = 0) -> str:
    """Run a verb in this process; its standard output."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout if code != 2 else done.output


def gate(run: Path, reference: Path, *words: object, code: int = 0) -> dict[str, dict[str, object]]:
    """Check "model what" -> check."""
    found = json.loads(call("gate", run, "--against", reference, "--json", *words, code=code))
    assert found["passed"] == (code == 0)
    return {f"{check['place']['model']} {check['what']}": check for check in found["checks"]}


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A reference of two good models."""
    file = tmp_path / "reference.json"
    run = make_run(tmp_path / "before", {"good": scored(1.5), "other": scored(1.5, seed=1)})
    call("gate", run, "--against", file, "--update")
    return file


# --------------------------------------------------------------------------------------------- the rule


numbers = st.floats(-1, 1)


@given(ends=st.tuples(numbers, numbers, numbers).map(sorted), margin=st.floats(0, 1), more=st.floats(0, 1))
def test_a_difference_passes_where_its_worse_end_is_within_the_margin(ends, margin, more):
    low, value, high = ends
    estimate = Estimate(value=value, low=low, high=high, n=10, n_patients=5)
    mirrored = Estimate(value=-value, low=-high, high=-low, n=10, n_patients=5)
    passed = rule(estimate, "roc_auc", margin).outcome == "passed"
    assert passed == (low >= -margin)
    for metric in LOWER_IS_BETTER:  # an error that grows is a figure that falls
        assert rule(mirrored, metric, margin) == rule(estimate, "roc_auc", margin)
    if passed:
        assert value >= -margin
        assert rule(estimate, "roc_auc", margin + more).outcome == "passed"
    else:
        assert rule(estimate, "roc_auc", margin).why


@given(value=numbers, margin=st.floats(0, 1))
def test_without_an_interval_the_figures_decide_and_it_is_said(value, margin):
    estimate = Estimate(value=value, n=10, n_patients=5, why_undefined="no interval: too few")
    found = rule(estimate, "roc_auc", margin)
    assert (found.outcome == "passed") == (value >= -margin)
    assert "judged by the figures alone (no interval: too few)" in found.why


# --------------------------------------------------------------------------------------------- the gate


def test_the_same_scores_pass_whatever_the_order_of_rows_and_the_version_of_the_model(tmp_path, reference):
    order = np.random.default_rng(5).permutation(len(LABELS))
    models = {"good": scored(1.5), "other": scored(1.5, seed=1)}
    found = gate(make_run(tmp_path / "after", models, version="2", order=order), reference)
    assert len(found) == 8  # a result, two metrics and a rate of each
    for name in ("good", "other"):
        difference = found[f"{name} roc_auc"]["difference"]
        assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)


def test_a_planted_regression_trips_it_and_only_where_it_was_planted(tmp_path, reference):
    run = make_run(tmp_path / "after", {"good": scored(0.1), "other": scored(1.5, seed=1)})
    found = gate(run, reference, code=1)
    failed = found["good roc_auc"]
    assert failed["outcome"] == "failed"
    assert "more than the margin of 0.02" in failed["why"]
    assert failed["difference"]["high"] < 0
    assert failed["after"] - failed["before"] == pytest.approx(failed["difference"]["value"])
    assert found["other roc_auc"]["outcome"] == "passed"
    assert "FAILED" in call("gate", run, "--against", reference, code=1)


def test_noise_around_the_same_quality_is_not_shown_to_be_harmless_until_the_margin_is_wide(tmp_path, reference):
    """Equal quality, other scores: the test set cannot exclude a loss of 0.001; a margin of 0.5 is beyond doubt."""
    run = make_run(tmp_path / "after", {"good": scored(1.5, seed=7), "other": scored(1.5, seed=1)})
    content = json.loads(reference.read_text())
    for margin, code in ((0.0, 1), (0.5, 0)):
        content["margins"] = {"accuracy": margin}
        reference.write_text(json.dumps(content))
        gate(run, reference, code=code)


def test_a_cell_that_disappeared_or_failed_fails(tmp_path, reference):
    found = gate(make_run(tmp_path / "after", {"other": None}), reference, code=1)
    assert {name: check["outcome"] for name, check in found.items()} == {
        "good result": "failed",
        "other result": "failed",
    }
    assert "has no such cell" in found["good result"]["why"]
    assert "RuntimeError: no luck" in found["other result"]["why"]


def test_a_new_cell_is_named_and_not_judged(tmp_path, reference):
    models = {"good": scored(1.5), "other": scored(1.5, seed=1), "new": scored(0.0)}
    shown = call("gate", make_run(tmp_path / "after", models), "--against", reference)
    assert "not in the reference, and not judged: new, frozen" in shown


@pytest.mark.parametrize(("rate", "outcome"), [(9.0, "passed"), (4.9, "failed"), (math.nan, "not judged")])
def test_throughput_may_fall_by_its_margin(tmp_path, reference, rate, outcome):
    models = {"good": scored(1.5), "other": scored(1.5, seed=1)}
    run = make_run(tmp_path / "after", models, rate=rate)
    found = gate(run, reference, code=int(outcome == "failed"))
    assert found["good images_per_gflop"]["outcome"] == outcome


def test_another_split_is_another_question(tmp_path, reference):
    said = call(
        *("gate", make_run(tmp_path / "after", {"good": scored(1.5)}, split="bbbb"), "--against", reference), code=2
    )
    assert "a different question" in said
    assert "'demo' split as aaaa before, 'demo' split as bbbb now" in said


def test_a_reference_without_scores_is_compared_by_its_figures(tmp_path, reference):
    content = json.loads(reference.read_text())
    for cell in content["cells"]:
        del cell["scores"]
    reference.write_text(json.dumps(content))
    run = make_run(tmp_path / "after", {"good": scored(0.1), "other": scored(1.5, seed=1)})
    found = gate(run, reference, code=1)
    assert found["good roc_auc"]["outcome"] == "failed"
    assert found["other roc_auc"]["outcome"] == "passed"
    assert "the reference holds no scores of this cell" in found["other roc_auc"]["why"]


# --------------------------------------------------------------------------------------------- the reference


def test_update_keeps_margins_replaces_figures_and_names_what_is_no_longer_gated(tmp_path, reference):
    content = json.loads(reference.read_text())
    content |= {"margins": {"roc_auc": 0.11, "brier": 0.3}, "throughput_margin": None}
    reference.write_text(json.dumps(content))
    run = make_run(tmp_path / "after", {"good": scored(0.1), "other": None}, split="bbbb")
    said = json.loads(call("gate", run, "--against", reference, "--update", "--json"))
    assert said["margins"] == {"roc_auc": 0.11, "brier": 0.3}
    assert said["no_longer_gated"] == said["failed_in_run"] == ["other, frozen / none / none, seed 0"]
    written = reference.read_bytes()
    assert json.loads(written)["throughput_margin"] is None
    found = gate(make_run(tmp_path / "again", {"good": scored(0.1)}, split="bbbb"), reference)
    assert set(found) == {"good result", "good roc_auc", "good brier"}
    call("gate", run, "--against", reference, "--update")
    assert reference.read_bytes() == written


def test_the_reference_names_no_sample_and_stays_short(reference):
    text = reference.read_text()
    assert "picture" not in text
    assert len(text.splitlines()) < 60
    assert [len(line.split()) for line in text.splitlines() if '"patients"' in line] == [1 + len(LABELS)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"margins": {"roc_aux": 0.1}}, "did you mean 'roc_auc'?"),
        ({"margins": {"roc_auc": -1}}, "margins.roc_auc: Input should be greater than or equal to 0"),
        ({"margins": {}}, "margins"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"schema_version": 99}, "newer version (schema 99)"),
        ({"samples": "other"}, "other test samples or patients"),
        ({"patients": "0 1 nan"}, "patients.2"),
    ],
)
def test_a_wrong_reference_is_one_sentence(tmp_path, reference, change, said):
    reference.write_text(json.dumps(json.loads(reference.read_text()) | change))
    run = make_run(tmp_path / "after", {"good": scored(1.5)})
    assert said in call("gate", run, "--against", reference, code=2)


@pytest.mark.parametrize(("scores", "said"), [(["1 2"], "has not 80 scores in 2 classes"), (["nan"], "finite")])
def test_wrong_scores_are_one_sentence(tmp_path, reference, scores, said):
    content = json.loads(reference.read_text())
    content["cells"][0]["scores"] = scores
    reference.write_text(json.dumps(content))
    assert said in call(*("gate", make_run(tmp_path / "after", {"good": scored(1.5)}), "--against", reference), code=2)


def test_no_reference_and_no_run_and_no_predictions_are_one_sentence(tmp_path, reference):
    run = make_run(tmp_path / "after", {"good": scored(1.5)})
    assert "--update writes one" in call("gate", run, "--against", tmp_path / "none.json", code=2)
    assert "not a run folder" in call("gate", tmp_path, "--against", reference, code=2)
    for file in (run / "predictions").iterdir():
        file.write_bytes(b"torn")
    assert "not a table of predictions" in call("gate", run, "--against", reference, code=2)
    failed = make_run(tmp_path / "failed", {"good": None})
    assert "no finished cell" in call("gate", failed, "--against", reference, "--update", code=2)


# --------------------------------------------------------------------------------------------- what is written


def test_names_and_messages_from_outside_stay_text(tmp_path):
    name = HOSTILE.replace("\ud800", "")
    run = make_run(tmp_path / "before", {name: scored(1.5), "fails": scored(1.5)})
    call("gate", run, "--against", tmp_path / "r.json", "--update")
    after = make_run(tmp_path / "after", {name: scored(0.1), "fails": None}, message=name)
    xml, markdown = tmp_path / "gate.xml", tmp_path / "gate.md"
    shown = call("gate", after, "--against", tmp_path / "r.json", "--junit", xml, "--summary", markdown, code=1)
    suite = ElementTree.fromstring(xml.read_bytes())
    cases = suite.findall("testcase")
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), str(len(suite.findall(".//failure"))))
    assert cases[0].get("classname").startswith('</code><b>|[x](http://evil.example) @everyone #1 ]]> & "\ufffd[31m')
    text = markdown.read_text()
    for markup in ("<b>", "|[", "](", "http:", "@everyone", "#1 ", "\x1b", "</code><b"):
        assert markup not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {9}  # no cell broke out of its column
    assert "\x1b" not in shown


def test_what_was_not_judged_is_skipped_in_xml(tmp_path, reference):
    run = make_run(tmp_path / "after", {"good": scored(1.5), "other": scored(1.5, seed=1)}, rate=math.nan)
    call("gate", run, "--against", reference, "--junit", tmp_path / "g.xml", "--summary", tmp_path / "g.md")
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()
    assert suite.get("skipped") == str(len(suite.findall(".//skipped"))) == "2"
    assert suite.get("failures") == "0"
    assert "✅" in (tmp_path / "g.md").read_text()


# --------------------------------------------------------------------------------------------- two runs


def compare(*words: object, code: int = 0) -> dict[str, dict[str, object]]:
    """Model -> pair."""
    found = json.loads(call("compare", *words, "--json", code=code))
    return {pair["place"]["model"]: pair for pair in found["pairs"]}


def test_cells_of_two_runs_are_marked(tmp_path):
    before = make_run(
        tmp_path / "a",
        {"up": scored(0.1), "down": scored(1.5), "same": scored(1.0), "fails": scored(1), "gone": scored(1)},
    )
    after = make_run(
        *(
            tmp_path / "b",
            {"up": scored(1.5), "down": scored(0.1), "same": scored(1.0), "fails": None, "new": scored(1)},
        )
    )
    found = compare(before, after)
    assert {name: pair["mark"] for name, pair in found.items()} == {
        "up": "better",
        "down": "worse",
        "same": "not distinguishable",
        "fails": "not comparable",
        "gone": "not comparable",
        "new": "not comparable",
    }
    assert "it failed in" in found["fails"]["note"]
    assert found["new"]["before"] is None
    down = found["down"]
    assert down["after"] - down["before"] == pytest.approx(down["difference"]["value"])
    errors = compare(before, after, "--metric", "brier")  # less of it is better
    assert (errors["up"]["mark"], errors["down"]["mark"]) == ("better", "worse")
    assert errors["up"]["difference"]["value"] < 0
    shown = call("compare", before, after)
    assert "better" in shown
    assert "difference in roc_auc" in shown


def test_runs_on_other_splits_are_compared_in_no_row(tmp_path):
    before = make_run(tmp_path / "a", {"good": scored(1.5)})
    after = make_run(tmp_path / "b", {"good": scored(0.1)}, split="bbbb")
    done = CliRunner().invoke(main, ["compare", str(before), str(after), "--json"])
    assert done.exit_code == 2
    (pair,) = json.loads(done.stdout)["pairs"]
    assert (pair["mark"], pair["difference"]) == ("not comparable", None)
    assert "split as aaaa before, 'demo' split as bbbb now" in pair["note"]
    assert "not comparable" in call("compare", before, after, code=2)


def test_an_unknown_metric_is_answered_with_the_nearest(tmp_path):
    run = make_run(tmp_path / "a", {"good": scored(1.5)})
    assert "did you mean 'f1_macro'?" in call("compare", run, run, "--metric", "f1_makro", code=2)
