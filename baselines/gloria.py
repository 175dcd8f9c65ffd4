"""GLoRIA (Huang et al., ICCV 2021): towers, attention losses, preprocessing, released projections and loader.

Paper scale: torchvision's ResNet-50 on pictures that the model itself enlarges from 224 to 299 px; its last map,
averaged, is the global feature (2048), its third stage, through a 1 x 1 convolution to 768 channels, the local ones
(19 x 19). BioClinicalBERT's last four layers are summed; word pieces are summed into words, and a text's global feature
is the sum of its tokens over the 97 places that texts were padded to. ``tiny`` has the same topology at 48 px (enlarged
to 64), narrow and shallow, and without dropout.

Four things of the published code are kept although they look odd, since the weights were trained with them: the
attention of a word over regions is a softmax of a softmax; a text's words are cut by as many as there are unknown words
among them; sentences of one word are dropped; a number before a full stop is taken for that of a list's item and lost,
so that "at L4/L5." is read as "at l4 l". What is not kept: the published zero-shot score adds a local similarity
whose word counts are character counts and which depends on the pictures it is computed beside. Zero-shot and retrieval
are taken in the global space here, as for every model.

BenchX trained the same towers anew, with pictures stretched and normalised by ImageNet's statistics, reports as they
are, and 128 tokens; its weights are another model, ``gloria-benchx``, which prepares its input so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.cards import BENCHX_GLORIA, GLORIA
from baselines.checkpoint import Part, load_parts, named_resnet, read_state
from baselines.towers import (
    BIO_CLINICAL,
    TINY_BERT,
    TINY_RESNET,
    Architecture,
    DualEncoder,
    ImageSpec,
    ImageTower,
    Released,
    TextSpec,
    TextTower,
    build_dual,
    last_four,
    seeded,
)
from benchmark.data.preprocess import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess, centre, normalised
from benchmark.model import BuildRequest, Features, ModelCard, Scale
from benchmark.objective import pairwise

ENLARGED = 299 / 224
"""By what the image tower enlarges its input before the first layer."""

EPSILON = 1e-8
"""Least product of two norms that a cosine is divided by."""


@dataclass(frozen=True)
class GLoRIAPreprocess:
    """Longer side to ``256/224 size`` by area, black to a square, central ``size``, grey, in [-1, 1].

    OpenCV's area resampling has no equal in Pillow or torchvision: it weighs each source pixel by the share of it that
    an output pixel covers.
    """

    size: int

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn a picture of mode ``L`` or ``RGB`` into (3, size, size) float32 with three equal channels."""
        grey = np.asarray(image.convert("L"))
        side = self._longer_side
        shorter = max(1, int(min(grey.shape) * (side / max(grey.shape))))
        height, width = (side, shorter) if grey.shape[0] >= grey.shape[1] else (shorter, side)
        resized = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        square = np.zeros((side, side), dtype=np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = resized
        return normalised(centre(Image.fromarray(square), self.size), HALF, HALF)

    @property
    def _longer_side(self) -> int:
        return round(self.size * 256 / 224)

    def record(self) -> dict[str, Any]:
        """All settings: part of an embedding's key, and recorded with the result."""
        return {
            "size": self.size,
            "longer_side": self._longer_side,
            "interpolation": "area (OpenCV)",
            "fit": "pad, then crop",
            "grey": True,
            "mean": HALF,
            "std": HALF,
            "enlarged_in_model": round(self.size * ENLARGED),
        }


TINY_TEXT = {**TINY_BERT, "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128}
"""Four layers, so that there are four to sum, and narrower for it."""


def _scales(preprocess: Callable[[int], Preprocess | GLoRIAPreprocess], tokens: int) -> dict[Scale, Architecture]:
    def text(config: Mapping[str, Any], max_length: int) -> TextSpec:
        return TextSpec("bert", config, max_length, "sum of last 4 layers")

    trunk = "resnet50.tv_in1k"  # timm's, with torchvision's layers and key names
    return {
        "paper": Architecture(ImageSpec(trunk, 224), text(BIO_CLINICAL, tokens), preprocess(224)),
        # 48 px are enlarged to the 64 of other models.
        "tiny": Architecture(ImageSpec(trunk, 48, TINY_RESNET), text(TINY_TEXT, 96), preprocess(48)),
    }


def _stretched(size: int) -> Preprocess:
    return Preprocess(size, IMAGENET_MEAN, IMAGENET_STD, fit="stretch", interpolation="bilinear")


ARCHITECTURES = _scales(GLoRIAPreprocess, 97)
"""Towers per scale."""

BENCHX_ARCHITECTURES = _scales(_stretched, 128)
"""As BenchX trained it: pictures stretched, with ImageNet's statistics; 128 tokens."""


# --------------------------------------------------------------------------------------------- objective


class GLoRIALoss(nn.Module):
    """Global and local contrastive loss, each both ways, summed, as published (``gloria.loss.gloria_loss``).

    ::

        global:  logits_ij = t3 cos(v_i, t_j)
        local:   s_rw  = softmax over words of (region_r . word_w)
                 a_rw  = softmax over regions of (t1 s_rw),          c_w = sum_r a_rw region_r
                 Z_ij  = log sum_w exp(t2 cos(c_w, word_w)),         logits_ij = t3 Z_ij

    Without ``tokens`` there is the global part alone. That is the ``heads`` regime: regions and words come from frozen
    towers there, so that the local part is a constant and moves no head.
    """

    def __init__(self, t1: float = 4.0, t2: float = 5.0, t3: float = 10.0) -> None:
        super().__init__()
        self.t1, self.t2, self.t3 = t1, t2, t3

    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:  # noqa: ARG002 - the common signature
        """Give the loss of each pair, (B,): a sum of four cross-entropies, or of two without local features."""
        of_images, of_texts = pairwise(self.t3 * image.pooled @ text.pooled.T)
        if image.tokens is None or text.tokens is None or text.mask is None:
            return of_images + of_texts
        local_images, local_texts = pairwise(self.t3 * self.local(image.tokens, text.tokens, text.mask))
        return of_images + of_texts + local_images + local_texts

    def local(self, regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Similarity Z (images, texts) of (images, R, d) regions and (texts, W, d) words, real where ``mask`` is."""
        dots = torch.einsum("ird,jwd->ijrw", regions, words)
        shares = dots.masked_fill(~mask[None, :, None, :], float("-inf")).softmax(dim=3)
        attention = (self.t1 * shares).softmax(dim=2)
        # c_w itself, (images, texts, W, d), is by far the largest thing here. Neither its product with a word nor its
        # norm needs it: c_w . word_w = sum_r a_rw dots_rw, and |c_w|^2 = a_w' G a_w with G the regions' Gram matrix.
        product = (attention * dots).sum(dim=2)
        gram = regions @ regions.mT
        squared = (torch.einsum("irs,ijsw->ijrw", gram, attention) * attention).sum(dim=2)
        norms = squared.clamp(min=EPSILON**2).sqrt() * words.norm(dim=2)[None]
        cosines = product / norms.clamp(min=EPSILON)
        similarity: Tensor = (self.t2 * cosines).masked_fill(~mask[None], float("-inf")).logsumexp(dim=2)
        return similarity


# --------------------------------------------------------------------------------------------- towers


class GLoRIAImageTower(ImageTower):
    """ResNet on an enlarged picture: ``pooled`` from the last map, ``tokens`` from the third stage's, projected."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__(spec)
        self._enlarged = round(spec.size * ENLARGED)
        self.third: int = self.trunk.feature_info[3]["num_chs"]

    def forward(self, pixels: Tensor) -> Features:
        """Encode (B, 3, size, size); ``tokens`` (B, R, width of the third stage)."""
        side = (self._enlarged, self._enlarged)
        enlarged = F.interpolate(pixels, side, mode="bilinear", align_corners=True)
        third, last = self.trunk.forward_intermediates(
            enlarged.contiguous(memory_format=self._layout), indices=[3, 4], intermediates_only=True
        )
        return Features(last.mean(dim=(2, 3)).float(), third.flatten(2).mT.float())


class WordTower(TextTower):
    """BERT whose ``tokens`` are words: [CLS], then each word as the sum of its pieces; [SEP] is left out."""

    def tokens(self, out: Any, encoded: Sequence[Encoding], mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - transformers' output
        """Sum the last four layers over each word's pieces: (B, W, hidden), and which of the W are words."""
        continues = torch.tensor([[token.startswith("##") for token in each.tokens] for each in encoded])
        unknown = torch.tensor([each.tokens.count("[UNK]") for each in encoded], device=mask.device)
        begins = mask & ~continues.to(mask.device)
        summed = last_four(out) * mask[..., None]
        place = (begins.cumsum(dim=1) - 1)[..., None].expand_as(summed)
        words = torch.zeros_like(summed).scatter_add(1, place, summed)
        # As published: one entry for [CLS] and one for each known word, counted from the front.
        known = begins.sum(dim=1) - 1 - unknown
        longest = int(known.max())
        real = torch.arange(longest, device=mask.device) < known[:, None]
        return words[:, :longest], real


class GLoRIATextTower(WordTower):
    """Words of cleaned sentences."""

    def cleaned(self, text: str) -> str:
        """Lower-case words of two-word sentences and longer, what is not ASCII and all punctuation dropped."""
        sentences = [
            re.findall(r"\w+", sentence.replace("\ufffd\ufffd", " ").lower())
            for point in re.split(r"[0-9]+\.", text.replace("\n", " "))
            for sentence in point.split(".")
        ]
        words = [word.encode("ascii", "ignore").decode() for each in sentences if len(each) > 1 for word in each]
        return " ".join(word for word in words if word)


class GLoRIA(DualEncoder):
    """Towers, local projection and objective of GLoRIA."""

    image_tower = GLoRIAImageTower
    text_tower: type[TextTower] = GLoRIATextTower
    image: GLoRIAImageTower

    def __init__(self, card: ModelCard, shape: Architecture, tokenizer: Tokenizer | None, *, seed: int) -> None:
        super().__init__(card, shape, tokenizer, seed=seed)
        with seeded("local projection", seed):
            self.local_projection = nn.Linear(self.image.third, self.text_dim, bias=False)

    def encode_image(self, pixels: Tensor) -> Features:
        """Encode (B, 3, H, W): ``pooled`` (B, image_dim), not normalised; ``tokens`` are regions (B, R, text_dim)."""
        features = super().encode_image(pixels)
        return Features(features.pooled, self.local_projection(features.tokens))

    def make_objective(self) -> GLoRIALoss:
        """Global and local loss at the published temperatures, both with weight 1."""
        return GLoRIALoss()


class ReleasedGLoRIA(Released, GLoRIA):
    """GLoRIA with its released global projection of pictures; texts are in the shared space as they are."""

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Linear(image_dim, text_dim) with bias, and nothing."""
        return nn.Linear(self.image_dim, self.text_dim), nn.Identity()

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load a checkpoint strictly and count: the authors' layout, which Lightning wrote, or BenchX's own.

        Raises:
            BadInput: where the file does not fit.
        """
        assert self.text is not None, "published files bring a tokenizer, and a tokenizer a text tower"
        source, _ = self.card.weights
        file = folders[source.repo_id] / source.files[0]
        state = read_state(file)
        lightning = any(key.startswith("gloria.") for key in state)
        image, text, embedders = (
            ("gloria.img_encoder.model.", "gloria.text_encoder.model.", "gloria.img_encoder.")
            if lightning
            else ("visual.model.", "linguistic.encoder.", "")
        )
        parts = {
            image: Part("image tower", self.image.trunk, rename=named_resnet),
            text: Part("text tower", self.text.encoder, unwanted=("pooler.",)),
            f"{embedders}global_embedder.": Part("image projection", self.image_projection),
            f"{embedders}local_embedder.": Part("local projection", self.local_projection, rename=_as_linear),
        }
        self.loaded = load_parts(state, parts, source=file)


class BenchXGLoRIA(GLoRIA):
    """GLoRIA as BenchX trained it anew: reports as they are."""

    text_tower = WordTower


class ReleasedBenchXGLoRIA(ReleasedGLoRIA):
    """BenchX's re-training with its released global projection."""

    text_tower = WordTower


def _as_linear(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A 1 x 1 convolution (d_out, d_in, 1, 1) as the linear map it is."""
    return {key: value.flatten(1) if value.ndim == 4 else value for key, value in state.items()}


def build(request: BuildRequest) -> DualEncoder:
    """Build ``gloria``, the authors' release."""
    return build_dual(GLORIA.card, ARCHITECTURES, request, GLoRIA, ReleasedGLoRIA)


def build_benchx(request: BuildRequest) -> DualEncoder:
    """Build ``gloria-benchx``, BenchX's re-training."""
    return build_dual(BENCHX_GLORIA.card, BENCHX_ARCHITECTURES, request, BenchXGLoRIA, ReleasedBenchXGLoRIA)
