"""The extraction pass: every distinct picture and text through an encoder once, into the embedding store.

This is the sealed road to a model's encoders. Whatever a plug-in does inside, here its output is checked for shape,
dtype and finite values, the model is in eval mode, no gradient is kept, and preprocessing runs ahead of the encoder
in threads so that the encoder never waits for it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.data.preprocess import picture
from benchmark.errors import BadInput, BrokenModel
from benchmark.model import Features, VisionLanguageModel
from benchmark.result import digest
from benchmark.store import ArrayStore

Progress = Callable[[int, int], None]
"""Called with (done, total) while a pass is under way."""

SHARD_ROWS = 2048
"""Embeddings written per shard: what a kill can lose of a pass."""

AHEAD = 3
"""Batches that are preprocessed while the encoder works on another."""


class Extractor:
    """One model on one device at one precision, writing to one store.

    ``passes`` counts the samples that went through each encoder, so that a test can prove that none went twice.
    """

    def __init__(
        self, model: VisionLanguageModel, weights: str, store: ArrayStore, *, device: torch.device, precision: str
    ) -> None:
        self.model = model
        self.store = store
        self.device = device
        self.precision = resolve_precision(device, precision)
        self.passes = {"image": 0, "text": 0}
        identity = {
            "model": model.card.name,
            "version": model.card.version,
            "weights": [weights, state_digest(model)],
            "precision": self.precision,
        }
        self._image_prefix = digest({**identity, "preprocess": preprocessing(model)})
        self._text_prefix = digest(identity)

    def images(
        self,
        pixels: Sequence[NDArray[np.uint8]],
        hashes: Sequence[str],
        *,
        batch: int,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """Embed n pictures: (n, image_dim) float32, encoding only pictures that the store does not hold."""
        keys = [f"{self._image_prefix}-i-{value}" for value in hashes]
        where = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        todo = self.store.missing(keys)

        def batches() -> Iterator[Tensor]:
            chosen = [[where[key] for key in todo[i : i + batch]] for i in range(0, len(todo), batch)]
            yield from preprocessed(self.model, pixels, chosen, device=self.device)

        self._fill(todo, batches(), self.model.encode_image, self.model.image_dim, "image", progress)
        return self.store.stack(keys)

    def texts(self, texts: Sequence[str], *, batch: int, progress: Progress | None = None) -> NDArray[np.float32]:
        """Embed n texts: (n, text_dim) float32, encoding only distinct texts that the store does not hold."""
        keys = [f"{self._text_prefix}-t-{digest(text, 16)}" for text in texts]
        text_of = dict(zip(keys, texts, strict=True))
        # Texts of similar length share a batch: less padding. Ties by key, so that the order never matters.
        todo = sorted(self.store.missing(keys), key=lambda key: (len(text_of[key]), key))
        batches = ([text_of[key] for key in todo[i : i + batch]] for i in range(0, len(todo), batch))
        self._fill(todo, batches, self.model.encode_text, self.model.text_dim, "text", progress)
        return self.store.stack(keys)

    def _fill(
        self,
        keys: Sequence[str],
        batches: Iterator[Any],
        encode: Callable[[Any], Features],
        width: int,
        modality: str,
        progress: Progress | None,
    ) -> None:
        """Run batches through an encoder and write shards as they fill up."""
        done = 0
        shard: dict[str, NDArray[np.float32]] = {}
        with inference(self.model), autocast(self.device, self.precision):
            for batch in batches:
                pooled = checked(encode(batch), len(batch), width, self.model.card.name, modality)
                shard.update(zip(keys[done : done + len(batch)], pooled, strict=True))
                done += len(batch)
                self.passes[modality] += len(batch)
                if len(shard) >= SHARD_ROWS:
                    self.store.put(shard)
                    shard = {}
                if progress:
                    progress(done, len(keys))
        self.store.put(shard)


def preprocessed(
    model: VisionLanguageModel,
    pixels: Sequence[NDArray[np.uint8]],
    batches: Sequence[Sequence[int]],
    *,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) batches on the device, prepared ahead in threads (Pillow and torch release the lock)."""

    def prepare(indices: Sequence[int]) -> Tensor:
        batch = torch.stack([model.preprocess(picture(pixels[i])) for i in indices])
        return batch.pin_memory() if device.type == "cuda" else batch

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: deque[Future[Tensor]] = deque()
        for indices in batches:
            waiting.append(pool.submit(prepare, indices))
            if len(waiting) > AHEAD:
                yield to_device(waiting.popleft().result(), device)
        while waiting:
            yield to_device(waiting.popleft().result(), device)


def to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Move a batch of pictures; on a GPU without waiting and in channels-last layout, which its kernels prefer."""
    if device.type != "cuda":
        return pixels
    return pixels.to(device, non_blocking=True, memory_format=torch.channels_last)


def checked(features: Features, n: int, width: int, model: str, modality: str) -> NDArray[np.float32]:
    """Check an encoder's output and bring it to the CPU as (n, width) float32.

    Raises:
        BrokenModel: for another shape, or values that are not finite.
    """
    if not isinstance(features, Features):
        raise BrokenModel(f"{model}: encode_{modality} returned a {type(features).__name__}; return Features(pooled)")
    pooled = features.pooled
    if tuple(pooled.shape) != (n, width):
        raise BrokenModel(
            f"{model}: encode_{modality} returned shape {tuple(pooled.shape)} where its card promises {(n, width)}"
        )
    values: NDArray[np.float32] = pooled.float().cpu().numpy()
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise BrokenModel(f"{model}: encode_{modality} returned values that are not finite for {bad} of {n} samples")
    return values


class inference(AbstractContextManager[None]):  # noqa: N801 - reads as a context, like torch.inference_mode
    """Eval mode without gradients; the module's training flag is put back at the end."""

    def __init__(self, model: object) -> None:
        self._module = model if isinstance(model, nn.Module) else None
        self._mode = torch.inference_mode()

    def __enter__(self) -> None:
        self._was_training = self._module.training if self._module else False
        if self._module:
            self._module.eval()
        self._mode.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._mode.__exit__(None, None, None)
        if self._module:
            self._module.train(self._was_training)


def state_digest(model: object) -> str:
    """Digest of every tensor of a module by name, shape and bytes; of nothing for what is not one.

    What the weights were asked to be is not enough for a key: the code that draws or reads them may have changed.
    """
    state = hashlib.blake2b(digest_size=16)
    tensors = model.state_dict() if isinstance(model, nn.Module) else {}
    for name, value in tensors.items():
        if isinstance(value, Tensor):
            state.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def preprocessing(model: VisionLanguageModel) -> Any:  # noqa: ANN401 - any JSON value
    """What a model says of its preprocessing, for cache keys and results; its class where it says nothing."""
    record = getattr(model.preprocess, "record", None)
    return record() if callable(record) else type(model).__qualname__


def resolve_precision(device: torch.device, precision: str) -> str:
    """``auto`` is bf16 on a GPU and fp32 on a CPU, where bf16 is many times slower."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The autocast context of a precision; none at all for fp32."""
    if resolve_precision(device, precision) == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def pick_device(name: str) -> torch.device:
    """The device named on the command line; ``auto`` takes a GPU where there is one.

    Raises:
        BadInput: for a name torch does not know, or a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"unknown device {name!r}; use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {name!r} was asked for and this machine has no usable GPU; use '--device cpu'")
    return device
