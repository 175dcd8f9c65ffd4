"""What a model must give the harness: the protocol, its card, and the small types both sides speak.

Nothing here imports torch, so cards can be listed, planned and checked for weights in milliseconds;
a registered entry names its ``build`` function, which is imported when the model is first needed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from benchmark.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from benchmark.data.manifest import Dataset
    from benchmark.result import Regime

Scale = Literal["paper", "tiny"]
"""``paper``: the published architecture, to the layer. ``tiny``: the same topology, narrow and shallow."""

Modality = Literal["image", "text", "structured"]


# --------------------------------------------------------------------------------------------- card


class WeightSource(BaseModel):
    """One set of published files that a tower is loaded from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo_id: str
    """Hub repository, ``owner/name``; also the folder looked for under ``--weights-dir``. Where ``address`` is set, no
    hub knows it, and it only names that folder."""
    revision: str
    """Pinned commit of the repository, or the branch where ``unpinned`` says why no commit is known."""
    unpinned: str = ""
    """Why no commit is named. Whoever fetches such files is told which commit came; results carry their digest."""
    files: tuple[str, ...]
    """File names inside the repository that the loader reads."""
    tower: str
    """What the files hold, in words: ``image tower``, ``text tower``, ``both towers``."""
    licence: str
    """Licence of the weights as stated by their publisher, or ``not stated``."""
    address: str = ""
    """Where a person downloads the files, for those that are on no hub. Shown, and never opened by the harness."""


class Size(BaseModel):
    """How large a model is at one scale, known without building it. ``check-model`` holds the card to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: int = Field(ge=0)
    """Parameters of the model as built with random weights. Projections that only a release brings, and heads, are not
    among them."""
    image_dim: int = Field(ge=0)
    """Width of pooled image features."""
    text_dim: int = Field(ge=0)
    """Width of pooled text features."""
    input_size: int = Field(gt=0)
    """Side in pixels of the square that ``preprocess`` gives."""


class ReportedFigures(BaseModel):
    """Figures that a paper prints for this system. Shown as reported, never mixed with measured rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    """Paper and table."""
    dataset: str
    """The data set the figures are about."""
    values: dict[str, float]
    """Metric, under the name that the paper prints, to value in percent."""
    caveat: str = ""
    """What a reader must know before comparing."""
    counts: tuple[int, int] | None = None
    """Positives and negatives of the test part that the paper names; None where it names none."""
    decimals: int = 2
    """Decimals that the figures are really rounded to: 94.00 in a row of whole numbers has none."""


class ModelCard(BaseModel):
    """What is known of a model before it is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The name it is called by on the command line."""
    title: str
    """The name shown to readers."""
    summary: str
    """One sentence: which encoders, which objective."""
    paper: str
    """Citation with an arXiv id or DOI."""
    licence: str
    """Licence of the code that this entry runs."""
    inputs: tuple[Modality, ...]
    """What the classification score of a sample is computed from. Rows with other inputs answer another question."""
    encodes: tuple[Modality, ...] = ("image", "text")
    """What an encoder can encode. Without ``text`` there are no pairs to train on, and no zero-shot or retrieval."""
    training_data: str = ""
    """What the published weights were trained on, and whether labels of a benchmark's kind were among it."""
    weights: tuple[WeightSource, ...] = ()
    """Published weights; empty where the system has none."""
    random_as: str = ""
    """Model of the same towers and objective, where published weights, and the input they were trained on, tell the two
    apart: in a run that has both, with random weights, this one has no rows of its own."""
    published_only: bool = False
    """Whether it is what its published weights make of it: a run with others has no row of it, and a run of all models
    goes on without it where they are not on this machine."""
    naive: bool = False
    """Whether this encoder is no contender but a row that every model must beat to have shown anything."""
    reported: tuple[ReportedFigures, ...] = ()
    """Figures printed in papers."""
    sizes: dict[Scale, Size] = {}
    """How large the model is, for the scales at which that is stated."""
    extra: str | None = None
    """Optional dependency group it needs, as in ``pip install 'lumbarclip-benchmark[EXTRA]'``."""
    version: str = "1"
    """Raised whenever the same specification would give other features: part of every cell's id."""


