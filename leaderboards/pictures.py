"""Pictures inside the page: arrays as PNG in ``data:`` addresses, and the colours of similarity maps."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = "viridis"
"""Even in lightness and safe for the colour-blind; the picture shows through."""

OPACITY = 0.55

OUTLINE = (255, 80, 60, 255)
"""RGBA of a region's outline: on no end of the colour scale, and clear on grey."""

LEGEND_STEPS = 32


def address(pixels: NDArray[np.uint8]) -> str:
    """An array (H, W) grey or (H, W, 4) RGBA as the ``data:`` address of a PNG; the same array gives the same text."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def overlay(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values (h, w) as (h, w, 4) RGBA on a scale from ``low`` to ``high``; on a scale without width all are low."""
    share = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    colours: NDArray[np.uint8] = mpl.colormaps[COLOURS](share.clip(0, 1), alpha=OPACITY, bytes=True)
    return colours


def legend() -> NDArray[np.uint8]:
    """The scale itself from low to high, (1, LEGEND_STEPS, 4)."""
    return overlay(np.linspace(0, 1, LEGEND_STEPS)[None], 0, 1)


def outline(region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pixels of a region (H, W) that touch its outside or the picture's edge, (H, W, 4), the others clear."""
    padded = np.pad(region, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = np.zeros((*region.shape, 4), dtype=np.uint8)
    drawn[region & ~inner] = OUTLINE
    return drawn
