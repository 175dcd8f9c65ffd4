"""The one place that decides what is fitted on what, and the way from feature spaces to measurements.

``evaluate`` fits every evaluator on the train split (what is chosen is chosen on val), scores val and test, and lays
all scores in one table (see ``predictions``), from which the measurements are computed. Fitting sees a ``Known``, which
holds no test sample.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from threadpoolctl import threadpool_limits

from benchmark.data.manifest import Dataset
from benchmark.data.split import Split
from benchmark.errors import BadInput
from benchmark.evaluate import neighbours, probe, retrieval, zero_shot
from benchmark.evaluate.metrics import Classification, primary_metric
from benchmark.evaluate.pointing import Pointed
from benchmark.evaluate.predictions import Scored, SpaceName, choices, recompute, to_table
from benchmark.evaluate.probe import ClassWeight, PaperLoss
from benchmark.evaluate.resample import plug_in
from benchmark.evaluate.threshold import Criterion
from benchmark.result import MAPS_EVALUATOR, Measurement, Task
from benchmark.seeding import derive_seed

Floats = NDArray[np.float64]
Evaluator = Literal["probe_standard", "probe_paper", "few_shot", "knn", "zero_shot", "retrieval"]
Count = Annotated[int, Field(ge=1)]

EVALUATORS: tuple[Evaluator, ...] = ("probe_standard", "probe_paper", "few_shot", "knn", "zero_shot", "retrieval")
"""What can be asked for. ``few_shot`` and ``knn`` are reported once per k, as ``few_shot_k4`` and ``knn_k10``."""


class EvaluationConfig(BaseModel):
    """Settings of the evaluation; all of them are part of every cell's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluators: tuple[Evaluator, ...] = EVALUATORS
    """Which ways of scoring are run, where the features allow them."""
    strengths: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        tuple(float(f"{c:.6g}") for c in np.logspace(-6, 2, 17)), min_length=1
    )
    """Grid of C in scikit-learn's sense, increasing: the strongest regularisation first."""
    paper_epochs: int = Field(50, ge=1)
    """Epochs of the paper's linear layer."""
    paper_lr: float = Field(1e-4, gt=0)
    """AdamW learning rate of the paper's linear layer."""
    paper_batch: int = Field(128, ge=1)
    """Samples per step of the paper's linear layer."""
    paper_loss: PaperLoss = "cross_entropy"
    """What the paper's linear layer minimises."""
    paper_upsample: bool = False
    """Whether each epoch of the paper's linear layer draws all classes equally often."""
    class_weight: ClassWeight = "none"
    """Whether the standard probe weights samples by the inverse frequency of their class."""
    shots: tuple[Count, ...] = Field((1, 2, 4, 8, 16), min_length=1)
    """Labelled samples per class in few-shot classification."""
    few_shot_draws: int = Field(5, ge=1)
    """Random subsets per number of shots; their mean is reported."""
    neighbours: tuple[Count, ...] = Field((1, 5, 10, 20), min_length=1)
    """Neighbourhood sizes."""
    recall_at: tuple[Count, ...] = Field((1, 5, 10), min_length=1)
    """Answers looked at in retrieval."""
    threshold: Criterion = "youden"
    """What the thresholds that are chosen on val maximise there."""
    replicates: int = Field(1000, ge=1)
    """Patient-level bootstrap resamples behind every interval."""

    @field_validator("evaluators")
    @classmethod
    def _can_be_ranked(cls, values: tuple[Evaluator, ...]) -> tuple[Evaluator, ...]:
        if "probe_standard" not in values:
            raise ValueError("must include probe_standard, which rows are ranked by")
        return values

    @field_validator("paper_upsample")
    @classmethod
    def _balanced_once(cls, value: bool, others: ValidationInfo) -> bool:
        loss = others.data.get("paper_loss")
        if value and loss in ("class_balanced", "balanced_softmax"):
            raise ValueError(f"cannot go with paper_loss {loss}: both would make up for the same class frequencies")
        return value

    @field_validator("strengths", "shots", "neighbours", "recall_at")
    @classmethod
    def _increasing(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(b <= a for a, b in pairwise(values)):
            raise ValueError("values must increase")
        return values


@dataclass(frozen=True, eq=False)
class Space:
    """Vectors of all n samples in one feature space."""

    name: SpaceName
    image: NDArray[np.float32]
    """(n, d_i)"""
    text: NDArray[np.float32] | None
    """(n, d_t), NaN in rows of samples without a report; None where the model has no text encoder."""
    prompts: dict[str, NDArray[np.float32]] | None
    """Class name -> (k, d_t) encoded prompts."""
    aligned: bool
    """Whether pictures and texts live in one space, so that their cosines mean something."""
    pointed: Pointed | None = None
    """How the maps of this space did in the pointing game; None where it was not played."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything one cell's features gave."""

    measurements: tuple[Measurement, ...]
    fits: dict[str, Any]
    """Space -> evaluator -> what was fitted and chosen; and what ``predictions.choices`` gives for the space."""
    left_out: dict[str, str]
    """Evaluator -> why it was run in no space."""
    predictions: pd.DataFrame


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]  # has no annotations
def evaluate(
    spaces: Sequence[Space],
    dataset: Dataset,
    split: Split,
    config: EvaluationConfig,
    *,
    evaluators: Collection[str] | None = None,
) -> Evaluation:
    """Fit, score and measure every evaluator in every space.

    Linear algebra runs on one thread here: the products are small, many of them waiting for each other, and several
    threads made them fifty times slower on four cores; and one thread gives the same bits on any number of cores.

    Args:
        spaces: Feature spaces of one model, with distinct names.
        dataset: Labels, patients and reports of the samples.
        split: Which of them may be fitted on, chosen on, and measured on.
        config: Settings.
        evaluators: A choice among ``EVALUATORS`` in place of the configuration's.

    Raises:
        BadInput: where a part of the split is empty, the training labels are all the same, or an evaluator is unknown.
    """
    wanted = _known_names(config.evaluators if evaluators is None else evaluators)
    _check_parts(dataset, split)
    pieces: list[Scored] = []
    fits: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for space in spaces:
        known = Known.of(space, dataset, split)
        fitted = [FITS[name](known, config) for name in EVALUATORS if name in wanted and name in FITS]
        pieces += [piece for f in fitted for piece in _scored(f, space, split)]
        fits[space.name] = {f.name: f.record for f in fitted if f.record}
        for f in fitted:
            reasons |= f.left_out
        if "retrieval" in wanted:
            why_not = _why_no_retrieval(space, dataset, split)
            reasons |= {"retrieval": why_not} if why_not else {}
            pieces += [] if why_not else [_ranked(space, dataset, split)]
        if space.pointed is not None:
            pieces.append(Scored(MAPS_EVALUATOR, space.name, "test", split.test, space.pointed.columns(split.test)))
    predictions = to_table(pieces, dataset)
    task, classes = dataset.card.task, dataset.classes
    for space_name, chosen in choices(predictions, task=task, classes=classes, criterion=config.threshold).items():
        fits[space_name] |= chosen
    ran = {piece.evaluator for piece in pieces}
    return Evaluation(
        recompute(
            predictions,
            task=task,
            classes=classes,
            fingerprint=split.fingerprint,
            replicates=config.replicates,
            recall_at=config.recall_at,
            threshold=config.threshold,
        ),
        fits,
        {name: why for name, why in reasons.items() if name not in ran},
        predictions,
    )


