"""A bundle holds results and no names of patients, pairs with the run it came from, and is read with care."""

from __future__ import annotations

import hashlib
import io
import json
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import bundle
from benchmark.bundle import numbered, opened, write_bundle
from benchmark.errors import BadInput
from benchmark.join import join, recorded_runs
from benchmark.run_folder import RunFolder, read_record

RECORDED = runpy.run_path(str(Path(__file__).with_name("recorded.py")))
make_run, call = RECORDED["make_run"], RECORDED["call"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two models, one of which failed; a plug-in of it was told where its files are."""
    options = {"mine": {"model": f"{RECORDED['FOLDER']}/model.bin", "places": [f"{RECORDED['FOLDER']}/a.txt"], "n": 3}}
    config = {"augmentation_options": options}
    return make_run(tmp_path / "run", {"a": 1.0, "b": 0.5}, failing=("b",), config=config)


@pytest.fixture
def file(run: Path, tmp_path: Path) -> Path:
    write_bundle(run, tmp_path / "run.zip")
    return tmp_path / "run.zip"


# --------------------------------------------------------------------------------------------- what is in it


def test_a_page_from_a_bundle_is_the_page_of_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"a": 1.0, "b": 0.5})
    said = json.loads(call("bundle", run, "--out", tmp_path / "run.zip", "--json"))
    assert (said["cells"], said["predictions"], said["maps"]) == (2, 2, 0)
    call("report", run, "--out", tmp_path / "from-folder")
    call("report", tmp_path / "run.zip", "--out", tmp_path / "from-bundle")
    names = sorted(f.name for f in (tmp_path / "from-folder").iterdir())
    assert {"index.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex"} <= set(names)
    for name in names:
        assert (tmp_path / "from-bundle" / name).read_bytes() == (tmp_path / "from-folder" / name).read_bytes()


def test_same_run_same_bytes(run: Path, file: Path, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        assert names == ["bundle.json", *sorted(names[1:])]
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_neither_names_of_samples_nor_folders_are_in_it(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            for secret in (b"smith", b"1957", b"annabel7"):
                assert secret not in data, name
        told = json.loads(archive.read("run.json"))["config"]["augmentation_options"]
        assert told == {"mine": {"model": "model.bin", "places": ["a.txt"], "n": 3}}
        (table,) = [name for name in archive.namelist() if name.endswith(".parquet")]
        with archive.open(table) as opened_table:
            frame = pd.read_parquet(opened_table)
    assert set(frame["sample"].str.fullmatch(r"(val|test)-\d{7}")) == {True}
    assert set(frame["group"]) == set(range(40))  # the codes of the run have gaps


def test_of_a_failure_the_kind_alone_is_in_it_for_messages_name_files(file: Path) -> None:
    with recorded_runs([file]) as (read,):
        (failure,) = [r.failure for r in read.results if r.failure]
    assert failure.kind == "OSError"
    assert failure.message == bundle.MESSAGE
    assert failure.traceback_tail == ""


def test_cells_of_other_commands_in_the_folder_stay_there(run: Path, tmp_path: Path) -> None:
    record = read_record(run)
    RunFolder(run).write_record(record.model_copy(update={"cells": record.cells[:1]}))
    assert len(write_bundle(run, tmp_path / "run.zip").members) == 3


def test_pictures_of_patients_go_with_it_only_where_that_is_said_twice(tmp_path: Path) -> None:
    kept = make_run(tmp_path / "kept", {"a": 1.0}, with_maps=True, config={"include_images": True})
    assert "0 with pictures" in call("bundle", kept, "--out", tmp_path / "without.zip")
    assert "1 with pictures" in call("bundle", kept, "--out", tmp_path / "with.zip", "--include-images")
    call("report", tmp_path / "with.zip", "--out", tmp_path / "site")
    assert "mild stenosis" in (tmp_path / "site" / "model-a.html").read_text()
    call("report", tmp_path / "without.zip", "--out", tmp_path / "bare")
    assert "mild stenosis" not in (tmp_path / "bare" / "model-a.html").read_text()
    not_kept = make_run(tmp_path / "not-kept", {"a": 1.0}, with_maps=True)  # maps that an earlier command left
    output = call("bundle", not_kept, "--out", tmp_path / "no.zip", "--include-images", code=2)
    assert "keeps no pictures" in output
    drawn = make_run(tmp_path / "drawn", {"a": 1.0}, with_maps=True, dataset={"synthetic": True})
    assert "1 with pictures" in call("bundle", drawn, "--out", tmp_path / "drawn.zip")


# --------------------------------------------------------------------------------------------- pairing


def test_predictions_of_a_folder_and_of_a_bundle_from_elsewhere_pair(run: Path, tmp_path: Path) -> None:
    """The other machine has the manifest in another order, and so its tables."""
    order = np.random.default_rng(1).permutation(len(RECORDED["NAMES"]))
    write_bundle(make_run(tmp_path / "theirs", {"c": 1.0}, rows=order), tmp_path / "theirs.zip")
    with recorded_runs([run, tmp_path / "theirs.zip"]) as read:
        joined = join(read)
        ours, theirs = (
            joined.predictions(r.id).query("evaluator == 'probe_standard'").set_index("sample").sort_index()
            for r in joined.results
            if r.status == "done"
        )
    assert len(ours) == len(order)
    for column in ("label", "group", "split", "score_1"):  # one model, twice
        assert ours[column].astype(str).equals(theirs[column].astype(str))


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.integers(0, 9), st.sampled_from(["val", "test"])), unique_by=lambda r: r[0]
    )
)
def test_numbers_keep_the_order_of_names_and_patients_and_numbering_twice_changes_nothing(
    rows: list[tuple[str, int, str]],
) -> None:
    table = pd.DataFrame(rows, columns=["sample", "group", "split"])
    once = numbered(table)
    assert once["sample"].is_unique
    for part in ("val", "test"):
        mine = table["split"] == part
        assert list(np.argsort(once["sample"][mine])) == list(np.argsort(table["sample"][mine]))
    assert list(pd.factorize(once["group"], sort=True)[0]) == list(pd.factorize(table["group"], sort=True)[0])
    pd.testing.assert_frame_equal(numbered(once), once)


# --------------------------------------------------------------------------------------------- reading with care

Members = dict[str, bytes]


def members_of(file: Path) -> Members:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def listed(members: Members) -> Members:
    """With a ``bundle.json`` that agrees with the other members."""
    others = {name: data for name, data in members.items() if name != "bundle.json"}
    said = {n: {"size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in others.items()}
    return {**others, "bundle.json": json.dumps({"schema_version": 1, "members": said}).encode()}


def newer(members: Members) -> Members:
    return members | {"bundle.json": b'{"schema_version": 2, "members": 7}', "of/another/kind": b""}


def newer_cells(members: Members) -> Members:
    name = next(name for name in members if name.startswith("cells/"))
    cell = json.loads(members[name]) | {"schema_version": 9}
    return listed(members | {name: json.dumps(cell).encode()})


def damaged(members: Members) -> Members:
    return members | {"run.json": members["run.json"].replace(b"demo", b"dome")}


def without_list(members: Members) -> Members:
    return {name: data for name, data in members.items() if name != "bundle.json"}


def without_run(members: Members) -> Members:
    return listed({name: data for name, data in members.items() if name != "run.json"})


def less_than_listed(members: Members) -> Members:
    return {name: data for name, data in members.items() if name != "run.json"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (newer, "written by a newer version (schema 2); update this program"),
        (newer_cells, "written by a newer version (schema 9); update this program"),
        (damaged, "run.json is not what was put in; copy the bundle again"),
        (without_list, "a zip without bundle.json"),
        (without_run, "is not a run folder"),
        (less_than_listed, "run.json is only in its list"),
        (lambda m: m | {"cells/00ff.json": b"{}"}, "cells/00ff.json is only in the zip"),
        (lambda m: m | {"bundle.json": b"{}"}, "bundle.json can't be read"),
        (lambda m: m | {"bundle.json": b"\xff"}, "bundle.json can't be read"),
        (lambda m: listed(m | {"../evil.json": b""}), "holds '../evil.json', as no bundle does"),
        (lambda m: listed(m | {"/tmp/evil": b""}), "holds '/tmp/evil', as no bundle does"),
        (lambda m: listed(m | {"cells/../../x.json": b""}), "holds 'cells/../../x.json', as no bundle does"),
        (lambda m: listed(m | {"cells/": b""}), "holds 'cells/', as no bundle does"),
        (lambda m: listed(m | {"cells/00ff.json": b"{}"}) | {"run.json": b""}, "run.json is not what was put in"),
        (lambda m: listed(m | {"run.json": bytes(2**24)}), "members of 16 MiB in"),
    ],
)
def test_what_is_no_bundle_is_refused_in_one_sentence_and_nothing_is_written(
    file: Path, tmp_path: Path, change: Callable[[Members], Members], says: str
) -> None:
    changed = change(members_of(file))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in changed.items():
            archive.writestr(name, data)
    before = sorted(tmp_path.parent.rglob("*"))
    output = call("report", file, "--out", tmp_path / "site", code=2)
    assert says in output
    assert output.startswith(f"error: {file}")
    assert output.count("\n") == 1
    assert "/bundle-" not in output  # the folder it was unpacked into
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_name_that_stands_twice_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("run.json", b"{}")
    with pytest.raises(BadInput, match="holds 'run\\.json' more than once"), opened(file):
        pass


def test_a_member_beyond_the_limit_is_not_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MEMBER_LIMIT", 100)
    with pytest.raises(BadInput, match="is larger than 0 MiB, as no member should be"), opened(file):
        pass


def test_more_members_than_the_limit_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "COUNT_LIMIT", 2)
    with pytest.raises(BadInput, match="may be made to fill the disk"), opened(file):
        pass


def thin_table(rows: int) -> bytes:
    """A table that is small as long as nobody reads it."""
    buffer = io.BytesIO()
    pd.DataFrame({"score_0": np.zeros(rows)}).to_parquet(buffer)
    return buffer.getvalue()


def thin_arrays(size: int) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, count=np.zeros(size, dtype=np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"), [("predictions/00ff.parquet", thin_table(10**6)), ("maps/00ff.npz", thin_arrays(10**7))]
)
def test_a_member_that_is_large_only_once_it_is_read_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes
) -> None:
    monkeypatch.setattr(bundle, "MEMBER_LIMIT", 10**6)
    members = listed(members_of(file) | {name: data})
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    assert len(data) < 10**5
    with pytest.raises(BadInput, match=f"{name} would fill the memory"), opened(file):
        pass


def test_a_table_that_is_none_is_refused(file: Path, tmp_path: Path) -> None:
    members = listed(members_of(file) | {"predictions/00ff.parquet": b"PAR1 or not"})
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    assert "neither a run folder nor a whole bundle" in call("report", file, "--out", tmp_path / "site", code=2)


@pytest.mark.parametrize("cut", [0, 10, -40])
def test_a_file_that_is_no_zip_or_was_cut_short_is_refused(file: Path, tmp_path: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    assert "neither a run folder nor a whole bundle" in call("report", file, "--out", tmp_path / "site", code=2)


def test_any_byte_changed_is_noticed_or_changes_nothing(file: Path) -> None:
    whole = file.read_bytes()
    with opened(file) as folder:
        expected = {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    for place in np.random.default_rng(0).integers(len(whole), size=60):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with opened(file) as folder:
                found = {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        except BadInput:
            continue
        assert found == expected


def test_a_bundle_has_no_place_for_a_page_of_its_own(file: Path, tmp_path: Path) -> None:
    assert "give --out" in call("report", file, code=2)
    assert "is not a run folder" in call("report", tmp_path / "nothing.zip", "--out", tmp_path / "site", code=2)
