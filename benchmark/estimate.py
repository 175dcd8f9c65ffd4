"""What a plan will cost, before it is run: measured on one small batch per model, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.plan import Unit
from benchmark.run import Prepared

BACKWARD = 3.0
"""A training step costs about this many forward passes: one forward, two backward."""

SAMPLE = 8
"""Samples in the batch that is timed."""


def estimate(prepared: Prepared, units: Sequence[Unit]) -> dict[str, Any]:
    """Passes through frozen encoders, minutes and megabytes of the given units.

    Builds each model with random weights and times one batch on the run's device; evaluation and head training,
    which are small beside it, are counted as one second a cell.
    """
    from benchmark import profile
    from benchmark.embed import inference, pick_device, preprocessed
    from benchmark.model import BuildRequest, VisionLanguageModel

    dataset, config = prepared.dataset, prepared.config
    device = pick_device(config.device)
    reports = sorted({r for r in dataset.reports or () if r is not None})
    n_images, n_texts = len(set(dataset.pixel_hashes)), len(reports)
    rates: dict[str, tuple[float, float, int]] = {}
    total = {"image_passes": 0, "text_passes": 0, "minutes": 0.0, "megabytes": 0.0}
    for unit in units:
        total["minutes"] += len(unit.cells) / 60
        name = unit.candidate.registered.name
        if unit.kind == "naive":
            continue
        if name not in rates:
            request = BuildRequest(scale=config.scale, device=str(device), train_reports=tuple(reports))
            model = unit.candidate.registered.entry.make(request)
            assert isinstance(model, VisionLanguageModel), f"{name} is registered as an encoder and is not"
            with inference(model):
                pixels = next(preprocessed(model, dataset.pixels, [list(range(SAMPLE))], device=device))
                image_s = 1 / profile.images_per_s(model, pixels, device=device)
                text_s = 1 / profile.texts_per_s(model, reports[:SAMPLE], device=device) if reports else 0.0
            rates[name] = (image_s, text_s, model.image_dim + model.text_dim)
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
    return total
