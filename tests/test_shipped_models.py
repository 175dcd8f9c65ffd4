"""Every model that we ship keeps the contract, and is as large as its card says at both scales."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from benchmark.conformance import EXAMPLE_REPORTS, check
from benchmark.model import BuildRequest, ModelEntry
from benchmark.profile import parameters
from benchmark.registry import Registry

OURS = [r.entry for r in Registry.load().models().values() if r.provider.startswith("lumbarclip-benchmark ")]
ENCODERS = [entry for entry in OURS if entry.kind == "encoder"]


def named(entry: ModelEntry) -> str:
    return entry.card.name


def test_all_of_them_are_looked_at() -> None:
    assert {named(entry) for entry in ENCODERS} == {
        *("lumbarclip-resnet50", "lumbarclip-vit", "lumbarclip-swin"),
        *("convirt", "gloria", "gloria-benchx", "medclip-resnet50", "medclip-vit", "biomedclip", "clip"),
        "imagenet-resnet50",
    }
    assert {named(entry) for entry in OURS if entry.naive} == {
        *("majority", "metadata-only", "tfidf-report", "image-statistics", "random-pixels", "random-encoder"),
        "imagenet-resnet50",
    }


NEEDS_TEXT = {"text features", "gradient flow", "objective"}
"""Clauses that say nothing of an encoder of pictures alone."""


@pytest.mark.parametrize("entry", OURS, ids=named)
def test_tiny_model_keeps_every_clause(entry: ModelEntry) -> None:
    clauses = {c.name: c for c in check(entry, BuildRequest(train_reports=EXAMPLE_REPORTS))}
    assert {name: c.detail for name, c in clauses.items() if c.passed is False} == {}
    silent = {name for name, c in clauses.items() if c.passed is None}
    assert silent == (NEEDS_TEXT if "text" not in entry.card.encodes else set())


@pytest.mark.parametrize("entry", ENCODERS, ids=named)
def test_published_size_is_what_the_card_says(entry: ModelEntry) -> None:
    """On the meta device: the whole architecture is built and a batch goes through its image tower, without memory."""
    with torch.device("meta"):
        model = entry.make(BuildRequest(scale="paper", device="meta", train_reports=EXAMPLE_REPORTS))
        image = model.encode_image(torch.empty(2, 3, 224, 224))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    stated = entry.card.sizes["paper"]
    assert (stated.parameters, stated.image_dim, stated.text_dim) == (
        parameters(model),
        model.image_dim,
        model.text_dim,
    )
    assert image.pooled.shape == (2, stated.image_dim)
    assert model.preprocess(Image.new("L", (40, 30))).shape[1:] == (stated.input_size, stated.input_size)
