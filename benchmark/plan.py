"""From a configuration to the cells to run: the product of the axes, less what is meaningless or impossible."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Literal

from benchmark.config import FullTrainingConfig, RunConfig
from benchmark.model import HeadSpec, Modality, ModelEntry
from benchmark.registry import Registered
from benchmark.result import PROTOCOL_VERSION, CellSpec, Regime, digest
from benchmark.weights import ResolvedWeights


@dataclass(frozen=True)
class Variant:
    """One point of the three axes."""

    regime: Regime
    augmentation: str
    head: HeadSpec

    def __str__(self) -> str:
        return f"{self.regime} / {self.augmentation} / {self.head}"


@dataclass(frozen=True)
class Candidate:
    """A registered model with the weights it starts from, one per seed that gives other weights."""

    registered: Registered[ModelEntry]
    weights: dict[int, ResolvedWeights]
    """Seed -> weights. Random weights differ by seed; published ones stand once, under the first seed."""

    @property
    def random(self) -> bool:
        """Whether it starts from random weights."""
        return any(weights.kind == "random" for weights in self.weights.values())

    @property
    def published(self) -> bool:
        """Whether it starts from its published weights."""
        return all(weights.kind == "pretrained" for weights in self.weights.values())

    def at(self, seed: int) -> ResolvedWeights:
        """The weights that a seed starts from."""
        return self.weights.get(seed) or next(iter(self.weights.values()))


@dataclass(frozen=True)
class Unit:
    """Cells that are worked on together and fail together.

    ``naive``: one row without an encoder. ``towers``: all frozen and heads cells of one model and one set of initial
    weights, which share one pass of its encoders and one batched training of heads. ``full``: one training of the
    towers.
    """

    kind: Literal["naive", "towers", "full"]
    candidate: Candidate
    seed: int
    cells: tuple[tuple[Variant, CellSpec], ...]

    @property
    def name(self) -> str:
        """For progress lines and errors: the model, and the variant where it is one."""
        model: str = self.candidate.registered.name
        if self.kind == "naive":
            return model
        label = str(self.cells[0][0]) if self.kind == "full" else " + ".join(_regimes(self.cells))
        return f"{model}: {label}, seed {self.seed}"

    @property
    def id(self) -> str:
        """Digest over the ids of its cells."""
        return digest([spec.id for _, spec in self.cells])


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, in order."""

    units: tuple[Unit, ...]
    collapsed: dict[str, str] = field(default_factory=dict)
    """Variant that is not run twice -> what it is the same as, and why."""
    impossible: dict[str, str] = field(default_factory=dict)
    """Model and variant that cannot be run, or a model of which nothing can -> why."""

    @property
    def specs(self) -> tuple[CellSpec, ...]:
        """All cells, in the order they are run."""
        return tuple(spec for unit in self.units for _, spec in unit.cells)


FROZEN = Variant("frozen", "none", HeadSpec("none"))


def variants(config: RunConfig) -> tuple[tuple[Variant, ...], dict[str, str]]:
    """The distinct variants of the axes, and the ones that say the same thing under another name.

    Nothing is trained in ``frozen``, so neither augmented training texts nor an untrained head change anything there;
    a head without parameters leaves nothing to train in ``heads``.
    """
    kept: dict[Variant, None] = {}
    collapsed: dict[str, str] = {}
    heads = [HeadSpec.parse(head) for head in config.heads]
    for regime, augmentation, head in product(config.regimes, config.augmentations, heads):
        variant = Variant(regime, augmentation, head)
        same_as, why = _same_as(variant)
        kept[same_as] = None
        if same_as != variant:
            collapsed[str(variant)] = f"the same as {same_as}: {why}"
    return tuple(kept), collapsed


def plan(
    config: RunConfig,
    candidates: Sequence[Candidate],
    *,
    dataset: str,
    fingerprint: str,
    content: str,
    has: Collection[Modality],
    precision: str,
    rewordings: Mapping[str, str],
) -> Plan:
    """Lay out the units: naive rows first, then per model its frozen and heads cells, then each full training.

    Args:
        config: The axes and settings.
        candidates: Models with their resolved weights.
        dataset: Its name, for readers.
        fingerprint: Of the split.
        content: Digest of reports, structured columns, class names and prompts.
        has: What a model can learn from on this dataset.
        precision: What ``auto`` comes to on the run's device.
        rewordings: Augmentation name -> version of its code, part of the id of the cells that use it.
    """
    write = partial(
        _spec,
        config,
        rewordings=rewordings,
        dataset=dataset,
        fingerprint=fingerprint,
        content=content,
        precision=precision,
    )
    distinct, collapsed = variants(config)
    impossible: dict[str, str] = {}
    units: list[Unit] = []
    random = {c.registered.name for c in candidates if c.random}
    for candidate in sorted(candidates, key=lambda c: not c.registered.entry.naive):
        entry = candidate.registered.entry
        if candidate.random and entry.card.random_as in random - {candidate.registered.name}:
            collapsed[candidate.registered.name] = (
                f"the towers and objective of {entry.card.random_as}, trained by others: "
                "with random weights it has no rows beside it"
            )
            continue
        if entry.card.published_only and not candidate.published:
            impossible[candidate.registered.name] = (
                "it is what its published weights make of it, and this run uses others; --weights pretrained uses them"
            )
            continue
        possible = []
        for variant in (FROZEN,) if entry.naive else distinct:
            why_not = _why_impossible(entry, variant, has)
            if why_not:
                impossible[f"{candidate.registered.name}: {variant}"] = why_not
            else:
                possible.append(variant)
        if entry.kind == "naive":
            seed = config.seeds[0]
            units += [Unit("naive", candidate, seed, ((v, write(candidate, v, seed)),)) for v in possible]
            continue
        for seed in candidate.weights:
            units += _units(candidate, seed, config.seeds, possible, write)
    return Plan(tuple(units), collapsed, impossible)


