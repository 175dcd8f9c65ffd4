"""What a site costs: hundreds of rows are written in seconds, thousands in about ten. Processor time, not the clock."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from leaderboards.build import build

DEMO = runpy.run_path(str(Path(__file__).parents[1] / "leaderboards" / "demo.py"))


@pytest.mark.parametrize(("rows", "most_s"), [(500, 5), (5000, 10)])
def test_a_site_is_written_in_seconds(request: pytest.FixtureRequest, tmp_path: Path, rows: int, most_s: float) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("speed is measured by 'tox -e bench'")
    timer: BenchmarkFixture = request.getfixturevalue("benchmark")
    run, results = DEMO["many"](rows)
    analysis = DEMO["analysis"](results)

    def seconds() -> float:
        start = time.process_time()
        build(run, results, tmp_path, analysis=analysis)
        return time.process_time() - start

    timer.extra_info["processor_s"] = timer.pedantic(seconds, rounds=1, warmup_rounds=1)
    assert timer.extra_info["processor_s"] < most_s
