"""Projection heads f_I and f_T: the same for every model, so that the head axis means one thing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.model import HeadSpec
from benchmark.seeding import derive_seed


class ProjectionPair(nn.Module):
    """Heads of both towers, (B, d_I) and (B, d_T) -> (B, d), L2-normalised (LumbarCLIP, eqs. 1 and 2).

    ``none`` has no parameters. Where the widths differ it maps the wider side down by a fixed orthonormal matrix
    that depends on the two widths alone, so that ``none`` is the same map in every run and for every seed.
    """

    def __init__(self, image_dim: int, text_dim: int, spec: HeadSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        if spec.width is None:
            common = min(image_dim, text_dim)
            self.image: nn.Module = _Reduction(image_dim, common)
            self.text: nn.Module = _Reduction(text_dim, common)
            return
        random = torch.Generator().manual_seed(derive_seed("projection head", str(spec), seed))
        self.image = _head(image_dim, spec.width, spec.kind, random)
        self.text = _head(text_dim, spec.width, spec.kind, random)

    def project_image(self, pooled: Tensor) -> Tensor:
        """Map (B, d_I) to unit vectors (B, d)."""
        return F.normalize(self.image(pooled), dim=-1)

    def project_text(self, pooled: Tensor) -> Tensor:
        """Map (B, d_T) to unit vectors (B, d)."""
        return F.normalize(self.text(pooled), dim=-1)


class _Reduction(nn.Module):
    """Identity, or a fixed orthonormal (d_in, d_out) map kept as a buffer."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        matrix = None
        if d_in != d_out:
            random = torch.Generator().manual_seed(derive_seed("orthonormal", d_in, d_out))
            matrix = torch.linalg.qr(torch.randn(d_in, d_out, generator=random, dtype=torch.float64))[0].float()
        self.register_buffer("matrix", matrix)
        self.matrix: Tensor | None

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled if self.matrix is None else pooled @ self.matrix


def _head(d_in: int, width: int, kind: str, random: torch.Generator) -> nn.Module:
    """``linear``: Linear(d_in, width). ``mlp``: Linear(d_in, width), ReLU, Linear(width, width). Biases zero."""
    if kind == "linear":
        return _linear(d_in, width, random)
    return nn.Sequential(_linear(d_in, width, random), nn.ReLU(), _linear(width, width, random))


def _linear(d_in: int, d_out: int, random: torch.Generator) -> nn.Linear:
    """A Linear with Xavier-uniform weights drawn from ``random``, not from global state."""
    with torch.device("meta"):
        layer = nn.Linear(d_in, d_out)
    layer = layer.to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=random)
    nn.init.zeros_(layer.bias)
    return layer
