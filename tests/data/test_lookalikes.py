"""The hash moves little where a picture is only saved anew; the search is exact; what is alike and what is not."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmark.data.lookalikes import RADIUS, hash_all, look_alike, near_pairs, reduce_all
from benchmark.data.phantom import draw

SLICES = [np.asarray(picture) for picture in draw(20, seed=3).pixels[::4]]


def distances(one, other):
    return np.bitwise_count(hash_all(reduce_all(one)) ^ hash_all(reduce_all(other)))


def alike(one, other):
    reduced = reduce_all([*one, *other])
    return look_alike(reduced, np.arange(len(one)), np.arange(len(one)) + len(one))


def as_jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(pixels, side):
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


@given(
    arrays(np.uint8, (32, 32), elements=st.integers(30, 225)).filter(lambda p: p.std() > 1),
    st.integers(-30, 30),
)
def test_a_change_of_brightness_within_range_changes_no_bit_that_matters(picture, by):
    """The mean moves alone: no other bit can flip but those that lie on the median itself, within rounding."""
    assert distances([picture], [(picture.astype(int) + by).astype(np.uint8)])[0] <= 2


@given(arrays(np.uint8, (32, 32), elements=st.integers(0, 127)).filter(lambda p: p.std() > 1))
def test_twice_the_contrast_changes_no_bit_that_matters(picture):
    assert distances([picture], [picture * 2])[0] <= 2


@given(arrays(np.uint8, (32, 32)).filter(lambda p: p.std() > 10))
def test_a_negative_flips_about_every_bit(picture):
    assert distances([picture], [255 - picture])[0] >= 60


@pytest.mark.parametrize(
    "change",
    [
        lambda p: np.clip(p.astype(int) + 8, 0, 255).astype(np.uint8),
        lambda p: np.clip(p * 1.1, 0, 255).astype(np.uint8),
        lambda p: as_jpeg(p, 20),
        lambda p: scaled(p, 128),
        lambda p: np.stack([p] * 3, axis=2),
    ],
    ids=["brighter", "contrast", "jpeg", "scaled", "rgb"],
)
def test_a_slice_saved_anew_is_alike(change):
    changed = [change(p) for p in SLICES]
    assert distances(SLICES, changed).max() <= RADIUS
    assert alike(SLICES, changed).all()


def test_slices_of_other_patients_are_not_alike_however_near_their_hashes():
    n = len(SLICES)
    reduced = reduce_all(SLICES)
    i, j = np.triu_indices(n, 1)
    assert not look_alike(reduced, i, j).any()


def test_plain_pictures_are_alike_to_nothing():
    plain = [np.full((40, 50), level, dtype=np.uint8) for level in (0, 0, 7, 255)]
    assert not alike(plain, plain).any()


@given(
    arrays(np.uint64, st.integers(0, 90)),
    arrays(np.uint64, st.integers(0, 90)),
    st.integers(0, 64),
    st.lists(st.tuples(st.integers(0, 89), st.integers(0, 63)), max_size=20),
)
def test_the_search_in_blocks_finds_what_brute_force_finds(ours, theirs, radius, planted):
    for position, bit in planted:  # near pairs, which chance would not give
        if position < min(len(ours), len(theirs)):
            theirs[position] = ours[position] ^ np.uint64(1 << bit)
    expected = {
        (i, j) for i, a in enumerate(ours) for j, b in enumerate(theirs) if (int(a) ^ int(b)).bit_count() <= radius
    }
    found = [(int(i), int(j)) for block in near_pairs(ours, theirs, radius) for i, j in zip(*block, strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_the_search_crosses_blocks_and_stripes():
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 2**64, 9000, dtype=np.uint64)
    ours = theirs[[0, 40, 4095, 4096, 8999]]
    ours = np.concatenate([rng.integers(0, 2**64, 60, dtype=np.uint64), ours ^ np.uint64(0b1011)])
    found = {(int(i), int(j)) for block in near_pairs(ours, theirs, 3) for i, j in zip(*block, strict=True)}
    assert found == {(60, 0), (61, 40), (62, 4095), (63, 4096), (64, 8999)}
