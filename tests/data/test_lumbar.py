"""The importer of the Mendeley lumbar data: which slices it picks, what it leaves out, and that its folder runs."""

import csv
import io
import json
import runpy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from click.testing import CliRunner

from benchmark.cli import main
from benchmark.data import lumbar
from benchmark.data.image import decode
from benchmark.data.lumbar import import_lumbar

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("lumbar_archive.py"))))
STUDY = "L-SPINE_LSS_20160309_091629_240000"
BULGE, NOTHING = "LSS MRI : \nDiffuse disc bulge noted at L4/L5 level", "No evidence of disc herniation."
Row = dict[str, str]


def rows_of(out: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO((out / "manifest.csv").read_text(encoding="utf-8"), newline="")))


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., dict[str, Row]]:
    """Import one patient's files with a note; gives ``view`` -> row."""

    def run(files: dict[str, bytes], note: str = BULGE) -> dict[str, Row]:
        source = made.unpack({**files, "notes.xlsx": made.sheet({1: note})}, tmp_path / "source")
        import_lumbar(source, tmp_path / "out")
        return {row["view"]: row for row in rows_of(tmp_path / "out")}

    return run


def exclusions(out: Path) -> list[tuple[str, str, str]]:
    with (out / "exclusions.csv").open(newline="", encoding="utf-8") as file:
        return [(row["patient"], row["part"], row["reason"]) for row in csv.DictReader(file)]


# --------------------------------------------------------------------------------------------- which slices


def test_the_middle_slice_of_each_of_the_three_stacks_is_picked(imported: Callable[..., dict[str, Row]]) -> None:
    rows = imported(made.patient(1))
    assert list(rows) == ["L3/4 T1", "L4/5 T1", "L5/S1 T1", "L3/4 T2", "L4/5 T2", "L5/S1 T2"]
    assert [(row["instance"], row["slice"], row["stack"]) for row in rows.values()] == [
        ("3", "3", "5"),
        ("8", "3", "5"),
        ("13", "3", "5"),
    ] * 2
    assert {row["series"] for row in rows.values()} == {"4", "5"}
    assert [(row["position_mm"], row["tilt_deg"]) for row in list(rows.values())[:3]] == [
        ("65.0", "0.0"),
        ("30.0", "0.0"),
        ("-6.0", "35.0"),
    ]


def test_of_an_even_stack_it_is_the_upper_of_the_two_middle_slices(imported: Callable[..., dict[str, Row]]) -> None:
    rows = imported(made.axial(f"0001/{STUDY}", "T2", stacks={"L3/4": 4, "L4/5": 4, "L5/S1": 1}))
    assert [(row["instance"], row["slice"], row["stack"]) for row in rows.values()] == [
        ("2", "2", "4"),
        ("6", "2", "4"),
        ("9", "1", "1"),
    ]


def test_of_four_stacks_the_three_lowest_count(imported: Callable[..., dict[str, Row]]) -> None:
    rows = imported(made.axial(f"0001/{STUDY}", "T1", stacks=["L2/3", "L3/4", "L4/5", "L5/S1"]))
    assert [row["instance"] for row in rows.values()] == ["8", "13", "18"]


def test_neither_file_names_nor_the_order_of_instances_matter(imported: Callable[..., dict[str, Row]]) -> None:
    files = made.axial(f"0001/{STUDY}", "T2", stacks=["L5/S1", "L3/4", "L4/5"], scramble=5)
    rows = imported(files)
    assert {view: row["instance"] for view, row in rows.items()} == {
        "L3/4 T2": "8",
        "L4/5 T2": "13",
        "L5/S1 T2": "3",
    }


def test_a_stack_that_lacks_one_slice_stays_one(imported: Callable[..., dict[str, Row]]) -> None:
    files = made.axial(f"0001/{STUDY}", "T2")
    gone = [name for name in files if name.endswith("_009.ima")]
    assert len(gone) == 1
    rows = imported({name: data for name, data in files.items() if name not in gone})
    assert [row["stack"] for row in rows.values()] == ["5", "4", "5"]


