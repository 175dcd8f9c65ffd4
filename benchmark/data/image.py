"""Files to pixels: PNG, JPEG, TIFF, DICOM and npz arrays as 8-bit grey or RGB, decoded once into a cache.

A reference is a path relative to the dataset's root, with ``#frame[i]`` for one frame of a DICOM file or
``#array[i]`` for one picture of an ``.npz``. Nothing outside the root is ever opened.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from benchmark.errors import BadInput
from benchmark.store import ArrayStore

DECODE_VERSION = "1"
"""Raised whenever the same file would give other bytes: part of every cache key."""

PERCENTILES = (0.5, 99.5)
"""Grey range of a picture of more than 8 bit that names no window: robust to a few bright pixels."""

SHARD_BYTES = 64 * 2**20
"""Pixels written per shard: what a kill can lose of a first reading."""

DICOM_SUFFIXES = {".dcm", ".dicom", ".ima", ""}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Decoded:
    """All pictures of a dataset, in order."""

    pixels: Sequence[Pixels]
    """(H, W) or (H, W, 3); an empty (0, 0) where there is a problem."""
    hashes: tuple[str, ...]
    """Pixel hashes; empty where there is a problem."""
    problems: dict[int, str]
    """Position -> what is wrong, in one clause."""


def pixel_hash(pixels: Pixels) -> str:
    """Digest of a picture's shape and bytes."""
    state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(pixels).data)
    return state.hexdigest()


# --------------------------------------------------------------------------------------------- all of them


def decode_all(
    references: Sequence[str], root: Path, store: ArrayStore, progress: Callable[[int, int], None] | None = None
) -> Decoded:
    """Decode what the store does not hold yet, in threads; the rest is read from it."""
    problems: dict[int, str] = {}
    keys: list[str] = []
    for position, reference in enumerate(references):
        try:
            keys.append(_key(reference, root))
        except BadInput as error:
            problems[position] = _clause(error, reference)
            keys.append("")
    todo = store.missing(key for key in keys if key)
    where = dict(zip(keys, range(len(keys)), strict=True))
    failed = _decode_missing({key: references[where[key]] for key in todo}, root, store, progress)
    for position, key in enumerate(keys):
        if key in failed:
            problems[position] = failed[key]
            keys[position] = ""
    pictures = _Stored(store, keys)
    return Decoded(pictures, tuple(pixel_hash(p) if k else "" for p, k in zip(pictures, keys, strict=True)), problems)


def _decode_missing(
    todo: dict[str, str], root: Path, store: ArrayStore, progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Decode into shards; gives key -> problem."""
    problems: dict[str, str] = {}
    shard: dict[str, Pixels] = {}

    def attempt(item: tuple[str, str]) -> tuple[str, Pixels | str]:
        key, reference = item
        try:
            return key, decode(reference, root)
        except BadInput as error:
            return key, _clause(error, reference)

    with ThreadPoolExecutor() as pool:
        for done, (key, outcome) in enumerate(pool.map(attempt, todo.items()), start=1):
            if isinstance(outcome, str):
                problems[key] = outcome
            else:
                shard[key] = outcome
            if sum(p.nbytes for p in shard.values()) >= SHARD_BYTES:
                store.put(shard)
                shard = {}
            if progress:
                progress(done, len(todo))
    store.put(shard)
    return problems


def _clause(error: BadInput, reference: str) -> str:
    """The problem without the name of the file, so that equal problems can be counted."""
    return str(error).removeprefix(f"{reference}: ")


class _Stored(Sequence[Pixels]):
    """Pictures read from the store's memory map when they are asked for."""

    def __init__(self, store: ArrayStore, keys: Sequence[str]) -> None:
        self._store = store
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: Any) -> Any:  # noqa: ANN401 - an index or a slice, as Sequence has it
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        key = self._keys[at]
        return self._store.get(key) if key else np.zeros((0, 0), np.uint8)


def _key(reference: str, root: Path) -> str:
    path, fragment = _locate(reference, root)
    return f"{_file_digest(path)}-{fragment or ''}-{DECODE_VERSION}"


@lru_cache(maxsize=4)
def _npz(path: Path, modified: int) -> dict[str, NDArray[Any]]:  # noqa: ARG001 - the time makes a changed file new
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# --------------------------------------------------------------------------------------------- one of them


