"""A training step against open_clip's own, and the memory of a chunked batch against that of a small one.

Both loops train the same towers on the same batches, in turn in one process, each with a new optimizer; the median of
the paired ratios is asserted, for a ratio is stable where a time is not. Memory is the peak of a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.adapt import multi_hot
from benchmark.config import FullTrainingConfig
from benchmark.model import BuildRequest, HeadSpec
from benchmark.registry import Registry
from benchmark.train import Pairs, train_full

BATCH, STEPS, ROUNDS = 8, 4, 5


def report(i: int) -> str:
    return f"Patient {i}: disc bulge at L4/5 with narrowing of the spinal canal and of the left recess, grade B."


def towers(name: str) -> Any:
    reports = tuple(report(i) for i in range(64))
    return Registry.load().model(name).entry.make(BuildRequest(scale="paper", train_reports=reports))


def train(model: Any, n: int, batch: int, chunk: int | None = None) -> float:
    """Seconds of one epoch of the harness over n pairs, every text another."""
    pixels = torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(
        lambda batches: (pixels[torch.from_numpy(rows)] for rows in batches),
        [report(i) for i in range(n)],
        (),
        multi_hot(np.arange(n) % 2, 2),
    )
    config = FullTrainingConfig(epochs=1, batch_size=batch, chunk=chunk)
    start = time.perf_counter()
    train_full(
        model,
        pairs,
        HeadSpec("linear", 256),
        config,
        seed=0,
        fingerprint="bench",
        device=torch.device("cpu"),
        precision="fp32",
    )
    return time.perf_counter() - start


class InOpenCLIP(nn.Module):
    """Towers as open_clip's training loop calls them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.image, self.text = nn.Linear(model.image_dim, 256), nn.Linear(model.text_dim, 256)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, images: Tensor, texts: list[str]) -> dict[str, Tensor]:
        return {
            "image_features": F.normalize(self.image(self.model.encode_image(images).pooled), dim=-1),
            "text_features": F.normalize(self.text(self.model.encode_text(texts).pooled), dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }


class Texts(list[str]):
    """Raw texts, which the towers tokenise themselves, in place of a batch of ids."""

    def to(self, **_: Any) -> Texts:
        return self


class Loader(list[tuple[Tensor, Texts]]):
    num_batches, num_samples = STEPS, STEPS * BATCH


def open_clip(model: Any) -> float:
    """Seconds of one epoch of open_clip's ``train_one_epoch`` over as many pairs."""
    from open_clip import ClipLoss
    from open_clip_train.train import train_one_epoch

    pixels = torch.randn(STEPS * BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    texts = [report(i) for i in range(STEPS * BATCH)]
    batches = Loader((pixels[i : i + BATCH], Texts(texts[i : i + BATCH])) for i in range(0, len(texts), BATCH))
    off = dict.fromkeys(("distill", "horovod", "wandb", "distributed", "save_logs"), False)
    args = SimpleNamespace(
        **off,
        device="cpu",
        precision="fp32",
        accum_freq=1,
        skip_scheduler=True,
        grad_clip_norm=1.0,
        log_every_n_steps=1000,
        batch_size=BATCH,
        world_size=1,
        rank=0,
        local_rank=0,
    )
    start = time.perf_counter()
    wrapped = InOpenCLIP(model)
    optimizer = torch.optim.AdamW(wrapped.parameters(), 2e-5, weight_decay=1e-4)
    data = {"train": SimpleNamespace(set_epoch=lambda _: None, dataloader=batches)}
    train_one_epoch(wrapped, data, ClipLoss(), 0, optimizer, None, None, None, args)
    return time.perf_counter() - start


@pytest.mark.parametrize("name", ["lumbarclip-resnet50", "lumbarclip-vit"])
def test_training_keeps_up_with_open_clip(name: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("speed is measured by 'tox -e bench'")
    timer: BenchmarkFixture = request.getfixturevalue("benchmark")
    model = towers(name)
    open_clip(model), train(model, STEPS * BATCH, BATCH)
    ratios = [open_clip(model) / train(model, STEPS * BATCH, BATCH) for _ in range(ROUNDS)]
    timer.extra_info["harness_over_open_clip"] = float(np.median(ratios))
    timer.pedantic(train, (model, STEPS * BATCH, BATCH), rounds=1)
    assert np.median(ratios) >= 0.95, ratios


def peak_mb(name: str, batch: int, chunk: int | None) -> float:
    """Peak resident memory, in MB, of a process that trains one batch."""
    code = f"from test_training import main; main({name!r}, {batch}, {chunk})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=__file__.rsplit("/", 1)[0])
    assert ran.returncode == 0, ran.stderr
    return float(ran.stdout.splitlines()[-1])


def main(name: str, batch: int, chunk: int | None) -> None:
    train(towers(name), batch, batch, chunk)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}\n")


def test_a_chunked_batch_of_128_needs_little_more_memory_than_one_of_16(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("benchmark_disable"):
        pytest.skip("memory is measured by 'tox -e bench'")
    small, large = peak_mb("lumbarclip-resnet50", 16, None), peak_mb("lumbarclip-resnet50", 128, 16)
    assert large <= 1.3 * small, (large, small)
