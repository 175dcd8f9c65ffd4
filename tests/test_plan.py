"""The planner: what is collapsed, what is impossible, and what a cell's id depends on."""

from pathlib import Path

import pytest

from benchmark.config import make_config
from benchmark.errors import MissingWeights
from benchmark.model import HeadSpec, Modality
from benchmark.plan import FROZEN, Candidate, Plan, Variant, plan, variants
from benchmark.registry import Registry
from benchmark.run import find_candidates, passes
from benchmark.weights import ResolvedWeights, resolve

AXES = {"regimes": ["frozen", "heads", "full"], "augmentations": ["none", "eda"], "heads": ["none", "linear-8"]}


def planned(
    toy_file: Path,
    *,
    models: tuple[str, ...] = ("toy",),
    has: tuple[Modality, ...] = ("image", "text", "structured"),
    fingerprint: str = "f",
    content: str = "c",
    precision: str = "fp32",
    **options: object,
) -> Plan:
    config = make_config("quick", None, {**AXES, "plugins": [toy_file], **options})
    registry = Registry.load(config.plugins)
    candidates = []
    for registered in registry.select_models(models):
        weights = {s: resolve(registered.entry.card, config.weights, None, seed=s) for s in config.seeds}
        candidates.append(Candidate(registered, weights))
    return plan(
        config,
        candidates,
        dataset="d",
        fingerprint=fingerprint,
        content=content,
        has=has,
        precision=precision,
        rewordings={"eda": "1"},
    )


def test_meaningless_variants_are_run_once_and_named() -> None:
    kept, collapsed = variants(make_config("quick", None, AXES))
    linear = HeadSpec("linear", 8)
    assert set(kept) == {
        FROZEN,
        *(Variant("heads", a, linear) for a in ("none", "eda")),
        *(Variant("full", a, h) for a in ("none", "eda") for h in (HeadSpec("none"), linear)),
    }
    assert len(kept) + len(collapsed) == 3 * 2 * 2 + 0
    assert all("the same as frozen / none / none" in why for why in collapsed.values())


def test_frozen_and_heads_cells_share_a_unit_and_each_full_training_has_its_own(toy_file: Path) -> None:
    units = planned(toy_file).units
    assert [unit.kind for unit in units] == ["towers", "full", "full", "full", "full"]
    assert len(units[0].cells) == 3


def test_models_that_only_published_weights_tell_apart_share_their_random_rows(toy_file: Path) -> None:
    both = planned(toy_file, models=("gloria-benchx", "gloria"))
    assert {unit.candidate.registered.name for unit in both.units} == {"gloria"}
    assert both.collapsed["gloria-benchx"] == (
        "the towers and objective of gloria, trained by others: with random weights it has no rows beside it"
    )
    alone = planned(toy_file, models=("gloria-benchx",))
    assert {unit.candidate.registered.name for unit in alone.units} == {"gloria-benchx"}


@pytest.mark.parametrize("published", [{"gloria", "gloria-benchx"}, {"gloria"}, {"gloria-benchx"}])
def test_published_weights_always_have_rows_of_their_own(published: set[str]) -> None:
    config = make_config("quick", None, {"regimes": ["frozen"]})
    candidates = [
        Candidate(
            Registry.load().model(name),
            {0: ResolvedWeights("pretrained" if name in published else "random", digest=name)},
        )
        for name in ("gloria", "gloria-benchx")
    ]
    fixed = {"dataset": "d", "fingerprint": "f", "content": "c", "has": ("image",), "precision": "fp32"}
    result = plan(config, candidates, rewordings={}, **fixed)
    assert {unit.candidate.registered.name for unit in result.units} == {"gloria", "gloria-benchx"}


@pytest.mark.parametrize("kind", ["random", "path"])
def test_a_row_that_is_its_published_weights_is_left_out_by_name_with_others(kind: str) -> None:
    """It never stands in a table under its name with weights that are not those."""
    result = plan_imagenet(ResolvedWeights("random" if kind == "random" else "path", digest="d"))
    assert result.units == ()
    assert list(result.impossible) == ["imagenet-resnet50"]
    assert "its published weights" in result.impossible["imagenet-resnet50"]


def test_a_naive_encoder_has_one_frozen_cell_whatever_the_axes() -> None:
    result = plan_imagenet(ResolvedWeights("pretrained", digest="d"))
    assert [(u.kind, [variant for variant, _ in u.cells]) for u in result.units] == [("towers", [FROZEN])]
    assert result.impossible == {}


