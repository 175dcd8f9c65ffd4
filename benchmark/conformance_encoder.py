"""The clauses that an encoder pair must keep.

All clauses are checked at both scales. A published size is checked on fewer examples (``EXAMPLES``; preprocessing and
the awkward texts on all), and its training ends with the first step after which every tensor has had a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.adapt import HeadMember, PairedFeatures, train_heads
from benchmark.config import TrainingConfig
from benchmark.conformance_clause import (
    Broken,
    Check,
    NotApplicable,
    Outputs,
    Subject,
    builds,
    card_complete,
    equal,
    own_card,
    pickles,
)
from benchmark.conformance_examples import HARD_TEXTS, PAIRED_TEXTS, example_pictures
from benchmark.embed import inference
from benchmark.errors import TrainingDiverged, UnsupportedModality
from benchmark.heads import ProjectionPair
from benchmark.model import Features, HeadSpec, Scale, VisionLanguageModel
from benchmark.objective import make_objective
from benchmark.profile import parameters

INVARIANCE = 1e-4
"""Largest difference between batchings, relative to the features' root mean square; float32 sums differ by 1e-6."""

REACHED = 0.9
"""Least share of trainable parameter tensors that must get a gradient; a few may serve no tower (a temperature)."""

STEPS = 3
"""Training steps looked at: layers behind a gain that starts at zero get their first gradient in the second."""

EXAMPLES: dict[Scale, int] = {"tiny": 5, "paper": 3}
"""Pairs that are encoded and trained on. Three are the fewest that make a batch of two and a ragged one."""


class Encoder(Subject):
    """An encoder pair with the example pictures and texts."""

    @property
    def texts(self) -> tuple[str, ...]:
        """One text per picture; the last is empty."""
        return PAIRED_TEXTS[-EXAMPLES[self.request.scale] :]

    def prepared(self) -> Tensor:
        """The example pictures as the model prepares them, (n, 3, H, W)."""
        pictures = example_pictures()[: EXAMPLES[self.request.scale]]
        return torch.stack([self.model.preprocess(picture) for picture in pictures])

    @cached_property
    def pixels(self) -> Tensor:
        """The example pictures, prepared once."""
        return self.prepared()

    @cached_property
    def reads_text(self) -> bool:
        """Whether the model has a text encoder."""
        try:
            self.encode(self.model, None, self.texts[:2])
        except UnsupportedModality:
            return False
        return True

    def outputs(self, model: Any, device: str | None = None) -> Outputs:  # noqa: ANN401
        """Features of all examples; text is left out where the model has no encoder for it."""
        return self.encode(model, self.pixels, self.texts if self.reads_text else None, device)

    def encode(
        self,
        model: Any,  # noqa: ANN401
        pixels: Tensor | None,
        texts: Sequence[str] | None,
        device: str | None = None,
    ) -> Outputs:
        """Pooled features as the model gives them, in the harness's inference mode."""
        found: dict[str, NDArray[Any]] = {}
        with inference(model):
            if pixels is not None:
                found["image"] = model.encode_image(pixels.to(device or self.request.device)).pooled.cpu().numpy()
            if texts is not None:
                found["text"] = model.encode_text(texts).pooled.cpu().numpy()
        return found

    def module(self) -> nn.Module:
        """The model, where it is a module."""
        if not isinstance(self.model, nn.Module):
            raise NotApplicable("the model is not an nn.Module")
        return self.model


def _is_encoder(subject: Encoder) -> str:
    model = subject.model
    if not isinstance(model, VisionLanguageModel):
        members = ("card", "image_dim", "text_dim", "preprocess", "encode_image", "encode_text")
        raise Broken(f"it lacks {', '.join(m for m in members if not hasattr(model, m))}")
    own_card(subject)
    for name in ("image_dim", "text_dim"):
        if type(getattr(model, name)) is not int or getattr(model, name) < 0:
            raise Broken(f"{name} is {getattr(model, name)!r}, not a whole number")
    if subject.entry.trainable and not isinstance(model, nn.Module):
        raise Broken("it is registered as trainable and is not an nn.Module")
    return f"image_dim {model.image_dim}, text_dim {model.text_dim}"


