"""Result files: ids, atomic writes, NaN in JSON."""

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.evaluate.analysis import best_naive, competes, is_naive
from benchmark.result import CellResult, CellSpec, Estimate, Measurement, digest, tidy, write_atomically

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


def spec(**changes: object) -> CellSpec:
    values: dict[str, object] = {
        "model": "m",
        "model_version": "1",
        "provider": "p",
        "scale": "tiny",
        "weights": "random:0",
        "regime": "frozen",
        "augmentation": "none",
        "head": "none",
        "seed": 0,
        "dataset": "d",
        "split": "f",
        "content": "c",
        "protocol": {},
    }
    return CellSpec.model_validate({**values, **changes})


@given(st.dictionaries(st.text(), JSON))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"seed": 1},
        {"regime": "full"},
        {"split": "g"},
        {"content": "d"},
        {"protocol": {"a": 1}},
        {"weights": "x"},
    ],
)
def test_every_part_of_the_specification_is_in_the_id(change: dict[str, object]) -> None:
    assert spec().id != spec(**change).id


def test_nan_is_null_in_json_and_nan_again_when_read() -> None:
    estimate = Estimate(value=math.nan, n=3, n_patients=2, why_undefined="one class")
    text = estimate.model_dump_json()
    assert '"value":null' in text
    assert math.isnan(Estimate.model_validate_json(text).value)


def test_a_row_is_naive_by_its_record_and_in_older_files_by_having_no_encoder() -> None:
    def row(weights: str, **changes: object) -> CellResult:
        cell = spec(weights=weights)
        values = {"id": cell.id, "spec": cell, "title": "T", "inputs": ("image",), "status": "done", **changes}
        return CellResult.model_validate(values)

    assert [is_naive(row(weights)) for weights in ("none", "random:0", "d")] == [True, False, False]
    encoder = row("d", naive=True)
    assert is_naive(encoder)
    assert not competes(encoder)
    assert competes(row("d"))
    old = encoder.model_dump(mode="json")
    del old["naive"]
    assert not CellResult.model_validate(old).naive


def test_skill_may_be_measured_from_an_encoder_that_is_a_naive_row() -> None:
    """The best of them on validation, whether it has an encoder or not, and never one that reads the report."""

    def row(model: str, figure: float, inputs: tuple[str, ...] = ("image",), **changes: object) -> CellResult:
        cell = spec(model=model, weights="d" if changes else "none")
        fits = {"selection": {"metric": "roc_auc", "value": figure}}
        return CellResult(id=model, spec=cell, title=model, inputs=inputs, status="done", fits=fits, **changes)

    rows = [
        row("pixels", 0.7),
        row("imagenet", 0.8, naive=True),
        row("words", 0.99, ("text",)),
        row("m", 0.9, naive=False),
    ]
    assert best_naive(rows, "roc_auc") == "imagenet"


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, b"old")

    def full_disk(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_tidy_frame_marks_the_space_a_row_is_ranked_by() -> None:
    estimate = Estimate(value=0.5, n=3, n_patients=2)
    measurements = tuple(
        Measurement(evaluator="probe_standard", space=space, metric="roc_auc", estimate=estimate)
        for space in ("pooled", "projected")
    )
    result = CellResult(
        id=spec().id,
        spec=spec(),
        title="M",
        inputs=("image",),
        status="done",
        primary_space="projected",
        measurements=measurements,
    )
    frame = tidy([result])
    assert frame[["space", "primary_space"]].to_numpy().tolist() == [["pooled", False], ["projected", True]]
    assert frame["weights"].unique().tolist() == ["random"]
