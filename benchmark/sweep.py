"""What models cost over batch sizes: the rows of ``profile``, measured on pictures and reports of the phantom.

A batch size that does not fit into memory is recorded as such, and costs nothing but itself and larger ones.
"""

from __future__ import annotations

import csv
import gc
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from benchmark import profile
from benchmark.adapt import HeadMember, PairedFeatures, multi_hot, train_heads
from benchmark.config import RunConfig
from benchmark.data.manifest import Dataset
from benchmark.data.phantom import draw
from benchmark.data.split import Split, make_split, train_reports, training_pairs
from benchmark.embed import Extractor, autocast, inference, preprocessed, to_device
from benchmark.errors import UnsupportedModality
from benchmark.evaluate.protocol import Space, evaluate
from benchmark.execute import Stage, build, failure_of
from benchmark.model import HeadSpec, VisionLanguageModel
from benchmark.plan import Candidate
from benchmark.progress import Reporter
from benchmark.result import Failure, Number, Profile
from benchmark.store import ArrayStore

PATIENTS = 40
"""Of the phantom that is measured on, six pictures each; larger batches hold some of them more than once."""

LATENCY_CALLS, LATENCY_S = 200, 2.0
"""Calls that one picture is timed for, and seconds after which fewer will do."""

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch says it, on a GPU and on a CPU."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rates(_Record):
    """Samples per second by batch size."""

    per_s: dict[int, Number] = {}
    """Of the sizes that fit into memory; none where the model has no such encoder."""
    out_of_memory_at: int | None = None
    """The first size that did not fit; no larger one was tried."""

    @property
    def best(self) -> float:
        """The highest rate; NaN where there is none."""
        return max(self.per_s.values(), default=math.nan)

    @property
    def largest(self) -> int:
        """The largest size that fits; 1 where none was found to."""
        return max(self.per_s, default=1)


class ModelCosts(_Record):
    """One row: what a model costs, or why that is not known."""

    model: str
    title: str
    weights: str
    """``random``, ``pretrained`` or ``file``."""
    profile: Profile = Profile()
    """At the batch size of the highest rate; training is that of heads, and probing that of the standard probe."""
    images: Rates = Rates()
    texts: Rates = Rates()
    failure: Failure | None = None


@dataclass(frozen=True, eq=False)
class Subjects:
    """The phantom that everything is measured on."""

    dataset: Dataset
    split: Split

    @classmethod
    def drawn(cls, config: RunConfig) -> Subjects:
        """Draw them, the same ones each time."""
        dataset = draw(PATIENTS, task=config.phantom_task)
        return cls(dataset, make_split(dataset, seed=config.split_seed))

    def texts(self, count: int) -> list[str]:
        """So many reports, from the first on again when they are used up."""
        reports = self.dataset.reports or ()
        return [reports[i % len(reports)] or "" for i in range(count)]


def measure_each(
    candidates: Sequence[Candidate],
    config: RunConfig,
    batch_sizes: Sequence[int],
    device: torch.device,
    reporter: Reporter,
) -> Iterator[ModelCosts]:
    """Measure one model after another, handing over each row as soon as it is finished."""
    subjects = Subjects.drawn(config)
    reporter.expect(len(candidates))
    lane = reporter.lane()
    for candidate in candidates:
        start = time.perf_counter()
        lane.begin(candidate.registered.name)
        row = measure(candidate, config, subjects, batch_sizes, device, lane.stage)
        outcome = f"FAILED, {row.failure.summary}" if row.failure else "done"
        lane.end(row.model, outcome, time.perf_counter() - start)
        yield row


def measure(
    candidate: Candidate,
    config: RunConfig,
    subjects: Subjects,
    batch_sizes: Sequence[int],
    device: torch.device,
    stage: Stage,
) -> ModelCosts:
    """Build a model once and measure it; one that fails is recorded with its failure."""
    kind = candidate.at(config.seeds[0]).kind
    card = candidate.registered.entry.card
    row = ModelCosts(model=card.name, title=card.title, weights="file" if kind == "path" else kind)
    try:
        return row.model_copy(update=_measured(candidate, config, subjects, batch_sizes, device, stage))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a foreign model may raise anything; its row shows it
        return row.model_copy(update={"failure": failure_of(error)})
    finally:
        _free(device)


