"""Small run folders as a run leaves them: predictions first, figures measured from those, for 40 patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from click.testing import CliRunner
from scipy.stats import norm

from benchmark.cli import main
from benchmark.evaluate.predictions import choices, recompute
from benchmark.evaluate.protocol import EvaluationConfig
from benchmark.result import (
    CellResult,
    CellSpec,
    DatasetRecord,
    Failure,
    Maps,
    ModelRecord,
    PictureMaps,
    Profile,
    RunRecord,
    SplitRecord,
)
from benchmark.run_folder import RunFolder

EVALUATION = EvaluationConfig(replicates=40, evaluators=("probe_standard", "few_shot", "retrieval"), recall_at=(1, 5))
GROUPS = np.repeat(np.arange(3, 83, 2), 2)
NAMES = np.array([f"smith-{g}-1957/picture-{i % 2}" for i, g in enumerate(GROUPS)], dtype=object)
VAL_BELOW = 23
LABELS = GROUPS // 2 % 2
FOLDER = "/home/annabel7/studies"


def call(*words: object, code: int = 0) -> str:
    """What a command prints, given that it ends with this code and no traceback."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def predictions(signal: float, seed: int, rows: np.ndarray | None = None) -> pd.DataFrame:
    """Scores that follow the labels the more, the stronger the signal; samples in any order."""
    rng = np.random.default_rng(seed)
    scores = norm.cdf(signal * (LABELS - 0.5) + rng.normal(size=len(LABELS)))
    both = pd.DataFrame({"sample": NAMES, "group": GROUPS, "label": LABELS, "score_0": 1 - scores, "score_1": scores})
    both = both.iloc[np.arange(len(NAMES)) if rows is None else rows]
    both["split"] = np.where(both["group"] < VAL_BELOW, "val", "test")
    test = both[both["split"] == "test"]
    ranks = rng.integers(1, 9, size=(2, len(test)))
    pieces = [
        both.assign(evaluator="probe_standard", draw=0),
        *(test.assign(evaluator="few_shot_k1", draw=draw, score_1=test["score_1"] ** (draw + 1)) for draw in (0, 1)),
        test.assign(
            evaluator="retrieval",
            draw=0,
            score_0=np.nan,
            score_1=np.nan,
            rank_image_to_text=ranks[0],
            rank_text_to_image=ranks[1],
            identical_texts=1,
        ),
    ]
    table = pd.concat(pieces, ignore_index=True).assign(space="pooled")
    return table.astype({"evaluator": "category", "space": "category", "split": "category"})


def cell(model: str, table: pd.DataFrame, *, split: str, machine: str, **spec: Any) -> CellResult:
    """The result of a table of predictions."""
    protocol = {"evaluation": EVALUATION.model_dump(mode="json")}
    made = CellSpec.model_validate(
        {
            "model": model,
            "model_version": "1",
            "provider": "test",
            "scale": "tiny",
            "weights": "none",
            "regime": "frozen",
            "augmentation": "none",
            "head": "none",
            "seed": 0,
            "dataset": "demo",
            "split": split,
            "content": "c",
            "protocol": protocol,
            **spec,
        }
    )
    known = {"task": "binary", "classes": ("no", "yes")}
    found = recompute(
        table,
        **known,
        fingerprint=split,
        replicates=EVALUATION.replicates,
        recall_at=EVALUATION.recall_at,
        threshold=EVALUATION.threshold,
    )
    fits = choices(table, **known, criterion=EVALUATION.threshold)
    return CellResult(
        id=made.id,
        spec=made,
        title=model.title(),
        inputs=("image",),
        status="done",
        measurements=found,
        fits=fits | {"selection": fits["pooled"]["selection"]},
        left_out={"zero_shot": "pictures and texts do not share a space"},
        profile=Profile(images_per_s=10.0),
        provenance={"hardware": machine},
    )


def failed(result: CellResult) -> CellResult:
    """The same cell, had it raised."""
    failure = Failure(kind="OSError", message=f"{FOLDER}/smith.png is gone", traceback_tail=f'File "{FOLDER}/x.py"')
    return result.model_copy(update={"status": "failed", "failure": failure, "measurements": (), "fits": {}})


def maps() -> Maps:
    """One picture with one phrase."""
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    cosines = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 2, 2)
    return Maps((PictureMaps(picture, picture > 40, ("mild stenosis",), (True,), cosines),))


def make_run(
    folder: Path,
    models: dict[str, float],
    *,
    split: str = "aaaa",
    machine: str = "one processor",
    failing: tuple[str, ...] = (),
    rows: np.ndarray | None = None,
    spec: dict[str, Any] | None = None,
    seed: int = 0,
    dataset: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    with_maps: bool = False,
    **record: Any,
) -> Path:
    """A run folder with one cell a model, named by model -> strength of its signal."""
    files, cells = RunFolder(folder), []
    for model, signal in models.items():
        table = predictions(signal, seed, rows)
        result = cell(model, table, split=split, machine=machine, **(spec or {}))
        if model in failing:
            files.write(failed(result), None)
        else:
            files.write(result, table, maps() if with_maps else None)
        cells.append(result.id)
    config = {"preset": "quick", "models": list(models), "evaluation": EVALUATION.model_dump(mode="json")}
    config["evaluation"] |= evaluation or {}
    values = {
        "name": folder.name,
        "started": "2025-01-31T09:30:00+00:00",
        "config": config | record.pop("config", {}),
        "dataset": DatasetRecord.model_validate(
            {
                "name": "demo",
                "task": "binary",
                "classes": ("no", "yes"),
                "positive_class": "yes",
                "n": 80,
                "has_reports": True,
                "has_structured": False,
                **(dataset or {}),
            }
        ),
        "split": SplitRecord(
            fingerprint=split,
            origin="seeded",
            grouped_by="patient",
            seed=0,
            n={"train": 100, "val": 20, "test": 60},
            n_patients={"train": 50, "val": 10, "test": 30},
            class_counts={p: {"no": n, "yes": n} for p, n in (("train", 50), ("val", 10), ("test", 30))},
        ),
        "cells": tuple(cells),
        "models": {m: ModelRecord(title=m.title(), summary="", paper="", licence="") for m in models},
        "provenance": {"hardware": machine, "packages": {"torch": "2.8.0"}, "python": "3.11.9", "commit": "0123abc"},
        "status": "done",
    }
    files.write_record(RunRecord.model_validate(values | record))
    return folder
