"""Class imbalance: weights, factors and shifts that a loss can take in, and an order of samples; all pure functions.

They say nothing about which loss they enter. All but ``balanced_softmax`` and ``balanced_sigmoid`` work on any loss of
single samples or pairs, a cross-entropy of class logits as well as a contrastive one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_balanced_weights(counts: Tensor, beta: float = 0.999) -> Tensor:
    """One weight per class, inverse to its effective number of samples (Cui et al. 2019, CVPR, eq. 2 and section 4).

    ::

        w_c  is proportional to  (1 - beta) / (1 - beta^n_c)

    ``beta`` 0 weights all classes alike; towards 1 it comes to inverse frequency, 1 / n_c. The weights are scaled so
    that they average 1 over the *samples*, sum_c n_c w_c = sum_c n_c, where the paper has them average 1 over the
    classes. Only the scale differs, but so the loss keeps the size it has without weights, and learning rate and
    gradient clipping their meaning, however rare a class is.

    Args:
        counts: (C,) training samples of each class; for several labels per sample, those that have the label.
        beta: In [0, 1).

    Returns:
        (C,) in the dtype of ``counts``, float32 where they are integers; 0 for a class without samples.

    Raises:
        ValueError: where ``beta`` is outside [0, 1), a count is negative, or all are 0.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; the effective number of samples is defined for 0 <= beta < 1")
    exact = _counted(counts)
    # expm1 keeps all digits of 1 - beta^n where beta^n is close to 1.
    effective = -torch.expm1(exact.clamp(min=1) * torch.log(torch.tensor(beta, dtype=torch.float64))) / (1 - beta)
    raw = torch.where(exact > 0, 1 / effective, 0.0)
    weights = raw * exact.sum() / (raw * exact).sum()
    return weights.to(counts.dtype if counts.is_floating_point() else torch.float32)


def pair_weights(labels: Tensor, class_weights: Tensor) -> Tensor:
    """Weight of each sample, or pair of picture and text: the mean of its classes' weights.

    ::

        w_i = sum_c y_ic w_c / sum_c y_ic,    1 where sample i has no label at all

    One class per sample (binary included: two columns, one of them 1) gives each sample its class's weight. Of several
    labels none may hold; such a sample is of no class that could be rare, so it counts as the average sample does,
    which is 1 for weights that average 1 over the samples.

    Args:
        labels: (B, C) of 0/1.
        class_weights: (C,)

    Returns:
        (B,) in the dtype of ``class_weights``.
    """
    held = labels.to(class_weights.dtype)
    number = held.sum(dim=1)
    return torch.where(number > 0, held @ class_weights / number.clamp(min=1), 1.0)


def focal_factor(loss: Tensor, gamma: float = 2.0) -> Tensor:
    """How much a sample still matters to the focal loss (Lin et al. 2017, ICCV, eqs. 3 and 4).

    ::

        FL = (1 - p)^gamma * -log p,    factor = (1 - p)^gamma  with  p = exp(-loss)

    Multiply the loss by it. As in the paper the gradient flows through both: d FL / d log p =
    gamma p (1 - p)^(gamma - 1) log p - (1 - p)^gamma. Detach the factor for mere re-weighting.

    For a contrastive loss in one direction p is the probability that the softmax over the batch gives to
    the right partner. For soft targets it is a geometric mean of probabilities, weighted by the target, and at most
    exp(-H), H the entropy of the target: the factor stays above 0 however well the sample is fitted.

    Args:
        loss: (...) cross-entropies, -log p >= 0, one per sample, pair or label.
        gamma: At least 0; 0 gives factors of 1.

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: where ``gamma`` is negative.
    """
    if gamma < 0:
        raise ValueError(f"gamma is {gamma}; a negative one would weight what is already right the most")
    # The slope of x^gamma at 0 is infinite for gamma < 1, and infinity times a loss of 0 is no number.
    missing = -torch.expm1(-loss)
    return missing.clamp(min=torch.finfo(loss.dtype).tiny) ** gamma


def balanced_softmax(logits: Tensor, counts: Tensor) -> Tensor:
    """Logits as training sees them under the class frequencies of the training samples (Ren et al. 2020, eqs. 3 and 4).

    ::

        p_c = n_c exp(z_c) / sum_k n_k exp(z_k) = softmax(z + log(n / N))_c

    Give the result to the cross-entropy in training and use plain ``logits`` afterwards: they have then learned what
    speaks for a class beyond its frequency, the posterior under classes of equal frequency. For several labels per
    sample use ``balanced_sigmoid``: there no softmax joins the classes.

    Args:
        logits: (..., C)
        counts: (C,) training samples of each class; a class without samples gets -inf.

    Returns:
        (..., C) like ``logits``.

    Raises:
        ValueError: where a count is negative, or all are 0.
    """
    exact = _counted(counts)
    return logits + torch.log(exact / exact.sum()).to(logits)


def balanced_sigmoid(logits: Tensor, counts: Tensor, total: int) -> Tensor:
    """``balanced_softmax`` for several labels per sample: each is a softmax of two classes with logits 0 and z.

    ::

        p_c = n_c exp(z_c) / (n_c exp(z_c) + N - n_c) = sigmoid(z + log(n_c / (N - n_c)))_c

    A label that all training samples have, or none, would be shifted to infinity; it counts as if one sample were
    otherwise.

    Args:
        logits: (..., C)
        counts: (C,) training samples that have each label.
        total: N, all training samples.

    Returns:
        (..., C) like ``logits``.

    Raises:
        ValueError: where a count is negative or above ``total``.
    """
    exact = counts.double()
    if not bool(((exact >= 0) & (exact <= total)).all()):
        raise ValueError(f"label counts are {exact.tolist()} of {total} samples; each must lie between 0 and that")
    return logits + torch.log(exact.clamp(min=1) / (total - exact).clamp(min=1)).to(logits)


def _counted(counts: Tensor) -> Tensor:
    exact = counts.double()
    if bool((exact < 0).any()) or not bool(exact.any()):
        raise ValueError(f"class counts are {exact.tolist()}; none may be negative, and one must be above 0")
    return exact
