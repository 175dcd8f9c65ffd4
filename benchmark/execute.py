"""The work of one unit: build the model, adapt it, embed the dataset, evaluate, and hand over one result per cell."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark import explain, profile
from benchmark.adapt import (
    Adapted,
    HeadMember,
    PairedFeatures,
    multi_hot,
    train_heads,
)
from benchmark.augment import Rewordings, Source, captions, reword
from benchmark.config import RunConfig
from benchmark.data.manifest import Dataset
from benchmark.data.preprocess import picture
from benchmark.data.split import Split, train_reports, training_pairs, with_report
from benchmark.distributed import Ranks
from benchmark.embed import Extractor, inference, preprocessed, preprocessing
from benchmark.errors import BadInput, BenchmarkError, BrokenModel, OutOfStep, TrainingDiverged, UnsupportedModality
from benchmark.evaluate.pointing import Pointed
from benchmark.evaluate.protocol import Space, evaluate
from benchmark.heads import ProjectionPair
from benchmark.model import BuildRequest, Features, ModelEntry, NaiveModel, RewordContext, VisionLanguageModel
from benchmark.plan import FROZEN, Candidate, Unit
from benchmark.registry import Registered
from benchmark.result import (
    MAPS_EVALUATOR,
    CellResult,
    CellSpec,
    Failure,
    Maps,
    Profile,
    digest,
    open_atomically,
)
from benchmark.run_folder import RunFolder
from benchmark.store import ArrayStore
from benchmark.train import Pairs, train_full

Stage = Callable[[str], Callable[[int, int], None]]
"""Called with the name of a stage that begins; gives the callback for its (done, total)."""

TRACEBACK_LINES = 12
"""Lines of a failure's traceback that are kept."""

PREPARED_LIMIT = 2**30
"""Bytes of preprocessed training pictures kept in memory; beyond it they are prepared anew in each epoch."""


@dataclass(frozen=True, eq=False)
class Finished:
    """A cell's result, and the predictions it was computed from."""

    result: CellResult
    predictions: pd.DataFrame | None
    maps: Maps | None = None
    """None where there are none, or their pictures may not be kept."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What all units of a run share: the data, its division, the settings, the store, the device."""

    config: RunConfig
    dataset: Dataset
    split: Split
    augmentations: Mapping[str, Source]
    cache: Path
    store: ArrayStore
    device: torch.device
    provenance: dict[str, Any]
    folder: RunFolder
    """Where trainings leave their checkpoints."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together."""
    _reworded: dict[tuple[str, int], Rewordings] = field(default_factory=dict)

    @cached_property
    def distinct_reports(self) -> tuple[str, ...]:
        """All reports, sorted, each once."""
        return tuple(sorted({r for r in self.dataset.reports or () if r is not None}))

    @cached_property
    def train_reports(self) -> tuple[str, ...]:
        """All that a tokenizer may learn from."""
        return train_reports(self.dataset, self.split)

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """Training samples that have a report."""
        assert self.dataset.reports is not None, "the planner trains nothing on a dataset without reports"
        return training_pairs(self.dataset, self.split)

    @cached_property
    def val_pairs(self) -> NDArray[np.int64]:
        """Validation samples that have a report."""
        return with_report(self.dataset, self.split.val)

    @cached_property
    def labels(self) -> Tensor:
        """Multi-hot labels of the training pairs, (n_pairs, C)."""
        return multi_hot(self.dataset.labels[self.pairs], len(self.dataset.classes))

    @cached_property
    def subjects(self) -> explain.Subjects:
        """The test pictures that similarity maps are made of."""
        return explain.choose(self.dataset, self.split)

    @cached_property
    def reports(self) -> list[str]:
        """The report of each training pair."""
        texts = self.dataset.reports or ()
        return [report for i in self.pairs if (report := texts[i]) is not None]

    def rewordings(self, name: str, count: int, stage: Stage) -> Rewordings:
        """``count`` rewordings of each training pair's report under an augmentation; empty for ``none``."""
        if name == "none":
            return Rewordings([])
        if (name, count) not in self._reworded:
            context = RewordContext(
                cache=self.cache / "rewordings" / name,
                device=str(self.device),
                weights_dir=self.config.weights_dir,
                fingerprint=self.split.fingerprint,
                progress=stage("rewording texts"),
            )
            pairs = captions(self.dataset, self.split)
            self._reworded[name, count] = reword(self.augmentations[name], pairs, count, context)
        return self._reworded[name, count]


