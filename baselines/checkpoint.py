"""Published weight files: safe reading, bringing keys to one form, and loading that counts and never guesses.

A checkpoint that fits half of a tower and is loaded leniently gives a model that runs and is wrong. Here every tensor
of the tower must be in the file, in its shape, and every tensor of the file must have a place or be named as unwanted.

Training code saves settings and optimizers beside weights, as pickled objects of libraries that need not be here.
Reading such a file the usual way runs what it says. It is read here with every class but tensors' own replaced by one
that does nothing, so that the tensors come out and no code of the file's choosing runs.
"""

from __future__ import annotations

import pickle
import types
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmark.errors import BadInput, MissingWeights

WRAPPERS = ("state_dict", "model")
"""Keys under which training code puts the weights beside optimizer and settings."""

STALE_BUFFERS = ("position_ids", "relative_position_index", "attn_mask")
"""Last parts of keys that older libraries saved and that are computed from the configuration."""

EXTRA_STATE = "_extra_state"
"""Last part of the key under which torch keeps what a module stores beside its parameters; of any size."""

ARCHIVE = b"PK\x03\x04"
"""How a checkpoint of torch 1.6 and later begins."""

NAMED = 3
"""Keys of each kind that an error names."""

TENSOR_MAKERS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}
"""All that a pickled state dict of plain tensors names, storages aside, which torch resolves itself."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU, without running anything that the file may contain.

    ``.safetensors`` files are read as such, all others by torch as plain tensors. The weights may lie at the top or
    under a wrapper's key; ``module.`` of data-parallel training and stale buffers are taken away.

    Raises:
        MissingWeights: where there is no such file.
        BadInput: where the file is damaged, holds other objects than tensors, or no tensor at all.
    """
    if not path.is_file():
        raise MissingWeights(f"no weights file {path}; put it there, or run with --weights random")
    if path.stat().st_size == 0:
        raise BadInput(f"{path} can't be read as weights: it is empty; fetch or copy it again")
    stored = _unwrapped(_read(path))
    found = _defect(stored)
    if found:
        raise BadInput(f"{path} is not a state dict: {found}; save 'model.state_dict()' and give that file")
    if all(key.startswith("module.") for key in stored):
        stored = below(stored, "module.")
    state = {key: value for key, value in stored.items() if key.rpartition(".")[2] not in STALE_BUFFERS}
    if not state:
        raise BadInput(f"{path} is not a state dict: it holds no weights; fetch or copy it again")
    return state


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds, checked by the caller
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_program(path):
            raise BadInput(f"{path} is a TorchScript program and not read; give the file of its weights alone")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # objects beside the tensors, or damage
            if not _is_archive(path):
                # The format before torch 1.6 lets a pickle name source files, and torch writes patches for them.
                raise BadInput(
                    f"{path} holds Python objects beside tensors, or is damaged, and is of a format in which those "
                    "can't be left aside; fetch it again, or save its state dict alone"
                ) from error
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT)
    except BadInput:
        raise
    except Exception as error:  # torch raises KeyError, AttributeError and more on bytes that are no checkpoint
        raise BadInput(f"{path} can't be read as weights ({_first_line(error)}); fetch or copy it again") from error


def _is_archive(path: Path) -> bool:
    """Whether torch reads the file as its zip format, and not as the one before it."""
    with path.open("rb") as file:
        return file.read(len(ARCHIVE)) == ARCHIVE


def _is_program(path: Path) -> bool:
    """Whether torch would take the file for TorchScript, which is code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


class StandIn:
    """What a pickled object of any class becomes: it takes every argument, state and item, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Make one, whatever it is given."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: object) -> None:
        """Forget an item."""

    def extend(self, items: object) -> None:
        """Forget items."""

    def add(self, item: object) -> None:
        """Forget an item."""