@pytest.mark.parametrize("name", ["AX T2 FSE", "T2W_TSE_AX", "t2_tse_tra_384", "Axial T2", "SE 7"])
def test_the_names_of_vendors_do_not_matter_where_the_header_says_it(
    name: str, imported: Callable[..., dict[str, Row]]
) -> None:
    rows = imported(made.axial("0001/study", "T2", name=name))
    assert list(rows) == ["L3/4 T2", "L4/5 T2", "L5/S1 T2"]


def test_times_win_over_a_wrong_name(imported: Callable[..., dict[str, Row]]) -> None:
    assert list(imported(made.axial("0001/study", "T1", name="t2_tse_tra"))) == ["L3/4 T1", "L4/5 T1", "L5/S1 T1"]


@pytest.mark.parametrize("position", [{}, {"ImagePositionPatient": None}])
@pytest.mark.parametrize("name", ["AX T2 FSE", "T2W_TSE_AX", "t2_tse_tra_384"])
def test_a_header_that_says_nothing_leaves_it_to_the_name(
    name: str, position: dict[str, None], imported: Callable[..., dict[str, Row]]
) -> None:
    silent = {"ImageOrientationPatient": None, "RepetitionTime": None, "EchoTime": None, "StudyDescription": None}
    silent |= {"SpacingBetweenSlices": None, "SliceThickness": None}
    flat = ["L2/3", "L3/4", "L4/5"]
    rows = imported(made.axial("0001/study", "T2", name=name, stacks=flat, **silent, **position))
    assert list(rows) == ["L3/4 T2", "L4/5 T2", "L5/S1 T2"]
    assert [row["instance"] for row in rows.values()] == ["3", "8", "13"]


def test_a_value_that_the_standard_does_not_allow_is_no_obstacle(imported: Callable[..., dict[str, Row]]) -> None:
    files = made.axial("0001/study", "T2", SeriesInstanceUID="1.234.567.89")
    odd = {name: data.replace(b"1.234.567.89", b"1.0234.x67.9") for name, data in files.items()}
    assert odd != files
    assert len(imported(odd)) == 3


def test_two_echoes_in_one_series_are_told_apart(imported: Callable[..., dict[str, Row]]) -> None:
    t2 = made.axial("0001/study", "T2", SeriesInstanceUID="1.2.3")
    density = made.axial("0001/study/pd", "T2", SeriesInstanceUID="1.2.3", EchoTime=15.0, name="pd t2 tra", grey=9)
    assert {row["contrast"] for row in imported({**density, **t2}).values()} == {"T2"}


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"name": "t2_tse_tra_fs", "number": 9}, {"number": 4}),
        ({"ContrastBolusAgent": "Gd", "number": 9}, {"number": 4}),
        ({"number": 4}, {"number": 6}),  # a repetition replaces what was not good enough
        ({"number": 7, "StudyInstanceUID": "1.1"}, {"number": 4, "StudyInstanceUID": "1.2", "StudyDate": "20170101"}),
        (
            {"number": 7, "StudyInstanceUID": "1.2", "StudyDate": None, "folder": "0001/LSS_20160309_231629_240000"},
            {"number": 4, "StudyInstanceUID": "1.1", "StudyDate": None, "folder": "0001/LSS_20160310_071629_240000"},
        ),
        ({"number": 7, "stacks": ["L4/5", "L5/S1"]}, {"number": 4}),
        ({"number": 7, "StudyDescription": "C-SPINE^C-SPINE"}, {"number": 4}),
        ({"number": 7, "StudyDescription": None, "BodyPartExamined": "CSPINE"}, {"number": 4}),
        ({"number": 7, "ScanningSequence": "GR"}, {"number": 4}),
        ({"number": 7, "ImageType": ["DERIVED", "SECONDARY", "MPR"]}, {"number": 4}),
    ],
)
def test_of_several_series_the_better_one_is_used(
    worse: dict[str, Any], better: dict[str, Any], imported: Callable[..., dict[str, Row]]
) -> None:
    series = ({"folder": "0001/a", "contrast": "T2"} | worse, {"folder": "0001/b", "contrast": "T2"} | better)
    rows = imported(made.axial(**series[0]) | made.axial(**series[1]))
    assert {row["series"] for row in rows.values()} == {str(better["number"])}


