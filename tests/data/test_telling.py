"""A label that texts or columns give away is found; one that they do not is not; patients are never split."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmark.data.manifest import Dataset, DatasetCard
from benchmark.data.telling import FEWEST, from_metadata, from_reports

N = 240
RNG = np.random.default_rng(5)
PATIENTS = np.arange(N) // 3
ILL = RNG.permutation(np.arange(N // 3) % 2)[PATIENTS]
"""By chance, and the same for all samples of a patient."""
WORDS = ("disc", "canal", "facet", "joint", "sac", "root", "mild", "broad")
NOISE = tuple(" ".join(RNG.choice(WORDS, 5)) for _ in range(N))
DATA = Dataset(
    card=DatasetCard(name="toy", task="binary", label="ill"),
    classes=("well", "ill"),
    sample_ids=tuple(f"s{i}" for i in range(N)),
    rows=np.arange(N) + 1,
    labels=ILL,
    groups=PATIENTS,
    grouped_by="patient",
    pixels=[np.zeros((1, 1), dtype=np.uint8)] * N,
    pixel_hashes=tuple(f"h{i}" for i in range(N)),
    reports=NOISE,
)
ALL = np.arange(N)


def test_a_word_that_goes_with_the_label_is_found():
    telling = tuple(f"{text} {'sick' if ill else 'fine'}" for text, ill in zip(NOISE, ILL, strict=True))
    guess = from_reports(replace(DATA, reports=telling), ALL)
    assert guess is not None
    assert (guess.name, guess.auroc, guess.low, guess.balanced_accuracy) == ("ill", 1.0, 1.0, 1.0)
    assert "AUROC 1.00" in str(guess)


def test_words_without_meaning_are_not():
    guess = from_reports(DATA, ALL)
    assert guess is not None
    assert guess.low < 0.5 < guess.auroc + 0.2


def test_what_only_names_the_patient_tells_nothing():
    """A patient's own word is in all his reports: learned with his label, it would tell it if he were in two folds."""
    named = tuple(f"{text} name{patient}" for text, patient in zip(NOISE, PATIENTS, strict=True))
    guess = from_reports(replace(DATA, reports=named), ALL)
    assert guess is not None
    assert guess.low < 0.5


def test_only_training_samples_are_looked_at():
    train = ALL[: N // 2]
    outside = tuple("other words" if i not in set(train) else text for i, text in enumerate(NOISE))
    assert from_reports(replace(DATA, reports=outside), train) == from_reports(DATA, train)


@pytest.mark.parametrize("labels", [np.where(PATIENTS < FEWEST - 1, 1, 0), np.where(PATIENTS < FEWEST - 1, 0, 1)])
def test_nothing_is_said_of_a_few_patients(labels):
    assert from_reports(replace(DATA, labels=labels), ALL) is None


def test_nothing_is_said_without_reports_or_without_a_word_in_two_of_them():
    assert from_reports(replace(DATA, reports=None), ALL) is None
    assert from_reports(replace(DATA, reports=tuple(f"w{i}" for i in range(N))), ALL) is None


def test_columns_that_go_with_the_label_are_found_whether_numbers_categories_or_gaps():
    site = pd.Series(np.where(ILL == 1, "A", "B")).astype("category")
    gap = pd.Series(np.where(ILL == 1, np.nan, RNG.normal(size=N)))
    for column in (site, site.where(ILL == 1), ILL + RNG.normal(0, 0.1, N), gap):
        table = pd.DataFrame({"noise": RNG.normal(size=N), "column": column, "empty": np.full(N, np.nan)})
        guess = from_metadata(replace(DATA, structured=table), ALL)
        assert guess is not None
        assert guess.auroc > 0.99
    none = from_metadata(replace(DATA, structured=pd.DataFrame({"noise": RNG.normal(size=N)})), ALL)
    assert none is not None
    assert none.low < 0.5
    assert from_metadata(DATA, ALL) is None


def test_of_several_classes_the_one_that_is_told_best_is_named():
    grade = RNG.permutation(np.arange(N // 3) % 3)[PATIENTS]
    telling = tuple(f"{text} worst" if g == 2 else text for text, g in zip(NOISE, grade, strict=True))
    card = DatasetCard(name="toy", task="multiclass", label="grade")
    data = replace(DATA, card=card, classes=("a", "b", "c"), labels=grade, reports=telling)
    guess = from_reports(data, ALL)
    assert guess is not None
    assert (guess.name, guess.auroc) == ("c", 1.0)
    several = np.stack([grade == 0, grade == 2], axis=1).astype(np.int64)
    card = DatasetCard(name="toy", task="multilabel", label=("x", "y"))
    guess = from_reports(replace(data, card=card, classes=("x", "y"), labels=several), ALL)
    assert guess is not None
    assert (guess.name, guess.auroc) == ("y", 1.0)
