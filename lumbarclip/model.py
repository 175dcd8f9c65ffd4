"""LumbarCLIP (arXiv:2509.20813, section 3.3): an image encoder and BioClinicalBERT, to be aligned by a soft CLIP loss.

Where the paper is silent: 224 px, normalised as the image encoder's own weights were; texts of at most 128 tokens,
pooled at [CLS] of the last layer. ``tiny`` has the same topology at 64 px, narrow and shallow, and without dropout and
stochastic depth, which cost a small model on few samples more than they give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from baselines.checkpoint import below, load_strict, read_state
from baselines.towers import Architecture, DualEncoder, ImageSpec, TextSpec, saved_state
from baselines.wordpiece import read_wordpiece
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, ModelEntry, Scale
from lumbarclip.cards import BIO_CLINICAL_BERT, RESNET50, SWIN, VIT
from lumbarclip.loss import SoftCLIPLoss

BERT_BASE = TextSpec("bert", {"vocab_size": 28996, "hidden_size": 768, "pad_token_id": 0}, 128, "cls")
"""BioClinicalBERT: BERT-base (transformers' defaults) over BioBERT's cased vocabulary, used lower-cased."""

BERT_TINY = TextSpec(
    "bert",
    {
        "vocab_size": 2000,
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "max_position_embeddings": 96,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
    },
    96,
    "cls",
)

_RESNET50 = "resnet50.a1_in1k"
_VIT = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
_SWIN = "swin_base_patch4_window7_224.ms_in22k_ft_in1k"

ARCHITECTURES: dict[str, dict[Scale, Architecture]] = {
    "lumbarclip-resnet50": {
        "paper": Architecture(ImageSpec(_RESNET50, 224), BERT_BASE),
        # A quarter of every stage's width, one bottleneck block each.
        "tiny": Architecture(
            ImageSpec(_RESNET50, 64, {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}), BERT_TINY
        ),
    },
    "lumbarclip-vit": {
        "paper": Architecture(ImageSpec(_VIT, 224), BERT_BASE),
        "tiny": Architecture(
            ImageSpec(
                _VIT,
                64,
                {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2},
            ),
            BERT_TINY,
        ),
    },
    "lumbarclip-swin": {
        "paper": Architecture(ImageSpec(_SWIN, 224), BERT_BASE),
        # The second block of a stage is the shifted one; only a map larger than the window (stages 1 and 2) shifts.
        "tiny": Architecture(
            ImageSpec(
                _SWIN,
                64,
                {
                    "img_size": 64,
                    "patch_size": 8,
                    "window_size": 2,
                    "embed_dim": 16,
                    "depths": (2, 2, 2, 2),
                    "num_heads": (1, 2, 4, 8),
                    "mlp_ratio": 2,
                    "drop_path_rate": 0.0,
                },
            ),
            BERT_TINY,
        ),
    },
}
"""Towers per model and scale. ``paper`` is timm's architecture of that name, to the layer."""


class LumbarCLIP(DualEncoder):
    """Towers and objective of LumbarCLIP; its projection heads are the harness's head axis."""

    @classmethod
    def published_tokenizer(cls, spec: TextSpec, folders: Mapping[str, Path]) -> Tokenizer:
        """The tokenizer of Bio_ClinicalBERT, lower-casing."""
        return read_wordpiece(folders[BIO_CLINICAL_BERT.repo_id] / "vocab.txt", spec.config["vocab_size"])

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

    def make_objective(self) -> SoftCLIPLoss:
        """The soft CLIP loss with the paper's alpha = 0.5, at a fixed temperature of 0.07."""
        return SoftCLIPLoss()


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


def build_resnet50(request: BuildRequest) -> LumbarCLIP:
    """Build ``lumbarclip-resnet50``."""
    return _build(RESNET50, request)


def build_vit(request: BuildRequest) -> LumbarCLIP:
    """Build ``lumbarclip-vit``."""
    return _build(VIT, request)


def build_swin(request: BuildRequest) -> LumbarCLIP:
    """Build ``lumbarclip-swin``."""
    return _build(SWIN, request)


def _build(entry: ModelEntry, request: BuildRequest) -> LumbarCLIP:
    card = entry.card
    if request.weights == "pretrained" and request.scale != "paper":
        raise BadInput(f"{card.name} has published weights at scale 'paper' only; use --weights random")
    return LumbarCLIP.build(card, ARCHITECTURES[card.name][request.scale], request, saved_state(request))
