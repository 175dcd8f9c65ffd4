"""The full regime: one step in pieces is the plain step, a stopped training goes on with the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark.adapt import Adapted, learning_rate, multi_hot
from benchmark.config import FullTrainingConfig
from benchmark.distributed import Ranks, shares
from benchmark.errors import BadInput, TrainingDiverged
from benchmark.heads import ProjectionPair
from benchmark.model import BuildRequest, Features, HeadSpec
from benchmark.objective import make_loss
from benchmark.registry import Registry
from benchmark.sampler import Sampler
from benchmark.seeding import generator
from benchmark.train import Pairs, train_full

CPU = torch.device("cpu")
REPORTS = ("narrow canal at L4/5", "normal disc", "disc bulge at L5/S1 with a narrow left recess, grade C")


def pairs(n: int = 24, side: int = 32, *, reworded: bool = False) -> Pairs:
    """Pairs whose pictures say which of the reports they have."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (n,), generator=random)
    pixels = torch.rand(n, 3, side, side, generator=random) + labels[:, None, None, None]
    pixels = pixels.float()  # double, where a test makes everything double
    reports = [REPORTS[(i + int(label)) % 3] for i, label in enumerate(labels)]
    rewordings = [[f"{report} seen", f"there is {report}"] for report in reports] if reworded else []
    return Pairs(
        lambda batches: (pixels[torch.from_numpy(rows)] for rows in batches),
        reports,
        rewordings,
        multi_hot(labels.numpy(), 2),
    )


def train(model: nn.Module, data: Pairs | None = None, **changes: Any) -> Adapted:
    known = {"validation", "checkpoint", "progress", "ranks", "precision"}
    config = FullTrainingConfig(
        **{"epochs": 4, "batch_size": 8, "learning_rate": 1e-2} | {k: v for k, v in changes.items() if k not in known}
    )
    return train_full(
        model,  # type: ignore[arg-type]
        data or pairs(),
        HeadSpec("linear", 8),
        config,
        seed=0,
        fingerprint="split",
        device=CPU,
        **{"precision": "fp32"} | {k: v for k, v in changes.items() if k in known},
    )


def tiny(name: str, seed: int = 0) -> nn.Module:
    model = Registry.load().model(name).entry.make(BuildRequest(train_reports=REPORTS, seed=seed))
    assert isinstance(model, nn.Module)
    return model


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_both_towers_move_and_a_second_training_gives_the_same_bits(toy: ModuleType) -> None:
    start, first, second = toy.Toy(0), toy.Toy(0), toy.Toy(0)
    curves = [train(first).losses, train(second).losses]
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0]
    assert same_bits(first, second)
    for name, value in first.state_dict().items():
        assert not torch.equal(value, start.state_dict()[name])


def test_torchs_global_generator_is_left_as_it_was(toy: ModuleType) -> None:
    before = torch.get_rng_state()
    train(toy.Toy(0), epochs=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("reworded", [False, True])
def test_it_is_the_plain_training_loop(toy: ModuleType, reworded: bool) -> None:
    """Written out with torch alone: no pieces, every text encoded where it stands."""
    data, config = pairs(reworded=reworded), FullTrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, alpha=0.3)
    ours, plain = toy.Toy(0), toy.Toy(0)
    pair = ProjectionPair(plain.image_dim, plain.text_dim, HeadSpec("linear", 8), seed=0)
    loss_of = make_loss(plain, config, data.labels)
    trained = nn.ModuleList([plain, pair, loss_of])
    optimizer = torch.optim.AdamW(trained.parameters(), weight_decay=config.weight_decay)
    sampler = Sampler(data.labels.numpy(), "uniform", 8, fingerprint="split", seed=0)
    step = 0
    for epoch in range(2):
        draw = generator("split", "draw rewording", 0, epoch)
        rows_of = sampler.epoch(epoch)
        for rows, pixels in zip(rows_of, data.pixels(rows_of), strict=True):
            optimizer.param_groups[0]["lr"] = learning_rate(config, step, 6)
            reports = [data.reports[i] for i in rows]
            augmented = None
            if reworded:
                drawn = [data.rewordings[i][int(draw.integers(2))] for i in rows]
                augmented = Features(pair.project_text(plain.encode_text(drawn).pooled))
            loss = loss_of(
                Features(pair.project_image(plain.encode_image(pixels).pooled)),
                Features(pair.project_text(plain.encode_text(reports).pooled)),
                augmented,
                data.labels[torch.from_numpy(rows)],
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), config.clip)
            optimizer.step()
            step += 1
    adapted = train(ours, data, epochs=2, alpha=0.3)
    for part, other in ((ours, plain), (adapted.pair, pair)):
        for name, value in part.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=2e-5, rtol=0)


