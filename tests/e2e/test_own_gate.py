"""Our own gate: this code's figures on a small phantom against a committed reference, and that it would notice.

A change that is meant to move figures comes with a new reference; docs/gate.md says how to write it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmark.cli import main
from benchmark.embed import Extractor

GATE = Path(__file__).resolve().parents[1] / "gate"
CONFIG, REFERENCE = GATE / "config.yaml", GATE / "reference.json"


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of this code lies, as ``run``, with its cache."""
    folder = tmp_path_factory.mktemp("gate")
    call("run", "--config", CONFIG, "--out", folder / "run", "--cache", folder / "cache")
    return folder


def test_this_code_is_no_worse_than_the_reference(place: Path) -> None:
    found = json.loads(call("gate", place / "run", "--against", REFERENCE, "--json"))
    assert found["passed"]
    assert found["notes"] == []  # nothing runs that the reference does not judge, and under the same protocol
    assert {check["place"]["regime"] for check in found["checks"]} == {"frozen", "heads", "full"}
    assert "images_per_gflop" not in {check["what"] for check in found["checks"]}


def test_it_notices_a_tower_whose_features_are_of_other_pictures(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted regression: everything runs, only that pictures get each other's features."""
    honest = Extractor.images

    def mixed_up(*arguments: object, **options: object) -> object:
        features = honest(*arguments, **options)  # type: ignore[arg-type]  # handed through as they come
        return features[np.random.default_rng(0).permutation(len(features))]

    monkeypatch.setattr(Extractor, "images", mixed_up)
    run = place / "spoilt"
    words = ["--models", "lumbarclip-resnet50", "--regime", "frozen,heads", "--cache", place / "cache"]
    call("run", "--config", CONFIG, *words, "--out", run)
    found = json.loads(call("gate", run, "--against", REFERENCE, "--json", code=1))
    failed = {
        (check["place"]["regime"], check["what"])
        for check in found["checks"]
        if check["outcome"] == "failed" and check["what"] != "result"
    }
    assert {("frozen", "roc_auc_ovr_macro"), ("heads", "roc_auc_ovr_macro")} <= failed
