"""The dataset card: the YAML file that says what the columns of a manifest mean, and how it is found and read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.data.table import SUFFIXES, did_you_mean, read_table, read_text
from benchmark.errors import BadInput
from benchmark.result import Task


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
    """Path of the manifest, absolute or relative to the card; default: the one manifest beside the card."""
    image_root: str | None = None
    """Folder that image paths are relative to and may not leave, relative to the card; default: the manifest's."""
    columns: Columns = Columns()
    task: Task
    label: str | tuple[str, ...]
    """Label column; for multilabel one 0/1 column per class."""
    classes: dict[str, str] = {}
    """Value in the manifest -> class name, in class order; values may share a name. For multilabel: column -> name."""
    positive_class: str | None = None
    """Binary only: the class name that counts as positive."""
    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Binary only: share of the positive class where the model would be used, for predictive values; default: that of
    the train split."""
    prompts: dict[str, tuple[str, ...]] = {}
    """Class name -> sentences for zero-shot classification."""
    mask_words: tuple[str, ...] = ()
    """Words of a report that speak of what the masks cover: the pointing game is played on phrases with one of them."""
    structured: dict[str, Literal["number", "category"]] = {}
    subgroups: dict[str, Literal["number", "category"]] = {}
    """Columns that figures are broken down by, beside the view and the structured ones; no model sees them."""
    rows: dict[str, tuple[str, ...]] = {}
    """Row filter: column -> values that count; all filters must hold."""
    require_report: bool = False
    """Whether a row without a report is a problem; otherwise it counts for the image task alone."""
    allow_patient_overlap: bool = False
    """Whether a given split may have a patient in two parts: the audit's error LB001 instead of a refusal."""
    encoding: str = "utf-8"
    licence: str = ""
    citation: str = ""
    synthetic: bool = False


def find_card(path: Path) -> tuple[DatasetCard, Path, Path]:
    """Find and read the card of a dataset.

    Args:
        path: a card, a manifest with its card beside it, or the folder that holds both.

    Returns:
        The card, its folder, and the path of its manifest.

    Raises:
        BadInput: where there is no card (with one to start from), or its fields are wrong.
    """
    card_path, manifest = _find(path)
    card = read_card(card_path)
    own = _manifest_of(card_path, card, manifest)
    if manifest is not None and own.resolve() != manifest.resolve():
        raise BadInput(f"card {card_path} is about {own}, not about {manifest}; write {manifest.stem}.card.yaml for it")
    return card, card_path.parent, own


class _Words(yaml.SafeLoader):
    """YAML whose scalars stay as written, as ``no`` and ``1.0`` are words of a manifest; null alone is special."""


_Words.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_card(path: Path) -> DatasetCard:
    """Read a dataset card.

    Raises:
        BadInput: naming the fields that are wrong.
    """
    try:
        fields = _Words(read_text(path, "utf-8")).get_single_data()
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise BadInput(f"card {path} must hold fields, one a line, like 'name: my-data'")
    try:
        return DatasetCard.model_validate(fields)
    except ValidationError as error:
        raise BadInput(f"card {path}: {_field_problems(error)}") from None


def _field_problems(error: ValidationError) -> str:
    problems: dict[str, str] = {}
    for one in error.errors():
        top, *rest = (str(part) for part in one["loc"])
        # a union gives one error per member: what it may be is said once
        field = top if top == "label" else ".".join([top, *rest])
        if one["type"] == "extra_forbidden":
            known = Columns.model_fields if top == "columns" and rest else DatasetCard.model_fields
            problems[field] = f"unknown field {field!r}{did_you_mean(field.split('.')[-1], known)}"
        elif one["type"] == "missing":
            problems[field] = f"the field {field!r} is missing"
        elif field == "label":
            problems[field] = "the field 'label' must be a column name, or a list of them"
        elif one["type"] == "tuple_type":
            problems[field] = f"the field {field!r} must be a list, like [a, b]"
        else:
            problems[field] = f"the field {field!r}: {one['msg'][0].lower()}{one['msg'][1:]}"
    return "; ".join(problems.values())


def _find(path: Path) -> tuple[Path, Path | None]:
    # the card, and the manifest where the user pointed at it
    if path.is_dir():
        card, manifests = path / "card.yaml", _manifests_in(path)
        if card.is_file() or len(manifests) != 1:
            return _find(card)
        return _find(manifests[0])
    if not path.is_file():
        raise BadInput(f"no file {path}; give a dataset card, a manifest with its card beside it, or their folder")
    if path.suffix.lower() in (".yaml", ".yml"):
        return path, None
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"{path} is neither a card (.yaml) nor a manifest ({', '.join(SUFFIXES)})")
    for name in (f"{path.stem}.card.yaml", f"{path.stem}.yaml", "card.yaml"):
        if (path.parent / name).is_file():
            return path.parent / name, path
    raise BadInput(_card_wanted(path))


def _manifests_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())


def _manifest_of(card_path: Path, card: DatasetCard, pointed_at: Path | None) -> Path:
    if card.manifest is None and pointed_at is not None:
        return pointed_at
    if card.manifest is not None:
        manifest = card_path.parent / card.manifest
        if manifest.suffix.lower() not in SUFFIXES:
            raise BadInput(f"card {card_path}: the field 'manifest' must name a file ending in {', '.join(SUFFIXES)}")
        return manifest
    stem = card_path.name.removesuffix(card_path.suffix).removesuffix(".card")
    manifests = _manifests_in(card_path.parent)
    own = [file for file in manifests if file.stem == stem] or manifests
    if len(own) != 1:
        found = ", ".join(file.name for file in own) or "no manifest"
        raise BadInput(f"card {card_path}: name the manifest in the field 'manifest'; beside the card lies {found}")
    return own[0]


_EXAMPLE = """\
    name: my-data
    manifest: {manifest}
    task: binary          # or multiclass, multilabel
    label: {label}
    columns:
      image: {image}
      # patient_id, report, split, mask, view, sample_id: where the manifest has them"""


def _card_wanted(manifest: Path) -> str:
    names = list(read_table(manifest).columns)
    example = _EXAMPLE.format(
        manifest=manifest.name,
        label=next((name for name in names if "label" in name.lower()), "label"),
        image=next((name for name in names if "image" in name.lower()), "image"),
    )
    return (
        f"{manifest} has no card; write {manifest.stem}.card.yaml beside it, or anywhere with the manifest's whole "
        f"path, and say what its columns mean. The least that works is\n{example}\nIts columns are {', '.join(names)}"
    )
