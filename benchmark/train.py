"""The ``full`` regime: towers and heads trained together on pairs, with the model's own objective.

A batch goes through the towers in pieces: shares of several processes, and chunks where the memory is small. Their
embeddings are put together, the loss is taken over the whole batch, and its gradient at each embedding is what the
piece is then trained with (gradient caching; Gao et al. 2021, arXiv:2101.06983). One piece and one process is the plain
training step. Every epoch ends in a checkpoint, and the epochs after it are the same bits with or without a stop.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.adapt import Adapted, StepProgress, learning_rate
from benchmark.config import FullTrainingConfig
from benchmark.distributed import Ranks, shares
from benchmark.embed import autocast, to_device
from benchmark.errors import BadInput, TrainingDiverged
from benchmark.heads import ProjectionPair
from benchmark.model import Features, HeadSpec, VisionLanguageModel
from benchmark.objective import TrainingLoss, make_loss
from benchmark.result import open_atomically
from benchmark.sampler import Sampler
from benchmark.seeding import derive_seed, generator

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The n training pairs as they are before any encoder."""

    pixels: Callable[[Sequence[Rows]], Iterator[Tensor]]
    """Gives the preprocessed pictures (B, 3, H, W) of batches of pair numbers, one after another."""
    reports: Sequence[str]
    rewordings: Sequence[Sequence[str]]
    """The rewordings of each pair's report; empty where the training texts are not augmented."""
    labels: Tensor
    """(n, C) float32 multi-hot."""


def train_full(
    model: VisionLanguageModel,
    data: Pairs,
    head: HeadSpec,
    config: FullTrainingConfig,
    *,
    seed: int,
    fingerprint: str,
    device: torch.device,
    precision: str,
    validation: Pairs | None = None,
    checkpoint: Path | None = None,
    ranks: Ranks | None = None,
    progress: StepProgress | None = None,
) -> Adapted:
    """Train both towers, heads and objective in place (the paper's protocol).

    Args:
        model: the towers, an ``nn.Module``.
        data: training pairs.
        head: projection heads of both towers.
        config: settings.
        seed: of heads, batches, drawn rewordings and dropout.
        fingerprint: of the split.
        device: where the model is.
        precision: of the towers; the loss is always taken in float32.
        validation: pairs of the val split; needed where ``config.patience`` is set.
        checkpoint: written after every epoch, and gone on from where it is there already.
        ranks: the processes that train together; alone by default.
        progress: called after every step.

    Raises:
        TrainingDiverged: when the loss stops being finite; no step is taken with it.
        BadInput: where the settings ask for what the model does not have, or the checkpoint is of another training.
    """
    assert isinstance(model, nn.Module), "the planner gives only trainable models to this regime"
    ranks = ranks or Ranks()
    if config.checkpoint_gradients:
        _checkpoint_gradients(model)
    if ranks.size > 1 and device.type == "cuda":
        # Statistics over the whole batch, as one process has them; there is no such kernel for CPUs.
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch leaves it so
    pair = ProjectionPair(model.image_dim, model.text_dim, head, seed=seed).to(device)
    loss = make_loss(model, config, data.labels).to(device)
    sampler = Sampler(data.labels.numpy(), config.sampling, config.batch_size, fingerprint=fingerprint, seed=seed)
    if sampler.pairs // sampler.batches < ranks.size:
        raise BadInput(
            f"batches of {sampler.pairs // sampler.batches} pairs cannot be shared by {ranks.size} processes; start "
            "fewer, or raise full_training.batch_size"
        )
    towers = _Towers(model, pair, device, precision)
    training = _Training(towers, loss, config, ranks)
    training.resume(checkpoint)
    steps = config.epochs * sampler.batches
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Dropout and stochastic depth draw from torch's global state; it is put back when training ends.
        for epoch in range(len(training.losses), config.epochs):
            if training.waited_for(config.patience):
                break
            torch.manual_seed(derive_seed(fingerprint, "inside the model", seed, epoch, ranks.rank))
            draw = generator(fingerprint, "draw rewording", seed, epoch)
            batches = _batches(data, sampler.epoch(epoch), draw, ranks)
            training.epoch(batches, first=epoch * sampler.batches, steps=steps, progress=progress)
            if config.patience is not None:
                assert validation is not None, "stopping early needs pairs of the val split"
                training.validate(validation)
            if checkpoint is not None and ranks.leads:
                training.save(checkpoint)
    training.restore_best()
    towers.eval()
    return Adapted(pair, tuple(training.losses), tuple(training.validation))


