"""What training minimises: a model's own objective, the terms of original and reworded texts mixed alike for all.

An objective gives the loss of each pair of a batch. Mixing, and the weights that answer class imbalance, are the
harness's, so that an option means the same for every model.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import BadInput, BrokenModel
from benchmark.imbalance import class_balanced_weights, focal_factor, pair_weights
from benchmark.model import Features, VisionLanguageModel

if TYPE_CHECKING:
    from benchmark.config import TrainingConfig


def pairwise(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies of (B, B) logits whose diagonal is right, (B,) each.

    The first are of images (rows) over texts, the second of texts over images.
    """
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, target, reduction="none"), F.cross_entropy(logits.T, target, reduction="none")


class InfoNCE(nn.Module):
    """Symmetric cross-entropy over a batch's cosine similarities (CLIP, Radford et al. 2021, Fig. 3).

    The logit scale is learned in the log domain, starts at log(1/0.07) and is capped at 100 (same paper, section 2.5).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, image: Features, text: Features, labels: Tensor) -> Tensor:  # noqa: ARG002 - the common signature
        """Give the loss of each pair, (B,): half the cross-entropy of either direction."""
        of_images, of_texts = pairwise(self.log_scale.exp().clamp(max=100.0) * image.pooled @ text.pooled.T)
        return (of_images + of_texts) / 2


class TrainingLoss(nn.Module):
    """The scalar that is minimised: an objective over pairs, texts mixed and pairs weighted as the settings say.

    ::

        pair_i = alpha L_i(original texts) + (1 - alpha) L_i(augmented texts)           (LumbarCLIP, eq. 7)
        loss   = mean_i  w_i f(pair_i) pair_i

    w_i are class-balanced weights (Cui et al. 2019) and f the focal factor (Lin et al. 2017), each 1 unless asked for.
    The factor's probability is exp(-pair_i), of the whole pair: both directions, both texts, on the scale of the
    objective. What it calls hard is therefore not the same for objectives that sum directions and those that average.
    Without augmented texts pair_i is L_i: what (7) gives where the augmented texts are the original ones.
    """

    def __init__(
        self, objective: nn.Module, *, alpha: float = 0.5, class_weights: Tensor | None = None, focal: bool = False
    ) -> None:
        super().__init__()
        self.objective = objective
        self.alpha = alpha
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None
        self.focal = focal

    def forward(self, image: Features, text: Features, augmented: Features | None, labels: Tensor) -> Tensor:
        """Give the loss of B pairs; ``augmented`` holds one reworded text of each, or is None."""
        losses: Tensor = self.objective(image, text, labels)
        if augmented is not None:
            losses = self.alpha * losses + (1 - self.alpha) * self.objective(image, augmented, labels)
        if self.class_weights is None and not self.focal:
            return losses.mean()
        if losses.ndim != 1:
            raise BrokenModel(
                f"{type(self.objective).__name__} gives a loss of shape {tuple(losses.shape)}, not one per pair, so "
                "that pairs cannot be weighted; train this model with imbalance 'none', or give losses of shape (B,)"
            )
        if self.focal:
            losses = losses * focal_factor(losses)
        if self.class_weights is not None:
            losses = losses * pair_weights(labels, self.class_weights)
        return losses.mean()


def make_loss(model: VisionLanguageModel, config: TrainingConfig, labels: Tensor) -> TrainingLoss:
    """What training of a model minimises under some settings.

    Args:
        model: gives the objective; symmetric InfoNCE where it brings none.
        config: how texts are mixed and pairs weighted.
        labels: (n, C) multi-hot of all training pairs, which class frequencies are counted on.

    Raises:
        BadInput: where the settings have options that the model's objective does not.
    """
    balanced = class_balanced_weights(labels.sum(dim=0)) if config.imbalance == "class_balanced" else None
    objective = make_objective(model, config.objective.get(model.card.name, {}))
    return TrainingLoss(objective, alpha=config.alpha, class_weights=balanced, focal=config.imbalance == "focal")


def make_objective(model: VisionLanguageModel, options: dict[str, float | bool]) -> nn.Module:
    """The model's own objective, or symmetric InfoNCE where it brings none.

    Raises:
        BadInput: naming the options that there are, where others are given.
    """
    make = getattr(model, "make_objective", InfoNCE)
    there_are = inspect.signature(make).parameters
    unknown = sorted(set(options) - set(there_are))
    if unknown:
        known = ", ".join(there_are) or "none"
        raise BadInput(f"the objective of {model.card.name} has no option {unknown[0]!r}; it has: {known}")
    objective: nn.Module = make(**options)
    return objective
