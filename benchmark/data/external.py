"""Training on one dataset and testing on another: both joined into one whose division is given.

Nothing behind it knows of two datasets: the joined one is split, audited, run and reported like any other. Training
and validation samples are the very ones that the first dataset has without the second; its test part is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset, DatasetCard, Exclusion, Sources
from benchmark.data.split import make_split
from benchmark.errors import BadInput


def join(train: Dataset, test: Dataset, *, seed: int = 0) -> Dataset:
    """Join the training and validation parts of one dataset with all of another, as its test part.

    Patients of the two are different ones, whatever their ids. What only one of them has is left out of both, but for
    reports: those of either are kept, as a test without reports is no reason not to train on some.

    Args:
        train: divided by its own split; its test part is left out.
        test: every sample is a test sample.
        seed: of the first dataset's split.

    Raises:
        BadInput: where tasks or classes differ, or both datasets have one name.
    """
    _check(train, test)
    split = make_split(train, seed=seed)
    kept = np.sort(np.concatenate([split.train, split.val]))
    parts = np.full(len(train), "train", dtype="<U5")
    parts[split.val] = "val"
    structured, columns_left = _shared_columns("structured", train, kept, test)
    subgroups, groups_left = _shared_columns("subgroups", train, kept, test)
    left = [
        f"{len(split.test)} test samples of {train.card.name!r} are left out",
        *([f"{len(split.val)} validation samples were taken out of its training part"] if split.val_from_train else []),
        *columns_left,
        *groups_left,
        *_one_sided("reports, which are kept", train.reports, test.reports),
        *_one_sided("masks, which are left out", train.masks, test.masks),
        *_one_sided("views, which are left out", train.views, test.views),
    ]
    by_patient = train.grouped_by == test.grouped_by == "patient"
    return Dataset(
        card=_card(train, test, structured, subgroups),
        classes=train.classes,
        sample_ids=_sample_ids(train, kept, test),
        rows=np.concatenate([train.rows[kept], _last_row(train) + test.rows]),
        labels=np.concatenate([train.labels[kept], _labels(train, test)]),
        groups=np.concatenate([train.groups[kept], test.groups + train.groups.max() + 1]),
        grouped_by="patient" if by_patient else "identical picture",
        pixels=[*(train.pixels[int(i)] for i in kept), *(test.pixels[i] for i in range(len(test)))],
        pixel_hashes=(*(train.pixel_hashes[i] for i in kept), *test.pixel_hashes),
        reports=_reports(train, kept, test),
        structured=structured,
        subgroups=subgroups,
        given_split=np.concatenate([parts[kept], np.full(len(test), "test")]),
        views=(*(train.views[i] for i in kept), *test.views) if train.views and test.views else None,
        masks=_masks(train, kept, test),
        exclusions=(
            *train.exclusions,
            *(Exclusion(_last_row(train) + e.row, e.reason) for e in test.exclusions),
        ),
        sources=Sources(train.card.name, test.card.name, tuple(left)),
    )


def _check(train: Dataset, test: Dataset) -> None:
    a, b = train.card, test.card
    if a.name == b.name:
        raise BadInput(f"both datasets are called {a.name!r}; change 'name' in one of the two cards")
    if a.task != b.task:
        raise BadInput(f"{a.name!r} is {a.task} and {b.name!r} is {b.task}; what is trained for cannot be tested there")
    if set(train.classes) != set(test.classes):
        only = {a.name: set(train.classes) - set(test.classes), b.name: set(test.classes) - set(train.classes)}
        differ = "; ".join(f"only {name!r} has {', '.join(map(repr, sorted(c)))}" for name, c in only.items() if c)
        raise BadInput(f"the classes of {a.name!r} and {b.name!r} differ: {differ}; name them alike under 'classes'")
    if a.task == "binary" and train.classes != test.classes:
        raise BadInput(
            f"the positive class is {train.classes[-1]!r} in {a.name!r} and {test.classes[-1]!r} in {b.name!r}; "
            "set 'positive_class' alike in both cards"
        )


def _card(
    train: Dataset, test: Dataset, structured: pd.DataFrame | None, subgroups: pd.DataFrame | None
) -> DatasetCard:
    """The first dataset's card, under both names, with what is to be said of both."""
    a, b = train.card, test.card

    def both(of_a: str, of_b: str) -> str:
        return of_a if of_a == of_b else "; ".join(f"{c.name}: {of}" for c, of in ((a, of_a), (b, of_b)) if of)

    return a.model_copy(
        update={
            "name": f"{a.name} tested on {b.name}",
            "structured": {} if structured is None else {str(name): a.structured[str(name)] for name in structured},
            "subgroups": {} if subgroups is None else {str(name): a.subgroups[str(name)] for name in subgroups},
            "prevalence": b.prevalence,
            "licence": both(a.licence, b.licence),
            "citation": both(a.citation, b.citation),
            # Figures, and the pictures that may be shown unasked, are of the test part alone.
            "synthetic": b.synthetic,
        }
    )


