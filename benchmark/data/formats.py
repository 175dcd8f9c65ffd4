"""One file's content to 8-bit pixels: PNG, JPEG and TIFF by Pillow, DICOM by pydicom, arrays of an ``.npz`` by numpy.

Which way a file goes is read from its first bytes, not from its name. Every ``BadInput`` raised here is a clause
without the file's name; the caller, who knows the reference, puts it before.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from scipy.special import expit

from benchmark.errors import BadInput

if TYPE_CHECKING:
    import pydicom

Pixels = NDArray[np.uint8]

PERCENTILES = (0.5, 99.5)
"""Ends of the grey range of a picture of more than 8 bit that names no window: robust to a few bright pixels."""

SMALLEST_RANGE = 1e-300
"""Values closer than this are one value: 255 steps between them would overflow."""

MAX_PIXELS = 2**26
"""Pixels of the largest picture that is decoded (8192 x 8192); more is taken for a decompression bomb."""

PICTURES = ("PNG", "JPEG", "TIFF")
"""Formats Pillow may try: others it knows run foreign programs or are no pictures."""

_archive_lock = Lock()


def read(path: Path, fragment: str | None) -> Pixels:
    """Decode one picture of one file.

    Args:
        path: an existing file.
        fragment: ``frame[i]`` of a DICOM or TIFF file, ``array[i]`` of an ``.npz``, or None.

    Returns:
        (H, W) where it is grey, colour files of three equal channels included, else (H, W, 3).

    Raises:
        BadInput: where it cannot be decoded whole.
    """
    try:
        if path.suffix.lower() == ".npz":
            pixels = _from_npz(path, fragment)
        elif _is_dicom(path):
            pixels = _from_dicom(path, fragment)
        else:
            pixels = _from_picture(path, fragment)
    except (BadInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large("") from error
    except Exception as error:
        # Pillow, pydicom and their codecs raise nearly every type there is on damaged files.
        reason = shorten(str(error), 120, placeholder="…") or type(error).__name__
        raise BadInput(f"cannot be decoded ({reason}); replace the file or leave the row out") from error
    return _grey_if_equal(pixels)


def to_8_bit(
    values: NDArray[Any], limits: tuple[float, float] | None = None, counted: NDArray[np.bool_] | None = None
) -> Pixels:
    """The one step from more than 8 bit to 8: linear from ``low`` to ``high``, clipped, rounded.

    Args:
        values: any real dtype; NaN becomes black, infinities the ends of the range.
        limits: ``low`` and ``high``; by default the 0.5 and 99.5 percentiles of the finite values, or the least and
            largest where those coincide. A picture of one value is black.
        counted: which values the percentiles are taken over.

    Raises:
        BadInput: where no value is finite.
    """
    values = np.asarray(values, dtype=np.float64)
    low, high = limits or _range(values[np.isfinite(values) if counted is None else np.isfinite(values) & counted])
    if high - low < SMALLEST_RANGE:
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = np.nan_to_num((values - low) * (255 / (high - low)), nan=0)
    pixels: Pixels = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return pixels


def forget_archives() -> None:
    """Free the arrays of ``.npz`` files, which are kept so that many references cost one decompression."""
    with _archive_lock:
        _npz_array.cache_clear()


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    if not values.size:
        raise BadInput("has no finite pixel value; replace the file or leave the row out")
    low, high = np.percentile(values, PERCENTILES)
    return (low, high) if low < high else (values.min(), values.max())


def _grey_if_equal(pixels: Pixels) -> Pixels:
    grey = pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all())
    return np.ascontiguousarray(pixels[..., 0] if grey else pixels, dtype=np.uint8)


def _too_large(size: str) -> BadInput:
    return BadInput(f"has{size} more than the {MAX_PIXELS} pixels a picture may have; scale it down")


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _too_large(f" {height} x {width} pixels,")
    if not height * width:
        raise BadInput(f"is empty ({height} x {width} pixels); replace the file or leave the row out")


def _frame(fragment: str | None, frames: int, default: int) -> int:
    if fragment is None:
        return default
    match = re.fullmatch(r"frame\[(\d+)\]", fragment)
    if match is None or int(match[1]) >= frames:
        raise BadInput(f"has no #{fragment}; its frames are #frame[0] to #frame[{frames - 1}]")
    return int(match[1])


# --------------------------------------------------------------------------------------------- Pillow


def _from_picture(path: Path, fragment: str | None) -> Pixels:
    # Given the path, Pillow would map an uncompressed TIFF with the sides of the turned picture, and scramble it.
    with path.open("rb") as file, _opened(file) as opened:
        _check_size(opened.height, opened.width)
        frame = _frame(fragment, getattr(opened, "n_frames", 1), default=0)
        if frame:
            opened.seek(frame)
            _check_size(opened.height, opened.width)
        tags = opened.tag_v2 if isinstance(opened, TiffImagePlugin.TiffImageFile) else {}
        white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I") or image.mode == "F":
        grey = to_8_bit(np.asarray(image))
        return 255 - grey if white_is_zero else grey  # Pillow turns 1 to 8 bits around itself, and no others
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    # Alpha is dropped, not blended: what is stored under it is the picture.
    return np.asarray(image.convert("RGB"))


def _opened(file: BinaryIO) -> ImageFile.ImageFile:
    try:
        return Image.open(file, formats=PICTURES)
    except UnidentifiedImageError as error:
        raise BadInput("is not a whole PNG, JPEG, TIFF or DICOM file; replace it or leave the row out") from error


# --------------------------------------------------------------------------------------------- npz


def _from_npz(path: Path, fragment: str | None) -> Pixels:
    match = re.fullmatch(r"(.+)\[(\d+)\]", fragment or "")
    if match is None:
        raise BadInput("is a file of arrays; name one picture in it, as in 'file.npz#array[0]'")
    status = path.stat()
    with _archive_lock:  # or each thread would decompress the array that none has yet
        stack = _npz_array(path, match[1], status.st_mtime_ns, status.st_size)
    index, count = int(match[2]), len(stack) if stack.ndim else 0
    if index >= count:
        raise BadInput(f"has no #{fragment}; the array holds {count} pictures, counted from 0")
    values = stack[index]
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or values.dtype.kind not in "buif":
        raise BadInput(
            f"has shape {values.shape} and type {values.dtype} at #{fragment}; a picture is (H, W) or (H, W, 3) numbers"
        )
    _check_size(*values.shape[:2])
    return values if values.dtype == np.uint8 else to_8_bit(values)


@lru_cache(maxsize=4)
def _npz_array(path: Path, name: str, _modified_ns: int, _size: int) -> NDArray[Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # np.load leaves a damaged file open
        if name not in archive.files:
            raise BadInput(f"has no array {name!r}; it has {', '.join(archive.files) or 'none'}")
        try:
            array: NDArray[Any] = archive[name]
        except MemoryError as error:
            raise BadInput(f"has an array {name!r} that does not fit into memory; save it as several") from error
        return array


# --------------------------------------------------------------------------------------------- DICOM


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _from_dicom(path: Path, fragment: str | None) -> Pixels:
    import pydicom
    from pydicom.pixels import apply_color_lut, pixel_array
    from pydicom.uid import RLELossless

    header = pydicom.dcmread(path)
    if "Rows" not in header or "Columns" not in header:
        raise BadInput("is a DICOM file that holds no picture or is cut off before it; replace it or leave the row out")
    _check_size(int(header.Rows), int(header.Columns))
    frames = int(header.get("NumberOfFrames") or 1)
    frame = _frame(fragment, frames, default=frames // 2)
    _trim(header)
    # Given the choice, pydicom would take another decoder for RLE, which aborts on damaged files instead of raising.
    plugin = "pydicom" if header.file_meta.TransferSyntaxUID == RLELossless else ""
    stored = pixel_array(header, index=frame, decoding_plugin=plugin)  # YBR becomes RGB here
    if header.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(stored, header)
        return _high_byte(colour, 8 * colour.dtype.itemsize)
    if stored.ndim == 3:
        return _high_byte(stored, int(header.BitsStored))
    _lift_functional_groups(header, frame)
    return _grey(stored, header)


def _high_byte(colour: NDArray[Any], bits: int) -> Pixels:
    # as Pillow does: colours have a known range, and stretching it would change the hue
    pixels: Pixels = np.right_shift(colour, max(bits - 8, 0)).astype(np.uint8)
    return pixels


def _grey(stored: NDArray[Any], header: pydicom.Dataset) -> Pixels:
    """The grey pipeline of PS3.3 C.11: modality LUT or rescale, VOI LUT or window, polarity; padding is black."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = apply_modality_lut(stored, header)
    padding = _padding(stored, header)
    window = _window(header)
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        grey = to_8_bit(apply_voi(np.rint(values).astype(np.int64), header), (0, 2**bits - 1))
    elif window is not None and str(header.get("VOILUTFunction", "")) == "SIGMOID":
        centre, width = window
        grey = to_8_bit(expit(4 * (np.asarray(values, dtype=np.float64) - centre) / width), (0, 1))
    elif window is not None:
        centre, width = window
        if str(header.get("VOILUTFunction", "")) != "LINEAR_EXACT":  # C.11.2.1.2.1: the ends are pixel centres
            centre, width = centre - 0.5, width - 1
        grey = to_8_bit(values, (centre - width / 2, centre + width / 2))
    elif stored.dtype == np.uint8 and np.array_equal(values, stored):
        grey = to_8_bit(stored, (0, 2 ** int(header.BitsStored) - 1))
    else:
        grey = to_8_bit(values, counted=None if padding.all() else ~padding)
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return np.where(padding, np.uint8(0), grey)


