"""Encoder towers that several systems share: timm image trunks, text transformers, and their tokenizers.

Towers are built on the CPU from configurations, never from a hub. Random weights depend on the seed alone and leave
torch's global random state as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import timm
import torch
from PIL import Image
from timm.models.resnet import ResNet
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, RobertaConfig, RobertaModel

from baselines.checkpoint import EXTRA_STATE, load_strict, read_state
from baselines.wordpiece import learn_wordpiece, read_wordpiece
from benchmark.data.preprocess import Preprocess
from benchmark.errors import BadInput, UnsupportedModality
from benchmark.model import BuildRequest, Features, ModelCard, Scale
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
    """A text tower: a transformer of one of three families, and how a text's vector comes out of it."""

    family: Literal["bert", "roberta", "clip"]
    config: Mapping[str, Any]
    """Arguments of the family's transformers configuration; ``vocab_size``, ``hidden_size``, ``pad_token_id`` among
    them."""
    max_length: int
    """Tokens kept of a text, special ones included."""
    pooling: Literal["cls", "pooler", "eot", "mean of layers 1, 2 and last", "sum of last 4 layers"]
    """What is taken of the hidden states.

    ``cls``: the last one of the first token. ``pooler``: the family's tanh layer over it. ``eot``: the last one of the
    last real token, the only one that a causal transformer has shown the whole text. The mean of three layers is taken
    over real tokens, the sum of four over real tokens and divided by ``max_length``."""


BIO_CLINICAL = {"vocab_size": 28996, "hidden_size": 768, "pad_token_id": 0}
"""BioClinicalBERT: BERT-base (transformers' defaults) over BioBERT's cased vocabulary, used lower-cased."""

TINY = {
    "vocab_size": 2000,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
}
"""A narrow and shallow text transformer."""

TINY_BERT = {**TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Without dropout, which costs a small model on few samples more than it gives."""

TINY_RESNET = {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
"""A quarter of every stage's width, one bottleneck block each."""

TINY_VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2}

TINY_SWIN = {
    "img_size": 64,
    "patch_size": 8,
    "window_size": 2,
    "embed_dim": 16,
    "depths": (2, 2, 2, 2),
    "num_heads": (1, 2, 4, 8),
    "mlp_ratio": 2,
    "drop_path_rate": 0.0,
}
"""The second block of a stage is the shifted one; only a map larger than the window (stages 1 and 2) shifts."""


@dataclass(frozen=True)
class Architecture:
    """The towers of a system at one scale, and how a picture is brought to the image tower."""

    image: ImageSpec
    text: TextSpec
    preprocess: Callable[[Image.Image], Tensor]
    """Gives (3, H, W) float32; its settings are recorded with every result."""


