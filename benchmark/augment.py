"""Rewordings of training reports: asked of an augmentation, the same in every process."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import BrokenModel
from benchmark.model import Augmentation
from benchmark.seeding import generator


def reword(
    augmentation: Augmentation, reports: Sequence[str], count: int, *, fingerprint: str, version: str
) -> dict[str, list[str]]:
    """Reword each distinct report ``count`` times; a report's rewordings do not depend on which others there are.

    Raises:
        BrokenModel: where an augmentation gives anything else than ``count`` texts.
    """
    reworded = {}
    for report in sorted(set(reports)):
        rng = generator(fingerprint, "reword", augmentation.name, version, report)
        texts = list(augmentation.reword(report, count, rng))
        if len(texts) != count or not all(isinstance(text, str) for text in texts):
            raise BrokenModel(
                f"augmentation {augmentation.name!r} was asked for {count} texts and gave {len(texts)} objects of type "
                f"{', '.join(sorted({type(text).__name__ for text in texts})) or 'none'}"
            )
        reworded[report] = texts
    return reworded
