"""Every format decodes to the pixels it holds, damage and escape are refused in a clause, no file is decoded twice."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from pathlib import Path

import hypothesis.extra.numpy as some
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from benchmark.data import formats, image
from benchmark.data.formats import to_8_bit
from benchmark.data.image import decode, decode_all, pixel_hash
from benchmark.errors import BadInput
from benchmark.store import ArrayStore

WORDS = [b"no picture", b"GIF89a" + bytes(40), b"%!PS-Adobe-3.0 EPSF-3.0\n", b"", bytes(200)]


def noise(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(5).integers(0, high, shape, dtype=dtype)


def stretched(values, low, high):
    """The shared step, pixel by pixel."""
    return np.array([[round(255 * min(1, max(0, (v - low) / (high - low)))) for v in row] for row in values.tolist()])


def by_percentiles(values):
    return stretched(values, *np.percentile(values.astype(float), [0.5, 99.5]))


def save(folder, name, pixels, **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(folder / name, **options)
    return name


def save_dicom(folder, name, pixels, *, photometric="MONOCHROME2", bits=None, syntax=ExplicitVRLittleEndian, **fields):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.set_pixel_data(pixels, photometric, bits or 8 * pixels.itemsize)
    for field, value in fields.items():
        setattr(data, field, value)
    if syntax == RLELossless:
        data.compress(RLELossless)
    data.save_as(folder / name, enforce_file_format=True)
    return name


def bundled(name):
    """A test file that pydicom's wheel carries."""
    return Path(get_testdata_file(name, download=False))


def clause(reference, root):
    """The message of a refused reference, its form checked."""
    with pytest.raises(BadInput) as caught:
        decode(reference, root)
    message = str(caught.value)
    assert message.startswith(f"{reference}: ")
    assert ";" in message.removeprefix(reference)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------------- Pillow


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (1, 1)])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a", "a.dcm"])
def test_eight_bits_come_through_unchanged_whatever_the_file_is_called(tmp_path, shape, name):
    save(tmp_path, name, noise(*shape), format="TIFF" if name == "a.tif" else "PNG")
    found = decode(name, tmp_path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, noise(*shape))


@pytest.mark.parametrize("channels", [(), (3,)])
def test_jpeg_is_what_pillow_reads(tmp_path, channels):
    save(tmp_path, "a.jpg", noise(20, 30, *channels), quality=90)
    assert np.array_equal(decode("a.jpg", tmp_path), np.asarray(Image.open(tmp_path / "a.jpg")))


def test_colour_of_equal_channels_is_kept_as_grey(tmp_path):
    grey = noise(6, 4)
    assert np.array_equal(decode(save(tmp_path, "a.png", np.dstack([grey] * 3)), tmp_path), grey)
    assert np.array_equal(decode(save(tmp_path, "p.png", Image.fromarray(grey).convert("P")), tmp_path), grey)


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits_take_the_same_step_in_every_format(tmp_path, big):
    values = noise(40, 30, high=60_000 if big else 4096, dtype=np.uint16)
    save(tmp_path, "a.png", values)
    save(tmp_path, "a.tif", values)
    save(tmp_path, "i.tif", values.astype(np.int32))
    save(tmp_path, "f.tif", values.astype(np.float32))
    np.savez(tmp_path / "a.npz", u=values[None], f=values[None].astype(float))
    save_dicom(tmp_path, "a.dcm", values)
    references = ["a.png", "a.tif", "i.tif", "f.tif", "a.npz#u[0]", "a.npz#f[0]", "a.dcm"]
    for reference in references:
        assert np.array_equal(decode(reference, tmp_path), by_percentiles(values)), reference


def test_tiff_whose_zero_is_white_is_turned_around(tmp_path):
    values = noise(40, 30, high=4096, dtype=np.uint16)
    save(tmp_path, "a.tif", values, tiffinfo={262: 0})
    assert np.array_equal(decode("a.tif", tmp_path), 255 - by_percentiles(values))
    save(tmp_path, "b.tif", noise(4, 4), tiffinfo={262: 0})
    assert np.array_equal(decode("b.tif", tmp_path), noise(4, 4))


