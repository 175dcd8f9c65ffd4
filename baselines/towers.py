"""Encoder towers that several systems share: timm image trunks, BERT-family text encoders, and their tokenizers.

Towers are built on the CPU from configurations, never from a hub. Random weights depend on the seed alone and leave
torch's global random state as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import timm
import torch
from timm.models.resnet import ResNet
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from baselines.checkpoint import EXTRA_STATE, load_strict, read_state
from baselines.wordpiece import learn_wordpiece
from benchmark.data.preprocess import Preprocess
from benchmark.errors import BadInput, UnsupportedModality
from benchmark.model import BuildRequest, Features, ModelCard
from benchmark.seeding import derive_seed


@dataclass(frozen=True)
class ImageSpec:
    """An image tower: a timm architecture, and what is overridden of it."""

    arch: str
    """timm name with the tag of its weights, which decides mean, standard deviation and interpolation."""
    size: int
    """Side of the square input in pixels."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextSpec:
    """A text tower of the BERT family."""

    family: Literal["bert", "roberta"]
    config: Mapping[str, Any]
    """Arguments of the family's transformers configuration; ``vocab_size``, ``hidden_size``, ``pad_token_id`` among
    them."""
    max_length: int
    """Tokens kept of a text, special ones included."""
    pooling: Literal["cls", "pooler"]
    """``cls``: last hidden state of the first token. ``pooler``: the family's tanh layer over it."""


@dataclass(frozen=True)
class Architecture:
    """The towers of a system at one scale."""

    image: ImageSpec
    text: TextSpec
    pad: bool = True
    """Whether pictures are padded to a square before they are resized; otherwise they are stretched."""

    def preprocess(self) -> Preprocess:
        """Resize and normalise as the weights of the image tower's architecture and tag were trained."""
        published = timm.get_pretrained_cfg(self.image.arch)
        return Preprocess(
            self.image.size,
            mean=published.mean,
            std=published.std,
            pad=self.pad,
            interpolation=published.interpolation,
        )


@contextmanager
def seeded(*parts: str | int) -> Iterator[None]:
    """Draw torch's random numbers on the CPU from a derived seed, and put the global state back after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*parts))
        yield


# --------------------------------------------------------------------------------------------- image


class ImageTower(nn.Module):
    """A timm trunk without classifier.

    ``pooled`` is what timm gives its classifier: the average of the last map for ResNet and Swin (after Swin's
    LayerNorm), the CLS token after the last LayerNorm for ViT. ``tokens`` are the cells of the last map, or the patch
    tokens, as (B, P, width).
    """

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.trunk = timm.create_model(spec.arch, pretrained=False, num_classes=0, **spec.options)
        self.width: int = self.trunk.num_features
        # oneDNN's and cuDNN's convolutions are about 1.6 times faster in this layout; the values are the same maps.
        self._layout = torch.channels_last if isinstance(self.trunk, ResNet) else torch.contiguous_format
        self.trunk.to(memory_format=self._layout)

    def forward(self, pixels: Tensor) -> Features:
        """Encode (B, 3, size, size)."""
        last = self.trunk.forward_features(pixels.contiguous(memory_format=self._layout))
        pooled = self.trunk.forward_head(last, pre_logits=True)
        if last.ndim == 3:
            tokens = last[:, self.trunk.num_prefix_tokens :]
        elif isinstance(self.trunk, ResNet):
            tokens = last.flatten(2).transpose(1, 2)
        else:  # Swin keeps its map as (B, height, width, channels)
            tokens = last.flatten(1, 2)
        return Features(pooled.float(), tokens.float())


# --------------------------------------------------------------------------------------------- text


class TextTower(nn.Module):
    """A BERT-family encoder with its tokenizer: texts in, features out, on whatever device the weights are.

    Texts are cut at ``max_length`` tokens and padded to the longest of the batch, under an attention mask, so that a
    text's features do not depend on its neighbours. The tokenizer is part of the state dict: weights of an embedding
    table mean nothing under another vocabulary.
    """

    def __init__(self, spec: TextSpec, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.spec = spec
        if spec.family == "bert":
            self.encoder = BertModel(BertConfig(**spec.config), add_pooling_layer=spec.pooling == "pooler")
        else:
            self.encoder = RobertaModel(RobertaConfig(**spec.config), add_pooling_layer=spec.pooling == "pooler")
        self.tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, set to this tower's length and padding."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        rows, pad = self.spec.config["vocab_size"], self.spec.config["pad_token_id"]
        if tokenizer.get_vocab_size() > rows:
            raise BadInput(f"a vocabulary of {tokenizer.get_vocab_size()} does not fit the text tower's {rows} rows")
        tokenizer.enable_truncation(self.spec.max_length)
        tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
        self._tokenizer = tokenizer

    def forward(self, texts: Sequence[str]) -> Features:
        """Encode B texts; ``tokens`` (B, L, hidden) is the last hidden state, ``mask`` its real tokens."""
        encoded = self._tokenizer.encode_batch(list(texts))
        device = self.encoder.embeddings.word_embeddings.weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)
        out = self.encoder(input_ids=ids, attention_mask=mask)
        pooled = out.last_hidden_state[:, 0] if self.spec.pooling == "cls" else out.pooler_output
        return Features(pooled.float(), out.last_hidden_state.float(), mask.bool())

    def get_extra_state(self) -> Tensor:
        """The tokenizer as UTF-8 bytes of its JSON: state dicts stay made of tensors alone."""
        return torch.frombuffer(bytearray(self._tokenizer.to_str().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the tokenizer of a saved state."""
        self.tokenizer = _tokenizer_from(state)


