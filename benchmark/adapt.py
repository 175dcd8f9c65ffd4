"""Adapting a model to a train split: what every training has in common, and the ``heads`` regime.

In ``heads``, projection heads are trained on cached features, those of many variants at once. Trainings of the towers
are in ``train``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmark.config import TrainingConfig
from benchmark.errors import TrainingDiverged
from benchmark.heads import ProjectionPair
from benchmark.model import Features, HeadSpec, VisionLanguageModel
from benchmark.objective import TrainingLoss, make_loss
from benchmark.sampler import Sampler
from benchmark.seeding import generator

StepProgress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A trained pair of heads, with what a reader needs to judge its training."""

    pair: ProjectionPair
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    validation: tuple[float, ...] = ()
    """Loss on val after each epoch; empty unless training was to stop by it."""

    @property
    def kept_epoch(self) -> int:
        """The epoch whose weights were kept, counted from 1: the last one, or the first with the lowest loss on val."""
        return 1 + int(np.argmin(self.validation)) if self.validation else len(self.losses)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The rate of a step, counted from 0: a linear warm-up, then constant, or down a cosine to 0 at the end."""
    rising = max(1, round(config.warmup * steps))
    if step < rising or config.schedule == "constant":
        return config.learning_rate * min(1.0, (step + 1) / rising)
    return config.learning_rate * (1 + math.cos(math.pi * (step + 1 - rising) / (steps - rising))) / 2


# --------------------------------------------------------------------------------------------- heads


@dataclass(frozen=True)
class HeadMember:
    """One of the head trainings that run together."""

    head: HeadSpec
    augmentation: str
    seed: int


@dataclass(frozen=True, eq=False)
class PairedFeatures:
    """Cached features of n training pairs. Texts are stored once each and pointed at."""

    image: Tensor
    """(n, d_I) float32."""
    text: Tensor
    """(m, d_T) float32, one row per distinct string, rewordings included."""
    report: Tensor
    """(n,) int64 rows of ``text``."""
    rewordings: Mapping[str, Tensor]
    """Augmentation -> (n, A) int64 rows of ``text``."""
    labels: Tensor
    """(n, C) float32 multi-hot."""


def train_heads(
    model: VisionLanguageModel,
    data: PairedFeatures,
    members: Sequence[HeadMember],
    config: TrainingConfig,
    *,
    fingerprint: str,
    device: torch.device,
    progress: StepProgress | None = None,
) -> dict[HeadMember, Adapted | TrainingDiverged]:
    """Train the heads of many variants on the same cached features.

    Members with heads of one shape, and with or without rewordings alike, are stacked and trained in one batched
    computation (``torch.func.vmap``); each keeps its own batches, clipping and loss, and one that diverges leaves
    the others as they are.
    """
    stacks: dict[tuple[HeadSpec, bool], list[HeadMember]] = {}
    for member in members:
        stacks.setdefault((member.head, member.augmentation != "none"), []).append(member)
    trained: dict[HeadMember, Adapted | TrainingDiverged] = {}
    for done, stack in enumerate(stacks.values()):

        def report(step: int, steps: int, done: int = done) -> None:
            if progress:
                progress(done * steps + step, len(stacks) * steps)

        trained.update(_train_stack(model, data, stack, config, fingerprint, device, report))
    return trained


class _Variant(nn.Module):
    """Heads and loss of one member: everything that is trained in the ``heads`` regime."""

    def __init__(self, pair: ProjectionPair, loss: TrainingLoss) -> None:
        super().__init__()
        self.pair = pair
        self.loss = loss

    def forward(self, image: Tensor, text: Tensor, augmented: Tensor | None, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(
            Features(self.pair.project_image(image)),
            Features(self.pair.project_text(text)),
            None if augmented is None else Features(self.pair.project_text(augmented)),
            labels,
        )
        return loss


def _train_stack(
    model: VisionLanguageModel,
    data: PairedFeatures,
    members: Sequence[HeadMember],
    config: TrainingConfig,
    fingerprint: str,
    device: torch.device,
    report: StepProgress,
) -> dict[HeadMember, Adapted | TrainingDiverged]:
    widths = data.image.shape[1], data.text.shape[1]
    variants = [
        _Variant(ProjectionPair(*widths, m.head, seed=m.seed), make_loss(model, config, data.labels)) for m in members
    ]
    shell = copy.deepcopy(variants[0]).to("meta")
    stacked, buffers = stack_module_state([v.to(device) for v in variants])
    parameters = {name: value.detach().clone().requires_grad_(True) for name, value in stacked.items()}

    def loss_of(p: dict[str, Tensor], b: dict[str, Tensor], *batch: Tensor | None) -> Tensor:
        loss: Tensor = functional_call(shell, (p, b), batch)
        return loss

    augmented = members[0].augmentation != "none"
    step_all = vmap(grad_and_value(loss_of), in_dims=(0, 0, 0, 0, 0 if augmented else None, 0))
    optimizer = torch.optim.AdamW(list(parameters.values()), config.learning_rate, weight_decay=config.weight_decay)
    labels = data.labels.numpy()
    samplers = [
        Sampler(labels, config.sampling, config.batch_size, fingerprint=fingerprint, seed=m.seed) for m in members
    ]
    steps = config.epochs * samplers[0].batches
    curves: list[Tensor] = []
    step = 0
    for epoch in range(config.epochs):
        draws = [generator(fingerprint, "draw rewording", m.seed, epoch) for m in members]
        losses = []
        for indices in zip(*(sampler.epoch(epoch) for sampler in samplers), strict=True):
            optimizer.param_groups[0]["lr"] = learning_rate(config, step, steps)
            batch = _gather(data, members, indices, draws, device)
            gradients, loss = step_all(parameters, buffers, *batch)
            for name, gradient in _clipped(gradients, config.clip).items():
                parameters[name].grad = gradient
            optimizer.step()
            losses.append(loss.detach())
            step += 1
        curves.append(torch.stack(losses).mean(dim=0))
        report(step, steps)
    return _unstack(members, variants, parameters, torch.stack(curves))


def _gather(
    data: PairedFeatures,
    members: Sequence[HeadMember],
    indices: Sequence[NDArray[np.int64]],
    draws: Sequence[np.random.Generator],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Each member's own batch, stacked: (M, B, d_I), (M, B, d_T), the same for rewordings, (M, B, C)."""
    rows = torch.from_numpy(np.stack(indices))
    augmented = None
    if members[0].augmentation != "none":
        chosen = []
        for member, row, rng in zip(members, rows, draws, strict=True):
            options = data.rewordings[member.augmentation][row]
            pick = torch.from_numpy(rng.integers(options.shape[1], size=len(row)))
            chosen.append(options.gather(1, pick[:, None]).squeeze(1))
        augmented = data.text[torch.stack(chosen)].to(device)
    return data.image[rows].to(device), data.text[data.report[rows]].to(device), augmented, data.labels[rows].to(device)