# --------------------------------------------------------------------------------------------- heads


@dataclass(frozen=True, order=True)
class HeadSpec:
    """A projection head: ``none``, ``linear-D`` or ``mlp-D`` (Linear-ReLU-Linear), D the output width."""

    kind: Literal["none", "linear", "mlp"]
    width: int | None = None

    @classmethod
    def parse(cls, text: str) -> HeadSpec:
        """Read ``none``, ``linear-256`` or ``mlp-512``.

        Raises:
            BadInput: for anything else.
        """
        if text == "none":
            return cls("none")
        match = re.fullmatch(r"(linear|mlp)-([1-9][0-9]{0,4})", text)
        if match is None:
            raise BadInput(f"unknown head {text!r}; use 'none', 'linear-D' or 'mlp-D', for example 'linear-256'")
        kind: Literal["linear", "mlp"] = "linear" if match[1] == "linear" else "mlp"
        return cls(kind, int(match[2]))

    def __str__(self) -> str:
        return self.kind if self.width is None else f"{self.kind}-{self.width}"


# --------------------------------------------------------------------------------------------- interface


@dataclass(frozen=True)
class Features:
    """What an encoder returns for a batch of B samples. Nothing in it is normalised."""

    pooled: Tensor
    """(B, d) float32: one vector per sample, before any projection."""
    tokens: Tensor | None = None
    """(B, P, d_p) patch, region or word vectors, for objectives and maps that need them."""
    mask: Tensor | None = None
    """(B, P) bool, True where ``tokens`` holds a real token."""


@dataclass(frozen=True)
class BuildRequest:
    """Everything a ``build`` function may need. Plug-ins read what they use; new fields never break them."""

    scale: Scale = "tiny"
    weights: Literal["pretrained", "random"] | Path = "random"
    """``pretrained``: the card's sources, found under ``files``; a path: a state dict saved by this harness."""
    files: dict[str, Path] = field(default_factory=dict)
    """Local folder per ``repo_id`` of the card, resolved before the model is built; empty unless pretrained."""
    device: str = "cpu"
    seed: int = 0
    """Seeds random weights."""
    train_reports: tuple[str, ...] = ()
    """Reports of the train split, sorted and distinct; at ``tiny`` scale the tokenizer is trained on them."""


@runtime_checkable
class VisionLanguageModel(Protocol):
    """An encoder pair. A Protocol: no base class is needed, though trainable models are ``nn.Module`` too.

    A model may further define

    * ``project_image(Features) -> Tensor`` and ``project_text(Features) -> Tensor``: its released projections,
      (B, d), L2-normalised;
    * ``make_objective() -> nn.Module``: its training objective, called as ``objective(image, text, labels)`` with
      ``Features`` whose ``pooled`` is already projected and L2-normalised, and ``labels`` (B, C) float multi-hot; it
      returns the loss of each pair, (B,), or a scalar where it has no such parts. Where texts are reworded it is
      called a second time with them, and the harness mixes both terms. ``tokens`` and ``mask`` are the encoders' own
      where towers are trained, and None where heads are trained on cached features. The default is symmetric InfoNCE.
      It must not hold tower parameters: heads of many variants are trained together under ``torch.func.vmap``;
    * ``checkpoint_gradients(enable: bool) -> None``: recompute activations in the backward pass instead of keeping
      them, for ``full`` trainings on a small card;
    * ``loaded: dict[str, str]``: tensors that published files gave of those expected, per tower, as ``318/318``.
    """

    card: ModelCard
    image_dim: int
    text_dim: int

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn a decoded picture (mode ``L`` or ``RGB``) into this model's input, (3, H, W) float32."""

    def encode_image(self, pixels: Tensor) -> Features:
        """Encode (B, 3, H, W) float32 into ``pooled`` (B, image_dim)."""

    def encode_text(self, texts: Sequence[str]) -> Features:
        """Encode B texts into ``pooled`` (B, text_dim).

        Raises:
            UnsupportedModality: where the model has no text encoder.
        """