class _InertUnpickler(pickle.Unpickler):
    """Finds tensors' own classes, and for every other name a stand-in: nothing is imported, nothing foreign called."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as its base
        if (module, name) not in TENSOR_MAKERS:
            return StandIn
        found = super().find_class(module, name)
        # A pickle may set attributes of what it has looked up: it gets a function of its own, and torch keeps its.
        return found if isinstance(found, type) else lambda *arguments: found(*arguments)


def _load_inert(file: BinaryIO, **options: Any) -> Any:  # noqa: ANN401 - as pickle has it
    return _InertUnpickler(file, **options).load()


_INERT = types.SimpleNamespace(Unpickler=_InertUnpickler, load=_load_inert, __name__="inert pickle")
"""What torch uses of a pickle module."""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unwrapped(stored: Any) -> Any:  # noqa: ANN401
    """The mapping that holds the weights, as a plain one: a pickled mapping may bring attributes of its own."""
    if not isinstance(stored, dict):
        return stored
    plain = dict(dict.items(stored))
    inner = next((plain[key] for key in WRAPPERS if isinstance(plain.get(key), dict)), None)
    return plain if inner is None else dict(dict.items(inner))


def _defect(stored: Any) -> str | None:  # noqa: ANN401
    """What makes this something else than named tensors, or None."""
    if not isinstance(stored, dict):
        return f"it holds a {_kind(stored)}"
    if not stored:
        return "it is empty"
    for key, value in stored.items():
        if not isinstance(key, str):
            return f"one of its keys is a {_kind(key)}"
        if type(value) not in (Tensor, nn.Parameter):
            return f"{key!r} is a {_kind(value)}"
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            return f"{key!r} is no plain tensor of real numbers"
    return None


def _kind(value: object) -> str:
    return "Python object" if isinstance(value, StandIn) else type(value).__name__


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose keys start with ``prefix``, under what is left of their keys."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, tower: str, source: Path, unwanted: tuple[str, ...] = ()
) -> str:
    """Load ``state`` into ``module`` and say how much of it was loaded, as ``318/318``.

    Args:
        module: the tower, changed in place.
        state: tensors under the module's own keys.
        tower: what the module is, for messages.
        source: the file, for messages.
        unwanted: beginnings of keys that the file may hold and this tower has no use for, as a classifier's.

    Raises:
        BadInput: naming what is missing, has no place, or has another shape; the module is then unchanged.
    """
    expected = module.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(unwanted)} if unwanted else dict(state)
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    reshaped = [
        f"{key} {tuple(given[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in given and key.rpartition(".")[2] != EXTRA_STATE and given[key].shape != expected[key].shape
    ]
    fitting = f"{len(expected) - len(missing) - len(reshaped)}/{len(expected)}"
    if missing or unexpected or reshaped:
        parts = (("missing", missing), ("without a place", unexpected), ("of another shape", reshaped))
        difference = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in parts if keys)
        raise BadInput(
            f"{source} does not fit the {tower}: {fitting} tensors fit, {difference}; "
            "is it the file of this architecture, at this scale?"
        )
    module.load_state_dict(given, strict=True)
    return fitting


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")


@dataclass(frozen=True)
class Part:
    """What the tensors under one prefix of a file belong to."""

    tower: str
    """What it is, for counts and messages."""
    module: nn.Module
    unwanted: tuple[str, ...] = ()
    """Beginnings of keys, less the prefix, that the file may hold and the module has no use for."""
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    """Brings the file's keys, less the prefix, to the module's."""


def load_parts(
    state: Mapping[str, Tensor], parts: Mapping[str, Part], *, source: Path, unwanted: tuple[str, ...] = ()
) -> dict[str, str]:
    """Load a file that holds several modules, each under a prefix of its own, and count per part.

    Args:
        state: the file's tensors.
        parts: prefix -> what is under it. Where one prefix begins with another, a key goes to the longer one.
        source: the file, for messages.
        unwanted: whole keys that the file may hold and no part has a use for.

    Raises:
        BadInput: naming keys that belong to no part, or what is missing, has no place or another shape in one.
    """
    shares: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in parts}
    strange = []
    for key, value in state.items():
        prefix = max((p for p in parts if key.startswith(p)), key=len, default=None)
        if prefix is not None:
            shares[prefix][key.removeprefix(prefix)] = value
        elif key not in unwanted:
            strange.append(key)
    if strange:
        raise BadInput(
            f"{source} is not the file expected: {len(strange)} of its {len(state)} tensors belong to no part of the "
            f"model ({_some(strange)}); is it the file of this architecture?"
        )
    loaded = {}
    for prefix, part in parts.items():
        try:
            renamed = part.rename(shares[prefix])
        except (IndexError, RuntimeError) as error:
            raise BadInput(
                f"{source} does not fit the {part.tower}: {_first_line(error)}; is it the file of this architecture?"
            ) from error
        loaded[part.tower] = load_strict(part.module, renamed, tower=part.tower, source=source, unwanted=part.unwanted)
    return loaded


UNNAMED_LAYERS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Layers of a ResNet that was cut into an un-named Sequential (2 and 3 are ReLU and pooling)."""


def named_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the layers of an un-named trunk their names."""
    if "4.0.conv1.weight" not in state:
        return dict(state)
    split = {key: key.partition(".") for key in state}
    return {f"{UNNAMED_LAYERS.get(first, first)}.{rest}": state[key] for key, (first, _, rest) in split.items()}