# --------------------------------------------------------------------------------------------- gradient caching


def one_step_gradients(model: nn.Module, data: Pairs, **changes: Any) -> dict[str, torch.Tensor]:
    """The gradient that the optimizer gets for a single batch of everything."""
    seen: dict[str, torch.Tensor] = {}
    original = torch.optim.AdamW.step

    def spy(self: Any, *arguments: Any) -> Any:
        seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        train(model, data, epochs=1, batch_size=len(data.reports), clip=1e9, **changes)
    return seen


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in double precision, so that what is left of a difference is no rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["lumbarclip-vit", "lumbarclip-swin", "biomedclip"])
@pytest.mark.parametrize("chunk", [1, 5, 24])
def test_the_gradient_of_a_chunked_batch_is_that_of_the_whole(name: str, chunk: int) -> None:
    data = pairs(side=64, reworded=True)
    whole = one_step_gradients(tiny(name).double(), data)
    pieces = one_step_gradients(tiny(name).double(), data, chunk=chunk)
    assert whole.keys() == pieces.keys()
    for parameter, gradient in whole.items():
        torch.testing.assert_close(pieces[parameter], gradient, atol=1e-10, rtol=0, msg=parameter)


@pytest.mark.usefixtures("double")
def test_local_features_are_cached_too() -> None:
    """GLoRIA's objective looks at regions and words; texts of another chunk have another length."""

    def gloria() -> nn.Module:
        model = tiny("gloria").double()
        for module in model.modules():  # with statistics of its own, a chunk would be another computation
            if isinstance(module, nn.BatchNorm2d):
                module.eval().train = lambda mode=True, module=module: module
        return model

    data = pairs(side=48)
    whole = one_step_gradients(gloria(), data)
    pieces = one_step_gradients(gloria(), data, chunk=2)
    assert any("local_projection" in name and gradient.any() for name, gradient in whole.items())
    for parameter, gradient in whole.items():
        torch.testing.assert_close(pieces[parameter], gradient, atol=1e-10, rtol=0, msg=parameter)


class Dropping(nn.Module):
    """Draws a random number in every forward pass and counts them in a buffer, as batch normalisation does."""

    def __init__(self, toy: ModuleType) -> None:
        super().__init__()
        self.inner = toy.Toy(0)
        self.drop = nn.Dropout(0.5)
        self.card, self.image_dim, self.text_dim = self.inner.card, 24, 32
        self.preprocess, self.encode_text = self.inner.preprocess, self.inner.encode_text
        self.norm = nn.BatchNorm1d(24)
        self.drawn: list[torch.Tensor] = []

    def encode_image(self, pixels: torch.Tensor) -> Features:
        features = self.norm(self.drop(self.inner.encode_image(pixels).pooled))
        self.drawn.append(features.detach())
        return Features(features)


