"""Classification metrics under sample weights, vectorised over many weightings at once.

One implementation serves the plug-in value (weights of one) and every bootstrap replicate (integer weights, the same
as repeating rows). Names say how classes are averaged, as in scikit-learn. A class is predicted where its score is
the largest, the first of equals (two classes: score_1 above score_0), and in multilabel tasks where its score is
above 0.5; metrics whose name ends in ``@val_threshold`` are those of the classes whose score is above a threshold
chosen on val. What is not defined is NaN: a precision without predictions, a recall or a curve without samples, and
every average that contains one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmark.evaluate.resample import AbsoluteSum, Statistic, mean_of
from benchmark.evaluate.threshold import Threshold
from benchmark.result import Task

Floats = NDArray[np.float64]

ECE_BINS = 10
"""Bins of equal mass of the expected calibration error."""

AT_VAL = "@val_threshold"
"""Ending of the metrics whose predicted classes follow from a threshold chosen on val."""

RANKED_BY = "probe_standard"
"""The evaluator whose primary metric ranks rows, and by whose figure on val variants of a model are chosen between."""

PRIMARY: dict[Task, str] = {
    "binary": "roc_auc",
    "multiclass": "roc_auc_ovr_macro",
    "multilabel": "roc_auc_macro",
}


def primary_metric(task: Task) -> str:
    """The metric that rows are ranked by: it depends on no threshold and on no class balance."""
    return PRIMARY[task]


class Classification(Statistic):
    """All metrics of one table of class scores."""

    def __init__(
        self,
        task: Task,
        labels: NDArray[np.int64],
        scores: Floats,
        *,
        classes: Sequence[str],
        probabilities: bool,
        thresholds: Sequence[Threshold] = (),
    ) -> None:
        """Sort and count what does not depend on the weights.

        Args:
            task: Decides which metrics there are.
            labels: (n,) class index, or (n, C) of 0/1 for multilabel.
            scores: (n, C) class scores.
            classes: C class names; for a binary task the positive class is the last.
            probabilities: Whether the scores are probabilities, so that Brier score, log-loss and calibration error
                mean something.
            thresholds: For the metrics ``@val_threshold``: one for score_1 of a binary task, one per label for
                multilabel; empty leaves them out.
        """
        self.used = np.ones(len(labels), dtype=np.bool_)
        self._task = task
        self._classes = tuple(classes)
        self._truth = _one_hot(task, labels, classes)
        guess = _decide(task, scores)
        self._decisions = {"": _Decisions(task, self._truth, guess)}
        if thresholds:
            self._decisions[AT_VAL] = _Decisions(task, self._truth, _decide_at(task, scores, thresholds))
        positive = classes[1:] if task == "binary" else classes
        self._no_threshold = [
            f"no threshold for {name!r}: {t.why_not}"
            for name, t in zip(positive, thresholds, strict=False)
            if t.why_not
        ]
        self._areas = Areas(task, labels, scores, classes=classes)
        self._calibrations = _calibrations(task, self._truth, guess, scores) if probabilities else []
        self._losses = _losses(task, self._truth, scores) if probabilities else {}

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) values under (n, b) weights."""
        total = weights.sum(axis=0)
        values = self._decisions[""](weights) | self._areas(weights)
        values |= {name: loss @ weights / total for name, loss in self._losses.items()}
        if self._calibrations:
            values["ece"] = np.mean([calibration(weights) for calibration in self._calibrations], axis=0)
        if AT_VAL in self._decisions:
            decided = self._decisions[AT_VAL](weights)
            values |= {
                name + AT_VAL: np.full_like(v, np.nan) if self._no_threshold else v for name, v in decided.items()
            }
        return values

    @property
    def smooth(self) -> Statistic:
        """All but the calibration error."""
        smooth = copy(self)
        smooth._calibrations = []
        return smooth

    @property
    def sums(self) -> Mapping[str, AbsoluteSum]:
        """The calibration error, over the bins that the confidences at hand make."""
        errors = [AbsoluteSum(calibration.gaps) for calibration in self._calibrations]
        return {"ece": mean_of(errors)} if errors else {}

    def why_undefined(self, metric: str) -> str:
        """Name the classes that the metric lacks, given that it is NaN at weights of one."""
        if metric in self._areas.names:
            return self._areas.why_undefined(metric)
        decisions = self._decisions[AT_VAL if metric.endswith(AT_VAL) else ""]
        if metric.endswith(AT_VAL) and self._no_threshold:
            return "; ".join(self._no_threshold)
        predictions = metric.startswith(("precision", "f1", "mcc"))
        samples = not metric.startswith("precision")
        reasons = []
        for c, name in enumerate(self._classes):
            if samples:
                reasons += _one_sided(self._task, self._truth[:, c], name)
            if predictions and not decisions.guess[:, c].any():
                reasons.append(f"{name!r} is never predicted")
        return "; ".join(reasons)

    def chance(self, metric: str) -> float:
        """What scores that know nothing of the labels reach on average; NaN where that depends on how they guess."""
        metric = metric.removesuffix(AT_VAL)
        if metric in self._areas.names:
            return self._areas.chance(metric)
        if metric == "balanced_accuracy_macro":
            return 0.5
        if metric == "balanced_accuracy":
            return 1 / len(self._classes)
        return 0.0 if metric == "mcc" else np.nan


