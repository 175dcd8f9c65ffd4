"""What a run is asked to do: one validated record, its presets, and YAML in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput
from benchmark.evaluate.protocol import EvaluationConfig
from benchmark.model import HeadSpec, Scale
from benchmark.result import REGIMES, Regime

Precision = Literal["auto", "fp32", "bf16"]


class TrainingConfig(BaseModel):
    """Settings of one training: the same sampler and the same number of samples seen for every model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(128, ge=2)
    """Pairs per contrastive batch."""
    learning_rate: float = Field(2e-5, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(1e-4, ge=0, allow_inf_nan=False)
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of all steps in which the learning rate rises linearly; constant after."""
    clip: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Largest gradient norm."""
    rewordings: int = Field(4, ge=1)
    """Augmented texts per report; one of them is drawn per sample and step."""


class RunConfig(BaseModel):
    """Everything that decides what a run computes, and where it puts it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = ("all",)
    """Registered names, or ``all``."""
    data: Path | None = None
    """Card, manifest or folder; the embedded lumbar phantom where absent."""
    phantom_patients: int = Field(300, ge=20)
    """Patients of the embedded phantom, six pictures each."""
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
    full_training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    plugins: tuple[Path, ...] = ()
    allow_exclusions: bool = False
    """Leave out rows that cannot be used, and count them, instead of stopping."""
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
    },
}
"""``quick``: tiny untrained towers on a laptop. ``standard``: published weights. ``paper``: the whole study."""


OPTIONS = {"regimes": "regime", "augmentations": "augmentation", "plugins": "plugin"}
"""Setting -> its option on the command line, where the two differ."""


def make_config(preset: str, file: Path | None, options: dict[str, Any]) -> RunConfig:
    """Lay the command line's options over a YAML file over a preset.

    Raises:
        BadInput: naming the preset, or the field and what it should be.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
        preset = str(values.get("preset", preset)) if "preset" not in options else str(options["preset"])
    if preset not in PRESETS:
        raise BadInput(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    merged = {**PRESETS[preset], **values, **options, "preset": preset}
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise BadInput(_in_words(error, {} if file is None else values, options, file)) from error


def _in_words(error: ValidationError, in_file: dict[str, Any], options: dict[str, Any], file: Path | None) -> str:
    """What is wrong with the first wrong setting: where it was given, its value, and what it should be."""
    first = error.errors()[0]
    top = str(first["loc"][0])
    if top in options:
        place = f"option --{OPTIONS.get(top, top.replace('_', '-'))}"
    else:
        place = f"{file}: {top}" if top in in_file else top
    # Neither the place in a list nor the branch of a union says more than the value does.
    below = [str(part) for part in first["loc"][1:] if str(part).isidentifier()]
    reasons = [each["msg"].removeprefix("Value error, ") for each in error.errors() if each["loc"][0] == top]
    reason = ", or ".join(dict.fromkeys(reasons)).replace("valid tuple", "list")
    if first["type"] == "extra_forbidden":
        reason = f"there is no such setting{did_you_mean(str(first['loc'][-1]), _settings())}; --print-config shows all"
    given = "" if first["type"] in ("missing", "extra_forbidden") else f" (given: {first['input']!r})"
    return f"{'.'.join([place, *below])}: {reason}{given}"


def _settings() -> list[str]:
    records = (RunConfig, TrainingConfig, EvaluationConfig)
    return [name for record in records for name in record.model_fields]


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
