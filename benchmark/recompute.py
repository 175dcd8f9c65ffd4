"""All figures of a run, measured again from its predictions: what the cells say they are is not believed.

Metrics, intervals, chance levels, thresholds, and the figure on val by which variants are chosen follow from the
predictions alone. What was measured while the models were at hand does not, and stays as recorded: speed, memory, time,
the course of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from benchmark.comparison import Place
from benchmark.errors import BadInput
from benchmark.evaluate.predictions import choices, recompute
from benchmark.evaluate.protocol import EvaluationConfig
from benchmark.evaluate.resample import Method
from benchmark.join import Recorded
from benchmark.result import CellResult, DatasetRecord, Measurement
from benchmark.run_folder import Damaged


@dataclass(frozen=True, eq=False)
class Recomputed:
    """A run with its figures measured anew."""

    run: Recorded
    missing: tuple[str, ...]
    """What is recorded but does not follow from the predictions, a line for each evaluator of a cell, with the reason.
    It is no part of ``run``."""


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]  # has no annotations
def recomputed(
    run: Recorded,
    *,
    replicates: int | None = None,
    intervals: Method = "percentile",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Recomputed:
    """Measure every finished cell from its predictions. Nothing on disk is changed.

    Args:
        run: one run, or several joined.
        replicates: patient-level resamples; as many as the run drew where None.
        intervals: how they are read from the resamples.
        progress: called with (cells done, cells).

    Raises:
        BadInput: where the settings that a cell was evaluated with can't be read.
    """
    results: list[CellResult] = []
    missing: list[str] = []
    for result in run.results:
        if result.status == "done":
            result, lost = _measured(result, run, replicates, intervals)
            missing += lost
        results.append(result)
        progress(len(results), len(run.results))
    config = run.record.config | {"intervals": intervals}
    if replicates is not None:
        config["evaluation"] = {**config.get("evaluation", {}), "replicates": replicates}
    record = run.record.model_copy(update={"config": config})
    return Recomputed(replace(run, record=record, results=tuple(results)), tuple(missing))


def _measured(
    result: CellResult, run: Recorded, replicates: int | None, intervals: Method
) -> tuple[CellResult, list[str]]:
    """A cell measured anew, and what of it could not be."""
    settings = _settings(result)
    if replicates is not None:
        settings = settings.model_copy(update={"replicates": replicates})
    why = "the predictions hold no rows of it"
    try:
        again = _from_predictions(result, run, run.record.dataset, settings, intervals)
    except Damaged as error:
        again, why = result.model_copy(update={"measurements": ()}), str(error)
    except KeyError as error:
        again, why = result.model_copy(update={"measurements": ()}), f"the predictions lack the column {error}"
    lost = _lost(result.measurements, again.measurements)
    gone = {evaluator for evaluator, _ in lost} - {m.evaluator for m in again.measurements}
    left_out = dict.fromkeys(sorted(gone), f"not computed again: {why}")
    place = Place.of(result.spec)
    return again.model_copy(update={"left_out": again.left_out | left_out}), [
        f"{place}: {evaluator}, {space}: {', '.join(metrics)}: {why}" for (evaluator, space), metrics in lost.items()
    ]


def _from_predictions(
    result: CellResult, run: Recorded, dataset: DatasetRecord, settings: EvaluationConfig, intervals: Method
) -> CellResult:
    predictions = run.predictions(result.id)
    measurements = recompute(
        predictions,
        task=dataset.task,
        classes=dataset.classes,
        fingerprint=run.record.split.fingerprint,
        replicates=settings.replicates,
        recall_at=settings.recall_at,
        threshold=settings.threshold,
        intervals=intervals,
    )
    fits = dict(result.fits)
    chosen = choices(predictions, task=dataset.task, classes=dataset.classes, criterion=settings.threshold)
    for space, decided in chosen.items():
        fits[space] = {**fits.get(space, {}), **decided}
        if space == result.primary_space and "selection" in decided:
            fits["selection"] = decided["selection"]
    return result.model_copy(update={"measurements": measurements, "fits": fits})


def _lost(before: Sequence[Measurement], after: Sequence[Measurement]) -> dict[tuple[str, str], list[str]]:
    """(Evaluator, space) -> metrics that are measured before and not after."""
    there = {(m.evaluator, m.space, m.metric) for m in after}
    lost: dict[tuple[str, str], list[str]] = {}
    for m in before:
        if (m.evaluator, m.space, m.metric) not in there:
            lost.setdefault((m.evaluator, m.space), []).append(m.metric)
    return lost


def _settings(result: CellResult) -> EvaluationConfig:
    try:
        return EvaluationConfig.model_validate(result.spec.protocol.get("evaluation"))
    except ValidationError as error:
        raise BadInput(
            f"cell {result.id} of {result.spec.model}: the settings of its evaluation can't be read "
            f"({error.errors()[0]['msg']}); report it without --recompute, or with the version that ran it"
        ) from error
