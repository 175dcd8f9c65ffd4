"""Training: projection heads on cached features, many variants at once, or towers and heads together.

Both trainings see the same batches: the sampler depends on the split, the seed and the settings, never on the model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from benchmark.config import TrainingConfig
from benchmark.embed import autocast, to_device
from benchmark.errors import TrainingDiverged
from benchmark.heads import ProjectionPair
from benchmark.model import Features, HeadSpec, VisionLanguageModel
from benchmark.objective import InfoNCE
from benchmark.seeding import derive_seed, generator

StepProgress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """A trained pair of heads, with what a reader needs to judge its training."""

    pair: ProjectionPair
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""


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


def batches(n: int, batch_size: int, epochs: int, *, fingerprint: str, seed: int) -> Iterator[list[NDArray[np.int64]]]:
    """Yield each epoch's batches: a permutation cut into equal parts, so that every sample is seen once an epoch."""
    rng = generator(fingerprint, "sampler", seed)
    for _ in range(epochs):
        yield np.array_split(rng.permutation(n), math.ceil(n / batch_size))


# --------------------------------------------------------------------------------------------- heads


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
    steps = config.epochs * math.ceil(len(data.image) / config.batch_size)
    for done, stack in enumerate(stacks.values()):

        def report(step: int, done: int = done) -> None:
            if progress:
                progress(done * steps + step, len(stacks) * steps)

        trained.update(_train_stack(model, data, stack, config, fingerprint, device, report))
    return trained