def test_floats_that_are_no_numbers_are_black_and_infinities_the_ends(tmp_path):
    values = np.linspace(-2, 3, 400, dtype=np.float32).reshape(20, 20)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = decode(save(tmp_path, "a.tif", values), tmp_path)
    assert found[0, :3].tolist() == [0, 255, 0]
    rest = values[np.isfinite(values)]
    assert np.array_equal(found[1:], stretched(values[1:], *np.percentile(rest.astype(float), [0.5, 99.5])))


def test_floats_without_a_number_are_refused(tmp_path):
    save(tmp_path, "a.tif", np.full((3, 3), np.nan, dtype=np.float32))
    assert "no finite pixel value" in clause("a.tif", tmp_path)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.fromarray(noise(8, 9)).convert("1"), np.asarray(Image.fromarray(noise(8, 9)).convert("1")) * 255),
        (Image.merge("LA", [Image.fromarray(noise(8, 9)), Image.fromarray(noise(8, 9)[::-1])]), noise(8, 9)),
        (Image.fromarray(noise(8, 9, 4), "RGBA"), noise(8, 9, 4)[..., :3]),
    ],
    ids=["1 bit", "grey and alpha", "colour and alpha"],
)
def test_one_bit_and_alpha(tmp_path, picture, expected):
    """Alpha is dropped: also where it hides everything, the stored pixels count."""
    assert np.array_equal(decode(save(tmp_path, "a.png", picture), tmp_path), expected)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palettes_become_their_colours(tmp_path, transparency):
    palette, indices = noise(256, 3), noise(8, 9)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    assert np.array_equal(decode(save(tmp_path, "a.png", picture, **options), tmp_path), palette[indices])


