"""What a run leaves behind: one JSON per cell, one Parquet of predictions per cell, and a tidy frame over them.

    runs/<name>/run.json              RunRecord
    runs/<name>/cells/<id>.json       CellResult
    runs/<name>/predictions/<id>.parquet
    runs/<name>/maps/<id>.npz         Maps, where pictures may be shown
    runs/<name>/samples.parquet       which subgroups each sample is in; it stays here
    runs/<name>/analysis.json         what the cells say together, made from their predictions
    runs/<name>/leaderboard/          written by ``leaderboards``

Every file appears by an atomic rename, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from benchmark.model import ReportedFigures

SCHEMA_VERSION = 1
"""Version of the files below; a reader refuses a newer one."""

PROTOCOL_VERSION = "2"
"""Raised whenever training, splitting or evaluation would give other numbers: part of every cell's id."""

ABSOLUTE_PATH = re.compile(
    r"""(?<![\w./:])(?:[A-Za-z]:)?(?:[\\/](?:[^\s\\/:;,'"]+(?: [^\s\\/:;,'"]+)*(?=[\\/])|[^\s\\/:;,'"]+)){2,}"""
)
"""Two folders or more from a root; a rate such as images/s, a fraction or an address is none."""

Task = Literal["binary", "multiclass", "multilabel"]
Regime = Literal["frozen", "heads", "full"]
REGIMES: tuple[Regime, ...] = ("frozen", "heads", "full")

Adjustment = Literal["holm", "benjamini-hochberg"]
"""What is kept at the level over a family of tests. ``holm``: the chance of a single false finding (Holm 1979).
``benjamini-hochberg``: the expected share of false ones among the findings (Benjamini and Hochberg 1995), where tests
are independent or positively dependent, as tests against one common row are."""

MAPS_EVALUATOR = "maps"
"""Under this name a result holds the pointing game of its similarity maps, or the reason why it has no maps."""

Number = Annotated[
    float,
    BeforeValidator(lambda v: math.nan if v is None else v),
    PlainSerializer(lambda v: None if math.isnan(v) else v, when_used="json"),
]
"""A float whose NaN is ``null`` in JSON."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Record):
    """A metric on the test split with its patient-level bootstrap interval."""

    value: Number
    """The plug-in value; NaN where the metric is undefined."""
    low: Number = math.nan
    """Lower end of the 95% interval."""
    high: Number = math.nan
    """Upper end of the 95% interval."""
    n: int
    """Samples it was computed on."""
    n_patients: int
    """Independent groups (patients) among them; the unit of resampling."""
    why_undefined: str = ""
    """Why ``value`` is NaN, or why it has no interval, in words."""


class Measurement(_Record):
    """One metric of one evaluator in one feature space."""

    evaluator: str
    """``probe_standard``, ``probe_paper``, ``few_shot_k4``, ``knn``, ``zero_shot``, ``retrieval``…"""
    space: Literal["pooled", "projected"]
    """Features before the projection, or after it."""
    metric: str
    """With its averaging in the name: ``f1_macro``, ``roc_auc``, ``recall@5_image_to_text``…"""
    estimate: Estimate
    chance: Number = math.nan
    """What answering at random would give, where that is known."""


class Profile(_Record):
    """Cost, measured in the run on the hardware named in the provenance."""

    images_per_s: Number = math.nan
    texts_per_s: Number = math.nan
    images_per_gflop: Number = math.nan
    """Pictures in the time of 10^9 operations of a float32 matrix product that was timed just after them: a rate that
    depends less on the machine and on what else it was doing."""
    parameters: int = 0
    """Of both towers, the heads left out."""
    head_parameters: int = 0
    peak_memory_mb: Number = math.nan
    """Peak resident memory of the process (CPU) or peak allocated memory of the device (GPU), in MiB."""
    adapt_s: Number = math.nan
    """Seconds spent training; NaN where nothing was trained."""
    evaluate_s: Number = math.nan
    """Seconds spent on probes and the other evaluators, intervals included."""
    latency_p50_ms: Number = math.nan
    """Milliseconds that the image encoder takes for one picture at a time, prepared and on the device: the median."""
    latency_p95_ms: Number = math.nan
    latency_p99_ms: Number = math.nan
    latency_calls: int = 0
    """Calls that these are percentiles of."""
    gflops_per_image: Number = math.nan
    """10^9 operations of the image encoder for one picture, a multiplication and an addition counted as two."""
    gflops_per_text: Number = math.nan
    """The same of the text encoder, averaged over the texts of one batch with their padding."""
    matmul_gflops: Number = math.nan
    """10^9 operations a second of a matrix product at the run's precision, timed in the same run."""
    flops_utilisation: Number = math.nan
    """``images_per_s * gflops_per_image / matmul_gflops``."""
    bytes_per_study: int = 0
    """Of the stored vectors of one sample: pooled features of its picture and, where texts are encoded, its report."""


