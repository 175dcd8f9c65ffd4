"""What a model costs: rates and latency of its encoders, operations and how well they are used, parameters, memory.

Every time is a median or percentile of repeats after a warm-up, with the device synchronised before and after a call.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.embed import autocast, inference, preprocessed, resolve_precision
from benchmark.errors import UnsupportedModality
from benchmark.model import VisionLanguageModel
from benchmark.result import Profile

MEASURE_S = 0.4
"""Time spent on one figure after a warm-up pass; at least three passes whatever they take."""

MATMUL_SIDE = 512
"""Side of the square matrices of the yardstick: large enough to keep a processor busy, small enough to be quick."""

GPU_MATMUL_SIDE = 4096
"""Side of those that a GPU's utilisation is measured against: smaller ones are over before all of it is at work."""

LATENCY_CALLS, LATENCY_S = 30, 0.25
"""Calls that a run times one picture for, and seconds after which it is content with fewer; at least three."""

STORED_BYTES = 4
"""Bytes of one number of a stored vector: float32."""

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Latency:
    """How long single calls took, in milliseconds."""

    p50: float
    p95: float
    p99: float
    calls: int
    """Calls that were timed; of a few, the higher percentiles are little more than the slowest."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Percentiles of durations in seconds, interpolated linearly between neighbours."""
        p50, p95, p99 = (float(p) for p in np.percentile(np.asarray(seconds) * 1e3, (50, 95, 99)))
        return cls(p50, p95, p99, len(seconds))


def measure(
    model: VisionLanguageModel,
    pixels: Sequence[NDArray[np.uint8]],
    texts: Sequence[str],
    *,
    device: torch.device,
    precision: str,
) -> Profile:
    """What a run records of every model's encoders, from one batch of pictures and one of texts (or none)."""
    with inference(model), autocast(device, precision):
        batch = next(preprocessed(model, pixels, [range(len(pixels))], device=device))
        images, texts_rate = _rates(model, batch, texts, device)
        return completed(model, batch[:1], texts, images, texts_rate, device=device, precision=precision)


def completed(
    model: VisionLanguageModel,
    picture: Tensor,
    texts: Sequence[str],
    images_rate: float,
    texts_rate: float,
    *,
    device: torch.device,
    precision: str,
    calls: int = LATENCY_CALLS,
    seconds: float = LATENCY_S,
) -> Profile:
    """All that is known of a model's encoders once their rates were measured: to be called just after that.

    Training and evaluation have no part in it, except that the peak memory is the highest since it was last reset.
    It is reset here once more, for the matrix product at the end belongs to no model.

    Args:
        model: in eval mode, under the autocast context of the precision.
        picture: (1, 3, H, W), prepared and on the device.
        texts: one batch, for the operations of a text; not looked at where their rate is NaN.
        images_rate: images/s.
        texts_rate: texts/s; NaN where the model encodes none.
        device: where the model is.
        precision: of the run.
        calls: for the latency.
        seconds: for the latency.
    """
    yardstick = matmul_gflops(device)
    delay = latency(model, picture, device=device, calls=calls, seconds=seconds)
    has_texts = not math.isnan(texts_rate)
    per_image = gflops(lambda: model.encode_image(picture))
    per_text = gflops(lambda: model.encode_text(texts)) / len(texts) if has_texts else math.nan
    peak = peak_memory_mb(device)
    product = product_gflops(device, precision, yardstick)
    reset_peak_memory(device)
    return Profile(
        images_per_s=images_rate,
        texts_per_s=texts_rate,
        images_per_gflop=images_rate / yardstick,
        parameters=parameters(model),
        peak_memory_mb=peak,
        latency_p50_ms=delay.p50,
        latency_p95_ms=delay.p95,
        latency_p99_ms=delay.p99,
        latency_calls=delay.calls,
        gflops_per_image=per_image,
        gflops_per_text=per_text,
        matmul_gflops=product,
        flops_utilisation=utilisation(images_rate, per_image, product),
        bytes_per_study=STORED_BYTES * (model.image_dim + (model.text_dim if has_texts else 0)),
    )


def rates(
    model: VisionLanguageModel,
    pixels: Sequence[NDArray[np.uint8]],
    texts: Sequence[str],
    *,
    device: torch.device,
    precision: str,
) -> tuple[float, float]:
    """Images/s and texts/s on one batch of each, at a run's precision; NaN for texts where none can be encoded."""
    with inference(model), autocast(device, precision):
        return _rates(model, next(preprocessed(model, pixels, [range(len(pixels))], device=device)), texts, device)


