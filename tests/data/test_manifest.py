"""From files to a Dataset: every way a manifest may be written, and one clear message for every way it may be wrong."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmark.data.card import read_card
from benchmark.data.manifest import Dataset, load
from benchmark.data.table import canonical, read_table
from benchmark.errors import BadInput

CARD = {
    "name": "toy",
    "task": "binary",
    "label": "ill",
    "columns": {"image": "picture", "patient_id": "who", "report": "text"},
}


NAMED = CARD["columns"]


def records(n=6):
    return [
        {"picture": f"p{i}.png", "who": f"w{i // 2}", "ill": str(i % 2), "text": f"report {i}", "age": str(40 + i)}
        for i in range(n)
    ]


class Folder:
    """A data folder that a test fills: pictures p0.png…, a manifest and its card."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for i in range(8):
            Image.fromarray(np.full((5, 4), 20 * i, dtype=np.uint8)).save(path / f"p{i}.png")

    def csv(self, rows, name="m.csv", encoding="utf-8"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        (self.path / name).write_bytes(text.getvalue().encode(encoding))
        return self

    def card(self, name="m.card.yaml", **changes):
        (self.path / name).write_text(yaml.safe_dump({**CARD, **changes}), encoding="utf-8")
        return self

    def load(self, name="m.csv", **options) -> Dataset:
        return load(self.path / name, cache=self.path / "cache", **options)

    def error(self, name="m.csv", **options) -> str:
        with pytest.raises(BadInput) as caught:
            self.load(name, **options)
        return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def changed(row, **cells):
    rows = records()
    rows[row - 1].update(cells)
    return rows


def all_with(column, value):
    return [{**row, column: value} for row in records()]


# ------------------------------------------------------------------------------------------- what is read


def test_a_dataset_holds_the_manifest_in_its_order(folder):
    data = folder.csv(records()).card(structured={"age": "number"}).load()
    assert data.classes == ("0", "1")
    assert data.sample_ids == tuple(f"p{i}.png" for i in range(6))
    assert data.rows.tolist() == [1, 2, 3, 4, 5, 6]
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.grouped_by == "patient"
    assert data.reports == tuple(f"report {i}" for i in range(6))
    assert [int(p[0, 0]) for p in data.pixels] == [0, 20, 40, 60, 80, 100]
    assert len(set(data.pixel_hashes)) == 6
    assert data.structured["age"].tolist() == [40, 41, 42, 43, 44, 45]
    assert data.given_split is None
    assert data.exclusions == ()
    assert len(data) == 6


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv_with_bom", "utf16", "booleans", "floats"])
def test_every_way_to_write_the_file_gives_the_same_dataset(folder, kind):
    expected = folder.csv(records()).card().load()
    rows = [{**row, "ill": int(row["ill"])} for row in records()]
    name, changes = "n.csv", {}
    if kind == "jsonl":
        name = "n.jsonl"
        (folder.path / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif kind in ("parquet", "booleans", "floats"):
        name = "n.parquet"
        as_type = {"parquet": int, "booleans": bool, "floats": float}[kind]
        pd.DataFrame([{**row, "ill": as_type(row["ill"])} for row in rows]).to_parquet(folder.path / name)
    elif kind == "csv_with_bom":
        folder.csv(records(), name, encoding="utf-8-sig")
    else:
        folder.csv(records(), name, encoding="utf-16")
        changes = {"encoding": "utf-16"}
    got = folder.card("n.card.yaml", **changes).load(name)
    assert got.classes == expected.classes
    assert got.labels.tolist() == expected.labels.tolist()
    assert got.sample_ids == expected.sample_ids
    assert got.reports == expected.reports
    assert got.pixel_hashes == expected.pixel_hashes


@given(
    rows=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), min_size=2, max_size=2))
)
def test_any_text_survives_the_way_through_a_csv_file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "m.csv"
    rows = [["a", "b"], *rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)
    if len(rows) == 1:
        with pytest.raises(BadInput, match="no rows"):
            read_table(path)
        return
    table = read_table(path)
    assert table.to_numpy().tolist() == rows[1:]
    assert table.index.tolist() == list(range(1, len(rows)))


@pytest.mark.parametrize(
    ("word", "same"),
    [("1.0", "1"), (" 1 ", "1"), ("True", "1"), ("false", "0"), ("1.50", "1.50"), ("01", "01"), ("x", "x")],
)
def test_one_value_has_one_spelling(word, same):
    assert canonical(word) == same


