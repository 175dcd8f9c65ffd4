"""Patient-grouped, label-stratified, seeded train/val/test splits with a fingerprint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset
from benchmark.errors import BadInput
from benchmark.result import digest

_ATTEMPTS = 50
"""Orders of the patients tried until every class is in every part; only patients of several classes need a second."""

_TRAIN, _TEST, _VAL = 0, 1, 2
# in this order, so that a patient left over goes to the test part rather than to the validation part


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint, ascending index arrays over a dataset's samples; no patient is in two of them.

    But for a given split whose card says ``allow_patient_overlap``, which the audit reports as an error (LB001).
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    seed: int
    origin: Literal["seeded", "given", "external"]
    """``external``: the test part is another dataset."""
    fingerprint: str
    """Digest over (sample, patient, part, label, pixel hash) of all samples, whatever their order."""
    val_from_train: bool = False
    """Whether a given split had no validation part, so that one was taken out of its training part."""


def make_split(dataset: Dataset, *, seed: int = 0, fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)) -> Split:
    """Divide a dataset by patient, or take the division that its manifest gives.

    A class with at least three patients is in all three parts (patients who hold several rare classes may make that
    impossible; the audit says so), one with two is in training and test, one with a single patient in training alone.
    Who goes where depends on the samples and the seed, not on the order of rows.

    Args:
        dataset: validated samples.
        seed: chooses among the possible divisions; a given split needs it only for a missing validation part.
        fractions: shares of the patients in train, val and test; they sum to 1.

    Raises:
        BadInput: no class with three patients, a given split without a training or test part, or a training part in
            which all labels are the same.
    """
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1):
        raise BadInput(f"split fractions must be three positive numbers that sum to 1, not {fractions}")
    samples = _samples(dataset)
    rng = np.random.default_rng([seed, int(digest({"classes": dataset.classes, "samples": sorted(samples)}), 16)])
    train, val, test = fractions
    val_from_train = False
    if dataset.given_split is None:
        parts = _allocate(dataset, np.arange(len(dataset)), (train, test, val), samples, rng)
    else:
        parts = _given(dataset.given_split)
        val_from_train = not (parts == _VAL).any()
        if val_from_train:
            rest = np.flatnonzero(parts == _TRAIN)
            shares = (train / (train + val), val / (train + val))
            parts[rest] = np.where(_allocate(dataset, rest, shares, samples, rng) == 0, _TRAIN, _VAL)
    _check_training_labels(dataset, parts)
    return Split(
        train=np.flatnonzero(parts == _TRAIN),
        val=np.flatnonzero(parts == _VAL),
        test=np.flatnonzero(parts == _TEST),
        seed=seed,
        origin="external" if dataset.sources else "seeded" if dataset.given_split is None else "given",
        fingerprint=digest(
            {
                "classes": dataset.classes,
                "samples": sorted([*sample, int(part)] for sample, part in zip(samples, parts, strict=True)),
            }
        ),
        val_from_train=val_from_train,
    )


def _samples(dataset: Dataset) -> list[list[Any]]:
    # a patient is named by the first of its samples: the codes of groups carry no meaning
    first: dict[int, str] = {}
    groups = dataset.groups.tolist()
    for group, name in zip(groups, dataset.sample_ids, strict=True):
        first[group] = min(first.get(group, name), name)
    return [
        [name, first[group], label, pixels]
        for name, group, label, pixels in zip(
            dataset.sample_ids, groups, dataset.labels.tolist(), dataset.pixel_hashes, strict=True
        )
    ]


def _given(words: NDArray[np.str_]) -> NDArray[np.int64]:
    for wanted in ("train", "test"):
        if not (words == wanted).any():
            raise BadInput(f"the given split has no {wanted!r} rows; add some, or take 'columns.split' out of the card")
    return np.select([words == "train", words == "test"], [_TRAIN, _TEST], _VAL)


def _allocate(
    dataset: Dataset,
    rows: NDArray[np.int64],
    fractions: Sequence[float],
    samples: Sequence[Sequence[Any]],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Divide some rows by patient into ``len(fractions)`` parts; (len(rows),) part of each row."""
    names = [samples[row][1] for row in rows]
    patients, member = np.unique(names, return_inverse=True)
    holds = _strata(dataset, rows, member, len(patients))
    wanted = np.minimum(holds.sum(axis=0), len(fractions))
    best, best_missing = np.zeros(0, dtype=np.int64), math.inf
    for _ in range(_ATTEMPTS):
        parts = _fill(holds, np.asarray(fractions), rng.permutation(len(patients)))
        covered = sum(holds[parts == part].any(axis=0).astype(int) for part in range(len(fractions)))
        missing = int((wanted - covered).sum())
        if missing < best_missing:
            best, best_missing = parts, missing
        if not missing:
            break
    if len(set(best.tolist())) < len(fractions):
        what = "patients" if dataset.grouped_by == "patient" else "different pictures"
        raise BadInput(
            f"{len(patients)} {what} are too few to divide into {len(fractions)} parts; at least one class needs "
            f"{len(fractions)}"
        )
    return best[member]


