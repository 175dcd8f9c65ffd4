"""Splits: no patient crosses, every class is everywhere it can be, and only the samples and the seed decide."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.manifest import Dataset, DatasetCard, load
from benchmark.data.split import Split, make_split
from benchmark.errors import BadInput

PARTS = ("train", "val", "test")


def dataset(labels: Sequence, groups: Sequence[int], given_split: Sequence[str] | None = None, **changes) -> Dataset:
    labels = np.array(labels, dtype=np.int64)
    n = len(labels)
    n_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    task = "multilabel" if labels.ndim == 2 else "binary" if n_classes == 2 else "multiclass"
    fields = {
        "card": DatasetCard(name="toy", task=task, label="y"),
        "classes": tuple("abcdefgh"[:n_classes]),
        "sample_ids": tuple(f"s{i:04d}" for i in range(n)),
        "rows": np.arange(1, n + 1),
        "labels": labels,
        "groups": np.array(groups, dtype=np.int64),
        "grouped_by": "patient",
        "pixels": [np.zeros((1, 1), dtype=np.uint8)] * n,
        "pixel_hashes": tuple(f"h{i}" for i in range(n)),
        "given_split": None if given_split is None else np.array(given_split),
    }
    return Dataset(**{**fields, **changes})


def permuted(data: Dataset, order: np.ndarray) -> Dataset:
    return replace(
        data,
        sample_ids=tuple(data.sample_ids[i] for i in order),
        rows=data.rows[order],
        labels=data.labels[order],
        groups=1000 - data.groups[order],  # and the codes of patients carry no meaning
        pixel_hashes=tuple(data.pixel_hashes[i] for i in order),
        given_split=None if data.given_split is None else data.given_split[order],
    )


def assignment(data: Dataset, split: Split) -> dict[str, str]:
    return {data.sample_ids[i]: part for part in PARTS for i in getattr(split, part)}


def check(data: Dataset, split: Split) -> None:
    """Every sample is in one part, ascending; no group crosses; a class of three groups or more is everywhere."""
    together = np.concatenate([getattr(split, part) for part in PARTS])
    assert sorted(together.tolist()) == list(range(len(data)))
    groups = [set(data.groups[getattr(split, part)].tolist()) for part in PARTS]
    assert len(set.union(*groups)) == sum(len(of_part) for of_part in groups)
    for part in PARTS:
        rows = getattr(split, part)
        assert len(rows)
        assert (np.diff(rows) > 0).all()
    for index in range(len(data.classes)):
        has = data.labels == index if data.labels.ndim == 1 else data.labels[:, index] == 1
        if len(set(data.groups[has].tolist())) >= 3:
            assert all(has[getattr(split, part)].any() for part in PARTS)


# patients of one class each, with one to four pictures
single_class = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=3, max_size=60).filter(
    lambda patients: max(np.bincount([label for label, _ in patients])) < len(patients)
)


def of_patients(patients: Sequence[tuple[int, int]]) -> Dataset:
    seen = sorted({label for label, _ in patients})
    labels = [seen.index(label) for label, size in patients for _ in range(size)]
    groups = [group for group, (_, size) in enumerate(patients) for _ in range(size)]
    return dataset(labels, groups)


@given(patients=single_class, seed=st.integers(0, 5))
def test_no_patient_crosses_and_every_class_of_three_patients_is_in_every_part(patients, seed):
    data = of_patients(patients)
    if max(np.bincount([label for label, _ in patients])) < 3:
        with pytest.raises(BadInput, match="too few to divide into 3 parts"):
            make_split(data, seed=seed)
        return
    split = make_split(data, seed=seed)
    check(data, split)
    # and rarer classes are learned from before they are tested on
    assert set(data.labels[split.train]) == set(range(len(data.classes)))
    pairs = {label for label in set(data.labels) if len(set(data.groups[data.labels == label])) == 2}
    assert pairs <= set(data.labels[split.test])


@given(patients=single_class, seed=st.integers(0, 3), order_seed=st.integers(0, 1000))
def test_the_order_of_rows_and_the_codes_of_patients_decide_nothing(patients, seed, order_seed):
    data = of_patients([*patients, (0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2), (1, 2)])
    split = make_split(data, seed=seed)
    other = permuted(data, np.random.default_rng(order_seed).permutation(len(data)))
    again = make_split(other, seed=seed)
    assert assignment(other, again) == assignment(data, split)
    assert again.fingerprint == split.fingerprint


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_patients_and_of_classes_are_as_asked(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 400)
    groups = np.repeat(np.arange(400), sizes)
    labels = np.repeat(rng.choice(3, 400, p=[0.7, 0.25, 0.05]), sizes)
    data = dataset(labels, groups)
    split = make_split(data, seed=seed)
    check(data, split)
    for part, share in zip(PARTS, (0.7, 0.15, 0.15), strict=True):
        rows = getattr(split, part)
        assert len(set(groups[rows])) / 400 == pytest.approx(share, abs=0.01)
        for label in range(3):
            of_class = len(set(groups[labels == label]))
            there = len(set(groups[rows][labels[rows] == label]))
            assert there == pytest.approx(share * of_class, abs=1.01)


def test_seeds_give_different_divisions_and_one_seed_always_the_same():
    data = dataset(np.arange(120) % 2, np.arange(120) // 2)
    splits = [make_split(data, seed=seed) for seed in (0, 1, 2, 0)]
    tests = [tuple(split.test.tolist()) for split in splits]
    assert len(set(tests[:3])) == 3
    assert tests[3] == tests[0]
    assert splits[3].fingerprint == splits[0].fingerprint
    assert len({split.fingerprint for split in splits}) == 3


def test_patients_are_drawn_evenly_whatever_their_number_of_pictures():
    sizes = np.repeat([1, 6], 40)
    groups = np.repeat(np.arange(80), sizes)
    data = dataset(groups % 2, groups)
    large = [np.mean(sizes[np.unique(groups[make_split(data, seed=s).test])] == 6) for s in range(40)]
    assert np.mean(large) == pytest.approx(0.5, abs=0.08)


def test_multilabel_labels_are_everywhere_with_and_without():
    rng = np.random.default_rng(3)
    labels = (rng.random((300, 5)) < [0.5, 0.3, 0.1, 0.03, 0.97]).astype(int)
    labels[:3, 3] = 1
    groups = np.arange(300) // 2
    data = dataset(labels, groups)
    split = make_split(data)
    check(data, split)
    assert all(set(labels[getattr(split, part)][:, 4]) == {0, 1} for part in PARTS)


def test_patients_who_hold_several_classes_are_spread_by_trying_orders():
    # three patients each have classes a, b and c, and any two of these classes share one of them
    groups = np.repeat(np.arange(20), 2)
    labels = np.full(40, 3)
    labels[:12] = [0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3]
    data = dataset(labels, groups)
    for seed in range(10):
        check(data, make_split(data, seed=seed))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, labels=np.where(np.arange(len(d)) == 0, 1 - d.labels, d.labels)),
        lambda d: replace(d, pixel_hashes=("other", *d.pixel_hashes[1:])),
        lambda d: replace(d, groups=np.where(np.arange(len(d)) == 0, 5, d.groups)),
        lambda d: replace(d, sample_ids=("other", *d.sample_ids[1:])),
        lambda d: replace(d, given_split=np.where(np.arange(len(d)) < 4, "val", d.given_split)),
        lambda d: replace(d, classes=("b", "a")),
    ],
)
def test_the_fingerprint_knows_sample_patient_part_label_and_pixels(change):
    parts = np.repeat(["train", "val", "test"], [20, 10, 10])
    data = dataset(np.arange(40) % 2, np.arange(40) // 2, parts)
    assert make_split(change(data)).fingerprint != make_split(data).fingerprint


def test_the_fingerprint_does_not_know_reports_or_row_numbers():
    data = dataset(np.arange(40) % 2, np.arange(40) // 2)
    other = replace(data, reports=("x",) * 40, rows=data.rows + 7)
    assert make_split(other).fingerprint == make_split(data).fingerprint


# ------------------------------------------------------------------------------------------- given splits


def test_a_given_split_is_taken_as_it_is():
    parts = np.array(["test", "train", "val", "train"] * 10)
    data = dataset([0, 0, 0, 1, 1, 1, 1, 0] * 5, np.arange(40), parts)
    split = make_split(data, seed=9)
    assert split.origin == "given"
    assert not split.val_from_train
    assert all((parts[getattr(split, part)] == part).all() for part in PARTS)
    assert split.fingerprint == make_split(data, seed=1).fingerprint


def test_a_missing_validation_part_is_taken_from_training_by_patient():
    groups = np.arange(400) // 2
    parts = np.where(groups < 170, "train", "test")
    data = dataset(groups % 2, groups, parts)
    split = make_split(data)
    check(data, split)
    assert split.val_from_train
    assert set(groups[split.test]) == set(range(170, 200))
    assert len(set(groups[split.val])) == 30


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_given_split_without_training_or_test_is_refused(missing):
    parts = np.where(np.arange(40) < 20, "val", "test" if missing == "train" else "train")
    with pytest.raises(BadInput, match=f"no '{missing}' rows"):
        make_split(dataset(np.arange(40) % 2, np.arange(40), parts))


@pytest.mark.parametrize(
    "labels", [[0] * 20 + [1] * 20, [[0, i % 2] for i in range(20)] + [[1, i % 2] for i in range(20)]]
)
def test_a_training_part_with_one_label_is_refused(labels):
    parts = np.repeat(["train", "val", "test"], [20, 10, 10])
    with pytest.raises(BadInput, match="the same in all 20 training rows"):
        make_split(dataset(labels, np.arange(40), parts))


def test_too_few_patients_are_refused():
    with pytest.raises(BadInput, match="2 patients are too few to divide into 3 parts"):
        make_split(dataset([0, 1, 0, 1], [0, 0, 1, 1]))


@pytest.mark.parametrize("fractions", [(0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_are_none_are_refused(fractions):
    with pytest.raises(BadInput, match="fractions"):
        make_split(dataset(np.arange(40) % 2, np.arange(40)), fractions=fractions)


# ------------------------------------------------------------------------------------------- real data

EXPECTED = {  # rows, groups, rows with a report: as the data's own descriptions count them
    "spider_lumbar_mri": (222, 109, 0),
    "idrid_fundus": (210, 207, 0),
    "covid_cxr": (191, None, None),
    "vqa_rad": (314, 313, 314),
    "sudirman_lumbar_png_null": (200, 198, 0),
    "pneumoniamnist_28": (1148, None, 0),
}


@pytest.fixture(scope="module")
def pixel_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def real(name, real_data, cards, tmp_path, cache, **options) -> Dataset:
    card = tmp_path / f"{name}.card.yaml"
    fields = {
        "name": name,
        "manifest": str(real_data / name / "manifest.csv"),
        **cards[name],
        **options.pop("card", {}),
    }
    card.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return load(card, cache=cache, **options)


@pytest.mark.realdata
@pytest.mark.parametrize("name", EXPECTED)
def test_real_datasets_load_and_divide(name, real_data, real_cards, tmp_path, pixel_cache):
    data = real(name, real_data, real_cards, tmp_path, pixel_cache)
    rows, groups, reports = EXPECTED[name]
    assert len(data) == rows
    assert groups is None or len(set(data.groups.tolist())) == groups
    assert reports is None or sum(report is not None for report in data.reports or ()) == reports
    check(data, make_split(data))


@pytest.mark.realdata
def test_rows_without_a_label_are_refused_or_counted(real_data, real_cards, tmp_path, pixel_cache):
    with pytest.raises(BadInput, match="has 20 problems"):
        real("covid_cxr", real_data, real_cards, tmp_path, pixel_cache, card={"rows": {}})
    data = real("covid_cxr", real_data, real_cards, tmp_path, pixel_cache, card={"rows": {}}, allow_exclusions=True)
    assert [e.reason for e in data.exclusions] == ["empty label_covid"] * 20
    assert len(data) == 191


@pytest.mark.realdata
def test_the_division_of_the_source_is_honoured_where_it_can_be(real_data, real_cards, tmp_path, pixel_cache):
    card = {"columns": {"image": "image_path", "split": "upstream_split"}}
    data = real("sudirman_lumbar_png_null", real_data, real_cards, tmp_path, pixel_cache, card=card)
    assert dict(zip(*np.unique(data.given_split, return_counts=True), strict=True)) == {"train": 140, "val": 60}
    with pytest.raises(BadInput, match="no 'test' rows"):
        make_split(data)
