"""The augmentation ``sentence-order``: a report's sentences in another order."""

import re

import numpy as np

from benchmark.model import AugmentationEntry

BOUNDARY = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
"""Where one sentence ends and the next begins; a bare line end is none, as reports are wrapped."""


class SentenceOrder:
    """Shuffles the sentences of a report and writes each on a line of its own.

    The words of a sentence stay together, and so do its level, side, grade and negation.
    """

    name = "sentence-order"

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        """Give ``count`` orders; two of them may be equal."""
        sentences = BOUNDARY.split(report)
        # A last sentence without its full stop stays last: anywhere else it would run on into the next one.
        last = [] if report.rstrip().endswith((".", "!", "?")) else [sentences.pop()]
        return ["\n".join([*rng.permutation(sentences), *last]) for _ in range(count)]


ENTRY = AugmentationEntry(
    name=SentenceOrder.name,
    summary="The sentences of a report in another order; each sentence stays as it is",
    build=SentenceOrder,
)
