"""The columns of figures: where each is read in a result, how it is printed, and what it means to a reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.evaluate.metrics import AT_VAL, RANKED_BY, primary_metric
from benchmark.result import CellResult, Estimate, Measurement, Profile, Task

Group = Literal["quality", "threshold", "calibration", "pairs", "few", "cost"]

GROUPS: dict[Group, str] = {
    "quality": "Quality",
    "threshold": "Threshold from validation",
    "calibration": "Calibration",
    "pairs": "Zero-shot & retrieval",
    "few": "Few labels",
    "cost": "Cost",
}
"""Columns are shown and hidden by group, under these words; at first all are hidden, for a laptop's width."""

METRIC_LABELS = {
    "roc_auc": "ROC AUC",
    "roc_auc_ovr_macro": "ROC AUC (one-vs-rest, macro)",
    "roc_auc_macro": "ROC AUC (macro)",
}
"""Primary metrics in words for readers; the averaging stays in the name."""

DASH, MINUS = "—", "−"


@dataclass(frozen=True)
class Shown:
    """One figure in the table."""

    text: str
    sort: float | None = None
    """The number to sort by; None sorts last, whichever way."""
    title: str = ""
    """Interval and counts, or why there is no figure."""
    note: str = ""
    """Small print beneath, such as the chance level."""
    interval: str = ""
    """The interval's ends, where there are any."""


@dataclass(frozen=True)
class Column:
    """A column of figures."""

    key: str
    group: Group
    label: str
    explanation: str
    read: Callable[[CellResult], Shown | None]
    """None where the result has nothing of this kind at all: such a column is dropped if no row has it."""
    lower_is_better: bool = False


def all_columns(task: Task) -> tuple[Column, ...]:
    """Every column the page knows, in the order they are shown."""
    primary = primary_metric(task)
    return (
        _probe("balanced_accuracy", "Balanced accuracy", "Recall of each class, averaged with equal weight."),
        _probe("balanced_accuracy_macro", "Balanced accuracy (macro)", "Balanced accuracy, averaged over the labels."),
        _probe("average_precision", "Average precision", "Area under the precision-recall curve."),
        _probe("average_precision_macro", "Average precision (macro)", "Average precision, averaged over the classes."),
        _probe("f1_macro", "F1 (macro)", "F1 of each class, averaged with equal weight."),
        _probe("mcc", "MCC", "Matthews correlation coefficient: 0 is guessing, 1 is perfect."),
        _at_val("balanced_accuracy", "Balanced accuracy", "Recall of each class, averaged with equal weight"),
        _at_val("balanced_accuracy_macro", "Balanced accuracy (macro)", "Balanced accuracy, averaged over the labels"),
        _at_val("f1_macro", "F1 (macro)", "F1 of each class, averaged with equal weight"),
        _at_val("recall_binary", "Sensitivity", "Recall of the positive class"),
        _at_val("specificity", "Specificity", "Recall of the negative class"),
        _at_val("specificity_macro", "Specificity (macro)", "Recall of the samples without a label, over the labels"),
        _probe("brier", "Brier", "Squared error of the probabilities; lower is better.", calibration=True),
        _probe("ece", "ECE", "Expected calibration error; lower is better.", calibration=True),
        _measured(
            "zero_shot",
            primary,
            "pairs",
            "Zero-shot",
            "The primary metric from class prompts, without a probe; trained rows may have seen the labels before.",
        ),
        _measured(
            *("retrieval", "recall@5_image_to_text", "pairs", "Recall@5 image to text"),
            "How often a picture's report, or one with the same words, is among the five nearest; chance beneath.",
        ),
        _measured(
            *("retrieval", "recall@5_text_to_image", "pairs", "Recall@5 text to image"),
            "How often a picture that belongs to a report's words is among the five nearest; chance beneath.",
        ),
        _measured(
            "few_shot_k1", primary, "few", "1 per class", "The primary metric from one labelled sample per class."
        ),
        _measured("few_shot_k16", primary, "few", "16 per class", "The primary metric from sixteen per class."),
        _cost("images_per_s", "Images/s", "Pictures encoded per second.", lambda p: p.images_per_s),
        _cost("texts_per_s", "Texts/s", "Texts encoded per second.", lambda p: p.texts_per_s),
        Column(
            *("latency", "cost", "Latency ms", "Milliseconds for one picture at a time, in the median.", _latency, True)
        ),
        _cost(
            "gflops_per_image",
            "GFLOPs/image",
            "10^9 operations for one picture, a multiplication and an addition counted as two.",
            lambda p: p.gflops_per_image,
            low=True,
        ),
        _cost(
            "utilisation",
            "FLOPs utilisation",
            "Operations per second of the image encoder over those of a matrix product in the same run.",
            lambda p: p.flops_utilisation,
        ),
        _cost(
            "parameters", "Parameters", "Of both towers, heads left out.", lambda p: p.parameters or math.nan, low=True
        ),
        _cost("peak_memory", "Peak MiB", "Highest memory use, in MiB.", lambda p: p.peak_memory_mb, low=True),
        _cost(
            "bytes_per_study",
            "Bytes/study",
            "Of the stored vectors of a picture and its report.",
            lambda p: p.bytes_per_study or math.nan,
            low=True,
        ),
        _cost("adapt_s", "Training s", "Seconds spent training this row.", lambda p: p.adapt_s, low=True),
        _cost(
            "evaluate_s",
            "Probing s",
            "Seconds spent on this row's probes, other evaluators and intervals.",
            lambda p: p.evaluate_s,
            low=True,
        ),
    )


