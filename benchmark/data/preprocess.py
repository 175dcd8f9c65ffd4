"""From a decoded picture to a model's input: pad to a square, resize, normalise.

Shared by the adapters of this project; a plug-in may bring its own, and says so in what it records.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
"""Mean or standard deviation of models that want [-1, 1]."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Wrap (H, W) or (H, W, 3) uint8 as a Pillow picture of mode ``L`` or ``RGB``."""
    return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class Preprocess:
    """Pad to a square, resize with antialiasing as Pillow does, scale to [0, 1], normalise per channel."""

    size: int
    """Side of the model's input, in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pad: bool = True
    """Pad with black, centred, so that shapes keep their aspect; otherwise the picture is squeezed into the square."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn a picture of mode ``L`` or ``RGB`` into (3, size, size) float32.

        Raises:
            ValueError: for another mode.
        """
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"a picture is 'L' or 'RGB' here, not {image.mode!r}")
        if self.pad and image.width != image.height:
            image = _squared(image)
        resized = np.asarray(image.resize((self.size, self.size), _RESAMPLING[self.interpolation]))
        # Grey stays one channel of bytes up to here: a third of the resizing. numpy and not torch, whose threads
        # cost more than they give at this size and compete with the encoder's.
        channels = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
        mean, std = (np.asarray(values)[:, None, None] for values in (self.mean, self.std))
        values = np.multiply(channels, (1 / (255 * std)).astype(np.float32), order="C", dtype=np.float32)
        values -= (mean / std).astype(np.float32)
        return torch.from_numpy(values)

    def record(self) -> dict[str, Any]:
        """All settings: part of an embedding's key, and shown with the result."""
        return asdict(self)


def _squared(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new(image.mode, (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
