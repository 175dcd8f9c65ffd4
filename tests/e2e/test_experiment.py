"""An experiment through its command line: runs in their folders, one page beside them, resumed by the same command."""

import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from benchmark.cli import main
from benchmark.data.phantom import write
from benchmark.experiment import ExperimentRecord

SMALL = {
    "phantom_patients": 20,
    "workers": 1,
    "models": ["toy", "majority"],
    "heads_training": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-3},
    "evaluation": {"replicates": 30, "paper_epochs": 1, "evaluators": ["probe_standard", "probe_paper"]},
    "heads": ["linear-8", "mlp-8"],
    "augmentations": ["none", "eda"],
    "regimes": ["frozen", "heads"],
}
MINE = {
    "name": "mine",
    "title": "Mine, <b>boldly</b>",
    "question": "Is a head better than another?",
    "settings": SMALL,
    "runs": [{"name": "one", "title": "One"}],
    "page": {
        "columns": [{"metric": "primary"}, {"metric": "f1_macro"}, {"evaluator": "probe_paper", "metric": "accuracy"}],
        "chart": {"column": {"metric": "f1_macro"}, "across": "head"},
        "by_class": True,
    },
    "compare": {"axis": "augmentation", "base": "none", "columns": [{"metric": "primary"}, {"metric": "f1_macro"}]},
    "paper": {
        "citation": "Somebody",
        "place": "Table 9",
        "figures": [{"model": "toy", "title": "Toy", "head": "mlp-8", "figures": {"f1_macro": 0.875}}],
    },
}


@pytest.fixture
def command(tmp_path: Path, toy_file: Path):
    def call(word: str | dict[str, object], *arguments: str, code: int = 0) -> Result:
        if isinstance(word, dict):
            (tmp_path / "mine.yaml").write_text(yaml.safe_dump(word))
            word = str(tmp_path / "mine.yaml")
        words = ["experiment", word, "--plugin", str(toy_file), "--out", str(tmp_path / "e"), *arguments]
        result = CliRunner().invoke(main, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return call


def test_an_experiment_leaves_its_page_and_the_same_command_resumes(command, tmp_path):
    made = json.loads(command(MINE, "--json").stdout)
    folder = tmp_path / "e"
    assert made["page"] == str(folder / "index.html")
    page = (folder / "index.html").read_text()
    assert (folder / "one" / "leaderboard" / "index.html").exists()
    assert 'href="one/leaderboard/index.html"' in page
    assert "Mine, &lt;b&gt;boldly" in page
    cells = {file.stem: file.stat().st_mtime_ns for file in (folder / "one" / "cells").glob("*.json")}
    assert len(cells) == 1 + 1 + 4  # majority, frozen, and two heads with and without rewordings
    record = ExperimentRecord.model_validate_json((folder / "experiment.json").read_text())
    assert {(d.value, d.base, d.alike["head"], d.paired) for d in record.differences} == {
        ("eda", "none", "linear-8", True),
        ("eda", "none", "mlp-8", True),
    }
    by_id = {c.id: c for c in record.runs[0].cells}
    for one in record.differences:
        figure = {
            cell.spec.augmentation: m.estimate.value
            for cell in by_id.values()
            for m in cell.measurements
            if cell.spec.head == one.alike["head"]
            and (m.evaluator, m.metric) == (one.column.evaluator, one.column.metric)
        }
        assert one.estimate.value == pytest.approx(figure["eda"] - figure["none"])
    with (folder / "experiment.csv").open() as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "measured": 1 * (2 + 4) + 5 * (3 + 4),
        "reported": 1,
        "difference": 4,
    }
    again = command(MINE)
    assert "6 rows, leaderboard" in again.stdout
    assert {f.stem: f.stat().st_mtime_ns for f in (folder / "one" / "cells").glob("*.json")} == cells
    assert (folder / "index.html").read_text() == page


def test_seeds_are_averaged_in_the_differences(command, tmp_path):
    settings = {**SMALL, "regimes": ["heads"], "heads": ["linear-8"], "models": ["toy"]}
    made = json.loads(command({**MINE, "settings": settings}, "--seeds", "0,1", "--json").stdout)
    assert [one["seeds"] for one in made["differences"]] == [2, 2]
    assert "mean of 2 seeds" in (tmp_path / "e" / "index.html").read_text()


