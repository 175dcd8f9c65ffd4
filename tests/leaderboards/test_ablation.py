"""The page of the factorial read-out shows every effect once, says which intervals leave 0 out, and never more."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from benchmark.evaluate.factorial import Factorial
from leaderboards.ablation import Ablation, make_ablation
from leaderboards.build import build
from leaderboards.figures import Point, interaction, pareto_front
from leaderboards.view import make_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))


@pytest.fixture(scope="module")
def demo():
    run, results = DEMO["demo"]()
    return run, results, DEMO["analysis"](results)


@pytest.fixture(scope="module")
def ablation(demo) -> Ablation:
    found = make_ablation(make_page(*demo))
    assert found is not None
    return found


def test_effects_are_grouped_by_what_was_changed(ablation):
    names = {part.key: [contrast.name for contrast in part.contrasts] for part in ablation.parts}
    assert names == {
        "regime": ["full against heads"],
        "augmentation": ["eda against none"],
        "head": [],
        "interaction": ["eda with mlp-64, beyond eda with linear-64"],
    }
    assert {part.key: part.not_varied for part in ablation.parts}["head"] == "only in one regime"


def test_one_effect_over_everything_then_by_regime_then_by_model(ablation):
    (contrast,) = next(part for part in ablation.parts if part.key == "augmentation").contrasts
    assert (contrast.overall.who, contrast.overall.text) == ("All models", "−0.060")
    assert [line.who for line in contrast.by_regime] == ["in full"]
    assert [line.who for line in contrast.by_model] == ["ConVIRT"]


def test_the_verdict_follows_the_interval(ablation):
    parts = {part.key: part for part in ablation.parts}
    assert parts["regime"].contrasts[0].overall.verdict == "better"
    assert parts["augmentation"].contrasts[0].overall.verdict == "worse"
    assert parts["augmentation"].contrasts[0].by_regime[0].verdict == "not distinguishable"
    assert parts["augmentation"].contrasts[0].by_model[0].verdict == "no interval"
    assert parts["augmentation"].contrasts[0].by_model[0].title == "no interval: one patient"


def test_the_summary_has_a_sentence_for_each_contrast_over_everything(ablation):
    assert len(ablation.summary) == 3
    assert ablation.summary[0] == "full against heads: +0.050 ROC AUC (+0.020 to +0.080)."
    assert ablation.summary[2].endswith("not distinguishable from 0.")


def test_zero_is_on_the_scale(ablation):
    low, high = ablation.scale
    assert low <= 0 <= high
    bar = ablation.parts[0].contrasts[0].overall.bar
    assert bar is not None
    assert bar.mark == pytest.approx(100 * (0 - low) / (high - low), abs=0.06)


def test_without_effects_there_is_no_page_and_no_link_to_it(demo, tmp_path):
    run, results, analysis = demo
    for none in (None, Factorial(not_varied={"head": "one head"})):
        index = build(run, results, tmp_path, analysis=analysis.model_copy(update={"factorial": none}))
        assert not index.with_name("ablation.html").exists()
        assert "ablation.html" not in index.read_text(encoding="utf-8")


def test_the_interaction_is_drawn_where_both_choices_were_varied(demo):
    means = demo[2].factorial.means
    drawn = interaction(means, metric="ROC AUC")
    assert drawn is not None
    assert "heads, eda, mlp-64: 0.730" in drawn
    assert interaction([mean for mean in means if mean.head == "mlp-64"], metric="ROC AUC") is None


def point(model: str, value: float, speed: float) -> Point:
    return Point(model, "full", value, value, value, speed, chosen=True, reference=False)


def test_the_pareto_front_keeps_what_nothing_beats_in_both():
    points = [
        point("slow, best", 0.9, 10),
        point("beaten", 0.7, 50),
        point("middle", 0.8, 100),
        point("fast", 0.6, 500),
    ]
    assert [p.model for p in pareto_front(points)] == ["slow, best", "middle", "fast"]
    assert [p.model for p in pareto_front([point("a", 0.5, 10), point("b", 0.5, 20)])] == ["b"]
    assert pareto_front([]) == []