@runtime_checkable
class NaiveModel(Protocol):
    """A row every benchmark must beat: features that need no encoder, under the same probe as all others."""

    card: ModelCard

    def features(self, dataset: Dataset, train: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute (n, d) features of all n samples; whatever is fitted is fitted on rows ``train`` alone.

        Raises:
            UnsupportedModality: where the dataset lacks what the row is made from.
        """


@runtime_checkable
class Augmentation(Protocol):
    """Rewordings of training reports. Validation and test texts are never augmented."""

    name: str

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        """Give ``count`` rewordings of one report; the same generator state gives the same rewordings."""


@dataclass(frozen=True, eq=False)
class Captioned:
    """A training picture and its report."""

    sample: str
    report: str
    pixels: NDArray[np.uint8]
    """(H, W) or (H, W, 3)."""
    pixel_hash: str


@dataclass(frozen=True)
class RewordContext:
    """What an augmentation that looks at pictures works with. New fields never break it."""

    cache: Path
    """Folder of its own, in which it may keep finished work: a killed command goes on from there."""
    device: str
    weights_dir: Path | None
    fingerprint: str
    """Of the split; seeds whatever is drawn."""
    progress: Callable[[int, int], None]
    """Called with (pairs done, pairs in all)."""


@runtime_checkable
class PicturedAugmentation(Protocol):
    """Rewordings of training reports by something that sees the picture too."""

    name: str

    def identify(self, weights_dir: Path | None) -> str:
        """Say in a digest which files it will write with, without loading them: part of every cell's id.

        Raises:
            MissingWeights: where they are not on this machine; asked before anything is trained.
        """

    def reword_pairs(self, pairs: Sequence[Captioned], count: int, *, context: RewordContext) -> list[list[str]]:
        """Give up to ``count`` rewordings of each pair's report, in the order of the pairs."""


@dataclass(frozen=True)
class ModelEntry:
    """What an entry point of group ``lumbarclip_benchmark.models`` holds."""

    card: ModelCard
    build: str | Callable[[BuildRequest], VisionLanguageModel | NaiveModel]
    """A function, or ``module:function`` to be imported when the model is first built."""
    kind: Literal["encoder", "naive"] = "encoder"
    trainable: bool = True
    """Whether ``encode_image`` and ``encode_text`` pass gradients, so that the ``full`` regime exists."""

    @property
    def naive(self) -> bool:
        """Whether its rows are ones that every model must beat: by its kind, or because its card says so."""
        return self.kind == "naive" or self.card.naive

    @property
    def regimes(self) -> tuple[Regime, ...]:
        """The regimes it has: naive rows are not trained, training takes pairs, and training towers gradients."""
        if self.naive or "text" not in self.card.encodes:
            return ("frozen",)
        return ("frozen", "heads", "full") if self.trainable else ("frozen", "heads")

    def make(self, request: BuildRequest) -> VisionLanguageModel | NaiveModel:
        """Import the build function if need be, and build."""
        build: Callable[[BuildRequest], VisionLanguageModel | NaiveModel] = _imported(self.build)
        return build(request)


@dataclass(frozen=True)
class AugmentationEntry:
    """What an entry point of group ``lumbarclip_benchmark.augmentations`` holds."""

    name: str
    summary: str
    build: str | Callable[..., Augmentation | PicturedAugmentation]
    """A class or function, or ``module:name`` of one, to be imported when it is first needed. Called with the settings
    that a run gives for it under ``augmentation_options``; without any by default."""
    version: str = "1"
    """Raised whenever the same report and seed would give other rewordings."""
    may_omit: bool = False
    """Whether its texts are used also where they leave out some of what the report states, as a summary does."""

    def make(self, options: Mapping[str, Any] | None = None) -> Augmentation | PicturedAugmentation:
        """Import the build function if need be, and build with the given settings.

        Raises:
            BadInput: where it has no such setting.
        """
        build: Callable[..., Augmentation | PicturedAugmentation] = _imported(self.build)
        if options:
            try:
                inspect.signature(build).bind(**options)
            except TypeError as error:
                raise BadInput(f"augmentation_options.{self.name}: {error}") from error
        return build(**options or {})


def _imported(build: str | Callable[..., Any]) -> Callable[..., Any]:
    """A build function, which an entry may name in words."""
    if callable(build):
        return build
    module, _, name = build.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
