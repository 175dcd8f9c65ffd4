"""Which training pairs make up which batch: the same for every model, from the split, the seed and the epoch alone.

An epoch's batches depend on no earlier epoch, so that a training that was stopped goes on with the very same ones.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.seeding import generator

Sampling = Literal["uniform", "upsample"]


class Sampler:
    """Epochs over n training pairs, cut into batches of nearly equal size.

    ``uniform``: every pair once an epoch, in random order. ``upsample``: as many pairs of each class as the largest
    class has, so that an epoch is longer; a smaller class is gone through as often as it fits, and what is then missing
    is drawn from it without repetition. A class is a combination of labels.
    """

    def __init__(
        self, labels: NDArray[np.float32], sampling: Sampling, batch_size: int, *, fingerprint: str, seed: int
    ) -> None:
        """Set up the epochs.

        Args:
            labels: (n, C) multi-hot.
            sampling: which pairs an epoch has.
            batch_size: the largest size of a batch.
            fingerprint: of the split.
            seed: of the training.
        """
        self._classes = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
        self._counts = np.bincount(self._classes)
        self._upsample = sampling == "upsample"
        self._key = (fingerprint, "sampler", seed)
        self.pairs = int(self._counts.max() * len(self._counts)) if self._upsample else len(labels)
        """Pairs seen in an epoch."""
        self.batches = math.ceil(self.pairs / batch_size)
        """Batches of an epoch."""

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, counted from 0, as rows of the training pairs."""
        rng = generator(*self._key, number)
        rows = upsampled(self._classes, rng) if self._upsample else np.arange(self.pairs)
        return np.array_split(rng.permutation(rows), self.batches)


def upsampled(classes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions in which every class is as often as the largest, its samples each as often as the others or once more.

    Args:
        classes: (n,) code of each sample's class.
        rng: chooses who comes once more.
    """
    codes, counts = np.unique(classes, return_counts=True)
    most = int(counts.max())
    parts = []
    for code, count in zip(codes, counts.tolist(), strict=True):
        own = np.flatnonzero(classes == code)
        parts += [np.tile(own, most // count), rng.choice(own, most % count, replace=False)]
    return np.concatenate(parts)
