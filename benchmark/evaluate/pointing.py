"""The pointing game: does a map of a phrase point at the place that the phrase is about?

A hit is a highest point inside the annotated region (Zhang et al., IJCV 2018). A map here has one value per cell of a
coarse grid, and nothing is known of where in a cell it points. So the point is drawn evenly from the winning cell, and
the hit is taken in expectation: it is the share of that cell that the region covers. Where cells are pixels, that is
the published game without its tolerance. On every grid a cell chosen at random hits with the region's share of the
picture, and no map hits more often than the best covered cell would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluate.resample import Statistic

Floats = NDArray[np.float64]

TIE = 1e-6
"""Cosines closer than this count as equal: it is the resolution of float32 dot products of unit vectors."""


@dataclass(frozen=True, eq=False)
class Pointed:
    """The game on all n samples of a dataset; NaN where it was not played."""

    hit: Floats
    """(n,) share of the winning cell that the region covers, over a sample's phrases."""
    chance: Floats
    """(n,) the region's share of the picture."""
    ceiling: Floats
    """(n,) share of the best covered cell."""

    def columns(self, rows: NDArray[np.int64]) -> dict[str, Floats]:
        """Columns of the table of predictions for some of the samples."""
        return {"hit": self.hit[rows], "hit_chance": self.chance[rows], "hit_ceiling": self.ceiling[rows]}


def hit(similarity: NDArray[np.floating], cover: Floats) -> float:
    """Expected hit of a point drawn evenly from the highest cell; cells of equal height share it.

    Args:
        similarity: (h, w) the map.
        cover: (h, w) share of each cell that the region covers, in [0, 1].
    """
    return float(cover[similarity >= similarity.max() - TIE].mean())


def cell_shares(region: NDArray[np.bool_], side: int) -> Floats:
    """Share of each of (side, side) cells that a region (H, W) covers.

    Cells may end between pixels: each pixel counts for a cell by the part of it that lies inside.
    """
    rows, columns = (_overlaps(length, side) for length in region.shape)
    return rows @ region.astype(np.float64) @ columns.T


def _overlaps(length: int, cells: int) -> Floats:
    """(cells, length): what part of each cell each pixel of a side is; rows sum to 1."""
    width = length / cells
    starts = np.arange(cells)[:, None] * width
    pixels = np.arange(length)[None]
    inside = np.minimum(starts + width, pixels + 1) - np.maximum(starts, pixels)
    return np.asarray(inside.clip(min=0) / width)


class PointingGame(Statistic):
    """The hit rate and its ceiling as a statistic of weighted samples."""

    def __init__(self, hit: Floats, chance: Floats, ceiling: Floats) -> None:
        """Take the columns of ``Pointed``, (n,), NaN for samples on which the game is not played."""
        self.used = ~np.isnan(hit)
        self._values = np.stack([hit[self.used], ceiling[self.used]])
        self._chance = chance[self.used]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) values under (n, b) weights."""
        kept = weights[self.used]
        with np.errstate(invalid="ignore"):
            rate, ceiling = self._values @ kept / kept.sum(axis=0)
        return {"pointing_game": rate, "pointing_game_ceiling": ceiling}

    def why_undefined(self, metric: str) -> str:
        """Why the plug-in value is NaN."""
        return f"{metric}: no test sample has both a mask and a phrase about it"

    def chance(self, metric: str) -> float:
        """The regions' mean share of their pictures; a ceiling has no chance level."""
        return float(self._chance.mean()) if metric == "pointing_game" and self.used.any() else float("nan")
