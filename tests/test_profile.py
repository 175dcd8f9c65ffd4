"""What a model costs: operations against closed forms, percentiles of a clock we set, the formula of utilisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark import profile
from benchmark.data.phantom import draw
from benchmark.result import Profile

CPU = torch.device("cpu")


def clock_of(durations: Sequence[float]) -> Callable[[], float]:
    """A clock that is read before and after each call, which then took so long; a pause of 1 s between calls."""
    steps = [0.0, *(step for duration in durations for step in (duration, 1.0))]
    return iter(list(accumulate(steps))).__next__


# --------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_operations_of_a_linear_layer_are_two_per_weight_and_row(precision):
    layer, rows = nn.Linear(30, 50), torch.zeros(7, 30)
    with profile.autocast(CPU, precision):
        assert profile.gflops(lambda: layer(rows)) == 2 * 7 * 30 * 50 / 1e9


def test_operations_of_a_convolution_are_two_per_weight_and_place():
    layer, pictures = nn.Conv2d(3, 24, 8, stride=8), torch.zeros(5, 3, 32, 40)
    assert profile.gflops(lambda: layer(pictures)) == 5 * 2 * (24 * 3 * 8 * 8) * (4 * 5) / 1e9


def test_operations_of_an_encoder_layer_are_those_of_its_products_though_its_fused_path_would_hide_them():
    rows, length, width, hidden = 2, 10, 16, 32
    layer = nn.TransformerEncoderLayer(width, 4, hidden, batch_first=True).eval()
    projections = 2 * length * width * (3 * width) + 2 * length * width * width
    attention = 2 * (2 * length * length * width)
    feed_forward = 2 * (2 * length * width * hidden)
    counted = profile.gflops(lambda: layer(torch.zeros(rows, length, width)))
    assert counted == rows * (projections + attention + feed_forward) / 1e9
    assert torch.backends.mha.get_fastpath_enabled()


def test_fused_path_is_put_back_after_a_model_that_raises(toy):
    model = toy.Crash(0)
    with pytest.raises(RuntimeError, match="cheese"):
        profile.gflops(lambda: model.encode_image(torch.zeros(1, 3, 32, 32)))
    assert torch.backends.mha.get_fastpath_enabled()


def test_operations_that_cannot_be_seen_are_unknown_and_not_none():
    assert math.isnan(profile.gflops(lambda: np.ones((4, 4)) @ np.ones((4, 4))))


# --------------------------------------------------------------------------------------------- time


def test_percentiles_of_known_durations(toy):
    milliseconds = [4, 1, 3, 2, 100]
    found = profile.latency(
        *(toy.Toy(0), torch.zeros(1, 3, 32, 32)),
        device=CPU,
        calls=5,
        seconds=1.0,
        clock=clock_of([ms / 1e3 for ms in milliseconds]),
    )
    # Sorted 1 2 3 4 100: rank 0.5 * 4 = 2 is 3; rank 3.8 is 4 + 0.8 * 96; rank 3.96 is 4 + 0.96 * 96.
    assert (found.p50, found.p95, found.p99) == pytest.approx((3, 80.8, 96.16))
    assert found.calls == 5
    assert toy.SEEN["image"] == 6  # one to warm up, and it is not counted


@pytest.mark.parametrize(
    ("each", "calls", "seconds", "made"),
    [(0.1, 30, 0.25, 3), (0.1, 30, 0.45, 5), (0.001, 30, 0.25, 30), (10.0, 30, 0.25, 3)],
)
def test_calls_are_bounded_in_number_and_time_but_never_fewer_than_three(toy, each, calls, seconds, made):
    found = profile.latency(
        *(toy.Toy(0), torch.zeros(1, 3, 32, 32)),
        device=CPU,
        calls=calls,
        seconds=seconds,
        clock=clock_of([each] * 30),
    )
    assert found.calls == made


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=50))
def test_percentiles_rise_and_lie_between_the_fastest_and_the_slowest(seconds):
    found = profile.Latency.of(seconds)
    slack = 1 + 1e-9  # of interpolation
    assert min(seconds) * 1e3 <= found.p50 * slack
    assert found.p50 <= found.p95 * slack <= found.p99 * slack**2 <= max(seconds) * 1e3 * slack**3


def test_device_is_synchronised_before_the_clock_is_read(monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: events.append("synchronised"))
    clock = clock_of([0.1] * 3)

    def read() -> float:
        events.append("read")
        return clock()

    model = SimpleNamespace(encode_image=lambda _pixels: events.append("call"))
    profile.latency(model, torch.zeros(1), device=torch.device("cuda"), calls=3, seconds=1.0, clock=read)
    assert events == ["call", *["synchronised", "read", "call", "synchronised", "read"] * 3]


# --------------------------------------------------------------------------------------------- utilisation


def test_utilisation_is_the_share_of_a_product_s_rate():
    # 200 pictures/s of 3 GFLOPs each are 600 GFLOPs/s, a quarter of 2400.
    assert profile.utilisation(200.0, 3.0, 2400.0) == 0.25
    assert math.isnan(profile.utilisation(200.0, math.nan, 2400.0))


def test_matrix_product_counts_two_n_cubed(monkeypatch):
    monkeypatch.setattr(profile, "_median_s", lambda _call, _device: 0.5)
    assert profile.matmul_gflops(CPU, side=100) == 2 * 100**3 / 0.5 / 1e9


@pytest.mark.parametrize(
    ("device", "precision", "product"),
    [
        ("cpu", "auto", None),
        ("cpu", "bf16", (profile.MATMUL_SIDE, torch.bfloat16)),
        ("cuda", "auto", (profile.GPU_MATMUL_SIDE, torch.bfloat16)),
        ("cuda", "fp32", (profile.GPU_MATMUL_SIDE, torch.float32)),
    ],
)
def test_product_is_of_the_run_s_precision_and_of_the_device_s_size(monkeypatch, device, precision, product):
    asked: list[tuple[int, torch.dtype]] = []
    monkeypatch.setattr(profile, "matmul_gflops", lambda _device, *, side, dtype: asked.append((side, dtype)) or 7.0)
    rate = profile.product_gflops(torch.device(device), precision, yardstick=5.0)
    assert (rate, asked) == ((5.0, []) if product is None else (7.0, [product]))


# --------------------------------------------------------------------------------------------- all together


@pytest.fixture(scope="module")
def pictures():
    return draw(20).pixels[:4]


def test_all_figures_of_a_model_whose_layers_are_known(toy, pictures, monkeypatch):
    monkeypatch.setattr(profile, "MEASURE_S", 0.0)
    costs = profile.measure(toy.Toy(0), pictures, ["disc bulge", "normal"], device=CPU, precision="auto")
    assert costs.gflops_per_image == 2 * (24 * 3 * 8 * 8) * 16 / 1e9
    assert math.isnan(costs.gflops_per_text)  # a mean of looked-up rows has no products
    assert costs.flops_utilisation == pytest.approx(
        costs.images_per_s * costs.gflops_per_image / costs.matmul_gflops, rel=1e-12
    )
    assert costs.bytes_per_study == np.zeros(24, np.float32).nbytes + np.zeros(32, np.float32).nbytes
    assert costs.parameters == 24 * 3 * 8 * 8 + 24 + 256 * 32
    assert 0 < costs.latency_p50_ms <= costs.latency_p95_ms <= costs.latency_p99_ms
    assert costs.latency_calls >= 3
    assert costs.images_per_gflop == pytest.approx(costs.images_per_s / costs.matmul_gflops)
    assert costs.peak_memory_mb > 0
    assert costs.texts_per_s > 0


def test_model_without_a_text_encoder_stores_its_picture_alone(toy, pictures, monkeypatch):
    monkeypatch.setattr(profile, "MEASURE_S", 0.0)
    costs = profile.measure(toy.ImageOnly(0), pictures, ["normal"], device=CPU, precision="auto")
    assert costs.bytes_per_study == 24 * 4
    assert math.isnan(costs.texts_per_s)


def test_memory_of_a_gpu_s_matrix_product_is_not_put_down_to_the_model(toy, pictures, monkeypatch):
    """The product comes after the peak was read, and the peak starts anew after it."""
    monkeypatch.setattr(profile, "MEASURE_S", 0.0)
    events: list[str] = []
    monkeypatch.setattr(profile, "peak_memory_mb", lambda _device: events.append("read") or 1.0)
    monkeypatch.setattr(profile, "product_gflops", lambda *_: events.append("product") or 1.0)
    monkeypatch.setattr(profile, "reset_peak_memory", lambda _device: events.append("reset"))
    assert profile.measure(toy.Toy(0), pictures, [], device=CPU, precision="auto").peak_memory_mb == 1.0
    assert events == ["read", "product", "reset"]


def test_result_written_before_these_figures_existed_still_loads():
    before = '{"images_per_s": 12.5, "texts_per_s": null, "images_per_gflop": 0.2, "parameters": 7, "adapt_s": null}'
    costs = Profile.model_validate_json(before)
    assert costs.images_per_s == 12.5
    assert math.isnan(costs.latency_p50_ms)
    assert math.isnan(costs.flops_utilisation)
    assert (costs.latency_calls, costs.bytes_per_study) == (0, 0)