# --------------------------------------------------------------------------------------------- fitting


@dataclass(frozen=True, eq=False)
class Known:
    """All that fitting and choosing may look at: no test sample is in it."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    train_groups: NDArray[np.int64]
    val_x: NDArray[np.float32]
    val_y: NDArray[np.int64]
    task: Task
    classes: tuple[str, ...]
    prompts: dict[str, NDArray[np.float32]] | None
    aligned: bool
    fingerprint: str

    @classmethod
    def of(cls, space: Space, dataset: Dataset, split: Split) -> Known:
        """Take the train and val rows."""
        return cls(
            train_x=space.image[split.train],
            train_y=dataset.labels[split.train],
            train_groups=dataset.groups[split.train],
            val_x=space.image[split.val],
            val_y=dataset.labels[split.val],
            task=dataset.card.task,
            classes=dataset.classes,
            prompts=space.prompts,
            aligned=space.aligned,
            fingerprint=split.fingerprint,
        )

    def primary_on_val(self, scores: Floats) -> float | None:
        """The primary metric of validation scores; None where it is undefined."""
        table = Classification(self.task, self.val_y, scores, classes=self.classes, probabilities=False)
        value = plug_in(table)[primary_metric(self.task)]
        return None if np.isnan(value) else value


Scorer = Callable[[NDArray[np.float32]], dict[tuple[str, int], Floats]]
"""(n, d) features -> (reported evaluator, draw) -> (n, C) scores."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """An evaluator that is ready to score any sample."""

    name: Evaluator
    score: Scorer
    record: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Reported evaluator -> why it cannot be run in this space."""
    parts: tuple[Literal["val", "test"], ...] = ("val", "test")


