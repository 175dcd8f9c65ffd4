"""Patient-grouped, label-stratified, seeded train/val/test splits with a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint, ascending index arrays over a dataset's samples; no patient is in two of them."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    origin: Literal["seeded", "given"]
    fingerprint: str
    """Digest over (sample, patient, part, label, pixel hash) of all samples, whatever their order."""


def make_split(dataset: Dataset, *, seed: int = 0) -> Split:
    """Divide a dataset 70/15/15 by patient, or take the division that its manifest gives."""
    raise NotImplementedError
