"""An experiment as a file: a question, the runs that answer it, what the paper reports, and how its page is laid out.

Reads and checks such files, and finds the ones that installed distributions bring. What it takes to run one is in
``study``; its page is written by ``leaderboards``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput
from benchmark.result import SCHEMA_VERSION, CellResult, CellSpec, Estimate, Measurement, RunRecord, Task

EXPERIMENTS = "lumbarclip_benchmark.experiments"
"""Entry-point group. An entry is anything with ``read_text()``: a path, or a resource of a package."""

PRIMARY = "primary"
"""Stands for the metric that rows are ranked by, which depends on the task."""

METRICS = (
    *(PRIMARY, "roc_auc", "roc_auc_ovr_macro", "roc_auc_macro", "average_precision", "average_precision_macro"),
    *("accuracy", "subset_accuracy", "balanced_accuracy", "balanced_accuracy_macro", "mcc"),
    *(
        f"{name}_{averaging}"
        for name, averaging in product(("precision", "recall", "f1"), ("binary", "macro", "weighted"))
    ),
    *("specificity", "specificity_macro", "brier", "log_loss", "ece"),
)
"""What a column can show; one that the task does not have is left out."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Axis = Literal["model", "head", "augmentation", "regime", "run"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """A figure of every row: which evaluator's, and which metric."""

    evaluator: str = "probe_standard"
    metric: str

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"unknown metric {metric!r}{did_you_mean(metric, METRICS)}; known: {', '.join(METRICS)}")
        return metric


class Reported(_Part):
    """Figures that somebody else printed, or that follow from what they printed."""

    model: str
    """Registered name of the model that it is shown beside."""
    title: str
    """What the source calls it."""
    head: str | None = None
    augmentation: str | None = None
    regime: str | None = None
    run: str | None = None
    """Where it lies on an axis, where the source says so."""
    figures: dict[str, Share | tuple[Share, Share]]
    """Metric -> value, or the ends of a range, from 0 to 1."""
    computed: bool = False
    """Whether it follows from the source without being printed in it."""
    note: str = ""
    """What is wrong with the row, or not said."""

    @field_validator("figures")
    @classmethod
    def _known(cls, figures: dict[str, Any]) -> dict[str, Any]:
        for metric in figures:
            Column(metric=metric)
        return figures


class Paper(_Part):
    """What the source reports, and what is to be known about that."""

    citation: str
    place: str
    """Table or figure."""
    figures: tuple[Reported, ...]
    caveats: tuple[str, ...] = ()


class Outline(_Part):
    """One run of an experiment: what is said of it, and the settings that make it differ from the others."""

    name: Name
    title: str
    settings: dict[str, Any] = {}
    """As in ``run --config``."""


class Chart(_Part):
    """Points of one metric, one panel a model."""

    column: Column
    across: Axis
    """What lies on the horizontal axis; with ``model`` all points share one panel."""


class Comparison(_Part):
    """Differences between rows that are alike but for one axis."""

    axis: Literal["head", "augmentation", "regime", "run"]
    base: str | dict[str, str]
    """The value that all others are compared with, or value -> the one it is compared with."""
    columns: tuple[Column, ...] = Field(min_length=1)

    def base_of(self, value: str) -> str | None:
        """What a value of the axis is compared with."""
        if isinstance(self.base, dict):
            return self.base.get(value)
        return None if value == self.base else self.base


class Layout(_Part):
    """What the page shows."""

    columns: tuple[Column, ...] = Field(min_length=1)
    chart: Chart | None = None
    by_class: bool = False
    """Whether precision and recall of each class are shown."""


class Experiment(_Part):
    """A whole experiment file."""

    name: Name
    title: str
    question: str
    reading: tuple[str, ...] = ()
    """What could fool a reader of the measured figures, one point each."""
    tasks: tuple[Task, ...] = Field(("binary", "multiclass", "multilabel"), min_length=1)
    """Kinds of dataset that the question makes sense on."""
    settings: dict[str, Any] = {}
    """Of every run, as in ``run --config``."""
    presets: dict[str, dict[str, Any]] = {}
    """Preset -> settings that are laid over them."""
    runs: tuple[Outline, ...] = Field(min_length=1)
    page: Layout
    compare: Comparison | None = None
    paper: Paper | None = None

    @model_validator(mode="after")
    def _hangs_together(self) -> Experiment:
        names = [run.name for run in self.runs]
        if len(set(names)) < len(names):
            raise ValueError(f"runs: two have the name {next(n for n in names if names.count(n) > 1)!r}")
        if self.compare is not None and self.compare.axis == "run":
            base = self.compare.base
            for name in sorted({base} if isinstance(base, str) else {*base, *base.values()}):
                if name not in names:
                    raise ValueError(f"compare.base: there is no run {name!r}{did_you_mean(name, names)}")
        return self


