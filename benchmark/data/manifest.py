"""A dataset as the user has it: a manifest (one row per image) and the card that says what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Task = Literal["binary", "multiclass", "multilabel"]


class Columns(BaseModel):
    """Column names as they are in the manifest; null where the manifest has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = "image"
    report: str | None = None
    patient_id: str | None = None
    sample_id: str | None = None
    split: str | None = None
    mask: str | None = None
    view: str | None = None


class DatasetCard(BaseModel):
    """The YAML file beside a manifest (or anywhere, pointing at it)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    manifest: str | None = None
    """Path of the manifest, relative to the card; default: the one manifest beside the card."""
    image_root: str | None = None
    """Folder that image paths are relative to and may not leave; default: the manifest's folder."""
    columns: Columns = Columns()
    task: Task
    label: str | tuple[str, ...]
    """Label column; for multilabel one 0/1 column per class."""
    classes: dict[str, str] = {}
    """Value in the manifest -> class name, in class order. For multilabel: column -> class name."""
    positive_class: str | None = None
    """Binary only: the class name that counts as positive."""
    prompts: dict[str, tuple[str, ...]] = {}
    """Class name -> sentences for zero-shot classification."""
    structured: dict[str, Literal["number", "category"]] = {}
    rows: dict[str, tuple[str, ...]] = {}
    """Row filter: column -> values that count; all filters must hold."""
    encoding: str = "utf-8"
    licence: str = ""
    citation: str = ""
    synthetic: bool = False


@dataclass(frozen=True)
class Exclusion:
    """One row left out because the user allowed it."""

    row: int
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Validated samples in manifest order; everything downstream sees only this."""

    card: DatasetCard
    classes: tuple[str, ...]
    """Class names; for a binary task the positive class is the last."""
    sample_ids: tuple[str, ...]
    rows: NDArray[np.int64]
    """(n,) row number of each sample in the manifest, 1-based, the header not counted."""
    labels: NDArray[np.int64]
    """(n,) class index, or (n, C) of 0/1 for multilabel."""
    groups: NDArray[np.int64]
    """(n,) code of the patient; samples of one code never cross splits."""
    grouped_by: Literal["patient", "identical picture"]
    pixels: Sequence[NDArray[np.uint8]]
    """n decoded pictures, (H, W) or (H, W, 3), possibly backed by a file."""
    pixel_hashes: tuple[str, ...]
    reports: tuple[str | None, ...] | None = None
    """n report texts, None where a row has none; None where the dataset has no reports at all."""
    structured: pd.DataFrame | None = None
    """n rows of structured columns: float64 for numbers (NaN missing), category dtype for categories."""
    given_split: NDArray[np.str_] | None = None
    """(n,) of ``train``, ``val``, ``test`` where the manifest says so."""
    views: tuple[str, ...] | None = None
    masks: Sequence[NDArray[np.uint8] | None] | None = None
    exclusions: tuple[Exclusion, ...] = ()

    def __len__(self) -> int:
        return len(self.sample_ids)


def load(path: Path, *, cache: Path, allow_exclusions: bool = False) -> Dataset:
    """Read and validate a dataset: ``path`` is a card, a manifest with a card beside it, or their folder."""
    raise NotImplementedError
