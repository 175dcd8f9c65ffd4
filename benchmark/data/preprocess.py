"""From a decoded picture to a model's input: bring it to a square, resize, normalise.

Shared by the adapters of this project; a plug-in may bring its own, and says so in what it records.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Bring to a square, resize with antialiasing as Pillow does, scale to [0, 1], normalise per channel."""

    size: int
    """Side of the model's input, in pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fit: Literal["pad", "stretch", "crop"] = "pad"
    """``pad``: put into the centre of a black square, so that shapes keep their aspect and nothing is lost.
    ``stretch``: squeeze into the square. ``crop``: bring the shorter side to ``size`` and keep the central square."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    grey: bool = False
    """Whether colour is dropped first; all three channels are then the same before they are normalised."""
    canvas: int = 0
    """Least side of the square that ``pad`` fills: smaller pictures are not enlarged beyond their share of it."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn a picture of mode ``L`` or ``RGB`` into (3, size, size) float32.

        Raises:
            ValueError: for another mode.
        """
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"a picture is 'L' or 'RGB' here, not {image.mode!r}")
        return normalised(self._fitted(image.convert("L") if self.grey else image), self.mean, self.std)

    def _fitted(self, image: Image.Image) -> Image.Image:
        """The picture as a square of ``size``."""
        resampling = _RESAMPLING[self.interpolation]
        if self.fit == "crop":
            shorter = min(image.size)
            longer = int(self.size * max(image.size) / shorter)
            width, height = (self.size if side == shorter else longer for side in image.size)
            return centre(image.resize((width, height), resampling), self.size)
        if self.fit == "pad":
            image = _squared(image, self.canvas)
        return image.resize((self.size, self.size), resampling)

    def record(self) -> dict[str, Any]:
        """All settings: part of an embedding's key, and shown with the result."""
        return asdict(self)


def normalised(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale a picture of mode ``L`` or ``RGB`` to [0, 1] and normalise each of three channels, (3, H, W) float32."""
    values = np.asarray(image)
    # Grey stays one channel of bytes up to here: a third of the resizing. numpy and not torch, whose threads
    # cost more than they give at this size and compete with the encoder's.
    channels = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    means, stds = (np.asarray(constants)[:, None, None] for constants in (mean, std))
    scaled = np.multiply(channels, (1 / (255 * stds)).astype(np.float32), order="C", dtype=np.float32)
    scaled -= (means / stds).astype(np.float32)
    return torch.from_numpy(scaled)


def centre(image: Image.Image, size: int) -> Image.Image:
    """The central square of a picture that is at least ``size`` wide and high; half pixels as torchvision has them."""
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _squared(image: Image.Image, canvas: int) -> Image.Image:
    side = max(*image.size, canvas)
    if image.size == (side, side):
        return image
    square = Image.new(image.mode, (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
