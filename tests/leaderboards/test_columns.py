"""What the cost columns show of a row, and that rows without a figure have none."""

from __future__ import annotations

import pytest

from benchmark.result import CellResult, CellSpec, Profile
from leaderboards.columns import Column, all_columns, present

COSTS = Profile(
    images_per_s=200.0,
    latency_p50_ms=23.04,
    latency_p95_ms=41.5,
    latency_p99_ms=99.25,
    latency_calls=30,
    gflops_per_image=4.09,
    flops_utilisation=0.254,
    bytes_per_study=11_264,
    evaluate_s=7.25,
)

NEW = ("latency", "gflops_per_image", "utilisation", "bytes_per_study", "evaluate_s")


def row(profile: Profile) -> CellResult:
    spec = CellSpec(
        **dict.fromkeys(("model", "model_version", "provider", "dataset", "split", "content"), "x"),
        scale="tiny",
        weights="random:0",
        regime="frozen",
        augmentation="none",
        head="none",
        seed=0,
        protocol={},
    )
    return CellResult(id=spec.id, spec=spec, title="X", inputs=("image",), status="done", profile=profile)


def columns() -> dict[str, Column]:
    return {column.key: column for column in all_columns("binary")}


@pytest.mark.parametrize(
    ("key", "text", "sort"),
    [
        ("latency", "23.0", 23.04),
        ("gflops_per_image", "4.1", 4.09),
        ("utilisation", "0.25", 0.254),
        ("bytes_per_study", "11,264", 11_264),
        ("evaluate_s", "7.2", 7.25),
    ],
)
def test_cost_is_shown_rounded_and_sorted_by_its_own_value(key, text, sort):
    shown = columns()[key].read(row(COSTS))
    assert shown is not None
    assert (shown.text, shown.sort) == (text, sort)


def test_latency_names_its_slow_calls_and_how_many_there_were():
    shown = columns()["latency"].read(row(COSTS))
    assert shown is not None
    assert shown.title == "median of 30 calls with one picture; 95% took at most 41.5 ms, 99% at most 99.2 ms"


def test_rows_of_older_files_have_no_such_columns():
    assert {column.key for column in present(all_columns("binary"), [row(Profile())])} & set(NEW) == set()


def test_only_utilisation_is_better_where_it_is_higher():
    assert {key for key in NEW if columns()[key].lower_is_better} == set(NEW) - {"utilisation"}