def images_per_s(model: VisionLanguageModel, pixels: Tensor, *, device: torch.device) -> float:
    """Median rate of ``encode_image`` on one batch (B, 3, H, W) that is on the device already."""
    with torch.inference_mode():
        return len(pixels) / _median_s(lambda: model.encode_image(pixels), device)


def texts_per_s(model: VisionLanguageModel, texts: Sequence[str], *, device: torch.device) -> float:
    """Median rate of ``encode_text`` on one batch, tokenising included."""
    with torch.inference_mode():
        return len(texts) / _median_s(lambda: model.encode_text(texts), device)


def latency(
    model: VisionLanguageModel,
    picture: Tensor,
    *,
    device: torch.device,
    calls: int = LATENCY_CALLS,
    seconds: float = LATENCY_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """How long ``encode_image`` takes for one picture (1, 3, H, W) that is prepared and on the device already."""
    with torch.inference_mode():
        return Latency.of(_durations(lambda: model.encode_image(picture), device, seconds, calls, clock))


def gflops(call: Callable[[], object]) -> float:
    """Operations of a call in 10^9, a multiplication and an addition counted as two; NaN where none can be seen.

    Counted are matrix products, convolutions and attention (``torch.utils.flop_counter``), and nothing that is done
    outside of torch's own operators or inside a fused one, such as an LSTM on a CPU. The fused path of
    ``nn.TransformerEncoder`` and ``nn.MultiheadAttention`` is such a one, and is left for the count.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 1e9 or math.nan


def matmul_gflops(device: torch.device, *, side: int = MATMUL_SIDE, dtype: torch.dtype = torch.float32) -> float:
    """Median rate of a fixed matrix product, in 10^9 operations a second: a yardstick for other rates.

    A product of two (n, n) matrices counts 2 n^3 operations.
    """
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    with torch.inference_mode():
        return 2 * side**3 / 1e9 / _median_s(lambda: matrix @ matrix, device)


def product_gflops(device: torch.device, precision: str, yardstick: float) -> float:
    """The rate that utilisation is a share of: that of a matrix product at the run's precision.

    Args:
        device: where it is computed.
        precision: of the run.
        yardstick: ``matmul_gflops(device)``, which is that very product at fp32 on a CPU.
    """
    bf16 = resolve_precision(device, precision) == "bf16"
    if device.type != "cuda" and not bf16:
        return yardstick
    side = GPU_MATMUL_SIDE if device.type == "cuda" else MATMUL_SIDE
    return matmul_gflops(device, side=side, dtype=torch.bfloat16 if bf16 else torch.float32)


def utilisation(images_rate: float, gflops_per_image: float, product: float) -> float:
    """Share of a matrix product's rate that an image encoder reaches: images/s times GFLOPs per image over GFLOPs/s.

    It may exceed 1 where convolutions take fewer operations than are counted, or run at a lower precision, as TF32.
    """
    return images_rate * gflops_per_image / product


def parameters(module: object) -> int:
    """Number of parameters of a module; 0 for what is not one."""
    return sum(p.numel() for p in module.parameters()) if isinstance(module, nn.Module) else 0


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of ``peak_memory_mb``; without effect where the system has no way to."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")  # proc(5): resets the peak resident set size


def peak_memory_mb(device: torch.device) -> float:
    """Peak allocated device memory, or peak resident memory of this process, since the last reset, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _STATUS.exists():
        peak = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _rates(
    model: VisionLanguageModel, batch: Tensor, texts: Sequence[str], device: torch.device
) -> tuple[float, float]:
    images = images_per_s(model, batch, device=device)
    if not texts:
        return images, math.nan
    try:
        return images, texts_per_s(model, texts, device=device)
    except UnsupportedModality:  # an image-only model has no such rate
        return images, math.nan


def _median_s(call: Callable[[], object], device: torch.device) -> float:
    return float(np.median(_durations(call, device, MEASURE_S)))


def _durations(
    call: Callable[[], object],
    device: torch.device,
    seconds: float,
    calls: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each call, until they took so long together or so many were made; at least three, one to warm up."""
    call()
    taken: list[float] = []
    while len(taken) < 3 or (sum(taken) < seconds and len(taken) < calls):
        _synchronise(device)
        start = clock()
        call()
        _synchronise(device)
        taken.append(clock() - start)
    return taken


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