def test_cmyk_is_converted(tmp_path):
    inks = Image.fromarray(noise(8, 9, 4), "CMYK")
    assert np.array_equal(decode(save(tmp_path, "a.tif", inks), tmp_path), np.asarray(inks.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(tmp_path, name, orientation, turned):
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.kron(noise(2, 3), np.ones((8, 8), dtype=np.uint8))  # whole blocks, which JPEG keeps
    found = decode(save(tmp_path, name, pixels, exif=exif), tmp_path)
    assert found.shape == turned(pixels).shape
    assert np.abs(found.astype(int) - turned(pixels)).max() <= (2 if name == "a.jpg" else 0)


def test_pages_of_a_tiff_are_frames_and_the_first_is_the_default(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (10, 20, 30)]
    save(tmp_path, "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert [decode(f"a.tif{end}", tmp_path)[0, 0] for end in ("", "#frame[0]", "#frame[2]")] == [10, 10, 30]
    assert "#frame[0] to #frame[2]" in clause("a.tif#frame[3]", tmp_path)
    save(tmp_path, "b.png", noise(3, 3))
    assert "has no #array[0]" in clause("b.png#array[0]", tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
def test_files_that_are_cut_off_are_refused(tmp_path, name, share):
    save(tmp_path, name, noise(64, 64))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
    clause(name, tmp_path)


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    save(tmp_path, "a.png", noise(32, 32))
    whole = bytearray((tmp_path / "a.png").read_bytes())
    whole[len(whole) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(whole)
    assert "cannot be decoded" in clause("a.png", tmp_path)


@pytest.mark.parametrize("content", WORDS)
@pytest.mark.parametrize("name", ["a.png", "a.dcm", "a.npz"])
def test_what_is_no_picture_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    clause(name + ("#a[0]" if name == "a.npz" else ""), tmp_path)


@pytest.mark.parametrize("side", [8193, 10_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))))
    message = clause("a.png", tmp_path)
    assert "pixels" in message


def test_a_dicom_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    save_dicom(tmp_path, "a.dcm", noise(30, 40))
    monkeypatch.setattr(formats, "MAX_PIXELS", 1199)
    assert "30 x 40 pixels" in clause("a.dcm", tmp_path)
    monkeypatch.setattr(formats, "MAX_PIXELS", 1200)
    assert decode("a.dcm", tmp_path).shape == (30, 40)


# ------------------------------------------------------------------------------------------- the 8-bit step


@given(
    some.arrays(np.float64, some.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e6, 1e6)),
    st.floats(0.5, 100),
    st.floats(-1e4, 1e4),
)
def test_the_step_keeps_the_order_uses_the_range_and_ignores_the_unit(values, scale, shift):
    found = to_8_bit(values)
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    if np.ptp(values) > 1e-3:
        assert (found.min(), found.max()) == (0, 255)
        assert np.abs(to_8_bit(values * scale + shift).astype(int) - found).max() <= 1
    elif np.ptp(values) == 0:
        assert (found == 0).all()


def test_a_few_marked_pixels_still_show():
    mask = np.zeros((100, 100), dtype=np.uint16)
    mask[3, 4] = 1
    assert to_8_bit(mask).sum() == to_8_bit(mask)[3, 4] == 255


# ------------------------------------------------------------------------------------------- npz


def test_arrays_of_an_npz(tmp_path):
    grey, colour = noise(3, 6, 5), noise(2, 6, 5, 3)
    np.savez(tmp_path / "a.npz", grey=grey, colour=colour, one=grey[..., None], mask=grey > 99)
    assert np.array_equal(decode("a.npz#grey[2]", tmp_path), grey[2])
    assert np.array_equal(decode("a.npz#one[1]", tmp_path), grey[1])
    assert np.array_equal(decode("a.npz#colour[1]", tmp_path), colour[1])
    assert np.array_equal(decode("a.npz#mask[0]", tmp_path), (grey[0] > 99) * 255)


@pytest.mark.parametrize(
    ("fragment", "wanted"),
    [
        ("", "name one picture in it"),
        ("#grey", "under the image root"),
        ("#gray[0]", "has no array 'gray'; it has grey, flat, wide, words, number, objects, empty"),
        ("#grey[3]", "holds 3 pictures"),
        ("#number[0]", "holds 0 pictures"),
        ("#flat[0]", "a picture is (H, W) or (H, W, 3)"),
        ("#wide[0]", "a picture is (H, W) or (H, W, 3)"),
        ("#words[0]", "<U2"),
        ("#objects[0]", "allow_pickle"),
        ("#empty[0]", "is empty"),
    ],
)
def test_what_an_npz_does_not_hold_is_refused(tmp_path, fragment, wanted):
    np.savez(
        tmp_path / "a.npz",
        grey=noise(3, 6, 5),
        flat=noise(3, 6),
        wide=noise(3, 6, 5, 7),
        words=np.full((2, 2, 2), "ab"),
        number=np.array(3),
        objects=np.array([{}, None]),
        empty=np.zeros((2, 0, 4)),
    )
    assert wanted in clause(f"a.npz{fragment}", tmp_path)


def test_an_npz_is_opened_once_for_many_references_and_again_when_it_changed(tmp_path, monkeypatch):
    opened = []
    load = np.load
    monkeypatch.setattr(formats.np, "load", lambda *a, **k: opened.append(a) or load(*a, **k))
    np.savez_compressed(tmp_path / "a.npz", x=noise(1000, 3, 3))
    found = decode_all([f"a.npz#x[{i}]" for i in range(1000)], tmp_path, ArrayStore(tmp_path / "store"))
    assert np.array_equal(np.stack(found.pixels), noise(1000, 3, 3))
    assert len(opened) == 1
    before = decode("a.npz#x[7]", tmp_path)
    np.savez_compressed(tmp_path / "a.npz", x=255 - noise(1000, 3, 3), y=np.zeros(3))
    assert np.array_equal(decode("a.npz#x[7]", tmp_path), 255 - before)


# ------------------------------------------------------------------------------------------- DICOM

MR = [
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
]


@pytest.mark.parametrize("name", MR)
def test_one_picture_in_seven_encodings_is_one_picture(name):
    """Window of the file: centre 600, width 1600, by PS3.3 C.11.2.1.2.1."""
    values = pydicom.dcmread(bundled("MR_small.dcm")).pixel_array
    found = decode(name, bundled(name).parent)
    assert np.array_equal(found, stretched(values, 599.5 - 1599 / 2, 599.5 + 1599 / 2))


def test_a_truncated_dicom_is_refused():
    assert "8130 vs 8192 bytes" in clause("MR_truncated.dcm", bundled("MR_truncated.dcm").parent)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_window_is_applied_to_rescaled_values(tmp_path, syntax, dtype):
    values = noise(20, 30, high=3000, dtype=dtype)
    name = save_dicom(
        tmp_path, "a", values, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400, syntax=syntax
    )
    houndsfield = values.astype(float) * 2 - 1024
    assert np.array_equal(decode(name, tmp_path), stretched(houndsfield, 39.5 - 399 / 2, 39.5 + 399 / 2))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"WindowCenter": [100, 900], "WindowWidth": [51, 3]}, lambda v: stretched(v, 99.5 - 25, 99.5 + 25)),
        (
            {"WindowCenter": 100, "WindowWidth": 51, "VOILUTFunction": "LINEAR_EXACT"},
            lambda v: stretched(v, 74.5, 125.5),
        ),
        (
            {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"},
            lambda v: stretched(1 / (1 + np.exp(-4 * (v.astype(float) - 100) / 50)), 0, 1),
        ),
        ({"WindowCenter": 100, "WindowWidth": 0}, by_percentiles),
        ({"WindowCenter": None, "WindowWidth": None}, by_percentiles),
        ({"WindowCenter": 100}, by_percentiles),
    ],
    ids=["first of two", "exact", "sigmoid", "no width", "empty", "half"],
)
def test_kinds_of_window(tmp_path, fields, expected):
    values = noise(20, 30, high=200, dtype=np.uint16)
    assert np.array_equal(decode(save_dicom(tmp_path, "a.dcm", values, **fields), tmp_path), expected(values))