# --------------------------------------------------------------------------------------------- what came of it


class Ran(_Part):
    """One run of an experiment and what it came to."""

    name: str
    title: str
    record: RunRecord
    cells: tuple[CellResult, ...]
    """In the order of the plan."""
    leaderboard: str
    """Its page, relative to the experiment's folder."""


class Difference(_Part):
    """How far a variant of a model is from another one, alike but for one axis; seeds averaged."""

    model: str
    title: str
    alike: dict[str, str]
    """The other axes and the value that both have on them."""
    axis: str
    value: str
    base: str
    column: Column
    seeds: int
    paired: bool
    """Whether both were tested on the same patients."""
    estimate: Estimate


class ExperimentRecord(_Part):
    """``experiment.json``: the file, its runs, and what was computed across their cells."""

    schema_version: int = SCHEMA_VERSION
    experiment: Experiment
    preset: str
    runs: tuple[Ran, ...]
    differences: tuple[Difference, ...] = ()
    by_class: dict[str, tuple[Measurement, ...]] = {}
    """Cell id -> precision and recall of each class."""


def on_axis(spec: CellSpec, run: str, axis: Axis) -> str:
    """Where a cell of a run lies on an axis."""
    return run if axis == "run" else str(getattr(spec, axis))


# --------------------------------------------------------------------------------------------- files


@runtime_checkable
class _Readable(Protocol):
    def read_text(self) -> str: ...


def installed() -> tuple[Mapping[str, Experiment], tuple[str, ...]]:
    """The experiments of installed distributions by name, and one sentence for each that cannot be used."""
    found: dict[str, Experiment] = {}
    broken: list[str] = []
    points: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=EXPERIMENTS):
        points.setdefault(point.name, []).append(point)
    for name, same in sorted(points.items()):
        try:
            found[name] = _load(name, same)
        except BadInput as error:
            broken.append(f"experiment {name!r} cannot be used: {error}")
    return found, tuple(broken)


def _load(name: str, points: list[EntryPoint]) -> Experiment:
    if len(points) > 1:
        raise BadInput("the name is registered more than once; uninstall all but one of the distributions")
    try:
        resource = points[0].load()
        text = resource.read_text() if isinstance(resource, _Readable) else None
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"{points[0].value} raises {type(error).__name__}: {said}; update its distribution") from error
    if text is None:
        raise BadInput(f"{points[0].value} has no read_text(); an experiment is a path or a resource of a package")
    experiment = parse(text, points[0].value)
    if experiment.name != name:
        raise BadInput(f"it is registered as {name!r} but calls itself {experiment.name!r}")
    return experiment


def find(word: str) -> Experiment:
    """Find an experiment by its name, or read the file that a path names.

    Raises:
        BadInput: where it is unknown, with the nearest name that is known, or broken, or its file is wrong.
    """
    path = Path(word)
    if path.suffix.lower() in (".yaml", ".yml"):
        try:
            return parse(path.read_text(encoding="utf-8"), word)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{word} is not an experiment file that can be read ({error})") from error
    known, broken = installed()
    if word in known:
        return known[word]
    for sentence in broken:
        if sentence.startswith(f"experiment {word!r} "):
            raise BadInput(sentence)
    raise BadInput(
        f"unknown experiment {word!r}{did_you_mean(word, known)}; known: {', '.join(known)}, or the path of a YAML file"
    )


def parse(text: str, place: str) -> Experiment:
    """Read an experiment.

    Args:
        text: YAML.
        place: what errors call it.

    Raises:
        BadInput: naming the field that is wrong.
    """
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{place}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{place}: an experiment is a mapping of field to value; docs/experiments.md shows one")
    try:
        return Experiment.model_validate(fields)
    except ValidationError as error:
        raise BadInput(f"{place}: {_in_words(error)}") from error


def _in_words(error: ValidationError) -> str:
    first = error.errors()[0]
    # The branch of a union says no more than the value does.
    where = ".".join(str(part) for part in first["loc"] if "float" not in str(part))
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such field{did_you_mean(str(first['loc'][-1]), _fields())}"
    if first["type"] == "missing":
        return f"{where}: is missing"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def _fields() -> list[str]:
    parts = (Experiment, Outline, Layout, Chart, Column, Comparison, Paper, Reported)
    return [name for part in parts for name in part.model_fields]
