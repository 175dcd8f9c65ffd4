"""Linear classifiers on frozen features: the standard probe, the paper's probe, and few-shot ridge regression.

No function here ever sees a test label: each is handed training arrays (the standard probe validation arrays too) and
returns a ``FittedProbe`` that scores any features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from benchmark.evaluate.logistic import CONVERGED, Problem, Solution
from benchmark.result import Task
from benchmark.seeding import generator

Floats = NDArray[np.float64]

Link = Literal["softmax", "sigmoid", "identity"]

ClassWeight = Literal["none", "balanced"]
"""How much a sample counts in the standard probe: once, or in inverse proportion to its class's frequency."""

PaperLoss = Literal["cross_entropy", "class_balanced", "focal", "balanced_softmax"]
"""What the paper's probe minimises: the paper's cross-entropy, or one of ``imbalance``'s answers to rare classes."""

SAME = 1e-9
"""Two losses closer than this, relatively, are equal, and the stronger regularisation wins."""


@dataclass(frozen=True)
class Scaler:
    """Per-feature mean and standard deviation of the training features."""

    mean: Floats
    """(d,)"""
    scale: Floats
    """(d,), 1 where a feature does not vary on the training split: it is then 0 there, and wherever it is the same."""

    @classmethod
    def fit(cls, features: NDArray[Any]) -> Scaler:
        """Measure (n, d) training features, in float64."""
        exact = np.asarray(features, dtype=np.float64)
        mean, deviation = exact.mean(axis=0), exact.std(axis=0)
        # The deviation of a constant column is not 0 but the rounding of its mean.
        varies = deviation > 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean, np.where(varies, deviation, 1.0))

    def apply(self, features: NDArray[Any]) -> Floats:
        """Standardise (n, d) features."""
        return (np.asarray(features, dtype=np.float64) - self.mean) / self.scale


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A frozen linear classifier over C classes."""

    scaler: Scaler
    coefficients: Floats
    """(d, C) for standardised features; of two classes, the first column is 0."""
    intercepts: Floats
    """(C,); -inf where a class was never seen in training, so that its probability is 0."""
    link: Link
    record: dict[str, Any] = field(default_factory=dict)
    """What was chosen and how well it converged, JSON-able."""

    def scores(self, features: NDArray[Any]) -> Floats:
        """(n, C) class scores of (n, d) features: probabilities, but for the ``identity`` link."""
        logits: Floats = self.scaler.apply(features) @ self.coefficients + self.intercepts
        if self.link == "identity":
            return logits
        linked: Floats = softmax(logits, axis=1) if self.link == "softmax" else expit(logits)
        return linked


def one_hot(labels: NDArray[np.int64], n_classes: int) -> Floats:
    """(n, C) of 0/1 from (n,) class indices; (n, C) multi-hot labels stay as they are."""
    return labels.astype(np.float64) if labels.ndim == 2 else np.eye(n_classes)[labels]


# --------------------------------------------------------------------------------------------- standard


def fit_standard(
    train_x: NDArray[Any],
    train_y: NDArray[np.int64],
    val_x: NDArray[Any],
    val_y: NDArray[np.int64],
    *,
    n_classes: int,
    task: Task,
    strengths: Sequence[float],
    class_weight: ClassWeight = "none",
) -> FittedProbe:
    """Logistic regression on train-standardised features, its strength chosen by the log-loss on val.

    Multinomial for one class per sample (one logit where there are two), an independent regression per label
    otherwise, with one strength for all labels. A class that the training split lacks gets probability 0, a label
    that is the same for all of it gets that value: nothing was there to learn more from.

    ``balanced`` weights count in the fit and in the choice of the strength, both by the frequencies of the training
    split: the probabilities are then those under classes of equal frequency, and would be judged by others otherwise.

    Args:
        train_x: (n, d) features.
        train_y: (n,) class index, or (n, C) of 0/1 for multilabel.
        val_x: (m, d) features.
        val_y: Labels of the validation samples.
        n_classes: C.
        task: Decides the likelihood.
        strengths: Increasing C in scikit-learn's sense: the strongest regularisation first.
        class_weight: ``balanced`` as in scikit-learn.

    Returns:
        A probe whose record has ``strength`` (the chosen C), ``val_log_loss`` of every C, ``at_edge``,
        ``gradient_norm`` (largest component), ``converged``, and ``not_in_train`` (class indices), where there are any.
    """
    scaler = Scaler.fit(train_x)
    targets = one_hot(train_y, n_classes)
    learnt = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    # Two classes that exclude each other are one logit for the second against the first, as in scikit-learn.
    columns = learnt[1:] if task != "multilabel" and len(learnt) == 2 else learnt
    softmax_needed = task != "multilabel" and len(learnt) > 2
    weights = _sample_weights(targets, targets, task, class_weight)
    problem = Problem(
        scaler.apply(train_x),
        targets[:, columns],
        "softmax" if softmax_needed else "sigmoid",
        weights[:, columns] if task == "multilabel" else weights,
    )

    def probe(solution: Solution) -> FittedProbe:
        coefficients = np.zeros((train_x.shape[1], n_classes))
        intercepts = np.where(targets.all(axis=0), np.inf if task == "multilabel" else 0.0, -np.inf)
        intercepts[learnt] = 0.0
        coefficients[:, columns] = problem.basis @ solution.weights[:-1]
        intercepts[columns] = solution.weights[-1]
        return FittedProbe(scaler, coefficients, intercepts, "sigmoid" if task == "multilabel" else "softmax")

    path = problem.path(strengths)
    val_targets = one_hot(val_y, n_classes)
    val_weights = _sample_weights(targets, val_targets, task, class_weight)
    losses = [_log_loss(task, val_targets, probe(solution).scores(val_x), val_weights) for solution in path]
    chosen = _first_lowest(losses)
    final = problem.polish(path[chosen], strengths[chosen])
    fitted = probe(final)
    fitted.record.update(
        strength=float(strengths[chosen]),
        at_edge=chosen in (0, len(strengths) - 1),
        val_log_loss=losses,
        gradient_norm=final.gradient_norm,
        converged=final.gradient_norm <= CONVERGED * min(1.0, strengths[chosen]),
    )
    if not targets.any(axis=0).all():
        fitted.record["not_in_train"] = np.flatnonzero(~targets.any(axis=0)).tolist()
    return fitted


def _sample_weights(train_targets: Floats, targets: Floats, task: Task, class_weight: ClassWeight) -> Floats:
    """How much each sample counts, (m, 1), or (m, C) for multilabel, where having a label and not are two classes.

    ``balanced`` is n / (classes * n_c) over the training samples, as in scikit-learn; 1 for a class they lack.
    """
    n, counts = len(train_targets), train_targets.sum(axis=0)
    if class_weight == "none":
        return np.ones((len(targets), len(counts) if task == "multilabel" else 1))
    if task == "multilabel":
        frequency, classes = np.where(targets > 0, counts, n - counts), 2
    else:
        frequency, classes = (targets @ counts)[:, None], int((counts > 0).sum())
    return np.where(frequency > 0, n / (classes * np.maximum(frequency, 1)), 1.0)


def _log_loss(task: Task, targets: Floats, probabilities: Floats, weights: Floats) -> float:
    """Mean log-loss in nats per sample (and label, for multilabel) under the weights of ``_sample_weights``."""
    floor = np.finfo(np.float64).eps
    logs = np.log(np.clip(np.where(targets > 0, probabilities, 1 - probabilities), floor, 1.0))
    if task == "multilabel":
        return float(-np.average(logs, weights=weights))
    return float(-np.average(logs[targets > 0], weights=weights[:, 0]))


def _first_lowest(losses: Sequence[float]) -> int:
    """Index of the lowest loss; among equal ones the first, which is the most regularised."""
    lowest = min(losses)
    return next(i for i, loss in enumerate(losses) if loss <= lowest + SAME * abs(lowest))


# --------------------------------------------------------------------------------------------- paper


def fit_paper(
    train_x: NDArray[Any],
    train_y: NDArray[np.int64],
    *,
    n_classes: int,
    task: Task,
    epochs: int,
    lr: float,
    batch: int,
    generator_seed: int,
    loss: PaperLoss = "cross_entropy",
    upsample: bool = False,
) -> FittedProbe:
    """One linear layer on the features as they are, trained by AdamW on cross-entropy (multilabel: binary).

    The probe of the LumbarCLIP paper; what it leaves open is torch's default (weight decay 0.01, no schedule, uniform
    initialisation). Nothing is chosen, so no validation samples are needed and the last epoch counts.

    Other losses are those of ``benchmark.imbalance`` at their published settings, by the counts of the training
    samples; for multilabel having a label and not having it are two classes, label by label. ``balanced_softmax``
    shifts logits in training alone. ``upsample`` repeats smaller classes to the size of the largest; for
    multilabel a class is a combination of labels.

    Args:
        train_x: (n, d) features.
        train_y: (n,) class index, or (n, C) of 0/1 for multilabel.
        n_classes: C.
        task: Decides the loss.
        epochs: Passes over the training samples.
        lr: Learning rate.
        batch: Samples per step; the last batch of an epoch may be smaller.
        generator_seed: Seeds initial weights and the order of samples.
        loss: What is minimised.
        upsample: Whether rare classes are repeated until every class is as frequent as the others.
    """
    import torch
    from torch.nn import functional as F

    from benchmark.evaluate.paper_loss import criterion
    from benchmark.sampler import upsampled

    torch_rng, rng = torch.Generator().manual_seed(generator_seed), np.random.default_rng(generator_seed)
    features = torch.from_numpy(np.array(train_x, dtype=np.float32))
    labels = torch.from_numpy(np.array(train_y, dtype=np.float32 if task == "multilabel" else np.int64))
    kinds = torch.unique(labels, dim=0, return_inverse=True)[1]
    losses_of = criterion(loss, labels, n_classes)
    bound = features.shape[1] ** -0.5
    weight = torch.empty(n_classes, features.shape[1]).uniform_(-bound, bound, generator=torch_rng).requires_grad_()
    bias = torch.empty(n_classes).uniform_(-bound, bound, generator=torch_rng).requires_grad_()
    optimizer = torch.optim.AdamW([weight, bias], lr=lr)
    value = torch.zeros(())
    for _ in range(epochs):
        seen = torch.from_numpy(upsampled(kinds.numpy(), rng)) if upsample else torch.arange(len(kinds))
        order = seen[torch.randperm(len(seen), generator=torch_rng)]
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            value = losses_of(F.linear(features[rows], weight, bias), labels[rows]).mean()
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            optimizer.step()
    plain = Scaler(np.zeros(features.shape[1]), np.ones(features.shape[1]))
    link: Link = "sigmoid" if task == "multilabel" else "softmax"
    coefficients, intercepts = (p.detach().numpy().astype(np.float64) for p in (weight, bias))
    return FittedProbe(plain, coefficients.T, intercepts, link, {"last_batch_loss": float(value.detach())})


# --------------------------------------------------------------------------------------------- few-shot


def nested_subsets(
    train_y: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    n_classes: int,
    shots: Sequence[int],
    draws: int,
    rng_key: Sequence[str | int],
) -> list[dict[int, NDArray[np.int64]]]:
    """Choose k training samples per class, each smaller set inside the larger ones, the same for every model.

    They depend on labels, patients and the key alone. Samples are taken from distinct patients as long as there are
    any left: pictures of one patient are nearly the same shot. For multilabel, k samples with and k without each label,
    joined.

    Args:
        train_y: (n,) class index, or (n, C) of 0/1.
        groups: (n,) patient codes.
        n_classes: C.
        shots: The k's.
        draws: Independent repetitions.
        rng_key: What the random numbers derive from, such as the split's fingerprint.

    Returns:
        Per draw, k -> ascending positions in ``train_y``. A k that some class has too few samples for is absent.
    """
    targets = one_hot(train_y, n_classes) > 0
    pools = [*targets.T, *(~targets.T if train_y.ndim == 2 else [])]
    possible = [k for k in shots if k <= min(int(pool.sum()) for pool in pools)]
    subsets = []
    for draw in range(draws):
        order = _patients_in_turn(generator(*rng_key, draw).permutation(len(train_y)), groups)
        ranked = [order[pool[order]] for pool in pools]
        subsets.append({k: np.unique(np.concatenate([pool[:k] for pool in ranked])) for k in possible})
    return subsets


def _patients_in_turn(order: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reorder: the first sample of every patient in the given order, then every second sample, and so on."""
    owner = groups[order]
    by_patient = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[by_patient], owner[by_patient])
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_patient] = np.arange(len(order)) - first
    return order[np.argsort(turn, kind="stable")]