class Failure(_Record):
    """Why a cell has no result."""

    kind: str
    """The exception's type."""
    message: str
    traceback_tail: str

    @property
    def summary(self) -> str:
        """The kind, and the first line of the message where there is one."""
        line = next(iter(self.message.splitlines()), "")
        return f"{self.kind}: {line}" if line else self.kind


class CellSpec(_Record):
    """The whole specification of a cell; its hash is the cell's id, file name and resume key."""

    model: str
    model_version: str
    provider: str
    """Distribution (and version) or plug-in file (and digest) that registered the model."""
    scale: Literal["paper", "tiny"]
    weights: str
    """``random:SEED``, ``file:DIGEST`` of a saved state, or a digest of published files; not the command's words."""
    regime: Regime
    augmentation: str
    head: str
    seed: int
    dataset: str
    """Name of the dataset, for readers."""
    split: str
    """Fingerprint of samples, patients, split, labels and pixels."""
    content: str
    """Digest of what else is read: reports, structured columns, class names, prompts."""
    protocol: dict[str, Any]
    """Training and evaluation settings that change numbers."""
    protocol_version: str = PROTOCOL_VERSION

    @property
    def id(self) -> str:
        """Hex digest of the canonical JSON of this specification."""
        return digest(self.model_dump(mode="json"))

    @property
    def start(self) -> Literal["none", "random", "file", "pretrained"]:
        """What the towers start from: random numbers, a saved state, published files; nothing without an encoder."""
        if self.weights == "none":
            return "none"
        if self.weights.startswith("file:"):
            return "file"
        return "random" if self.random_weights else "pretrained"

    @property
    def random_weights(self) -> bool:
        """Whether the towers started from random numbers."""
        return self.weights.startswith("random:")


class CellResult(_Record):
    """One row of the benchmark."""

    schema_version: int = SCHEMA_VERSION
    id: str
    spec: CellSpec
    title: str
    """The model's name for readers."""
    inputs: tuple[str, ...]
    """What the classification score was computed from: ``image``, ``text``, ``structured`` or nothing."""
    naive: bool = False
    """Whether it is a row that every model must beat; older files leave it out, and had no such row with an encoder."""
    status: Literal["done", "failed"]
    primary_space: Literal["pooled", "projected"] = "pooled"
    """Which space this row is ranked by: pooled, but projected where only the heads were trained."""
    measurements: tuple[Measurement, ...] = ()
    fits: dict[str, Any] = {}
    """What was fitted and chosen: strength, gradient norm, edge of the grid, training curve."""
    left_out: dict[str, str] = {}
    """Evaluator to the reason why it was not run."""
    profile: Profile = Profile()
    failure: Failure | None = None
    provenance: dict[str, Any] = {}


class Finding(_Record):
    """One audit finding. Rows are numbers in the manifest, never patients."""

    code: str
    """Stable, as ``LB001``."""
    severity: Literal["error", "warning", "note"]
    message: str
    count: int = 0
    rows: tuple[int, ...] = ()
    """At most 20 row numbers, 1-based, as examples."""
    remedy: str = ""
    muted: bool = False
    """Whether the user asked to ignore this code: it is shown, but no longer as a warning."""

    @property
    def leaks(self) -> bool:
        """Whether the parts of the split share patients or pictures: what every error says, and nothing else does."""
        return self.severity == "error"


class SplitRecord(_Record):
    """How the samples were divided."""

    fingerprint: str
    origin: Literal["seeded", "given", "external"]
    grouped_by: Literal["patient", "identical picture"]
    seed: int
    n: dict[str, int]
    """Samples per part."""
    n_patients: dict[str, int]
    class_counts: dict[str, dict[str, int]]
    """Part -> class name -> samples."""


class DatasetRecord(_Record):
    """What was evaluated on."""

    name: str
    task: Task
    classes: tuple[str, ...]
    positive_class: str | None = None
    prevalence: float | None = None
    """Share of the positive class where a model would be used, as the dataset's card states it."""
    n: int
    has_reports: bool
    has_structured: bool
    licence: str = ""
    citation: str = ""
    exclusions: dict[str, int] = {}
    """Reason -> rows left out."""
    synthetic: bool = False
    """Whether the pictures were drawn by a program."""
    trained_on: str = ""
    tested_on: str = ""
    """Names of the two datasets, where training and test pictures come from different ones."""


class ReportedRecord(ReportedFigures):
    """What a paper prints of a model, and whether it can be true."""

    fits: tuple[str, ...] | None = None
    """Averagings under which one confusion matrix of these counts gives the row; None where that was not checked."""