def test_a_study_with_both_contrasts_wins_over_a_later_one(imported: Callable[..., dict[str, Row]]) -> None:
    early = {"StudyInstanceUID": "1.1"}
    late = {"StudyInstanceUID": "1.2", "StudyDate": "20180101"}
    files = {
        **made.axial("0001/a", "T2", number=4, **early),
        **made.axial("0001/a", "T1", number=5, **early),
        **made.axial("0001/b", "T2", number=8, **late),
    }
    assert Counter(row["series"] for row in imported(files).values()) == {"4": 3, "5": 3}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no axial series"),
        (
            made.axial("0001/x", "T1", name="tra", RepetitionTime=1200.0),
            "no axial series but of unknown contrast",
        ),
        (made.other_series("0001/x"), "no axial series"),
        (made.axial("0001/x", "T1", stacks=["L4/5", "L5/S1"]), "axial series with fewer than 3 stacks of slices"),
        (
            made.axial("0001/x", "T1", stacks={"L2/3": 1, "L3/4": 9, "L5/S1": 4}),
            "axial series with a stack too thick for one disc",
        ),
        (
            made.axial("0001/x", "T1", stacks=["L2/3", "L3/4", "L5/S1"]),
            "axial series whose stacks are not one disc apart",
        ),
    ],
)
def test_a_contrast_that_cannot_be_picked_is_excluded_with_a_reason(
    files: dict[str, bytes], reason: str, imported: Callable[..., dict[str, Row]], tmp_path: Path
) -> None:
    assert {row["contrast"] for row in imported({**files, **made.axial("0001/y", "T2")}).values()} == {"T2"}
    assert exclusions(tmp_path / "out") == [("0001", "T1", reason)]


# --------------------------------------------------------------------------------------------- what is written


def test_a_written_picture_decodes_to_the_same_pixels_and_says_nothing_of_the_person(tmp_path: Path) -> None:
    files = made.patient(1)
    import_lumbar(made.unpack({**files, "n.xlsx": made.sheet({1: BULGE})}, tmp_path / "in"), tmp_path / "out")
    original = {}
    for name, data in files.items():
        if "_TRA" in name:
            header = pydicom.dcmread(io.BytesIO(data))
            original[str(header.SeriesNumber), str(header.InstanceNumber)] = decode(name, tmp_path / "in")
    for row in rows_of(tmp_path / "out"):
        pixels = decode(row["image"], tmp_path / "out")
        assert np.array_equal(pixels, original[row["series"], row["instance"]])
        assert pixels.std() > 0
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 6 + 4  # pictures; patient, manifest, exclusions, card
    for path in written:
        for private in (b"DOE", b"mrn-4711", b"19610203", b"Elsewhere", b"20160309", b"LSS_2016"):
            assert private not in path.read_bytes(), path


def test_the_manifest_has_the_note_the_label_and_the_rules(tmp_path: Path) -> None:
    source = made.unpack({**made.patient(7), "n.xlsx": made.sheet({7: f"  {BULGE}\n"})}, tmp_path / "in")
    import_lumbar(source, tmp_path / "out", labels="notes-spasm-v1")
    row = rows_of(tmp_path / "out")[0]
    assert row["report"] == BULGE
    assert (row["image"], row["sample_id"]) == ("images/0007-L34-T1.dcm", "0007-L34-T1")
    assert (row["patient_id"], row["label"]) == ("0007", "LBP")
    card = yaml.safe_load((tmp_path / "out" / "card.yaml").read_text())
    assert "Slices by last-three-discs-v1, labels by notes-spasm-v1." in card["citation"]
    assert "allow_patient_overlap" not in card
    assert "split" not in card["columns"]


