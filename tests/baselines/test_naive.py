"""The naive rows see what their cards say, and fit on train rows alone."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from baselines.naive import IMAGE_STATISTICS, MAJORITY, METADATA_ONLY, RANDOM_ENCODER, RANDOM_PIXELS, TFIDF_REPORT
from baselines.random_rows import RandomEncoder, prepare
from benchmark.data.manifest import Dataset, DatasetCard
from benchmark.data.preprocess import picture
from benchmark.errors import UnsupportedModality
from benchmark.model import BuildRequest, ModelEntry, NaiveModel

ENTRIES = [MAJORITY, METADATA_ONLY, TFIDF_REPORT, IMAGE_STATISTICS, RANDOM_PIXELS, RANDOM_ENCODER]
TRAIN = np.arange(8)
TEST = np.arange(8, 12)

REPORTS = (
    *("mild stenosis grade B", "severe stenosis grade C", "no stenosis grade A", "disc bulge grade B") * 2,
    *("mild stenosis grade B", "unheard words only", "", "disc bulge"),
)
STRUCTURED = pd.DataFrame(
    {
        "age": [20.0, np.nan, 40.0, 60.0, 30.0, 50.0, np.nan, 70.0, np.nan, 99.0, 10.0, 20.0],
        "height": [np.nan] * 8 + [170.0, 180.0, np.nan, 160.0],
        "sex": pd.Categorical(["F", "M", "F", None, "M", "F", "M", "F", "F", "other", None, "M"]),
    }
)


def dataset(reports: tuple[str | None, ...] | None = REPORTS, structured: pd.DataFrame | None = STRUCTURED) -> Dataset:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, size=(6, 9, 3) if n % 2 else (8, 4), dtype=np.uint8) for n in range(12)]
    return Dataset(
        card=DatasetCard(name="toy", task="binary", label="y"),
        classes=("no", "yes"),
        sample_ids=tuple(map(str, range(12))),
        rows=np.arange(1, 13),
        labels=np.arange(12) % 2,
        groups=np.arange(12),
        grouped_by="patient",
        pixels=pixels,
        pixel_hashes=tuple(map(str, range(12))),
        reports=reports,
        structured=structured,
    )


def features(entry: ModelEntry, data: Dataset) -> NDArray[np.float64]:
    model = entry.make(BuildRequest())
    assert isinstance(model, NaiveModel)
    return model.features(data, TRAIN)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.card.name)
def test_every_row_gives_finite_float64_and_is_no_encoder(entry: ModelEntry) -> None:
    """Each entry builds a NaiveModel of the same card, with one finite feature vector per sample."""
    found = features(entry, dataset())
    assert found.dtype == np.float64
    assert found.shape[0] == 12
    assert found.ndim == 2
    assert np.isfinite(found).all()
    assert (entry.kind, entry.trainable) == ("naive", False)
    assert entry.make(BuildRequest()).card == entry.card


def test_cards_name_what_is_read() -> None:
    """The inputs that the leaderboard shows are those of the classes."""
    assert {entry.card.name: entry.card.inputs for entry in ENTRIES} == {
        "majority": (),
        "metadata-only": ("structured",),
        "tfidf-report": ("text",),
        "image-statistics": ("image",),
        "random-pixels": ("image",),
        "random-encoder": ("image",),
    }


def test_majority_has_nothing_to_tell_samples_apart() -> None:
    """One column of zeros."""
    np.testing.assert_array_equal(features(MAJORITY, dataset()), np.zeros((12, 1)))


def test_metadata_columns_are_as_documented() -> None:
    """Values, train median 45, indicators, zeros for a column never given in train, one-hot of train categories."""
    missing_age = STRUCTURED["age"].isna()
    expected = np.column_stack(
        [
            STRUCTURED["age"].fillna(45.0),
            missing_age,
            np.zeros(12),
            STRUCTURED["height"].isna(),
            STRUCTURED["sex"] == "F",
            STRUCTURED["sex"] == "M",
            STRUCTURED["sex"].isna(),
        ]
    ).astype(float)
    np.testing.assert_array_equal(features(METADATA_ONLY, dataset()), expected)


def test_an_unseen_category_is_all_zeros() -> None:
    """A category that only the test split has gets no column and is not taken for a missing one."""
    np.testing.assert_array_equal(features(METADATA_ONLY, dataset())[9, 4:], [0, 0, 0])


def test_metadata_is_fitted_on_train_rows_alone() -> None:
    """Other values and categories in test rows leave the features of train rows identical."""
    before = features(METADATA_ONLY, dataset())
    changed = STRUCTURED.astype({"sex": object})
    changed.loc[TEST, "age"] = [-1e6, np.nan, 1e6, 5.0]
    changed.loc[TEST, "height"] = np.nan
    changed.loc[TEST, "sex"] = ["X", "Y", "Z", "F"]
    after = features(METADATA_ONLY, dataset(structured=changed.astype({"sex": "category"})))
    np.testing.assert_array_equal(after[TRAIN], before[TRAIN])
    assert not np.array_equal(after[TEST], before[TEST])


def test_a_column_missing_everywhere_says_only_that() -> None:
    """No value, no warning: zeros, and the indicator at one."""
    empty = pd.DataFrame({"age": np.full(12, np.nan), "sex": pd.Categorical([None] * 12)})
    np.testing.assert_array_equal(features(METADATA_ONLY, dataset(structured=empty)), [[0, 1, 1]] * 12)


def test_tfidf_equals_the_closed_form() -> None:
    """Sublinear tf times smoothed idf of train reports, L2-normalised, for terms in two train reports or more."""
    found = features(TFIDF_REPORT, dataset())
    tokens = [(r or "").lower().split() for r in REPORTS]
    terms = [set(words) | {f"{a} {b}" for a, b in pairwise(words)} for words in tokens]
    counts = {term: sum(term in terms[i] for i in TRAIN) for term in set().union(*(terms[i] for i in TRAIN))}
    vocabulary = sorted(term for term, count in counts.items() if count >= 2)
    raw = np.array(
        [[(term in terms[i]) * (np.log(9 / (1 + counts[term])) + 1) for term in vocabulary] for i in range(12)]
    )
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(found, raw / np.where(norms == 0, 1, norms), atol=1e-12)
    assert "b" in vocabulary


def test_tfidf_is_fitted_on_train_reports_alone() -> None:
    """Other words in test reports leave the features of train rows identical."""
    before = features(TFIDF_REPORT, dataset())
    after = features(TFIDF_REPORT, dataset(reports=(*REPORTS[:8], "grade B", "stenosis", "new new", "new words")))
    np.testing.assert_array_equal(after[TRAIN], before[TRAIN])
    assert not np.array_equal(after[TEST], before[TEST])


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_sample_without_report_is_all_zero(nothing: str | None) -> None:
    """A missing report gives zeros and leaves the others as they would be without it."""
    found = features(TFIDF_REPORT, dataset(reports=(*REPORTS[:9], nothing, *REPORTS[10:])))
    assert not found[9].any()
    np.testing.assert_array_equal(found[TRAIN], features(TFIDF_REPORT, dataset())[TRAIN])


def test_a_report_that_a_patients_rows_repeat_counts_once() -> None:
    """A word of one patient's report is no term, however many pictures the patient has."""
    reports = ("rare word", "rare word", *("common words",) * 10)
    one_patient = replace(dataset(reports=reports), groups=np.array([0, 0, *range(1, 11)]))
    assert not features(TFIDF_REPORT, one_patient)[:2].any()
    assert features(TFIDF_REPORT, dataset(reports=reports))[:2].any()