def as_trained(image: ImageSpec) -> Preprocess:
    """Padded to a square, then resized and normalised as the weights of the architecture's timm tag were trained."""
    published = timm.get_pretrained_cfg(image.arch)
    return Preprocess(
        image.size, mean=published.mean, std=published.std, fit="pad", interpolation=published.interpolation
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


def fused(state: Mapping[str, Tensor], names: Sequence[tuple[str, str, str]], *, into: str) -> dict[str, Tensor]:
    """Stack separate query, key and value maps into the one that timm's attention has.

    Args:
        state: tensors whose keys end in ``NAME.weight`` or ``NAME.bias``.
        names: what the three are called, one tuple per naming.
        into: name of the stacked map.
    """
    joined = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        module, _, name = stem.rpartition(".")
        trio = next((trio for trio in names if name in trio), None)
        others = [f"{module}.{each}.{leaf}" for each in trio or ()]
        if trio is None or any(other not in state for other in others):
            joined[key] = value  # where one of three is missing, the strict load names it
        elif name == trio[0]:
            joined[f"{module}.{into}.{leaf}"] = torch.cat([state[other] for other in others])
    return joined


# --------------------------------------------------------------------------------------------- text


class TextTower(nn.Module):
    """A text transformer with its tokenizer: texts in, features out, on whatever device the weights are.

    Texts are cut at ``max_length`` tokens and padded to the longest of the batch, under an attention mask, so that a
    text's features do not depend on its neighbours. The tokenizer is part of the state dict: weights of an embedding
    table mean nothing under another vocabulary.
    """

    def __init__(self, spec: TextSpec, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.spec = spec
        if spec.family == "bert":
            self.encoder = BertModel(BertConfig(**spec.config), add_pooling_layer=spec.pooling == "pooler")
        elif spec.family == "roberta":
            self.encoder = RobertaModel(RobertaConfig(**spec.config), add_pooling_layer=spec.pooling == "pooler")
        else:
            self.encoder = CLIPTextModel(CLIPTextConfig(**spec.config))
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
        """Encode B texts into ``pooled`` (B, hidden), ``tokens`` and the ``mask`` of those that are real."""
        encoded = self._tokenizer.encode_batch([self.cleaned(text) for text in texts])
        device = self.encoder.get_input_embeddings().weight.device
        ids = torch.tensor([e.ids for e in encoded], device=device)
        mask = torch.tensor([e.attention_mask for e in encoded], device=device)
        layered = "layers" in self.spec.pooling
        out = self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=layered)
        tokens, real = self.tokens(out, encoded, mask.bool())
        return Features(self._pooled(out, mask.bool()).float(), tokens.float(), real)

    def cleaned(self, text: str) -> str:
        """What the tokenizer is given of a text."""
        return text

    def tokens(self, out: Any, encoded: Sequence[Encoding], mask: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401, ARG002 - transformers' output
        """Vectors of parts of the text (B, L, hidden), and which of them are real: here the last hidden states."""
        return out.last_hidden_state, mask

    def _pooled(self, out: Any, mask: Tensor) -> Tensor:  # noqa: ANN401 - transformers' output
        match self.spec.pooling:
            case "cls":
                pooled = out.last_hidden_state[:, 0]
            case "pooler":
                pooled = out.pooler_output
            case "eot":
                rows = torch.arange(len(mask), device=mask.device)
                pooled = out.last_hidden_state[rows, mask.sum(dim=1) - 1]
            case "mean of layers 1, 2 and last":
                layers = torch.stack([out.hidden_states[i] for i in (1, 2, -1)]).mean(dim=0)
                pooled = (layers * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            case "sum of last 4 layers":
                pooled = (last_four(out) * mask[..., None]).sum(dim=1) / self.spec.max_length
        features: Tensor = pooled
        return features

    def get_extra_state(self) -> Tensor:
        """The tokenizer as UTF-8 bytes of its JSON: state dicts stay made of tensors alone."""
        return torch.frombuffer(bytearray(self._tokenizer.to_str().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the tokenizer of a saved state."""
        self.tokenizer = _tokenizer_from(state)


def last_four(out: Any) -> Tensor:  # noqa: ANN401 - transformers' output
    """The sum of the last four layers' hidden states, (B, L, hidden)."""
    layers: Tensor = torch.stack(out.hidden_states[-4:]).sum(dim=0)
    return layers


def _tokenizer_from(state: Tensor) -> Tokenizer:
    try:
        return Tokenizer.from_str(bytes(state.tolist()).decode())
    except Exception as error:  # the library raises nothing narrower
        raise BadInput(f"the saved state holds a tokenizer that can't be read ({error}); save it again") from error


# --------------------------------------------------------------------------------------------- both


class DualEncoder(nn.Module):
    """An image tower and a text tower as the harness wants them: what the systems built on them have in common.

    A system says in ``published_tokenizer`` and ``load_published`` how its published files are read. ``loaded`` counts
    the tensors that were loaded, per tower, as ``318/318``; it is empty for random weights.
    """

    image_tower: type[ImageTower] = ImageTower
    text_tower: type[TextTower] = TextTower

    def __init__(self, card: ModelCard, shape: Architecture, tokenizer: Tokenizer | None, *, seed: int) -> None:
        super().__init__()
        self.card = card
        self.preprocess = shape.preprocess
        with seeded("image tower", seed):
            self.image = self.image_tower(shape.image)
        with seeded("text tower", seed):
            self.text = None if tokenizer is None else self.text_tower(shape.text, tokenizer)
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
            model = cls(card, shape, cls.published_tokenizer(card, shape.text, request.files), seed=request.seed)
            model.load_published(request.files)
        elif saved is not None:
            model = cls(card, shape, stored_tokenizer(saved), seed=request.seed)
            model.loaded = {"whole model": load_strict(model, saved, tower=card.name, source=Path(request.weights))}
        else:
            model = cls(card, shape, learned_tokenizer(shape.text, request.train_reports), seed=request.seed)
        return model.to(request.device).eval()

    @classmethod
    def published_tokenizer(cls, card: ModelCard, spec: TextSpec, folders: Mapping[str, Path]) -> Tokenizer:
        """The tokenizer among the published files: a lower-casing WordPiece over the card's ``vocab.txt``.

        Args:
            card: names the repository that has it.
            spec: the text tower.
            folders: the local one of each repository.
        """
        (source,) = (source for source in card.weights if "vocab.txt" in source.files)
        return read_wordpiece(folders[source.repo_id] / "vocab.txt", spec.config["vocab_size"])

    def load_published(self, folders: Mapping[str, Path]) -> None:
        """Load the published files into the towers and set ``loaded``."""
        raise NotImplementedError

    def checkpoint_gradients(self, enable: bool) -> None:
        """Recompute the activations of both towers' blocks in the backward pass instead of keeping them."""
        self.image.trunk.set_grad_checkpointing(enable)
        if self.text is None:
            return
        if enable:
            # The reentrant kind ends the graph where a block's input needs no gradient, as a first block's does.
            self.text.encoder.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.text.encoder.activation_checkpointing_disable()

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


class Released(DualEncoder):
    """A system whose published weights come with the projections that were trained with its towers.

    A mixin in front of the system's class: random towers have no projections of their own, since the harness's heads
    take their place wherever something is trained.
    """

    def __init__(self, card: ModelCard, shape: Architecture, tokenizer: Tokenizer | None, *, seed: int) -> None:
        super().__init__(card, shape, tokenizer, seed=seed)
        with seeded("projections", seed):
            self.image_projection, self.text_projection = self.projections()

    def projections(self) -> tuple[nn.Module, nn.Module]:
        """Image and text projection, (B, image_dim) and (B, text_dim) -> (B, d)."""
        raise NotImplementedError

    def project_image(self, features: Features) -> Tensor:
        """Project pooled image features to unit vectors (B, d)."""
        return F.normalize(self.image_projection(features.pooled), dim=-1)

    def project_text(self, features: Features) -> Tensor:
        """Project pooled text features to unit vectors (B, d)."""
        return F.normalize(self.text_projection(features.pooled), dim=-1)


def build_dual(
    card: ModelCard,
    shapes: Mapping[Scale, Architecture],
    request: BuildRequest,
    random: type[DualEncoder],
    released: type[DualEncoder],
) -> DualEncoder:
    """Build a system: the class ``released`` where its published weights, or a state saved from them, are asked for.

    Raises:
        BadInput: where published weights are asked for at another scale than the published one.
    """
    if request.weights == "pretrained" and request.scale != "paper":
        raise BadInput(f"{card.name} has published weights at scale 'paper' only; use --weights random")
    saved = read_state(request.weights) if isinstance(request.weights, Path) else None
    projected = any(key.startswith("image_projection.") for key in saved or ())
    system = released if request.weights == "pretrained" or projected else random
    return system.build(card, shapes[request.scale], request, saved)


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
