"""Pictures that look alike though their pixels differ: a copy saved anew, scaled, brightened or cut into another file.

Two steps. A 64-bit hash of the lowest frequencies finds candidates among all pairs; the frequencies that the hash does
not look at then decide, because pictures of one kind (a disc, a retina, a chest) share their coarse layout. What is
turned, mirrored or cropped is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

Hashes = NDArray[np.uint64]
Reduced = NDArray[np.uint8]
Indices = NDArray[np.int64]

SIDE = 32
"""Pixels along each side of the grey reduction that everything here looks at."""

LOW = 8
"""Frequencies along each side that the hash is made of."""

RADIUS = 6
"""Differing bits up to which two hashes make a candidate. Copies that were saved as JPEG of quality 20, brightened by a
gamma of 0.8, scaled, or given noise differ in at most 6 bits on lumbar slices, chest and fundus pictures."""

ALIKE = 0.975
"""Cosine of the high frequencies from which a candidate counts. On the same pictures those copies have 0.979 and more;
pictures of different patients have at most 0.60 (lumbar phantom), 0.86 (chest, 28 x 28) and 0.96 (fundus, where all
share the bright disc), and neighbouring slices of one lumbar patient 0.97. Pictures of 28 x 28 are too coarse for
this: of those, only copies of other brightness are found."""

BATCH = 1024
"""Pictures whose transforms are computed at a time."""

BLOCK, STRIPE = 32, 4096
"""Hashes on the two sides of a block of comparisons: what fits into a core's cache."""


def reduce_all(pixels: Sequence[NDArray[np.uint8]], progress: Callable[[int, int], None] | None = None) -> Reduced:
    """Reduce pictures to (n, 32, 32) grey means; ``progress`` is called with (pictures done, pictures in all)."""
    reduced = np.zeros((len(pixels), SIDE, SIDE), dtype=np.uint8)
    for i in range(len(pixels)):
        grey = Image.fromarray(np.ascontiguousarray(pixels[i])).convert("L")
        reduced[i] = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
        if progress is not None:
            progress(i + 1, len(pixels))
    return reduced


def hash_all(reduced: Reduced) -> Hashes:
    """Hash (n, 32, 32) reductions: a bit for each of the 64 lowest frequencies, whether it is above their median.

    The perceptual hash of Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), section
    3.2.1. A change of brightness moves the mean alone, which stays above the median; a change of contrast scales all.
    """
    hashes = np.zeros(len(reduced), dtype=np.uint64)
    for start in range(0, len(reduced), BATCH):
        low = _frequencies(reduced[start : start + BATCH])[:, :LOW, :LOW].reshape(-1, LOW * LOW)
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[start : start + BATCH] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def near_pairs(ours: Hashes, theirs: Hashes, radius: int = RADIUS) -> Iterator[tuple[Indices, Indices]]:
    """Give all pairs that differ in at most ``radius`` bits, block by block, as positions in the two arrays."""
    # Memory is taken once: at this size, asking for it anew would cost as much as the comparison.
    differing = np.empty((BLOCK, STRIPE), dtype=np.uint64)
    counts = np.empty((BLOCK, STRIPE), dtype=np.uint8)
    for start in range(0, len(ours), BLOCK):
        for other in range(0, len(theirs), STRIPE):
            a, b = ours[start : start + BLOCK, None], theirs[None, other : other + STRIPE]
            bits = np.bitwise_xor(a, b, out=differing[: len(a), : b.shape[1]])
            distances = np.bitwise_count(bits, out=counts[: len(a), : b.shape[1]])
            if distances.min() <= radius:
                i, j = np.nonzero(distances <= radius)
                yield i + start, j + other


def look_alike(reduced: Reduced, ours: Indices, theirs: Indices) -> NDArray[np.bool_]:
    """Whether the high frequencies of pairs agree, (pairs,); never where a picture has none, as a plain one."""
    left, i = np.unique(ours, return_inverse=True)
    right, j = np.unique(theirs, return_inverse=True)
    cosines = _detail(reduced[left]) @ _detail(reduced[right]).T
    alike: NDArray[np.bool_] = cosines[i, j] >= ALIKE
    return alike


def _frequencies(reduced: Reduced) -> NDArray[np.float32]:
    # its stub says float64, but SciPy keeps float32
    return np.asarray(dctn(reduced.astype(np.float32), axes=(1, 2), norm="ortho"), dtype=np.float32)


def _detail(reduced: Reduced) -> NDArray[np.float32]:
    """What the hash does not look at, (n, 1024) of unit length; zeros for a picture without detail."""
    high = _frequencies(reduced)
    high[:, :LOW, :LOW] = 0
    flat = high.reshape(len(high), SIDE * SIDE)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    # Rounding leaves a plain picture about 1e-3; the weakest real detail is one grey level of one of 1024 pixels.
    detail: NDArray[np.float32] = np.where(length > 0.1, flat / np.maximum(length, 0.1), 0)
    return detail