def training_protocol(config: RunConfig, model: str, variant: Variant, rewordings: Mapping[str, str]) -> dict[str, Any]:
    """The settings that decide the weights of a variant: what its trained features are stored under."""
    if variant.regime == "frozen":
        return {}
    training = config.heads_training if variant.regime == "heads" else config.full_training
    settings = training.model_dump(mode="json", exclude=set(FullTrainingConfig.SPEED_ONLY))
    settings["objective"] = training.objective.get(model, {})
    if variant.augmentation == "none":
        del settings["rewordings"], settings["alpha"]
    else:
        settings["augmentation"] = rewordings[variant.augmentation]
    return settings


def _same_as(variant: Variant) -> tuple[Variant, str]:
    if variant.regime == "frozen" and variant != FROZEN:
        return FROZEN, "nothing is trained in the frozen regime"
    if variant.regime == "heads" and variant.head.kind == "none":
        return FROZEN, "the towers are frozen and the head 'none' has nothing to train"
    return variant, ""


def _why_impossible(entry: ModelEntry, variant: Variant, has: Collection[Modality]) -> str:
    lacking = [_WORDS[modality] for modality in entry.card.inputs if modality not in has]
    if lacking:
        return f"it is scored from {' and '.join(lacking)}, and there are none to learn from"
    if variant.regime == "frozen":
        return ""
    if "text" not in has:
        return "training pairs pictures with reports, and fewer than two training samples have one"
    if variant.regime in entry.regimes:
        return ""
    if "text" not in entry.card.encodes:
        return "training pairs pictures with reports, and this model encodes no text"
    return "this model passes no gradients to its towers"


_WORDS: dict[Modality, str] = {"image": "pictures", "text": "reports", "structured": "structured columns"}


def _units(
    candidate: Candidate,
    seed: int,
    seeds: Sequence[int],
    possible: Sequence[Variant],
    write: Callable[[Candidate, Variant, int], CellSpec],
) -> list[Unit]:
    # Published weights do not depend on the seed: every seed's heads are trained on the same features, in one unit,
    # and the frozen row, which has nothing random left in it, is run once.
    together = [seed] if candidate.weights[seed].kind == "random" else list(seeds)
    shared = [
        (variant, write(candidate, variant, at))
        for variant in possible
        if variant.regime != "full"
        for at in ([seed] if variant == FROZEN else together)
    ]
    units = [Unit("towers", candidate, seed, tuple(shared))] if shared else []
    for variant in possible:
        if variant.regime == "full":
            units += [Unit("full", candidate, at, ((variant, write(candidate, variant, at)),)) for at in together]
    return units


def _spec(
    config: RunConfig,
    candidate: Candidate,
    variant: Variant,
    seed: int,
    *,
    rewordings: Mapping[str, str],
    dataset: str,
    fingerprint: str,
    content: str,
    precision: str,
) -> CellSpec:
    entry = candidate.registered.entry
    return CellSpec(
        model=candidate.registered.name,
        model_version=entry.card.version,
        provider=candidate.registered.provider,
        scale=config.scale,
        weights="none" if entry.kind == "naive" else candidate.at(seed).digest,
        regime=variant.regime,
        augmentation=variant.augmentation,
        head=str(variant.head),
        seed=seed,
        dataset=dataset,
        split=fingerprint,
        content=content,
        protocol={
            "evaluation": config.evaluation.model_dump(mode="json"),
            "training": training_protocol(config, candidate.registered.name, variant, rewordings),
            "precision": precision,
        },
        protocol_version=PROTOCOL_VERSION,
    )


def _regimes(cells: Sequence[tuple[Variant, CellSpec]]) -> list[str]:
    return list(dict.fromkeys(variant.regime for variant, _ in cells))