def execute(unit: Unit, bench: Bench, stage: Stage) -> Iterator[Finished]:
    """Do a unit's work, handing over each cell as soon as it is finished."""
    if unit.kind == "naive":
        yield from _naive(unit, bench, stage)
    elif unit.kind == "towers":
        yield from _towers(unit, bench, stage)
    else:
        yield from _full(unit, bench, stage)


# --------------------------------------------------------------------------------------------- kinds of unit


def _naive(unit: Unit, bench: Bench, stage: Stage) -> Iterator[Finished]:
    """Features without an encoder, under the same standard probe as everything else."""
    model = unit.candidate.registered.entry.make(BuildRequest(seed=unit.seed))
    if not isinstance(model, NaiveModel):
        raise BrokenModel(f"{unit.name} builds a {type(model).__name__}, which lacks 'card' or 'features'")
    stage("features")
    features = model.features(bench.dataset, bench.split.train).astype(np.float32)
    space = Space("pooled", features, None, None, aligned=False)
    (_, spec) = unit.cells[0]
    yield _evaluated(unit, spec, bench, [space], Profile(), {}, stage, evaluators=("probe_standard",))


def _towers(unit: Unit, bench: Bench, stage: Stage) -> Iterator[Finished]:
    """All frozen and heads cells of a model: one pass of its encoders, one batched training of heads a text set."""
    profile.reset_peak_memory(bench.device)
    model = _build(unit, bench)
    extractor = Extractor(
        model, _weights_key(unit, bench), bench.store, device=bench.device, precision=bench.config.precision
    )
    embedded = _embed(extractor, bench, stage)
    costs = _costs(model, bench, stage)
    view = _view(extractor, bench, stage)
    for variant, spec in unit.cells:
        if variant == FROZEN:
            released = _released_projections(model, bench.device)
            spaces, maps = [embedded.pooled()], _NO_SPACE
            if released is not None:
                with inference(model):
                    maps = _maps(view, *released, bench)
                    spaces.append(replace(embedded.aligned(*released), pointed=maps.pointed))
            yield _evaluated(unit, spec, bench, spaces, costs, {}, stage, origin=_origin(model), maps=maps)
    for augmentation in sorted({variant.augmentation for variant, _ in unit.cells}):
        wanted = [
            (spec, HeadMember(variant.head, augmentation, spec.seed))
            for variant, spec in unit.cells
            if variant.regime == "heads" and variant.augmentation == augmentation
        ]
        try:
            reworded = bench.rewordings(augmentation, bench.config.heads_training.rewordings, stage)
            trained = _train_heads([member for _, member in wanted], reworded, bench, extractor, embedded, stage)
        except Exception as error:  # noqa: BLE001 - foreign objectives and augmentations cost their own rows alone
            yield from (Finished(failed(unit, spec, bench.provenance, error), None) for spec, _ in wanted)
            continue
        for spec, member in wanted:
            adapted, seconds = trained[member]
            if isinstance(adapted, TrainingDiverged):
                yield Finished(failed(unit, spec, bench.provenance, adapted), None)
                continue
            maps = _maps(view, adapted.pair.project_image, adapted.pair.project_text, bench)
            space = replace(embedded.projected(adapted.pair), pointed=maps.pointed)
            costs_here = replace_profile(costs, adapt_s=seconds, head_parameters=profile.parameters(adapted.pair))
            yield _evaluated(
                unit,
                spec,
                bench,
                [space],
                costs_here,
                _training_record(adapted, bench, reworded),
                stage,
                origin=_origin(model),
                maps=maps,
            )


