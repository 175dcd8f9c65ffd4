"""Training through the command line: what was trained can be kept and used, and an interruption costs an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

from benchmark.cli import main
from benchmark.train import _Training

SETTINGS: dict[str, Any] = {
    "phantom_patients": 20,
    "models": ["lumbarclip-vit"],
    "regimes": ["full"],
    "augmentations": ["eda"],
    "heads": ["linear-8"],
    "workers": 1,
    "full_training": {"epochs": 3, "batch_size": 30},
    "evaluation": {"replicates": 20, "evaluators": ["probe_standard"]},
}


def run(folder: Path, *words: str, **changes: Any) -> Result:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS | changes))
    command = ["run", "--config", str(folder / "config.yaml"), "--out", str(folder / "run"), "--json", *words]
    return CliRunner().invoke(main, command)


def only_cell(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    (file,) = (folder / "run" / "cells").glob("*.json")
    return json.loads(file.read_text()), pd.read_parquet(folder / "run" / "predictions" / f"{file.stem}.parquet")


def test_an_interrupted_training_goes_on_after_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path / "straight").exit_code == 0
    saves: list[int] = []
    original = _Training.save

    def save_then_stop(self: _Training, file: Path) -> None:
        original(self, file)
        saves.append(len(self.losses))
        if len(self.losses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Training, "save", save_then_stop)
    stopped = run(tmp_path / "stopped")
    assert stopped.exit_code == 130
    assert "the same command resumes" in stopped.stderr
    (checkpoint,) = (tmp_path / "stopped" / "run" / "checkpoints").glob("*.pt")
    monkeypatch.setattr(_Training, "save", lambda self, file: saves.append(len(self.losses)))
    assert run(tmp_path / "stopped").exit_code == 0
    assert saves == [1, 2, 3], "two epochs before the interruption, one after it"
    assert not checkpoint.exists()
    (straight, expected), (resumed, found) = (only_cell(tmp_path / name) for name in ("straight", "stopped"))
    assert resumed["fits"] == straight["fits"]
    assert resumed["measurements"] == straight["measurements"]
    pd.testing.assert_frame_equal(found, expected)


def pooled_auc(result: dict[str, Any]) -> float:
    (found,) = (m for m in result["measurements"] if (m["space"], m["metric"]) == ("pooled", "roc_auc"))
    return float(found["estimate"]["value"])


def test_kept_weights_start_another_run(tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", "--set", "full_training.epochs=1", "--set", "full_training.keep_weights=true")
    assert kept.exit_code == 0, kept.output
    trained, _ = only_cell(tmp_path / "kept")
    towers, heads = (
        tmp_path / "kept" / "run" / "weights" / f"{trained['id']}.{p}.safetensors" for p in ("towers", "heads")
    )
    assert heads.exists()
    used = run(tmp_path / "used", "--weights", str(towers), regimes=["frozen"])
    assert used.exit_code == 0, used.output
    frozen, predictions = only_cell(tmp_path / "used")
    assert frozen["spec"]["weights"] not in ("", "random:0")
    assert pooled_auc(frozen) == pytest.approx(pooled_auc(trained), abs=1e-6)
    assert len(predictions)


def test_options_of_an_objective_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    wrong = run(tmp_path, "--set", "full_training.objective={lumbarclip-vi: {temperature: 0.1}}")
    assert wrong.exit_code == 2
    assert "did you mean 'lumbarclip-vit'?" in wrong.stderr
