"""Rewordings depend on the report, the augmentation and the split alone."""

import numpy as np

from benchmark.augment import reword


class Shout:
    name = "shout"

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        return [f"{report} {rng.integers(1000)}" for _ in range(count)]


def test_a_reports_rewordings_do_not_depend_on_the_other_reports() -> None:
    alone = reword(Shout(), ["a"], 3, fingerprint="f", version="1")
    among = reword(Shout(), ["b", "a", "c", "a"], 3, fingerprint="f", version="1")
    assert among["a"] == alone["a"]
    assert reword(Shout(), ["a"], 3, fingerprint="f", version="2") != alone
