"""Texts that are nearly the same: a report copied with a word or a figure changed.

Two texts are near where their sets of three-word runs have a Jaccard index of at least 0.8. All such texts are found
without comparing all pairs: with its runs sorted from the rarest, a text shares one of its first few with every text
that is near it (Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection

RUN = 3
"""Words in a run."""

NEAR = 0.8
"""Jaccard index from which two texts are near: one changed word in some thirty; short template phrases never are."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def runs(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of three words of a text; a shorter text is one run."""
    said = words(text)
    return frozenset(tuple(said[i : i + RUN]) for i in range(max(1, len(said) - RUN + 1)))


def near(texts: Collection[str], known: Collection[str], threshold: float = NEAR) -> set[str]:
    """Those of the texts that are near one of the known texts."""
    sets = {text: runs(text) for text in {*texts, *known}}
    often = Counter(run for found in sets.values() for run in found)

    def first(found: frozenset[tuple[str, ...]]) -> list[tuple[str, ...]]:
        # Of two sets that share k runs, the rarest shared one is among the first len - k + 1 of each.
        order = sorted(found, key=lambda run: (often[run], run))
        return order[: len(found) - math.ceil(threshold * len(found) - 1e-9) + 1]

    holders: defaultdict[tuple[str, ...], list[frozenset[tuple[str, ...]]]] = defaultdict(list)
    for found in {sets[text] for text in known}:
        for run in first(found):
            holders[run].append(found)
    return {
        text
        for text in texts
        if any(_jaccard(sets[text], other) >= threshold for run in first(sets[text]) for other in holders[run])
    }


def _jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