class Areas(Statistic):
    """The metrics that depend on the order of the scores alone: areas under the ROC and precision-recall curves.

    The primary metric is among them, at a fraction of the cost of all metrics.
    """

    def __init__(self, task: Task, labels: NDArray[np.int64], scores: Floats, *, classes: Sequence[str]) -> None:
        """Take labels and scores as ``Classification`` does."""
        self.used = np.ones(len(labels), dtype=np.bool_)
        self.names = (PRIMARY[task], "average_precision" if task == "binary" else "average_precision_macro")
        self._task = task
        self._classes = tuple(classes)
        self._truth = _one_hot(task, labels, classes)
        ranked = [1] if task == "binary" else range(len(classes))
        self._rankings = [_Ranking(self._truth[:, c], scores[:, c]) for c in ranked]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) values under (n, b) weights."""
        areas = [ranking(weights) for ranking in self._rankings]
        means = (np.mean(values, axis=0) for values in zip(*areas, strict=True))
        return dict(zip(self.names, means, strict=True))

    def why_undefined(self, metric: str) -> str:  # noqa: ARG002 - both lack the same
        """The classes that all or none of the samples are of."""
        return "; ".join(
            why for c, name in enumerate(self._classes) for why in _one_sided(self._task, self._truth[:, c], name)
        )

    def chance(self, metric: str) -> float:
        """Half of the ROC square; of the precision-recall square, the share of positives."""
        if metric == PRIMARY[self._task]:
            return 0.5
        prevalence = self._truth.mean(axis=0)
        return float(prevalence[1] if self._task == "binary" else prevalence.mean())


class ByClass(Statistic):
    """Precision and recall of each class, named ``recall: CLASS``; of the positive side for multilabel."""

    def __init__(self, task: Task, labels: NDArray[np.int64], scores: Floats, *, classes: Sequence[str]) -> None:
        """Take labels and scores as ``Classification`` does."""
        self.used = np.ones(len(labels), dtype=np.bool_)
        self._classes = tuple(classes)
        self._truth = _one_hot(task, labels, classes)
        self._guess = _decide(task, scores)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) values under (n, b) weights."""
        right = (self._truth * self._guess).T @ weights
        found = {
            "recall": _ratio(right, self._truth.T @ weights),
            "precision": _ratio(right, self._guess.T @ weights),
        }
        return {f"{name}: {c}": rate[i] for name, rate in found.items() for i, c in enumerate(self._classes)}

    def why_undefined(self, metric: str) -> str:
        """Which of the two sides is empty."""
        rate, _, name = metric.partition(": ")
        return f"no test sample is {name!r}" if rate == "recall" else f"{name!r} is never predicted"

    def chance(self, metric: str) -> float:  # noqa: ARG002 - it depends on how often a class is guessed
        """Not known."""
        return np.nan