def test_a_lookup_table_goes_before_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4, 10, 12]
    table.add_new("LUTData", "US", [0, 1000, 4095, 2000])
    values = np.array([[0, 10, 11, 12, 13, 14, 99]], dtype=np.uint16)
    save_dicom(tmp_path, "a.dcm", values, VOILUTSequence=[table], WindowCenter=5, WindowWidth=9)
    looked_up = np.array([[0, 0, 1000, 4095, 2000, 2000, 2000]])
    assert np.array_equal(decode("a.dcm", tmp_path), stretched(looked_up, 0, 4095))


@pytest.mark.parametrize("fields", [{}, {"WindowCenter": 800, "WindowWidth": 500}])
def test_monochrome1_is_the_negative_of_monochrome2(tmp_path, fields):
    values = noise(20, 30, high=2000, dtype=np.uint16)
    one = decode(save_dicom(tmp_path, "1.dcm", values, photometric="MONOCHROME1", **fields), tmp_path)
    two = decode(save_dicom(tmp_path, "2.dcm", values, photometric="MONOCHROME2", **fields), tmp_path)
    assert np.array_equal(one, 255 - two)
    assert one.std() > 10


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_set_the_range(tmp_path, photometric):
    values = noise(20, 30, high=2000, dtype=np.int16)
    inside = np.array(values)
    values[:6] = -2000
    save_dicom(tmp_path, "a.dcm", values, photometric=photometric, PixelPaddingValue=-2000)
    found = decode("a.dcm", tmp_path)
    expected = stretched(inside[6:], *np.percentile(inside[6:], [0.5, 99.5]))
    assert (found[:6] == 0).all()
    assert np.array_equal(found[6:], 255 - expected if photometric == "MONOCHROME1" else expected)


@pytest.mark.parametrize("fields", [{}, {"RescaleSlope": 1, "RescaleIntercept": 0}])
def test_eight_bit_dicom_without_a_window_is_left_as_it_is(tmp_path, fields):
    values = noise(9, 7, high=180)
    assert np.array_equal(decode(save_dicom(tmp_path, "a.dcm", values, **fields), tmp_path), values)


def test_eight_bit_dicom_with_a_window_is_windowed(tmp_path):
    values = noise(9, 7)
    save_dicom(tmp_path, "a.dcm", values, WindowCenter=100, WindowWidth=101)
    assert np.array_equal(decode("a.dcm", tmp_path), stretched(values, 49.5, 149.5))


def test_of_many_frames_the_middle_one_unless_another_is_named(tmp_path):
    frames = noise(5, 6, 7)
    save_dicom(tmp_path, "a.dcm", frames)
    assert np.array_equal(decode("a.dcm", tmp_path), frames[2])
    assert np.array_equal(decode("a.dcm#frame[4]", tmp_path), frames[4])
    assert "#frame[0] to #frame[4]" in clause("a.dcm#frame[5]", tmp_path)
    assert "has no #array[0]" in clause("a.dcm#array[0]", tmp_path)


