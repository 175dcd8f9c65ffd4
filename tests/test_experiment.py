"""Experiment files: what is wrong is named, ours all load and plan, and settings are laid over each other in order."""

from __future__ import annotations

from functools import cache, partial
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from benchmark import experiment as module
from benchmark.config import PRESETS
from benchmark.data import phantom
from benchmark.errors import BadInput
from benchmark.evaluate.metrics import Classification
from benchmark.experiment import METRICS, Comparison, find, installed, parse
from benchmark.progress import Reporter
from benchmark.registry import Registry
from benchmark.run import prepare
from benchmark.study import check_task, configurations, default_folder
from leaderboards.experiment import label

DRAW = {"draw": phantom.draw, "draw_elsewhere": phantom.draw_elsewhere}
OURS = ("augmentation-impact", "external", "multi-class", "no-projection", "projection", "table2")

SMALLEST = {
    "name": "mine",
    "title": "Mine",
    "question": "Is it?",
    "runs": [{"name": "one", "title": "One"}],
    "page": {"columns": [{"metric": "primary"}]},
}


def read(**changes: object):
    return parse(yaml.safe_dump({**SMALLEST, **changes}), "mine.yaml")


# --------------------------------------------------------------------------------------------- the file


def test_the_smallest_file_is_enough():
    assert read().page.columns[0].evaluator == "probe_standard"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quesion": "?"}, r"mine.yaml: quesion: there is no such field \(did you mean 'question'\?\)"),
        (
            {"page": {"columns": [{"metric": "f1_makro"}]}},
            r"page.columns.0.metric: unknown metric 'f1_makro' \(did you mean 'f1_macro'",
        ),
        ({"page": {"columns": []}}, "page.columns: .*at least 1"),
        ({"runs": []}, "runs: .*at least 1"),
        ({"runs": [{"name": "a", "title": "A"}] * 2}, "runs: two have the name 'a'"),
        ({"runs": [{"name": "../a", "title": "A"}]}, "runs.0.name: String should match"),
        (
            {"compare": {"axis": "run", "base": "onee", "columns": [{"metric": "primary"}]}},
            r"there is no run 'onee' \(did you mean 'one'\?\)",
        ),
        (
            {
                "paper": {
                    "citation": "c",
                    "place": "p",
                    "figures": [{"model": "m", "title": "M", "figures": {"mcc": 95}}],
                }
            },
            "paper.figures.0.figures.mcc: Input should be less than or equal to 1",
        ),
        ({"title": None}, "title: Input should be a valid string"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changes, message):
    with pytest.raises(BadInput, match=message):
        read(**changes)


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(text):
    with pytest.raises(BadInput, match=r"mine.yaml: (an experiment is a mapping|not readable as YAML)"):
        parse(text, "mine.yaml")


def test_every_metric_that_is_computed_can_be_a_column_and_has_words():
    """What the three tasks give is in the list, and every name in the list can be printed."""
    import numpy as np

    rng = np.random.default_rng(0)
    for task, classes, labels in (
        ("binary", "ab", np.array([0, 1] * 5)),
        ("multiclass", "abc", np.array([0, 1, 2] * 4)),
        ("multilabel", "ab", np.array([[0, 1], [1, 0]] * 5)),
    ):
        scores = rng.dirichlet(np.ones(len(classes)), len(labels))
        given = Classification(task, labels, scores, classes=tuple(classes), probabilities=True)(
            np.ones((len(labels), 1))
        )
        assert set(given) <= set(METRICS)
    for metric in set(METRICS) - {"primary"}:
        words = label(module.Column(metric=metric))
        assert words[0].isupper()
        for averaging in ("binary", "macro", "weighted"):
            assert (averaging in words) == (metric.split("_")[-1] == averaging)


def test_bases_may_differ_by_value():
    one = Comparison.model_validate({"axis": "head", "base": {"mlp-8": "linear-8"}, "columns": [{"metric": "mcc"}]})
    assert (one.base_of("mlp-8"), one.base_of("linear-8")) == ("linear-8", None)
    other = Comparison.model_validate({"axis": "augmentation", "base": "none", "columns": [{"metric": "mcc"}]})
    assert (other.base_of("eda"), other.base_of("none")) == ("none", None)


# --------------------------------------------------------------------------------------------- finding


def test_ours_are_installed_and_sound():
    known, broken = installed()
    assert set(OURS) <= set(known)
    assert broken == ()


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(BadInput, match=r"unknown experiment 'tabel2' \(did you mean 'table2'\?\); known: augm"):
        find("tabel2")
    with pytest.raises(BadInput, match=r"none.yaml is not an experiment file that can be read"):
        find("none.yaml")