def test_image_statistics_equal_numpy_histogram() -> None:
    """Bins, moments and size agree with NumPy's own, for grey and colour pictures."""
    data = dataset()
    for found, pixels in zip(features(IMAGE_STATISTICS, data), data.pixels, strict=True):
        grey = pixels if pixels.ndim == 2 else pixels.mean(axis=2).astype(np.uint8)
        shares = np.histogram(grey, bins=16, range=(0, 256))[0] / grey.size
        height, width = pixels.shape[:2]
        np.testing.assert_allclose(found, [*shares, grey.mean(), grey.std(), height, width, width / height])


def test_rows_that_lack_their_input_say_so() -> None:
    """No structured columns, no reports, or no word in two train reports: named, never zeros in silence."""
    with pytest.raises(UnsupportedModality, match=r"'toy' has no structured columns"):
        features(METADATA_ONLY, dataset(structured=None))
    with pytest.raises(UnsupportedModality, match="'toy' has no reports"):
        features(TFIDF_REPORT, dataset(reports=None))
    with pytest.raises(UnsupportedModality, match="no word is in two of its 8 train reports"):
        features(TFIDF_REPORT, dataset(reports=tuple(f"word{n}" for n in range(12))))
    with pytest.raises(UnsupportedModality, match="no word is in two of its 0 train reports"):
        features(TFIDF_REPORT, dataset(reports=(None,) * 8 + ("a word",) * 4))


# --------------------------------------------------------------------------------------------- random features


