"""``profile``: rates over batch sizes, the end of memory, a model that fails, and what is printed and written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from benchmark import profile, sweep
from benchmark.cli import main

CPU = torch.device("cpu")

HUNGRY = '''
import sys
from pathlib import Path

import torch

sys.path.insert(0, {folder!r})
from toy import Toy, card

from benchmark.model import ModelEntry


class Hungry(Toy):
    """Has no memory for more than four pictures or two texts."""

    def encode_image(self, pixels):
        if len(pixels) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().encode_image(pixels)

    def encode_text(self, texts):
        if len(texts) > 2:
            torch.empty(2**60, dtype=torch.uint8)
        return super().encode_text(texts)


ENTRIES = [ModelEntry(card("hungry"), lambda request: Hungry(request.seed, "hungry"))]
'''


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Three calls a figure, few pictures: what is measured is not what is tested."""
    monkeypatch.setattr(sweep, "PATIENTS", 20)
    monkeypatch.setattr(profile, "MEASURE_S", 0.0)
    monkeypatch.setattr(sweep, "LATENCY_S", 0.0)


@pytest.fixture
def hungry(tmp_path, toy_file) -> Path:
    plugin = tmp_path / "hungry.py"
    plugin.write_text(HUNGRY.format(folder=str(toy_file.parent)))
    return plugin


def profiled(*words: object) -> Result:
    return CliRunner().invoke(main, ["profile", *map(str, words)])


# --------------------------------------------------------------------------------------------- the end of memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("HIP out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("out of cheese"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_errors_that_say_so_are_taken_for_the_end_of_memory(error, expected):
    assert sweep.is_out_of_memory(error) is expected


def test_torch_says_so_itself_on_a_cpu():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert sweep.is_out_of_memory(raised.value)


def test_smaller_sizes_are_measured_and_larger_ones_not_tried():
    tried: list[int] = []

    def rate(size: int) -> float:
        tried.append(size)
        if size >= 16:
            raise MemoryError
        return 10.0 * size

    found = sweep.over_sizes(rate, (64, 16, 1, 8), CPU)
    assert tried == [1, 8, 16]
    assert (found.per_s, found.out_of_memory_at, found.best) == ({1: 10.0, 8: 80.0}, 16, 80.0)


def test_all_sizes_fit():
    found = sweep.over_sizes(float, (1, 2), CPU)
    assert (found.per_s, found.out_of_memory_at) == ({1: 1.0, 2: 2.0}, None)


def test_another_error_is_not_swallowed():
    def rate(_size: int) -> float:
        raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError, match="cheese"):
        sweep.over_sizes(rate, (1,), CPU)


def test_best_rate_is_unknown_where_nothing_fits():
    assert math.isnan(sweep.Rates(out_of_memory_at=1).best)


# --------------------------------------------------------------------------------------------- the verb


def test_sizes_that_do_not_fit_are_shown_and_smaller_ones_measured(hungry, tmp_path):
    out = tmp_path / "new" / "costs.csv"
    done = profiled("--models", "hungry", "--plugin", hungry, "--batch-sizes", "8,1,4,2", "--json", "--out", out)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["models"]
    assert list(row["images"]["per_s"]) == ["1", "2", "4"]
    assert row["images"]["out_of_memory_at"] == 8
    assert list(row["texts"]["per_s"]) == ["1", "2"]
    assert row["texts"]["out_of_memory_at"] == 4
    assert row["profile"]["latency_p50_ms"] > 0
    assert row["profile"]["images_per_s"] == max(row["images"]["per_s"].values())
    with out.open() as file:
        (line,) = csv.DictReader(file)
    assert (line["images_out_of_memory_at"], line["images_per_s_at_8"], line["failure"]) == ("8", "", "")
    assert float(line["images_per_s_at_4"]) == row["images"]["per_s"]["4"]


def test_every_figure_is_there_in_words_and_as_json(toy_file):
    words = ("--models", "toy,toy-picture", "--plugin", toy_file, "--batch-sizes", "1,8")
    document = json.loads(profiled(*words, "--json").stdout)
    assert (document["scale"], document["precision"], document["batch_sizes"]) == ("tiny", "fp32", [1, 8])
    pair, picture = document["models"]
    assert (pair["model"], pair["weights"], pair["failure"]) == ("toy", "random", None)
    known = {name for name, value in pair["profile"].items() if value}
    assert set(pair["profile"]) - known == {"head_parameters", "gflops_per_text"}  # a bag of words has no products
    assert (picture["texts"]["per_s"], picture["profile"]["adapt_s"]) == ({}, None)
    assert picture["profile"]["evaluate_s"] > 0
    shown = profiled(*words)
    assert shown.exit_code == 0, shown.output
    assert "random: untrained weights" in shown.stdout
    costs = next(line for line in shown.stdout.splitlines() if line.split()[:2] == ["toy", "random"])
    assert costs.split()[2:4] == ["0.01", "M"]
    assert "224" in costs.split()  # (24 + 32) float32 a study


def test_model_that_fails_costs_its_own_row_alone(toy_file):
    words = ("--models", "toy-crash,toy-quits,toy", "--plugin", toy_file, "--batch-sizes", "2")
    done = profiled(*words)
    assert done.exit_code == 1
    assert "FAILED toy-crash: RuntimeError: out of cheese" in done.stderr
    assert "FAILED toy-quits: SystemExit" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.strip().startswith("toy")] == ["toy", "toy"]
    assert "Traceback" not in done.output


def test_naive_rows_are_left_out_by_name(toy_file):
    done = profiled("--models", "majority,toy", "--plugin", toy_file, "--batch-sizes", "2", "--json")
    assert json.loads(done.stdout)["left_out"] == {"majority": "it has no encoder"}
    assert "left out: majority: it has no encoder" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--models", "majority"), "there is nothing to measure (majority: it has no encoder)"),
        (("--models", "nobody"), "unknown model 'nobody'"),
        (("--batch-sizes", "1,x"), "give whole numbers from 1 on"),
        (("--batch-sizes", "0"), "give whole numbers from 1 on"),
        (("--batch-sizes", ","), "needs at least one value"),
        (("--preset", "huge"), "unknown preset 'huge'"),
        (("--models", "convirt", "--weights", "nowhere.pt"), "no weights file nowhere.pt"),
        (("--device", "abacus"), "unknown device 'abacus'"),
    ],
)
def test_bad_input_is_one_sentence(words, said):
    done = profiled(*words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_out_must_be_a_file(tmp_path, toy_file):
    done = profiled("--models", "toy", "--plugin", toy_file, "--out", tmp_path)
    assert done.exit_code == 2
    assert "is a folder; give the path of a CSV file" in done.stderr


def test_what_stands_for_published_weights_alone_is_not_measured_with_random_ones():
    done = profiled("--models", "imagenet-resnet50", "--json")
    assert done.exit_code == 2
    assert "imagenet-resnet50: it stands for its published weights alone" in done.output