def _clipped(gradients: Mapping[str, Tensor], limit: float) -> dict[str, Tensor]:
    """Scale each member's gradient to at most ``limit``, as ``clip_grad_norm_`` does for one model."""
    norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    scale = (limit / (norms + 1e-6)).clamp(max=1.0)
    return {name: g * scale.reshape(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}


def _unstack(
    members: Sequence[HeadMember], variants: Sequence[_Variant], parameters: Mapping[str, Tensor], curves: Tensor
) -> dict[HeadMember, Adapted | TrainingDiverged]:
    """Give each member its own trained module back."""
    trained: dict[HeadMember, Adapted | TrainingDiverged] = {}
    for i, (member, variant) in enumerate(zip(members, variants, strict=True)):
        curve = tuple(float(value) for value in curves[:, i])
        variant.load_state_dict({k: v[i].detach() for k, v in parameters.items()}, strict=False)
        trained[member] = _finite(curve) or Adapted(variant.pair.cpu().eval(), curve)
    return trained


def _finite(curve: Sequence[float]) -> TrainingDiverged | None:
    for epoch, loss in enumerate(curve, start=1):
        if not math.isfinite(loss):
            return TrainingDiverged(
                f"the training loss is {loss} in epoch {epoch} of {len(curve)}; lower the learning rate or check labels"
            )
    return None


def multi_hot(labels: NDArray[np.int64], n_classes: int) -> Tensor:
    """Class indices (n,) or 0/1 columns (n, C) as (n, C) float32, the label vectors of the soft CLIP loss."""
    if labels.ndim == 2:
        return torch.from_numpy(labels).float()
    return torch.nn.functional.one_hot(torch.from_numpy(labels), n_classes).float()
