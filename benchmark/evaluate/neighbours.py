"""Cosine k-nearest-neighbour classification: all k from one search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluate.cosine import unit_rows

BLOCK = 1024
"""Queries compared with the whole bank at once: bounds the memory at ``BLOCK`` x bank cosines."""


def vote_shares(
    bank: NDArray[Any],
    targets: NDArray[np.float64],
    queries: NDArray[Any],
    ks: Sequence[int],
) -> dict[int, NDArray[np.float64]]:
    """Share of each class among the k most similar training samples, every neighbour counting the same.

    Plain shares and no softmax over similarities: a temperature would be one more thing to choose. A tie between
    classes goes to the first of them, as in scikit-learn; between equally similar neighbours at the k-th place the
    choice is arbitrary but repeatable.

    Args:
        bank: (m, d) training vectors.
        targets: (m, C) one-hot or multi-hot classes of the bank.
        queries: (n, d) vectors to classify.
        ks: Neighbourhood sizes, none above m.

    Returns:
        k -> (n, C) shares in [0, 1].

    Raises:
        ValueError: where a k is larger than the bank.
    """
    widest = max(ks)
    if widest > len(bank):
        raise ValueError(f"{widest} neighbours were asked for among {len(bank)} training samples")
    columns, rows = unit_rows(bank).T, unit_rows(queries)
    shares: dict[int, list[NDArray[np.float64]]] = {k: [] for k in ks}
    for start in range(0, len(rows), BLOCK):
        votes = targets[_nearest(rows[start : start + BLOCK] @ columns, widest)].cumsum(axis=1)
        for k in ks:
            shares[k].append(votes[:, k - 1] / k)
    return {k: np.concatenate(blocks) for k, blocks in shares.items()}


def _nearest(cosines: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(n, count) columns with the highest values of each row, highest first, equal values in column order."""
    near = np.sort(np.argpartition(-cosines, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(cosines, near, axis=1), axis=1, kind="stable")
    return np.take_along_axis(near, order, axis=1)
