"""From a run to a gate on its command line: the toy plug-in passes against itself, and not with scores turned round."""

import json
from pathlib import Path

import pandas as pd
import yaml
from click.testing import CliRunner

from benchmark.cli import main

CONFIG = {
    "phantom_patients": 20,
    "workers": 1,
    "regimes": ["frozen"],
    "evaluation": {"replicates": 30, "evaluators": ["probe_standard"]},
}


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_run_passes_against_itself_and_not_once_its_scores_are_turned_round(tmp_path: Path, toy_file: Path) -> None:
    config, run, reference = tmp_path / "config.yaml", tmp_path / "run", tmp_path / "reference.json"
    config.write_text(yaml.safe_dump(CONFIG))
    call(
        *("run", "--models", "majority,image-statistics,toy", "--plugin", toy_file),
        *("--config", config, "--out", run),
    )
    assert "3 cells; margins by default: roc_auc 0.02" in call("gate", run, "--against", reference, "--update")
    found = json.loads(call("gate", run, "--against", reference, "--json"))
    rates = [check for check in found["checks"] if check["what"] == "images_per_gflop"]
    assert [check["place"]["model"] for check in rates] == ["toy"]  # the only one with an encoder to time
    assert rates[0]["before"] > 0
    assert "not distinguishable" in call("compare", run, run)

    (toy,) = (f for f in (run / "cells").glob("*.json") if json.loads(f.read_text())["spec"]["model"] == "toy")
    file = run / "predictions" / f"{toy.stem}.parquet"
    table = pd.read_parquet(file)
    label = table["label"].astype(float)
    table.assign(score_0=label, score_1=1 - label).to_parquet(file, index=False)
    shown = call("gate", run, "--against", reference, "--summary", tmp_path / "gate.md", code=1)
    assert "failed: toy, frozen / none / none, seed 0: roc_auc: " in shown
    assert "❌" in (tmp_path / "gate.md").read_text()