class MeanOver(Statistic):
    """The mean of the same metrics over several tables, such as the draws of a few-shot subset."""

    def __init__(self, tables: Sequence[Statistic]) -> None:
        """Average ``tables``, which hold the same samples."""
        self.used = tables[0].used
        self._tables = tables

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) means; NaN where one table has none."""
        values = [table(weights) for table in self._tables]
        return {name: np.mean([v[name] for v in values], axis=0) for name in values[0]}

    @property
    def smooth(self) -> Statistic:
        """The mean of the tables without theirs."""
        return MeanOver([table.smooth for table in self._tables])

    @property
    def sums(self) -> Mapping[str, AbsoluteSum]:
        """The means of those of the tables."""
        return {name: mean_of([table.sums[name] for table in self._tables]) for name in self._tables[0].sums}

    def why_undefined(self, metric: str) -> str:
        """The distinct reasons of the tables."""
        return "; ".join(dict.fromkeys(why for table in self._tables if (why := table.why_undefined(metric))))

    def chance(self, metric: str) -> float:
        """The chance level, which is the same in every table."""
        return self._tables[0].chance(metric)


def _one_hot(task: Task, labels: NDArray[np.int64], classes: Sequence[str]) -> Floats:
    """(n, C) of 0/1: the true class, or classes."""
    truth: Floats = labels.astype(np.float64) if task == "multilabel" else np.eye(len(classes))[labels]
    return truth


def _one_sided(task: Task, truth: Floats, name: str) -> list[str]:
    """Why a class has no recall or curve, given (n,) of 0/1. Where one class is all samples, the others say so."""
    if not truth.any():
        return [f"no test sample is {name!r}"]
    return [f"every test sample is {name!r}"] if task == "multilabel" and truth.all() else []


# --------------------------------------------------------------------------------------------- decisions


class _Decisions:
    """Metrics that need no score, only the predicted classes."""

    def __init__(self, task: Task, truth: Floats, guess: Floats) -> None:
        """Take the true and the predicted classes, (n, C) of 0/1 each."""
        self.guess = guess
        self._task = task
        if task == "multilabel":
            self._cells = np.stack([_pairs(t, g) for t, g in zip(truth.T, guess.T, strict=True)], axis=1)
            self._exact = (truth == guess).all(axis=1).astype(np.float64)
        else:
            self._cells = (truth[:, :, None] * guess[:, None, :])[:, None]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Metric name -> (b,) values under (n, b) weights."""
        _, problems, size, _ = self._cells.shape
        counts = (weights.T @ self._cells.reshape(len(weights), -1)).reshape(-1, problems, size, size)
        if self._task == "multilabel":
            return {"subset_accuracy": self._exact @ weights / weights.sum(axis=0)} | _multilabel(counts)
        return _single_label(counts[:, 0], binary=self._task == "binary")


def _decide(task: Task, scores: Floats) -> Floats:
    """(n, C) 0/1: the predicted class, or classes."""
    if task == "multilabel":
        return (scores > 0.5).astype(np.float64)
    guess: Floats = np.eye(scores.shape[1])[scores.argmax(axis=1)]
    return guess


def _decide_at(task: Task, scores: Floats, thresholds: Sequence[Threshold]) -> Floats:
    """(n, C) 0/1: the classes whose score is above their threshold; binary: the second where score_1 is."""
    limits = np.array([t.value for t in thresholds])
    if task == "multilabel":
        return (scores > limits).astype(np.float64)
    positive = scores[:, 1] > limits[0]
    return np.stack([~positive, positive], axis=1).astype(np.float64)


