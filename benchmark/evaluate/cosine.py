"""Unit vectors: what every evaluator that compares by cosine starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Scale the rows of an (n, d) array to length 1, in float32; a zero row stays zero, its cosines are all 0."""
    exact = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return (exact / np.where(norms > 0, norms, 1.0)).astype(np.float32)
