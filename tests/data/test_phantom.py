"""The lumbar phantom: reproducible, complete for every patient, true to its own anatomy, and silent on the label."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from benchmark.data.manifest import Dataset, load
from benchmark.data.phantom import CONTRASTS, GRADES, LEVELS, card, draw, write
from benchmark.data.phantom_slices import FIELD_OF_VIEW_MM, Anatomy, draw_slices
from benchmark.data.split import make_split

N_PATIENTS = 120
PICTURES = len(LEVELS) * len(CONTRASTS)


@pytest.fixture(scope="module")
def phantom() -> Dataset:
    return draw(N_PATIENTS, seed=3, size=48)


@pytest.fixture(scope="module")
def card_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("phantom"), 12, seed=5, size=48)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The manifest of the patients that ``phantom`` holds."""
    out = write(tmp_path_factory.mktemp("manifest"), N_PATIENTS, seed=3, size=48)
    return pd.read_csv(out.parent / "manifest.csv", dtype={"stenosis": str})


# ------------------------------------------------------------------------------------------------ drawing


def test_a_seed_gives_the_same_bits() -> None:
    first, again = draw(4, seed=1, size=48), draw(4, seed=1, size=48)
    assert_array_equal(np.stack(first.pixels), np.stack(again.pixels))
    assert_array_equal(np.stack(first.masks), np.stack(again.masks))
    assert_array_equal(first.labels, again.labels)
    assert first.reports == again.reports
    assert first.structured.equals(again.structured)
    assert make_split(draw(20, seed=1, size=48)).fingerprint == make_split(draw(20, seed=1, size=48)).fingerprint


def test_global_random_state_is_neither_read_nor_written() -> None:
    np.random.seed(0)  # noqa: NPY002 - the legacy state is what must be left alone
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = draw(2, seed=1, size=32)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert draw(2, seed=1, size=32).pixel_hashes == first.pixel_hashes


def test_another_seed_gives_other_patients() -> None:
    first, other = draw(4, seed=1, size=48), draw(4, seed=2, size=48)
    assert not set(first.pixel_hashes) & set(other.pixel_hashes)
    assert not first.structured.equals(other.structured)


def test_every_patient_has_each_level_in_each_contrast_once(phantom: Dataset) -> None:
    expected = sorted(f"{level} {contrast}" for level in LEVELS for contrast in CONTRASTS)
    assert len(phantom) == N_PATIENTS * PICTURES
    for group in range(N_PATIENTS):
        of_patient = np.flatnonzero(phantom.groups == group)
        assert sorted(phantom.views[i] for i in of_patient) == expected
        assert len(set(phantom.labels[of_patient])) == 1, "the label belongs to the patient"
        assert len(phantom.structured.iloc[of_patient].drop_duplicates()) == 1


def test_no_picture_and_no_sample_id_occurs_twice(phantom: Dataset) -> None:
    assert len(set(phantom.pixel_hashes)) == len(set(phantom.sample_ids)) == len(phantom)


def test_pictures_use_the_grey_range_without_running_into_its_top(phantom: Dataset) -> None:
    pixels = np.stack(phantom.pixels)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(phantom), 48, 48)
    assert np.percentile(pixels, 99) > 150
    assert (pixels == 255).mean() < 0.1


# ------------------------------------------------------------------------------------------------ anatomy


def test_csf_is_brighter_than_disc_in_t2_and_not_in_t1(phantom: Dataset) -> None:
    sac = {
        contrast: np.mean(
            [
                np.median(pixels[mask > 0]) - np.median(pixels[12:16, 20:28])
                for pixels, mask, view in zip(phantom.pixels, phantom.masks, phantom.views, strict=True)
                if view.endswith(contrast) and (mask > 0).sum() > 20
            ]
        )
        for contrast in CONTRASTS
    }
    assert sac["T2"] > 30
    assert sac["T1"] < 0


def test_both_contrasts_of_a_level_share_the_canal_mask(phantom: Dataset) -> None:
    for t1, t2 in zip(phantom.masks[::2], phantom.masks[1::2], strict=True):
        assert_array_equal(t1, t2)
        assert set(np.unique(t1)) <= {0, 255}


def test_grade_follows_the_area_of_the_canal_mask(phantom: Dataset, table: pd.DataFrame) -> None:
    """Counted on the masks themselves, body size not divided out: the mean falls from each grade to the next."""
    area = pd.Series([(mask > 0).sum() for mask in phantom.masks])
    means = area.groupby(table["stenosis"]).mean()
    counts = table["stenosis"].value_counts()
    assert set(means.index) == set(GRADES)
    assert counts.min() >= 20
    assert means.loc[list(GRADES)].is_monotonic_decreasing
    assert means["D"] < 0.6 * means["A"]