def _window(header: pydicom.Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window; a window of no width, as some scanners write it, counts as absent."""
    centre, width = (np.ravel(header.get(name)).tolist()[:1] for name in ("WindowCenter", "WindowWidth"))
    if not centre or not width or centre[0] is None or width[0] is None or not float(width[0]) > 1:
        return None
    found = float(centre[0]), float(width[0])
    return found if all(map(math.isfinite, found)) else None


def _padding(stored: NDArray[Any], header: pydicom.Dataset) -> NDArray[np.bool_]:
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = header.get("PixelPaddingRangeLimit", first)
    padding: NDArray[np.bool_] = (stored >= min(first, last)) & (stored <= max(first, last))
    return padding


def _trim(header: pydicom.Dataset) -> None:
    """Cut bytes after the last pixel off: pydicom would only warn, but into the terminal of a user who can't help it.

    Not for YBR_FULL_422, whose length tells pydicom that the file is not what it says.
    """
    from pydicom.pixels.utils import get_expected_length

    if header.file_meta.TransferSyntaxUID.is_encapsulated or header.PhotometricInterpretation == "YBR_FULL_422":
        return
    length = get_expected_length(header)
    length += length % 2
    if len(header.get("PixelData", b"")) > length:
        header.PixelData = header.PixelData[:length]


def _lift_functional_groups(header: pydicom.Dataset, frame: int) -> None:
    """Put rescale and window of one frame of an enhanced multi-frame file where a single picture has them."""
    shared = header.get("SharedFunctionalGroupsSequence", [])[:1]
    own = header.get("PerFrameFunctionalGroupsSequence", [])[frame : frame + 1]
    for group in (*shared, *own):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name, [])[:1]:
                header.update(item)
