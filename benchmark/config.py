"""What a run is asked to do: one validated record, its presets, and YAML in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput
from benchmark.evaluate.protocol import EvaluationConfig
from benchmark.model import HeadSpec, Scale
from benchmark.result import REGIMES, Adjustment, Regime
from benchmark.sampler import Sampling

Precision = Literal["auto", "fp32", "bf16"]

EMBEDDED: Literal["embedded"] = "embedded"
"""The word that stands for the phantom where a path of another dataset could."""


class TrainingConfig(BaseModel):
    """Settings of one training: the same sampler and the same number of samples seen for every model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(128, ge=2)
    """Pairs per contrastive batch, over all processes."""
    learning_rate: float = Field(2e-5, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(1e-4, ge=0, allow_inf_nan=False)
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of all steps in which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate after the warm-up; ``cosine`` falls to 0 at the last step."""
    clip: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Largest gradient norm."""
    rewordings: int = Field(4, ge=1)
    """Augmented texts per report; one of them is drawn per sample and step."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the loss over original texts; that over augmented ones has the rest."""
    sampling: Sampling = "uniform"
    """``uniform``: every pair once an epoch. ``upsample``: smaller classes repeated to the size of the largest."""
    imbalance: Literal["none", "class_balanced", "focal"] = "none"
    """How pairs are weighted: alike, by the effective number of their class, or by how wrong they still are."""
    objective: dict[str, dict[str, float | bool]] = {}
    """Model -> options of its objective, such as ``{lumbarclip-vit: {temperature: 0.1, learnable: true}}``."""

    @field_validator("imbalance")
    @classmethod
    def _corrects_once(cls, value: str, given: ValidationInfo) -> str:
        if value == "class_balanced" and given.data.get("sampling") == "upsample":
            raise ValueError("class_balanced makes up for class frequencies that sampling 'upsample' has evened out")
        return value


class FullTrainingConfig(TrainingConfig):
    """Settings of a training that moves the towers too."""

    patience: int | None = Field(None, ge=1)
    """Epochs without a lower loss on val after which training stops and goes back to the best epoch; null: never."""
    chunk: int | None = Field(None, ge=1)
    """Samples that go through a tower at a time; null: the whole batch. A contrastive batch of any size then fits a
    small card, at the price of a second forward pass. Batch normalisation sees the chunk: it is part of a cell's id."""
    checkpoint_gradients: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, slower, the same numbers."""
    keep_weights: bool = False
    """Keep what was trained, as safetensors in ``weights/`` of the run folder."""

    SPEED_ONLY: ClassVar[frozenset[str]] = frozenset({"checkpoint_gradients", "keep_weights"})
    """Settings that change no number: they are not part of a cell's id."""


class RunConfig(BaseModel):
    """Everything that decides what a run computes, and where it puts it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = ("all",)
    """Registered names, or ``all``."""
    data: Path | None = None
    """Card, manifest or folder; the embedded lumbar phantom where absent."""
    external: Literal["embedded"] | Path | None = None
    """Another dataset to test on, all of it: training and validation stay as they are without it. ``embedded`` is the
    phantom of other patients on another scanner."""
    phantom_patients: int = Field(300, ge=20)
    """Patients of the embedded phantom, six pictures each."""
    phantom_task: Literal["pain", "stenosis"] = "pain"
    """What is asked about the embedded phantom: the patient's label, or the grade of each level."""
    preset: str = "quick"
    regimes: tuple[Regime, ...] = REGIMES
    augmentations: tuple[str, ...] = ("none",)
    augmentation_options: dict[str, dict[str, Any]] = {}
    """Augmentation -> its settings."""
    rewordings: Path | None = None
    """The texts of the augmentation ``file``, as ``data augment`` writes them."""
    heads: tuple[str, ...] = ("linear-256",)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    split_seed: int = Field(0, ge=0)
    scale: Scale = "paper"
    weights: str = "pretrained"
    """``pretrained``, ``random``, or the path of a state dict."""
    weights_dir: Path | None = None
    """Folder with one subfolder per hub repository."""
    device: str = "auto"
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes that share the units; ``auto`` is one per core at ``tiny`` scale on a CPU, and one otherwise."""
    precision: Precision = "auto"
    """``auto`` is bf16 on a GPU and fp32 elsewhere: bf16 is many times slower on a CPU."""
    encode_batch: int = Field(64, ge=1)
    """Samples per forward pass of the frozen encoders; changes the speed, not the features."""
    heads_training: TrainingConfig = TrainingConfig(epochs=100, learning_rate=1e-3)
    full_training: FullTrainingConfig = FullTrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    adjustment: Adjustment = "holm"
    """Of p-values for the number of rows: ``holm`` to name a winner, ``benjamini-hochberg`` to explore. No figure
    depends on it, and 'report --adjust' reads a finished run with the other."""
    plugins: tuple[Path, ...] = ()
    allow_exclusions: bool = False
    """Leave out rows that cannot be used, and count them, instead of stopping."""
    allow_leakage: bool = False
    """Run although the parts of the split share patients or pictures, and mark every row with it."""
    ignore: tuple[str, ...] = ()
    """Codes of audit findings, as ``LB003``, that are shown as muted; never those of leakage."""
    include_images: bool = False
    """Whether a few test pictures, with phrases of their reports, are kept with the results and shown on the models'
    pages. Pictures that a program drew always are. No figure depends on it."""
    out: Path | None = None
    """Run folder; ``runs/DATASET-PRESET`` where absent."""
    cache: Path | None = None
    """Decoded pictures and embeddings; ``.cache`` beside the run folder where absent."""

    @field_validator("heads")
    @classmethod
    def _heads_parse(cls, heads: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(HeadSpec.parse(head)) for head in heads)

    @field_validator("models", "regimes", "augmentations", "heads", "seeds")
    @classmethod
    def _not_empty_no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError("needs at least one value")
        return tuple(dict.fromkeys(values))

    def to_yaml(self) -> str:
        """The configuration as YAML that ``--config`` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "scale": "tiny",
        "weights": "random",
        "augmentations": ("none", "eda"),
        "heads": ("linear-64",),
        "heads_training": {"epochs": 40, "batch_size": 128, "learning_rate": 1e-3},
        "full_training": {"epochs": 8, "batch_size": 32, "learning_rate": 1e-3},
    },
    "standard": {
        "regimes": ("frozen", "heads"),
        "augmentations": ("none", "eda"),
        "heads": ("linear-256", "mlp-256"),
        "seeds": (0, 1, 2),
    },
    "paper": {
        "augmentations": ("none", "eda"),
        "heads": ("none", "linear-256", "linear-512", "linear-1024", "mlp-256", "mlp-512", "mlp-1024"),
        "heads_training": {"epochs": 100, "learning_rate": 1e-3, "sampling": "upsample"},
        "full_training": {"sampling": "upsample"},
    },
}
"""``quick``: tiny untrained towers on a laptop. ``standard``: published weights. ``paper``: the whole study."""