def anatomy(n: int, **changes: float) -> Anatomy:
    """The same level n times, without any abnormality."""
    normal = dict.fromkeys((f.name for f in fields(Anatomy)), 0.0) | {
        "scale": 1, "disc_width": 25, "disc_depth": 17, "concavity": 2, "herniation_x": 6, "herniation_width": 6,
        "sac_width": 10, "sac_depth": 8, "ligament": 3, "facet": 6, "facet_angle": 0.5, "muscle": 1, "fat": 8,
    }  # fmt: skip
    return Anatomy(**{name: np.full(n, value, np.float32) for name, value in (normal | changes).items()})


def canal(**changes: float) -> np.ndarray:
    return draw_slices(anatomy(1, **changes), 96, np.random.default_rng(0)).canal[0]


@pytest.mark.parametrize(
    "change", [{"bulge": 5}, {"herniation": 6}, {"ligament": 7}, {"sac_width": 7}, {"sac_depth": 6}], ids=str
)
def test_each_abnormality_narrows_the_canal(change: dict[str, float]) -> None:
    assert canal(**change).sum() < 0.95 * canal().sum()


@pytest.mark.parametrize(("offset", "pressed"), [(6.0, "right half"), (-6.0, "left half")])
def test_a_herniation_presses_on_its_own_side(offset: float, pressed: str) -> None:
    lost = canal() & ~canal(herniation=6, herniation_x=offset)
    halves = {"left half": lost[:, :48].sum(), "right half": lost[:, 48:].sum()}
    assert max(halves, key=halves.get) == pressed
    assert halves[pressed] > 2 * min(halves.values())


def test_area_of_an_unpressed_sac_is_its_masks_area_in_mm2() -> None:
    drawn = draw_slices(anatomy(1, scale=1.2, turn=0.1), 96, np.random.default_rng(0))
    counted = drawn.canal[0].sum() * (FIELD_OF_VIEW_MM / 96) ** 2 / 1.2**2
    assert drawn.canal_area_mm2[0] == pytest.approx(counted, rel=0.03)


def test_size_and_place_of_the_body_do_not_change_the_area() -> None:
    plain = draw_slices(anatomy(1), 96, np.random.default_rng(0)).canal_area_mm2[0]
    moved = anatomy(1, scale=1.15, shift_x=4, shift_y=-3, turn=np.deg2rad(8))
    assert draw_slices(moved, 96, np.random.default_rng(0)).canal_area_mm2[0] == pytest.approx(plain, rel=0.02)


def test_a_degenerated_disc_is_dark_in_t2_and_unchanged_in_t1() -> None:
    def disc(degeneration: float) -> np.ndarray:
        pixels = draw_slices(anatomy(8, degeneration=degeneration), 96, np.random.default_rng(0)).pixels
        return pixels[:, :, 26:36, 40:56].mean(axis=(0, 2, 3))

    healthy, worn = disc(0.0), disc(1.0)
    assert worn[0] == pytest.approx(healthy[0], abs=0.5)
    assert worn[1] < 0.75 * healthy[1]


# ------------------------------------------------------------------------------------------------ labels


def test_share_of_the_positive_class(phantom: Dataset) -> None:
    """About 0.65; with 600 patients the standard error is 0.02."""
    labels = draw(600, seed=11, size=16).labels[::PICTURES]
    assert 0.55 < labels.mean() < 0.72
    assert phantom.classes == ("No Finding", "LBP")


def test_label_is_more_frequent_with_a_higher_grade_but_not_decided_by_it(table: pd.DataFrame) -> None:
    share = table.groupby("stenosis")["lbp"].mean()
    assert share["A"] + 0.2 < share["C"]
    assert share["A"] > 0.1
    grade = table["stenosis"].map({name: rank for rank, name in enumerate(GRADES)})
    assert 0.1 < grade.corr(table["lbp"]) < 0.9


def test_metadata_say_little() -> None:
    """The AUROC of age and of body-mass index, each alone: above chance together, far from useful."""
    drawn = draw(1500, seed=7, size=16)
    rows = slice(None, None, PICTURES)
    labels, known = drawn.labels[rows].astype(bool), drawn.structured[rows]

    def auroc(values: pd.Series) -> float:
        positive, negative = values.to_numpy()[labels], values.to_numpy()[~labels]
        above = positive[:, None] > negative
        return float((above + 0.5 * (positive[:, None] == negative)).mean())

    assert 0.52 < auroc(known["age"]) < 0.66
    assert 0.49 < auroc(known["bmi"]) < 0.62


