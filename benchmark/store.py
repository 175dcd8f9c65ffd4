"""A content-addressed store of arrays on disk, shared by the decode cache and the embedding store.

A shard is two files: ``NAME.bin`` holds the arrays back to back, ``NAME.json`` says where each key lies. The index
is renamed into place after its data is on disk, so a shard exists whole or not at all, and two processes can write
to one folder without a lock: each writes shards of its own, and a key found twice holds the same bytes. Reading is
a memory map; nothing is copied until it is used.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.result import write_atomically

Array = NDArray[Any]

OPEN_SHARDS = 256
"""Shards mapped at once: each holds one of the process's file descriptors."""


class ArrayStore:
    """Arrays of any shape and dtype under string keys, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, tuple[str, int, tuple[int, ...], str]] = {}
        self._map = lru_cache(OPEN_SHARDS)(self._open)
        self._seen: set[str] = set()

    def refresh(self) -> None:
        """Read the indexes of shards that appeared since the last look."""
        for index in sorted(self.folder.glob("*.json")):
            if index.stem in self._seen:
                continue
            for key, (offset, shape, dtype) in json.loads(index.read_text(encoding="utf-8")).items():
                self._where[key] = (index.stem, offset, tuple(shape), dtype)
            self._seen.add(index.stem)  # last, or another thread would miss what this one is still reading

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The distinct keys that no shard holds, in order of first appearance."""
        self.refresh()
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Write one shard; returns when it is on disk.

        Raises:
            TypeError: for arrays of objects or records, whose bytes say nothing.
        """
        if not arrays:
            return
        name = secrets.token_hex(8)
        index: dict[str, tuple[int, tuple[int, ...], str]] = {}
        chunks: list[bytes] = []
        offset = 0
        for key, array in arrays.items():
            data = np.asarray(array, order="C")
            if data.dtype.kind in "OV":
                raise TypeError(f"{key}: arrays of dtype {data.dtype} cannot be stored")
            index[key] = (offset, data.shape, data.dtype.str)
            chunks.append(data.tobytes())
            padding = -data.nbytes % 16
            chunks.append(bytes(padding))
            offset += data.nbytes + padding
        write_atomically(self.folder / f"{name}.bin", b"".join(chunks))
        write_atomically(self.folder / f"{name}.json", json.dumps(index).encode())

    def get(self, key: str) -> Array:
        """The array under a key, read-only and backed by the file.

        Raises:
            KeyError: where no shard holds the key.
        """
        if key not in self._where:
            self.refresh()
        shard, offset, shape, dtype = self._where[key]
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size == 0:  # an empty file cannot be mapped
            return np.empty(shape, dtype=dtype)
        return self._map(shard)[offset : offset + size].view(dtype).reshape(shape)

    def _open(self, shard: str) -> NDArray[np.uint8]:
        return np.asarray(np.memmap(self.folder / f"{shard}.bin", dtype=np.uint8, mode="r"))

    def stack(self, keys: Iterable[str]) -> Array:
        """Equal-shaped arrays under the keys as one (n, ...) array in memory."""
        return np.stack([self.get(key) for key in keys])
