"""Naive rows of features that nobody chose: pixels through a random matrix, and an encoder that was never trained.

Apart from the cards of naive rows, which are listed without torch. Both depend on the seed and on the pictures alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.naive import RANDOM_ENCODER_CARD, RANDOM_PIXELS_CARD, Indices, Matrix
from baselines.towers import TINY_RESNET, ImageSpec, ImageTower, seeded
from benchmark.data.manifest import Dataset
from benchmark.data.preprocess import HALF, Preprocess, picture
from benchmark.model import BuildRequest, ModelCard
from benchmark.seeding import generator

WIDTH = 256
"""Numbers that a picture's 4096 pixels are projected to: about what the encoders' features have."""

BATCH = 64
"""Pictures that go through the encoder at a time, and that one estimate of its statistics is made from."""

prepare = Preprocess(64, mean=HALF, std=HALF, grey=True)
"""Grey, padded to a square of 64 px, from -1 to 1: what both rows see."""


class RandomPixels:
    """A Gaussian random projection, which keeps distances between pictures and knows nothing of what they show.

    Johnson & Lindenstrauss, Contemporary Mathematics 26:189-206 (1984); entries from N(0, 1/d).
    """

    card: ModelCard = RANDOM_PIXELS_CARD

    def __init__(self, seed: int) -> None:
        drawn = generator("random-pixels", seed).standard_normal((prepare.size**2, WIDTH), dtype=np.float32)
        self._matrix = drawn / np.float32(np.sqrt(WIDTH))

    def features(self, dataset: Dataset, train: Indices) -> Matrix:  # noqa: ARG002 - nothing here is fitted
        """Project the pixels of each picture, (n, 256)."""
        # One picture at a time: the pixels of a large dataset need not be in memory together.
        rows = [prepare(picture(pixels))[0].numpy().ravel() @ self._matrix for pixels in dataset.pixels]
        return np.array(rows, dtype=np.float64)


class RandomEncoder:
    """A thin ResNet with random filters, as the tiny encoders have them before any training.

    Its batch normalisations would not normalise with the statistics that a new network has (mean 0, variance 1), and
    with random ones they would be noise of their own: they get those of the train pictures. Nor do residual branches
    start at zero, as for training, since they would stay silent here.
    """

    card: ModelCard = RANDOM_ENCODER_CARD

    def __init__(self, seed: int) -> None:
        with seeded("random-encoder", seed):
            spec = ImageSpec("resnet50.a1_in1k", prepare.size, {**TINY_RESNET, "zero_init_last": False})
            self._tower = ImageTower(spec)
        self._norms = [module for module in self._tower.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in self._norms:
            norm.momentum = None  # a plain mean over batches, none of which counts more for being the last

    def features(self, dataset: Dataset, train: Indices) -> Matrix:
        """Average the last map of each picture, (n, 512), under statistics of the train pictures."""
        with torch.inference_mode():
            self._learn_statistics(dataset.pixels, train)
            encoded = [self._tower(batch).pooled for batch in _batches(dataset.pixels, np.arange(len(dataset)))]
        return torch.cat(encoded).double().numpy()

    def _learn_statistics(self, pixels: Sequence[NDArray[np.uint8]], train: Indices) -> None:
        for norm in self._norms:
            norm.reset_running_stats()
        self._tower.train()
        for batch in _batches(pixels, train):
            self._tower(batch)
        self._tower.eval()


def _batches(pixels: Sequence[NDArray[np.uint8]], chosen: Indices) -> Iterator[Tensor]:
    """The chosen pictures in batches of nearly equal size, each (B, 3, 64, 64)."""
    for rows in np.array_split(chosen, -(-len(chosen) // BATCH)):
        yield torch.stack([prepare(picture(pixels[i])) for i in rows])


def build_pixels(request: BuildRequest) -> RandomPixels:
    """Build the row ``random-pixels``."""
    return RandomPixels(request.seed)


def build_encoder(request: BuildRequest) -> RandomEncoder:
    """Build the row ``random-encoder``."""
    return RandomEncoder(request.seed)