def _preprocesses(subject: Encoder) -> str:
    shapes = set()
    for picture in example_pictures():
        pixels = subject.model.preprocess(picture)
        what = f"a {picture.mode} picture of {picture.width} x {picture.height}"
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != torch.float32:
            said = f"{tuple(pixels.shape)} {pixels.dtype}" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise Broken(f"{what} becomes {said}; it must become a (3, H, W) float32 tensor")
        if not pixels.isfinite().all():
            raise Broken(f"{what} becomes values that are not finite")
        shapes.add(tuple(pixels.shape))
    if len(shapes) > 1:
        raise Broken(f"pictures of different sizes become different shapes {sorted(shapes)} and cannot be batched")
    return f"{shapes.pop()}"


def _has_stated_size(subject: Encoder) -> str:
    model, stated = subject.model, subject.entry.card.sizes.get(subject.request.scale)
    if stated is None:
        raise NotApplicable(f"the card states no size at scale {subject.request.scale!r}")
    height, width = subject.pixels.shape[-2:]
    found: dict[str, object] = {"image_dim": model.image_dim, "text_dim": model.text_dim}
    found["input_size"] = height if height == width else f"{height} x {width}"
    # Published or saved weights may bring projections, and what is not a module does not show its parameters.
    counted = subject.request.weights == "random" and isinstance(model, nn.Module)
    if counted:
        found["parameters"] = parameters(model)
    claims = stated.model_dump()
    wrong = [f"{name} {claims[name]}, and it is {value}" for name, value in found.items() if claims[name] != value]
    if wrong:
        raise Broken(f"the card states {'; '.join(wrong)}")
    return "" if counted else "parameters are not compared"


def _encodes_images(subject: Encoder) -> str:
    _sound(subject.encode(subject.model, subject.pixels, None)["image"], len(subject.pixels), subject.model.image_dim)
    return ""


def _encodes_texts(subject: Encoder) -> str:
    if not subject.reads_text:
        if "text" in subject.entry.card.encodes:
            raise Broken("encode_text refuses texts, and the card does not say so: encodes=('image',)")
        raise NotApplicable("the model has no text encoder")
    for texts in (subject.texts, HARD_TEXTS):
        _sound(subject.encode(subject.model, None, texts)["text"], len(texts), subject.model.text_dim)
    return ""


def _sound(pooled: NDArray[Any], n: int, width: int) -> None:
    if pooled.shape != (n, width):
        raise Broken(f"pooled has shape {pooled.shape} where the model promises {(n, width)}")
    if pooled.dtype != np.float32:
        raise Broken(f"pooled is {pooled.dtype}, not float32")
    if not np.isfinite(pooled).all():
        raise Broken(f"pooled is not finite for {(~np.isfinite(pooled).all(axis=1)).sum()} of {n} samples")


def _deterministic(subject: Encoder) -> str:
    first = subject.outputs(subject.model)
    subject.encode(subject.model, subject.pixels[1:3], None)  # a model that remembers its last batch shows itself
    equal(first, subject.outputs(subject.model), "the same input again gives other features")
    again = {"pixels": subject.prepared().numpy()}
    equal({"pixels": subject.pixels.numpy()}, again, "preprocess gives other values")
    return ""


def _eval_is_pure(subject: Encoder) -> str:
    model = subject.module()
    was_training, state = model.training, _snapshot(model)
    try:
        _encode_with_flags_kept(model.train(), subject)
        model.load_state_dict(state)  # running statistics are rightly written in training mode
        _encode_with_flags_kept(model.eval(), subject)
        after = _snapshot(model)
        written = [n for n, value in after.items() if n not in state or not torch.equal(value, state[n])]
        if written:
            raise Broken(f"encoding in eval mode writes to {', '.join(written[:3])}")
    finally:
        model.load_state_dict(state)
        model.train(was_training)
    return ""


def _encode_with_flags_kept(model: Any, subject: Encoder) -> None:  # noqa: ANN401
    before = {name: module.training for name, module in model.named_modules()}
    with torch.random.fork_rng(devices=_gpus(subject)), torch.no_grad():
        model.encode_image(subject.pixels.to(subject.request.device))
        if subject.reads_text:
            model.encode_text(subject.texts)
    toggled = [name or "the model" for name, module in model.named_modules() if module.training != before[name]]
    if toggled:
        raise Broken(f"encoding switches the training flag of {toggled[0]}")