def _full(unit: Unit, bench: Bench, stage: Stage) -> Iterator[Finished]:
    """Towers and heads trained on the train split, then embedded with the weights that came out."""
    ((_, spec),) = unit.cells
    profile.reset_peak_memory(bench.device)
    start = time.perf_counter()
    model, adapted, reworded = train_towers(unit, bench, stage)
    seconds = time.perf_counter() - start
    # These weights exist only in this unit, so their embeddings are of no use to any other: nothing is kept.
    with tempfile.TemporaryDirectory() as folder:
        store = ArrayStore(Path(folder))
        extractor = Extractor(model, spec.id, store, device=bench.device, precision=bench.config.precision)
        embedded = _embed(extractor, bench, stage)
        costs = replace_profile(
            _costs(model, bench, stage), adapt_s=seconds, head_parameters=profile.parameters(adapted.pair)
        )
        pair = adapted.pair.cpu()
        maps = _maps(_view(extractor, bench, stage), pair.project_image, pair.project_text, bench)
        spaces = [embedded.pooled(), replace(embedded.projected(pair), pointed=maps.pointed)]
        record = _training_record(adapted, bench, reworded)
        yield _evaluated(unit, spec, bench, spaces, costs, record, stage, origin=_origin(model), maps=maps)
    bench.folder.checkpoint(unit).unlink(missing_ok=True)  # the result is what is left of it


def train_towers(unit: Unit, bench: Bench, stage: Stage) -> tuple[VisionLanguageModel, Adapted, Rewordings]:
    """Build and train the model of a ``full`` unit: this process's part of it, where several train together."""
    (variant, spec) = unit.cells[0]
    config = bench.config.full_training
    model = _build(unit, bench)
    if config.patience and not len(bench.val_pairs):
        raise BadInput("full_training.patience stops by the loss on val, and no val sample has a report; leave it out")
    reworded = bench.rewordings(variant.augmentation, config.rewordings, stage)
    data = _pairs(model, bench, bench.pairs, reworded.texts)
    validation = _pairs(model, bench, bench.val_pairs, []) if config.patience else None
    if bench.ranks.leads:  # the others wait for this word, and then train with us
        bench.ranks.say(unit.id)
    checkpoint = bench.folder.checkpoint(unit)
    try:
        adapted = train_full(
            model,
            data,
            variant.head,
            config,
            seed=spec.seed,
            fingerprint=bench.split.fingerprint,
            device=bench.device,
            precision=bench.config.precision,
            validation=validation,
            checkpoint=checkpoint,
            ranks=bench.ranks,
            progress=stage("training on after a checkpoint" if checkpoint.exists() else "training"),
        )
    except TrainingDiverged:
        checkpoint.unlink(missing_ok=True)  # it leads to the same place
        raise
    except BenchmarkError:
        raise
    except Exception as error:
        if bench.ranks.size > 1:  # the others wait for our share of a batch, and cannot be told
            raise OutOfStep(f"{type(error).__name__} in one of {bench.ranks.size} processes: {error}") from error
        raise
    if config.keep_weights and bench.ranks.leads:
        _keep_weights(model, adapted.pair, bench.folder.path / "weights" / spec.id)
    return model, adapted, reworded


def _keep_weights(model: VisionLanguageModel, pair: ProjectionPair, stem: Path) -> None:
    """Write towers and heads; ``--weights STEM.towers.safetensors`` starts from these towers."""
    assert isinstance(model, nn.Module)
    for part, module in (("towers", model), ("heads", pair)):
        tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
        with open_atomically(stem.with_name(f"{stem.name}.{part}.safetensors")) as file:
            file.write(safetensors.torch.save(tensors))


# --------------------------------------------------------------------------------------------- steps


def _build(unit: Unit, bench: Bench) -> VisionLanguageModel:
    return build(unit.candidate, unit.seed, bench.config, bench.device, bench.train_reports)


