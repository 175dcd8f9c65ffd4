"""MedCLIP (Wang et al., EMNLP 2022) with its ResNet-50 and its Swin-T ("ViT"): towers, objective, projections, loader.

Paper scale: grey pictures padded to a square of at least 224 px and resized to 224; torchvision's ResNet-50 (2048) or
Swin-T (768, what the authors call ViT); BioClinicalBERT, of whose first, second and last layer the tokens' mean is
taken; linear projections to 512 without bias. ``tiny`` has the same topology at 64 px, narrow and shallow, and without
dropout.

The published code prepares pictures in three ways that disagree; this is the one of its README, ``MedCLIPProcessor``.
Texts are averaged over their own tokens. The published code averages over padding too, so that a text's embedding
depends on the longest text beside it; what is computed here is what that code gives for a text on its own.

The package ``medclip`` (0.0.3) is the oracle of this module's tests and not what runs: it imports names that
transformers 5 no longer has, fetches two models from a hub to build one, moves every input to a GPU without asking,
loads checkpoints by unpickling whatever they hold, and states no licence. Loaded leniently under transformers 5, which
renamed the layers of its Swin, its published file leaves 94 percent of the image tower as it was initialised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.cards import MEDCLIP_RESNET50, MEDCLIP_VIT
from baselines.checkpoint import Part, load_parts, read_state
from baselines.towers import (
    BIO_CLINICAL,
    TINY_BERT,
    TINY_RESNET,
    TINY_SWIN,
    Architecture,
    DualEncoder,
    ImageSpec,
    Released,
    TextSpec,
    build_dual,
    fused,
)
from benchmark.data.preprocess import Preprocess
from benchmark.model import BuildRequest, Features, ModelEntry, Scale

MEAN, STD = 0.5862785803043838, 0.27950088968644304
"""Of the grey level in CheXpert and MIMIC-CXR (``medclip.constants``)."""

LOGIT_SCALE_LIMITS = (0.0, 4.6052)
"""Of log(1/tau) (``MedCLIPModel.compute_logits``)."""


def _architecture(arch: str, size: int, options: Mapping[str, Any], text: TextSpec) -> Architecture:
    preprocess = Preprocess(size, (MEAN,) * 3, (STD,) * 3, fit="pad", grey=True, canvas=size)
    return Architecture(ImageSpec(arch, size, options), text, preprocess)


def _text(config: Mapping[str, Any]) -> TextSpec:
    return TextSpec("bert", config, 77, "mean of layers 1, 2 and last")


def _scales(arch: str, tiny: Mapping[str, Any]) -> dict[Scale, Architecture]:
    return {
        "paper": _architecture(arch, 224, {}, _text(BIO_CLINICAL)),
        # Three layers, so that the second is not the last.
        "tiny": _architecture(arch, 64, tiny, _text({**TINY_BERT, "num_hidden_layers": 3})),
    }


ARCHITECTURES: dict[str, dict[Scale, Architecture]] = {
    "medclip-resnet50": _scales("resnet50.tv_in1k", TINY_RESNET),
    "medclip-vit": _scales("swin_tiny_patch4_window7_224.ms_in1k", TINY_SWIN),
}
"""Towers per model and scale; timm's Swin-T has the layers of the published one under other names."""


class MedCLIPLoss(nn.Module):
    """Semantic matching: soft cross-entropy, both ways, between pair similarities and label similarities.

    ::

        target_ij = exp(l_i . l_j) / sum_k exp(l_i . l_k)
        logits_ij = exp(s) cos(v_i, t_j),   s learned from log(1/0.07) on and kept in [0, 4.6052]
        loss      = mean over rows of CE(logits, target) and of CE(logits', target), halved

    As published (``medclip.losses``): labels at temperature 1, and not divided by their norms as the paper has it.
    There, labels are of 14 findings in {-1, 0, 1}; here, of the dataset's classes in {0, 1}.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:
        """Give the loss of each pair, (B,); ``pooled`` is (B, d), L2-normalised, ``labels`` (B, C) multi-hot."""
        scale = self.log_scale.clamp(*LOGIT_SCALE_LIMITS).exp()
        target = (labels @ labels.T).softmax(dim=1)
        logits = scale * image.pooled @ text.pooled.T
        both = (F.cross_entropy(each, target, reduction="none") for each in (logits, logits.T))
        return torch.stack(list(both)).mean(dim=0)


class MedCLIP(DualEncoder):
    """Towers and objective of MedCLIP."""

    def make_objective(self) -> MedCLIPLoss:
        """Semantic matching with the class labels of the train split."""
        return MedCLIPLoss()


class ReleasedMedCLIP(Released, MedCLIP):
    """MedCLIP with its released projections, 512 wide."""

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Linear to 512 without bias, both."""
        return nn.Linear(self.image_dim, 512, bias=False), nn.Linear(self.text_dim, 512, bias=False)

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load ``pytorch_model.bin`` strictly and count.

        Its ``logit_scale`` is left aside: similarities are cosines here, and heads learn a temperature of their own.

        Raises:
            BadInput: where the file does not fit.
        """
        assert self.text is not None, "published files bring a tokenizer, and a tokenizer a text tower"
        source, _ = self.card.weights
        file = folders[source.repo_id] / source.files[0]
        projection = "model.fc." if self.card.name == MEDCLIP_RESNET50.card.name else "projection_head."
        parts = {
            "vision_model.model.": Part("image tower", self.image.trunk, rename=swin_of),
            f"vision_model.{projection}": Part("image projection", self.image_projection),
            "text_model.model.": Part("text tower", self.text.encoder, unwanted=("pooler.",)),
            "text_model.projection_head.": Part("text projection", self.text_projection),
        }
        self.loaded = load_parts(read_state(file), parts, source=file, unwanted=("logit_scale",))


_SWIN_NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.self\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    # transformers 5 writes these instead of the five above.
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.relative_position_bias\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
)
"""transformers' names of Swin's parts, of either generation, and timm's; applied in this order."""


def swin_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a Swin of transformers to timm's names: one map for queries, keys and values, downsampling goes first.

    A trunk that is no Swin of transformers is left as it is.
    """
    if "embeddings.patch_embeddings.projection.weight" not in state:
        return dict(state)
    renamed = {}
    for key, value in state.items():
        for pattern, name in _SWIN_NAMES:
            key = re.sub(pattern, name, key)
        # transformers ends a stage with the downsampling that timm begins the next one with.
        key = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", key)
        renamed[key] = value
    return fused(renamed, (("query", "key", "value"), ("q", "k", "v")), into="qkv")


def build_resnet50(request: BuildRequest) -> DualEncoder:
    """Build ``medclip-resnet50``."""
    return _build(MEDCLIP_RESNET50, request)


def build_vit(request: BuildRequest) -> DualEncoder:
    """Build ``medclip-vit``."""
    return _build(MEDCLIP_VIT, request)


def _build(entry: ModelEntry, request: BuildRequest) -> DualEncoder:
    return build_dual(entry.card, ARCHITECTURES[entry.card.name], request, MedCLIP, ReleasedMedCLIP)
