"""CLIP (Radford et al., ICML 2021) with its ViT-B/16: towers, released projections, tokenizer and loader.

Trained on pictures of the web, it shows what medical pre-training adds. Paper scale: the shorter side at 224 px and the
central square of it; a ViT-B/16 with QuickGELU and a LayerNorm before its first block, read at the class token; a
causal text transformer over lower-cased byte-level BPE, 77 tokens, read at the end-of-text token; linear projections to
512 without bias. Its objective is the harness's default, symmetric InfoNCE with a learned temperature. ``tiny`` has the
same topology at 64 px, narrow and shallow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTokenizer

from baselines.cards import CLIP as ENTRY
from baselines.cards import CLIP_RELEASE
from baselines.checkpoint import Part, load_parts, read_state
from baselines.towers import (
    TINY,
    TINY_VIT,
    Architecture,
    DualEncoder,
    ImageSpec,
    Released,
    TextSpec,
    build_dual,
    fused,
)
from benchmark.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, ModelCard, Scale


def _architecture(size: int, options: Mapping[str, Any], text: TextSpec) -> Architecture:
    return Architecture(ImageSpec(_VIT, size, options), text, Preprocess(size, CLIP_MEAN, CLIP_STD, fit="crop"))


_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "pad_token_id": 0,
}
_VIT = "vit_base_patch16_clip_quickgelu_224.openai"

ARCHITECTURES: dict[Scale, Architecture] = {
    "paper": _architecture(224, {}, TextSpec("clip", _TEXT, 77, "eot")),
    "tiny": _architecture(64, TINY_VIT, TextSpec("clip", {**TINY, "bos_token_id": 2, "eos_token_id": 3}, 77, "eot")),
}
"""Towers per scale. Padding is masked, so it may have any number; OpenAI's own code pads with 0. ``tiny`` reads a
learned vocabulary, whose [CLS] and [SEP] take the places of start and end of text."""


class CLIP(DualEncoder):
    """The towers of CLIP."""

    @classmethod
    def published_tokenizer(cls, card: ModelCard, spec: TextSpec, folders: Mapping[str, Path]) -> Tokenizer:  # noqa: ARG003 - as its base
        """CLIP's lower-casing byte-level BPE."""
        folder = folders[CLIP_RELEASE.repo_id]
        return clip_bpe(folder / "vocab.json", folder / "merges.txt", spec.config["vocab_size"])


class ReleasedCLIP(Released, CLIP):
    """CLIP with its released projections, as wide as the text tower."""

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Linear without bias, both; 512 wide at scale ``paper``."""
        width = self.text_dim
        return nn.Linear(self.image_dim, width, bias=False), nn.Linear(self.text_dim, width, bias=False)

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load transformers' release of OpenAI's weights strictly and count. ``logit_scale`` is left aside.

        Raises:
            BadInput: where the file does not fit.
        """
        assert self.text is not None, "published files bring a tokenizer, and a tokenizer a text tower"
        file = folders[CLIP_RELEASE.repo_id] / CLIP_RELEASE.files[0]
        parts = {
            "vision_model.": Part("image tower", self.image.trunk, rename=vit_of),
            "text_model.": Part("text tower", self.text.encoder),
            "visual_projection.": Part("image projection", self.image_projection),
            "text_projection.": Part("text projection", self.text_projection),
        }
        self.loaded = load_parts(read_state(file), parts, source=file, unwanted=("logit_scale",))


_NAMES = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.(q|k|v)_proj\.", r".attn.\1."),
)
"""transformers' names of the vision tower's parts, its own misspelling included, and timm's."""


def vit_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring CLIP's vision tower from transformers' names to timm's: one map for queries, keys and values."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in _NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = value.reshape(1, -1, value.shape[-1]) if key in ("cls_token", "pos_embed") else value
    return fused(renamed, (("q", "k", "v"),), into="qkv")


def clip_bpe(vocabulary: Path, merges: Path, size: int) -> Tokenizer:
    """CLIP's tokenizer from its two files.

    Raises:
        BadInput: where they are not CLIP's.
    """
    try:
        entries = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        tokenizer: Tokenizer = CLIPTokenizer(vocab=entries, merges=pairs).backend_tokenizer
    except Exception as error:  # the library raises nothing narrower
        raise BadInput(
            f"{vocabulary} and {merges} can't be read as a vocabulary ({error}); fetch them again"
        ) from error
    if "<|endoftext|>" not in entries or len(entries) != size:
        raise BadInput(
            f"{vocabulary} is not CLIP's vocabulary: {len(entries)} entries for {size}, "
            f"{'with' if '<|endoftext|>' in entries else 'without'} <|endoftext|>; fetch or copy it again"
        )
    return tokenizer


def build(request: BuildRequest) -> DualEncoder:
    """Build ``clip``."""
    return build_dual(ENTRY.card, ARCHITECTURES, request, CLIP, ReleasedCLIP)