def _strata(dataset: Dataset, rows: NDArray[np.int64], member: NDArray[np.int64], n_patients: int) -> NDArray[np.bool_]:
    # (patients, strata): who has a sample of each class, and, for multilabel, who has one without it; the last is all
    labels = dataset.labels[rows]
    if labels.ndim == 1:
        of_samples = labels[:, None] == np.arange(len(dataset.classes))
    else:
        of_samples = np.hstack([labels == 1, labels == 0])
    holds = np.zeros((n_patients, of_samples.shape[1] + 1), dtype=bool)
    sample, stratum = np.nonzero(of_samples)
    holds[member[sample], stratum] = True
    holds[:, -1] = True
    return holds


def _fill(holds: NDArray[np.bool_], fractions: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give every patient a part: first one of each stratum to each part, then everybody to where most is wanting.

    Rare strata go first, as in iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011).
    """
    totals = holds.sum(axis=0)
    parts = np.full(len(holds), -1)
    counts = np.zeros((len(fractions), holds.shape[1]))
    rarity = np.argsort(totals, kind="stable")
    for stratum in rarity:
        for part in range(len(fractions)):
            free = order[holds[order, stratum] & (parts[order] < 0)]
            if len(free) and not counts[part, stratum]:
                parts[free[0]] = part
                counts[part] += holds[free[0]]
    rarest = rarity[np.argmax(holds[:, rarity], axis=1)]
    for patient in order[np.argsort(totals[rarest[order]], kind="stable")]:
        if parts[patient] < 0:
            # wanting: the share of a stratum that a part should have, less the share it has
            wanting = (fractions[:, None] - counts / np.maximum(totals, 1)).round(9)
            keys = [(wanting[part, rarest[patient]], wanting[part].sum()) for part in range(len(fractions))]
            parts[patient] = keys.index(max(keys))
            counts[parts[patient]] += holds[patient]
    return parts


def _check_training_labels(dataset: Dataset, parts: NDArray[np.int64]) -> None:
    labels = dataset.labels[parts == _TRAIN]
    columns = labels.reshape(len(labels), -1)
    names = ["the class"] if labels.ndim == 1 else [f"label {name!r}" for name in dataset.classes]
    for name, column in zip(names, columns.T, strict=True):
        if len(np.unique(column)) < 2:
            raise BadInput(
                f"{name} is the same in all {len(column)} training rows, so nothing can be learned; "
                "give a split with both in training, or more patients"
            )


def training_pairs(dataset: Dataset, split: Split) -> NDArray[np.int64]:
    """Training samples that have a report: all that pairs can be made of."""
    return with_report(dataset, split.train)


def with_report(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the samples that have a report."""
    reports = dataset.reports or ()
    return np.array([i for i in rows if reports and reports[i] is not None], dtype=np.int64)


def train_reports(dataset: Dataset, split: Split) -> tuple[str, ...]:
    """Reports of the train split, sorted, each once: all that a tokenizer may learn from."""
    reports = dataset.reports or ()
    return tuple(sorted({r for i in training_pairs(dataset, split) if (r := reports[i]) is not None}))