class ModelRecord(_Record):
    """What a model's card says of it, for its page."""

    title: str
    summary: str
    paper: str
    licence: str
    training_data: str = ""
    """What the published weights were trained on; empty where there are none."""
    weights: tuple[str, ...] = ()
    """Published files that were read, as ``owner/name at revision: both towers (licence)``."""
    parameters: int | None = None
    """Of the model at the run's scale, where its card says so."""
    input_size: int | None = None
    """Side of its square input in pixels, where its card says so."""
    reported: tuple[ReportedRecord, ...] = ()
    """What papers print of it."""


class RewordingRecord(_Record):
    """What became of an augmentation's texts, in numbers: counted over training pairs."""

    augmentation: str
    pairs: int
    asked: int
    """Texts asked for: so many a pair."""
    given: int
    """Texts that came."""
    kept: int
    """Texts that are trained on; where a pair has fewer than were asked for, they are repeated."""
    kept_by_hand: int = 0
    """Of those, texts that contradict, add or omit, and that a person has approved."""
    omitting: int = 0
    """Of those, texts that leave something out, where the augmentation may."""
    dropped: int
    """Texts that the check refused."""
    dropped_by_kind: dict[str, int] = {}
    """What a text was refused for, as ``adds level``, to the texts; one text may count under several."""
    left_out_by_hand: int = 0
    """Texts that a person has turned down."""
    distinct: int
    """Different texts among the kept, the reports themselves left out."""
    original_alone: int
    """Pairs without any kept text, which are trained on the report twice."""
    rows_of_other_samples: int = 0
    """Rows of a file of texts that belong to no training pair of this split, and are not used."""

    @property
    def summary(self) -> str:
        """The counts in one sentence, without any text."""
        parts = [f"{self.kept} of {self.asked} texts kept, {self.distinct} of them different"]
        if self.kept_by_hand:
            parts.append(f"{self.kept_by_hand} of them by hand against the check")
        if self.omitting:
            parts.append(f"{self.omitting} of them leave something out")
        if self.dropped:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.dropped_by_kind.items())
            parts.append(f"{self.dropped} dropped ({kinds})")
        if self.left_out_by_hand:
            parts.append(f"{self.left_out_by_hand} turned down by hand")
        if self.original_alone:
            parts.append(f"{self.original_alone} of {self.pairs} pairs left with the report alone")
        if self.rows_of_other_samples:
            parts.append(f"{self.rows_of_other_samples} rows of samples outside the train split not used")
        return "; ".join(parts)

    @property
    def worth_saying(self) -> bool:
        """Whether something was refused, overruled or not used."""
        counts = (self.dropped, self.kept_by_hand, self.omitting, self.original_alone, self.rows_of_other_samples)
        return any(counts)


class RunRecord(_Record):
    """``run.json``: what was asked, on what, with what."""

    schema_version: int = SCHEMA_VERSION
    name: str
    started: str
    """UTC, ISO 8601."""
    config: dict[str, Any]
    dataset: DatasetRecord
    split: SplitRecord
    audit: tuple[Finding, ...] = ()
    cells: tuple[str, ...]
    """Ids planned, in the order they are run; finished ones have a file in ``cells/``."""
    collapsed: dict[str, str] = {}
    """Variant that was not run -> the variant it is the same as, and why."""
    impossible: dict[str, str] = {}
    """Variant that cannot be run -> why."""
    models: dict[str, ModelRecord] = {}
    """Name -> what its card says; empty in runs of versions that did not record it."""
    provenance: dict[str, Any] = {}
    status: Literal["running", "interrupted", "done"] = "running"

    @property
    def leakage(self) -> tuple[str, ...]:
        """Codes of findings that make every test figure of the run flatter; there are some where that was allowed."""
        return tuple(finding.code for finding in self.audit if finding.leaks)

    @property
    def replicates(self) -> int:
        """Patient-level resamples behind its intervals."""
        return int(self.config["evaluation"]["replicates"])

    @property
    def criterion(self) -> Literal["youden", "f1"]:
        """What thresholds that are chosen on val maximise there."""
        return "f1" if self.config["evaluation"].get("threshold") == "f1" else "youden"

    @property
    def intervals(self) -> str:
        """How its intervals were read from the resamples; a run takes percentiles, ``report --recompute`` may not."""
        return str(self.config.get("intervals", "percentile"))

    @property
    def adjustment(self) -> Adjustment:
        """How p-values are adjusted for the number of rows; ``holm`` in runs of versions that knew no other."""
        adjustment: Adjustment = self.config.get("adjustment", "holm")
        return adjustment

    def adjusted_by(self, adjustment: Adjustment) -> RunRecord:
        """The same run, read with another adjustment; no figure depends on it."""
        return self.model_copy(update={"config": {**self.config, "adjustment": adjustment}})


