"""Encoder towers that several systems share: timm image trunks, BERT-family text encoders, and their tokenizers.

Towers are built on the CPU from configurations, never from a hub. Random weights depend on the seed alone and leave
torch's global random state as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models.resnet import ResNet
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from baselines.checkpoint import EXTRA_STATE, load_strict, read_state
from benchmark.data.preprocess import Preprocess
from benchmark.errors import BadInput, MissingWeights, UnsupportedModality
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


def preprocess_of(spec: ImageSpec) -> Preprocess:
    """Pad to square, resize, normalise by the statistics that the weights of this architecture were trained with."""
    published = timm.get_pretrained_cfg(spec.arch)
    return Preprocess(spec.size, mean=published.mean, std=published.std, interpolation=published.interpolation)


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


# --------------------------------------------------------------------------------------------- tokenizers


def wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: lower-case, accents stripped, [CLS] text [SEP].

    Lower-casing is pinned, also for the cased vocabulary of Bio_ClinicalBERT: that is what its tokenizer has always
    done in effect, and what systems built on it were trained with.
    """
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106 - a token here is a word
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def learn_wordpiece(reports: Sequence[str], size: int, *, pad_id: int = 0) -> Tokenizer:
    """Train a WordPiece vocabulary of at most ``size`` entries on reports; the same reports give the same vocabulary.

    Pieces in at least two places are merged. At most a quarter of the vocabulary goes to single characters, the most
    frequent ones, and a character that is not among them becomes [UNK].
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(report) for report in reports]
    counts = Counter(c for text in texts for word, _ in splitter.pre_tokenize_str(text) for c in word)
    kept = sorted(sorted(counts, key=lambda c: (-counts[c], c))[: size // 4])
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(pad_id, "[PAD]")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = splitter
    # The trainer numbers ##-characters in the order of a hash map that differs from process to process, and breaks
    # ties by number. Given as special tokens they are numbered in our order, and the vocabulary is always the same.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=special + [f"##{c}" for c in kept],
        show_progress=False,
    )
    alphabet = set(kept)
    tokenizer.train_from_iterator(("".join(c if c in alphabet else " " for c in text) for text in texts), trainer)
    return wordpiece(tokenizer.get_vocab())


def read_wordpiece(path: Path, size: int) -> Tokenizer:
    """The tokenizer of a ``vocab.txt``, one entry a line.

    Raises:
        BadInput: where the file has not ``size`` entries, or lacks a special token.
    """
    entries = path.read_text(encoding="utf-8").split("\n")
    vocabulary = {entry.rstrip("\r"): i for i, entry in enumerate(entries[:-1] if entries[-1] == "" else entries)}
    lacking = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if lacking or len(vocabulary) != size:
        raise BadInput(
            f"{path}: {len(vocabulary)} entries, without {', '.join(lacking) or 'a gap'}; the published vocabulary has "
            f"{size} and the special tokens [PAD], [UNK], [CLS] and [SEP]"
        )
    return wordpiece(vocabulary)


# --------------------------------------------------------------------------------------------- both


class DualEncoder(nn.Module):
    """An image tower and a text tower, as the harness wants them: what all systems here have in common.

    ``loaded`` says, per tower, how many tensors were loaded of how many there are; it is empty for random weights.
    Without a tokenizer there is no text tower: random weights learn theirs from the train reports, where there are any.
    """

    def __init__(
        self,
        card: ModelCard,
        image: ImageSpec,
        text: TextSpec,
        tokenizer: Tokenizer | None,
        *,
        preprocess: Preprocess,
        seed: int,
    ) -> None:
        super().__init__()
        self.card = card
        self.preprocess = preprocess
        with seeded("image tower", seed):
            self.image = ImageTower(image)
        with seeded("text tower", seed):
            self.text = TextTower(text, tokenizer) if tokenizer is not None else None
        self.image_dim = self.image.width
        self.text_dim: int = text.config["hidden_size"]
        self.loaded: dict[str, str] = {}

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


def published_file(request: BuildRequest, card: ModelCard, *, repo: str, name: str) -> Path:
    """Where a published file lies on this machine.

    Raises:
        BadInput: at another scale than the published one.
        MissingWeights: where the file was not found.
    """
    if request.scale != "paper":
        raise BadInput(f"{card.name} has published weights at scale 'paper' only; use --weights random")
    folder = request.files.get(repo)
    if folder is None or not (folder / name).is_file():
        raise MissingWeights(f"{card.name}: no {name} of {repo} in {folder or 'any folder of weights'}; put it there")
    return folder / name


def own_tokenizer(request: BuildRequest, spec: TextSpec) -> Tokenizer | None:
    """The tokenizer of weights that are not published ones: out of a saved state, or learned from train reports."""
    if isinstance(request.weights, Path):
        stored = read_state(request.weights).get(f"text.{EXTRA_STATE}")
        return None if stored is None else _tokenizer_from(stored)
    if not request.train_reports:
        return None
    return learn_wordpiece(request.train_reports, spec.config["vocab_size"], pad_id=spec.config["pad_token_id"])


def load_saved(model: nn.Module, path: Path) -> dict[str, str]:
    """Load a state dict that was saved from the same system; gives the counts for ``loaded``."""
    return {"both towers": load_strict(model, read_state(path), tower="model", source=path)}