# --------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True, eq=False)
class _Batch:
    """B pairs on all processes; the pictures of this process's share alone."""

    pixels: Tensor
    texts: list[str]
    """T distinct strings: pictures of one level share a report, and each text is encoded once."""
    text: Tensor
    """(B,) int64 rows of ``texts``."""
    augmented: Tensor | None
    """The same of one drawn rewording each."""
    labels: Tensor
    """(B, C)"""


def _batches(data: Pairs, epoch: Sequence[Rows], draw: np.random.Generator, ranks: Ranks) -> Iterator[_Batch]:
    shares = [rows[ranks.share(len(rows))] for rows in epoch]
    for rows, pixels in zip(epoch, data.pixels(shares), strict=True):
        reports = [data.reports[i] for i in rows.tolist()]
        options = [data.rewordings[i] for i in rows.tolist()] if data.rewordings else []
        drawn = [each[int(draw.integers(len(each)))] for each in options]
        texts = list(dict.fromkeys(reports + drawn))
        place = {text: i for i, text in enumerate(texts)}
        texts += texts[-1:] * (ranks.size - len(texts))  # every process encodes something
        yield _Batch(
            pixels,
            texts,
            torch.tensor([place[text] for text in reports]),
            torch.tensor([place[text] for text in drawn]) if drawn else None,
            data.labels[torch.from_numpy(rows)],
        )


# --------------------------------------------------------------------------------------------- towers


class _Towers(nn.Module):
    """Both encoders with their heads: what a piece of a batch goes through."""

    def __init__(self, model: VisionLanguageModel, pair: ProjectionPair, device: torch.device, precision: str) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.pair = pair
        self.device = device
        self.precision = precision

    def images(self, pixels: Tensor) -> Features:
        """Encode and project (B, 3, H, W)."""
        with autocast(self.device, self.precision):
            encoded = _in_float32(self.model.encode_image(to_device(pixels, self.device)))
        return replace(encoded, pooled=self.pair.project_image(encoded.pooled))

    def texts(self, texts: Sequence[str]) -> Features:
        """Encode and project B texts."""
        with autocast(self.device, self.precision):
            encoded = _in_float32(self.model.encode_text(texts))
        return replace(encoded, pooled=self.pair.project_text(encoded.pooled))


def _in_float32(features: Features) -> Features:
    """Features as heads and loss take them: under autocast, tokens come out of a tower in bfloat16."""
    tokens = None if features.tokens is None else features.tokens.float()
    return replace(features, pooled=features.pooled.float(), tokens=tokens)


def _checkpoint_gradients(model: nn.Module) -> None:
    switch = getattr(model, "checkpoint_gradients", None)
    if switch is None:
        raise BadInput(
            f"{type(model).__name__} has no checkpoint_gradients(), so that full_training.checkpoint_gradients cannot "
            "be had; leave it off, or use full_training.chunk for less memory"
        )
    switch(True)


@contextmanager
def _kept_buffers(module: nn.Module) -> Iterator[None]:
    """Put running statistics back at the end: of two forward passes over the same samples one counts."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)


# --------------------------------------------------------------------------------------------- one step


class _Piece:
    """Samples that go through a tower together: forward, and backward once the loss of the whole batch is known."""

    def __init__(self, encode: Callable[[], Features], device: torch.device, *, keep: bool) -> None:
        """Encode.

        Args:
            encode: gives the features of the piece.
            device: where dropout draws.
            keep: hold the activations; otherwise the piece is encoded a second time, with the same random numbers.
        """
        self._encode = encode
        self._device = device
        self._random = None if keep else _random_state(device)
        with torch.set_grad_enabled(keep):
            self._kept = encode()
        self.features = _each(self._kept, Tensor.detach)

    def backward(self, pooled: Tensor, tokens: Tensor | None) -> None:
        """Add to the gradients of the tower, given the gradients at this piece's features."""
        features = self._kept if self._random is None else self._encoded_again()
        outputs, gradients = [features.pooled], [pooled]
        if tokens is not None and features.tokens is not None and features.tokens.requires_grad:
            outputs.append(features.tokens)
            gradients.append(tokens[:, : features.tokens.shape[1]])
        torch.autograd.backward(outputs, gradients)

    def _encoded_again(self) -> Features:
        assert self._random is not None
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.set_rng_state(self._random[0])
            if self._random[1] is not None:
                torch.cuda.set_rng_state(self._random[1], self._device)
            return self._encode()


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


