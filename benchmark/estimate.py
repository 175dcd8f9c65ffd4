"""What a plan will cost, before it is run: measured on one small batch per model, not guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.data.split import train_reports
from benchmark.plan import Unit
from benchmark.run import Prepared, device_of

if TYPE_CHECKING:
    import torch

BACKWARD = 3.0
"""A training step costs about this many forward passes: one forward, two backward."""

SAMPLE = 8
"""Samples in the batch that is timed."""


def estimate(prepared: Prepared, units: Sequence[Unit]) -> dict[str, Any]:
    """Passes through frozen encoders, minutes and megabytes of the given units.

    Builds each model with random weights and times one batch on the run's device; evaluation and head training,
    which are small beside it, are counted as one second a cell. Units that run side by side share the minutes. A
    model that cannot be timed stands under ``unknown`` with the reason, and the rest is estimated without it.
    """
    from benchmark.workers import worker_count

    dataset, config = prepared.dataset, prepared.config
    device = device_of(config)  # with as many threads as the run will have
    n_images, n_texts = len(set(dataset.pixel_hashes)), len({r for r in dataset.reports or () if r is not None})
    rates: dict[str, tuple[float, float, int]] = {}
    unknown: dict[str, str] = {}
    total = {"image_passes": 0, "text_passes": 0, "minutes": 0.0, "megabytes": 0.0}
    for unit in units:
        total["minutes"] += len(unit.cells) / 60
        name = unit.candidate.registered.name
        if unit.kind == "naive" or name in unknown:
            continue
        try:
            rates[name] = rates.get(name) or _rates(unit, prepared, device)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it is shown, and fails in its run
            unknown[name] = f"{type(error).__name__}: {error}"
            continue
        image_s, text_s, width = rates[name]
        one_pass = n_images * image_s + n_texts * text_s
        if unit.kind == "full":
            pairs = len(prepared.split.train) * config.full_training.epochs
            total["minutes"] += (pairs * (image_s + text_s) * BACKWARD + one_pass) / 60
        else:
            total["image_passes"] += n_images
            total["text_passes"] += n_texts
            total["minutes"] += one_pass / 60
            total["megabytes"] += 4 * width * (n_images + n_texts) / 1e6
    side_by_side = max(1, min(worker_count(config, device.type), len(units)))
    return {**total, "minutes": total["minutes"] / side_by_side, "unknown": unknown}


def _rates(unit: Unit, prepared: Prepared, device: torch.device) -> tuple[float, float, int]:
    """Seconds an image and seconds a text take (0 where none is encoded), and the width of both features."""
    from benchmark import profile
    from benchmark.execute import make_encoder
    from benchmark.model import BuildRequest

    dataset, config = prepared.dataset, prepared.config
    reports = train_reports(dataset, prepared.split)
    request = BuildRequest(scale=config.scale, device=str(device), train_reports=reports)
    model = make_encoder(unit.candidate.registered, request)
    images, texts = profile.rates(
        model, dataset.pixels[:SAMPLE], reports[:SAMPLE], device=device, precision=config.precision
    )
    return 1 / images, 0.0 if math.isnan(texts) else 1 / texts, model.image_dim + model.text_dim