class _Variant(nn.Module):
    """Heads and objective of one member: everything that is trained in the ``heads`` regime."""

    def __init__(self, pair: ProjectionPair, objective: nn.Module) -> None:
        super().__init__()
        self.pair = pair
        self.objective = objective

    def forward(self, image: Tensor, text: Tensor, augmented: Tensor | None, labels: Tensor) -> Tensor:
        loss: Tensor = self.objective(
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
    report: Callable[[int], None],
) -> dict[HeadMember, Adapted | TrainingDiverged]:
    variants = [
        _Variant(ProjectionPair(data.image.shape[1], data.text.shape[1], m.head, seed=m.seed), make_objective(model))
        for m in members
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
    warm_up = _warm_up(optimizer, config, len(data.image))
    draws = [generator(fingerprint, "draw rewording", m.seed) for m in members]
    samplers = [_sampler(data, m.seed, config, fingerprint) for m in members]
    curves: list[Tensor] = []
    step = 0
    for epoch in zip(*samplers, strict=True):
        losses = []
        for indices in zip(*epoch, strict=True):
            batch = _gather(data, members, indices, draws, device)
            gradients, loss = step_all(parameters, buffers, *batch)
            for name, gradient in _clipped(gradients, config.clip).items():
                parameters[name].grad = gradient
            optimizer.step()
            warm_up.step()
            losses.append(loss.detach())
            step += 1
        curves.append(torch.stack(losses).mean(dim=0))
        report(step)
    return _unstack(members, variants, parameters, torch.stack(curves))


def _sampler(
    data: PairedFeatures, seed: int, config: TrainingConfig, fingerprint: str
) -> Iterator[list[NDArray[np.int64]]]:
    return batches(len(data.image), config.batch_size, config.epochs, fingerprint=fingerprint, seed=seed)


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


# --------------------------------------------------------------------------------------------- full


@dataclass(frozen=True, eq=False)
class Pairs:
    """The n training pairs as they are before any encoder."""

    pixels: Callable[[NDArray[np.int64]], Tensor]
    """Gives the preprocessed pictures (B, 3, H, W) of a batch of pair numbers."""
    reports: Sequence[str]
    rewordings: Sequence[Sequence[str]]
    """The rewordings of each pair's report; empty where the training texts are not augmented."""
    labels: Tensor
    """(n, C) float32 multi-hot."""


def train_full(
    model: VisionLanguageModel,
    data: Pairs,
    head: HeadSpec,
    config: TrainingConfig,
    *,
    seed: int,
    fingerprint: str,
    device: torch.device,
    precision: str,
    progress: StepProgress | None = None,
) -> Adapted:
    """Train both towers, heads and objective in place, with the model's own objective (the paper's protocol).

    Raises:
        TrainingDiverged: when the loss stops being finite.
    """
    assert isinstance(model, nn.Module), "the planner gives only trainable models to this regime"
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Dropout and stochastic depth draw from torch's global state; it is put back when training ends.
        torch.manual_seed(derive_seed(fingerprint, "inside the model", seed))
        pair = ProjectionPair(model.image_dim, model.text_dim, head, seed=seed).to(device)
        objective = make_objective(model).to(device)
        trained = nn.ModuleList([model, pair, objective])
        trained.train()
        optimizer = torch.optim.AdamW(
            [p for p in trained.parameters() if p.requires_grad], config.learning_rate, weight_decay=config.weight_decay
        )
        n = len(data.reports)
        warm_up = _warm_up(optimizer, config, n)
        draw = generator(fingerprint, "draw rewording", seed)
        steps = config.epochs * math.ceil(n / config.batch_size)
        curve: list[float] = []
        step = 0
        for epoch in batches(n, config.batch_size, config.epochs, fingerprint=fingerprint, seed=seed):
            losses = []
            for rows in epoch:
                with autocast(device, precision):
                    loss = _pair_loss(model, pair, objective, data, rows, draw, device)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
                nn.utils.clip_grad_norm_(trained.parameters(), config.clip)
                optimizer.step()
                warm_up.step()
                losses.append(loss.detach())
                step += 1
                if progress:
                    progress(step, steps)
            curve.append(float(torch.stack(losses).mean()))
            diverged = _finite(curve)
            if diverged:
                raise diverged
        trained.eval()
        return Adapted(pair, tuple(curve))


def _pair_loss(
    model: VisionLanguageModel,
    pair: ProjectionPair,
    objective: nn.Module,
    data: Pairs,
    rows: NDArray[np.int64],
    draw: np.random.Generator,
    device: torch.device,
) -> Tensor:
    reports = [data.reports[i] for i in rows.tolist()]
    texts = list(reports)
    if data.rewordings:
        options = [data.rewordings[i] for i in rows.tolist()]
        texts += [each[int(draw.integers(len(each)))] for each in options]
    image = model.encode_image(to_device(data.pixels(rows), device))
    # Pictures of one level share a report, so a batch holds many texts twice; each is encoded once.
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    encoded = model.encode_text(distinct)
    index = torch.tensor([place[text] for text in texts], device=device)
    text = _take(encoded, index[: len(rows)])
    augmented = _take(encoded, index[len(rows) :]) if data.rewordings else None
    loss: Tensor = objective(
        Features(pair.project_image(image.pooled.float()), image.tokens, image.mask),
        Features(pair.project_text(text.pooled.float()), text.tokens, text.mask),
        None
        if augmented is None
        else Features(pair.project_text(augmented.pooled.float()), augmented.tokens, augmented.mask),
        data.labels[torch.from_numpy(rows)].to(device),
    )
    return loss


def _take(features: Features, index: Tensor) -> Features:
    return Features(
        features.pooled[index],
        None if features.tokens is None else features.tokens[index],
        None if features.mask is None else features.mask[index],
    )


# --------------------------------------------------------------------------------------------- both


def make_objective(model: VisionLanguageModel) -> nn.Module:
    """The model's own objective, or symmetric InfoNCE where it brings none."""
    make = getattr(model, "make_objective", InfoNCE)
    objective: nn.Module = make()
    return objective


def _warm_up(optimizer: torch.optim.Optimizer, config: TrainingConfig, n: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over the first share of all steps, constant after."""
    steps = config.epochs * math.ceil(n / config.batch_size)
    rising = max(1, round(config.warmup * steps))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rising))


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
