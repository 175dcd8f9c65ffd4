"""Several runs become one leaderboard where they put one question, and are refused by name where they do not."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.errors import BadInput
from benchmark.join import Recorded, join
from benchmark.result import Finding
from benchmark.run_folder import RunFolder

RECORDED = runpy.run_path(str(Path(__file__).with_name("recorded.py")))
make_run, call = RECORDED["make_run"], RECORDED["call"]


def joined(*folders: Path) -> Recorded:
    return join([Recorded.read(folder) for folder in folders])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# --------------------------------------------------------------------------------------------- one leaderboard


def test_two_runs_become_one_page_and_no_run_is_touched(tmp_path: Path) -> None:
    ours = make_run(tmp_path / "ours", {"a": 1.0, "b": 0.5})
    theirs = make_run(tmp_path / "theirs", {"c": 0.2}, machine="another processor")
    before = files_of(ours), files_of(theirs)
    shown = json.loads(call("report", ours, theirs, "--out", tmp_path / "joined", "--json"))
    assert [cell["model"] for cell in shown["cells"]] == ["a", "b", "c"]
    assert (files_of(ours), files_of(theirs)) == before
    made = json.loads((tmp_path / "joined" / "leaderboard.json").read_text())
    assert made["run"]["name"] == "ours and theirs"
    assert made["run"]["cells"] == [cell["id"] for cell in shown["cells"]]
    assert [cell["provenance"]["hardware"] for cell in made["cells"]] == ["one processor"] * 2 + ["another processor"]
    page = (tmp_path / "joined" / "data.html").read_text()
    assert "several machines, so speed, memory and time of rows can&#39;t be compared" in page
    frame = pd.read_csv(tmp_path / "joined" / "leaderboard.csv")
    assert set(frame["model"]) == {"a", "b", "c"}


def test_one_run_is_itself(tmp_path: Path) -> None:
    run = Recorded.read(make_run(tmp_path / "run", {"a": 1.0}))
    assert join([run]) is run


def test_a_cell_in_both_stands_once_and_a_finished_one_goes_before_a_failed_one(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", {"a": 1.0, "b": 0.5, "c": 0.1}, failing=("b", "c"))
    second = make_run(tmp_path / "second", {"b": 0.5, "a": 1.0, "c": 0.1}, failing=("a", "c"), machine="other")
    run = joined(first, second)
    states = {r.spec.model: (r.status, r.provenance["hardware"]) for r in run.results}
    assert states == {"a": ("done", "one processor"), "b": ("done", "other"), "c": ("failed", "one processor")}
    assert len(run.record.cells) == 3
    (b,) = [r.id for r in run.results if r.spec.model == "b"]
    assert run.folders[b].path == second
    assert len(run.predictions(b)) > 0


def test_what_was_impossible_or_the_same_in_one_run_and_is_a_row_of_another_is_neither(tmp_path: Path) -> None:
    why = "there are none to learn from"
    first = make_run(
        tmp_path / "first",
        {"a": 1.0},
        impossible={"b: frozen / none / none": why, "b: full / none / none": why},
        collapsed={"b": "the towers of a", "frozen / eda / none": "the same as frozen / none / none"},
    )
    second = make_run(tmp_path / "second", {"b": 1.0}, impossible={"c: frozen / none / none": why})
    record = joined(first, second).record
    assert record.impossible == {"b: full / none / none": why, "c: frozen / none / none": why}
    assert record.collapsed == {"frozen / eda / none": "the same as frozen / none / none"}
    assert set(record.models) == {"a", "b"}


def test_findings_are_united_and_muted_only_where_all_runs_muted_them(tmp_path: Path) -> None:
    leak = Finding(code="LB001", severity="error", message="a patient crosses")
    near, ids = (Finding(code=c, severity="warning", message=c) for c in ("LB003", "LB010"))
    mute = {"muted": True}
    first = make_run(tmp_path / "first", {"a": 1.0}, audit=(near.model_copy(update=mute), ids.model_copy(update=mute)))
    second = make_run(tmp_path / "second", {"b": 1.0}, audit=(leak, near, ids.model_copy(update=mute)))
    record = joined(first, second).record
    assert record.audit == (leak, near, ids.model_copy(update=mute))
    assert record.leakage == ("LB001",)
    call("report", first, second, "--out", tmp_path / "joined")
    assert "Leakage: test is not held out" in (tmp_path / "joined" / "leaderboard.md").read_text()


def test_the_common_record_says_all_that_was_asked_and_used(tmp_path: Path) -> None:
    first = make_run(
        tmp_path / "first", {"a": 1.0}, started="2025-03-01T00:00:00+00:00", config={"scale": "tiny", "workers": 1}
    )
    second = make_run(
        tmp_path / "second",
        {"b": 1.0},
        config={"preset": "paper", "scale": "tiny", "workers": 4, "include_images": True},
        provenance={"hardware": "one processor", "packages": {"torch": "2.9.0"}, "python": "3.11.9", "commit": None},
        status="interrupted",
    )
    record = joined(first, second).record
    assert record.started == "2025-01-31T09:30:00+00:00"
    assert record.config["models"] == ["a", "b"]
    assert record.config["preset"] == "quick and paper"
    assert record.config["include_images"] is True
    assert record.config["scale"] == "tiny"
    assert "workers" not in record.config  # no one number was given
    assert record.provenance == {
        "packages": {"torch": "2.8.0 and 2.9.0"},
        "python": "3.11.9",
        "commit": "0123abc",
        "hardware": "one processor",
    }
    assert record.status == "interrupted"


# --------------------------------------------------------------------------------------------- other questions


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"split": "bbbb"}, 'the split (samples, patients, labels, pixels or parts) differs, "aaaa" in the first'),
        ({"dataset": {"name": "elsewhere"}}, 'the dataset differs, "demo" in the first and "elsewhere" in the second'),
        ({"dataset": {"classes": ("no", "maybe")}}, 'the list of classes differs, ["no", "yes"] in the first'),
        ({"dataset": {"positive_class": "no"}}, 'the positive class differs, "yes" in the first and "no"'),
        ({"evaluation": {"replicates": 9}}, "evaluation.replicates differs, 40 in the first and 9 in the second"),
        ({"evaluation": {"new": True}}, "evaluation.new differs, null in the first and true in the second"),
        ({"spec": {"protocol_version": "1"}}, 'the version of the protocol differs, "2" in the first and "1"'),
        ({"spec": {"content": "d"}}, "the content (reports, structured columns, class names or prompts) differs"),
    ],
)
def test_another_question_is_refused_with_both_values_and_both_runs(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    first, second = make_run(tmp_path / "first", {"a": 1.0}), make_run(tmp_path / "second", {"b": 1.0}, **other)
    output = call("report", first, second, "--out", tmp_path / "joined", code=2)
    assert named in output
    assert f"cannot join {first} and {second}: " in output
    assert output.count("\n") == 1
    assert not (tmp_path / "joined").exists()


def test_the_third_run_is_the_one_that_is_named(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, {name: 1.0}) for name in ("one", "two")]
    folders.append(make_run(tmp_path / "three", {"three": 1.0}, split="bbbb"))
    with pytest.raises(BadInput, match=r"one and .*three: the split"):
        joined(*folders)


def test_a_run_without_any_result_yet_can_be_joined(tmp_path: Path) -> None:
    first, empty = make_run(tmp_path / "first", {"a": 1.0}), make_run(tmp_path / "empty", {}, status="running")
    assert [r.spec.model for r in joined(empty, first).results] == ["a"]
    assert joined(first, empty).record.status == "running"


def test_runs_that_disagree_about_a_cell_are_refused_and_rounding_is_no_disagreement(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, {"a": 1.0}) for name in ("first", "second"))
    files = RunFolder(second)
    (result,) = Recorded.read(second).results

    def moved(by: float) -> None:
        """Move every figure of the second run."""
        measurements = [
            m.model_copy(update={"estimate": m.estimate.model_copy(update={"value": m.estimate.value + by})})
            for m in result.measurements
        ]
        files.write(result.model_copy(update={"measurements": tuple(measurements)}), None)

    moved(1e-4)
    assert joined(first, second).results[0] == Recorded.read(first).results[0]
    moved(-0.02)
    output = call("report", first, second, "--out", tmp_path / "joined", code=2)
    assert f"they disagree about cell {result.id} of a, roc_auc" in output


# --------------------------------------------------------------------------------------------- where it is written


def test_a_joined_page_needs_a_place_of_its_own(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, {name: 1.0}) for name in ("first", "second"))
    before = files_of(tmp_path)
    assert "give --out" in call("report", first, second, code=2)
    assert "belongs to none of them" in call("report", first, second, "--out", second / "leaderboard", code=2)
    assert files_of(tmp_path) == before
    call("report", first)
    assert (first / "leaderboard" / "index.html").exists()


def test_a_cell_under_another_cells_name_is_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"a": 1.0, "b": 0.5})
    one, other = sorted((folder / "cells").glob("*.json"))
    one.write_bytes(other.read_bytes())
    assert f"it holds the result of cell {other.stem}" in call("report", folder, code=2)