def build(
    candidate: Candidate, seed: int, config: RunConfig, device: torch.device, reports: tuple[str, ...]
) -> VisionLanguageModel:
    """Build a candidate from the weights of a seed; ``reports`` are all that its tokenizer may learn from."""
    weights = candidate.at(seed)
    request = BuildRequest(
        scale=config.scale,
        weights=weights.path or ("random" if weights.kind == "random" else "pretrained"),
        files=weights.files,
        device=str(device),
        seed=seed,
        train_reports=reports,
    )
    return make_encoder(candidate.registered, request)


def make_encoder(registered: Registered[ModelEntry], request: BuildRequest) -> VisionLanguageModel:
    """Build a registered encoder.

    Raises:
        BrokenModel: where something else comes out.
    """
    model = registered.entry.make(request)
    if not isinstance(model, VisionLanguageModel):
        name = registered.name
        raise BrokenModel(
            f"{name} builds a {type(model).__name__}, which lacks part of the contract; 'check-model {name}' says what"
        )
    return model


def _weights_key(unit: Unit, bench: Bench) -> str:
    """What frozen features are stored under: the weights and, where the tokenizer is learned, what it learned from."""
    weights = unit.candidate.at(unit.seed)
    learned = [] if weights.kind == "pretrained" else list(bench.train_reports)
    return digest([weights.digest, bench.config.scale, unit.candidate.registered.provider, learned])


@dataclass(frozen=True, eq=False)
class _Embedded:
    """The dataset through one model's encoders."""

    image: NDArray[np.float32]
    """(n, d_I), in dataset order."""
    text_of: dict[str, NDArray[np.float32]] | None
    """Text -> (d_T,): reports and prompts; None where the model or the dataset has no text."""
    reports: tuple[str | None, ...]
    prompts: dict[str, tuple[str, ...]]

    def pooled(self) -> Space:
        return Space("pooled", self.image, None, None, aligned=False)

    def projected(self, pair: ProjectionPair) -> Space:
        return self.aligned(pair.project_image, pair.project_text)

    def aligned(self, image: explain.Project, text: explain.Project) -> Space:
        with torch.inference_mode():
            pictures = image(torch.from_numpy(self.image)).numpy()
            if self.text_of is None:
                return Space("projected", pictures, None, None, aligned=True)
            vectors = text(torch.from_numpy(np.stack(list(self.text_of.values())))).numpy()
        row = {t: i for i, t in enumerate(self.text_of)}
        texts = np.full((len(pictures), vectors.shape[1]), np.nan, dtype=np.float32)
        for i, report in enumerate(self.reports):
            if report is not None:
                texts[i] = vectors[row[report]]
        prompts = {name: vectors[[row[s] for s in sentences]] for name, sentences in self.prompts.items()}
        return Space("projected", pictures, texts if self.reports else None, prompts or None, aligned=True)


def _embed(extractor: Extractor, bench: Bench, stage: Stage) -> _Embedded:
    dataset, batch = bench.dataset, bench.config.encode_batch
    image = extractor.images(dataset.pixels, dataset.pixel_hashes, batch=batch, progress=stage("encoding pictures"))
    prompts = dict(dataset.card.prompts)
    texts = dict.fromkeys([*bench.distinct_reports, *(s for sentences in prompts.values() for s in sentences)])
    text_of = None
    if texts:
        try:
            vectors = extractor.texts(list(texts), batch=batch, progress=stage("encoding texts"))
            text_of = dict(zip(texts, vectors, strict=True))
        except UnsupportedModality:  # an image-only model: what needs text is left out by the evaluation, with reason
            text_of = None
    return _Embedded(image, text_of, dataset.reports or (), prompts if text_of else {})


def _released_projections(
    model: VisionLanguageModel, device: torch.device
) -> tuple[explain.Project, explain.Project] | None:
    """A model's own published projections of vectors on the CPU, wherever the model is."""
    image, text = getattr(model, "project_image", None), getattr(model, "project_text", None)
    if image is None or text is None:
        return None

    def through(project: Callable[[Features], Tensor]) -> explain.Project:
        return lambda vectors: project(Features(vectors.to(device))).cpu()

    return through(image), through(text)


@dataclass(frozen=True, eq=False)
class _Explained:
    """A cell's similarity maps, or why it has none."""

    maps: Maps | None = None
    pointed: Pointed | None = None
    why_not: str = ""


