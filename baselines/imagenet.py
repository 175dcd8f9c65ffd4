"""A ResNet-50 trained on ImageNet and on nothing medical, as an image-only encoder: the naive row of natural pictures.

Wightman, Touvron & Jégou, ResNet strikes back, arXiv:2110.00476 (recipe A1). With random weights it is built
to check the contract, and a run has no such row (``ModelCard.published_only``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn

from baselines.cards import IMAGENET_RESNET50, TIMM_RESNET50
from baselines.checkpoint import load_strict, read_state
from baselines.towers import TINY_RESNET, ImageSpec, ImageTower, as_trained, seeded
from benchmark.errors import BadInput, UnsupportedModality
from benchmark.model import BuildRequest, Features, ModelCard, Scale

SPECS: dict[Scale, ImageSpec] = {
    "paper": ImageSpec("resnet50.a1_in1k", 224),
    "tiny": ImageSpec("resnet50.a1_in1k", 64, TINY_RESNET),
}
"""The tower per scale; ``paper`` is timm's architecture of that name, to the layer."""


class ImageNetResNet50(nn.Module):
    """The trunk alone: features that timm gives its classifier of 1000 kinds of objects, and no text."""

    card: ModelCard = IMAGENET_RESNET50.card
    text_dim = 0

    def __init__(self, spec: ImageSpec, seed: int) -> None:
        super().__init__()
        self.preprocess = as_trained(spec)
        with seeded("image tower", seed):
            self.image = ImageTower(spec)
        self.image_dim = self.image.width
        self.loaded: dict[str, str] = {}

    def load(self, file: Path) -> None:
        """Load timm's file strictly, less its classifier, and count.

        Raises:
            BadInput: where the file does not fit.
            MissingWeights: where it is not there.
        """
        state = read_state(file)
        count = load_strict(self.image.trunk, state, tower="image tower", source=file, unwanted=("fc.",))
        self.loaded = {"image tower": count}

    def encode_image(self, pixels: Tensor) -> Features:
        """Encode (B, 3, H, W): ``pooled`` (B, image_dim), the average of the last map, and the cells of that map."""
        features: Features = self.image(pixels)
        return features

    def encode_text(self, texts: Sequence[str]) -> NoReturn:  # noqa: ARG002 - the protocol's signature
        """Encode nothing.

        Raises:
            UnsupportedModality: always.
        """
        raise UnsupportedModality(f"{self.card.name} has no text tower: it was trained on pictures and their classes")


def build(request: BuildRequest) -> ImageNetResNet50:
    """Build ``imagenet-resnet50``.

    Raises:
        BadInput: where published weights are asked for at scale ``tiny``, other weights, or the file does not fit.
        MissingWeights: where the file is not there.
    """
    if request.weights == "pretrained" and request.scale != "paper":
        raise BadInput(f"{IMAGENET_RESNET50.card.name} has published weights at scale 'paper' only; use --scale paper")
    if isinstance(request.weights, Path):
        raise BadInput(f"{IMAGENET_RESNET50.card.name} is its published weights and no others; leave --weights out")
    model = ImageNetResNet50(SPECS[request.scale], request.seed)
    if request.weights == "pretrained":
        model.load(request.files[TIMM_RESNET50.repo_id] / TIMM_RESNET50.files[0])
    return model.to(request.device).eval()