def test_each_frame_of_an_enhanced_file_has_its_own_rescale_and_window(tmp_path):
    frames = noise(2, 6, 7, high=900, dtype=np.uint16)
    shared, groups = Dataset(), [Dataset(), Dataset()]
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 3, -100
    shared.PixelValueTransformationSequence = [rescale]
    for group, centre in zip(groups, (300, 1500), strict=True):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = centre, 1001
        group.FrameVOILUTSequence = [window]
    save_dicom(
        tmp_path, "a.dcm", frames, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=groups
    )
    for i, centre in enumerate((300, 1500)):
        expected = stretched(frames[i].astype(float) * 3 - 100, centre - 500.5, centre + 499.5)
        assert np.array_equal(decode(f"a.dcm#frame[{i}]", tmp_path), expected)


@pytest.mark.parametrize(
    "name",
    [
        "examples_rgb_color.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jls_lossy_line.dcm",
    ],
)
def test_colour_dicom_is_rgb(name):
    assert np.array_equal(decode(name, bundled(name).parent), pixel_array(bundled(name), index=0))


def test_ybr_pixels_are_converted_by_the_equation(tmp_path):
    values = noise(6, 8, 3)
    found = decode(save_dicom(tmp_path, "a.dcm", values, photometric="YBR_FULL"), tmp_path).astype(float)
    y, cb, cr = np.moveaxis(values.astype(float), -1, 0)
    rgb = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    assert np.abs(found - np.clip(np.stack(rgb, axis=-1), 0, 255)).max() <= 1


def test_colour_of_sixteen_bits_keeps_its_high_byte(tmp_path):
    values = noise(6, 7, 3, high=2**16, dtype=np.uint16)
    assert np.array_equal(decode(save_dicom(tmp_path, "a.dcm", values, photometric="RGB"), tmp_path), values // 256)


def test_palette_colours_come_from_the_files_tables():
    name = "examples_palette.dcm"
    header = pydicom.dcmread(bundled(name))
    tables = [np.frombuffer(header[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")]
    expected = np.stack([table[header.pixel_array] >> 8 for table in tables], axis=-1)
    assert np.array_equal(decode(name, bundled(name).parent), expected)


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm"])
def test_a_dicom_without_a_picture_is_refused(name):
    assert "holds no picture" in clause(name, bundled(name).parent)


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg.dcm", "a.png", "a.tif", "a.npz"],
)
def test_damage_anywhere_gives_bad_input_or_a_picture_and_nothing_else(tmp_path, name):
    if name.endswith("dcm"):
        whole = bundled(name).read_bytes()
    else:
        np.savez(tmp_path / "a.npz", a=noise(2, 20, 20))
        whole = (tmp_path / (name if name == "a.npz" else save(tmp_path, name, noise(20, 20)))).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=6):
            damaged[at] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)])
        try:
            assert decode(name + ("#a[1]" if name == "a.npz" else ""), tmp_path).dtype == np.uint8
        except BadInput:
            refused += 1
    assert refused


def test_a_damaged_run_length_is_refused(tmp_path):
    """One decoder for RLE leaves Python by an abort that no ``except Exception`` sees, on this very byte."""
    damaged = bytearray(bundled("MR_small_RLE.dcm").read_bytes())
    damaged[-211] = 0x81
    (tmp_path / "a.dcm").write_bytes(damaged)
    assert "cannot be decoded" in clause("a.dcm", tmp_path)


# ------------------------------------------------------------------------------------------- paths


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "sub").mkdir(parents=True)
    save(tmp_path, "secret.png", noise(4, 4))
    save(tmp_path / "root", "a.png", noise(4, 4))
    return tmp_path / "root"


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "sub/../a.png", ".."])
def test_dots_are_refused(root, name):
    assert "image root" in clause(name, root)


def test_absolute_paths_are_refused_even_into_the_root(root):
    assert "image root" in clause(str(root / "a.png"), root)


def test_links_may_not_leave_the_root(root):
    (root / "out.png").symlink_to(root.parent / "secret.png")
    (root / "outside").symlink_to(root.parent)
    (root / "in.png").symlink_to(root / "a.png")
    assert "link that leaves the image root" in clause("out.png", root)
    assert "link that leaves the image root" in clause("outside/secret.png", root)
    assert np.array_equal(decode("in.png", root), noise(4, 4))


