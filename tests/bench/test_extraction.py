"""Extraction against the bare loop: the harness may cost at most a twentieth of the encoder's own rate.

The bare loop calls the model on batches that lie in memory already; the harness starts from decoded pictures, so it
also preprocesses, checks, and writes the store. Both run in turn in one process and the median of the paired ratios
is asserted: a ratio is stable where a time is not.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmark.data.preprocess import picture
from benchmark.embed import Extractor
from benchmark.model import BuildRequest, VisionLanguageModel
from benchmark.registry import Registry
from benchmark.store import ArrayStore

PICTURES, BATCH, ROUNDS = 48, 16, 5


@pytest.mark.parametrize("name", ["lumbarclip-resnet50"])
def test_extraction_keeps_up_with_the_bare_loop(name: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("speed is measured by 'tox -e bench'")
    timer: BenchmarkFixture = request.getfixturevalue("benchmark")
    model = Registry.load().model(name).entry.make(BuildRequest(scale="paper", train_reports=("a disc",)))
    assert isinstance(model, VisionLanguageModel)
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (256, 256), dtype=np.uint8) for _ in range(PICTURES)]
    hashes = [str(i) for i in range(PICTURES)]
    ready = [
        torch.stack([model.preprocess(picture(p)) for p in pixels[i : i + BATCH]]) for i in range(0, PICTURES, BATCH)
    ]
    model.eval()  # type: ignore[attr-defined]

    def bare() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in ready:
                model.encode_image(batch)
        return time.perf_counter() - start

    def harness() -> float:
        with tempfile.TemporaryDirectory() as folder:
            extractor = Extractor(model, "w", ArrayStore(Path(folder)), device=torch.device("cpu"), precision="fp32")
            start = time.perf_counter()
            extractor.images(pixels, hashes, batch=BATCH)
            return time.perf_counter() - start

    bare(), harness()
    ratios = [bare() / harness() for _ in range(ROUNDS)]
    timer.extra_info["harness_over_bare"] = float(np.median(ratios))
    timer.pedantic(harness, rounds=1)
    assert np.median(ratios) >= 0.95, ratios
