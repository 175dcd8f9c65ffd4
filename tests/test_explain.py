"""Similarity maps: the identity they rest on, the grid they lie on, and the reasons why there may be none."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines.towers import TINY_RESNET, TINY_SWIN, TINY_VIT, ImageSpec, ImageTower, seeded
from benchmark import explain
from benchmark.data.manifest import Dataset
from benchmark.data.phantom import draw
from benchmark.data.preprocess import Preprocess, picture
from benchmark.data.split import Split, make_split, train_reports
from benchmark.embed import Extractor
from benchmark.errors import BadInput, UnsupportedModality
from benchmark.heads import ProjectionPair
from benchmark.model import BuildRequest, Features, HeadSpec, VisionLanguageModel
from benchmark.registry import Registry
from benchmark.result import Maps, PictureMaps
from benchmark.store import ArrayStore

TOWERS = {
    "resnet": ImageSpec("resnet50.tv_in1k", 128, TINY_RESNET),
    "vit": ImageSpec("vit_base_patch16_224.augreg2_in21k_ft_in1k", 64, TINY_VIT),
    "swin": ImageSpec("swin_tiny_patch4_window7_224.ms_in1k", 128, {**TINY_SWIN, "img_size": 128}),
}
SIDES = {"resnet": 4, "vit": 8, "swin": 2}


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Split]:
    dataset = draw(30)
    return dataset, make_split(dataset)


def tower(name: str, seed: int = 1) -> ImageTower:
    with seeded("test", seed):
        return ImageTower(TOWERS[name]).eval()


def extractor(model: VisionLanguageModel, folder: Path) -> Extractor:
    return Extractor(model, "x", ArrayStore(folder), device=torch.device("cpu"), precision="fp32")


def built(name: str, data: tuple[Dataset, Split]) -> VisionLanguageModel:
    model = Registry.load().model(name).entry.make(BuildRequest(train_reports=train_reports(*data)))
    assert isinstance(model, VisionLanguageModel)
    return model


# --------------------------------------------------------------------------------------------- the identity


@pytest.mark.parametrize("name", ["resnet", "swin"])
def test_the_mean_of_projected_patches_is_the_projected_picture_where_a_tower_averages(name: str) -> None:
    """With a linear head, its bias included; and the picture's cosine is the maps', weighed by the patches' norms."""
    encoder = tower(name)
    pair = ProjectionPair(encoder.width, 24, HeadSpec("linear", 16))
    nn.init.normal_(pair.image.bias)
    with torch.inference_mode():
        features = encoder(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
        patches = pair.image(features.tokens)
        whole = pair.image(features.pooled)
        torch.testing.assert_close(patches.mean(dim=1), whole, rtol=1e-4, atol=1e-5)
        phrase = pair.project_text(torch.randn(1, 24, generator=torch.Generator().manual_seed(1)))[0]
        cosines = pair.project_image(features.tokens) @ phrase
        weights = patches.norm(dim=2) / (patches.shape[1] * whole.norm(dim=1, keepdim=True))
        direct = pair.project_image(features.pooled) @ phrase
        torch.testing.assert_close((weights * cosines).sum(dim=1), direct, rtol=1e-4, atol=1e-5)


def test_the_identity_does_not_hold_for_a_vit_that_is_read_at_its_class_token_nor_for_an_mlp_head() -> None:
    """What the document says of them: their maps are readings by analogy."""
    with torch.inference_mode():
        pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        vit = tower("vit")(pixels[..., :64, :64])
        assert (vit.tokens.mean(dim=1) - vit.pooled).abs().max() > 0.01
        averaged = tower("resnet")(pixels)
        pair = ProjectionPair(averaged.pooled.shape[1], 24, HeadSpec("mlp", 16))
        assert (pair.image(averaged.tokens).mean(dim=1) - pair.image(averaged.pooled)).abs().max() > 0.001


# --------------------------------------------------------------------------------------------- the grid


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_patches_lie_row_by_row_where_the_picture_has_them(name: str) -> None:
    """Brightening one cell of a picture moves the patch vector of that cell most, over five random towers."""
    side, size = SIDES[name], TOWERS[name].size
    cell = size // side
    base = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    moved = torch.zeros(side, side, side * side)
    for encoder in (tower(name, seed) for seed in range(5)):
        with torch.inference_mode():
            before = encoder(base).tokens[0]
            assert len(before) == side * side
            for row, column in np.ndindex(side, side):
                changed = base.clone()
                changed[..., row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] += 5
                moved[row, column] += (encoder(changed).tokens[0] - before).norm(dim=1)
    assert moved.flatten(0, 1).argmax(dim=1).tolist() == list(range(side * side))


def test_similarities_keep_the_grid_and_are_cosines() -> None:
    patches = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    patches = torch.cat([patches, patches[:3]])
    maps = explain.similarity(patches, patches[[5, 1]], 3)
    assert maps.shape == (2, 3, 3)
    assert maps[0, 1, 2] == pytest.approx(1.0, abs=1e-6)
    assert maps[1, 0, 1] == pytest.approx(1.0, abs=1e-6)
    assert np.abs(maps).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("name", "side"),
    [("lumbarclip-resnet50", 2), ("lumbarclip-vit", 8), ("convirt", 2), ("biomedclip", 8), ("clip", 8)],
)
def test_shipped_models_have_maps_on_their_grid(
    name: str, side: int, data: tuple[Dataset, Split], tmp_path: Path
) -> None:
    model = built(name, data)
    subjects = explain.choose(*data)
    view = explain.look(extractor(model, tmp_path), subjects, data[0], batch=16)
    pair = ProjectionPair(model.image_dim, model.text_dim, HeadSpec("linear", 8))
    maps, pointed = explain.read(view, pair.project_image, pair.project_text, len(data[0]))
    assert view.side == side
    assert len(maps.pictures) == explain.SHOWN
    for shown, row in zip(maps.pictures, subjects.shown, strict=True):
        assert shown.maps.shape == (len(subjects.phrases[row]), side, side)
        assert shown.shown.shape == shown.mask.shape == (64, 64)
        assert shown.mask.any()
        assert shown.about_mask == tuple(
            "canal" in p or "stenosis" in p or "thecal" in p for p in map(str.lower, shown.phrases)
        )
    assert pointed is not None
    played = ~np.isnan(pointed.hit)
    assert played.sum() == len(subjects.pointed)
    assert (pointed.hit[played] <= pointed.ceiling[played]).all()
    area = np.mean([view.region[row].mean() for row in subjects.pointed])
    assert pointed.chance[played].mean() == pytest.approx(area)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lumbarclip-swin", "its last map is a single cell"),
        ("medclip-vit", "its last map is a single cell"),
        ("gloria", "its patch vectors are 64 wide, and its projection takes pooled vectors, 512 wide"),
    ],
)
def test_shipped_models_without_maps_say_why(
    name: str, reason: str, data: tuple[Dataset, Split], tmp_path: Path
) -> None:
    """At scale ``tiny``; a published Swin has 7 x 7 cells."""
    with pytest.raises(explain.NoMaps, match=reason):
        explain.look(extractor(built(name, data), tmp_path), explain.choose(*data), data[0], batch=16)