def _measured(
    candidate: Candidate,
    config: RunConfig,
    subjects: Subjects,
    batch_sizes: Sequence[int],
    device: torch.device,
    stage: Stage,
) -> dict[str, Any]:
    stage("building")
    profile.reset_peak_memory(device)
    reports = train_reports(subjects.dataset, subjects.split)
    model = build(candidate, config.seeds[0], config, device, reports)
    with inference(model), autocast(device, config.precision):
        pixels = _prepared(model, subjects.dataset, max(batch_sizes))

        def pictures(count: int) -> Tensor:
            return to_device(pixels[torch.arange(count) % len(pixels)], device)

        images = over_sizes(
            lambda size: profile.images_per_s(model, pictures(size), device=device),
            batch_sizes,
            device,
            stage("images/s"),
        )
        try:
            texts = over_sizes(
                lambda size: profile.texts_per_s(model, subjects.texts(size), device=device),
                batch_sizes,
                device,
                stage("texts/s"),
            )
        except UnsupportedModality:  # an image-only model has no such rates
            texts = Rates()
        stage("latency and operations")
        costs = profile.completed(
            model,
            pictures(1),
            subjects.texts(texts.largest),
            images.best,
            texts.best,
            device=device,
            precision=config.precision,
            calls=LATENCY_CALLS,
            seconds=LATENCY_S,
        )
    learning = _learning(model, config, subjects, images, texts, device, stage)
    return {"profile": costs.model_copy(update=learning), "images": images, "texts": texts}


def over_sizes(
    rate: Callable[[int], float],
    sizes: Sequence[int],
    device: torch.device,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rates:
    """Measure a rate at each batch size, the smallest first, and stop at one that does not fit into memory.

    Raises:
        Exception: whatever ``rate`` raises for another reason.
    """
    per_s: dict[int, float] = {}
    for size in sorted(sizes):
        try:
            per_s[size] = rate(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        progress(len(per_s), len(sizes))
    else:
        return Rates(per_s=per_s)
    _free(device)  # only here is the error gone, and with it what its frames held
    return Rates(per_s=per_s, out_of_memory_at=size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, the device's or the machine's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def _prepared(model: VisionLanguageModel, dataset: Dataset, count: int) -> Tensor:
    """Up to so many pictures of the dataset as the model takes them, (n, 3, H, W) on the CPU."""
    rows = np.arange(min(count, len(dataset)))
    batches = [part.tolist() for part in np.array_split(rows, -(-len(rows) // 32))]
    return torch.cat(list(preprocessed(model, dataset.pixels, batches, device=torch.device("cpu"))))


def _learning(
    model: VisionLanguageModel,
    config: RunConfig,
    subjects: Subjects,
    images: Rates,
    texts: Rates,
    device: torch.device,
    stage: Stage,
) -> dict[str, float]:
    """Seconds to fit the standard probe with its intervals, and to train heads where there are texts."""
    dataset, split = subjects.dataset, subjects.split
    with tempfile.TemporaryDirectory() as folder:  # nothing of a phantom this small is worth keeping
        extractor = Extractor(model, "profile", ArrayStore(Path(folder)), device=device, precision=config.precision)
        image = extractor.images(
            dataset.pixels, dataset.pixel_hashes, batch=images.largest, progress=stage("encoding pictures")
        )
        reports = subjects.texts(len(dataset)) if texts.per_s else []
        text = extractor.texts(reports, batch=texts.largest, progress=stage("encoding texts")) if reports else None
    stage("probing")
    start = time.perf_counter()
    space = Space("pooled", image, None, None, aligned=False)
    evaluate([space], dataset, split, config.evaluation, evaluators=("probe_standard",))
    seconds = {"evaluate_s": time.perf_counter() - start}
    if text is None:
        return seconds
    pairs = training_pairs(dataset, split)
    data = PairedFeatures(
        image=torch.from_numpy(image[pairs]),
        text=torch.from_numpy(text),
        report=torch.from_numpy(pairs),
        rewordings={},
        labels=multi_hot(dataset.labels[pairs], len(dataset.classes)),
    )
    member = HeadMember(HeadSpec.parse(config.heads[0]), "none", config.seeds[0])
    start = time.perf_counter()
    train_heads(
        model,
        data,
        [member],
        config.heads_training,
        fingerprint=split.fingerprint,
        device=device,
        progress=stage("training heads"),
    )
    return seconds | {"adapt_s": time.perf_counter() - start}


def _free(device: torch.device) -> None:
    """Give back what nothing holds any more, so that the next measurement starts as the first did."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# --------------------------------------------------------------------------------------------- table


def to_csv(rows: Sequence[ModelCosts], batch_sizes: Sequence[int]) -> str:
    """One line a model; what is not known is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict(_fields(ModelCosts(model="", title="", weights=""), batch_sizes))))
    table.writeheader()
    table.writerows(dict(_fields(row, batch_sizes)) for row in rows)
    return text.getvalue()


def _fields(row: ModelCosts, batch_sizes: Sequence[int]) -> Iterator[tuple[str, object]]:
    yield from (("model", row.model), ("title", row.title), ("weights", row.weights))
    yield from row.profile.model_dump(mode="json").items()
    for what, rates in (("images", row.images), ("texts", row.texts)):
        yield from ((f"{what}_per_s_at_{size}", rates.per_s.get(size)) for size in batch_sizes)
        yield f"{what}_out_of_memory_at", rates.out_of_memory_at
    yield "failure", row.failure.summary if row.failure else ""
