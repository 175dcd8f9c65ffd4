"""Presets, YAML files and options: who wins, and what a mistake is told."""

from pathlib import Path

import pytest

from benchmark.cli import main
from benchmark.config import BY_SET, OPTIONS, PRESETS, RunConfig, from_words, make_config
from benchmark.errors import BadInput


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_reads_back_from_its_own_yaml(preset: str, tmp_path: Path) -> None:
    config = make_config(preset, None, {})
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert make_config("quick", file, {}) == config


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("heads: [mlp-8]\nseeds: [3]\n")
    config = make_config("quick", file, {"seeds": ["5"]})
    assert (config.heads, config.seeds, config.scale) == (("mlp-8",), (5,), "tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regimes": ["thawed"]}, r"option --regime: Input should be 'frozen', 'heads' or 'full' \(given: 'thawed'\)"),
        ({"heads": ["conv-3"]}, "unknown head 'conv-3'"),
        ({"seeds": ["x"]}, r"option --seeds: Input should be a valid integer.* \(given: 'x'\)"),
        ({"seeds": [-1]}, r"option --seeds: Input should be greater than or equal to 0 \(given: -1\)"),
        ({"split_seed": -1}, "greater than or equal to 0"),
        ({"workers": -2}, r"--workers: Input should be 'auto', or Input should be greater than .* \(given: -2\)"),
        (
            {"full_training": {"learning_rate": float("inf")}},
            "--set full_training.learning_rate: Input should be a finite",
        ),
        ({"evaluation": {"evaluators": ["knn"]}}, "evaluation.evaluators: must include probe_standard"),
        ({"models": "majority"}, r"models: Input should be a list \(given: 'majority'\)"),
        ({"models": []}, "models: needs at least one value"),
        ({"epochs": 2}, r"--set epochs: there is no such setting \(did you mean 'full_training.epochs'\?\)"),
        ({"shots": [2]}, r"--set shots: there is no such setting \(did you mean 'evaluation.shots'\?\)"),
        ({"full_training": {"sampling": "upsample", "imbalance": "class_balanced"}}, "evened out"),
        (
            {"full_training": {"epoch": 3}},
            r"--set full_training.epoch: there is no such setting \(did you mean 'epochs'\?\)",
        ),
    ],
)
def test_a_wrong_value_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_config("quick", None, options)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match="unknown preset 'fast'; choose one of quick, standard, paper"):
        make_config("fast", None, {})


@pytest.mark.parametrize("content", ["- a list", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(BadInput, match=r"config\.yaml"):
        make_config("quick", file, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.yaml is not a configuration file that can be read \(No such file"):
        make_config("quick", tmp_path / "none.yaml", {})


def test_a_group_that_is_given_in_part_keeps_the_rest_of_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("full_training: {epochs: 3, alpha: 0.1}\n")
    training = make_config("quick", file, from_words(["full_training.alpha=0.7"])).full_training
    preset = PRESETS["quick"]["full_training"]
    assert (training.epochs, training.alpha) == (3, 0.7)
    assert (training.batch_size, training.learning_rate) == (preset["batch_size"], preset["learning_rate"])


def test_set_reads_values_as_yaml() -> None:
    words = ["full_training.patience=null", "evaluation.shots=[1, 2]", "full_training.objective={a: {tau: 0.1}}"]
    assert from_words(words) == {
        "full_training": {"patience": None, "objective": {"a": {"tau": 0.1}}},
        "evaluation": {"shots": [1, 2]},
    }
    assert from_words(["a.b=1", "a.b=2", "a.c=x=y"]) == {"a": {"b": 2, "c": "x=y"}}


@pytest.mark.parametrize("word", ["epochs", "=3", "a.=3", "a b.c=3", "a.b=[", ""])
def test_a_malformed_setting_is_named(word: str) -> None:
    with pytest.raises(BadInput, match="--set"):
        from_words([word])


def test_every_setting_has_an_option_or_is_known_to_need_set() -> None:
    given = {parameter.name for parameter in main.commands["run"].params}
    assert set(RunConfig.model_fields) - given == BY_SET
    assert set(OPTIONS) <= given