def _labels(train: Dataset, test: Dataset) -> NDArray[np.int64]:
    """Labels of the second dataset in the first one's order of classes."""
    if test.labels.ndim == 2:
        return test.labels[:, [test.classes.index(name) for name in train.classes]]
    return np.array([train.classes.index(name) for name in test.classes], dtype=np.int64)[test.labels]


def _sample_ids(train: Dataset, kept: NDArray[np.int64], test: Dataset) -> tuple[str, ...]:
    """Ids as they are; where the two datasets share one, all get the name of theirs before them."""
    ours = [train.sample_ids[i] for i in kept]
    if not set(ours) & set(test.sample_ids):
        return (*ours, *test.sample_ids)
    return (*(f"{train.card.name}/{s}" for s in ours), *(f"{test.card.name}/{s}" for s in test.sample_ids))


def _last_row(train: Dataset) -> int:
    """The number after which rows of the second manifest are counted on."""
    return int(max(chain(train.rows.tolist(), (e.row for e in train.exclusions))))


def _one_sided(what: str, train: Sequence[object] | None, test: Sequence[object] | None) -> list[str]:
    if (train is None) == (test is None):
        return []
    return [f"only the {'test' if train is None else 'training'} dataset has {what}"]


def _reports(train: Dataset, kept: NDArray[np.int64], test: Dataset) -> tuple[str | None, ...] | None:
    if train.reports is None and test.reports is None:
        return None
    ours = train.reports or (None,) * len(train)
    return (*(ours[i] for i in kept), *(test.reports or (None,) * len(test)))


class _Masks(Sequence[NDArray[np.uint8] | None]):
    """Masks of both datasets, each decoded when it is asked for."""

    def __init__(self, places: Sequence[tuple[Sequence[NDArray[np.uint8] | None], int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8] | None: ...
    @overload
    def __getitem__(self, index: slice) -> _Masks: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | _Masks | None:
        if isinstance(index, slice):
            return _Masks(self._places[index])
        masks, position = self._places[index]
        return masks[position]


def _masks(train: Dataset, kept: NDArray[np.int64], test: Dataset) -> _Masks | None:
    if train.masks is None or test.masks is None:
        return None
    return _Masks([*((train.masks, int(i)) for i in kept), *((test.masks, i) for i in range(len(test)))])


def _shared_columns(
    field: Literal["structured", "subgroups"], train: Dataset, kept: NDArray[np.int64], test: Dataset
) -> tuple[pd.DataFrame | None, list[str]]:
    """Columns that both datasets have, of one kind; and a clause about those that are left out."""
    frames = getattr(train, field), getattr(test, field)
    ours, theirs = ({} if frame is None else {str(name): frame[name] for name in frame} for frame in frames)
    kinds, other_kinds = getattr(train.card, field), getattr(test.card, field)
    shared = [n for n in ours if n in theirs and kinds[n] == other_kinds[n]]
    dropped = sorted({*ours, *theirs} - set(shared))
    clause = [f"{field} columns that only one has are left out: {', '.join(dropped)}"] if dropped else []
    if not shared:
        return None, clause
    columns = {}
    for name in shared:
        category = kinds[name] == "category"
        pieces = [ours[name].iloc[kept], theirs[name]]
        joined = pd.concat([piece.astype(object) if category else piece for piece in pieces], ignore_index=True)
        columns[name] = joined.astype("category" if category else "float64")
    return pd.DataFrame(columns), clause
