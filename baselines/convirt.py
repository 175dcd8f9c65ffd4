"""ConVIRT (arXiv:2010.00747) as BenchX re-implemented and trained it: towers, released projections, objective, loader.

Paper scale: torchvision's ResNet-50 layout at 224 x 224 px, stretched, ImageNet statistics; RoBERTa-base at 128 tokens,
pooled by its tanh layer over the first token. ``tiny`` has the same topology at 64 px, narrow and shallow, without
dropout, over a WordPiece vocabulary learned from train reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from baselines.cards import BIOMED_ROBERTA, CONVIRT, CONVIRT_RELEASE
from baselines.checkpoint import Part, load_parts, named_resnet, read_state
from baselines.towers import (
    TINY_BERT,
    TINY_RESNET,
    Architecture,
    DualEncoder,
    ImageSpec,
    Released,
    TextSpec,
    build_dual,
)
from benchmark.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, Features, ModelCard, Scale
from benchmark.objective import pairwise


def _architecture(size: int, options: Mapping[str, Any], text: Mapping[str, Any], max_length: int) -> Architecture:
    config = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, **text, "pad_token_id": 1}
    return Architecture(
        ImageSpec("resnet50.tv_in1k", size, options),
        TextSpec("roberta", config, max_length, "pooler"),
        Preprocess(size, IMAGENET_MEAN, IMAGENET_STD, fit="stretch", interpolation="bilinear"),
    )


ARCHITECTURES: dict[Scale, Architecture] = {
    "paper": _architecture(224, {}, {"vocab_size": 50265, "hidden_size": 768, "max_position_embeddings": 514}, 128),
    # RoBERTa counts positions from pad_token_id + 1, so two rows of its table are never reached.
    "tiny": _architecture(64, TINY_RESNET, {**TINY_BERT, "max_position_embeddings": 98}, 96),
}
"""Towers per scale. timm's ResNet-50 has torchvision's layers and key names, its ``tv`` tag its statistics."""


class ConVIRTLoss(nn.Module):
    """Bidirectional InfoNCE at a fixed temperature, image-to-text weighted by lambda (arXiv:2010.00747, eqs. 2-4)."""

    def __init__(self, temperature: float = 0.1, image_to_text: float = 0.75) -> None:
        super().__init__()
        self.temperature = temperature
        self.image_to_text = image_to_text

    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:  # noqa: ARG002 - the common signature
        """Give the loss of each pair, (B,): cross-entropy of either direction, weighted."""
        of_images, of_texts = pairwise(image.pooled @ text.pooled.T / self.temperature)
        return self.image_to_text * of_images + (1 - self.image_to_text) * of_texts


class ConVIRT(DualEncoder):
    """The towers and the objective of ConVIRT."""

    @classmethod
    def published_tokenizer(cls, card: ModelCard, spec: TextSpec, folders: Mapping[str, Path]) -> Tokenizer:  # noqa: ARG003 - as its base
        """RoBERTa's byte-level BPE."""
        folder = folders[BIOMED_ROBERTA.repo_id]
        return byte_level_bpe(folder / "vocab.json", folder / "merges.txt")

    def make_objective(self) -> ConVIRTLoss:
        """InfoNCE with temperature 0.1 and lambda 0.75."""
        return ConVIRTLoss()


class ReleasedConVIRT(Released, ConVIRT):
    """ConVIRT with the projections that were trained with its towers: Linear-ReLU-Linear, as wide as the text tower."""

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Both with a hidden layer as wide as their output, 768 at scale ``paper``."""
        return _projection(self.image_dim, self.text_dim), _projection(self.text_dim, self.text_dim)

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load BenchX's release strictly and count.

        Raises:
            BadInput: where the file does not fit, as with another text encoder.
        """
        assert self.text is not None, "published files bring a tokenizer, and a tokenizer a text tower"
        file = folders[CONVIRT_RELEASE.repo_id] / CONVIRT_RELEASE.files[0]
        parts = {
            "visual.model.": Part("image tower", self.image.trunk, rename=named_resnet),
            "linguistic.encoder.": Part("text tower", self.text.encoder),
            "vis_proj.": Part("image projection", self.image_projection),
            "lin_proj.": Part("text projection", self.text_projection),
        }
        self.loaded = load_parts(read_state(file), parts, source=file)


def _projection(d_in: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d_out), nn.ReLU(), nn.Linear(d_out, d_out))


def byte_level_bpe(vocabulary: Path, merges: Path) -> Tokenizer:
    """RoBERTa's tokenizer from its two files: byte-level BPE, cased, <s> text </s>."""
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises nothing narrower
        raise BadInput(
            f"{vocabulary} and {merges} can't be read as a vocabulary ({error}); fetch them again"
        ) from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    end, start = tokenizer.token_to_id("</s>"), tokenizer.token_to_id("<s>")
    if end is None or start is None:
        raise BadInput(f"{vocabulary} is not RoBERTa's vocabulary: it has no <s> and </s>; fetch or copy it again")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", end), ("<s>", start), add_prefix_space=False)
    return tokenizer


def build(request: BuildRequest) -> DualEncoder:
    """Build ``convirt``."""
    return build_dual(CONVIRT.card, ARCHITECTURES, request, ConVIRT, ReleasedConVIRT)