def _gpus(subject: Encoder) -> list[str]:
    """Devices beside the CPU whose random state a model may draw from."""
    return [subject.request.device] if subject.request.device.startswith("cuda") else []


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _batch_invariant(subject: Encoder) -> str:
    whole = subject.outputs(subject.model)
    n, worst = len(subject.pixels), 0.0
    for size, what in ((1, "in batches of one"), (2, "with a ragged last batch")):
        parts = [
            subject.encode(
                subject.model, subject.pixels[i : i + size], subject.texts[i : i + size] if subject.reads_text else None
            )
            for i in range(0, n, size)
        ]
        for modality, together in whole.items():
            apart = np.concatenate([part[modality] for part in parts])
            scale = float(np.sqrt(np.square(together, dtype=np.float64).mean()))
            difference = float(np.abs(apart - together).max()) / (scale or 1.0)
            if not difference <= INVARIANCE:
                raise Broken(
                    f"{modality} features of the same samples {what} differ by {difference:.2g} of their root mean "
                    f"square ({INVARIANCE:g} is allowed)"
                )
            worst = max(worst, difference)
    return f"largest relative difference {worst:.1g}"


def _gradients_flow(subject: Encoder) -> str:
    """A few steps of the ``full`` regime on a model of its own: does every part of both towers learn?"""
    if not subject.entry.trainable:
        raise NotApplicable("the model is registered as not trainable")
    if not subject.reads_text:
        raise NotApplicable("the model has no text encoder, and training takes pairs")
    model: Any = subject.entry.make(subject.request)
    pair = ProjectionPair(model.image_dim, model.text_dim, HeadSpec("linear", 16)).to(subject.request.device)
    trained = nn.ModuleList([model, pair, make_objective(model, {})]).to(subject.request.device).train()
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.parameters(), 1e-3)
    reached: set[str] = set()
    with torch.random.fork_rng(devices=_gpus(subject)):
        torch.manual_seed(0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            image, text = _backward(subject, *trained)
            gradients = {name: p.grad for name, p in wanted.items() if p.grad is not None}
            for name, gradient in gradients.items():
                if not gradient.isfinite().all():
                    raise Broken(f"the gradient of {name} is not finite")
            reached |= {name for name, gradient in gradients.items() if gradient.any()}
            if subject.request.scale == "paper" and len(reached) == len(wanted):
                break
            optimizer.step()
    towers = set(wanted) - _released(model, image, text, wanted)
    unreached = [name for name in wanted if name in towers - reached]
    if len(unreached) > (1 - REACHED) * len(towers):
        raise Broken(
            f"{len(unreached)} of {len(towers)} trainable parameter tensors get no gradient, the first {unreached[0]}"
        )
    return f"reaches {len(towers) - len(unreached)} of {len(towers)} trainable parameter tensors"


def _backward(subject: Encoder, model: Any, pair: Any, objective: nn.Module) -> tuple[Features, Features]:  # noqa: ANN401
    """One loss of the example pairs, as training computes it, and its gradients."""
    image = model.encode_image(subject.pixels.to(subject.request.device))
    text = model.encode_text(subject.texts)
    for tower, features in (("image", image), ("text", text)):
        if not features.pooled.requires_grad:
            raise Broken(f"{tower} features carry no gradient: they are detached, or the tower is frozen")
    losses: Tensor = objective(
        Features(pair.project_image(image.pooled), image.tokens, image.mask),
        Features(pair.project_text(text.pooled), text.tokens, text.mask),
        torch.eye(2, device=subject.request.device)[[0, 1, 0, 1, 1][: len(subject.texts)]],
    )
    if tuple(losses.shape) not in ((), (len(subject.texts),)):
        raise Broken(
            f"the objective gives a loss of shape {tuple(losses.shape)} for {len(subject.texts)} pairs; it must be one "
            "per pair, or a scalar"
        )
    torch.autograd.backward(losses.mean())
    return image, text


def _released(model: Any, image: Features, text: Features, wanted: Mapping[str, Tensor]) -> set[str]:  # noqa: ANN401
    """Parameters of the released projections, which training replaces by heads of its own."""
    found = set()
    for name, features in (("project_image", image), ("project_text", text)):
        if hasattr(model, name):
            out = getattr(model, name)(Features(features.pooled.detach()))
            if out.requires_grad:
                gradients = torch.autograd.grad(out.sum(), list(wanted.values()), allow_unused=True)
                found |= {n for n, gradient in zip(wanted, gradients, strict=True) if gradient is not None}
    return found


def _objective_maps(subject: Encoder) -> str:
    """Two heads trained together must come out as each trained alone: the ``heads`` regime relies on it."""
    if not subject.reads_text:
        raise NotApplicable("the model has no text encoder, and an objective takes pairs")
    objective = make_objective(subject.model, {})
    if isinstance(subject.model, nn.Module):
        own = {id(parameter) for parameter in subject.model.parameters()}
        if any(id(parameter) in own for parameter in objective.parameters()):
            raise Broken("the objective holds parameters of the model; it may only have its own")
    for augmentation in ("none", "reworded"):
        members = [HeadMember(HeadSpec("linear", 8), augmentation, seed) for seed in (0, 1)]
        together = _losses(subject, members)
        alone = [_losses(subject, [member])[0] for member in members]
        if not np.allclose(together, alone, rtol=1e-3):
            raise Broken(f"heads trained together (augmentation {augmentation!r}) lose {together}, but alone {alone}")
    return type(objective).__qualname__


def _losses(subject: Encoder, members: Sequence[HeadMember]) -> list[tuple[float, ...]]:
    random, n = torch.Generator().manual_seed(0), 16
    data = PairedFeatures(
        image=torch.randn(n, subject.model.image_dim, generator=random),
        text=torch.randn(2 * n, subject.model.text_dim, generator=random),
        report=torch.arange(n),
        rewordings={"reworded": torch.arange(n, 2 * n)[:, None]},
        labels=torch.eye(3)[torch.arange(n) % 3],
    )
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-3)
    device = torch.device(subject.request.device)
    trained = train_heads(subject.model, data, members, config, fingerprint="example", device=device)
    losses = []
    for member in members:
        adapted = trained[member]
        if isinstance(adapted, TrainingDiverged):
            raise Broken(f"training of heads diverges on random features: {adapted}")
        losses.append(adapted.losses)
    return losses


