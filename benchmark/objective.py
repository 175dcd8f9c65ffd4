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
        loss = self.term(image, text)
        if augmented is None:
            return loss
        return (loss + self.term(image, augmented)) / 2

    def term(self, image: Features, text: Features) -> Tensor:
        """The loss of B pictures against B texts, pair by pair."""
        raise NotImplementedError


def pairwise(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of (B, B) logits whose diagonal is right: of images (rows) over texts, and of texts over images."""
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)


class InfoNCE(Contrastive):
    """Symmetric cross-entropy over a batch's cosine similarities (CLIP, Radford et al. 2021, Fig. 3).

    The logit scale is learned in the log domain, starts at log(1/0.07) and is capped at 100 (same paper, section 2.5).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def term(self, image: Features, text: Features) -> Tensor:
        """Half the cross-entropy of either direction."""
        of_images, of_texts = pairwise(self.log_scale.exp().clamp(max=100.0) * image.pooled @ text.pooled.T)
        return (of_images + of_texts) / 2