def test_external_trains_on_one_and_tests_on_the_other(command, tmp_path):
    """Ours, made small by its own options: the page shows both runs and the unpaired drop."""
    chosen = yaml.safe_load((Path(__file__).parents[2] / "lumbarclip" / "experiments" / "external.yaml").read_text())
    chosen["settings"] |= {**SMALL, "augmentations": ["none"], "regimes": ["frozen"]}
    chosen["presets"]["quick"] = {}
    made = json.loads(command(chosen, "--json").stdout)
    assert [run["name"] for run in made["runs"]] == ["internal", "external"]
    assert {(d["value"], d["base"], d["paired"]) for d in made["differences"]} == {("external", "internal", False)}
    internal, external = (
        json.loads((tmp_path / "e" / name / "run.json").read_text()) for name in ("internal", "external")
    )
    assert external["split"]["origin"] == "external"
    for part in ("train", "val"):
        assert external["split"]["class_counts"][part] == internal["split"]["class_counts"][part]
    assert external["split"]["n"]["test"] == 120
    page = (tmp_path / "e" / "index.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Trained on lumbar-phantom , tested on lumbar-phantom-b , all of it" in text
    assert "test parts that share no patient" in text
    board = (tmp_path / "e" / "external" / "leaderboard" / "index.html").read_text()
    assert "tested on <strong>lumbar-phantom-b</strong>" in board


def test_a_run_can_be_tested_on_another_card(tmp_path, toy_file):
    """``run --external``: pictures that are in both are an error of the audit, said at the start."""
    write(tmp_path / "ours", 24, size=32)
    card = write(tmp_path / "theirs", 24, size=32)
    card.write_text(card.read_text().replace("name: lumbar-phantom", "name: theirs"))
    words = ["run", "--models", "majority", "--data", str(tmp_path / "ours"), "--external", str(card)]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"evaluation": SMALL["evaluation"]}))
    result = CliRunner().invoke(main, [*words, "--config", str(config), "--out", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 1, result.output
    assert "LB002 error" in result.stderr
    allowed = [*words, "--config", str(config), "--out", str(tmp_path / "run"), "--json", "--allow-leakage"]
    result = CliRunner().invoke(main, allowed)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["dataset"]["trained_on"], record["dataset"]["tested_on"]) == ("lumbar-phantom", "theirs")
    assert str(tmp_path) not in json.dumps(record)
    bad = CliRunner().invoke(
        main, [*words[:-1], str(tmp_path / "theirs" / "stenosis.yaml"), "--out", str(tmp_path / "b")]
    )
    assert bad.exit_code == 2
    assert "'lumbar-phantom' is binary and 'lumbar-phantom-stenosis' is multiclass" in bad.stderr


def test_what_cannot_be_run_is_one_sentence(command, tmp_path):
    card = write(tmp_path / "phantom", 20, size=32)
    refused = command("multi-class", "--data", str(card), code=2)
    assert "'multi-class' needs a dataset whose task is multiclass or multilabel; 'lumbar-phantom' is binary" in (
        refused.stderr
    )
    refused = command("augmentation-impact", "--augmentation", "none,paraphrasee", code=2)
    assert "error: unknown augmentation 'paraphrasee'" in refused.stderr
    assert "did you mean 'projection'?" in command("projektion", code=2).stderr


def test_listing_shows_names_and_questions():
    listed = CliRunner().invoke(main, ["experiment"])
    assert listed.exit_code == 0
    assert "table2: Is LumbarCLIP better than" in listed.stdout
    names = [
        row["name"]
        for row in json.loads(CliRunner().invoke(main, ["experiment", "--list", "--json"]).stdout)["experiments"]
    ]
    assert {"table2", "no-projection", "projection", "augmentation-impact", "multi-class", "external"} <= set(names)


def test_a_dry_run_shows_the_cells_of_each_run_and_writes_nothing(command, tmp_path):
    shown = json.loads(command(MINE, "--dry-run", "--json").stdout)
    assert [len(run["cells"]) for run in shown["runs"].values()] == [6]
    assert not (tmp_path / "e").exists()
    assert "run one" in command(MINE, "--dry-run").stdout


def test_the_wheel_brings_the_files(tmp_path):
    """Built as a user's pip would, from a copy of the tree, as building leaves files behind."""
    root = Path(__file__).parents[2]
    wanted = {f"lumbarclip/experiments/{file.name}" for file in (root / "lumbarclip" / "experiments").glob("*.yaml")}
    assert len(wanted) == 6
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in ("benchmark", "baselines", "lumbarclip", "leaderboards"):
        shutil.copytree(root / package, tmp_path / package, ignore=unwanted)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / file, tmp_path)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "dist" / done.stdout.splitlines()[-1]) as wheel:
        assert wanted <= set(wheel.namelist())


def test_the_documented_file_is_one_that_plans(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    (tmp_path / "narrow-heads.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    words = ["experiment", str(tmp_path / "narrow-heads.yaml"), "--models", "majority", "--dry-run"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "1 cells, 1 to run" in result.stdout
