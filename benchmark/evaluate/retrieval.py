"""Image-text retrieval: where the first right answer stands, recall@k, and what guessing would reach.

Radiology reports repeat themselves: many samples carry the same words. A candidate whose text is identical to the
query's is a right answer wherever it comes from, and the chance level counts them the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluate.cosine import unit_rows
from benchmark.evaluate.resample import Statistic

Way = Literal["image_to_text", "text_to_image"]
WAYS: tuple[Way, ...] = ("image_to_text", "text_to_image")

TIE = 1e-6
"""Cosines closer than this count as equal: it is the resolution of float32 dot products of unit vectors."""

BLOCK = 1024
"""Queries compared with all candidates at once."""


def first_hit_ranks(queries: NDArray[Any], candidates: NDArray[Any], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank (1 is best) of the best right candidate of each query, the worst that ties allow.

    A wrong candidate as similar as the best right one stands before it: a model that gives every sample the same
    vector must not score by the order of the rows.

    Args:
        queries: (n, d) vectors of one modality.
        candidates: (n, d) vectors of the other; row i belongs to the same sample as query i.
        codes: (n,) code of each sample's text; candidates with the query's code are right.
    """
    rows, columns = unit_rows(queries), unit_rows(candidates).T
    ranks = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        cosines = rows[block] @ columns
        right = codes[block, None] == codes
        best = np.where(right, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks[block] = 1 + ((cosines >= best - TIE) & ~right).sum(axis=1)
    return ranks


def chance_recall(identical: NDArray[np.int64], k: int) -> float:
    """Expected recall@k of a random order of the candidates, averaged over queries.

    With m right ones among N candidates, 1 - C(N - m, k) / C(N, k) (hypergeometric).

    Args:
        identical: (N,) number of right candidates of each query, itself included.
        k: Answers looked at.
    """
    total = len(identical)
    drawn = np.arange(min(k, total))
    missed = np.maximum(total - identical[:, None] - drawn, 0) / (total - drawn)
    return float(1.0 - missed.prod(axis=1).mean())


class Recall(Statistic):
    """Recall@k both ways as a statistic of weighted queries; the candidates stay as they are.

    Resampling the candidates too would change how hard the question is (a copy of a wrong answer is another wrong
    answer), so only the queries' patients are resampled.
    """

    def __init__(
        self, ranks: dict[Way, NDArray[np.float64]], identical: NDArray[np.float64], ks: Sequence[int]
    ) -> None:
        """Take the ranks of the first right answer, (n,), NaN for samples without a report, and the k's."""
        self.used = ~np.isnan(identical)
        self._identical = identical[self.used].astype(np.int64)
        self._ks = ks
        self._names = [f"recall@{k}_{way}" for way in WAYS for k in ks]
        self._hits = np.stack([ranks[way][self.used] <= k for way in WAYS for k in ks], axis=1).astype(np.float64)

    def __call__(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metric name -> (b,) values under (n, b) weights."""
        kept = weights[self.used]
        total = kept.sum(axis=0)
        with np.errstate(invalid="ignore"):
            recall = (self._hits.T @ kept) / total
        return dict(zip(self._names, recall, strict=True))

    def why_undefined(self, metric: str) -> str:
        """Why the plug-in value is NaN."""
        return f"{metric}: no test sample has a report"

    def chance(self, metric: str) -> float:
        """The chance level of one of its metrics."""
        return chance_recall(self._identical, int(metric.split("@")[1].split("_")[0]))