def present(columns: Sequence[Column], results: Sequence[CellResult]) -> tuple[Column, ...]:
    """The columns that at least one result has something to say about."""
    return tuple(column for column in columns if any(column.read(result) is not None for result in results))


def find(result: CellResult, evaluator: str, metric: str) -> Measurement | None:
    """The measurement a row shows: in its primary space, or in the only space where there is just one."""
    found = [m for m in result.measurements if m.evaluator == evaluator and m.metric == metric]
    if len(found) == 1:
        return found[0]
    return next((m for m in found if m.space == result.primary_space), None)


def why_absent(result: CellResult, evaluator: str) -> str:
    """The recorded reason why an evaluator was not run for a row."""
    reasons = [why for name, why in result.left_out.items() if evaluator.startswith(name)]
    return reasons[0] if reasons else "not measured for this row"


def describe(measurement: Measurement) -> str:
    """A measurement in words: value, interval, counts and chance, or why it is undefined."""
    estimate = measurement.estimate
    if math.isnan(estimate.value):
        return f"undefined: {estimate.why_undefined or 'no reason recorded'}"
    words = f"{estimate.value:.3f}"
    if not math.isnan(estimate.low):
        words += f", 95% interval {estimate.low:.3f} to {estimate.high:.3f}"
    words += f"; {counts(estimate)}"
    return words if math.isnan(measurement.chance) else f"{words}; chance {measurement.chance:.3f}"


def counts(estimate: Estimate) -> str:
    """On how much a figure rests."""
    return f"{estimate.n} samples of {estimate.n_patients} patients"


def signed(value: float) -> str:
    """A figure to three places, a negative one with a minus sign and not a hyphen."""
    return f"{value:.3f}".replace("-", MINUS)


def plus(value: float) -> str:
    """A difference to three places with its sign, a minus and not a hyphen; what rounds to 0 has none."""
    return f"{value:+.3f}".replace("-", MINUS) if abs(value) >= 0.0005 else "0.000"


def interval(measurement: Measurement | None) -> str:
    """The ends of a measurement's interval; empty where there is none."""
    if measurement is None or math.isnan(measurement.estimate.low):
        return ""
    return f"{signed(measurement.estimate.low)}–{signed(measurement.estimate.high)}"


def compact(value: float) -> str:
    """A number of any size in at most three leading digits: 0.42, 7.1, 812, 1,240, 25.6 M."""
    for size, suffix in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def _measured(evaluator: str, metric: str, group: Group, label: str, explanation: str, *, low: bool = False) -> Column:
    def read(result: CellResult) -> Shown | None:
        measurement = find(result, evaluator, metric)
        if measurement is None:
            return None
        value, chance = measurement.estimate.value, measurement.chance
        if math.isnan(value):
            return Shown(DASH, None, describe(measurement))
        note = f"chance {chance:.3f}" if evaluator == "retrieval" and not math.isnan(chance) else ""
        return Shown(signed(value), value, describe(measurement), note, interval(measurement))

    return Column(f"{evaluator}-{metric}", group, label, explanation, read, low)


def _probe(metric: str, label: str, explanation: str, *, calibration: bool = False) -> Column:
    group: Group = "calibration" if calibration else "quality"
    return _measured(RANKED_BY, metric, group, label, explanation, low=calibration)


def _at_val(metric: str, label: str, meaning: str) -> Column:
    explanation = f"{meaning}; positive is what scores above a threshold chosen on validation samples, not above 0.5."
    return _measured(RANKED_BY, metric + AT_VAL, "threshold", f"{label}, val. threshold", explanation)


def _cost(key: str, label: str, explanation: str, value_of: Callable[[Profile], float], *, low: bool = False) -> Column:
    def read(result: CellResult) -> Shown | None:
        value = value_of(result.profile)
        return None if math.isnan(value) else Shown(compact(value), value, explanation)

    return Column(key, "cost", label, explanation, read, low)


def _latency(result: CellResult) -> Shown | None:
    """The median, with the slower calls in its title."""
    costs = result.profile
    if math.isnan(costs.latency_p50_ms):
        return None
    title = (
        f"median of {costs.latency_calls} calls with one picture; "
        f"95% took at most {costs.latency_p95_ms:.3g} ms, 99% at most {costs.latency_p99_ms:.3g} ms"
    )
    return Shown(compact(costs.latency_p50_ms), costs.latency_p50_ms, title)