OPTIONS = {"regimes": "regime", "augmentations": "augmentation", "plugins": "plugin", "adjustment": "adjust"}
"""Setting -> its option on the command line, where the two differ."""


BY_SET = frozenset(
    {"phantom_patients", "phantom_task", "split_seed", "encode_batch", "augmentation_options"}
    | {"heads_training", "full_training", "evaluation"}
)
"""Settings without an option of their own, which ``--set`` or a file gives."""


def make_config(preset: str, file: Path | None, options: dict[str, Any]) -> RunConfig:
    """Lay the command line's options over a YAML file over a preset.

    Raises:
        BadInput: naming the preset, or the field and what it should be.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
        preset = str(values.get("preset", preset)) if "preset" not in options else str(options["preset"])
    return layered(preset, values, options, place=str(file or ""))


def layered(preset: str, values: dict[str, Any], options: dict[str, Any], *, place: str) -> RunConfig:
    """Lay options over the values of a file, which ``place`` names in errors, over a preset.

    Raises:
        BadInput: naming the preset, or the field and what it should be.
    """
    if preset not in PRESETS:
        raise BadInput(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    merged = overlaid(PRESETS[preset], values, options, {"preset": preset})
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise BadInput(_in_words(error, values, options, place)) from error


def overlaid(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over settings; of a group such as ``full_training``, those that a later layer leaves out stay."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = merged.get(name)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                merged[name] = overlaid(below, value)
            else:
                merged[name] = value
    return merged


def from_words(words: Sequence[str]) -> dict[str, Any]:
    """Read ``group.name=value`` settings of the command line, values as YAML has them.

    Raises:
        BadInput: for a word of another form.
    """
    settings: dict[str, Any] = {}
    for word in words:
        path, equals, value = word.partition("=")
        names = path.strip().split(".")
        if not equals or not all(name.isidentifier() for name in names[:-1]) or not names[-1]:
            raise BadInput(f"--set {word!r}: give NAME=VALUE, such as --set full_training.epochs=10")
        try:
            nested = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {word!r}: the value is not readable as YAML") from error
        for name in reversed(names):
            nested = {name: nested}
        settings = overlaid(settings, nested)
    return settings


def _in_words(error: ValidationError, in_file: dict[str, Any], options: dict[str, Any], file: str) -> str:
    """What is wrong with the first wrong setting: where it was given, its value, and what it should be."""
    first = error.errors()[0]
    top = str(first["loc"][0])
    if top in options:
        place = f"--set {top}" if top in BY_SET else f"option --{OPTIONS.get(top, top.replace('_', '-'))}"
    else:
        place = f"{file}: {top}" if top in in_file else top
    # Neither the place in a list nor the branch of a union says more than the value does.
    below = [str(part) for part in first["loc"][1:] if str(part).isidentifier()]
    reasons = [each["msg"].removeprefix("Value error, ") for each in error.errors() if each["loc"][0] == top]
    reason = ", or ".join(dict.fromkeys(reasons)).replace("valid tuple", "list")
    if first["type"] == "extra_forbidden":
        if top in options and len(first["loc"]) == 1:
            place = f"--set {top}"
        reason = f"there is no such setting{_meant(tuple(map(str, first['loc'])))}; --print-config shows all"
    given = "" if first["type"] in ("missing", "extra_forbidden") else f" (given: {first['input']!r})"
    return f"{'.'.join([place, *below])}: {reason}{given}"


def _meant(path: tuple[str, ...]) -> str:
    """The setting that was probably meant: one of a group that was named without it, or one of a similar name."""
    if len(path) == 1 and path[0] in FullTrainingConfig.model_fields:
        return f" (did you mean 'full_training.{path[0]}'?)"
    if len(path) == 1 and path[0] in EvaluationConfig.model_fields:
        return f" (did you mean 'evaluation.{path[0]}'?)"
    records = (RunConfig, FullTrainingConfig, EvaluationConfig)
    return did_you_mean(path[-1], [name for record in records for name in record.model_fields])


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file} is not a configuration file that can be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{file}: a configuration is a mapping of field to value; 'run --print-config' shows one")
    return values