def decode(reference: str, root: Path) -> Pixels:
    """Decode one picture.

    Returns:
        (H, W) for grey pictures, RGB files of equal channels included, else (H, W, 3).

    Raises:
        BadInput: where it is missing, outside the root, unreadable, truncated or not a picture.
    """
    path, fragment = _locate(reference, root)
    try:
        if path.suffix.lower() == ".npz":
            return _from_npz(path, fragment, reference)
        if path.suffix.lower() in DICOM_SUFFIXES:
            return _from_dicom(path, fragment)
        return _from_picture(path)
    except BadInput:
        raise
    except (OSError, ValueError, SyntaxError, AttributeError, KeyError, NotImplementedError, RuntimeError) as error:
        # What Pillow, pydicom and their codecs raise on damaged files; anything else is a defect of ours.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"{reference}: cannot be decoded ({reason}); replace the file or leave the row out") from error
    except Image.DecompressionBombError as error:
        raise BadInput(f"{reference}: larger than {Image.MAX_IMAGE_PIXELS} pixels; scale it down first") from error


def _locate(reference: str, root: Path) -> tuple[Path, str | None]:
    """Split a reference into a file inside the root and a fragment."""
    name, _, fragment = reference.partition("#")
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise BadInput(f"{reference}: leaves the image root; image paths stay inside the folder that the card names")
    if not path.is_file():
        raise BadInput(f"{reference}: no such file under the image root; check the path and the card's image_root")
    return path, fragment or None


def _from_picture(path: Path) -> Pixels:
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except UnidentifiedImageError as error:
        raise ValueError("not a PNG, JPEG or TIFF picture") from error
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        return to_8_bit(np.asarray(image, dtype=np.float64))
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    # Transparency is dropped, not blended: what is stored under it is the picture.
    return _grey_if_equal(np.asarray(image.convert("RGB")))


def _from_npz(path: Path, fragment: str | None, reference: str) -> Pixels:
    match = re.fullmatch(r"(\w+)\[(\d+)\]", fragment or "")
    if match is None:
        raise BadInput(f"{reference}: a picture inside an .npz is named as file.npz#array[index]")
    arrays = _npz(path, path.stat().st_mtime_ns)
    if match[1] not in arrays:
        raise BadInput(f"{reference}: the file has no array {match[1]!r}; it has {', '.join(arrays)}")
    stack, index = arrays[match[1]], int(match[2])
    if index >= len(stack):
        raise BadInput(f"{reference}: the array has {len(stack)} pictures, so the last index is {len(stack) - 1}")
    array = stack[index]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise BadInput(f"{reference}: its shape is {array.shape}; a picture is (H, W) or (H, W, 3)")
    if array.dtype != np.uint8:
        array = to_8_bit(array.astype(np.float64))
    return _grey_if_equal(array) if array.ndim == 3 else array


def _from_dicom(path: Path, fragment: str | None) -> Pixels:
    data = pydicom.dcmread(path)
    frames = int(data.get("NumberOfFrames", 1) or 1)
    match = re.fullmatch(r"frame\[(\d+)\]", fragment) if fragment else None
    frame = int(match[1]) if match else frames // 2
    if (fragment and not match) or frame >= frames:
        raise ValueError(f"no frame {fragment!r} among {frames}; write file.dcm#frame[0]")
    array = pydicom.pixels.pixel_array(data, index=frame if frames > 1 else None)
    photometric = data.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        array = apply_color_lut(array, data)
    if array.ndim == 3:
        return _grey_if_equal(array if array.dtype == np.uint8 else to_8_bit(array.astype(np.float64)))
    physical = np.asarray(apply_modality_lut(array, data), dtype=np.float64)
    if "WindowWidth" in data or "VOILUTSequence" in data:
        windowed = np.asarray(apply_voi_lut(apply_modality_lut(array, data), data), dtype=np.float64)
        grey = to_8_bit(windowed, (float(windowed.min()), float(windowed.max())))
    else:
        grey = to_8_bit(physical)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def to_8_bit(values: NDArray[np.float64], limits: tuple[float, float] | None = None) -> Pixels:
    """The one step from more than 8 bit to 8: linear between two percentiles, clipped (see ``DECODE_VERSION``)."""
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no finite pixel values")
    low, high = limits or np.percentile(values[finite], PERCENTILES)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = np.clip((np.where(finite, values, low) - low) / (high - low), 0, 1)
    return np.rint(scaled * 255).astype(np.uint8)


def _grey_if_equal(rgb: NDArray[Any]) -> Pixels:
    equal = (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all()
    return np.ascontiguousarray(rgb[..., 0] if equal else rgb)
