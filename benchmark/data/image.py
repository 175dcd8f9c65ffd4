"""References to pictures, decoded once into a cache of 8-bit grey or RGB pixels.

A reference is a path relative to the dataset's root, with ``#frame[i]`` for one frame of a DICOM or TIFF file or
``#array[i]`` for one picture of an ``.npz``. Nothing outside the root is ever opened.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from benchmark.data.formats import forget_archives, read
from benchmark.errors import BadInput
from benchmark.store import ArrayStore

DECODE_VERSION = "2"
"""Raised whenever the same file would give other bytes: part of every cache key."""

SHARD_BYTES = 32 * 2**20
"""Pixels written per shard: what a kill can lose of a first reading."""

Pixels = NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Decoded:
    """All pictures of a dataset, in order."""

    pixels: Sequence[Pixels]
    """(H, W) or (H, W, 3), read-only; an empty (0, 0) where there is a problem."""
    hashes: tuple[str, ...]
    """Pixel hashes; empty where there is a problem."""
    problems: dict[int, str]
    """Position -> what is wrong, in one clause without the reference, so that equal problems can be counted."""


def pixel_hash(pixels: Pixels) -> str:
    """Digest of a picture's shape and bytes."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(pixels).data)
    return state.hexdigest()


def decode(reference: str, root: Path) -> Pixels:
    """Decode one picture.

    Grey of more than 8 bit becomes 8-bit by the file's window or, without one, its 0.5 and 99.5 percentiles; alpha is
    dropped; EXIF orientation is applied; of a multi-frame DICOM file it is the middle frame unless one is named.

    Returns:
        (H, W) for grey pictures, RGB files of equal channels included, else (H, W, 3).

    Raises:
        BadInput: where it is missing, outside the root, damaged, cut off, too large or not a picture.
    """
    name, fragment = split_reference(reference)
    try:
        return read(locate(name, root), fragment)
    except BadInput as error:
        raise BadInput(f"{reference}: {error}") from error


def decode_all(
    references: Sequence[str], root: Path, store: ArrayStore, progress: Callable[[int, int], None] | None = None
) -> Decoded:
    """Decode what the store does not hold yet, in threads; pixels are then read from the store's memory map.

    A picture's key is the digest of its file's bytes with the fragment, so a changed file is decoded anew and a moved
    one is not. What cannot be decoded is never cached.
    """
    parts = [split_reference(reference) for reference in references]
    digests = _digests([name for name, _ in parts], root)
    keys = [_key(digests[name], fragment) for name, fragment in parts]
    part_of = dict(zip(reversed(keys), reversed(parts), strict=True))
    todo = store.missing(key for key in keys if not isinstance(key, BadInput))
    failed = _decode_missing({key: part_of[key] for key in todo}, root, store, _counted(progress, references, todo))
    outcomes = [key if isinstance(key, BadInput) else failed.get(key, key) for key in keys]
    stored = [None if isinstance(outcome, BadInput) else outcome for outcome in outcomes]
    return Decoded(
        pixels=_Stored(store, stored),
        hashes=tuple("" if key is None else store.get(_hash_key(key)).tobytes().hex() for key in stored),
        problems={position: str(o) for position, o in enumerate(outcomes) if isinstance(o, BadInput)},
    )


class _Stored(Sequence[Pixels]):
    """Pictures read from the store's memory map when they are asked for; an empty one for None."""

    def __init__(self, store: ArrayStore, keys: Sequence[str | None]) -> None:
        self._store = store
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> _Stored: ...
    def __getitem__(self, index: int | slice) -> Pixels | _Stored:
        if isinstance(index, slice):
            return _Stored(self._store, self._keys[index])
        key = self._keys[index]
        return np.zeros((0, 0), dtype=np.uint8) if key is None else self._store.get(key)


def _decode_missing(
    todo: dict[str, tuple[str, str | None]],
    root: Path,
    store: ArrayStore,
    progress: Callable[[int], None],
) -> dict[str, BadInput]:
    """Decode into shards, each picture with its hash beside it; gives key -> problem."""

    def work(part: tuple[str, str | None]) -> tuple[Pixels, str]:
        name, fragment = part
        pixels = read(locate(name, root), fragment)
        return pixels, pixel_hash(pixels)

    failed: dict[str, BadInput] = {}
    shard: dict[str, Pixels] = {}
    size = 0
    for done, (key, outcome) in enumerate(zip(todo, _in_threads(work, todo.values()), strict=True), start=1):
        if isinstance(outcome, BadInput):
            failed[key] = outcome
        else:
            pixels, digest = outcome
            shard |= {key: pixels, _hash_key(key): np.frombuffer(bytes.fromhex(digest), dtype=np.uint8)}
            size += pixels.nbytes
        if size >= SHARD_BYTES:
            store.put(shard)
            shard, size = {}, 0
        progress(done)
    store.put(shard)
    forget_archives()
    return failed


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result | BadInput]:
    """Results in order, as they come, with a ``BadInput`` in the place of what raised it.

    Only a few run ahead of the reader: the results of all would not fit into memory.
    """
    workers = os.cpu_count() or 1
    waiting: deque[Future[Result | BadInput]] = deque()

    def attempt(item: Item) -> Result | BadInput:
        try:
            return work(item)
        except BadInput as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(attempt, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _counted(
    progress: Callable[[int, int], None] | None, references: Sequence[str], todo: Sequence[str]
) -> Callable[[int], None]:
    """Report against all pictures, those that need no decoding counted as done from the start."""

    def count(done: int) -> None:
        if progress:
            progress(len(references) - len(todo) + done, len(references))

    count(0)
    return count


# --------------------------------------------------------------------------------------------- references


def split_reference(reference: str) -> tuple[str, str | None]:
    """The file's name and the fragment; the brackets tell a fragment from a file name with a hash sign in it."""
    match = re.fullmatch(r"(.*)#([^#/]+\[\d+\])", reference)
    return (match[1], match[2]) if match else (reference, None)


def locate(name: str, root: Path) -> Path:
    """The file of a name, for certain inside the root, symbolic links followed."""
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise BadInput("may leave the image root; write the path relative to it, without '..'")
    try:
        path = (root / name).resolve()
        inside, is_file = path.is_relative_to(root.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, links in a circle
        # The system's own words may hold the whole path, and what is said here may be published.
        why = getattr(error, "strerror", None) or type(error).__name__
        raise BadInput(f"is not a usable path ({why}); correct it") from error
    if not inside:
        raise BadInput("is a link that leaves the image root; put the file itself there")
    if not is_file:
        raise BadInput("is not a file under the image root; correct the path or the card's 'image_root'")
    return path


def _digests(names: Sequence[str], root: Path) -> dict[str, str | BadInput]:
    """Digest of each distinct file's bytes."""
    distinct = list(dict.fromkeys(names))
    return dict(zip(distinct, _in_threads(lambda name: _digest(locate(name, root)), distinct), strict=True))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror}); check its permissions") from error


def _key(digest: str | BadInput, fragment: str | None) -> str | BadInput:
    return digest if isinstance(digest, BadInput) else f"{digest}#{fragment or ''}#{DECODE_VERSION}"


def _hash_key(key: str) -> str:
    return f"{key}#hash"