_NO_SPACE = _Explained(why_not="an untrained projection has no common space")


def _view(extractor: Extractor, bench: Bench, stage: Stage) -> explain.View | str:
    """What a model makes of the pictures to be explained, or why that cannot be mapped."""
    stage("explaining")
    try:
        return explain.look(extractor, bench.subjects, bench.dataset, batch=bench.config.encode_batch)
    except Exception as error:  # noqa: BLE001 - a cell without maps is still a result, and says why it has none
        return _why_no_maps(error)


def _maps(
    view: explain.View | str, project_image: explain.Project, project_text: explain.Project, bench: Bench
) -> _Explained:
    if isinstance(view, str):
        return _Explained(why_not=view)
    try:
        maps, pointed = explain.read(view, project_image, project_text, len(bench.dataset))
    except Exception as error:  # noqa: BLE001 - as above
        return _Explained(why_not=_why_no_maps(error))
    # Pictures of patients are kept only where that was asked for; the game's figures show none.
    return _Explained(maps if bench.config.include_images or bench.dataset.card.synthetic else None, pointed)


def _why_no_maps(error: Exception) -> str:
    if isinstance(error, explain.NoMaps):
        return str(error)
    return "explaining failed: " + Failure(kind=type(error).__name__, message=str(error), traceback_tail="").summary


def _train_heads(
    members: Sequence[HeadMember],
    rewordings: Rewordings,
    bench: Bench,
    extractor: Extractor,
    embedded: _Embedded,
    stage: Stage,
) -> dict[HeadMember, tuple[Adapted | TrainingDiverged, float]]:
    """Trained heads, and of each its share of the time that training all of them together took."""
    if not members:
        return {}
    if embedded.text_of is None:
        raise UnsupportedModality(
            "heads are trained on pairs, and this model encodes no text; its card may say so, encodes=('image',)"
        )
    options = rewordings.texts
    reworded = list(dict.fromkeys(text for texts in options for text in texts))
    vectors = [np.stack(list(embedded.text_of.values()))]
    if reworded:
        encoding = stage("encoding rewordings")
        vectors.append(extractor.texts(reworded, batch=bench.config.encode_batch, progress=encoding))
    row = {text: i for i, text in enumerate(embedded.text_of)}
    reworded_row = {text: len(row) + i for i, text in enumerate(reworded)}
    data = PairedFeatures(
        image=torch.from_numpy(embedded.image[bench.pairs]),
        text=torch.from_numpy(np.concatenate(vectors)),
        report=torch.tensor([row[r] for r in bench.reports]),
        rewordings={members[0].augmentation: torch.tensor([[reworded_row[t] for t in texts] for texts in options])}
        if options
        else {},
        labels=bench.labels,
    )
    start = time.perf_counter()
    trained = train_heads(
        extractor.model,
        data,
        members,
        bench.config.heads_training,
        fingerprint=bench.split.fingerprint,
        device=bench.device,
        progress=stage("training heads"),
    )
    share = (time.perf_counter() - start) / len(members)
    return {member: (trained[member], share) for member in members}


