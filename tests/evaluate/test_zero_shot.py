"""Prompt ensembles: the mean of unit vectors, cosine, log-odds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.evaluate import zero_shot
from benchmark.evaluate.zero_shot import TEMPERATURE, class_vectors, scores


def test_scores_are_those_of_the_equations():
    """Written out prompt by prompt and class by class; the length of a prompt vector has no say."""
    rng = np.random.default_rng(0)
    prompts = {
        name: (rng.normal(size=(k, 5)) * rng.uniform(1, 9)).astype(np.float32) for name, k in [("a", 1), ("b", 3)]
    }
    images = rng.normal(size=(6, 5)).astype(np.float32)
    ours = scores(images, class_vectors(prompts, ("b", "a")))
    for image, row in zip(images.astype(np.float64), ours, strict=True):
        logits = []
        for name in ("b", "a"):
            mean = sum(p.astype(np.float64) / np.linalg.norm(p) for p in prompts[name]) / len(prompts[name])
            logits.append(image @ mean / np.linalg.norm(image) / np.linalg.norm(mean) / TEMPERATURE)
        share = np.exp(logits) / np.exp(logits).sum()
        assert 1 / (1 + np.exp(-row)) == pytest.approx(share, rel=1e-4)


def test_with_two_classes_temperature_changes_no_rank_and_no_decision(monkeypatch):
    """The order of samples by score_1, however clear the cases, and the larger score stay as they are."""
    rng = np.random.default_rng(1)
    vectors = class_vectors({"a": rng.normal(size=(2, 8)), "b": rng.normal(size=(2, 8))}, ("a", "b"))
    images = rng.normal(size=(50, 8))
    cold = scores(images, vectors)
    monkeypatch.setattr(zero_shot, "TEMPERATURE", 1.0)
    warm = scores(images, vectors)
    assert np.array_equal(np.argsort(cold[:, 1]), np.argsort(warm[:, 1]))
    assert np.array_equal(cold.argmax(axis=1), warm.argmax(axis=1))
