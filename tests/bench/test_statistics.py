"""The bootstrap against scikit-learn replicate by replicate and for a leaderboard; DeLong; near-duplicates.

Both compute the same replicates in turn in one process, and the median of the paired ratios is asserted. The cost is
processor time, which other processes on the machine stretch less than the clock.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from benchmark.data.lookalikes import near_pairs
from benchmark.evaluate.delong import aurocs
from benchmark.evaluate.metrics import Classification
from benchmark.evaluate.resample import estimates, patient_weights
from benchmark.evaluate.threshold import Threshold

ROWS, EACH, ROUNDS, FEW = 1000, 4, 5, 20
GROUPS = np.repeat(np.arange(ROWS // EACH), EACH)


def cell(seed: int) -> tuple[Classification, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=ROWS)
    score = norm.cdf(labels + rng.normal(size=ROWS))
    scores = np.column_stack([1 - score, score])
    table = Classification(
        "binary", labels, scores, classes=("a", "b"), probabilities=True, thresholds=[Threshold(0.6)]
    )
    return table, labels, score


@threadpool_limits.wrap(limits=1)
def test_the_bootstrap_is_many_times_faster_than_scikit_learn_and_affordable(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("speed is measured by 'tox -e bench'")
    timer: BenchmarkFixture = request.getfixturevalue("benchmark")
    table, labels, score = cell(0)

    def ours(replicates: int = 1024, cells: int = 1) -> float:
        start = time.process_time()
        estimates([table] * cells, GROUPS, replicates=replicates, fingerprint="bench")
        return (time.process_time() - start) / replicates

    def scikit_learn() -> float:
        """Four of the twenty-odd metrics."""
        weights = patient_weights(GROUPS, replicates=FEW, fingerprint="bench")[:, GROUPS]
        start = time.process_time()
        for w in weights:
            for metric in (roc_auc_score, average_precision_score, log_loss):
                metric(labels, score, sample_weight=w)
            f1_score(labels, score > 0.5, sample_weight=w)
        return (time.process_time() - start) / FEW

    ours(), scikit_learn()
    ratios = [scikit_learn() / ours() for _ in range(ROUNDS)]
    leaderboard_s = ours(1024, cells=10) * 10_000 * 5
    timer.extra_info["scikit_learn_over_ours"] = float(np.median(ratios))
    timer.extra_info["processor_s_of_50_cells_and_10000_replicates"] = leaderboard_s
    timer.pedantic(ours, rounds=1)
    assert np.median(ratios) >= 20, ratios
    assert leaderboard_s / 4 < 30, "over half a minute on four cores"


def test_delong_of_a_hundred_thousand_rows_takes_under_a_second(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("speed is measured by 'tox -e bench'")
    timer: BenchmarkFixture = request.getfixturevalue("benchmark")
    rng = np.random.default_rng(4)
    positive, scores = rng.random(100_000) < 0.3, rng.normal(size=(2, 100_000))

    def seconds() -> float:
        start = time.process_time()
        aurocs(positive, scores, np.arange(100_000) // 3)
        return time.process_time() - start

    timer.extra_info["processor_s"] = timer.pedantic(seconds, rounds=3)
    assert timer.extra_info["processor_s"] < 1


def test_near_duplicates_among_a_hundred_thousand_hashes_take_under_half_a_minute(
    request: pytest.FixtureRequest,
) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("speed is measured by 'tox -e bench'")
    timer: BenchmarkFixture = request.getfixturevalue("benchmark")
    hashes = np.random.default_rng(5).integers(2**63, size=100_000, dtype=np.uint64)

    def seconds() -> float:
        """Every pair, though an audit compares only those of two parts."""
        start = time.process_time()
        found = sum(len(ours) for ours, _ in near_pairs(hashes, hashes))
        assert found >= len(hashes)
        return time.process_time() - start

    timer.extra_info["processor_s"] = timer.pedantic(seconds, rounds=1)
    assert timer.extra_info["processor_s"] < 30
