"""The default training objective: symmetric InfoNCE with a learned temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.model import Features


class Contrastive(nn.Module):
    """An objective over the pairs of a batch that uses no labels; with augmented texts, the mean of both terms."""

    def forward(self, image: Features, text: Features, augmented: Features | None, labels: Tensor) -> Tensor:  # noqa: ARG002 - the common signature of objectives
        """Give the scalar loss of B pairs; ``pooled`` is (B, d), L2-normalised."""
        loss = self.term(image.pooled, text.pooled)
        if augmented is None:
            return loss
        return (loss + self.term(image.pooled, augmented.pooled)) / 2

    def term(self, image: Tensor, text: Tensor) -> Tensor:
        """The loss of pictures (B, d) against texts (B, d), pair by pair."""
        raise NotImplementedError


class InfoNCE(Contrastive):
    """Symmetric cross-entropy over a batch's cosine similarities (CLIP, Radford et al. 2021, Fig. 3).

    The logit scale is learned in the log domain, starts at log(1/0.07) and is capped at 100 (same paper, section 2.5).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def term(self, image: Tensor, text: Tensor) -> Tensor:
        """Half the cross-entropy of either direction."""
        logits = self.log_scale.exp().clamp(max=100.0) * image @ text.T
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