# ------------------------------------------------------------------------------------------------ reports


def test_contrasts_of_a_level_share_the_report(phantom: Dataset) -> None:
    assert phantom.reports[::2] == phantom.reports[1::2]
    assert all(report.strip() for report in phantom.reports)


def test_no_report_names_the_label(phantom: Dataset) -> None:
    # "No Finding" is a class name, "no findings" would be a synonym of it
    forbidden = re.compile(r"lbp|back\s*pain|\bpain|no\s+finding", re.IGNORECASE)
    assert [report for report in set(phantom.reports) if forbidden.search(report)] == []


def test_a_report_names_its_level_and_no_other(phantom: Dataset) -> None:
    for report, view in zip(phantom.reports, phantom.views, strict=True):
        named = {upper for upper in "1345" if re.search(rf"\bL{upper}(?=[/-])", report)}
        assert named == {view[1]}, report


def test_wording_varies_and_normal_reports_repeat() -> None:
    """At least 300 distinct sentences, numbers, levels and sides masked; some whole reports stand for many patients."""
    drawn = draw(300, seed=0, size=16)
    masked = [re.sub(r"L\d[-/](?:L|S)?\d|\d+|left|right", "#", report) for report in drawn.reports]
    sentences = {sentence for report in masked for sentence in re.split(r"(?<=\.) ", report)}
    assert len(sentences) >= 300
    patients = pd.Series(drawn.groups).groupby(np.array(drawn.reports)).nunique()
    assert patients.max() >= 3


def test_a_stated_side_is_the_side_that_was_drawn() -> None:
    """A herniation on the patient's left, the viewer's right, pushes what is left of the canal to the viewer's left."""
    drawn = draw(150, seed=2, size=48)
    centres: dict[str, list[float]] = {"left": [], "right": []}
    for report, mask, view in zip(drawn.reports, drawn.masks, drawn.views, strict=True):
        side = {word for word in centres if re.search(rf"\b{word}\b", report)}
        if view.endswith("T1") and len(side) == 1 and mask.any():
            centres[side.pop()].append(np.nonzero(mask)[1].mean())
    left, right = centres["left"], centres["right"]
    assert min(len(left), len(right)) >= 30
    assert np.mean(left) + 2 * np.hypot(np.std(left) / len(left) ** 0.5, np.std(right) / len(right) ** 0.5) < np.mean(
        right
    )


# ------------------------------------------------------------------------------------------------ cards and files


def test_prompts_name_both_classes_and_never_the_label() -> None:
    prompts = card().prompts
    assert set(prompts) == set(card().classes.values()) == {"No Finding", "LBP"}
    for sentences in prompts.values():
        assert len(sentences) >= 3
        assert not any(re.search(r"LBP|back pain|no finding", text, re.IGNORECASE) for text in sentences)


def test_a_written_phantom_loads_back_equal(card_path: Path, tmp_path: Path) -> None:
    drawn, loaded = draw(12, seed=5, size=48), load(card_path, cache=tmp_path)
    assert loaded.card == drawn.card
    assert loaded.classes == drawn.classes
    assert loaded.sample_ids == drawn.sample_ids
    assert loaded.reports == drawn.reports
    assert loaded.views == drawn.views
    assert loaded.pixel_hashes == drawn.pixel_hashes
    assert_array_equal(loaded.rows, drawn.rows)
    assert_array_equal(loaded.labels, drawn.labels)
    assert_array_equal(loaded.groups, drawn.groups)
    pd.testing.assert_frame_equal(loaded.structured, drawn.structured, check_categorical=False)
    assert_array_equal(np.stack(list(loaded.masks)), np.stack(list(drawn.masks)))
    assert_array_equal(np.stack(list(loaded.pixels)), np.stack(list(drawn.pixels)))
    assert make_split(loaded).fingerprint == make_split(drawn).fingerprint


def test_the_folder_of_a_written_phantom_is_enough_to_load_it(card_path: Path, tmp_path: Path) -> None:
    assert load(card_path.parent, cache=tmp_path).card == card()


def test_the_stenosis_card_reads_the_same_files(card_path: Path, tmp_path: Path) -> None:
    loaded = load(card_path.with_name("stenosis.yaml"), cache=tmp_path)
    table = pd.read_csv(card_path.with_name("manifest.csv"))
    assert loaded.card == card("stenosis")
    assert [loaded.classes[label] for label in loaded.labels] == [f"grade {grade}" for grade in table["stenosis"]]


def test_writing_again_gives_the_same_bytes(card_path: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again", 12, seed=5, size=48).parent
    for path in sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file()):
        assert (again / path).read_bytes() == (card_path.parent / path).read_bytes(), path
