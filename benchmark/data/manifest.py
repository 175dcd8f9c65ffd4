"""A dataset as the user has it: a manifest (one row per image) and the card that says what its columns mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data import columns as read
from benchmark.data.card import Columns as Columns
from benchmark.data.card import DatasetCard as DatasetCard
from benchmark.data.card import find_card
from benchmark.data.table import canonical, read_table
from benchmark.errors import BadInput
from benchmark.result import digest
from benchmark.store import ArrayStore

if TYPE_CHECKING:
    from benchmark.data.image import Decoded


@dataclass(frozen=True)
class Exclusion:
    """One row left out because the user allowed it."""

    row: int
    reason: str


@dataclass(frozen=True)
class Sources:
    """The names of two datasets that were joined, to train on one and to test on the other."""

    train: str
    test: str
    notes: tuple[str, ...]
    """What was left out in joining them, one clause each."""


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
    subgroups: pd.DataFrame | None = None
    """n rows of further columns, of the same types, that figures are broken down by; no model sees them."""
    given_split: NDArray[np.str_] | None = None
    """(n,) of ``train``, ``val``, ``test`` where the manifest says so."""
    views: tuple[str, ...] | None = None
    masks: Sequence[NDArray[np.uint8] | None] | None = None
    exclusions: tuple[Exclusion, ...] = ()
    sources: Sources | None = None
    """Where the samples come from, if from two datasets."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    @cached_property
    def content(self) -> str:
        """Digest of what may be read beside pictures and labels: reports, structured columns, classes, prompts."""
        structured = None if self.structured is None else self.structured.to_csv(index=False)
        prompts = {name: list(sentences) for name, sentences in self.card.prompts.items()}
        reports = None if self.reports is None else list(self.reports)
        return digest([reports, structured, list(self.classes), prompts])


