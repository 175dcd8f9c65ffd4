"""Which group every sample belongs to: view, structured columns and those declared for nothing else, numbers in bands.

Bands and the choice of what is named are made once, here, so that every row of a run is looked at in the same groups.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset
from benchmark.data.split import Split

GROUPED_BY = "by: "
"""What the table's columns of groups begin with; a manifest may well call a column ``sample``."""

NOT_RECORDED = "not recorded"
"""Group of the samples for which a column says nothing."""

OTHER = "other"
"""Group of the values that are too rare to be named."""

MOST_VALUES = 12
"""Values of a category that are named, the most frequent ones."""

RARE = 10
"""Samples below which a value is not named: a column of names or of numbers of examinations names nobody."""

AGES = (40, 60, 75)
"""Where the bands of age in years begin."""

IS_AGE = re.compile(r"(^|[^a-z])age([^a-z]|$)", re.IGNORECASE)
"""Names of columns that hold an age in years."""


def subgroup_table(dataset: Dataset, split: Split) -> pd.DataFrame:
    """Lay out the groups of every sample that the split uses.

    Returns:
        Columns ``sample``, ``split``, and ``by: COLUMN`` as ordered categories, without missing values. Terciles of
        numbers are those of the train split; ages have bands of their own.
    """
    parts = np.full(len(dataset), "", dtype="<U5")
    for part in ("train", "val", "test"):
        parts[getattr(split, part)] = part
    in_train = parts == "train"
    columns = {name: _grouped(values, name, in_train) for name, values in _columns(dataset).items()}
    table = pd.DataFrame({"sample": np.array(dataset.sample_ids, dtype=object), "split": parts})
    for name, groups in columns.items():
        table[GROUPED_BY + name] = groups
    used: pd.DataFrame = table[parts != ""]
    return used.reset_index(drop=True)


def _columns(dataset: Dataset) -> dict[str, pd.Series]:
    """View, structured and declared columns; a name that comes again is the same column."""
    found: dict[str, pd.Series] = {}
    if dataset.views is not None:
        views = pd.Series(pd.Categorical([view or None for view in dataset.views]))
        found[dataset.card.columns.view or "view"] = views
    for frame in (dataset.structured, dataset.subgroups):
        if frame is not None:
            found |= {str(name): frame[name] for name in frame if str(name) not in found}
    return found


def _grouped(values: pd.Series, name: str, in_train: NDArray[np.bool_]) -> pd.Categorical:
    if values.dtype != np.float64 or values.nunique() <= len(AGES):
        return _named(values)
    numbers = values.to_numpy(np.float64)
    if IS_AGE.search(name):
        edges = np.array(AGES, dtype=np.float64)
        names = [f"under {AGES[0]}", *(f"{a} to {b - 1}" for a, b in pairwise(AGES))]
        return _banded(numbers, edges, [*names, f"{AGES[-1]} and over"])
    known = numbers[in_train & ~np.isnan(numbers)]
    known = known if len(known) else numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(known, [1 / 3, 2 / 3], method="higher"))  # values that occur, and can be written
    shown = [f"{edge:.6g}" for edge in edges]
    between = [f"{a} to below {b}" for a, b in pairwise(shown)]
    return _banded(numbers, edges, [f"below {shown[0]}", *between, f"{shown[-1]} and over"])


def _named(values: pd.Series) -> pd.Categorical:
    """Values as they are, the rare ones together."""
    words = [None if pd.isna(value) else _word(value) for value in values]
    counts = pd.Series(words, dtype=object).value_counts()
    kept = set(counts[counts >= RARE].index[:MOST_VALUES])
    groups = [NOT_RECORDED if word is None else word if word in kept else OTHER for word in words]
    order = [*sorted(kept - {OTHER, NOT_RECORDED}), OTHER, NOT_RECORDED]
    return pd.Categorical(groups, [name for name in order if name in groups], ordered=True)


def _word(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _banded(
    numbers: NDArray[np.float64],
    edges: NDArray[np.float64],
    names: list[str],
) -> pd.Categorical:
    """Bands that begin at each edge."""
    codes = np.where(np.isnan(numbers), len(names), np.searchsorted(edges, numbers, side="right"))
    every = [*names, NOT_RECORDED]
    present = [name for i, name in enumerate(every) if (codes == i).any()]
    return pd.Categorical([every[code] for code in codes], present, ordered=True)
