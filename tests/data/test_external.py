"""Training on one dataset and testing on another: one joined dataset, divided as said, and audited like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmark.data.audit import audit
from benchmark.data.external import join
from benchmark.data.manifest import Dataset
from benchmark.data.phantom import draw, draw_elsewhere
from benchmark.data.split import make_split
from benchmark.errors import BadInput


@pytest.fixture(scope="module")
def ours() -> Dataset:
    return draw(24, size=32)


@pytest.fixture(scope="module")
def theirs() -> Dataset:
    return draw_elsewhere(20, size=32)


def renamed(dataset: Dataset, **card: object) -> Dataset:
    return replace(dataset, card=dataset.card.model_copy(update=card))


def test_training_and_validation_are_what_they_are_without_the_other_dataset(ours, theirs):
    """Pixels and labels of the joined train and val parts are those of the first dataset alone, in its order."""
    alone, joined = make_split(ours, seed=3), join(ours, theirs, seed=3)
    split = make_split(joined, seed=3)
    for part in ("train", "val"):
        before, after = getattr(alone, part), getattr(split, part)
        assert [ours.pixel_hashes[i] for i in before] == [joined.pixel_hashes[i] for i in after]
        assert ours.labels[before].tolist() == joined.labels[after].tolist()
    assert [joined.pixel_hashes[i] for i in split.test] == list(theirs.pixel_hashes)
    assert len(joined) == len(alone.train) + len(alone.val) + len(theirs)
    assert split.origin == "external"
    assert all(np.array_equal(joined.pixels[i], theirs.pixels[k]) for k, i in enumerate(split.test))


def test_patients_of_the_two_are_different_ones_and_masks_follow_their_pictures(ours, theirs):
    """Codes of patients never meet, though both count from 0; a mask is that of its picture."""
    joined = join(ours, theirs)
    split = make_split(joined)
    assert not set(joined.groups[split.test]) & set(joined.groups[[*split.train, *split.val]])
    assert len(set(joined.groups[split.test])) == 20
    assert joined.masks is not None
    assert theirs.masks is not None
    assert len(joined.masks) == len(joined)
    assert np.array_equal(joined.masks[int(split.test[7])], theirs.masks[7])
    assert np.array_equal(joined.masks[-3:][0], theirs.masks[-3])


def test_ids_that_both_use_are_told_apart_by_the_dataset(ours, theirs):
    joined = join(ours, theirs)
    assert len(set(joined.sample_ids)) == len(joined)
    assert joined.sample_ids[-1] == f"lumbar-phantom-b/{theirs.sample_ids[-1]}"
    other = replace(theirs, sample_ids=tuple(f"x{i}" for i in range(len(theirs))))
    assert join(ours, other).sample_ids[-1] == other.sample_ids[-1]


def test_the_fingerprint_covers_both(ours, theirs):
    """It changes with the test dataset and with the training dataset."""
    marks = {
        make_split(join(a, b)).fingerprint
        for a, b in ((ours, theirs), (ours, draw_elsewhere(20, seed=1, size=32)), (draw(24, seed=1, size=32), theirs))
    }
    assert len(marks) == 3


def test_classes_in_another_order_get_the_first_datasets_numbers():
    """Grade names decide, not their numbers."""
    ours, theirs = draw(30, size=32, task="stenosis"), draw_elsewhere(30, size=32, task="stenosis")
    turned = replace(theirs, classes=theirs.classes[::-1], labels=len(theirs.classes) - 1 - theirs.labels)
    assert join(ours, turned).labels.tolist() == join(ours, theirs).labels.tolist()


def test_labels_of_several_findings_are_put_in_order(ours, theirs):
    both = {"task": "multilabel", "label": ("a", "b")}
    first = replace(renamed(ours, **both), classes=("a", "b"), labels=np.stack([ours.labels, 1 - ours.labels], axis=1))
    second = np.stack([theirs.labels, np.ones_like(theirs.labels)], axis=1)
    other = replace(renamed(theirs, **both), classes=("b", "a"), labels=second)
    assert join(first, other).labels[-len(theirs) :].tolist() == second[:, ::-1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("No Finding", "pain")}, "only 'lumbar-phantom' has 'LBP'; only 'lumbar-phantom-b' has 'pain'"),
        ({"classes": ("LBP", "No Finding")}, "positive class is 'LBP' in 'lumbar-phantom' and 'No Finding'"),
        ({"task": "multiclass"}, "'lumbar-phantom' is binary and 'lumbar-phantom-b' is multiclass"),
        ({"name": "lumbar-phantom"}, "both datasets are called 'lumbar-phantom'"),
    ],
)
def test_what_does_not_fit_together_is_named(ours, theirs, change, message):
    other = replace(theirs, classes=change["classes"]) if "classes" in change else renamed(theirs, **change)
    with pytest.raises(BadInput, match=message):
        join(ours, other)


def test_what_only_one_has_is_left_out_with_a_note_but_reports_are_kept(ours, theirs):
    """A test without reports does not stop training on some."""
    bare = replace(renamed(theirs, structured={"age": "number"}), reports=None, masks=None, views=None)
    bare = replace(bare, structured=theirs.structured[["age"]])
    joined = join(ours, bare)
    assert (joined.masks, joined.views) == (None, None)
    assert list(joined.structured) == ["age"]
    assert joined.card.structured == {"age": "number"}
    assert joined.reports is not None
    assert joined.reports[: -len(bare)].count(None) == 0
    assert set(joined.reports[-len(bare) :]) == {None}
    (note,) = [f for f in audit(joined, make_split(joined)) if f.code == "LB017"]
    for words in ("only the training dataset has reports", "masks, which are left out", "bmi, sex", "test samples of"):
        assert words in note.message


def test_columns_of_one_name_and_another_kind_are_left_out(ours, theirs):
    other = renamed(theirs, structured={"age": "category", "sex": "category", "bmi": "number"})
    joined = join(ours, other)
    assert list(joined.structured) == ["sex", "bmi"]
    assert set(joined.structured["sex"].cat.categories) == {"F", "M"}


def test_a_picture_that_is_in_both_is_an_error_of_the_audit(ours, theirs):
    """The same pixels in training and test are found, whatever the patients are called."""
    train = int(make_split(ours).train[0])
    copied = replace(
        theirs,
        pixels=[ours.pixels[train], *theirs.pixels[1:]],
        pixel_hashes=(ours.pixel_hashes[train], *theirs.pixel_hashes[1:]),
    )
    joined = join(ours, copied)
    (found,) = [f for f in audit(joined, make_split(joined)) if f.code == "LB002"]
    assert found.severity == "error"
    assert found.rows == (int(ours.rows[train]), int(ours.rows[-1]) + 1)
    assert "under several patient ids" in found.message
    assert not [f for f in audit(join(ours, theirs), make_split(join(ours, theirs))) if f.severity == "error"]


def test_without_patient_ids_in_one_of_them_the_whole_is_not_by_patient(ours, theirs):
    joined = join(ours, replace(theirs, grouped_by="identical picture"))
    assert joined.grouped_by == "identical picture"


def test_the_other_scanner_is_another_and_only_a_little(ours):
    """Other patients under other pictures; its pictures are darker on average, by less than they differ themselves."""
    theirs = draw_elsewhere(24, size=32)
    assert not set(ours.pixel_hashes) & set(theirs.pixel_hashes)
    ours_mean, theirs_mean = (np.array([p.mean() for p in d.pixels]) for d in (ours, theirs))
    shift = ours_mean.mean() - theirs_mean.mean()
    assert 3 < shift < 2 * ours_mean.std()
    assert theirs.reports != ours.reports


@pytest.mark.parametrize("drawn", [True, False])
def test_only_the_test_part_says_whether_its_pictures_are_drawn(ours, theirs, drawn):
    """Test pictures of patients stay hidden, whatever the model was trained on."""
    joined = join(renamed(ours, synthetic=not drawn), renamed(theirs, synthetic=drawn))
    assert joined.card.synthetic is drawn
