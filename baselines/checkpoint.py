"""Published weight files: safe reading, bringing keys to one form, and loading that counts and never guesses.

A checkpoint that fits half of a tower and is loaded leniently gives a model that runs and is wrong. Here every tensor
of the tower must be in the file, in its shape, and every tensor of the file must have a place or be named as unwanted.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

NAMED = 3
"""Keys of each kind that an error names."""


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
    stored = _unwrapped(_read(path))
    found = _defect(stored)
    if found:
        raise BadInput(f"{path} is not a state dict: {found}; save 'model.state_dict()' and give that file")
    if all(key.startswith("module.") for key in stored):
        stored = below(stored, "module.")
    return {key: value for key, value in stored.items() if key.rpartition(".")[2] not in STALE_BUFFERS}


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds, checked by the caller
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} holds Python objects beside tensors, or is damaged, and is not read, since reading it could run "
            "foreign code; save its state dict alone, as tensors, and give that file"
        ) from error
    except Exception as error:  # torch raises KeyError, AttributeError and more on bytes that are no checkpoint
        raise BadInput(f"{path} can't be read as weights ({_first_line(error)}); fetch or copy it again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unwrapped(stored: Any) -> Any:  # noqa: ANN401
    if isinstance(stored, Mapping):
        for key in WRAPPERS:
            if isinstance(stored.get(key), Mapping):
                return stored[key]
    return stored


def _defect(stored: Any) -> str | None:  # noqa: ANN401
    """What makes this something else than named tensors, or None."""
    if not isinstance(stored, Mapping):
        return f"it holds a {type(stored).__name__}"
    if not stored:
        return "it is empty"
    odd = next((key for key, value in stored.items() if not (isinstance(key, str) and isinstance(value, Tensor))), None)
    return None if odd is None else f"{odd!r} is a {type(stored[odd]).__name__}"


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
