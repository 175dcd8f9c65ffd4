"""The read-out of the design: exact where effects are known, indifferent to names, honest in its intervals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.evaluate.factorial import Effect, Factorial, factorial
from benchmark.evaluate.resample import patient_weights
from benchmark.result import CellSpec

GROUPS = np.arange(40)
MODEL = {"A": 0.5, "B": 0.6}
REGIME = {"heads": 0.02, "full": 0.07}
AUGMENTATION = {"none": 0.0, "eda": 0.01, "mllm": 0.04}
HEAD = {"none": 0.0, "linear-8": 0.03, "mlp-8": 0.05}


def spec(model="A", regime="full", augmentation="none", head="linear-8", seed=0, weights="published") -> CellSpec:
    return CellSpec(
        model=model,
        model_version="1",
        provider="test",
        scale="tiny",
        weights=weights,
        regime=regime,
        augmentation=augmentation,
        head=head,
        seed=seed,
        dataset="d",
        split="s",
        content="c",
        protocol={},
    )


def design(models=MODEL, seeds=(0,)) -> list[CellSpec]:
    """All that a plan has of these axes: one frozen row a model, and no head 'none' where the towers are frozen."""
    rows = []
    for model in models:
        rows.append(spec(model, "frozen", "none", "none"))
        for regime, augmentation, head in product(REGIME, AUGMENTATION, HEAD):
            if (regime, head) != ("heads", "none"):
                rows += [spec(model, regime, augmentation, head, seed) for seed in seeds]
    return rows


def additive(row: CellSpec) -> float:
    if row.regime == "frozen":
        return MODEL[row.model]
    return MODEL[row.model] + REGIME[row.regime] + AUGMENTATION[row.augmentation] + HEAD[row.head]


def read(rows, values, replicates=None) -> Factorial:
    values = np.asarray(values, dtype=np.float64)
    drawn = np.repeat(values[:, None], 3, axis=1) if replicates is None else replicates
    return factorial(rows, values, drawn, GROUPS)


def effect(found: Factorial, axis: str, level: str, *, base="", model="", regime="") -> Effect:
    (one,) = [
        e
        for e in found.effects
        if (e.axis, e.level, e.model, e.regime) == (axis, level, model, regime) and base in ("", e.base)
    ]
    return one


def test_an_additive_table_gives_its_own_effects_and_no_interaction():
    rows = design(seeds=(0, 1))
    found = read(rows, [additive(row) for row in rows])
    for level, value in {"eda": 0.01, "mllm": 0.04}.items():
        for model, regime in product(["", "A", "B"], ["", "heads", "full"]):
            one = effect(found, "augmentation", level, model=model, regime=regime)
            assert one.base == "none"
            assert one.estimate.value == pytest.approx(value)
            assert one.estimate.low == pytest.approx(value)
    for level, value in {"none": -0.03, "mlp-8": 0.02}.items():
        one = effect(found, "head", level)
        assert one.base == "linear-8"
        assert one.estimate.value == pytest.approx(value)
    assert effect(found, "regime", "full", base="heads").estimate.value == pytest.approx(0.05)
    assert found.interactions
    assert all(i.estimate.value == pytest.approx(0, abs=1e-12) for i in found.interactions)
    assert found.not_varied == {}


def test_pairs_are_those_that_a_hand_would_count():
    """Two models; heads has two heads and full has three; a frozen row is paired with each trained one."""
    found = read(design(seeds=(0, 1, 2)), [0.5] * len(design(seeds=(0, 1, 2))))
    assert effect(found, "augmentation", "eda").pairs == 2 * (2 + 3)
    assert effect(found, "augmentation", "eda", regime="heads", model="A").pairs == 2
    assert effect(found, "head", "mlp-8").pairs == 2 * (3 + 3)
    assert effect(found, "head", "none").pairs == 2 * 3
    assert effect(found, "regime", "heads", base="frozen").pairs == 2 * 6
    assert effect(found, "regime", "full", base="heads").pairs == 2 * 6
    assert effect(found, "regime", "full", base="frozen").pairs == 2 * 9
    of = {(i.augmentation, i.head): i.pairs for i in found.interactions if not i.model and not i.regime}
    assert of == {("eda", "mlp-8"): 4, ("eda", "none"): 2, ("mllm", "mlp-8"): 4, ("mllm", "none"): 2}


def test_a_frozen_row_stands_for_every_variant_of_its_regime_and_adds_no_zeros_to_the_other_axes():
    rows = design()
    found = read(rows, [additive(row) for row in rows])
    trained = [row for row in rows if row.regime == "heads" and row.model == "A"]
    mean = np.mean([additive(row) - MODEL["A"] for row in trained])
    assert effect(found, "regime", "heads", base="frozen", model="A").estimate.value == pytest.approx(mean)
    without = [row for row in rows if row.regime != "frozen"]
    same = read(without, [additive(row) for row in without])
    for axis in ("augmentation", "head"):
        assert [e for e in found.effects if e.axis == axis] == [e for e in same.effects if e.axis == axis]


def test_an_interaction_is_what_the_augmentation_does_more_with_one_head():
    rows = design(["A"])
    extra = [0.008 * (row.augmentation == "eda" and row.head == "mlp-8" and row.regime == "full") for row in rows]
    found = read(rows, [additive(row) + more for row, more in zip(rows, extra, strict=True)])
    of = {(i.augmentation, i.head, i.regime): i.estimate.value for i in found.interactions}
    assert of["eda", "mlp-8", "full"] == pytest.approx(0.008)
    assert of["eda", "mlp-8", "heads"] == pytest.approx(0)
    assert of["eda", "mlp-8", ""] == pytest.approx(0.004)
    assert of["mllm", "mlp-8", "full"] == pytest.approx(0)


def test_every_model_weighs_the_same_however_many_variants_it_has():
    """A has three pairs of +0.03, B one of +0.01: the mean of models is 0.02, their spread that of two numbers."""
    rows = [spec("A", head=h, augmentation=a) for h in ("linear-8", "mlp-8", "none") for a in ("none", "eda")]
    rows += [spec("B", augmentation=a) for a in ("none", "eda")]
    found = read(rows, [0.5, 0.53] * 3 + [0.6, 0.61])
    over = effect(found, "augmentation", "eda")
    assert over.estimate.value == pytest.approx(0.02)
    assert (over.pairs, over.models) == (4, 2)
    assert over.models_sd == pytest.approx(np.std([0.03, 0.01], ddof=1))
    assert np.isnan(effect(found, "augmentation", "eda", model="B").models_sd)
    assert effect(found, "augmentation", "eda", model="B").estimate.value == pytest.approx(0.01)


def test_rows_that_are_missing_are_missed_by_their_pairs_alone():
    """Without one figure, the pairs that it was in are gone and the others stay; seeds that remain are averaged."""
    rows = design(["A"], seeds=(0, 1))
    values = np.array([additive(row) for row in rows])
    values[[row.augmentation == "eda" and row.head == "mlp-8" and row.regime == "full" for row in rows]] = np.nan
    values[[row.augmentation == "mllm" and row.seed == 1 for row in rows]] = np.nan
    found = read(rows, values)
    assert effect(found, "augmentation", "eda", regime="full").pairs == 2
    assert effect(found, "augmentation", "mllm", regime="full").pairs == 3
    assert effect(found, "augmentation", "eda").estimate.value == pytest.approx(0.01)
    assert {(m.augmentation, m.head) for m in found.means if m.regime == "full"} == set(product(AUGMENTATION, HEAD)) - {
        ("eda", "mlp-8")
    }


def test_pairs_are_of_one_seed_and_a_frozen_row_of_published_weights_is_of_every_seed():
    """Seed 1 starts 0.4 higher; where only one side has it, it is not compared with seed 0."""
    both = [spec(seed=s, weights=f"random:{s}") for s in (0, 1)]
    eda = [spec(augmentation="eda", seed=1, weights="random:1")]
    assert effect(read([*both, *eda], [0.5, 0.9, 0.95]), "augmentation", "eda").estimate.value == pytest.approx(0.05)
    assert not read([both[0], *eda], [0.5, 0.95]).effects
    trained = [spec(regime="heads", seed=s) for s in (1, 2)]
    frozen = spec(regime="frozen", head="none")
    assert effect(read([frozen, *trained], [0.5, 0.6, 0.8]), "regime", "heads").estimate.value == pytest.approx(0.2)
    thawed = [row.model_copy(update={"weights": "random:0"}) for row in (frozen, *trained)]
    assert not read(thawed, [0.5, 0.6, 0.8]).effects


def test_an_interaction_is_taken_over_the_seeds_that_all_four_have():
    rows = [spec(augmentation=a, head=h, seed=s) for a, h, s in product(("none", "eda"), ("linear-8", "mlp-8"), (0, 1))]
    values = np.array([0.5, 0.9, 0.5, 0.9, 0.5, 0.9, 0.6, np.nan])
    (found,) = read(rows, values).interactions
    assert found.estimate.value == pytest.approx(0.1)


def test_points_over_models_compare_the_same_models():
    """B lacks one cell, so the points over models are those of A alone; in heads both have all of theirs."""
    rows = [r for r in design() if (r.model, r.regime, r.augmentation, r.head) != ("B", "full", "eda", "none")]
    found = read(rows, [additive(row) for row in rows])
    over = {(m.regime, m.augmentation, m.head): m for m in found.means if not m.model}
    assert over["full", "mllm", "mlp-8"].models == 1
    assert over["full", "mllm", "mlp-8"].estimate.value == pytest.approx(0.5 + 0.07 + 0.04 + 0.05)
    assert over["heads", "eda", "linear-8"].models == 2
    assert over["heads", "eda", "linear-8"].estimate.value == pytest.approx(0.55 + 0.02 + 0.01 + 0.03)
    assert over["frozen", "none", "none"].estimate.value == pytest.approx(0.55)
    assert not any(
        m.model == "B" and (m.regime, m.augmentation, m.head) == ("full", "eda", "none") for m in found.means
    )


def test_axes_that_were_not_varied_are_named():
    alone = read([spec(head=h) for h in ("linear-8", "mlp-8")], [0.5, 0.6])
    assert alone.not_varied == {
        "regime": "every row is of the regime 'full'",
        "augmentation": "every trained row has the augmentation 'none'",
        "interaction": "augmentation not varied",
    }
    frozen = read([spec(model, "frozen", "none", "none") for model in MODEL], [0.5, 0.6])
    assert frozen.not_varied["head"] == "nothing was trained"
    assert not frozen.effects
    apart = read([spec("A"), spec("B", augmentation="eda", head="mlp-8")], [0.5, 0.6])
    assert apart.not_varied["augmentation"] == "no two variants of a model differ in it alone"
    uncrossed = read([spec(), spec(augmentation="eda"), spec(head="mlp-8")], [0.5, 0.6, 0.7])
    assert uncrossed.not_varied == {
        "regime": "every row is of the regime 'full'",
        "interaction": "no model has two heads with and without an augmentation",
    }


def test_without_the_usual_base_the_first_level_is_it():
    rows = [spec(augmentation=a, head=h) for a in ("mllm", "eda") for h in ("mlp-8", "none")]
    found = read(rows, [0.5, 0.6, 0.7, 0.8])
    assert {(e.axis, e.level, e.base) for e in found.effects} == {
        ("augmentation", "eda", "mllm"),
        ("head", "none", "mlp-8"),
    }


def numbers(rows, seed) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.4, 0.9, len(rows))
    return values, values[:, None] + rng.normal(0, 0.05, (len(rows), 60))


def some(rows, seed) -> list[CellSpec]:
    """A design with holes."""
    keep = np.random.default_rng(seed).random(len(rows)) < 0.7
    return [row for row, kept in zip(rows, keep, strict=True) if kept]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_names_and_order_of_models_change_nothing_over_models(seed):
    rows = some(design(seeds=(0, 1)), seed)
    values, drawn = numbers(rows, seed)
    renamed = [row.model_copy(update={"model": {"A": "Z", "B": "Y"}[row.model]}) for row in rows]
    last = np.argsort([row.model == "A" for row in rows], kind="stable")
    one = read(rows, values, drawn)
    other = read([renamed[i] for i in last], values[last], drawn[last])

    def figures(found):
        return {
            (type(e).__name__, e.axis, e.level, e.base, e.regime): (e.estimate.value, e.estimate.low, e.pairs)
            for e in found.effects
            if not e.model
        }

    a, b = figures(one), figures(other)
    if one.effects and {e.base for e in one.effects} == {e.base for e in other.effects}:
        assert a.keys() == b.keys()
        assert all(a[key] == pytest.approx(b[key]) for key in a)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-1, 1), scale=st.sampled_from([-1.0, 0.5, 3.0]))
def test_effects_ignore_what_all_rows_share_and_turn_with_the_sign(seed, shift, scale):
    rows = some(design(), seed)
    values, drawn = numbers(rows, seed)
    plain, moved = read(rows, values, drawn), read(rows, shift + scale * values, shift + scale * drawn)
    for a, b in zip([*plain.effects, *plain.interactions], [*moved.effects, *moved.interactions], strict=True):
        ends = sorted([scale * a.estimate.low, scale * a.estimate.high])
        assert b.estimate.value == pytest.approx(scale * a.estimate.value, abs=1e-9)
        assert (b.estimate.low, b.estimate.high) == pytest.approx(ends, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_swapping_two_levels_turns_the_sign_of_their_contrast(seed):
    rows = [spec(m, augmentation=a, head=h) for m, a, h in product("AB", ("none", "eda"), ("linear-8", "mlp-8"))]
    values, drawn = numbers(rows, seed)
    other = {"none": "eda", "eda": "none"}
    swapped = [row.model_copy(update={"augmentation": other[row.augmentation]}) for row in rows]
    a, b = read(rows, values, drawn), read(swapped, values, drawn)
    for before, after in zip(a.effects, b.effects, strict=True):
        sign = -1 if before.axis == "augmentation" else 1
        assert after.estimate.value == pytest.approx(sign * before.estimate.value)
    for before, after in zip(a.interactions, b.interactions, strict=True):
        assert after.estimate.value == pytest.approx(-before.estimate.value)
        assert (after.estimate.low, after.estimate.high) == pytest.approx((-before.estimate.high, -before.estimate.low))


def test_intervals_are_those_of_the_paired_difference_by_hand():
    rows = [spec("A"), spec("A", augmentation="eda"), spec("B"), spec("B", augmentation="eda")]
    values, drawn = numbers(rows, 3)
    one = effect(read(rows, values, drawn), "augmentation", "eda")
    by_hand = ((drawn[1] - drawn[0]) + (drawn[3] - drawn[2])) / 2
    assert (one.estimate.low, one.estimate.high) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]))
    assert (one.estimate.n, one.estimate.n_patients) == (40, 40)


def test_intervals_of_effects_and_interactions_cover_the_truth_with_patients_of_several_pictures():
    """Nominal 95% covers 93-97% of 500 data sets of 100 patients: over models, for one, and for the interaction.

    A figure is a mean over pictures; patients are hard for all rows alike, and suit some models, augmentations and
    heads more than others, so that a row's pictures of one patient resemble each other in every difference.
    """
    rows = [spec(m, augmentation=a, head=h) for m, a, h in product("AB", ("none", "eda"), ("linear-8", "mlp-8"))]
    truth = np.array(
        [0.3 * (r.augmentation == "eda") + 0.2 * (r.augmentation != "none" and r.head == "mlp-8") for r in rows]
    )
    weights = patient_weights(np.arange(100), replicates=400, fingerprint="factorial") / 100
    rng, covered = np.random.default_rng(7), np.zeros(3)
    for _ in range(500):
        by_patient = rng.normal(size=100) + rng.normal(size=(len(rows), 100))
        figures = truth[:, None] + by_patient + rng.normal(size=(len(rows), 100, 3)).mean(axis=2)
        found = factorial(rows, figures.mean(axis=1), figures @ weights.T, np.repeat(np.arange(100), 3))
        of_augmentation = [effect(found, "augmentation", "eda", model=model) for model in ("", "A")]
        for i, (one, true) in enumerate(zip([*of_augmentation, found.interactions[0]], (0.4, 0.4, 0.2), strict=True)):
            covered[i] += one.estimate.low <= true <= one.estimate.high
    assert (covered >= 465).all(), covered
    assert (covered <= 485).all(), covered


def test_the_record_survives_its_file():
    found = read(design(), [additive(row) for row in design()])
    assert Factorial.model_validate_json(found.model_dump_json()).effects[0].pairs == found.effects[0].pairs
