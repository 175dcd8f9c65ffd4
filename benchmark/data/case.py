"""What the audit's checks are asked about, and what one of them answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset
from benchmark.data.split import Split

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Case:
    """What is audited."""

    dataset: Dataset
    split: Split
    parts: NDArray[np.str_]
    """(n,) of ``train``, ``val``, ``test``."""
    progress: Progress | None = None

    def rows(self, positions: Iterable[int]) -> list[int]:
        """Row numbers in the manifest of some samples, ascending."""
        return sorted(int(self.dataset.rows[position]) for position in positions)


@dataclass(frozen=True)
class Found:
    """What a check says; ``audit`` adds its code."""

    severity: Literal["error", "warning", "note"]
    message: str
    remedy: str
    rows: Sequence[int] = ()
    count: int | None = None
    """How many there are; the number of rows where it is not said."""


def memberships(dataset: Dataset) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Who has each class; a label of a multilabel task needs patients with it and patients without it."""
    for index, name in enumerate(dataset.classes):
        if dataset.labels.ndim == 1:
            yield name, dataset.labels == index
        else:
            yield name, dataset.labels[:, index] == 1
            yield f"no {name}", dataset.labels[:, index] == 0


def amount(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many}"