def public(result: CellResult) -> CellResult:
    """The result with nothing of this machine in what went wrong: no traceback, and of paths only the last part."""
    left_out = {name: without_folders(why) for name, why in result.left_out.items()}
    failure = result.failure
    if failure is not None:
        failure = failure.model_copy(update={"message": without_folders(failure.message), "traceback_tail": ""})
    return result.model_copy(update={"failure": failure, "left_out": left_out})


def public_record(record: RunRecord) -> RunRecord:
    """The record with nothing of this machine in its configuration: options of plug-ins may name folders."""
    return record.model_copy(update={"config": _public_settings(record.config)})


def _public_settings(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {name: _public_settings(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public_settings(each) for each in value]
    return without_folders(value) if isinstance(value, str) else value


def without_folders(text: str) -> str:
    """A message with nothing of this machine's folders in it: of paths only the last part."""
    return ABSOLUTE_PATH.sub(lambda path: re.split(r"[\\/]", path[0])[-1], text)


# --------------------------------------------------------------------------------------------- maps


@dataclass(frozen=True, eq=False)
class PictureMaps:
    """One test picture, and how near each place of it is to each phrase of its report."""

    shown: NDArray[np.uint8]
    """(H, W) what the model saw, brought to grey."""
    mask: NDArray[np.bool_]
    """(H, W) the annotated region under the same geometry; nowhere True where there is none."""
    phrases: tuple[str, ...]
    about_mask: tuple[bool, ...]
    """Of each phrase whether it speaks of what the mask covers."""
    maps: NDArray[np.float32]
    """(phrases, h, w) cosines in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class Maps:
    """The similarity maps of one cell: a handful of test pictures, the same for every model."""

    pictures: tuple[PictureMaps, ...]

    def to_bytes(self) -> bytes:
        """As an ``.npz`` of plain arrays, without pickles; the same maps give the same bytes."""
        arrays: dict[str, NDArray[Any]] = {"count": np.array(len(self.pictures))}
        for i, picture in enumerate(self.pictures):
            arrays |= {
                f"{i}.shown": picture.shown,
                f"{i}.mask": picture.mask,
                f"{i}.phrases": np.array(picture.phrases, dtype=np.str_),
                f"{i}.about_mask": np.array(picture.about_mask, dtype=np.bool_),
                f"{i}.maps": picture.maps,
            }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # it takes any keyword for the flag allow_pickle
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: where the bytes are something else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return cls(tuple(_picture_maps(file, i) for i in range(int(file["count"]))))
        except (KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"not a file of similarity maps ({type(error).__name__})") from error


def _picture_maps(file: Mapping[str, NDArray[Any]], i: int) -> PictureMaps:
    shown, mask, phrases, about, maps = (file[f"{i}.{n}"] for n in ("shown", "mask", "phrases", "about_mask", "maps"))
    fits = shown.ndim == 2 and mask.shape == shown.shape and maps.ndim == 3
    if not (fits and len(maps) == len(phrases) == len(about)):
        raise ValueError(f"picture {i} of the similarity maps does not fit together")
    return PictureMaps(
        shown.astype(np.uint8), mask.astype(np.bool_), tuple(map(str, phrases)), tuple(map(bool, about)), maps
    )


# --------------------------------------------------------------------------------------------- files


def digest(value: Any, size: int = 10) -> str:  # noqa: ANN401 - any JSON value
    """Hash a JSON value: blake2b over its canonical form (sorted keys, no spaces), ``size`` bytes in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file at once: a kill leaves the old file or the new."""
    with open_atomically(path) as file:
        file.write(data)


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file in the same folder; at the end of the block it is synced and renamed to ``path``.

    A kill at any instant leaves the old file or the new. An exception in the block leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    umask = os.umask(0)  # mkstemp gives a file to its owner alone; a published page is read by others
    os.umask(umask)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def tidy(results: list[CellResult]) -> pd.DataFrame:
    """One row per measurement, with the cell's axes beside it; failed cells have no rows."""
    rows = [
        {
            "id": result.id,
            "model": result.spec.model,
            "title": result.title,
            "inputs": "+".join(result.inputs),
            "weights": result.spec.start,
            "scale": result.spec.scale,
            "regime": result.spec.regime,
            "augmentation": result.spec.augmentation,
            "head": result.spec.head,
            "seed": result.spec.seed,
            "dataset": result.spec.dataset,
            "split": result.spec.split,
            "evaluator": m.evaluator,
            "space": m.space,
            "primary_space": m.space == result.primary_space,
            "metric": m.metric,
            **m.estimate.model_dump(),
            "chance": m.chance,
        }
        for result in results
        for m in result.measurements
    ]
    return pd.DataFrame(rows)