def test_the_root_itself_may_be_a_link(root):
    (root.parent / "link").symlink_to(root)
    assert np.array_equal(decode("a.png", root.parent / "link"), noise(4, 4))


@pytest.mark.parametrize("name", ["none.png", "sub", "", ".", "a.png/b.png", "x" * 3000, "a\0.png", "loop", "pipe"])
def test_what_is_no_file_is_refused(root, name):
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    clause(name, root)


def test_a_hash_sign_in_a_file_name_is_no_fragment(root):
    save(root, "a#1.png", noise(5, 5))
    assert np.array_equal(decode("a#1.png", root), noise(5, 5))


# ------------------------------------------------------------------------------------------- all of them


@pytest.fixture
def folder(tmp_path):
    """Six references, two of them bad, one file twice; and the pixels they mean."""
    root = tmp_path / "pictures"
    root.mkdir()
    save(root, "grey.png", noise(6, 5))
    save(root, "colour.png", noise(4, 7, 3))
    save(root, "copy.png", noise(6, 5))
    np.savez(root / "a.npz", x=noise(2, 3, 3))
    (root / "broken.png").write_bytes((root / "grey.png").read_bytes()[:60])
    return root


REFERENCES = ["grey.png", "broken.png", "colour.png", "../no.png", "a.npz#x[1]", "copy.png", "grey.png"]


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were decoded."""
    names = []

    def counted(path, fragment):
        names.append(path.name)
        return formats.read(path, fragment)

    monkeypatch.setattr(image, "read", counted)
    return names


def test_pictures_hashes_and_problems_lie_at_their_positions(folder, tmp_path):
    found = decode_all(REFERENCES, folder, ArrayStore(tmp_path / "store"))
    none = np.zeros((0, 0), dtype=np.uint8)
    expected = [noise(6, 5), none, noise(4, 7, 3), none, noise(2, 3, 3)[1], noise(6, 5), noise(6, 5)]
    assert len(found.pixels) == len(found.hashes) == 7
    for pixels, wanted, digest in zip(found.pixels, expected, found.hashes, strict=True):
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, wanted)
        assert digest == (pixel_hash(wanted) if wanted.size else "")
    assert np.array_equal(found.pixels[-3], expected[4])
    assert [p.shape for p in found.pixels[1:4]] == [(0, 0), (4, 7, 3), (0, 0)]
    with pytest.raises(IndexError):
        found.pixels[7]
    assert list(found.problems) == [1, 3]
    for position, reason in found.problems.items():
        assert clause(REFERENCES[position], folder) == f"{REFERENCES[position]}: {reason}"


def test_the_second_call_decodes_nothing_but_what_failed(folder, tmp_path, reads):
    first = decode_all(REFERENCES, folder, ArrayStore(tmp_path / "store"))
    assert sorted(reads) == ["a.npz", "broken.png", "colour.png", "grey.png"]  # the copy has the same bytes
    reads.clear()
    second = decode_all(REFERENCES, folder, ArrayStore(tmp_path / "store"))
    assert reads == ["broken.png"]
    assert second.hashes == first.hashes
    assert second.problems == first.problems
    assert all(np.array_equal(a, b) for a, b in zip(first.pixels, second.pixels, strict=True))


def test_a_moved_file_is_known_and_a_changed_one_is_not(folder, tmp_path, reads):
    store = ArrayStore(tmp_path / "store")
    decode_all(["grey.png", "colour.png"], folder, store)
    reads.clear()
    (folder / "grey.png").rename(folder / "moved.png")
    save(folder, "colour.png", 255 - noise(4, 7, 3))
    found = decode_all(["moved.png", "colour.png"], folder, store)
    assert reads == ["colour.png"]
    assert np.array_equal(found.pixels[1], 255 - noise(4, 7, 3))


def test_another_fragment_or_version_is_another_picture(folder, tmp_path, reads, monkeypatch):
    store = ArrayStore(tmp_path / "store")
    decode_all(["a.npz#x[0]"], folder, store)
    decode_all(["a.npz#x[0]", "a.npz#x[1]"], folder, store)
    assert len(reads) == 2
    monkeypatch.setattr(image, "DECODE_VERSION", "next")
    decode_all(["a.npz#x[0]"], folder, store)
    assert len(reads) == 3


def test_what_failed_is_not_cached(folder, tmp_path):
    store = ArrayStore(tmp_path / "store")
    assert decode_all(["broken.png"], folder, store).problems
    save(folder, "broken.png", noise(3, 3))
    mended = decode_all(["broken.png"], folder, store)
    assert not mended.problems
    assert np.array_equal(mended.pixels[0], noise(3, 3))


def test_a_kill_keeps_the_shards_that_were_written(folder, tmp_path, monkeypatch, reads):
    names = [save(folder, f"{i}.png", np.full((10, 10), i, dtype=np.uint8)) for i in range(12)]
    monkeypatch.setattr(image, "SHARD_BYTES", 400)
    counted = image.read

    def killed(path, fragment):
        if path.name == "9.png":
            raise KeyboardInterrupt
        return counted(path, fragment)

    with monkeypatch.context() as patch:
        patch.setattr(image, "read", killed)
        with pytest.raises(KeyboardInterrupt):
            decode_all(names, folder, ArrayStore(tmp_path / "store"))
    reads.clear()
    found = decode_all(names, folder, ArrayStore(tmp_path / "store"))
    assert sorted(reads) == ["10.png", "11.png", "8.png", "9.png"]
    assert [p[0, 0] for p in found.pixels] == list(range(12))


def test_progress_counts_pictures_up_to_all_of_them(folder, tmp_path):
    first, second = [], []
    for seen in (first, second):
        store = ArrayStore(tmp_path / "store")
        decode_all(REFERENCES, folder, store, lambda done, total, seen=seen: seen.append((done, total)))
    assert first == [(3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]  # a repeat, a copy and a path outside need no decoding
    assert second == [(6, 7), (7, 7)]


def test_no_references_are_no_pictures(tmp_path):
    found = decode_all([], tmp_path, ArrayStore(tmp_path / "store"))
    assert (len(found.pixels), found.hashes, found.problems) == (0, (), {})


def test_threads_run_only_a_little_ahead_of_the_reader():
    started = []
    results = image._in_threads(lambda i: started.append(i) or i, itertools.count())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(started) <= 3 + 2 * (os.cpu_count() or 1) + 1
    results.close()


def test_an_unreadable_file_is_a_problem_of_its_row(folder, tmp_path, monkeypatch):
    def denied(self, *_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    found = decode_all(["grey.png"], folder, ArrayStore(tmp_path / "store"))
    assert found.problems == {0: "cannot be read (Permission denied); check its permissions"}


def test_pixel_hash_tells_shapes_and_values_apart_but_not_layouts():
    pixels = noise(4, 6)
    different = [pixels, pixels.reshape(6, 4), pixels[::-1], pixels.reshape(4, 2, 3), np.zeros((0, 0), dtype=np.uint8)]
    assert len({pixel_hash(each) for each in different}) == len(different)
    assert pixel_hash(np.asfortranarray(pixels)) == pixel_hash(pixels)


# ------------------------------------------------------------------------------------------- real data


@pytest.mark.realdata
def test_real_dicom_files_decode_to_one_picture_and_the_truncated_one_is_a_problem(real_data, tmp_path):
    root = real_data / "dicom_loader_samples" / "files"
    names = sorted(path.name for path in root.glob("*.dcm"))
    found = decode_all(names, root, ArrayStore(tmp_path))
    assert [names[position] for position in found.problems] == ["MR_truncated.dcm"]
    assert len({found.hashes[names.index(name)] for name in MR}) == 1


@pytest.mark.realdata
def test_real_npz_gives_its_arrays(real_data, tmp_path):
    root = real_data / "pneumoniamnist_28"
    arrays = np.load(root / "pneumoniamnist_val_test.npz")["test_images"]
    references = [f"pneumoniamnist_val_test.npz#test_images[{i}]" for i in range(len(arrays))]
    found = decode_all(references, root, ArrayStore(tmp_path))
    assert not found.problems
    assert np.array_equal(np.stack(found.pixels), arrays)
    assert len(set(found.hashes)) == len(np.unique(arrays, axis=0))