def load(
    path: Path,
    *,
    cache: Path,
    allow_exclusions: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read and validate a dataset.

    Args:
        path: a card, a manifest with its card beside it, or the folder that holds both.
        cache: folder in which decoded pictures are kept.
        allow_exclusions: leave rows out that cannot be used, and record them, instead of refusing the file.
        progress: called with (pictures decoded, pictures in all).

    Raises:
        BadInput: with every problem of the manifest, by row and column.
    """
    card, card_folder, manifest = find_card(path)
    table = read.filter_rows(read_table(manifest, card.encoding), card, manifest.name)
    rows = np.asarray(table.index, dtype=np.int64)
    problems = read.Problems(manifest.name, rows)
    root = manifest.parent if card.image_root is None else card_folder / card.image_root
    store = ArrayStore(cache / "pixels")

    classes, labels = read.read_labels(table, card, problems)
    read.check_prompts(classes, card, problems)
    patients = read.read_filled(table, card.columns.patient_id, "columns.patient_id", problems)
    # A spreadsheet writes one patient's 7 as 7 here and as 7.0 there.
    patients = None if patients is None else [canonical(patient) for patient in patients]
    parts = read.read_split(table, card, problems)
    reports = _read_reports(table, card, problems)
    structured = read.read_declared(table, card, "structured", problems)
    subgroups = read.read_declared(table, card, "subgroups", problems)
    views = read.read_optional(table, card.columns.view, "columns.view", problems)
    masks = read.read_optional(table, card.columns.mask, "columns.mask", problems)
    _check_masks(masks or (), str(card.columns.mask), root, problems)
    images = read.read_words(table, card.columns.image, "columns.image", problems)
    sample_ids = _sample_ids(table, card, images or [], problems)
    decoded = _decode(images or [], card, root, store, problems, progress)

    counted = np.ones(len(rows), dtype=bool)
    if allow_exclusions:
        counted[list(problems.reasons)] = False
    read.check_classes(classes, labels[counted], card, problems)
    if parts is not None and patients is not None and not card.allow_patient_overlap:
        read.check_split(parts, patients, counted, card, problems)
    problems.raise_if_any(allow_exclusions=allow_exclusions)

    keep = np.flatnonzero(counted)
    if not len(keep):
        raise BadInput(
            f"{manifest}: no row is left; each has a problem ({'; '.join(sorted(set(problems.reasons.values())))})"
        )
    hashes = tuple(decoded.hashes[i] for i in keep)
    groups = np.unique(np.array([patients[i] for i in keep] if patients else hashes), return_inverse=True)[1]
    return Dataset(
        card=card,
        classes=classes,
        sample_ids=tuple(sample_ids[i] for i in keep),
        rows=rows[keep],
        labels=labels[keep],
        groups=groups.astype(np.int64),
        grouped_by="patient" if patients else "identical picture",
        pixels=decoded.pixels if len(keep) == len(rows) else [decoded.pixels[int(i)] for i in keep],
        pixel_hashes=hashes,
        reports=tuple(reports[i] or None for i in keep) if reports and any(reports[i] for i in keep) else None,
        structured=None if structured is None else structured.iloc[keep].reset_index(drop=True),
        subgroups=None if subgroups is None else subgroups.iloc[keep].reset_index(drop=True),
        given_split=None if parts is None else parts[keep],
        views=tuple(views[i] for i in keep) if views else None,
        masks=_Masks(tuple(masks[i] for i in keep), root) if masks else None,
        exclusions=tuple(Exclusion(int(rows[i]), reason) for i, reason in sorted(problems.reasons.items())),
    )


class _Masks(Sequence[NDArray[np.uint8] | None]):
    """Masks, decoded when they are asked for; None where a row has none."""

    def __init__(self, references: Sequence[str], root: Path) -> None:
        self._references = references
        self._root = root

    def __len__(self) -> int:
        return len(self._references)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8] | None: ...
    @overload
    def __getitem__(self, index: slice) -> _Masks: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | _Masks | None:
        if isinstance(index, slice):
            return _Masks(self._references[index], self._root)
        from benchmark.data.image import decode  # late: the types above are needed without any decoder

        reference = self._references[index]
        return decode(reference, self._root) if reference else None


def _read_reports(table: pd.DataFrame, card: DatasetCard, problems: read.Problems) -> list[str] | None:
    column = card.columns.report
    reports = read.read_optional(table, column, "columns.report", problems)
    if card.require_report and column is None:
        problems.add("the card's field 'require_report' needs the field 'columns.report'")
    elif card.require_report and column in table:
        for position, report in enumerate(reports or [""] * len(table)):
            if not report:
                problems.add_row(position, str(column), "empty, and the card requires a report", f"empty {column}")
    return reports


def _sample_ids(table: pd.DataFrame, card: DatasetCard, images: Sequence[str], problems: read.Problems) -> list[str]:
    # a picture that several rows show is told apart by the row
    given = read.read_filled(table, card.columns.sample_id, "columns.sample_id", problems)
    if given is None:
        times = Counter(images)
        return [name if times[name] == 1 else f"{name}#{row}" for name, row in zip(images, table.index, strict=False)]
    first: dict[str, int] = {}
    for position, name in enumerate(given):
        if name and first.setdefault(name, position) != position:
            text = f"{name!r} is also the id of row {problems.rows[first[name]]}; every row needs its own"
            problems.add_row(position, str(card.columns.sample_id), text, f"{card.columns.sample_id} twice")
    return given


def _check_masks(masks: Sequence[str], column: str, root: Path, problems: read.Problems) -> None:
    """Note masks that are not there; they are decoded when they are asked for."""
    from benchmark.data.image import locate, split_reference

    for position, reference in enumerate(masks):
        if not reference:
            continue
        try:
            locate(split_reference(reference)[0], root)
        except BadInput as error:
            problems.add_row(position, column, f"{reference!r} {error}", f"mask {error}")


def _decode(
    images: Sequence[str],
    card: DatasetCard,
    root: Path,
    store: ArrayStore,
    problems: read.Problems,
    progress: Callable[[int, int], None] | None,
) -> Decoded:
    from benchmark.data.image import Decoded, decode_all

    column = card.columns.image
    filled = [position for position, image in enumerate(images) if image]
    for position in sorted(set(range(len(images))) - set(filled)):
        problems.add_row(position, column, "empty; every row needs a picture", f"empty {column}")
    decoded = decode_all([images[position] for position in filled], root, store, progress)
    for index, reason in sorted(decoded.problems.items()):
        problems.add_row(filled[index], column, f"{images[filled[index]]!r} {reason}", f"picture {reason}")
    if len(filled) == len(images):
        return decoded
    pixels = [np.zeros((0, 0), dtype=np.uint8)] * len(images)
    hashes = [""] * len(images)
    for index, position in enumerate(filled):
        pixels[position], hashes[position] = decoded.pixels[index], decoded.hashes[index]
    return Decoded(pixels=pixels, hashes=tuple(hashes), problems={})