def _pairs(truth: Floats, guess: Floats) -> Floats:
    """(n, 2, 2) one-hot cell of the confusion matrix that each sample falls in, for one label."""
    sides = np.stack([1 - truth, truth], axis=1)[:, :, None] * np.stack([1 - guess, guess], axis=1)[:, None, :]
    return np.asarray(sides, dtype=np.float64)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Divide; NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _rates(counts: Floats) -> dict[str, Floats]:
    """Precision, recall and F1 of each class, (b, C), from (b, C, C) counts with truth in the rows."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    return {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, true),
        "f1": _ratio(2 * right, true + predicted),
    }


def _weighted(values: Floats, support: Floats) -> Floats:
    """Mean over classes weighted by their samples; a class without samples has no say, defined or not."""
    return _ratio(np.where(support > 0, values * support, 0.0).sum(axis=-1), support.sum(axis=-1))


def _single_label(counts: Floats, *, binary: bool) -> dict[str, Floats]:
    true, predicted, total = counts.sum(axis=2), counts.sum(axis=1), counts.sum(axis=(1, 2))
    right = np.trace(counts, axis1=1, axis2=2)
    rates = _rates(counts)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    values = {
        "accuracy": right / total,
        "balanced_accuracy": rates["recall"].mean(axis=1),
        "mcc": _ratio(right * total - (true * predicted).sum(axis=1), np.sqrt(spread)),
    }
    for name, rate in rates.items():
        if binary:
            values[f"{name}_binary"] = rate[:, 1]
        values[f"{name}_macro"] = rate.mean(axis=1)
        values[f"{name}_weighted"] = _weighted(rate, true)
    if binary:
        values["specificity"] = rates["recall"][:, 0]
    return values


def _multilabel(counts: Floats) -> dict[str, Floats]:
    """Metrics over (b, C, 2, 2) counts, one table per label; the positive side of each label counts."""
    rates, support = _rates(counts), counts[..., 1, :].sum(axis=-1)
    values = {
        "balanced_accuracy_macro": rates["recall"].mean(axis=(1, 2)),
        "specificity_macro": rates["recall"][..., 0].mean(axis=1),
    }
    for name, rate in rates.items():
        values[f"{name}_macro"] = rate[..., 1].mean(axis=1)
        values[f"{name}_weighted"] = _weighted(rate[..., 1], support)
    return values


# --------------------------------------------------------------------------------------------- curves


class _Ranking:
    """Areas under the ROC and precision-recall curves of one score, sorted once."""

    def __init__(self, truth: Floats, score: Floats) -> None:
        order = np.argsort(-score, kind="stable")
        self._hits, self._misses = order[truth[order] > 0], order[truth[order] == 0]
        ascending = -score[self._hits]
        # For each positive: how many positives and negatives score at least as high, and how many negatives higher.
        self._hits_reached = np.searchsorted(ascending, ascending, side="right")
        self._misses_reached = np.searchsorted(-score[self._misses], ascending, side="right")
        self._misses_above = np.searchsorted(-score[self._misses], ascending, side="left")

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """AUROC, equal scores counting half, and average precision (b,), a threshold per distinct score."""
        hit = weights[self._hits]
        hits, misses = _running_sum(hit), _running_sum(weights[self._misses])
        positives, negatives = hits[-1], misses[-1]
        reached, passed = hits[self._hits_reached], misses[self._misses_reached]
        lost = (_dot(hit, passed) + _dot(hit, misses[self._misses_above])) / 2
        passed += reached
        precision = _ratio(_dot(hit, np.divide(reached, passed, out=reached, where=passed > 0)), positives)
        return 1 - _ratio(lost, positives * negatives), np.where(negatives > 0, precision, np.nan)


def _dot(a: Floats, b: Floats) -> Floats:
    """Sum of products down the columns."""
    return np.asarray(np.einsum("ij,ij->j", a, b), dtype=np.float64)


def _running_sum(values: Floats) -> Floats:
    """(n + 1, b) sums of the first 0, 1, ... n rows; row by row, as ``cumsum`` is slow along this axis."""
    sums = np.empty((len(values) + 1, values.shape[1]))
    sums[0] = 0
    for before, value, after in zip(sums, values, sums[1:], strict=False):
        np.add(before, value, out=after)
    return sums


# --------------------------------------------------------------------------------------------- probabilities


def _losses(task: Task, truth: Floats, scores: Floats) -> dict[str, Floats]:
    """Per-sample Brier score and log-loss in nats, (n,), as scikit-learn has them.

    Two classes: the squared error of the positive class; more: the sum over classes; multilabel: the mean over labels.
    """
    floor = np.finfo(np.float64).eps
    squares = (scores - truth) ** 2
    sure = np.clip(np.where(truth > 0, scores, 1 - scores), floor, 1 - floor)
    if task == "multilabel":
        return {"brier": squares.mean(axis=1), "log_loss": -np.log(sure).mean(axis=1)}
    brier = squares[:, 1] if task == "binary" else squares.sum(axis=1)
    return {"brier": brier, "log_loss": -np.log(sure[truth > 0])}


def _calibrations(task: Task, truth: Floats, guess: Floats, scores: Floats) -> list[_Calibration]:
    """Binary: of the positive class. Multiclass: of the predicted class. Multilabel: of each label."""
    if task == "binary":
        return [_Calibration(scores[:, 1], truth[:, 1])]
    if task == "multiclass":
        return [_Calibration(scores.max(axis=1), (truth * guess).sum(axis=1))]
    return [_Calibration(p, y) for p, y in zip(scores.T, truth.T, strict=True)]


class _Calibration:
    """Expected calibration error over bins of equal mass (Nixon et al. 2019).

    A sample belongs to the bin of its mid-rank, so that equal confidences share a bin and integer weights are the
    same as repeated rows.
    """

    def __init__(self, confidence: Floats, happened: Floats) -> None:
        self._order = np.argsort(confidence, kind="stable")
        ordered = confidence[self._order]
        self._gap = (ordered - happened[self._order])[:, None]
        new = np.diff(ordered, prepend=np.nan) != 0
        self._group = new.cumsum() - 1
        self._ends = np.append(np.flatnonzero(new)[1:] - 1, len(ordered) - 1)

    def __call__(self, weights: Floats) -> Floats:
        """(b,) values in [0, 1] under (n, b) weights, which decide the bins too."""
        ordered = weights[self._order]
        columns = weights.shape[1]
        place = self._places(ordered) + np.arange(columns) * ECE_BINS
        gaps = np.bincount(place.ravel(), (ordered * self._gap).ravel(), minlength=columns * ECE_BINS)
        return np.asarray(np.abs(gaps.reshape(columns, ECE_BINS)).sum(axis=1) / ordered.sum(axis=0), dtype=np.float64)

    def gaps(self, weights: Floats) -> Floats:
        """(bins, b) mean confidence less frequency, times the bin's share, in the bins that weights of one make."""
        found: Floats = self._gap_in_bin @ weights[self._order] / weights.sum(axis=0)
        return found

    @cached_property
    def _gap_in_bin(self) -> Floats:
        """(bins, n) gap of each sample in its bin, 0 in the others."""
        places = self._places(np.ones((len(self._order), 1)))[:, 0]
        return np.where(places == np.arange(ECE_BINS)[:, None], self._gap[:, 0], 0.0)

    def _places(self, ordered: Floats) -> NDArray[np.int64]:
        """(n, b) bin of each sample in order of confidence."""
        ends = _running_sum(ordered)[self._ends + 1]
        middle = (ends - np.diff(ends, axis=0, prepend=0) / 2) / ends[-1]
        places: NDArray[np.int64] = np.minimum((middle * ECE_BINS).astype(np.int64), ECE_BINS - 1)[self._group]
        return places
