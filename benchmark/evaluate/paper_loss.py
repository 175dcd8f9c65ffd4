"""What the paper's probe can minimise: per-sample losses of class logits, made of the pieces of ``imbalance``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.imbalance import balanced_sigmoid, balanced_softmax, class_balanced_weights, focal_factor

if TYPE_CHECKING:
    from benchmark.evaluate.probe import PaperLoss

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(b, C) logits and their labels -> (b,) losses of the samples; (b, C), one per label, for multilabel."""


def criterion(loss: PaperLoss, train_labels: Tensor, n_classes: int) -> Criterion:
    """The losses to average over a batch; how frequent a class is, they take from the training labels.

    Weighted losses too are averaged over the samples and not, as torch has it, over the weights of the batch: what a
    sample counts would then depend on its batch.

    Args:
        loss: Which one.
        train_labels: (n,) class index, or (n, C) of 0.0/1.0 for multilabel, where having a label and not having it are
            two classes, label by label.
        n_classes: C.
    """
    several = train_labels.ndim == 2
    counts = train_labels.sum(dim=0) if several else torch.bincount(train_labels, minlength=n_classes)

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        if several:
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return F.cross_entropy(logits, labels, reduction="none")

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        losses = cross_entropy(logits, labels)
        return focal_factor(losses) * losses

    def shifted(logits: Tensor, labels: Tensor) -> Tensor:
        if several:
            return cross_entropy(balanced_sigmoid(logits, counts, len(train_labels)), labels)
        return cross_entropy(balanced_softmax(logits, counts), labels)

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        if several:
            without, having = _side_weights(counts, len(train_labels))
            weights = torch.where(labels > 0, having, without)
        else:
            weights = class_balanced_weights(counts)[labels]
        return weights * cross_entropy(logits, labels)

    criteria: dict[PaperLoss, Criterion] = {
        "cross_entropy": cross_entropy,
        "class_balanced": weighted,
        "focal": focal,
        "balanced_softmax": shifted,
    }
    return criteria[loss]


def _side_weights(counts: Tensor, total: int) -> Tensor:
    """(2, C) class-balanced weights of not having each label, and of having it."""
    return torch.stack([class_balanced_weights(torch.stack([total - n, n])) for n in counts], dim=1)
