"""Preprocessing gives what torchvision gives, whatever the shape of the picture, and records all that changes it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmark.data.preprocess import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess, picture
from benchmark.result import digest

MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
SHAPES = [(256, 256), (224, 224), (37, 91), (91, 38), (500, 20), (1, 1), (1, 300), (300, 1), (2, 3), (223, 225)]


def noise(*shape):
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def by_torchvision(image, how):
    """Fit, resize with Pillow, scale and normalise a three-channel copy."""
    image = (image.convert("L") if how.grey else image).convert("RGB")
    width, height = image.size
    side = max(width, height, how.canvas)
    left, top = (side - width) // 2, (side - height) // 2
    fits = {
        "pad": (v2.Pad([left, top, side - width - left, side - height - top]), (how.size, how.size)),
        "stretch": (v2.Identity(), (how.size, how.size)),
        "crop": (v2.Identity(), [how.size]),
    }
    before, size = fits[how.fit]
    steps = [
        before,
        v2.Resize(size, interpolation=MODES[how.interpolation], antialias=True),
        v2.CenterCrop(how.size),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(how.mean, how.std),
    ]
    return v2.Compose(steps)(image)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize(
    "how",
    [
        Preprocess(224),
        Preprocess(64, CLIP_MEAN, CLIP_STD, interpolation="bilinear"),
        Preprocess(32, HALF, HALF, fit="stretch"),
        Preprocess(31, CLIP_MEAN, CLIP_STD, fit="crop"),
        Preprocess(64, grey=True, canvas=100),
    ],
    ids=["imagenet", "clip", "stretched", "cropped", "grey on a canvas"],
)
def test_equals_torchvision(shape, channels, how):
    image = picture(noise(*shape, *channels))
    found = how(image)
    assert found.dtype == torch.float32
    assert found.shape == (3, how.size, how.size)
    assert found.is_contiguous()
    torch.testing.assert_close(found, by_torchvision(image, how), rtol=0, atol=1e-6)


def test_each_channel_is_normalised_with_its_own_constants():
    image = picture(np.array([[[51, 102, 204]]], dtype=np.uint8))
    found = Preprocess(2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))(image)
    expected = [(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (0.8 - 0.3) / 2]
    for channel, value in zip(found, expected, strict=True):
        torch.testing.assert_close(channel, torch.full((2, 2), value), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shape", "rows", "columns"), [((2, 5), (1, 3), (0, 5)), ((5, 2), (0, 5), (1, 3))])
def test_the_picture_lies_in_the_centre_of_its_square_and_the_rest_is_black(shape, rows, columns):
    values = Preprocess(5, mean=(0, 0, 0), std=(1, 1, 1))(picture(np.full(shape, 255, dtype=np.uint8)))[0]
    expected = torch.zeros(5, 5)
    expected[slice(*rows), slice(*columns)] = 1
    assert torch.equal(values, expected)


def test_two_by_two_pixels_shrink_to_their_mean():
    image = picture(np.array([[0, 40], [80, 120]], dtype=np.uint8))
    value = Preprocess(1, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")(image)
    torch.testing.assert_close(value, torch.full((3, 1, 1), 60 / 255))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_grey_picture_gives_the_same_bits_as_its_colour_copy(shape):
    grey = noise(*shape)
    assert torch.equal(Preprocess(48)(picture(grey)), Preprocess(48)(picture(np.dstack([grey] * 3))))


def test_input_is_left_as_it_was_and_output_is_the_callers_own():
    pixels = noise(8, 8)
    pixels.setflags(write=False)
    image = picture(pixels)
    first = Preprocess(8)(image)
    expected = first.clone()
    first.zero_()
    assert torch.equal(Preprocess(8)(image), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "1"])
def test_other_modes_are_refused_rather_than_guessed(mode):
    with pytest.raises(ValueError, match=mode):
        Preprocess(8)(Image.new(mode, (4, 4)))


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [(noise(3, 5), "L"), (noise(3, 5, 3), "RGB"), (noise(5, 3).T, "L"), (noise(9, 9)[::2, ::3], "L")],
)
def test_picture_has_the_mode_of_its_pixels_and_their_values(pixels, mode):
    image = picture(pixels)
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), pixels)


def test_record_is_json_and_differs_with_every_setting():
    how = Preprocess(224)
    others = [
        replace(how, size=225),
        replace(how, mean=HALF),
        replace(how, std=HALF),
        replace(how, fit="stretch"),
        replace(how, fit="crop"),
        replace(how, interpolation="bilinear"),
        replace(how, grey=True),
        replace(how, canvas=300),
    ]
    assert json.loads(json.dumps(how.record()))["size"] == 224
    assert len({digest(each.record()) for each in [how, *others]}) == 9
    assert digest(how.record()) == digest(Preprocess(224, IMAGENET_MEAN, IMAGENET_STD).record())
