"""Groups of samples: ages in bands, other numbers in terciles of the train split, rare values in one, none missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmark.data import subgroups
from benchmark.data.external import join
from benchmark.data.manifest import load
from benchmark.data.phantom import draw, draw_elsewhere, write
from benchmark.data.split import make_split
from benchmark.data.subgroups import GROUPED_BY, subgroup_table
from benchmark.errors import BadInput
from benchmark.run_folder import Damaged, RunFolder


@pytest.fixture(scope="module")
def data():
    return draw(30, size=32)


def grouped(data, column: str, values: pd.Series) -> pd.Series:
    changed = replace(data, structured=pd.DataFrame({column: values}))
    return subgroup_table(changed, make_split(changed, seed=0))[GROUPED_BY + column]


def test_phantom_is_broken_down_by_all_it_declares(data):
    table = subgroup_table(data, make_split(data, seed=0))
    assert [c.removeprefix(GROUPED_BY) for c in table] == [
        *("sample", "split", "view", "age", "sex", "bmi", "level", "sequence")
    ]
    assert table["sample"].tolist() == list(data.sample_ids)
    assert table["split"].value_counts().to_dict() == {
        part: len(getattr(make_split(data, seed=0), part)) for part in ("train", "val", "test")
    }
    assert table["by: level"].astype(str).tolist() == ["L3/4", "L3/4", "L4/5", "L4/5", "L5/S1", "L5/S1"] * 30
    assert not table.isna().any().any()


def test_ages_are_banded_where_a_band_begins(data):
    ages = pd.Series(np.resize([39.9, 40, 59.9, 60, 74.9, 75, np.nan], len(data)))
    found = grouped(data, "patient_age", ages)
    assert found.iloc[:7].tolist() == [
        *("under 40", "40 to 59", "40 to 59", "60 to 74", "60 to 74", "75 and over", "not recorded")
    ]
    assert list(found.cat.categories) == ["under 40", "40 to 59", "60 to 74", "75 and over", "not recorded"]


def test_other_numbers_are_cut_at_terciles_of_the_train_split_alone(data):
    split = make_split(data, seed=0)
    values = np.full(len(data), 1000.0)
    values[split.train] = np.arange(len(split.train))
    found = grouped(data, "package", pd.Series(values))  # no age, although the letters are there
    in_train = found[split.train].value_counts()
    assert in_train.max() - in_train.min() <= 2
    assert set(found[split.test]) == {found.cat.categories[-1]}
    assert found.cat.categories[-1].endswith(" and over")


def test_numbers_of_few_values_and_more_values_than_are_named(data, monkeypatch):
    monkeypatch.setattr(subgroups, "RARE", 1)
    assert grouped(data, "grade", pd.Series(np.resize([1.0, 2.0, np.nan], len(data)))).iloc[:3].tolist() == [
        *("1", "2", "not recorded")
    ]
    sites = pd.Series(pd.Categorical([f"site {min(i, 30) // 2:02}" for i in range(len(data))]))
    found = grouped(data, "site", sites)
    assert len(found.cat.categories) == 13
    assert list(found.cat.categories)[-1] == "other"


def test_a_value_of_few_samples_is_not_named(data):
    """A column of names would otherwise put them on a page."""
    names = pd.Series(pd.Categorical(["common" if i >= 8 else f"patient {i}" for i in range(len(data))]))
    assert list(grouped(data, "name", names).cat.categories) == ["common", "other"]


def test_column_called_sample_or_view_does_not_clash(data):
    named = replace(data, structured=pd.DataFrame({"sample": data.structured["sex"], "split": data.structured["sex"]}))
    table = subgroup_table(named, make_split(named, seed=0))
    assert table["sample"].tolist() == list(data.sample_ids)
    assert set(table["by: sample"]) == {"F", "M"}


def test_table_survives_the_run_folder(data, tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.samples() is None
    table = subgroup_table(data, make_split(data, seed=0))
    folder.write_samples(table)
    read = folder.samples()
    assert read is not None
    assert list(read["by: age"].cat.categories) == list(table["by: age"].cat.categories)
    assert read.astype(str).equals(table.astype(str))
    (tmp_path / "samples.parquet").write_bytes(b"no table")
    with pytest.raises(Damaged, match="subgroups"):
        folder.samples()


def test_card_declares_columns_that_no_model_sees(tmp_path):
    card = write(tmp_path, 12, size=32)
    found = load(card, cache=tmp_path / "cache")
    assert list(found.subgroups) == ["level", "sequence"]
    assert list(found.structured) == ["age", "sex", "bmi"]
    text = card.read_text().replace("level: category", "levle: category")
    card.write_text(text)
    with pytest.raises(BadInput, match=r"no column 'levle'.*'level'.*'subgroups'"):
        load(card, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("prevalence: 0.2", None),
        ("prevalence: 1.2", "less than 1"),
        ("prevalence: 20%", "valid number"),
    ],
)
def test_prevalence_is_a_share(tmp_path, field, why):
    card = write(tmp_path, 12, size=32)
    card.write_text(f"{card.read_text()}\n{field}\n")
    if why is None:
        assert load(card, cache=tmp_path / "cache").card.prevalence == 0.2
        return
    with pytest.raises(BadInput, match=f"'prevalence'.*{why}"):
        load(card, cache=tmp_path / "cache")


def test_prevalence_is_of_binary_tasks(tmp_path):
    write(tmp_path, 12, size=32)
    card = tmp_path / "stenosis.yaml"
    card.write_text(f"{card.read_text()}\nprevalence: 0.2\n")
    with pytest.raises(BadInput, match="'prevalence' is for binary tasks only"):
        load(card, cache=tmp_path / "cache")


def test_external_test_set_keeps_shared_columns_and_its_own_prevalence(data):
    there = draw_elsewhere(4, size=32)
    there = replace(
        there,
        card=there.card.model_copy(update={"prevalence": 0.1, "subgroups": {"level": "category"}}),
        subgroups=there.subgroups[["level"]],
    )
    both = join(data, there, seed=0)
    assert both.card.prevalence == 0.1
    assert list(both.subgroups) == ["level"]
    assert both.card.subgroups == {"level": "category"}
    assert len(both.subgroups) == len(both)
    assert "subgroups columns that only one has are left out: sequence" in both.sources.notes
