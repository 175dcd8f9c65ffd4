"""Texts that are nearly the same: a report copied with a word or a figure changed.

Two texts are near where their sets of three-word runs have a Jaccard index of at least 0.8 (shingles; Broder 1997).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from scipy.sparse import csr_array

RUN = 3
"""Words in a run."""

NEAR = 0.8
"""Jaccard index from which two texts are near: one changed word in some thirty; short template phrases never are."""

BLOCK = 256
"""Texts that are compared with all known ones at a time."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def runs(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of three words of a text; a shorter text is one run."""
    said = words(text)
    return frozenset(tuple(said[i : i + RUN]) for i in range(max(1, len(said) - RUN + 1)))


def near(texts: Collection[str], known: Collection[str], threshold: float = NEAR) -> set[str]:
    """Those of the texts that are near one of the known texts."""
    asked = sorted(texts)
    table = _table([runs(text) for text in (*asked, *sorted(known))])
    ours, theirs = table[: len(asked)], table[len(asked) :]
    lengths, columns = theirs.sum(axis=1), theirs.T.tocsr()
    found: set[str] = set()
    for start in range(0, len(asked), BLOCK):
        block = ours[start : start + BLOCK]
        shared = (block @ columns).tocoo()
        either = block.sum(axis=1)[shared.row] + lengths[shared.col] - shared.data
        # the slack is for a threshold that has no exact float
        for row in np.unique(shared.row[shared.data >= threshold * either - 1e-9]):
            found.add(asked[start + row])
    return found


def _table(sets: Sequence[frozenset[tuple[str, ...]]]) -> csr_array:
    """Which text has which run, (texts, runs) of 0/1."""
    column: dict[tuple[str, ...], int] = {}
    places = [column.setdefault(run, len(column)) for found in sets for run in found]
    ends = np.cumsum([0, *(len(found) for found in sets)])
    return csr_array((np.ones(len(places), dtype=np.int32), places, ends), shape=(len(sets), len(column)))
