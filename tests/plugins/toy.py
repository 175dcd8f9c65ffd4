"""A small real model as a plug-in file, and several that break: what the tests of the harness run on.

``toy`` learns (a strided convolution and a hashed bag of words), keeps the whole contract and counts the samples its
encoders see in ``SEEN``. ``toy-crash`` raises, ``toy-silent`` raises without a word, ``toy-quits`` calls ``sys.exit``,
``toy-dies`` takes its process with it, ``toy-nan`` trains to a loss of NaN, the objective of ``toy-objective`` raises.
``toy-patches`` hands out the cells of its map. ``toy-picture`` says that it encodes no text; ``toy-image`` does not say
so. ``one-too-few`` rewords too little.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmark.errors import UnsupportedModality
from benchmark.model import AugmentationEntry, Features, Modality, ModelCard, ModelEntry

SEEN = {"image": 0, "text": 0}


def card(name: str, encodes: tuple[Modality, ...] = ("image", "text")) -> ModelCard:
    return ModelCard(
        name=name,
        title=name,
        summary="A convolution and a hashed bag of words.",
        paper="none",
        licence="Apache-2.0",
        inputs=("image",),
        encodes=encodes,
    )


class Toy(nn.Module):
    def __init__(self, seed: int, name: str = "toy", encodes: tuple[Modality, ...] = ("image", "text")) -> None:
        super().__init__()
        self.card = card(name, encodes)
        self.image_dim, self.text_dim = 24, 32
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.convolution = nn.Conv2d(3, 24, 8, stride=8)
            self.words = nn.EmbeddingBag(256, 32, mode="mean")

    def preprocess(self, image: Image.Image) -> Tensor:
        grey = np.asarray(image.convert("L").resize((32, 32)), dtype=np.float32) / 255
        return torch.from_numpy(grey).expand(3, 32, 32)

    def encode_image(self, pixels: Tensor) -> Features:
        SEEN["image"] += len(pixels)
        return Features(torch.relu(self.convolution(pixels)).mean(dim=(2, 3)))

    def encode_text(self, texts: Sequence[str]) -> Features:
        SEEN["text"] += len(texts)
        words = [[zlib.crc32(w.encode()) % 256 for w in text.lower().split()] or [0] for text in texts]
        offsets = torch.tensor([0, *np.cumsum([len(w) for w in words])[:-1]])
        return Features(self.words(torch.tensor([i for w in words for i in w]), offsets))


class Patches(Toy):
    def encode_image(self, pixels: Tensor) -> Features:
        cells = torch.relu(self.convolution(pixels)).flatten(2).mT
        return Features(cells.mean(dim=1), cells)


class Crash(Toy):
    def encode_image(self, pixels: Tensor) -> Features:
        raise RuntimeError("out of cheese")


class Silent(Toy):
    def encode_image(self, pixels: Tensor) -> Features:
        raise ValueError


class Quits(Toy):
    def encode_image(self, pixels: Tensor) -> Features:
        sys.exit(3)


class Dies(Toy):
    def encode_image(self, pixels: Tensor) -> Features:
        os._exit(139)


class ImageOnly(Toy):
    def encode_text(self, texts: Sequence[str]) -> Features:
        raise UnsupportedModality("this model has no text encoder")


class NotANumber(nn.Module):
    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:
        return (image.pooled * text.pooled).sum() * float("nan")


class Refuses(nn.Module):
    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:
        raise RuntimeError("this objective refuses")


class Refusing(Toy):
    def make_objective(self) -> nn.Module:
        return Refuses()


class Diverging(Toy):
    def make_objective(self) -> nn.Module:
        return NotANumber()


class OneTooFew:
    name = "one-too-few"

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        return [report] * (count - 1)


ENTRIES = [
    ModelEntry(card("toy"), lambda request: Toy(request.seed)),
    ModelEntry(card("toy-patches"), lambda request: Patches(request.seed, "toy-patches")),
    ModelEntry(card("toy-crash"), lambda request: Crash(request.seed, "toy-crash")),
    ModelEntry(card("toy-nan"), lambda request: Diverging(request.seed, "toy-nan")),
    ModelEntry(card("toy-image"), lambda request: ImageOnly(request.seed, "toy-image"), trainable=False),
    ModelEntry(card("toy-picture", ("image",)), lambda request: ImageOnly(request.seed, "toy-picture", ("image",))),
    ModelEntry(card("toy-silent"), lambda request: Silent(request.seed, "toy-silent")),
    ModelEntry(card("toy-quits"), lambda request: Quits(request.seed, "toy-quits")),
    ModelEntry(card("toy-dies"), lambda request: Dies(request.seed, "toy-dies")),
    ModelEntry(card("toy-objective"), lambda request: Refusing(request.seed, "toy-objective")),
    AugmentationEntry("one-too-few", "Gives one text less than asked for.", OneTooFew),
]