class Fake(nn.Module):
    """A model whose patch vectors are whatever a test wants."""

    image_dim, text_dim = 4, 4

    def __init__(self, toy: nn.Module, tokens: Callable[[int], Tensor | None], size: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.card = toy.card
        self._tokens, self._size = tokens, size

    def preprocess(self, image: object) -> Tensor:
        return torch.zeros(3, *self._size)

    def encode_image(self, pixels: Tensor) -> Features:
        return Features(torch.zeros(len(pixels), 4), self._tokens(len(pixels)))

    def encode_text(self, texts: Sequence[str]) -> Features:
        raise UnsupportedModality("no text")


@pytest.mark.parametrize(
    ("tokens", "size", "reason"),
    [
        (lambda n: None, (8, 8), "gives no patch vectors"),
        (lambda n: torch.zeros(n, 5, 4), (8, 8), "its 5 patch vectors of 8 x 8 pixels are no square grid"),
        (lambda n: torch.zeros(n, 4, 4), (16, 4), "its 4 patch vectors of 16 x 4 pixels are no square grid"),
        (lambda n: torch.zeros(n, 4, 6), (8, 8), "its patch vectors are 6 wide"),
        (lambda n: torch.full((n, 4, 4), float("nan")), (8, 8), "not all finite"),
        (lambda n: torch.zeros(n, 4, 4), (8, 8), "the model encodes no text"),
    ],
)
def test_what_cannot_be_mapped_is_left_out_with_its_reason(
    tokens: Callable[[int], Tensor | None],
    size: tuple[int, int],
    reason: str,
    toy: object,
    data: tuple[Dataset, Split],
    tmp_path: Path,
) -> None:
    model = Fake(toy.Toy(0), tokens, size)  # type: ignore[attr-defined]
    with pytest.raises(explain.NoMaps, match=reason):
        explain.look(extractor(model, tmp_path), explain.choose(*data), data[0], batch=16)


def test_a_dataset_without_reports_has_nothing_to_explain(
    data: tuple[Dataset, Split], toy: object, tmp_path: Path
) -> None:
    bare = replace(data[0], reports=None)
    subjects = explain.choose(bare, data[1])
    assert subjects.rows == ()
    with pytest.raises(explain.NoMaps, match="no test picture has a report"):
        explain.look(extractor(toy.Toy(0), tmp_path), subjects, bare, batch=16)  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------- subjects


def test_pictures_come_from_the_test_split_each_of_another_patient_and_depend_on_it_alone(
    data: tuple[Dataset, Split],
) -> None:
    dataset, split = data
    subjects = explain.choose(dataset, split)
    assert set(subjects.rows) <= set(split.test.tolist())
    assert len({int(dataset.groups[row]) for row in subjects.shown}) == explain.SHOWN
    again = explain.choose(dataset, split)
    assert (again.shown, again.pointed, again.phrases) == (subjects.shown, subjects.pointed, subjects.phrases)
    other = explain.choose(dataset, replace(split, fingerprint="another"))
    assert other.shown != subjects.shown
    assert all(any(map(subjects.is_about_mask, subjects.phrases[row])) for row in subjects.pointed)


def test_without_masks_or_words_for_them_the_game_is_not_played(data: tuple[Dataset, Split]) -> None:
    dataset, split = data
    unnamed = replace(dataset, card=dataset.card.model_copy(update={"mask_words": ()}))
    for changed in (replace(dataset, masks=None), unnamed):
        subjects = explain.choose(changed, split)
        assert subjects.pointed == ()
        assert len(subjects.shown) == explain.SHOWN


def test_a_mask_of_another_size_than_its_picture_is_named(data: tuple[Dataset, Split]) -> None:
    dataset, split = data
    wrong = replace(dataset, masks=[np.zeros((10, 12), dtype=np.uint8)] * len(dataset))
    with pytest.raises(BadInput, match=r"manifest row \d+: the mask has 10 x 12 pixels and its picture 96 x 96"):
        explain.choose(wrong, split)


# --------------------------------------------------------------------------------------------- phrases


@pytest.mark.parametrize(
    ("report", "phrases"),
    [
        (
            "Axial MRI. L4/5: Mild bulge of 3.5 mm, no canal stenosis.",
            ("Axial MRI", "L4/5: Mild bulge of 3.5 mm", "no canal stenosis"),
        ),
        ("Disc bulge; facet arthrosis\nCanal patent", ("Disc bulge", "facet arthrosis", "Canal patent")),
        ("No disc bulge, herniation, stenosis.", ("No disc bulge, herniation, stenosis",)),
        ("Unremarkable. No canal stenosis.", ("Unremarkable, No canal stenosis",)),
        ("Unremarkable.", ("Unremarkable",)),
        (" \n.,; ", ()),
        ("", ()),
    ],
)
def test_reports_are_cut_into_sentences_and_clauses(report: str, phrases: tuple[str, ...]) -> None:
    assert explain.cut(report) == phrases


@given(st.text(alphabet="ab3 .,;!?\n", max_size=80))
def test_cutting_loses_no_word_and_leaves_no_word_alone(report: str) -> None:
    """The letters stand in their order; a phrase of one word is the whole report."""
    phrases = explain.cut(report)
    kept = [character for phrase in phrases for character in phrase if character.isalnum()]
    assert kept == [character for character in report if character.isalnum()]
    assert all(len(phrase.split()) > 1 for phrase in phrases) or len(phrases) <= 1


# --------------------------------------------------------------------------------------------- geometry, files


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_the_picture_that_is_shown_is_what_the_model_was_given(fit: str) -> None:
    """Grey of the input tensor differs from the fitted picture by its own contrast stretch and rounding alone."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60), dtype=np.uint8)
    pixels[:10, :10], pixels[-10:, -10:] = 0, 255
    preprocess = Preprocess(32, fit=fit)  # type: ignore[arg-type]
    plain = Preprocess(32, mean=(0, 0, 0), std=(1, 1, 1), fit=fit)(picture(pixels))[0].numpy() * 255  # type: ignore[arg-type]
    shown = explain.grey(preprocess(picture(pixels))).astype(np.float64)
    stretched = (plain - plain.min()) / (plain.max() - plain.min()) * 255
    assert np.abs(shown - stretched).max() <= 1


def test_a_mask_goes_through_the_geometry_of_its_picture(toy: object) -> None:
    """Padded: an upper left quarter of a wide picture lies below the black bar that makes it square."""
    model = toy.Toy(0)  # type: ignore[attr-defined]
    model.preprocess = Preprocess(8, fit="pad", interpolation="bilinear")
    mask = np.zeros((20, 40), dtype=np.uint8)
    mask[:10, :20] = 1
    seen = explain._as_seen(model, mask)
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:4, :4] = True
    np.testing.assert_array_equal(seen, expected)
    colour = np.repeat(mask[..., None], 3, axis=2)
    np.testing.assert_array_equal(explain._as_seen(model, colour), expected)
    assert not explain._as_seen(model, np.zeros_like(mask)).any()


def test_maps_read_back_as_they_were_written_and_hold_no_pickle() -> None:
    rng = np.random.default_rng(0)
    maps = Maps(
        (
            PictureMaps(
                rng.integers(0, 256, (6, 6), dtype=np.uint8),
                rng.random((6, 6)) > 0.5,
                ("no <b> stenosis", "日本"),
                (True, False),
                rng.random((2, 3, 3), dtype=np.float32),
            ),
        )
    )
    data = maps.to_bytes()
    assert data == maps.to_bytes()
    (read,) = Maps.from_bytes(data).pictures
    (wrote,) = maps.pictures
    assert (read.phrases, read.about_mask) == (wrote.phrases, wrote.about_mask)
    for name in ("shown", "mask", "maps"):
        np.testing.assert_array_equal(getattr(read, name), getattr(wrote, name))


def test_files_of_something_else_are_refused() -> None:
    pickled = io.BytesIO()
    np.savez(pickled, count=np.array([{"a": 1}], dtype=object))
    other = io.BytesIO()
    np.savez(other, count=np.array(1))
    for data in (b"", b"PK\x03\x04 cut off", b"not a file", pickled.getvalue(), other.getvalue()):
        with pytest.raises(ValueError, match=r"maps|pickle"):
            Maps.from_bytes(data)