class _Side:
    """One modality of a batch: its pieces here, and the features of all samples, where the loss takes its gradients."""

    def __init__(self, pieces: Sequence[_Piece], n: int, ranks: Ranks, device: torch.device) -> None:
        self._pieces = pieces
        self._first = ranks.share(n).start
        self.features = _leaves(_gathered(_joined([piece.features for piece in pieces]), n, ranks, device))

    def backward(self) -> None:
        """Take the loss's gradients back through the tower, piece by piece."""
        pooled, tokens = self.features.pooled.grad, None if self.features.tokens is None else self.features.tokens.grad
        if pooled is None:  # an objective may look at tokens alone
            pooled = torch.zeros_like(self.features.pooled)
        start = self._first
        for piece in self._pieces:
            rows = slice(start, start + len(piece.features.pooled))
            piece.backward(pooled[rows], None if tokens is None else tokens[rows])
            start = rows.stop


def _joined(parts: Sequence[Features]) -> Features:
    """Put pieces one after another, texts brought to the length of the longest."""
    longest = max(0 if part.tokens is None else part.tokens.shape[1] for part in parts)
    even = [_lengthened(part, longest) for part in parts]
    tokens, masks = [part.tokens for part in even], [part.mask for part in even]
    return Features(
        torch.cat([part.pooled for part in even]),
        torch.cat([each for each in tokens if each is not None]) if longest else None,
        torch.cat([each for each in masks if each is not None]) if masks[0] is not None else None,
    )


def _lengthened(features: Features, length: int) -> Features:
    """Add tokens that the mask says are none; features without a mask have as many tokens each as they are."""
    if features.tokens is None or features.mask is None:
        return features
    missing = length - features.tokens.shape[1]
    tokens = nn.functional.pad(features.tokens, (0, 0, 0, missing))
    return replace(features, tokens=tokens, mask=nn.functional.pad(features.mask, (0, missing)))


def _gathered(features: Features, n: int, ranks: Ranks, device: torch.device) -> Features:
    if features.tokens is not None:  # the longest text may be in another process
        features = _lengthened(features, max(ranks.all_of(features.tokens.shape[1], device)))
    return _each(features, lambda part: ranks.gather(part, n))


def _leaves(features: Features) -> Features:
    return replace(
        features,
        pooled=features.pooled.requires_grad_(),
        tokens=None if features.tokens is None else features.tokens.requires_grad_(),
    )


