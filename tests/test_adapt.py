"""Training: the batched heads equal one-by-one training, samplers are fair, divergence stays where it is."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.adapt import (
    Adapted,
    HeadMember,
    PairedFeatures,
    Pairs,
    batches,
    make_objective,
    multi_hot,
    train_full,
    train_heads,
)
from benchmark.config import TrainingConfig
from benchmark.errors import TrainingDiverged
from benchmark.heads import ProjectionPair
from benchmark.model import Features, HeadSpec
from benchmark.seeding import generator

CPU = torch.device("cpu")
CONFIG = TrainingConfig(epochs=5, batch_size=8, learning_rate=1e-2)


def features(n: int = 30, seed: int = 0) -> PairedFeatures:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=random)
    signal = nn.functional.one_hot(labels, 2).to(torch.get_default_dtype())
    return PairedFeatures(
        image=torch.cat([signal, torch.randn(n, 6, generator=random)], dim=1),
        text=torch.cat([signal, torch.randn(n, 10, generator=random)], dim=1),
        report=torch.arange(n),
        rewordings={"eda": torch.randint(0, n, (n, 3), generator=random)},
        labels=signal,
    )


def train_one(model: object, data: PairedFeatures, member: HeadMember) -> ProjectionPair:
    """The same training written plainly: one model, torch's own clipping, no vmap."""
    pair = ProjectionPair(data.image.shape[1], data.text.shape[1], member.head, seed=member.seed)
    objective = make_objective(model)  # type: ignore[arg-type]
    trained = nn.ModuleList([pair, objective])
    optimizer = torch.optim.AdamW(trained.parameters(), CONFIG.learning_rate, weight_decay=CONFIG.weight_decay)
    steps = CONFIG.epochs * 4
    step = 0
    draw = generator("split", "draw rewording", member.seed)
    for epoch in batches(30, 8, CONFIG.epochs, fingerprint="split", seed=member.seed):
        for rows in epoch:
            for group in optimizer.param_groups:
                group["lr"] = CONFIG.learning_rate * min(1.0, (step + 1) / max(1, round(0.1 * steps)))
            at = torch.from_numpy(rows)
            augmented = None
            if member.augmentation != "none":
                pick = torch.from_numpy(draw.integers(3, size=len(rows)))
                chosen = data.rewordings["eda"][at][torch.arange(len(at)), pick]
                augmented = Features(pair.project_text(data.text[chosen]))
            loss = objective(
                Features(pair.project_image(data.image[at])),
                Features(pair.project_text(data.text[data.report[at]])),
                augmented,
                data.labels[at],
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), CONFIG.clip)
            optimizer.step()
            step += 1
    return pair


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision: Adam divides a gradient that is zero but for rounding by its own size, so float32 drifts."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
def test_heads_trained_together_equal_heads_trained_alone(toy: ModuleType) -> None:
    model, data = toy.Toy(0), features()
    members = [
        HeadMember(head, augmentation, seed)
        for head in (HeadSpec("linear", 4), HeadSpec("mlp", 4))
        for augmentation in ("none", "eda")
        for seed in (0, 1)
    ]
    together = train_heads(model, data, members, CONFIG, fingerprint="split", device=CPU)
    assert list(together) == [m for h in range(2) for a in range(2) for m in members[h * 4 + a * 2 : h * 4 + a * 2 + 2]]
    for member in members:
        adapted = together[member]
        assert isinstance(adapted, Adapted)
        alone = train_one(model, data, member)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(adapted.pair.state_dict()[name], value, atol=1e-9, rtol=0)


def test_training_lowers_the_loss_and_repeats_bit_for_bit(toy: ModuleType) -> None:
    member = HeadMember(HeadSpec("linear", 4), "eda", 0)
    runs = [
        train_heads(toy.Toy(0), features(), [member], CONFIG, fingerprint="split", device=CPU)[member] for _ in "ab"
    ]
    assert isinstance(runs[0], Adapted)
    assert runs[0].losses[-1] < runs[0].losses[0]
    for name, value in runs[0].pair.state_dict().items():
        assert torch.equal(value, runs[1].pair.state_dict()[name])


class NanForOneWidth(nn.Module):
    """A loss that is NaN for one of the members and not for the others: the one whose features point up."""

    def forward(
        self, image: Features, text: Features, augmented: Features | None, labels: torch.Tensor
    ) -> torch.Tensor:
        up = (image.pooled[0, 0] > 0).float()
        return (image.pooled - text.pooled).square().sum() + torch.log(-up + 0.5) * 0


def test_one_diverging_member_leaves_the_others_as_they_are(toy: ModuleType) -> None:
    model = toy.Toy(0)
    model.make_objective = NanForOneWidth
    members = [HeadMember(HeadSpec("linear", 4), "none", seed) for seed in range(6)]
    one_epoch = TrainingConfig(epochs=1, batch_size=30, learning_rate=1e-3)
    trained = train_heads(model, features(), members, one_epoch, fingerprint="split", device=CPU)
    kinds = {type(outcome) for outcome in trained.values()}
    assert kinds == {Adapted, TrainingDiverged}
    for outcome in trained.values():
        if isinstance(outcome, Adapted):
            assert all(torch.isfinite(p).all() for p in outcome.pair.parameters())


def pairs(n: int = 24) -> Pairs:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (n,), generator=random)
    pixels = torch.rand(n, 3, 32, 32, generator=random) + labels[:, None, None, None]
    reports = ["narrow canal" if label else "normal disc" for label in labels]
    return Pairs(lambda rows: pixels[torch.from_numpy(rows)], reports, {}, multi_hot(labels.numpy(), 2))


def full(model: nn.Module, **changes: object) -> Adapted:
    config = TrainingConfig(**{"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, **changes})  # type: ignore[arg-type]
    return train_full(
        model,  # type: ignore[arg-type]
        pairs(),
        HeadSpec("linear", 8),
        config,
        seed=0,
        fingerprint="split",
        device=CPU,
        precision="fp32",
    )


def test_full_training_moves_both_towers_and_repeats_bit_for_bit(toy: ModuleType) -> None:
    start, first, second = toy.Toy(0), toy.Toy(0), toy.Toy(0)
    curves = [full(first).losses, full(second).losses]
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert not torch.equal(value, start.state_dict()[name])


def test_full_training_leaves_torchs_global_generator_as_it_was(toy: ModuleType) -> None:
    before = torch.get_rng_state()
    full(toy.Toy(0), epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_of_nan_names_the_epoch(toy: ModuleType) -> None:
    with pytest.raises(TrainingDiverged, match="nan in epoch 1"):
        full(toy.Diverging(0))


def test_every_sample_is_seen_once_an_epoch_in_batches_of_nearly_equal_size() -> None:
    epochs = list(batches(29, 8, 3, fingerprint="f", seed=0))
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(29))
        assert {len(b) for b in epoch} <= {7, 8}
    assert epochs[0][0].tolist() != epochs[1][0].tolist()
