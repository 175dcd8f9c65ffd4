"""Weight files are read without running anything, and loaded whole or not at all."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from baselines.checkpoint import Part, below, load_parts, load_strict, read_state
from benchmark.errors import BadInput, MissingWeights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4)}


def tower() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": TENSORS, "optimizer": {"lr": 0.1}},
        {"module." + key: value for key, value in TENSORS.items()},
        {"state_dict": {"module." + key: value for key, value in TENSORS.items()}},
        TENSORS | {"embeddings.position_ids": torch.arange(3), "x.relative_position_index": torch.arange(3)},
    ],
    ids=["flat", "state_dict", "model", "data-parallel", "wrapped data-parallel", "stale buffers"],
)
def test_every_published_layout_is_brought_to_one_form(tmp_path: Path, content: Any) -> None:
    state = read_state(saved(tmp_path / "w.pth", content))
    assert state.keys() == TENSORS.keys()
    assert all(torch.equal(state[key], TENSORS[key]) for key in TENSORS)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    state = read_state(tmp_path / "model.safetensors")
    assert all(torch.equal(state[key], TENSORS[key]) for key in TENSORS)


class Settings(dict):
    """As training code saves: a mapping of its own class, with items, state and attributes."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.history = [Path("log"), {"nested": object}]


def test_objects_beside_tensors_are_left_aside_and_their_code_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    content = {
        "state_dict": TENSORS | {"b.bias": nn.Parameter(TENSORS["b.bias"])},
        "config": Harmful(marker),
        "hyper_parameters": Settings(lr=0.1),
        "callbacks": {Settings: [1, 2], "when": {Path("a"), Path("b")}},
        "optimizer": {"step": torch.Size([2]), "device": torch.device("cpu"), "dtype": torch.float16},
    }
    path = tmp_path / "w.pth"
    torch.save(content, path)
    state = read_state(path)
    assert all(torch.equal(state[key], TENSORS[key]) for key in TENSORS)
    # The older format lets a pickle name source files, which torch would write patches for: tensors alone are read.
    torch.save(content, path, _use_new_zipfile_serialization=False)
    with pytest.raises(BadInput, match="is of a format in which those can't be left aside"):
        read_state(path)
    torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=False)
    assert read_state(path).keys() == TENSORS.keys()
    assert not marker.exists()


def test_an_object_in_a_tensors_place_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    for content in ({"state_dict": TENSORS | {"c": Harmful(marker)}}, Harmful(marker)):
        with pytest.raises(BadInput, match=r"w\.pth is not a state dict: .*Python object"):
            read_state(saved(tmp_path / "w.pth", content))
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Harmful(marker)))
    with pytest.raises(BadInput, match="can't be read as weights"):
        read_state(tmp_path / "w.pth")
    assert not marker.exists()


def pickled(path: Path, content: bytes) -> Path:
    """A checkpoint whose pickle is given byte by byte."""
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, content if name.endswith("data.pkl") else member)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cbuiltins\neval\n(U\x03bad" + b"tR.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n)RK\x00)))K\x00}tR.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02ccollections\nOrderedDict\n(N}U\x08__init__NstbN.",
    ],
    ids=["eval", "tensor of a stand-in", "extension", "attribute of a class"],
)
def test_crafted_pickles_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadInput, match=r"w\.pth (can't be read as weights|is not a state dict)"):
        read_state(pickled(tmp_path / "w.pth", content))


