"""Two processes under ``torchrun`` train what one process trains, through the command line, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from benchmark.cli import main

SETTINGS = {
    "phantom_patients": 20,
    "augmentations": ["eda"],
    "regimes": ["full"],
    "heads": ["linear-8"],
    "full_training": {"epochs": 2, "batch_size": 20, "learning_rate": 1e-3, "patience": 5},
    "evaluation": {"replicates": 20, "evaluators": ["probe_standard"]},
}


def words(folder: Path) -> list[str]:
    """The same run in a folder of its own."""
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(SETTINGS))
    return ["run", "--models", "lumbarclip-vit", "--config", str(config), "--out", str(folder / "run"), "--json"]


def outcome(folder: Path, output: str) -> tuple[dict[str, Any], pd.DataFrame]:
    (cell,) = json.loads(output[output.index("{") :])["cells"]
    run = folder / "run"
    result = json.loads((run / "cells" / f"{cell['id']}.json").read_text())
    assert not list((run / "checkpoints").glob("*")), "of a finished training none is left"
    return result, pd.read_parquet(run / "predictions" / f"{cell['id']}.parquet")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], pd.DataFrame]]:
    folder = tmp_path_factory.mktemp("together")
    alone = CliRunner().invoke(main, words(folder / "one"))
    assert alone.exit_code == 0, alone.output
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.run(
        [*starter, "-m", "benchmark", *words(folder / "two")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert together.returncode == 0, together.stderr
    return {"one": outcome(folder / "one", alone.stdout), "two": outcome(folder / "two", together.stdout)}


def test_losses_of_every_epoch_are_those_of_one_process(both: dict[str, tuple[dict[str, Any], pd.DataFrame]]) -> None:
    one, two = (both[name][0]["fits"]["training"] for name in ("one", "two"))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["validation_losses"] == pytest.approx(one["validation_losses"], rel=1e-5)


def test_predictions_are_those_of_one_process(both: dict[str, tuple[dict[str, Any], pd.DataFrame]]) -> None:
    one, two = (both[name][1] for name in ("one", "two"))
    assert (one["sample"] == two["sample"]).all()
    np.testing.assert_allclose(one["score_1"], two["score_1"], atol=1e-3)