class Text:
    """A resource of somebody's package."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read_text(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Text("name: mine"), "experiment 'theirs' cannot be used: somewhere:ENTRY: title: is missing"),
        (Text(yaml.safe_dump(SMALLEST)), "it is registered as 'theirs' but calls itself 'mine'"),
        (7, r"somewhere:ENTRY has no read_text\(\)"),
        (ImportError("no module"), "somewhere:ENTRY raises ImportError: no module"),
    ],
)
def test_a_broken_file_of_a_distribution_is_a_sentence_and_the_others_stand(monkeypatch, entry, message):
    class Point(EntryPoint):
        def load(self):
            if isinstance(entry, Exception):
                raise entry
            return entry

    ours = tuple(module.entry_points(group=module.EXPERIMENTS))
    broken = Point("theirs", "somewhere:ENTRY", module.EXPERIMENTS)
    monkeypatch.setattr(module, "entry_points", lambda **_: (*ours, broken))
    known, sentences = installed()
    assert set(OURS) <= set(known)
    assert len(sentences) == 1
    with pytest.raises(BadInput, match=message):
        find("theirs")


# --------------------------------------------------------------------------------------------- planning


@pytest.fixture
def small_phantom(monkeypatch):
    """Every phantom is one of few small pictures, drawn once."""
    for name in ("draw", "draw_elsewhere"):
        monkeypatch.setattr(phantom, name, partial(_drawn, DRAW[name]))


@cache
def _drawn(draw, _patients: int, task: str):
    return draw(40, size=24, task=task)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", OURS)
def test_every_experiment_plans_under_every_preset(name, preset, tmp_path, small_phantom):
    """All settings are known ones, all models registered, and nothing that it asks for is impossible."""
    known = Registry.load()
    chosen = find(name)
    wanted = chosen.settings["augmentations"]
    options = {"out": tmp_path / "e", "weights": "random"}
    options["augmentations"] = [a for a in wanted if a == "none" or a in known.augmentations()]
    for config in configurations(chosen, preset, options).values():
        prepared = prepare(config, known, Reporter(Console(quiet=True)))
        check_task(chosen, prepared)
        assert {spec.model for spec in prepared.plan.specs} == set(chosen.settings["models"])
        assert not prepared.plan.impossible
    assert {each.model for each in (chosen.paper.figures if chosen.paper else ())} <= set(chosen.settings["models"])


def test_projection_is_the_eighteen_variants_of_the_paper(tmp_path, small_phantom):
    (config,) = configurations(find("projection"), "quick", {"out": tmp_path}).values()
    prepared = prepare(config, Registry.load(), Reporter(Console(quiet=True)))
    full = [spec for spec in prepared.plan.specs if spec.regime == "full"]
    assert len({(spec.model, spec.head) for spec in full}) == len(full) == 18


def test_the_lines_options_win_over_a_run_over_a_preset_over_the_file(tmp_path):
    mine = read(
        settings={"seeds": [1], "heads": ["linear-8"], "split_seed": 1, "encode_batch": 7},
        presets={"quick": {"heads": ["linear-16"], "split_seed": 2}},
        runs=[{"name": "one", "title": "One", "settings": {"split_seed": 3}}],
    )
    (config,) = configurations(mine, "quick", {"out": tmp_path, "seeds": ("5",)}).values()
    assert (config.seeds, config.heads, config.split_seed, config.encode_batch) == ((5,), ("linear-16",), 3, 7)
    assert config.scale == "tiny"
    assert config.out == tmp_path / "one"
    assert config.cache == tmp_path.parent / ".cache"


def test_a_wrong_setting_is_named_with_its_experiment(tmp_path):
    with pytest.raises(BadInput, match=r"experiment mine: hedas: there is no such setting \(did you mean 'heads'\?\)"):
        configurations(read(settings={"hedas": []}), "quick", {"out": tmp_path})
    with pytest.raises(BadInput, match=r"option --seeds: .*integer"):
        configurations(read(settings={"seeds": [0]}), "quick", {"out": tmp_path, "seeds": ("x",)})
    with pytest.raises(BadInput, match="unknown preset 'quik'"):
        configurations(read(), "quik", {"out": tmp_path})


def test_another_dataset_goes_to_the_run_that_tests_on_one(tmp_path):
    chosen = find("external")
    options = {"out": tmp_path, "data": Path("ours.yaml"), "external": "theirs.yaml"}
    configs = configurations(chosen, "quick", options)
    assert configs["internal"].external is None
    assert configs["external"].external == Path("theirs.yaml")
    assert configurations(chosen, "quick", {"out": tmp_path})["external"].external == "embedded"
    with pytest.raises(BadInput, match="tests on another dataset than --data: give --external CARD"):
        configurations(chosen, "quick", {"out": tmp_path, "data": Path("ours.yaml")})
    with pytest.raises(BadInput, match="'table2' has no run on another dataset"):
        configurations(find("table2"), "quick", options)


def test_folders_are_named_after_experiment_data_and_preset(tmp_path):
    (tmp_path / "card.yaml").write_text("name: my spine\nmanifest: m.csv\ntask: binary\nlabel: y\n")
    assert default_folder(find("table2"), "quick", {}) == Path("runs/experiments/table2-quick")
    named = default_folder(find("table2"), "paper", {"data": tmp_path / "card.yaml"})
    assert named == Path("runs/experiments/table2-my-spine-paper")
