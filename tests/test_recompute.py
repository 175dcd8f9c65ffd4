"""``report --recompute``: figures from predictions are those the run recorded, and heal those that were changed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pandas as pd
import pytest

from benchmark.errors import BadInput
from benchmark.join import Recorded
from benchmark.recompute import recomputed
from benchmark.result import CellResult
from benchmark.run_folder import RunFolder

RECORDED = runpy.run_path(str(Path(__file__).with_name("recorded.py")))
make_run, call = RECORDED["make_run"], RECORDED["call"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"a": 1.0, "b": 0.5, "c": 0.1}, failing=("c",))


def results_of(folder: Path) -> dict[str, bytes]:
    files = [folder / "run.json", *(folder / "cells").iterdir(), *(folder / "predictions").iterdir()]
    return {file.name: file.read_bytes() for file in files}


def doctored(folder: Path) -> CellResult:
    """Raise every figure of the first cell, on test and on val; the cell as it was."""
    (first, *_) = Recorded.read(folder).results
    measurements = tuple(
        m.model_copy(update={"estimate": m.estimate.model_copy(update={"value": 0.99, "low": 0.98, "high": 1.0})})
        for m in first.measurements
    )
    selection = {"selection": {"metric": "roc_auc", "value": 0.99}}
    fits = first.fits | selection | {"pooled": first.fits["pooled"] | selection}
    RunFolder(folder).write(first.model_copy(update={"measurements": measurements, "fits": fits}), None)
    return first


def test_what_is_computed_again_is_what_was_recorded(run: Path) -> None:
    read = Recorded.read(run)
    again = recomputed(read)
    assert [r.model_dump_json() for r in again.run.results] == [r.model_dump_json() for r in read.results]
    assert again.missing == ()
    assert again.run.record.model_copy(update={"config": read.record.config}) == read.record


def test_a_doctored_cell_is_healed_on_the_page_and_left_as_it_is_on_disk(run: Path, tmp_path: Path) -> None:
    call("report", run, "--out", tmp_path / "before")
    honest = doctored(run)
    on_disk = results_of(run)
    call("report", run, "--out", tmp_path / "believed")
    assert "0.990" in (tmp_path / "believed" / "leaderboard.md").read_text()
    call("report", run, "--recompute", "--out", tmp_path / "healed")
    for name in ("leaderboard.csv", "leaderboard.md", "leaderboard.tex"):
        assert (tmp_path / "healed" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    cells = json.loads((tmp_path / "healed" / "leaderboard.json").read_text())["cells"]
    assert CellResult.model_validate(cells[0]) == honest
    assert results_of(run) == on_disk


def test_other_resamples_move_intervals_and_nothing_else_and_the_page_says_which(run: Path, tmp_path: Path) -> None:
    before = Recorded.read(run)
    after = recomputed(before, replicates=90, intervals="bca").run
    assert after.record.replicates == 90
    assert after.record.intervals == "bca"
    for old, new in zip(before.results, after.results, strict=True):
        assert [m.estimate.value for m in old.measurements] == pytest.approx(
            [m.estimate.value for m in new.measurements], nan_ok=True
        )
    ends = [
        next(m.estimate.low for m in one.results[0].measurements if m.metric == "roc_auc") for one in (before, after)
    ]
    assert ends[0] != ends[1]
    call("report", run, "--recompute", "--replicates", 90, "--intervals", "bca", "--out", tmp_path / "site")
    assert "(BCa) bootstrap" in (tmp_path / "site" / "leaderboard.tex").read_text()
    assert "corrected for bias and skewness (BCa)" in (tmp_path / "site" / "index.html").read_text()
    assert json.loads((tmp_path / "site" / "leaderboard.json").read_text())["run"]["config"]["intervals"] == "bca"


def test_what_the_predictions_do_not_hold_is_named_and_not_shown(run: Path, tmp_path: Path) -> None:
    first, second, _ = Recorded.read(run).results
    file = run / "predictions" / f"{first.id}.parquet"
    table = pd.read_parquet(file)
    table[table["evaluator"] != "retrieval"].to_parquet(file, index=False)
    (run / "predictions" / f"{second.id}.parquet").unlink()
    again = recomputed(Recorded.read(run))
    assert len(again.missing) == 4
    assert again.missing[0].startswith("a, frozen / none / none, seed 0: retrieval, pooled: recall@1_image_to_text, ")
    assert again.missing[0].endswith(": the predictions hold no rows of it")
    assert all("the predictions of this cell are gone" in line for line in again.missing[1:])
    kept, lost, _ = again.run.results
    assert {m.evaluator for m in kept.measurements} == {"probe_standard", "few_shot_k1"}
    assert kept.left_out["retrieval"] == "not computed again: the predictions hold no rows of it"
    assert "zero_shot" in kept.left_out
    assert lost.measurements == ()
    assert set(lost.left_out) == {"probe_standard", "few_shot_k1", "retrieval", "zero_shot"}
    said = json.loads(call("report", run, "--recompute", "--out", tmp_path / "site", "--json"))
    assert said["not_recomputed"] == list(again.missing)


def test_a_table_without_a_column_of_scores_says_which(run: Path) -> None:
    first, *_ = Recorded.read(run).results
    file = run / "predictions" / f"{first.id}.parquet"
    pd.read_parquet(file).drop(columns="score_1").to_parquet(file, index=False)
    assert "score_1" in recomputed(Recorded.read(run)).missing[0]


def test_settings_of_another_version_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"a": 1.0}, spec={"protocol": {"evaluation": {"shades": 3}}})
    with pytest.raises(BadInput, match="the settings of its evaluation can't be read"):
        recomputed(Recorded.read(run))


def test_progress_counts_every_cell(run: Path) -> None:
    seen: list[tuple[int, int]] = []
    recomputed(Recorded.read(run), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_how_to_compute_again_needs_the_word_to_do_so(run: Path) -> None:
    assert "they need --recompute" in call("report", run, "--replicates", 9, code=2)
    assert "they need --recompute" in call("report", run, "--intervals", "bca", code=2)
