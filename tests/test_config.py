"""Presets, YAML files and options: who wins, and what a mistake is told."""

from pathlib import Path

import pytest

from benchmark.config import PRESETS, make_config
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
        ({"regimes": ["thawed"]}, "regimes.0: Input should be 'frozen', 'heads' or 'full'"),
        ({"heads": ["conv-3"]}, "unknown head 'conv-3'"),
        ({"seeds": ["x"]}, "seeds.0: Input should be a valid integer"),
        ({"models": []}, "models: needs at least one value"),
        ({"full_training": {"epoch": 3}}, "full_training.epoch: Extra inputs are not permitted"),
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
    with pytest.raises(BadInput, match="no such configuration file"):
        make_config("quick", tmp_path / "none.yaml", {})
