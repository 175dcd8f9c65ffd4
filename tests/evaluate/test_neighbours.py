"""k-nearest neighbours agree with scikit-learn, for all k at once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from benchmark.evaluate import neighbours
from benchmark.evaluate.neighbours import vote_shares


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(90, 7)).astype(np.float32),
        rng.integers(3, size=90),
        rng.normal(size=(40, 7)).astype(np.float32),
    )


@pytest.mark.parametrize("block", [7, 1024])
def test_shares_equal_scikit_learn_for_every_k(data, block, monkeypatch):
    """Shares are predict_proba of a brute-force cosine search, whatever the block size."""
    bank, labels, queries = data
    monkeypatch.setattr(neighbours, "BLOCK", block)
    shares = vote_shares(bank, np.eye(3)[labels], queries, (1, 5, 20, 90))
    for k, ours in shares.items():
        reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(bank, labels)
        assert np.abs(ours - reference.predict_proba(queries)).max() < 1e-12
        assert np.array_equal(ours.argmax(axis=1), reference.predict(queries))


def test_several_labels_are_averaged_over_the_neighbours(data):
    """Multi-hot targets give the mean label vector of the nearest samples, by an explicit loop."""
    bank, _, queries = data
    targets = np.random.default_rng(1).integers(2, size=(90, 4)).astype(np.float64)
    ours = vote_shares(bank, targets, queries, (6,))[6]
    for query, share in zip(queries, ours, strict=True):
        cosine = [float(query @ b / np.linalg.norm(query) / np.linalg.norm(b)) for b in bank]
        assert share == pytest.approx(targets[np.argsort(cosine)[-6:]].mean(axis=0))


def test_zero_vectors_are_neighbours_like_any_other_and_too_many_are_refused(data):
    """A row without a direction gives finite shares; k above the bank is an error, not fewer neighbours."""
    bank, labels, queries = data
    assert np.isfinite(vote_shares(bank * 0, np.eye(3)[labels], queries, (5,))[5]).all()
    with pytest.raises(ValueError, match="91 neighbours"):
        vote_shares(bank, np.eye(3)[labels], queries, (91,))
