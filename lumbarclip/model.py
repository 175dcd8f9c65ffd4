"""LumbarCLIP (arXiv:2509.20813, section 3.3): an image encoder and BioClinicalBERT, to be aligned by a soft CLIP loss.

Where the paper is silent: 224 px, normalised as the image encoder's own weights were; texts of at most 128 tokens,
pooled at [CLS] of the last layer. ``tiny`` has the same topology at 64 px, narrow and shallow, and without dropout and
stochastic depth, which cost a small model on few samples more than they give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from baselines.cards import BIO_CLINICAL_BERT
from baselines.checkpoint import below, load_strict, read_state
from baselines.towers import (
    BIO_CLINICAL,
    TINY_BERT,
    TINY_RESNET,
    TINY_SWIN,
    TINY_VIT,
    Architecture,
    DualEncoder,
    ImageSpec,
    TextSpec,
    as_trained,
    build_dual,
)
from benchmark.model import BuildRequest, ModelEntry, Scale
from lumbarclip.cards import RESNET50, SWIN, VIT
from lumbarclip.loss import SoftCLIPLoss


def _architecture(arch: str, size: int, options: Mapping[str, Any], text: TextSpec) -> Architecture:
    image = ImageSpec(arch, size, options)
    return Architecture(image, text, as_trained(image))


def _scales(arch: str, tiny: Mapping[str, Any]) -> dict[Scale, Architecture]:
    return {
        "paper": _architecture(arch, 224, {}, TextSpec("bert", BIO_CLINICAL, 128, "cls")),
        "tiny": _architecture(arch, 64, tiny, TextSpec("bert", TINY_BERT, 96, "cls")),
    }


ARCHITECTURES: dict[str, dict[Scale, Architecture]] = {
    "lumbarclip-resnet50": _scales("resnet50.a1_in1k", TINY_RESNET),
    "lumbarclip-vit": _scales("vit_base_patch16_224.augreg2_in21k_ft_in1k", TINY_VIT),
    "lumbarclip-swin": _scales("swin_base_patch4_window7_224.ms_in22k_ft_in1k", TINY_SWIN),
}
"""Towers per model and scale. ``paper`` is timm's architecture of that name, to the layer."""


class LumbarCLIP(DualEncoder):
    """Towers and objective of LumbarCLIP; its projection heads are the harness's head axis."""

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load timm's ImageNet weights and Bio_ClinicalBERT, each strictly, and count.

        Raises:
            BadInput: where a file does not fit its tower.
        """
        assert self.text is not None, "published files bring a tokenizer, and a tokenizer a text tower"
        source, _ = self.card.weights
        file = folders[source.repo_id] / source.files[0]
        image = downsampling_first(read_state(file))
        text_file = folders[BIO_CLINICAL_BERT.repo_id] / BIO_CLINICAL_BERT.files[0]
        text = bert_of(read_state(text_file))
        self.loaded = {
            "image tower": load_strict(
                self.image.trunk, image, tower="image tower", source=file, unwanted=("fc.", "head.")
            ),
            "text tower": load_strict(
                self.text.encoder, text, tower="text tower", source=text_file, unwanted=("pooler.",)
            ),
        }

    def make_objective(self, temperature: float = 0.07, learnable: bool = False) -> SoftCLIPLoss:
        """The soft CLIP loss. The paper states no temperature: it is fixed at CLIP's first value unless asked."""
        return SoftCLIPLoss(temperature, learnable=learnable)


def downsampling_first(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring Swin keys of the original release to timm's: a stage there begins with the downsampling before it."""
    if "layers.0.downsample.reduction.weight" not in state:
        return dict(state)
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", key): value
        for key, value in state.items()
    }


def bert_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of a BERT that was saved with its pre-training heads (``bert.*`` beside ``cls.*``).

    LayerNorm's ``gamma`` and ``beta`` of files converted from TensorFlow are its ``weight`` and ``bias``.
    """
    modern = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key)): value for key, value in state.items()}
    encoder = below(modern, "bert.")
    others = {key: value for key, value in modern.items() if not key.startswith(("bert.", "cls."))}
    return encoder | others  # what is neither of the two has no place, and the strict load says so


def build_resnet50(request: BuildRequest) -> DualEncoder:
    """Build ``lumbarclip-resnet50``."""
    return _build(RESNET50, request)


def build_vit(request: BuildRequest) -> DualEncoder:
    """Build ``lumbarclip-vit``."""
    return _build(VIT, request)


def build_swin(request: BuildRequest) -> DualEncoder:
    """Build ``lumbarclip-swin``."""
    return _build(SWIN, request)


def _build(entry: ModelEntry, request: BuildRequest) -> DualEncoder:
    # What was published are towers without projections, so one class serves all weights.
    return build_dual(entry.card, ARCHITECTURES[entry.card.name], request, LumbarCLIP, LumbarCLIP)