def test_the_card_may_lie_elsewhere_and_be_given_itself_or_by_its_folder(folder, tmp_path):
    folder.csv(records()).card("card.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "toy.yaml").write_text(yaml.safe_dump({**CARD, "manifest": str(folder.path / "m.csv")}))
    by = [folder.path / "m.csv", folder.path, folder.path / "card.yaml", elsewhere / "toy.yaml"]
    ids = {load(path, cache=tmp_path / "cache").sample_ids for path in by}
    assert len(ids) == 1


def test_the_image_root_is_relative_to_the_card(folder):
    (folder.path / "cards").mkdir()
    folder.csv([{**row, "picture": row["picture"].removeprefix("p")} for row in records()])
    (folder.path / "deep").mkdir()
    for i in range(6):
        (folder.path / f"p{i}.png").rename(folder.path / "deep" / f"{i}.png")
    folder.card("cards/c.yaml", manifest="../m.csv", image_root="../deep")
    assert folder.load("cards/c.yaml").sample_ids[0] == "0.png"


def test_rows_are_filtered_before_anything_is_checked_and_keep_their_numbers(folder):
    rows = [{"kind": "bad", **changed(1, ill="", picture="")[0]}, *({"kind": "1.0", **row} for row in records())]
    data = folder.csv(rows).card(rows={"kind": ["1"]}).load()
    assert data.rows.tolist() == [2, 3, 4, 5, 6, 7]


def test_several_values_may_share_a_class_and_the_positive_one_goes_last(folder):
    rows = [{**row, "ill": str(i % 3)} for i, row in enumerate(records())]
    card = {"classes": {0: "ill", 1: "well", 2: "ill"}, "positive_class": "ill", "prompts": {"ill": ["an ill back"]}}
    data = folder.csv(rows).card(**card).load()
    assert data.classes == ("well", "ill")
    assert data.labels.tolist() == [1, 0, 1, 1, 0, 1]


def test_words_like_no_and_none_are_class_names_as_they_stand(folder):
    rows = [{**row, "ill": "no" if row["ill"] == "0" else "none"} for row in records()]
    folder.csv(rows).card()
    (folder.path / "m.card.yaml").write_text(
        "name: toy\ntask: binary\nlabel: ill\nclasses: {no: healthy, none: other}\n"
        "columns: {image: picture, report: null}\n"
    )
    data = folder.load()
    assert data.classes == ("healthy", "other")
    assert data.reports is None


def test_grades_are_ordered_as_numbers(folder):
    rows = [{**row, "ill": grade} for row, grade in zip(records(), ("10", "2", "9", "2.0", "10", "9"), strict=True)]
    data = folder.csv(rows).card(task="multiclass").load()
    assert data.classes == ("2", "9", "10")
    assert data.labels.tolist() == [2, 0, 1, 0, 2, 1]


def test_multilabel_has_one_column_per_class(folder):
    rows = [{**row, "wet": str(i // 3)} for i, row in enumerate(records())]
    data = folder.csv(rows).card(task="multilabel", label=["ill", "wet"], classes={"wet": "moist"}).load()
    assert data.classes == ("ill", "moist")
    assert data.labels.tolist() == [[0, 0], [1, 0], [0, 0], [1, 1], [0, 1], [1, 1]]


def test_without_patient_ids_rows_of_one_picture_are_one_group(folder):
    rows = [{**row, "who": ""} for row in records()]
    rows[3]["picture"] = rows[0]["picture"]
    data = folder.csv(rows).card().load()
    assert data.grouped_by == "identical picture"
    assert data.groups[3] == data.groups[0]
    assert len(set(data.groups.tolist())) == 5
    assert data.sample_ids[0] == "p0.png#1"
    assert data.sample_ids[3] == "p0.png#4"


def test_blanks_around_a_patient_id_do_not_make_two_patients(folder):
    data = folder.csv(changed(2, who=" w0 ")).card().load()
    assert data.groups[1] == data.groups[0]


def test_one_patient_written_as_7_and_as_7_point_0_is_one_patient(folder):
    rows = [{**row, "who": f"{i // 2}" if i % 2 else f"{i // 2}.0"} for i, row in enumerate(records())]
    dataset = folder.csv(rows).card().load()
    assert dataset.groups.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_content_digest_covers_reports_structured_values_classes_and_prompts(folder):
    plain = folder.csv(records()).card(structured={"age": "number"}).load().content
    assert folder.csv(records()).load().content == plain
    digests = {plain}
    digests.add(folder.csv(changed(1, text="another")).load().content)
    digests.add(folder.csv(changed(1, age="41")).load().content)
    folder.csv(records()).card(structured={"age": "number"}, classes={"0": "well", "1": "ill"})
    digests.add(folder.load().content)
    folder.card(structured={"age": "number"}, prompts={"0": ["well"], "1": ["ill"]})
    digests.add(folder.load().content)
    assert len(digests) == 5


@pytest.mark.parametrize("mask", ["none.png", "../m.csv", "/etc/hostname"])
def test_a_mask_that_is_not_under_the_root_is_a_problem_of_its_row(folder, mask):
    rows = [{**row, "seg": "p1.png" if i else mask} for i, row in enumerate(records())]
    folder.csv(rows).card(columns={**NAMED, "mask": "seg"})
    with pytest.raises(BadInput, match=r"row 1, column 'seg': .*(not a file under|may leave) the image root"):
        folder.load()
    assert [e.row for e in folder.load(allow_exclusions=True).exclusions] == [1]


def test_a_column_that_is_empty_throughout_counts_as_absent(folder):
    rows = [{**row, "text": "", "who": "", "part": "", "age": ""} for row in records()]
    columns = {**NAMED, "split": "part", "view": "part", "mask": "part", "sample_id": "part"}
    data = folder.csv(rows).card(columns=columns, structured={"age": "number"}).load()
    assert (data.reports, data.given_split, data.views, data.masks, data.structured) == (None,) * 5
    assert data.sample_ids[0] == "p0.png"


def test_a_row_without_report_is_kept_with_none(folder):
    data = folder.csv(changed(2, text="  ")).card().load()
    assert data.reports[1] is None
    assert data.reports[0] == "report 0"


def test_structured_columns_keep_gaps(folder):
    rows = [{**row, "sex": sex} for row, sex in zip(records(), ("F", "M", "", "F", "NA", "M"), strict=True)]
    rows[0]["age"] = ""
    data = folder.csv(rows).card(structured={"age": "number", "sex": "category"}).load()
    assert data.structured["age"].dtype == np.float64
    assert data.structured["age"].isna().tolist() == [True] + [False] * 5
    assert data.structured["sex"].cat.categories.tolist() == ["F", "M"]
    assert data.structured["sex"].isna().tolist() == [False, False, True, False, True, False]


def test_given_parts_are_read_in_all_their_spellings(folder):
    words = ("Train", "training", "dev", "validation", "holdout", "testing")
    rows = [{**row, "part": word} for row, word in zip(records(), words, strict=True)]
    data = folder.csv(rows).card(columns={**NAMED, "split": "part"}).load()
    assert data.given_split.tolist() == ["train", "train", "val", "val", "test", "test"]


def test_masks_are_decoded_when_asked_for(folder):
    rows = [{**row, "outline": ""} for row in records()]
    rows[1]["outline"] = "p7.png"
    data = folder.csv(rows).card(columns={**NAMED, "mask": "outline"}).load()
    assert [mask is not None for mask in data.masks] == [False, True, False, False, False, False]
    assert data.masks[1].max() == 140
    assert len(data.masks[1:3]) == 2


def test_progress_counts_pictures(folder):
    seen = []
    folder.csv(records()).card().load(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("rows", "card", "wanted"),
    [
        (changed(2, ill=""), {}, "m.csv, row 2, column 'ill': empty"),
        (changed(2, ill="NaN"), {}, "m.csv, row 2, column 'ill': empty"),
        (changed(2, who=""), {}, "m.csv, row 2, column 'who': empty"),
        (changed(2, picture=""), {}, "m.csv, row 2, column 'picture': empty"),
        (changed(2, picture="p99.png"), {}, "m.csv, row 2, column 'picture':"),
        (changed(2, picture="../p1.png"), {}, "m.csv, row 2, column 'picture':"),
        (changed(2, picture="m.csv"), {}, "m.csv, row 2, column 'picture':"),
        (changed(2, text=""), {"require_report": True}, "m.csv, row 2, column 'text': empty"),
        (changed(2, age="old"), {"structured": {"age": "number"}}, "m.csv, row 2, column 'age': 'old' is not a number"),
        (
            changed(2, ill="ye"),
            {"classes": {0: "well", 1: "ill", "yes": "ill"}},
            "column 'ill': 'ye' is not among the card's classes (did you mean 'yes'?)",
        ),
        (changed(2, ill="2"), {"task": "multilabel", "label": ["ill"]}, "row 2, column 'ill': '2' is neither 0 nor 1"),
        (
            [{**r, "id": r["age"].replace("41", "40")} for r in records()],
            {"columns": {**NAMED, "sample_id": "id"}},
            "m.csv, row 2, column 'id': '40' is also the id of row 1",
        ),
        (
            all_with("part", "tarin"),
            {"columns": {**NAMED, "split": "part"}},
            "row 1, column 'part': 'tarin' is not a part (did you mean 'train'?)",
        ),
    ],
)
def test_a_bad_row_is_named_by_row_and_column_or_left_out_and_counted(folder, rows, card, wanted):
    message = folder.csv(rows).card(**card).error()
    assert wanted in message
    assert "--allow-exclusions" in message
    if "tarin" in wanted:
        assert "no row is left" in folder.error(allow_exclusions=True)
        return
    left = folder.load(allow_exclusions=True)
    assert 1 <= len(left.exclusions) <= 3
    assert len(left) + len(left.exclusions) == 6
    assert {e.row for e in left.exclusions}.isdisjoint(left.rows.tolist())
    assert len(left.pixels) == len(left.pixel_hashes) == len(left.reports) == len(left)
    by_id = {row["picture"]: row for row in rows}
    if "sample_id" not in str(card):
        assert [left.reports[i] for i in range(len(left))] == [by_id[name]["text"] for name in left.sample_ids]


@pytest.mark.parametrize(
    ("rows", "card", "wanted"),
    [
        (records(), {"label": "il"}, "no column 'il' (did you mean 'ill'?) for the card's field 'label'; the columns"),
        (
            records(),
            {"columns": {"image": "pictures"}},
            "(did you mean 'picture'?) for the card's field 'columns.image'",
        ),
        (records(), {"columns": {**NAMED, "view": "side"}}, "no column 'side' for the card's field 'columns.view'"),
        (records(), {"structured": {"agee": "number"}}, "(did you mean 'age'?) for the card's field 'structured'"),
        (records(), {"structured": {"ill": "number"}}, "'structured' has 'ill', which is the label"),
        (all_with("ill", "1"), {}, "all rows have the class '1' in column 'ill'"),
        (all_with("ill", "1"), {"task": "multilabel", "label": ["ill"]}, "label 'ill' has the same value in all rows"),
        ([{**r, "ill": r["age"]} for r in records()], {}, "a binary task has 2 classes, column 'ill' has 6"),
        (records(), {"task": "multiclass", "classes": {0: "a", 1: "b", 2: "c"}}, "no row has the class 'c'"),
        (records(), {"positive_class": "2"}, "'positive_class' is '2', no class"),
        (records(), {"task": "multiclass", "positive_class": "1"}, "'positive_class' is for binary tasks only"),
        (records(), {"prompts": {"3": ["x"]}}, "'prompts' has the unknown class '3'"),
        (records(), {"prompts": {"1": []}}, "'prompts' has an empty prompt for class '1'"),
        (records(), {"label": ["ill", "age"]}, "'label' must be one column for a binary task"),
        (records(), {"rows": {"agee": ["40"]}}, "(did you mean 'age'?) for the card's field 'rows'"),
        (records(), {"rows": {"text": ["reprot 1"]}}, "no row has the value 'reprot 1'"),
        (records(), {"rows": {"ill": ["0"], "picture": ["p1.png"]}}, "leaves no row"),
        (records(), {"require_report": True, "columns": {"image": "picture"}}, "needs the field 'columns.report'"),
        (
            [{**r, "part": part} for r, part in zip(records(), ("train", "test") * 3, strict=True)],
            {"columns": {**NAMED, "split": "part"}},
            "m.csv, row 4, column 'part': 'test', but row 3 of the same patient says 'train'",
        ),
    ],
)
def test_a_problem_of_the_whole_file_is_refused_even_where_rows_may_be_left_out(folder, rows, card, wanted):
    folder.csv(rows).card(**card)
    assert wanted in folder.error()
    assert wanted in folder.error(allow_exclusions=True)


def test_all_problems_come_at_once_in_the_order_of_rows(folder):
    rows = records()
    rows[4]["ill"], rows[1]["picture"], rows[1]["who"] = "", "none.png", ""
    message = folder.csv(rows).card(structured={"height": "number"}).error()
    head, *lines = message.split("\n")
    assert head.startswith("m.csv has 4 problems")
    assert "height" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == [
        "m.csv, row 2, column 'who'",
        "m.csv, row 2, column 'picture'",
        "m.csv, row 5, column 'ill'",
    ]


def test_a_long_list_of_problems_is_cut_and_counted(folder):
    rows = [{**row, "age": "old"} for row in records() * 5]
    lines = folder.csv(rows).card(structured={"age": "number"}).error().split("\n")
    assert lines[0].startswith("m.csv has 30 problems")
    assert len(lines) == 22
    assert lines[-1] == "… and 10 more"


def test_reasons_of_exclusions_can_be_counted(folder):
    rows = records()
    rows[1]["picture"] = rows[3]["picture"] = "gone.png"
    left = folder.csv(rows).card().load(allow_exclusions=True)
    assert [e.row for e in left.exclusions] == [2, 4]
    assert len({e.reason for e in left.exclusions}) == 1
    assert "gone" not in left.exclusions[0].reason


def test_exclusions_that_leave_one_class_are_refused(folder):
    rows = [{**row, "picture": row["picture"] if row["ill"] == "1" else "gone.png"} for row in records()]
    assert "all rows have the class '1'" in folder.csv(rows).card().error(allow_exclusions=True)


# ------------------------------------------------------------------------------------------- files and cards


def test_another_encoding_is_named_by_its_byte_and_line_and_can_be_declared(folder):
    folder.csv(changed(2, text="naïve"), encoding="cp1252").card()
    offset = (folder.path / "m.csv").read_bytes().index(b"\xef")
    message = folder.error()
    assert f"byte {offset} (line 3)" in message
    assert "encoding: cp1252" in message
    assert folder.card(encoding="cp1252").load().reports[1] == "naïve"
    assert "unknown encoding 'klingon'" in folder.card(encoding="klingon").error()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_utf_16_file_is_recognised(folder, encoding):
    assert "encoding: utf-16" in folder.csv(records(), encoding=encoding).card().error()


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("m.csv", "a,b\n1,2\n1,2,3\n", "row 2: 3 cells, but the header has 2"),
        ("m.csv", "a,b\n1\n", "row 1: 1 cells, but the header has 2"),
        ("m.csv", 'a,b\n1,"2\n', "not valid CSV"),
        ("m.csv", "a;b\n1;2\n", "semicolons"),
        ("m.csv", "a,a\n1,2\n", "the column 'a' twice"),
        ("m.csv", "a,b\n", "has no rows"),
        ("m.csv", "", "has no rows"),
        ("m.jsonl", '{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ("m.jsonl", "[1]\n", "line 1: every line must be an object"),
        ("m.parquet", "PAR", "is not a Parquet file"),
    ],
)
def test_a_broken_file_gets_one_sentence(folder, name, content, wanted):
    (folder.path / name).write_text(content)
    assert wanted in folder.card().error(name)


def test_a_manifest_without_card_shows_a_card_that_works(folder):
    message = folder.csv(records()).error()
    assert "write m.card.yaml beside it" in message
    assert message.endswith("Its columns are picture, who, ill, text, age")
    example = "\n".join(line for line in message.split("\n") if line.startswith("    "))
    fields = yaml.safe_load(example)
    fields["label"], fields["columns"]["image"] = "ill", "picture"
    (folder.path / "m.card.yaml").write_text(yaml.safe_dump(fields))
    assert len(folder.load()) == 6


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"lable": "ill"}, "unknown field 'lable' (did you mean 'label'?)"),
        ({"columns": {"imge": "x"}}, "unknown field 'columns.imge' (did you mean 'image'?)"),
        ({"task": "ternary"}, "the field 'task':"),
        ({"rows": {"kind": "one"}}, "the field 'rows.kind' must be a list, like [a, b]"),
        ({"label": {"a": "b"}}, "the field 'label' must be a column name, or a list of them"),
    ],
)
def test_a_wrong_card_is_one_sentence_with_file_and_field(folder, fields, wanted):
    message = folder.csv(records()).card(**fields).error()
    assert wanted in message
    assert "m.card.yaml" in message
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("text", "wanted"), [("a: [", "not valid YAML"), ("- a\n", "must hold fields"), ("", "must hold fields")]
)
def test_a_card_that_is_no_card_is_refused(folder, text, wanted):
    path = folder.path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=wanted):
        read_card(path)


def test_missing_fields_of_a_card_are_all_named(folder):
    (folder.path / "x.yaml").write_text("licence: CC0\n")
    with pytest.raises(BadInput) as caught:
        read_card(folder.path / "x.yaml")
    assert all(f"'{field}' is missing" in str(caught.value) for field in ("name", "task", "label"))


def test_paths_that_lead_nowhere_are_refused(folder):
    assert "no file" in folder.error("gone.csv")
    (folder.path / "notes.txt").write_text("x")
    assert "neither a card" in folder.error("notes.txt")
    folder.csv(records(), "a.csv").csv(records(), "b.csv").card("card.yaml")
    assert "beside the card lies a.csv, b.csv" in folder.error("card.yaml")
    folder.card("card.yaml", manifest="a.csv")
    assert "is about" in folder.error("b.csv")
    assert "no manifest at" in folder.card("card.yaml", manifest="c.csv").error("card.yaml")
    assert "must name a file ending in" in folder.card("card.yaml", manifest="c.xlsx").error("card.yaml")