def plan_imagenet(weights: ResolvedWeights) -> Plan:
    config = make_config("quick", None, {**AXES, "seeds": [0, 1]})
    fixed = {"dataset": "d", "fingerprint": "f", "content": "c", "has": ("image", "text"), "precision": "fp32"}
    candidate = Candidate(Registry.load().model("imagenet-resnet50"), {0: weights})
    return plan(config, [candidate], rewordings={"eda": "1"}, **fixed)


def test_of_all_models_only_what_is_nothing_without_its_weights_may_lack_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of all models goes on without it and says so; asked for by name, it is missed as any other."""
    monkeypatch.setattr("benchmark.weights.default_folder", lambda: tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    registry = Registry()
    for name in ("imagenet-resnet50", "majority"):
        registry._models.usable[name] = Registry.load().model(name)
    config = make_config("standard", None, {"models": ["all"]})
    candidates, absent = find_candidates(config, registry)
    assert [candidate.registered.name for candidate in candidates] == ["majority"]
    assert absent == {
        "imagenet-resnet50": "its published weights are not on this machine; "
        "'python -m benchmark weights fetch imagenet-resnet50' gets them"
    }
    named = make_config("standard", None, {"models": ["all", "imagenet-resnet50"]})
    with pytest.raises(MissingWeights, match="imagenet-resnet50"):
        find_candidates(named, registry)


def test_among_several_processes_the_longest_trainings_go_first(toy_file: Path) -> None:
    units = planned(toy_file, models=("majority", "toy")).units
    ordered = sorted(units, key=passes, reverse=True)
    assert [unit.kind for unit in ordered] == ["full"] * 4 + ["naive", "towers"]
    assert [unit.cells[0][0].augmentation for unit in ordered[:4]] == ["eda", "eda", "none", "none"]


def test_naive_rows_come_first_and_have_one_cell_whatever_the_axes(toy_file: Path) -> None:
    units = planned(toy_file, models=("toy", "majority")).units
    assert [unit.kind for unit in units][:2] == ["naive", "towers"]
    assert len(units[0].cells) == 1
    assert units[0].cells[0][1].weights == "none"


def test_random_weights_differ_by_seed_so_every_seed_is_embedded(toy_file: Path) -> None:
    units = planned(toy_file, seeds=[0, 1], regimes=["frozen", "heads"]).units
    assert [(u.kind, u.seed, len(u.cells)) for u in units] == [("towers", 0, 3), ("towers", 1, 3)]


def test_without_reports_only_frozen_rows_are_left_and_the_plan_says_why(toy_file: Path) -> None:
    result = planned(toy_file, has=("image",))
    assert [variant for unit in result.units for variant, _ in unit.cells] == [FROZEN]
    assert result.impossible
    assert all("fewer than two training samples have one" in why for why in result.impossible.values())


@pytest.mark.parametrize(("row", "lacks"), [("tfidf-report", "reports"), ("metadata-only", "structured columns")])
def test_a_naive_row_whose_input_is_absent_is_left_out_by_name(toy_file: Path, row: str, lacks: str) -> None:
    result = planned(toy_file, models=(row,), has=("image",))
    assert result.units == ()
    assert list(result.impossible.values()) == [f"it is scored from {lacks}, and there are none to learn from"]


def test_a_model_without_gradients_has_no_full_regime(toy_file: Path) -> None:
    result = planned(toy_file, models=("toy-image",))
    assert {unit.kind for unit in result.units} == {"towers"}
    assert any("no gradients" in why for why in result.impossible.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "g"},
        {"full_training": {"epochs": 3}},
        {"evaluation": {"replicates": 7}},
        {"precision": "bf16"},
        {"content": "d"},
    ],
)
def test_whatever_changes_the_numbers_changes_the_id(toy_file: Path, changed: dict[str, object]) -> None:
    before = {s.id for s in planned(toy_file, regimes=["full"]).specs}
    assert before.isdisjoint(s.id for s in planned(toy_file, regimes=["full"], **changed).specs)


def test_what_does_not_change_the_numbers_leaves_the_id(toy_file: Path) -> None:
    before = [s.id for s in planned(toy_file).specs]
    assert [s.id for s in planned(toy_file, encode_batch=3, out="elsewhere").specs] == before
    frozen = {s.id for s in planned(toy_file, regimes=["frozen"], full_training={"epochs": 3}).specs}
    assert frozen <= set(before)


def test_rewordings_count_only_where_texts_are_augmented(toy_file: Path) -> None:
    few, many = (planned(toy_file, regimes=["full"], full_training={"rewordings": n}).specs for n in (1, 4))
    same = {s.augmentation for s, t in zip(few, many, strict=True) if s.id == t.id}
    differ = {s.augmentation for s, t in zip(few, many, strict=True) if s.id != t.id}
    assert (same, differ) == ({"none"}, {"eda"})