def _each(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    return Features(
        change(features.pooled),
        None if features.tokens is None else change(features.tokens),
        None if features.mask is None else change(features.mask),
    )


# --------------------------------------------------------------------------------------------- the training


class _Training:
    """Everything that an epoch changes, so that it can be written down and gone on from."""

    def __init__(self, towers: _Towers, loss: TrainingLoss, config: FullTrainingConfig, ranks: Ranks) -> None:
        self.towers = towers
        self.loss = loss
        self.config = config
        self.ranks = ranks
        self.losses: list[float] = []
        self.validation: list[float] = []
        self._best: dict[str, Tensor] | None = None
        self._parameters = [p for part in (towers, loss) for p in part.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=towers.device.type == "cuda",
        )

    def epoch(self, batches: Iterator[_Batch], *, first: int, steps: int, progress: StepProgress | None) -> None:
        """Take a step for each batch; ``first`` is the number of the first of them."""
        self.towers.train()
        self.loss.train()
        losses: list[float] = []
        for step, batch in enumerate(batches, start=first):
            rate = learning_rate(self.config, step, steps)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.zero_grad(set_to_none=True)
            value = float(self._backward(batch))
            if not math.isfinite(value):
                before = f"{[*self.losses, *losses][-1]:.4g}" if self.losses or losses else "none"
                raise TrainingDiverged(
                    f"the training loss is {value} in epoch {len(self.losses) + 1} of {self.config.epochs}, step "
                    f"{step + 1} of {steps}, at a learning rate of {rate:.3g}; the last finite loss was {before}. "
                    "Lower the learning rate or check the labels"
                )
            norm = float(nn.utils.clip_grad_norm_(self._parameters, self.config.clip))
            if not math.isfinite(norm):
                raise TrainingDiverged(
                    f"the gradient's norm is {norm} at a loss of {value:.4g} in epoch {len(self.losses) + 1} of "
                    f"{self.config.epochs}, step {step + 1} of {steps}. Lower the learning rate or check the labels"
                )
            self._optimizer.step()
            losses.append(value)
            if progress:
                progress(step + 1, steps)
        self.ranks.copy_buffers(self.towers)
        self.losses.append(float(np.mean(losses)))

    def _backward(self, batch: _Batch) -> Tensor:
        """Give the loss of a batch, and leave its gradient in the parameters."""
        towers, device, chunk = self.towers, self.towers.device, self.config.chunk
        texts = batch.texts[self.ranks.share(len(batch.texts))]
        of_pixels = self.ranks.pieces(len(batch.labels), chunk)
        of_texts = self.ranks.pieces(len(batch.texts), chunk)
        keep = of_pixels == of_texts == 1
        images = [partial(towers.images, batch.pixels[rows]) for rows in shares(len(batch.pixels), of_pixels)]
        strings = [partial(towers.texts, texts[rows]) for rows in shares(len(texts), of_texts)]
        image = _Side([_Piece(each, device, keep=keep) for each in images], len(batch.labels), self.ranks, device)
        text = _Side([_Piece(each, device, keep=keep) for each in strings], len(batch.texts), self.ranks, device)
        loss: Tensor = self.loss(
            image.features,
            _taken(text.features, batch.text),
            None if batch.augmented is None else _taken(text.features, batch.augmented),
            batch.labels.to(device),
        )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        # What is encoded a second time, here or by recomputed activations, would count twice in running statistics.
        with nullcontext() if keep and not self.config.checkpoint_gradients else _kept_buffers(towers):
            image.backward()
            text.backward()
        for parameter in self.loss.parameters():  # every process has the whole gradient of these
            if parameter.grad is not None:
                parameter.grad /= self.ranks.size
        self.ranks.sum_gradients(self._parameters)
        return loss.detach()

    @torch.no_grad()
    def validate(self, pairs: Pairs) -> None:
        """Take the loss over pairs of the val split, original texts alone; keep the weights where it is the lowest."""
        self.towers.eval()
        self.loss.eval()
        n = len(pairs.reports)
        # In the order of the file, pictures of one report would share a batch.
        order = generator("order of val pairs", n).permutation(n)
        rows = np.array_split(order, math.ceil(n / self.config.batch_size))
        total = 0.0
        for batch in _batches(replace(pairs, rewordings=()), rows, generator("no draw"), Ranks()):
            index = batch.text.to(self.towers.device)
            text = _taken(self.towers.texts(batch.texts), index)
            labels = batch.labels.to(self.towers.device)
            total += float(self.loss(self.towers.images(batch.pixels), text, None, labels)) * len(labels)
        value = self.ranks.leaders(total / n, self.towers.device)
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the loss on val is {value} after epoch {len(self.losses)} of {self.config.epochs}: no epoch can "
                "be chosen by it. Lower the learning rate or check the labels"
            )
        self.validation.append(value)
        if int(np.argmin(self.validation)) == len(self.validation) - 1:
            self._best = {name: value.detach().cpu().clone() for name, value in self.towers.state_dict().items()}

    def waited_for(self, patience: int | None) -> bool:
        """Whether as many epochs as are waited for have gone by without a lower loss on val."""
        return patience is not None and len(self.validation) - 1 - int(np.argmin(self.validation or [0])) >= patience

    def restore_best(self) -> None:
        """Go back to the weights with the lowest loss on val, where they were kept."""
        if self._best is not None:
            self.towers.load_state_dict(self._best)

    def save(self, file: Path) -> None:
        """Write everything down, atomically."""
        state = {
            "towers": self.towers.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": self.losses,
            "validation": self.validation,
            "best": self._best,
        }
        with open_atomically(file) as target:
            torch.save(state, target)

    def resume(self, file: Path | None) -> None:
        """Go on from what was written down, where something was.

        Raises:
            BadInput: where it cannot be read, or not all processes see it.
        """
        if file is not None and file.exists():
            try:
                state = torch.load(file, map_location=self.towers.device, weights_only=True)
                self.towers.load_state_dict(state["towers"])
                self.loss.load_state_dict(state["loss"])
                self._optimizer.load_state_dict(state["optimizer"])
                self.losses, self.validation = list(state["losses"]), list(state["validation"])
                self._best = state["best"]
            except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
                raise BadInput(
                    f"checkpoint {file} cannot be gone on from ({type(error).__name__}); delete it, and this training "
                    "starts from the beginning"
                ) from error
        # Refused by all of them alike: one that went on alone would wait for the others.
        if len(set(self.ranks.all_of(len(self.losses), self.towers.device))) > 1:
            raise BadInput(
                "not all processes see the checkpoint that others see; put the run folder where all machines have it"
            )


def _taken(features: Features, index: Tensor) -> Features:
    return _each(features, lambda part: part[index.to(part.device)])