def test_a_second_pass_draws_the_same_dropout_and_counts_once_in_running_statistics(toy: ModuleType) -> None:
    model = Dropping(toy)
    train(model, epochs=1, batch_size=24, chunk=8)
    first, second = model.drawn[:3], model.drawn[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert int(model.norm.num_batches_tracked) == 3
    whole = Dropping(toy)
    train(whole, epochs=1, batch_size=24)
    assert int(whole.norm.num_batches_tracked) == 1


@pytest.mark.parametrize("name", ["lumbarclip-resnet50", "lumbarclip-vit", "lumbarclip-swin", "convirt", "clip"])
def test_recomputed_activations_change_nothing(name: str) -> None:
    data, models = pairs(16, side=64), (tiny(name), tiny(name))
    curves = [
        train(model, data, epochs=2, checkpoint_gradients=on).losses
        for model, on in zip(models, (False, True), strict=True)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    for (name_, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        if "running" in name_ or "num_batches" in name_:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_model_that_cannot_recompute_says_so(toy: ModuleType) -> None:
    with pytest.raises(BadInput, match=r"Toy has no checkpoint_gradients\(\)"):
        train(toy.Toy(0), checkpoint_gradients=True)


# --------------------------------------------------------------------------------------------- stopping


class Killed(Exception):
    """Stands for a kill in the middle of an epoch."""


@pytest.mark.parametrize("patience", [None, 10])
@pytest.mark.parametrize("after", [0, 5, 11])
def test_a_stopped_training_goes_on_with_the_same_bits(
    toy: ModuleType, tmp_path: Path, after: int, patience: int | None
) -> None:
    settings: dict[str, Any] = {"patience": patience, "validation": pairs(10)} if patience else {}
    straight = Dropping(toy)
    expected = train(straight, pairs(reworded=True), **settings)

    def kill(step: int, steps: int) -> None:
        assert steps == 12
        if step == after + 1:
            raise Killed

    file, resumed = tmp_path / "unit.pt", Dropping(toy)
    with pytest.raises(Killed):
        train(Dropping(toy), pairs(reworded=True), checkpoint=file, progress=kill, **settings)
    assert file.exists() == (after >= 3)
    found = train(resumed, pairs(reworded=True), checkpoint=file, **settings)
    assert (found.losses, found.validation) == (expected.losses, expected.validation)
    assert same_bits(resumed, straight)
    assert same_bits(found.pair, expected.pair)
    again = Dropping(toy)
    train(again, pairs(reworded=True), checkpoint=file, **settings)
    assert not again.drawn or patience, "a training that was over is not trained again"
    assert same_bits(again, straight)


def test_a_damaged_checkpoint_is_named_and_never_taken_for_none(toy: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "unit.pt"
    file.write_bytes(b"half of a")
    with pytest.raises(BadInput, match="delete it"):
        train(toy.Toy(0), checkpoint=file)


def test_a_checkpoint_runs_no_code(toy: ModuleType, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"towers": Payload()}, tmp_path / "unit.pt")
    with pytest.raises(BadInput, match="cannot be gone on from"):
        train(toy.Toy(0), checkpoint=tmp_path / "unit.pt")
    assert not (tmp_path / "ran").exists()


class Worsening(nn.Module):
    """An objective whose value on val is lowest after the second epoch; the gradient it gives is that of a real one."""

    values = (3.0, 1.0, 2.0, 2.5, 0.1)

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, image: Features, text: Features, labels: torch.Tensor) -> torch.Tensor:
        loss = -(image.pooled * text.pooled).sum(dim=1)
        if self.training:
            return loss
        self.seen += 1
        return loss * 0 + self.values[self.seen - 1]


def test_training_stops_by_val_and_goes_back_to_the_best_epoch(toy: ModuleType) -> None:
    stopped, best = toy.Toy(0), toy.Toy(0)
    stopped.make_objective = best.make_objective = Worsening
    adapted = train(stopped, epochs=6, patience=2, validation=pairs(8), warmup=0.0)
    assert adapted.validation == (3.0, 1.0, 2.0, 2.5)
    assert adapted.kept_epoch == 2
    assert len(adapted.losses) == 4
    train(best, epochs=2, warmup=0.0)
    assert same_bits(stopped, best)


def test_a_loss_of_nan_says_where_and_takes_no_step(toy: ModuleType) -> None:
    model = toy.Diverging(0)
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 1 of 4, step 1 of 12, at a learning rate of 0\.01"):
        train(model)
    assert same_bits(model, toy.Diverging(0))


class Undefined(nn.Module):
    """An objective that is finite in training and NaN on val."""

    def forward(self, image: Features, text: Features, labels: torch.Tensor) -> torch.Tensor:
        loss = -(image.pooled * text.pooled).sum(dim=1)
        return loss if self.training else loss * math.nan


def test_a_loss_of_nan_on_val_is_never_the_best_epoch(toy: ModuleType) -> None:
    model = toy.Toy(0)
    model.make_objective = Undefined
    with pytest.raises(TrainingDiverged, match="the loss on val is nan after epoch 1 of 4"):
        train(model, patience=2, validation=pairs(8))


@pytest.mark.parametrize("name", ["gloria", "lumbarclip-resnet50"])
def test_towers_in_bfloat16_train_under_a_loss_in_float32(name: str) -> None:
    """GLoRIA's objective multiplies regions, words and pooled vectors: all have to be of one type."""
    seen: list[torch.dtype | None] = []
    model = tiny(name)
    objective = make_loss(model, FullTrainingConfig(), pairs(8).labels).objective  # type: ignore[arg-type]
    objective.register_forward_pre_hook(
        lambda _, given: seen.extend(part.dtype for f in given[:2] for part in (f.pooled, f.tokens) if part is not None)
    )
    model.make_objective = lambda: objective  # type: ignore[assignment]
    adapted = train(model, pairs(8, side=64), epochs=1, chunk=4, precision="bf16")
    assert math.isfinite(adapted.losses[0])
    assert set(seen) == {torch.float32}


class SteepAtNothing(nn.Module):
    """A finite loss whose gradient is infinite."""

    def forward(self, image: Features, text: Features, labels: torch.Tensor) -> torch.Tensor:
        return ((image.pooled - image.pooled.detach()).sum(dim=1)).abs().sqrt() + 1.0


def test_an_infinite_gradient_of_a_finite_loss_takes_no_step(toy: ModuleType) -> None:
    model = toy.Toy(0)
    model.make_objective = SteepAtNothing
    with pytest.raises(TrainingDiverged, match=r"the gradient's norm is (nan|inf) at a loss of 1"):
        train(model)
    assert same_bits(model, toy.Toy(0))


# --------------------------------------------------------------------------------------------- several processes


@given(n=st.integers(0, 40), size=st.integers(1, 7))
def test_shares_are_even_in_order_and_leave_nobody_out(n: int, size: int) -> None:
    parts = [list(range(n))[Ranks(rank, size).share(n)] for rank in range(size)]
    assert list(chain(*parts)) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(n=st.integers(1, 60), size=st.integers(1, 7), most=st.integers(1, 9) | st.none())
def test_every_process_cuts_its_share_into_as_many_pieces(n: int, size: int, most: int | None) -> None:
    """Synchronised batch normalisation waits in each pass for all processes: one pass more would wait for ever."""
    sizes = [len(range(n)[Ranks(rank, size).share(n)]) for rank in range(size)]
    numbers = {Ranks(rank, size).pieces(n, most) for rank in range(size)}
    assert len(numbers) == 1
    parts = [[part.stop - part.start for part in shares(each, *numbers)] for each in sizes]
    assert [sum(each) for each in parts] == sizes
    assert max(chain(*parts)) <= (most or n)


class Seeing(Ranks):
    """The first of two processes, the other of which sees another number of finished epochs."""

    def all_of(self, number: int, device: torch.device) -> list[int]:
        return [number, number + 1]


def test_a_checkpoint_that_only_others_see_is_refused_by_all_alike(toy: ModuleType) -> None:
    with pytest.raises(BadInput, match="not all processes see the checkpoint"):
        train(toy.Toy(0), ranks=Seeing(0, 2))


def test_more_processes_than_pairs_of_a_batch_are_refused(toy: ModuleType) -> None:
    with pytest.raises(BadInput, match="batches of 2 pairs cannot be shared by 3 processes"):
        train(toy.Toy(0), batch_size=2, ranks=Ranks(0, 3))
