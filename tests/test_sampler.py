"""Every model sees the same batches: fair, repeatable, and independent of the epochs before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.sampler import Sampler


def sampler(counts: list[int], sampling: str = "uniform", batch: int = 8, **key: object) -> Sampler:
    labels = np.eye(len(counts), dtype=np.float32)[np.repeat(np.arange(len(counts)), counts)]
    return Sampler(labels, sampling, batch, **{"fingerprint": "f", "seed": 0, **key})  # type: ignore[arg-type]


def test_every_pair_is_seen_once_an_epoch_in_batches_of_nearly_equal_size() -> None:
    made = sampler([20, 9])
    for number in range(3):
        epoch = made.epoch(number)
        assert len(epoch) == made.batches == 4
        assert sorted(np.concatenate(epoch).tolist()) == list(range(29))
        assert {len(b) for b in epoch} <= {7, 8}
    assert made.epoch(0)[0].tolist() != made.epoch(1)[0].tolist()


def test_an_epoch_depends_on_split_seed_and_number_alone() -> None:
    first = sampler([20, 9]).epoch(5)
    again = sampler([20, 9])
    again.epoch(0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again.epoch(5), strict=True))
    for other in (sampler([20, 9], seed=1), sampler([20, 9], fingerprint="g")):
        assert not np.array_equal(first[0], other.epoch(5)[0])


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(2, 9))
def test_upsampling_evens_the_classes_out_and_loses_nobody(counts: list[int], batch: int) -> None:
    made = sampler(counts, "upsample", batch)
    rows = np.concatenate(made.epoch(0))
    assert len(rows) == made.pairs == max(counts) * len(counts)
    seen = np.bincount(rows, minlength=sum(counts))
    for own in np.split(seen, np.cumsum(counts)[:-1]):
        assert own.sum() == max(counts)
        assert own.max() - own.min() <= 1


def test_a_class_is_a_combination_of_labels() -> None:
    labels = np.array([[0, 0], [1, 0], [1, 1], [1, 1], [1, 1]], dtype=np.float32)
    made = Sampler(labels, "upsample", 4, fingerprint="f", seed=0)
    seen = np.bincount(np.concatenate(made.epoch(0)), minlength=5)
    assert seen.tolist() == [3, 3, 1, 1, 1]


@pytest.mark.parametrize("sampling", ["uniform", "upsample"])
def test_batches_are_not_sorted_by_class(sampling: str) -> None:
    epoch = sampler([40, 40], sampling, 20).epoch(0)
    assert all(0 < (rows < 40).sum() < len(rows) for rows in epoch)