# --------------------------------------------------------------------------------------------- a whole archive


@pytest.fixture(scope="module")
def archive() -> dict[str, bytes]:
    """Patients 1 to 7 complete, 13 without a note, 14 without T1, 15 with an open note, 16 with nothing axial."""
    files: dict[str, bytes] = {}
    for number in (*range(1, 8), 13, 15):
        files |= made.patient(number)
    files |= made.axial(f"01_MRI_Data/0014/{STUDY}", "T2")
    files |= made.other_series(f"01_MRI_Data/0016/{STUDY}")
    files["01_MRI_Data/0001/broken.ima"] = made.dicom()[:200]
    notes = {number: BULGE if number % 2 else NOTHING for number in (*range(1, 8), 13, 14, 15, 16, 17)}
    notes |= {13: None, 15: "LSS MRI : ? small protrusion"}
    files["Radiologists Report.xlsx"] = made.sheet(notes)
    return files


EXCLUDED = [
    ("0013", "all", "no label by notes-v1: no note"),
    ("0014", "T1", "no axial series"),
    ("0015", "all", "no label by notes-v1: findings are only suspected"),
    ("0016", "T1", "no axial series"),
    ("0016", "T2", "no axial series"),
]


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


@pytest.mark.parametrize("form", ["folder", "zip", "folder with the zip", "zip beside the notes"])
def test_every_form_of_the_archive_gives_the_same(form: str, archive: dict[str, bytes], tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    pictures = {name: data for name, data in archive.items() if not name.endswith(".xlsx")}
    if form == "folder":
        made.unpack(archive, source)
    elif form == "zip":
        source = made.pack(archive, tmp_path / "all.zip")
    else:
        (source / "Report.xlsx").write_bytes(archive["Radiologists Report.xlsx"])
        packed = made.pack(pictures, source / "images.zip")
        source = source if form == "folder with the zip" else packed
    code, output = call("data", "import-lumbar", source, "--out", out, "--json")
    assert code == 0
    told = json.loads(output)
    assert told["card"] == str(out / "card.yaml")
    assert (told["patients"], told["pictures"]) == (8, 7 * 6 + 3)
    assert told["labels"] == {"LBP": 24, "No Finding": 21}
    assert told["patients_of"] == {"LBP": 4, "No Finding": 4}
    assert told["excluded"] == {
        "T1: no axial series": 2,
        "all: no label by notes-v1: no note": 1,
        "all: no label by notes-v1: findings are only suspected": 1,
        "T2: no axial series": 1,
    }
    assert exclusions(out) == EXCLUDED
    assert told["notes_alone"] == 1
    assert told["aside"]["localizer"] == 10
    assert told["aside"]["no readable DICOM header"] == 10
    assert told["aside"]["no MR picture"] == 1
    assert {row["instance"] for row in rows_of(out)} == {"3", "8", "13"}


def test_a_second_call_reads_no_picture_and_changes_nothing(
    archive: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = made.unpack(archive, tmp_path / "in"), tmp_path / "out"
    import_lumbar(source, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with monkeypatch.context() as patch:
        patch.setattr(lumbar, "read_slice", lambda *_: pytest.fail("a header was read again"))
        import_lumbar(source, out)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    gone = out / "images" / "0004-L45-T2.dcm"
    gone.unlink()
    (out / "patients" / "0005.json").write_text("{")
    changed = next((source / "01_MRI_Data" / "0006").rglob("*TRA*.ima"))
    changed.write_bytes(b"no longer a picture")
    read: list[str] = []
    keep = lumbar.read_slice
    monkeypatch.setattr(lumbar, "read_slice", lambda file, name: (read.append(name), keep(file, name))[1])
    import_lumbar(source, out)
    assert {name.split("/")[1] for name in read} == {"0004", "0005", "0006"}
    assert gone.read_bytes() == before[gone]


def test_an_output_folder_inside_the_source_is_not_taken_for_it(tmp_path: Path) -> None:
    source = made.unpack({**made.patient(1), "n.xlsx": made.sheet({1: BULGE})}, tmp_path)
    first = import_lumbar(source, tmp_path / "01_MRI_Data" / "0001" / "out")
    again = import_lumbar(source, tmp_path / "01_MRI_Data" / "0001" / "out")
    assert first == again


def test_names_in_a_zip_file_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    files = {**made.patient(1), "n.xlsx": made.sheet({1: BULGE})}
    names = ["../../0002/evil.ima", "/abs/0003/evil.ima", "..\\0004\\evil.ima", "0005/../../evil.xlsx"]
    (tmp_path / "deep").mkdir()
    source = made.pack(files, tmp_path / "deep" / "all.zip", names)
    import_lumbar(source, tmp_path / "deep" / "out")
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(tmp_path / "deep" / "out")]
    assert outside == [source]
    assert {row["patient_id"] for row in rows_of(tmp_path / "deep" / "out")} == {"0001"}


def test_a_damaged_picture_is_left_out_alone(tmp_path: Path) -> None:
    files = made.patient(1)
    (name,) = [name for name in files if name.endswith("T1_TSE_TRA_0005/T1_TSE_TRA_008.ima")]
    files[name] = files[name][:-40]
    made.unpack({**files, "n.csv": f'Patient ID,Clinician’s Notes\n1,"{BULGE}"\n'.encode()}, tmp_path / "in")
    report = import_lumbar(tmp_path / "in", tmp_path / "out")
    assert report.pictures == 5
    ((who, part, why),) = exclusions(tmp_path / "out")
    assert (who, part) == ("0001", "L4/5 T1")
    assert why.startswith("picture ")


# --------------------------------------------------------------------------------------------- the notes


@pytest.mark.parametrize(
    ("sheet", "encoding"),
    [
        ("Patient ID,Clinician's Notes\n1.0,{}\n", "utf-8"),
        ("Patient ID,Clinician’s Notes\n0001,{}\n", "utf-8-sig"),
        ("No,Patient ID,Clinician’s Notes\n9,1,{}\n", "cp1252"),
        ("Radiologists' notes,\n,\nPatient ID,Clinician's Notes\n1,{}\n,\n", "utf-8"),
        ('Patient ID,Clinician\'s Notes\n1,"LSS MRI"\n1,{}\n2,\n', "utf-8"),
    ],
)
def test_sheets_are_read_as_people_save_them(sheet: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(sheet.format("mild bulge").encode(encoding))
    notes = lumbar.read_notes(path)
    assert list(notes) == [1]
    assert notes[1].endswith("mild bulge")


@pytest.mark.parametrize(
    ("extra", "words", "message"),
    [
        ({}, [], "Clinician's Notes' there is none; give the one of doi:10.17632/s6bgczr8s2.2 by --notes"),
        ({"a.csv": b"Patient ID,Note\n1,x\n", "b.csv": b"Patient ID,Note\n1,x\n"}, [], "several (a.csv, b.csv)"),
        ({}, ["--notes", "absent.xlsx"], "no spreadsheet absent.xlsx"),
        ({"n.csv": b"who,what\n1,x\n"}, ["--notes", "in/n.csv"], "in/n.csv has no row with the columns"),
        ({"n.xlsx": b"nothing"}, [], "there is none (not readable: n.xlsx); give"),
        ({"n.xlsx": b"nothing"}, ["--notes", "in/n.xlsx"], "n.xlsx is not a spreadsheet that can be read"),
        ({"n.csv": b"Patient ID,Note\nseven,x\n"}, [], "the patient id 'seven' is not a number"),
        (
            {"n.csv": b"Patient ID,Note\n1,LSS MRI\n"},
            [],
            "no picture is left of 1 patients: no axial series (1); no label by notes-v1",
        ),
        ({"n.csv": b"Patient ID,Note\n1,x\n"}, ["--labels", "v9"], "no labelling rule 'v9'; there are notes-v1"),
    ],
)
def test_bad_notes_are_one_sentence(
    extra: dict[str, bytes], words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made.unpack({**made.axial("0001/x", "T2"), **extra}, tmp_path / "in")
    code, output = call("data", "import-lumbar", "in", "--out", "out", *words)
    assert code == 2
    assert message in output
    assert output.count("\n") == 1
    assert not (tmp_path / "out" / "card.yaml").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no file or folder"),
        ("empty", "holds no file in a folder with a patient's number, as 01_MRI_Data/0001/"),
        ("text.zip", "is not a whole zip file"),
    ],
)
def test_a_wrong_source_is_one_sentence(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("nothing")
    code, output = call("data", "import-lumbar", tmp_path / name, "--out", tmp_path / "out")
    assert (code, message in output, output.count("\n")) == (2, True, 1)


# --------------------------------------------------------------------------------------------- on to a run


def test_import_check_and_run_work_through_the_command_line(archive: dict[str, bytes], tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    source = made.pack(archive, tmp_path / "all.zip")
    code, output = call("data", "import-lumbar", source, "--out", out)
    assert code == 0
    for line in ("45 pictures of 8 patients", "No Finding: 21 pictures (46.7%) of 4 patients", "T1: no axial series"):
        assert line in output
    code, output = call("data", "check", out, "--cache", cache)
    assert code == 0, output
    assert "LB001" not in output
    assert "mendeley-lumbar: 45 pictures, binary" in output
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"workers": 1, "regimes": ["frozen"], "evaluation": {"replicates": 20}}))
    words = ["--models", "image-statistics,majority", "--config", config, "--cache", cache]
    code, output = call("run", "--data", out, "--out", tmp_path / "run", *words)
    assert code == 0, output
    assert len(list((tmp_path / "run" / "cells").glob("*.json"))) == 2


def test_the_split_by_picture_is_written_on_purpose_and_the_audit_calls_it_an_error(
    archive: dict[str, bytes], tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    source = made.unpack(archive, tmp_path / "in")
    words = ["data", "import-lumbar", source, "--out", out, "--split", "image-level"]
    assert call(*words, "--seed", 3)[0] == 0
    rows = rows_of(out)
    assert Counter(row["split"] for row in rows) == {"train": 31, "val": 7, "test": 7}
    assert call(*words, "--seed", 3)[0] == 0
    assert rows_of(out) == rows
    assert call(*words, "--seed", 4)[0] == 0
    assert rows_of(out) != rows
    card = yaml.safe_load((out / "card.yaml").read_text())
    assert card["allow_patient_overlap"] is True
    assert "split by picture with seed 4" in card["citation"]
    code, output = call("data", "check", out, "--cache", cache, "--json")
    findings = {finding["code"]: finding for finding in json.loads(output)["findings"]}
    assert code == 1
    assert findings["LB001"]["severity"] == "error"
    assert "more than one part of the split" in findings["LB001"]["message"]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"workers": 1, "regimes": ["frozen"], "evaluation": {"replicates": 20}}))
    words = ["--models", "majority,image-statistics", "--config", config, "--cache", cache]
    code, output = call("run", "--data", out, "--out", tmp_path / "run", *words)
    assert code == 1
    assert "--allow-leakage" in output
    assert not (tmp_path / "run").exists()
    code, output = call("run", "--data", out, "--out", tmp_path / "run", "--allow-leakage", *words)
    assert code == 0, output
    assert "LB001" in (tmp_path / "run" / "leaderboard" / "index.html").read_text()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {finding["code"]: finding["severity"] for finding in record["audit"]}["LB001"] == "error"
    del card["allow_patient_overlap"]
    (out / "card.yaml").write_text(yaml.safe_dump(card))
    code, output = call("data", "check", out, "--cache", cache)
    assert code == 2
    assert "of the same patient says" in output
