"""BiomedCLIP (Zhang et al., NEJM AI 2025): towers, released projections and loader of its open_clip folder.

Paper scale: the shorter side at 224 px and the central square of it; timm's ViT-B/16 and PubMedBERT at 256 tokens, both
read at their class token; a linear projection of pictures and a two-layer one of texts, to 512, without biases. Its
objective is the harness's default, symmetric InfoNCE with a learned temperature. ``tiny`` has the same topology at
64 px, narrow and shallow, and without dropout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from baselines.cards import BIOMEDCLIP, BIOMEDCLIP_RELEASE
from baselines.checkpoint import Part, load_parts, read_state
from baselines.towers import TINY_BERT, TINY_VIT, Architecture, DualEncoder, ImageSpec, Released, TextSpec, build_dual
from benchmark.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, Scale

_VIT = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
_PUBMED_BERT = {"vocab_size": 30522, "hidden_size": 768, "pad_token_id": 0}


def _architecture(size: int, options: Mapping[str, Any], text: TextSpec) -> Architecture:
    return Architecture(ImageSpec(_VIT, size, options), text, Preprocess(size, CLIP_MEAN, CLIP_STD, fit="crop"))


ARCHITECTURES: dict[Scale, Architecture] = {
    "paper": _architecture(224, {}, TextSpec("bert", _PUBMED_BERT, 256, "cls")),
    "tiny": _architecture(64, TINY_VIT, TextSpec("bert", TINY_BERT, 96, "cls")),
}
"""Towers per scale; of timm's tag the architecture alone is used."""

SETTINGS: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    },
    "preprocess_cfg": {"mean": list(CLIP_MEAN), "std": list(CLIP_STD)},
}
"""What ``open_clip_config.json`` must say where no tensor's shape would show a difference."""


class BiomedCLIP(DualEncoder):
    """The towers of BiomedCLIP."""


class ReleasedBiomedCLIP(Released, BiomedCLIP):
    """BiomedCLIP with its released projections, 512 wide."""

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Linear, and Linear-GELU-Linear through the mean of both widths; no biases."""
        hidden = (self.text_dim + 512) // 2
        text = nn.Sequential(
            nn.Linear(self.text_dim, hidden, bias=False), nn.GELU(), nn.Linear(hidden, 512, bias=False)
        )
        return nn.Linear(self.image_dim, 512, bias=False), text

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Check the folder's settings, load its weights strictly and count. ``logit_scale`` is left aside.

        Raises:
            BadInput: where the folder holds another model, or the file does not fit.
        """
        assert self.text is not None, "published files bring a tokenizer, and a tokenizer a text tower"
        folder = folders[BIOMEDCLIP_RELEASE.repo_id]
        _check_settings(folder / "open_clip_config.json")
        file = folder / BIOMEDCLIP_RELEASE.files[0]
        parts = {
            "visual.trunk.": Part("image tower", self.image.trunk),
            "visual.head.proj.": Part("image projection", self.image_projection),
            "text.transformer.": Part("text tower", self.text.encoder),
            "text.proj.": Part("text projection", self.text_projection),
        }
        self.loaded = load_parts(read_state(file), parts, source=file, unwanted=("logit_scale",))


def _check_settings(file: Path) -> None:
    """Compare open_clip's settings with what is built here.

    Raises:
        BadInput: naming the first setting that differs.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} can't be read as open_clip's settings ({error}); fetch the folder again") from error

    def compare(wanted: Mapping[str, Any], given: object, path: str) -> None:
        for key, value in wanted.items():
            here = given.get(key) if isinstance(given, dict) else None
            if isinstance(value, Mapping):
                compare(value, here, f"{path}{key}.")
            elif here != value:
                raise BadInput(
                    f"{file} is of another model than BiomedCLIP: {path}{key} is {here!r} and not {value!r}; "
                    f"put the files of {BIOMEDCLIP_RELEASE.repo_id} there"
                )

    compare(SETTINGS, found, "")


def build(request: BuildRequest) -> DualEncoder:
    """Build ``biomedclip``."""
    return build_dual(BIOMEDCLIP.card, ARCHITECTURES, request, BiomedCLIP, ReleasedBiomedCLIP)
