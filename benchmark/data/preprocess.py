"""From a decoded picture to a model's input: pad, resize, normalise."""

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

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Wrap (H, W) or (H, W, 3) uint8 as a Pillow picture of mode ``L`` or ``RGB``."""
    return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class Preprocess:
    """Pad to a square (centred, black), resize with antialiasing, scale to [0, 1], normalise per channel."""

    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    pad: bool = True
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn a picture of mode ``L`` or ``RGB`` into (3, size, size) float32."""
        if self.pad and image.width != image.height:
            side = max(image.size)
            square = Image.new(image.mode, (side, side))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), _RESAMPLING[self.interpolation])
        # Resized while it is one channel of bytes, where that is what it is: a third of the work.
        values = torch.from_numpy(np.array(image, dtype=np.uint8)).float().div_(255)
        channels = values.expand(3, -1, -1) if values.ndim == 2 else values.permute(2, 0, 1)
        mean = torch.tensor(self.mean)[:, None, None]
        std = torch.tensor(self.std)[:, None, None]
        return ((channels - mean) / std).contiguous()

    def record(self) -> dict[str, Any]:
        """All settings: part of an embedding's key, and shown with the result."""
        return asdict(self)