def _fit_standard(known: Known, config: EvaluationConfig) -> Fitted:
    fitted = probe.fit_standard(
        known.train_x,
        known.train_y,
        known.val_x,
        known.val_y,
        n_classes=len(known.classes),
        task=known.task,
        strengths=config.strengths,
        class_weight=config.class_weight,
    )
    return Fitted("probe_standard", lambda x: {("probe_standard", 0): fitted.scores(x)}, fitted.record)


def _fit_paper(known: Known, config: EvaluationConfig) -> Fitted:
    fitted = probe.fit_paper(
        known.train_x,
        known.train_y,
        n_classes=len(known.classes),
        task=known.task,
        epochs=config.paper_epochs,
        lr=config.paper_lr,
        batch=config.paper_batch,
        generator_seed=derive_seed(known.fingerprint, "paper probe"),
        loss=config.paper_loss,
        upsample=config.paper_upsample,
    )
    return Fitted("probe_paper", lambda x: {("probe_paper", 0): fitted.scores(x)}, fitted.record)


def _fit_few_shot(known: Known, config: EvaluationConfig) -> Fitted:
    subsets = probe.nested_subsets(
        known.train_y,
        known.train_groups,
        n_classes=len(known.classes),
        shots=config.shots,
        draws=config.few_shot_draws,
        rng_key=(known.fingerprint, "few-shot"),
    )
    scaler = probe.Scaler.fit(known.train_x)
    probes = {
        (f"few_shot_k{k}", draw): probe.fit_few_shot(
            known.train_x[rows],
            known.train_y[rows],
            n_classes=len(known.classes),
            strengths=config.strengths,
            scaler=scaler,
        )
        for k in config.shots
        for draw, subset in enumerate(subsets)
        if (rows := subset.get(k)) is not None
    }
    strengths = {k: [p.record["strength"] for (name, _), p in probes.items() if name == k] for k, _ in probes}
    too_many = {f"few_shot_k{k}": f"a class has fewer than {k} training samples" for k in config.shots}
    return Fitted(
        "few_shot",
        lambda x: {key: p.scores(x) for key, p in probes.items()},
        {"strengths": strengths},
        {name: why for name, why in too_many.items() if name not in strengths},
        parts=("test",),
    )


def _fit_neighbours(known: Known, config: EvaluationConfig) -> Fitted:
    ks = [k for k in config.neighbours if k <= len(known.train_x)]
    targets = probe.one_hot(known.train_y, len(known.classes))
    left_out = {f"knn_k{k}": f"fewer than {k} training samples" for k in config.neighbours if k not in ks}

    def score(features: NDArray[np.float32]) -> dict[tuple[str, int], Floats]:
        shares = neighbours.vote_shares(known.train_x, targets, features, ks) if ks else {}
        return {(f"knn_k{k}", 0): share for k, share in shares.items()}

    on_val = {name: known.primary_on_val(scores) for (name, _), scores in score(known.val_x).items()}
    best = max((value, name) for name, value in on_val.items() if value is not None) if any(on_val.values()) else None
    record = {primary_metric(known.task) + "_on_val": on_val, "best_on_val": best and best[1]}
    return Fitted("knn", score, record, left_out)