def _tokenizer_from(state: Tensor) -> Tokenizer:
    return Tokenizer.from_str(bytes(state.tolist()).decode())


# --------------------------------------------------------------------------------------------- both


class DualEncoder(nn.Module):
    """An image tower and a text tower as the harness wants them: what the systems built on them have in common.

    A system says in ``published_tokenizer`` and ``load_published`` how its published files are read. ``loaded`` counts
    the tensors that were loaded, per tower, as ``318/318``; it is empty for random weights.
    """

    def __init__(self, card: ModelCard, shape: Architecture, tokenizer: Tokenizer | None, *, seed: int) -> None:
        super().__init__()
        self.card = card
        self.preprocess = shape.preprocess()
        with seeded("image tower", seed):
            self.image = ImageTower(shape.image)
        with seeded("text tower", seed):
            self.text = None if tokenizer is None else TextTower(shape.text, tokenizer)
        self.image_dim = self.image.width
        self.text_dim: int = shape.text.config["hidden_size"]
        self.loaded: dict[str, str] = {}

    @classmethod
    def build(
        cls, card: ModelCard, shape: Architecture, request: BuildRequest, saved: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Build with random, published or saved weights, in eval mode, on the request's device.

        Args:
            card: the system's card.
            shape: its towers.
            request: what is asked for.
            saved: the state that ``request.weights`` names, where it is a path.

        Raises:
            BadInput: where files do not fit.
            MissingWeights: where files are not there.
        """
        if request.weights == "pretrained":
            model = cls(card, shape, cls.published_tokenizer(shape.text, request.files), seed=request.seed)
            model.load_published(request.files)
        elif saved is not None:
            model = cls(card, shape, stored_tokenizer(saved), seed=request.seed)
            model.loaded = {"whole model": load_strict(model, saved, tower=card.name, source=Path(request.weights))}
        else:
            model = cls(card, shape, learned_tokenizer(shape.text, request.train_reports), seed=request.seed)
        return model.to(request.device).eval()

    @classmethod
    def published_tokenizer(cls, spec: TextSpec, folders: Mapping[str, Path]) -> Tokenizer:
        """The tokenizer among the published files; ``folders`` holds the local one of each repository."""
        raise NotImplementedError

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load the published files into the towers and set ``loaded``."""
        raise NotImplementedError

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The text tower's tokenizer."""
        return None if self.text is None else self.text.tokenizer

    def encode_image(self, pixels: Tensor) -> Features:
        """Encode (B, 3, H, W): ``pooled`` (B, image_dim), not normalised, and map cells or patch tokens."""
        features: Features = self.image(pixels)
        return features

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Encode B texts: ``pooled`` (B, text_dim), not normalised, token vectors and their mask.

        Raises:
            UnsupportedModality: where the model was built without published weights and without train reports.
        """
        if self.text is None:
            raise UnsupportedModality(
                f"{self.card.name} has no text tower here: without published weights its vocabulary is learned from "
                "the reports of the train split, and there are none"
            )
        features: Features = self.text(texts)
        return features


def saved_state(request: BuildRequest) -> dict[str, Tensor] | None:
    """The state dict that a request names by its path, or None."""
    return read_state(request.weights) if isinstance(request.weights, Path) else None


def stored_tokenizer(saved: Mapping[str, Tensor]) -> Tokenizer | None:
    """The tokenizer inside a saved state; None where it was saved from a model without text tower."""
    stored = saved.get(f"text.{EXTRA_STATE}")
    return None if stored is None else _tokenizer_from(stored)


def learned_tokenizer(spec: TextSpec, reports: Sequence[str]) -> Tokenizer | None:
    """A tokenizer learned from train reports; None where there are none.

    Also at scale ``paper``, where the embedding table keeps its published size and the rows beyond the learned
    vocabulary are never looked up: random weights must not need a published file.
    """
    if not reports:
        return None
    return learn_wordpiece(reports, spec.config["vocab_size"], pad_id=spec.config["pad_token_id"])