def fit_few_shot(
    shots_x: NDArray[Any],
    shots_y: NDArray[np.int64],
    *,
    n_classes: int,
    strengths: Sequence[float],
    scaler: Scaler,
) -> FittedProbe:
    """Ridge regression on one-hot (or multi-hot) targets, all strengths from one decomposition.

    The strength, alpha = 1 / C, has the lowest leave-one-out squared error within the shots, in closed form
    (PRESS; Allen 1974): a validation split would be many times the labels that "few-shot" allows.

    Args:
        shots_x: (m, d) features of the shots.
        shots_y: Their labels.
        n_classes: C.
        strengths: Increasing C in scikit-learn's sense; the same grid as the standard probe's.
        scaler: Standardisation from the unlabelled features of the whole training split; it uses no label.
    """
    features, targets = scaler.apply(shots_x), one_hot(shots_y, n_classes)
    centre, level = features.mean(axis=0), targets.mean(axis=0)
    left, singular, right = np.linalg.svd(features - centre, full_matrices=False)
    projected = left.T @ (targets - level)

    def leave_one_out(alpha: float) -> float:
        kept = singular**2 / (singular**2 + alpha)
        residual = targets - level - left @ (kept[:, None] * projected)
        free = 1 - 1 / len(targets) - (left**2) @ kept  # one minus the leverage of each shot
        return float(((residual / np.maximum(free, 1e-12)[:, None]) ** 2).mean())

    errors = [leave_one_out(1 / strength) for strength in strengths]
    chosen = _first_lowest(errors)
    alpha = 1 / strengths[chosen]
    coefficients = right.T @ ((singular / (singular**2 + alpha))[:, None] * projected)
    record = {"strength": float(strengths[chosen]), "at_edge": chosen in (0, len(strengths) - 1)}
    return FittedProbe(scaler, coefficients, level - centre @ coefficients, "identity", record)