RANDOM = [RANDOM_PIXELS, RANDOM_ENCODER]
by_name = pytest.mark.parametrize("entry", RANDOM, ids=lambda entry: entry.card.name)


def seeded_features(entry: ModelEntry, data: Dataset, seed: int = 0) -> NDArray[np.float64]:
    model = entry.make(BuildRequest(seed=seed))
    assert isinstance(model, NaiveModel)
    return model.features(data, TRAIN)


@by_name
def test_random_features_depend_on_the_seed_and_on_nothing_else(entry: ModelEntry) -> None:
    """The same in another model, and whatever torch's and numpy's global states are; other numbers under another."""
    first = seeded_features(entry, dataset())
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    again = seeded_features(entry, dataset())
    np.testing.assert_array_equal(again, first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.allclose(seeded_features(entry, dataset(), seed=1), first)


@by_name
def test_random_features_of_a_picture_do_not_feel_the_pictures_beside_it(entry: ModelEntry) -> None:
    """Test pictures in another order give the same features in that order; equal pictures, equal features."""
    data = dataset()
    order = np.array([*TRAIN, 11, 9, 8, 10])
    turned = replace(data, pixels=[data.pixels[i] for i in order])
    found = features(entry, data)
    np.testing.assert_allclose(features(entry, turned), found[order], rtol=1e-4, atol=1e-5)
    longer = replace(data, pixels=[*data.pixels[:11], data.pixels[8]])
    np.testing.assert_allclose(features(entry, longer)[11], found[8], rtol=1e-4, atol=1e-5)


@by_name
def test_random_features_of_train_pictures_are_blind_to_the_test_pictures(entry: ModelEntry) -> None:
    data = dataset()
    white = [np.full((8, 8), 255, dtype=np.uint8)] * len(TEST)
    before, after = features(entry, data), features(entry, replace(data, pixels=[*data.pixels[:8], *white]))
    np.testing.assert_allclose(after[TRAIN], before[TRAIN], rtol=1e-4, atol=1e-5)
    assert not np.allclose(after[TEST], before[TEST])


@by_name
def test_random_features_can_be_asked_for_again(entry: ModelEntry) -> None:
    """Statistics of one dataset leave nothing behind for the next."""
    model = entry.make(BuildRequest())
    assert isinstance(model, NaiveModel)
    other = replace(dataset(), pixels=[255 - pixels for pixels in dataset().pixels])
    first = model.features(dataset(), TRAIN)
    model.features(other, TRAIN)
    np.testing.assert_array_equal(model.features(dataset(), TRAIN), first)


@by_name
def test_grey_pictures_and_their_colour_copies_have_the_same_random_features(entry: ModelEntry) -> None:
    rng = np.random.default_rng(1)
    grey = [rng.integers(0, 256, size=(5 + n, 12 - n), dtype=np.uint8) for n in range(12)]
    colour = [np.repeat(pixels[..., None], 3, axis=2) for pixels in grey]
    found = [features(entry, replace(dataset(), pixels=pictures)) for pictures in (grey, colour)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert found[0].shape == (12, {"random-pixels": 256, "random-encoder": 512}[entry.card.name])


@by_name
def test_a_single_train_picture_is_enough(entry: ModelEntry) -> None:
    model = entry.make(BuildRequest())
    assert isinstance(model, NaiveModel)
    assert np.isfinite(model.features(dataset(), TRAIN[:1])).all()


def test_a_random_projection_keeps_distances() -> None:
    """Johnson & Lindenstrauss: between 66 pairs, 256 dimensions change a distance by a few per cent, unbiased."""
    data = dataset()
    pixels = np.stack([prepare(picture(each))[0].numpy().ravel() for each in data.pixels])
    ratio = pdist(features(RANDOM_PIXELS, data)) / pdist(pixels)
    assert abs(ratio.mean() - 1) < 0.05
    assert ratio.std() < 0.1


def test_the_random_encoder_normalises_with_the_train_pictures() -> None:
    """Its features are neither constant nor exploded, and residual branches take part."""
    found = features(RANDOM_ENCODER, dataset())
    assert (found.std(axis=0) > 1e-3).mean() > 0.9
    assert 0.01 < np.abs(found).mean() < 10
    model = RANDOM_ENCODER.make(BuildRequest())
    assert isinstance(model, RandomEncoder)
    model.features(dataset(), TRAIN)
    norms = [module for module in model._tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.weight.abs().min() == 1 for norm in norms)
    assert all(norm.running_var.std() > 0 for norm in norms)
    assert not model._tower.training