def _state_round_trips(subject: Encoder) -> str:
    model = subject.module()
    if not model.state_dict():
        raise NotApplicable("the model has no state")
    expected = subject.outputs(model)
    other: Any = subject.entry.make(replace(subject.request, seed=subject.request.seed + 1))
    before = subject.outputs(other)
    if subject.request.weights == "random" and all(np.array_equal(expected[m], before[m]) for m in expected):
        raise Broken("another seed gives the same random weights; draw them from the request's seed")
    other.load_state_dict(model.state_dict(), strict=True)
    equal(expected, subject.outputs(other), "a model that loads the state of another gives other features")
    return f"{len(model.state_dict())} tensors"


def _moves(subject: Encoder) -> str:
    subject.module()
    expected = subject.outputs(subject.model)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        model: Any = subject.entry.make(subject.request)
        left_behind = sorted(_unregistered(model))
        if left_behind:
            raise Broken(f"{left_behind[0]} is a plain tensor, which stays behind in a move; register it as a buffer")
        found = subject.outputs(model.to(device), device)
        for modality, values in expected.items():
            # Another device sums in another order and may use shorter mantissas; a wrong move is far off.
            if not np.allclose(found[modality], values, rtol=1e-2, atol=1e-2 * float(np.abs(values).max())):
                raise Broken(f"{modality} features on {device!r} are not those on {subject.request.device!r}")
    return " and ".join(devices)


def _unregistered(model: nn.Module) -> Iterator[str]:
    """Tensors that a module holds as plain attributes: the defect that a move shows, seen without a second device."""
    for path, module in model.named_modules():
        yield from (f"{path}.{n}".lstrip(".") for n, value in vars(module).items() if isinstance(value, Tensor))


_BOTH = ("image features", "text features")

ENCODER_CLAUSES = (
    Check("builds", builds),
    Check("card", card_complete),
    Check("protocol", _is_encoder, ("builds",)),
    Check("preprocess", _preprocesses, ("protocol",)),
    Check("stated sizes", _has_stated_size, ("builds", "protocol", "preprocess")),
    Check("image features", _encodes_images, ("preprocess",)),
    Check("text features", _encodes_texts, ("protocol",)),
    Check("deterministic", _deterministic, _BOTH),
    Check("eval mode", _eval_is_pure, _BOTH),
    Check("batch invariance", _batch_invariant, (*_BOTH, "deterministic", "eval mode")),
    Check("gradient flow", _gradients_flow, _BOTH),
    Check("objective", _objective_maps, ("protocol", "text features")),
    Check("state round trip", _state_round_trips, (*_BOTH, "deterministic")),
    Check("device move", _moves, (*_BOTH, "deterministic")),
    Check("pickling for workers", pickles, (*_BOTH, "deterministic")),
)
"""What an encoder pair is checked for, in this order."""
