"""What a model costs: images/s and texts/s through its encoders, a yardstick for them, parameters, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.embed import autocast, inference, preprocessed
from benchmark.errors import UnsupportedModality
from benchmark.model import VisionLanguageModel

MEASURE_S = 0.4
"""Time spent on one figure after a warm-up pass; at least three passes whatever they take."""

MATMUL_SIDE = 512
"""Side of the square matrices of the yardstick: large enough to keep a processor busy, small enough to be quick."""

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


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
        images = images_per_s(
            model, next(preprocessed(model, pixels, [range(len(pixels))], device=device)), device=device
        )
        if not texts:
            return images, float("nan")
        try:
            return images, texts_per_s(model, texts, device=device)
        except UnsupportedModality:  # an image-only model has no such rate
            return images, float("nan")


def images_per_s(model: VisionLanguageModel, pixels: Tensor, *, device: torch.device) -> float:
    """Median rate of ``encode_image`` on one batch (B, 3, H, W) that is on the device already."""
    with torch.inference_mode():
        return len(pixels) / _median_s(lambda: model.encode_image(pixels), device)


def texts_per_s(model: VisionLanguageModel, texts: Sequence[str], *, device: torch.device) -> float:
    """Median rate of ``encode_text`` on one batch, tokenising included."""
    with torch.inference_mode():
        return len(texts) / _median_s(lambda: model.encode_text(texts), device)


def matmul_gflops(device: torch.device) -> float:
    """Median rate of a fixed float32 matrix product, in 10^9 operations a second: a yardstick for other rates.

    A product of two (n, n) matrices counts 2 n^3 operations.
    """
    matrix = torch.ones(MATMUL_SIDE, MATMUL_SIDE, device=device)
    with torch.inference_mode():
        return 2 * MATMUL_SIDE**3 / 1e9 / _median_s(lambda: matrix @ matrix, device)


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


def _median_s(call: Callable[[], object], device: torch.device) -> float:
    call()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < MEASURE_S:
        _synchronise(device)
        start = time.perf_counter()
        call()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
