"""Retrieval counts identical texts as right, ties against the model, and knows its chance level."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.evaluate import retrieval
from benchmark.evaluate.retrieval import Recall, chance_recall, first_hit_ranks


def ranks_by_loop(queries, candidates, codes):
    """Sort the candidates of each query, wrong ones first among equals, and walk down to the first right one."""
    unit = [[v / np.linalg.norm(v) for v in side.astype(np.float64)] for side in (queries, candidates)]
    ranks = []
    for i, query in enumerate(unit[0]):
        ordered = sorted((-round(float(query @ c), 5), codes[j] == codes[i]) for j, c in enumerate(unit[1]))
        ranks.append(1 + [right for _, right in ordered].index(True))
    return ranks


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.sampled_from([3, 1024]), n=st.integers(2, 14))
def test_ranks_equal_an_explicit_loop(seed, block, n):
    """Small integer vectors make exact ties common."""
    rng = np.random.default_rng(seed)
    queries, candidates = (rng.integers(1, 3, size=(n, 3)).astype(np.float32) for _ in range(2))
    codes = rng.integers(max(1, n // 2), size=n)
    before, retrieval.BLOCK = retrieval.BLOCK, block
    try:
        assert first_hit_ranks(queries, candidates, codes).tolist() == ranks_by_loop(queries, candidates, codes)
    finally:
        retrieval.BLOCK = before


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    """Every wrong candidate stands before the right one."""
    same = np.ones((20, 4), dtype=np.float32)
    codes = np.repeat(np.arange(10), 2)
    assert (first_hit_ranks(same, same, codes) == 19).all()


def test_the_same_words_from_another_sample_are_right():
    """Query 0 is nearest to sample 1's text, which carries the words of its own."""
    queries = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    texts = np.array([[0, 1], [1, 0], [-1, 0.1]], dtype=np.float32)
    assert first_hit_ranks(queries, texts, np.array([0, 0, 1])).tolist() == [1, 1, 1]
    assert first_hit_ranks(queries, texts, np.array([0, 1, 2])).tolist() == [2, 3, 1]


@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_chance_is_the_share_of_all_possible_answers_that_hold_a_right_one(k):
    """Enumerates every set of k answers among six candidates."""
    codes = np.array([0, 0, 0, 1, 1, 2])
    identical = np.bincount(codes)[codes]
    answers = list(combinations(range(6), min(k, 6)))
    found = [np.mean([any(codes[j] == code for j in answer) for answer in answers]) for code in codes]
    assert chance_recall(identical, k) == pytest.approx(np.mean(found))


def test_recall_weighs_queries_and_leaves_out_samples_without_report():
    """Integer weights equal repeated queries; NaN rows count nowhere."""
    rng = np.random.default_rng(0)
    ranks = {way: rng.integers(1, 12, size=9).astype(np.float64) for way in retrieval.WAYS}
    identical = np.ones(9)
    for column in (*ranks.values(), identical):
        column[[2, 5]] = np.nan
    statistic = Recall(ranks, identical, (1, 5))
    weights = rng.integers(3, size=(9, 4)).astype(np.float64)
    values = statistic(weights)
    assert statistic.used.sum() == 7
    for b in range(4):
        repeated = np.repeat(ranks["image_to_text"], weights[:, b].astype(int))
        repeated = repeated[~np.isnan(repeated)]
        assert values["recall@5_image_to_text"][b] == pytest.approx((repeated <= 5).mean())
    assert statistic.chance("recall@5_text_to_image") == pytest.approx(5 / 7)
