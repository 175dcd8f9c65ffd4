"""A split that leaks stops every command that would measure on it; where allowed, every row carries the mark."""

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from benchmark.cli import main
from benchmark.data.phantom import write

SETTINGS = {"workers": 1, "regimes": ["frozen"], "evaluation": {"replicates": 20, "evaluators": ["probe_standard"]}}
ROWS = "majority,image-statistics"


def call(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A phantom whose manifest gives the split, by patient."""
    path = write(tmp_path / "data", 24, size=32)
    fields = yaml.safe_load(path.read_text())
    fields["columns"]["split"] = "part"
    path.write_text(yaml.safe_dump(fields))
    table = pd.read_csv(path.parent / "manifest.csv", dtype=str)
    place = table["patient_id"].str[-2:].astype(int) % 4
    table["part"] = place.map({0: "train", 1: "train", 2: "val", 3: "test"})
    table.to_csv(path.parent / "manifest.csv", index=False)
    return path


def a_patient_in_two_parts(card: Path) -> str:
    fields = yaml.safe_load(card.read_text())
    card.write_text(yaml.safe_dump(fields | {"allow_patient_overlap": True}))
    table = pd.read_csv(card.parent / "manifest.csv", dtype=str)
    table.loc[0, "part"] = "test"
    table.to_csv(card.parent / "manifest.csv", index=False)
    return "LB001"


def a_picture_in_two_parts(card: Path) -> str:
    table = pd.read_csv(card.parent / "manifest.csv", dtype=str)
    test = table.index[table["part"] == "test"][0]
    table.loc[test, "image"] = table.loc[0, "image"]
    table.to_csv(card.parent / "manifest.csv", index=False)
    return "LB002"


@pytest.fixture
def words(card: Path, tmp_path: Path) -> list[object]:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(SETTINGS))
    return ["run", "--data", card, "--models", ROWS, "--config", config, "--out", tmp_path / "run"]


@pytest.mark.parametrize("plant", [a_patient_in_two_parts, a_picture_in_two_parts])
def test_a_leak_stops_a_run_and_allowed_it_marks_every_row(plant, card, words, tmp_path):
    code = plant(card)
    assert call("data", "check", card, "--cache", tmp_path / ".cache").exit_code == 1
    for more in ([], ["--dry-run"]):
        stopped = call(*words, *more)
        assert stopped.exit_code == 1
        (sentence,) = [line for line in stopped.stderr.splitlines() if line.startswith("error:")]
        assert f"the split leaks ({code})" in sentence
        assert "--allow-leakage" in sentence
        assert not (tmp_path / "run").exists()
    ran = call(*words, "--allow-leakage")
    assert ran.exit_code == 0, ran.output
    assert "Leakage: test is not held out" in ran.stdout
    site = tmp_path / "run" / "leaderboard"
    page = (site / "index.html").read_text()
    assert page.index("Leakage: test is not held out") < page.index("Synthetic data")
    assert len(re.findall(r'<th scope="row" class="model"', page)) == page.count(f"leakage: {code}</span>") > 0
    for model in site.glob("model-*.html"):
        assert f"leakage: {code}</span>" in model.read_text()
        assert "Leakage: test is not held out" in model.read_text()
    with (site / "leaderboard.csv").open() as file:
        assert {line["leakage"] for line in csv.DictReader(file)} == {code}
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["allow_leakage"] is True


def test_a_clean_run_carries_no_mark_and_allowing_leakage_makes_no_other_cells(words, tmp_path):
    ran = call(*words, "--json")
    assert ran.exit_code == 0, ran.output
    site = tmp_path / "run" / "leaderboard"
    assert "eakage" not in (site / "index.html").read_text()
    with (site / "leaderboard.csv").open() as file:
        assert {line["leakage"] for line in csv.DictReader(file)} == {""}
    again = json.loads(call(*words, "--json", "--allow-leakage", "--ignore", "LB018").stdout)
    assert [c["id"] for c in again["cells"]] == [c["id"] for c in json.loads(ran.stdout)["cells"]]


def test_an_experiment_stops_before_its_first_run_and_its_page_carries_the_mark(card, tmp_path):
    code = a_picture_in_two_parts(card)
    mine = {
        "name": "mine",
        "title": "Mine",
        "question": "Why?",
        "settings": {**SETTINGS, "models": ROWS.split(",")},
        "runs": [{"name": "one", "title": "One"}],
        "page": {"columns": [{"metric": "primary"}], "by_class": True},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(mine))
    words = ["experiment", file, "--data", card, "--out", tmp_path / "e"]
    stopped = call(*words)
    assert stopped.exit_code == 1
    assert f"one: {code} error" in stopped.stderr
    assert not (tmp_path / "e").exists()
    assert call(*words, "--allow-leakage").exit_code == 0
    page = (tmp_path / "e" / "index.html").read_text()
    assert page.count(f"leakage: {code}</span>") == 4  # two rows, in two tables
    assert "Leakage: test is not held out" in page
    with (tmp_path / "e" / "experiment.csv").open() as opened:
        assert {line["leakage"] for line in csv.DictReader(opened) if line["kind"] == "measured"} == {code}


def test_a_muted_warning_is_recorded_and_shown_as_muted(card, words, tmp_path):
    said = call(*words, "--dry-run")
    assert "LB009 warning" in said.stderr
    ran = call(*words, "--ignore", "LB009,LB018")
    assert ran.exit_code == 0, ran.output
    assert "LB009" not in ran.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["ignore"] == ["LB009", "LB018"]
    assert {f["code"] for f in record["audit"] if f["muted"]} == {"LB009", "LB018"}
    page = (tmp_path / "run" / "leaderboard" / "index.html").read_text()
    assert "2 findings muted by --ignore" in page
    assert "Audit of the data: 1 warning" not in page


def test_leakage_and_unknown_codes_cannot_be_muted(card, words):
    code = a_picture_in_two_parts(card)
    for more in ([], ["--allow-leakage"]):
        refused = call(*words, "--ignore", code, *more)
        assert refused.exit_code == 2
        assert "leakage cannot be ignored" in refused.stderr
    refused = call(*words, "--ignore", "LB03")
    assert refused.exit_code == 2
    assert "--ignore LB03: there is no such finding (did you mean" in refused.stderr
