"""The soft CLIP loss of LumbarCLIP (arXiv:2509.20813, eqs. 3 to 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.model import Features


class SoftCLIPLoss(nn.Module):
    """Soft cross-entropy, both ways, between pair similarities and similarities of the pairs' label vectors.

    ::

        S_ij = z_I,i . z_T,j                                                                  (3)
        L_ij = y_i . y_j,    Lsoft_ij = exp(L_ij / tau) / sum_k exp(L_ik / tau)               (4)
        I2T = -1/N sum_i sum_j Lsoft_ij log( exp(S_ij / tau) / sum_k exp(S_ik / tau) )        (5)
        T2I = -1/N sum_i sum_j Lsoft_ji log( exp(S_ji / tau) / sum_k exp(S_jk / tau) )        (6)
        total = alpha (I2T + T2I) + (1 - alpha) (the same of augmented texts)                 (7)

    In (6) the first index is the query: S_ji is text j against image i, so that the softmax runs over images. Read with
    the S of (3), whose first index is an image, (6) would be (5) with its summation indices renamed, and no loss both
    ways. The target of a text is its own row of Lsoft: L is symmetric, Lsoft is not, since rows of classes of unequal
    size have unequal sums. It is the loss of MedCLIP (arXiv:2210.10163), with one temperature in targets and logits.

    This class gives each pair's part of I2T + T2I, whose mean over the batch is the loss. The harness mixes the terms
    of original and augmented texts by (7), for every model alike.
    """

    def __init__(self, temperature: float = 0.07, *, learnable: bool = False) -> None:
        """Set tau.

        Args:
            temperature: tau; the paper gives no value, 0.07 is CLIP's.
            learnable: train log(1/tau), from ``temperature`` on and at most 100 as in CLIP. Targets follow its value
                and pass no gradient: the loss must not shrink by making its own targets easier.
        """
        super().__init__()
        self.temperature = temperature
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature))) if learnable else None

    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:
        """Give the loss of each pair, (B,); ``pooled`` is (B, d), L2-normalised, ``labels`` (B, C) multi-hot."""
        scale = self._scale()
        target = ((labels @ labels.T) * (scale.detach() if isinstance(scale, Tensor) else scale)).softmax(dim=1)
        logits = image.pooled @ text.pooled.T * scale
        i2t = -(target * F.log_softmax(logits, dim=1)).sum(dim=1)
        t2i = -(target * F.log_softmax(logits.T, dim=1)).sum(dim=1)
        return i2t + t2i

    def _scale(self) -> Tensor | float:
        return 1 / self.temperature if self.log_scale is None else self.log_scale.exp().clamp(max=100.0)