def _pairs(
    model: VisionLanguageModel, bench: Bench, chosen: NDArray[np.int64], rewordings: Sequence[Sequence[str]]
) -> Pairs:
    """Samples with a report as pairs, their pictures preprocessed once where they fit into memory."""
    pixels, cpu = bench.dataset.pixels, torch.device("cpu")
    reports = [report for i in chosen if (report := (bench.dataset.reports or ())[i]) is not None]
    labels = multi_hot(bench.dataset.labels[chosen], len(bench.dataset.classes))

    def prepared(batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        yield from preprocessed(model, pixels, [chosen[rows].tolist() for rows in batches], device=cpu)

    def pinned(batch: Tensor) -> Tensor:
        """A batch that can be copied to the GPU while it works; what indexing gives is not pinned by itself."""
        return batch.pin_memory() if bench.device.type == "cuda" else batch

    if model.preprocess(picture(pixels[chosen[0]])).nbytes * len(chosen) > PREPARED_LIMIT:
        return Pairs(lambda batches: map(pinned, prepared(batches)), reports, rewordings, labels)
    ready = torch.cat(list(prepared(np.array_split(np.arange(len(chosen)), -(-len(chosen) // 64)))))
    return Pairs(
        lambda batches: (pinned(ready[torch.from_numpy(rows)]) for rows in batches), reports, rewordings, labels
    )


def _costs(model: VisionLanguageModel, bench: Bench, stage: Stage) -> Profile:
    """What the encoders cost, measured on one batch of the dataset's own pictures and reports."""
    stage("measuring cost")
    batch = min(bench.config.encode_batch, len(bench.dataset))
    return profile.measure(
        model,
        bench.dataset.pixels[:batch],
        bench.distinct_reports[:batch],
        device=bench.device,
        precision=bench.config.precision,
    )


def _origin(model: VisionLanguageModel) -> dict[str, Any]:
    """How the model prepares pictures and, where it says so, how many tensors of each tower a file gave."""
    return {"preprocess": preprocessing(model), "tensors_loaded": dict(getattr(model, "loaded", {}))}


def _training_record(adapted: Adapted, bench: Bench, reworded: Rewordings) -> dict[str, Any]:
    left_out = len(bench.split.train) - len(bench.pairs)
    record = {"losses": list(adapted.losses), "pairs": len(bench.pairs), "left_out_without_report": left_out}
    if adapted.validation:
        record |= {"validation_losses": list(adapted.validation), "kept_epoch": adapted.kept_epoch}
    return record | ({"rewordings": reworded.record.model_dump(mode="json")} if reworded.record else {})


def _evaluated(
    unit: Unit,
    spec: CellSpec,
    bench: Bench,
    spaces: Sequence[Space],
    costs: Profile,
    training: dict[str, Any],
    stage: Stage,
    *,
    origin: dict[str, Any] | None = None,
    evaluators: Sequence[str] | None = None,
    maps: _Explained | None = None,
) -> Finished:
    stage("evaluating")
    start = time.perf_counter()
    evaluation = evaluate(spaces, bench.dataset, bench.split, bench.config.evaluation, evaluators=evaluators)
    entry = unit.candidate.registered.entry
    primary: Literal["pooled", "projected"] = "projected" if spec.regime == "heads" else "pooled"
    result = CellResult(
        id=spec.id,
        spec=spec,
        title=entry.card.title,
        inputs=entry.card.inputs,
        naive=entry.naive,
        status="done",
        primary_space=primary,
        measurements=evaluation.measurements,
        fits=evaluation.fits
        | {"selection": evaluation.fits[primary]["selection"]}
        | ({"training": training} if training else {}),
        left_out=evaluation.left_out | ({MAPS_EVALUATOR: maps.why_not} if maps and maps.why_not else {}),
        profile=replace_profile(
            costs,
            peak_memory_mb=max(profile.peak_memory_mb(bench.device), costs.peak_memory_mb)
            if unit.kind != "naive"
            else float("nan"),
            evaluate_s=time.perf_counter() - start,
        ),
        provenance=bench.provenance | ({"model": origin} if origin else {}),
    )
    return Finished(result, evaluation.predictions, maps.maps if maps else None)


def failed(unit: Unit, spec: CellSpec, provenance: dict[str, Any], error: BaseException) -> CellResult:
    """The record of a cell that raised."""
    entry = unit.candidate.registered.entry
    return CellResult(
        id=spec.id,
        spec=spec,
        title=entry.card.title,
        inputs=entry.card.inputs,
        naive=entry.naive,
        status="failed",
        failure=failure_of(error),
        provenance=provenance,
    )


def failure_of(error: BaseException) -> Failure:
    """What is kept of an exception."""
    tail = "".join(traceback.format_exception(error)[-TRACEBACK_LINES:])
    return Failure(kind=type(error).__name__, message=str(error), traceback_tail=tail)


def replace_profile(costs: Profile, **changes: float) -> Profile:
    """A profile with some figures set."""
    return costs.model_copy(update=changes)