def _fit_zero_shot(known: Known, config: EvaluationConfig) -> Fitted:  # noqa: ARG001 - one signature for all
    why_not = _why_no_zero_shot(known)
    if why_not or known.prompts is None:
        return Fitted("zero_shot", lambda _: {}, left_out={"zero_shot": why_not})
    vectors = zero_shot.class_vectors(known.prompts, known.classes)
    record = {"prompts": {name: len(known.prompts[name]) for name in known.classes}}
    return Fitted("zero_shot", lambda x: {("zero_shot", 0): zero_shot.scores(x, vectors)}, record)


def _why_no_zero_shot(known: Known) -> str:
    if not known.aligned:
        return "pictures and texts do not share a space"
    if known.task == "multilabel":
        return "prompts say what a finding looks like, not its absence, so several labels have no common threshold"
    missing = [name for name in known.classes if known.prompts is None or name not in known.prompts]
    return f"no encoded prompts for {', '.join(missing)}" if missing else ""


FITS: dict[Evaluator, Callable[[Known, EvaluationConfig], Fitted]] = {
    "probe_standard": _fit_standard,
    "probe_paper": _fit_paper,
    "few_shot": _fit_few_shot,
    "knn": _fit_neighbours,
    "zero_shot": _fit_zero_shot,
}
"""``retrieval`` is not among them: it fits nothing and ranks instead of scoring."""


def _known_names(evaluators: Collection[str]) -> set[str]:
    unknown = sorted(set(evaluators) - set(EVALUATORS))
    if unknown:
        raise BadInput(f"unknown evaluator {unknown[0]!r}; choose among {', '.join(EVALUATORS)}")
    return set(evaluators)


def _check_parts(dataset: Dataset, split: Split) -> None:
    for name in ("train", "val", "test"):
        if len(getattr(split, name)) == 0:
            raise BadInput(f"dataset {dataset.card.name}: the {name} split is empty; nothing can be evaluated")
    labels = dataset.labels[split.train]
    if (labels == labels[0]).all():
        raise BadInput(
            f"dataset {dataset.card.name}: all training samples have the same label; a classifier needs two classes"
        )


# --------------------------------------------------------------------------------------------- scoring


def _scored(fitted: Fitted, space: Space, split: Split) -> list[Scored]:
    pieces = []
    for part in fitted.parts:
        rows = split.val if part == "val" else split.test
        for (evaluator, draw), scores in fitted.score(space.image[rows]).items():
            columns = {f"score_{c}": scores[:, c] for c in range(scores.shape[1])}
            pieces.append(Scored(evaluator, space.name, part, rows, columns, draw))
    return pieces


def _ranked(space: Space, dataset: Dataset, split: Split) -> Scored:
    assert space.text is not None
    assert dataset.reports is not None
    has_report = _with_report(space, dataset, split.test)
    rows = split.test[has_report]
    codes = np.unique(np.array([dataset.reports[i] for i in rows], dtype=str), return_inverse=True)[1]
    image, text = space.image[rows], space.text[rows]
    found = {
        "rank_image_to_text": retrieval.first_hit_ranks(image, text, codes),
        "rank_text_to_image": retrieval.first_hit_ranks(text, image, codes),
        "identical_texts": np.bincount(codes)[codes],
    }
    columns = {name: np.full(len(split.test), np.nan) for name in found}
    for name, values in found.items():
        columns[name][has_report] = values
    return Scored("retrieval", space.name, "test", split.test, columns)


def _why_no_retrieval(space: Space, dataset: Dataset, split: Split) -> str:
    if not space.aligned:
        return "pictures and texts do not share a space"
    if space.text is None or dataset.reports is None:
        return "there are no encoded reports"
    if _with_report(space, dataset, split.test).sum() < 2:
        return "fewer than two test samples have a report"
    return ""


def _with_report(space: Space, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    assert space.text is not None
    assert dataset.reports is not None
    present = np.array([dataset.reports[i] is not None for i in rows])
    encoded = ~np.isnan(space.text[rows]).any(axis=1)
    if (present != encoded).any():
        raise ValueError("text vectors are NaN exactly where a sample has no report; here they are not")
    return present