def test_a_file_cannot_change_the_function_it_calls(tmp_path: Path) -> None:
    """BUILD with slots sets attributes of whatever was looked up before it."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    crafted = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}U\x0c__defaults__)stb0}."
    with pytest.raises(BadInput):
        read_state(pickled(tmp_path / "w.pth", crafted))
    assert torch._utils._rebuild_tensor_v2.__defaults__ is before


def test_a_program_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        torch.jit.script(tower()).save(tmp_path / "w.pt")
    with pytest.raises(BadInput, match=r"w\.pt is a TorchScript program and not read"):
        read_state(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2, 2), "is not a state dict: it holds a Tensor"),
        ({}, "is not a state dict: it is empty"),
        ({"epoch": 3, "lr": 0.1}, "'epoch' is a int"),
        ({"state_dict": {"a": [1, 2]}}, "'a' is a list"),
        ({3: torch.ones(1)}, "one of its keys is a int"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is no plain tensor of real numbers"),
        ({"x.position_ids": torch.arange(3)}, "it holds no weights"),
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_state(saved(tmp_path / "w.pth", content))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, -8])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadInput, match=rf"{name} (can't be read|holds Python objects)"):
        read_state(path)


def test_an_absent_file_is_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="no weights file"):
        read_state(tmp_path / "absent.bin")


def test_prefixes_count_at_the_beginning_only() -> None:
    state = {"model.a": torch.ones(1), "my.model.a": torch.zeros(1), "model.model.b": torch.ones(2)}
    assert below(state, "model.").keys() == {"a", "model.b"}


def test_a_whole_tower_is_loaded_and_counted(tmp_path: Path) -> None:
    source, target = tower(), tower()
    nn.init.normal_(source[0].weight)
    extra = {"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)}
    given_state = source.state_dict() | extra
    count = load_strict(target, given_state, tower="image tower", source=tmp_path, unwanted=("fc.",))
    assert count == "7/7"
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())
    with pytest.raises(BadInput, match=r"2 without a place \(fc.weight, fc.bias\)"):
        load_strict(target, given_state, tower="image tower", source=tmp_path)


def test_the_difference_is_printed_and_nothing_is_changed(tmp_path: Path) -> None:
    target = tower()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    del state["0.bias"]
    state["1.weight"] = torch.ones(5)
    state["classifier.weight"] = torch.ones(1)
    with pytest.raises(BadInput) as error:
        load_strict(target, state, tower="image tower", source=tmp_path / "w.pth")
    for part in (
        "w.pth does not fit the image tower: 5/7 tensors fit",
        "1 missing (0.bias)",
        "1 without a place (classifier.weight)",
        "1 of another shape (1.weight (5,) for (4,))",
    ):
        assert part in str(error.value)
    assert all(torch.equal(target.state_dict()[key], value) for key, value in before.items())


KEYS = sorted(tower().state_dict())


@given(kept=st.sets(st.sampled_from(KEYS)), added=st.sets(st.sampled_from(["0.Weight", "weight", "2.bias", "0"])))
def test_only_the_exact_set_of_tensors_loads(kept: set[str], added: set[str]) -> None:
    target = tower()
    state = {key: value for key, value in tower().state_dict().items() if key in kept}
    state |= {key: torch.ones(1) for key in added}
    if len(kept) == len(KEYS) and not added:
        assert load_strict(target, state, tower="t", source=Path("w")) == "7/7"
        return
    with pytest.raises(BadInput, match=f"{len(kept)}/7 tensors fit"):
        load_strict(target, state, tower="t", source=Path("w"))


def test_parts_of_a_file_go_to_the_longest_prefix_and_are_counted(tmp_path: Path) -> None:
    trunk, head = nn.Linear(2, 3), nn.Linear(3, 4)
    parts = {
        "net.": Part("trunk", trunk, unwanted=("pooler.",), rename=lambda s: {k.lower(): v for k, v in s.items()}),
        "net.fc.": Part("head", head),
    }
    state = {"net.WEIGHT": torch.ones(3, 2), "net.bias": torch.ones(3), "net.pooler.x": torch.ones(1)}
    state |= {"net.fc.weight": torch.ones(4, 3), "net.fc.bias": torch.zeros(4), "scale": torch.ones(())}
    loaded = load_parts(state, parts, source=tmp_path, unwanted=("scale",))
    assert loaded == {"trunk": "2/2", "head": "2/2"}
    assert trunk.weight.detach().eq(1).all()
    assert head.bias.detach().eq(0).all()
    with pytest.raises(BadInput, match=r"1 of its 6 tensors belong to no part of the model \(scale\)"):
        load_parts(state, parts, source=tmp_path)
