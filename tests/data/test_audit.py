"""Each check finds what it is named for, is silent on a clean dataset, and never names a patient or quotes a text."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmark.data.audit import CHECKS, audit, muted, refuse_leakage
from benchmark.data.manifest import Columns, Dataset, DatasetCard, Exclusion, load
from benchmark.data.phantom import draw
from benchmark.data.split import Split, make_split
from benchmark.errors import BadInput, Leakage
from benchmark.result import Finding

N = 320
COLUMNS = Columns(image="picture", patient_id="who", report="text")
CLEAN = Dataset(
    card=DatasetCard(name="toy", task="binary", label="ill", columns=COLUMNS),
    classes=("well", "ill"),
    sample_ids=tuple(f"s{i:03d}" for i in range(N)),
    rows=np.arange(N) + 11,
    labels=np.arange(N) // 2 % 2,
    groups=np.arange(N) // 2,
    grouped_by="patient",
    pixels=[np.zeros((1, 1), dtype=np.uint8)] * N,
    pixel_hashes=tuple(f"h{i}" for i in range(N)),
    reports=tuple(f"Secret report {i}" for i in range(N)),
)
SPLIT = make_split(CLEAN)


def found(dataset: Dataset, split: Split = SPLIT) -> dict[str, Finding]:
    findings = audit(dataset, split)
    assert [f.code for f in findings] == sorted(f.code for f in findings)
    text = "".join(f.model_dump_json() for f in findings)
    assert "ecret" not in text
    assert not any(f"s{i:03d}" in text for i in range(N))
    return {finding.code: finding for finding in findings}


def at(values, **changes):
    """Copy a tuple with some positions changed, given as ``at(values, p3="x")``."""
    values = list(values)
    for position, value in changes.items():
        values[int(position[1:])] = value
    return tuple(values)


def test_a_clean_dataset_has_no_findings():
    assert found(CLEAN) == {}


def test_codes_are_in_order_and_every_check_is_documented():
    assert list(CHECKS) == sorted(CHECKS)
    assert all(check.__doc__ for check in CHECKS.values())


def test_lb001_a_patient_in_two_parts():
    groups = CLEAN.groups.copy()
    a, b = SPLIT.train[0], SPLIT.test[0]
    groups[b] = groups[a]
    finding = found(replace(CLEAN, groups=groups))["LB001"]
    assert finding.severity == "error"
    assert finding.count == 3
    assert set(finding.rows) == {a + 11, a + 12, b + 11}
    assert "1 patient is" in finding.message


def test_lb002_one_picture_in_two_parts_under_two_patients_with_two_labels():
    a = int(SPLIT.train[CLEAN.labels[SPLIT.train] == 0][0])
    b = int(SPLIT.test[CLEAN.labels[SPLIT.test] == 1][0])
    data = replace(CLEAN, pixel_hashes=at(CLEAN.pixel_hashes, **{f"p{b}": f"h{a}"}))
    finding = found(data)["LB002"]
    assert finding.severity == "error"
    assert finding.rows == tuple(sorted((a + 11, b + 11)))
    assert "1 picture has conflicting labels" in finding.message
    assert "1 picture is under several patient ids" in finding.message


def test_lb002_one_picture_twice_in_one_part_is_a_note():
    a = int(SPLIT.train[0])
    data = replace(CLEAN, pixel_hashes=at(CLEAN.pixel_hashes, **{f"p{a + 1}": f"h{a}"}))
    finding = found(data)["LB002"]
    assert finding.severity == "note"
    assert finding.count == 2
    assert "conflicting" not in finding.message
    assert "several" not in finding.message


@pytest.mark.parametrize("part", ["test", "val"])
def test_lb003_a_training_report_outside_training_whatever_its_case_blanks_and_points(part):
    a, b = int(SPLIT.train[0]), int(getattr(SPLIT, part)[0])
    data = replace(CLEAN, reports=at(CLEAN.reports, **{f"p{b}": f"  SECRET  report,\n{a}."}))
    finding = found(data)["LB003"]
    assert (finding.severity, finding.count, finding.rows) == ("note", 1, (b + 11,))


def test_lb003_is_a_warning_where_a_quarter_of_the_test_reports_are_in_training():
    copied = {f"p{b}": CLEAN.reports[SPLIT.train[0]] for b in SPLIT.test[: len(SPLIT.test) // 4 + 1]}
    finding = found(replace(CLEAN, reports=at(CLEAN.reports, **copied)))["LB003"]
    assert finding.severity == "warning"
    assert "27% of those with a report" in finding.message


def test_lb003_is_silent_on_rows_without_report():
    a, b = int(SPLIT.train[0]), int(SPLIT.test[0])
    assert "LB003" not in found(replace(CLEAN, reports=at(CLEAN.reports, **{f"p{a}": None, f"p{b}": None})))


def test_lb004_reports_that_name_the_label():
    telling = tuple(
        f"{report} {'bad' if ill else 'good'}" for report, ill in zip(CLEAN.reports, CLEAN.labels, strict=True)
    )
    finding = found(replace(CLEAN, reports=telling))["LB004"]
    assert (finding.severity, finding.count) == ("warning", len(SPLIT.train))
    assert "'ill' is guessed with AUROC 1.00" in finding.message


def test_lb004_reports_that_tell_something_are_a_note():
    rng = np.random.default_rng(1)
    hints = CLEAN.labels ^ np.repeat(rng.random(N // 2) < 0.2, 2)
    some = tuple(f"{report} {'bad' if hint else 'good'}" for report, hint in zip(CLEAN.reports, hints, strict=True))
    assert found(replace(CLEAN, reports=some))["LB004"].severity == "note"


def look(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 220, (48, 48), dtype=np.uint8).repeat(2, 0).repeat(2, 1)


def test_lb005_a_copy_of_another_patients_picture_in_another_part():
    a, b = int(SPLIT.train[0]), int(SPLIT.test[0])
    pixels = [look(i) for i in range(N)]
    assert found(replace(CLEAN, pixels=pixels)) == {}
    pixels[b] = pixels[a] + np.uint8(9)
    finding = found(replace(CLEAN, pixels=pixels))["LB005"]
    assert (finding.severity, finding.count) == ("warning", 2)
    assert finding.rows == tuple(sorted((a + 11, b + 11)))


def test_lb005_is_silent_within_a_part_within_a_patient_and_on_identical_pictures():
    a, b, c = int(SPLIT.train[0]), int(SPLIT.test[0]), int(SPLIT.train[2])
    pixels = [look(i) for i in range(N)]
    pixels[c] = pixels[a] + np.uint8(9)
    assert "LB005" not in found(replace(CLEAN, pixels=pixels))
    pixels = [look(i) for i in range(N)]
    pixels[b] = pixels[a] + np.uint8(9)
    groups = CLEAN.groups.copy()
    groups[b] = groups[a]
    overlapping = found(replace(CLEAN, pixels=pixels, groups=groups))
    assert "LB001" in overlapping
    assert "LB005" not in overlapping
    same = replace(CLEAN, pixels=pixels, pixel_hashes=at(CLEAN.pixel_hashes, **{f"p{b}": f"h{a}"}))
    assert "LB002" in found(same)
    assert "LB005" not in found(same)


def test_lb006_a_training_report_with_a_word_changed():
    a, b = int(SPLIT.train[0]), int(SPLIT.test[0])
    long = " ".join(f"secret{i}" for i in range(40))
    data = replace(CLEAN, reports=at(CLEAN.reports, **{f"p{a}": long, f"p{b}": long.replace("secret7 ", "seven ")}))
    finding = found(data)["LB006"]
    assert (finding.severity, finding.count, finding.rows) == ("note", 1, (b + 11,))
    assert "LB003" not in found(data)


def test_lb007_metadata_that_tell_the_label():
    table = pd.DataFrame({"site": pd.Series(np.where(CLEAN.labels == 1, "A", "B")).astype("category")})
    finding = found(replace(CLEAN, structured=table))["LB007"]
    assert finding.severity == "warning"
    assert "AUROC 1.00" in finding.message


@pytest.mark.parametrize("phrase", ["ILL", "very poorly indeed"])
def test_lb008_class_names_and_prompts_in_reports(phrase):
    card = CLEAN.card.model_copy(update={"prompts": {"ill": ("Very poorly, indeed",), "well": ("in rude health",)}})
    some = at(CLEAN.reports, p3=f"Secret {phrase}.", p9="Secret chillness")
    finding = found(replace(CLEAN, card=card, reports=some))["LB008"]
    assert (finding.severity, finding.count, finding.rows) == ("note", 1, (14,))
    every = tuple(f"{r} {phrase}" if ill else r for r, ill in zip(CLEAN.reports, CLEAN.labels, strict=True))
    finding = found(replace(CLEAN, card=card, reports=every))["LB008"]
    assert finding.severity == "warning"
    assert "'ill' 100%, the others 0%" in finding.message


def test_lb009_counts_patients_of_a_class_not_pictures():
    labels = CLEAN.labels.copy()
    labels[SPLIT.test] = 0
    labels[SPLIT.test[CLEAN.groups[SPLIT.test] == CLEAN.groups[SPLIT.test[0]]]] = 1
    finding = found(replace(CLEAN, labels=labels))["LB009"]
    assert finding.severity == "warning"
    assert finding.count == 1
    assert "'ill'" in finding.message
    assert finding.message.split("'ill' ")[1].split(")")[0].endswith("/1")


def test_lb009_finds_labels_that_everybody_in_test_has():
    labels = np.stack([CLEAN.labels, np.ones(N, dtype=np.int64)], axis=1)
    labels[SPLIT.train[:40], 1] = 0
    card = DatasetCard(name="toy", task="multilabel", label=("ill", "wet"), columns=COLUMNS)
    finding = found(replace(CLEAN, card=card, classes=("ill", "wet"), labels=labels))["LB009"]
    assert "'no wet'" in finding.message
    assert "'ill'" not in finding.message
    assert "'wet'" not in finding.message


def test_lb010_no_patient_ids():
    data = replace(CLEAN, grouped_by="identical picture", card=DatasetCard(name="toy", task="binary", label="ill"))
    assert found(data)["LB010"].severity == "warning"


def test_lb011_rows_without_report_and_lb012_no_reports():
    some = found(replace(CLEAN, reports=(None,) * 30 + CLEAN.reports[30:]))
    assert some["LB011"].count == 30
    assert some["LB011"].rows == tuple(range(11, 31))
    assert "LB012" not in some
    none = found(replace(CLEAN, reports=None))
    assert "LB012" in none
    assert "LB011" not in none


def test_lb013_counts_exclusions_by_reason():
    exclusions = tuple(Exclusion(row, "empty ill" if row % 3 else "picture missing") for row in range(1, 31))
    finding = found(replace(CLEAN, exclusions=exclusions))["LB013"]
    assert finding.count == 30
    assert finding.rows == tuple(range(1, 21))
    assert "empty ill (20), picture missing (10)" in finding.message


def test_lb014_names_columns_of_the_card_that_are_empty():
    card = CLEAN.card.model_copy(update={"structured": {"age": "number", "sex": "category"}})
    data = replace(CLEAN, card=card, reports=None, structured=pd.DataFrame({"age": np.zeros(N)}))
    finding = found(data)["LB014"]
    assert finding.count == 2
    assert "'text'" in finding.message
    assert "'sex'" in finding.message
    assert "'age'" not in finding.message


def test_lb015_a_validation_part_taken_from_training():
    parts = np.where(np.isin(np.arange(N), SPLIT.test), "test", "train")
    data = replace(CLEAN, given_split=parts)
    split = make_split(data)
    assert found(data, split)["LB015"].count == len(split.val)


def test_lb018_subgroups_with_few_test_patients_by_column_and_never_by_value():
    few = np.isin(CLEAN.groups, CLEAN.groups[SPLIT.test][:4])
    table = pd.DataFrame({"ward": pd.Series(np.where(few, "Secret ward", "main")).astype("category")})
    finding = found(replace(CLEAN, structured=table))["LB018"]
    assert finding.severity == "note"
    assert "1 of 2 in 'ward'" in finding.message


def test_the_lumbar_phantom_has_neither_warning_nor_error():
    phantom = draw(300)
    assert [f for f in audit(phantom, make_split(phantom)) if f.severity != "note"] == []


# ------------------------------------------------------------------------------------------- muting, stopping


def test_muted_findings_stay_and_leakage_cannot_be_muted():
    table = pd.DataFrame({"site": pd.Series(np.where(CLEAN.labels == 1, "A", "B")).astype("category")})
    groups = CLEAN.groups.copy()
    groups[SPLIT.test[0]] = groups[SPLIT.train[0]]
    findings = audit(replace(CLEAN, structured=table, groups=groups), SPLIT)
    assert [(f.code, f.muted) for f in muted(findings, ["LB007", "LB010"])] == [("LB001", False), ("LB007", True)]
    with pytest.raises(BadInput, match="--ignore LB001: leakage cannot be ignored"):
        muted(findings, ["LB001"])
    with pytest.raises(BadInput, match="--ignore LB1: there is no such finding"):
        muted(findings, ["LB1"])


def test_leakage_is_refused_in_one_sentence_and_warnings_are_not():
    groups = CLEAN.groups.copy()
    groups[SPLIT.test[0]] = groups[SPLIT.train[0]]
    findings = audit(replace(CLEAN, groups=groups), SPLIT)
    with pytest.raises(Leakage, match=r"leaks \(LB001\).*--allow-leakage"):
        refuse_leakage(findings)
    assert Leakage.exit_code == 1
    refuse_leakage([f.model_copy(update={"severity": "warning"}) for f in findings])


# ------------------------------------------------------------------------------------------- real data


def real(folder, tmp_path, **card) -> Dataset:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": "real", "manifest": str(folder / "manifest.csv"), **card}))
    return load(path, cache=tmp_path / "cache")


@pytest.mark.realdata
def test_the_known_duplicates_of_the_null_set_are_found_in_its_own_division(real_data, tmp_path):
    data = real(
        real_data / "sudirman_lumbar_png_null",
        tmp_path,
        task="binary",
        label="label_random_pain",
        columns={"image": "image_path", "split": "upstream_split"},
    )
    # the source has train and validation alone: its validation part stands in for the test part
    data = replace(data, given_split=np.where(data.given_split == "val", "test", data.given_split))
    findings = {f.code: f for f in audit(data, make_split(data))}
    assert findings["LB002"].severity == "error"
    assert findings["LB002"].count == 2
    assert "1 picture has conflicting labels" in findings["LB002"].message
    assert findings["LB010"].severity == "warning"
    # one slice saved twice under opposite labels, a few grey levels apart: no hash of pixels finds it
    assert (findings["LB005"].severity, findings["LB005"].rows) == ("warning", (62, 96))


@pytest.mark.realdata
def test_the_known_duplicates_of_the_fundus_set_stay_in_one_part(real_data, tmp_path):
    data = real(
        real_data / "idrid_fundus",
        tmp_path,
        task="multiclass",
        label="grade_dr",
        columns={"image": "image_path", "patient_id": "patient_id"},
        rows={"upstream_split": ["train"]},
    )
    findings = {f.code: f for f in audit(data, make_split(data))}
    finding = findings["LB002"]
    manifest = pd.read_csv(real_data / "idrid_fundus" / "manifest.csv")
    copies = manifest.index[(manifest["has_duplicate"] == 1) & manifest["patient_id"].duplicated(keep=False)] + 1
    assert finding.severity == "note"
    assert "LB005" not in findings  # 166 pairs of retinas have hashes as near as copies; only copies are alike
    assert set(finding.rows) == set(copies)
    assert Counter(data.groups[np.isin(data.rows, copies)].tolist()).most_common()[-1][1] == 2


def test_absent_reports_that_go_with_the_label_are_a_warning_and_others_are_not():
    telling = tuple(None if ill and i % 3 else f"r{i}" for i, ill in enumerate(CLEAN.labels))
    finding = found(replace(CLEAN, reports=telling))["LB016"]
    assert (finding.severity, finding.count) == ("warning", sum(r is None for r in telling))
    assert "'ill' 66%, the others 0%" in finding.message
    silent = tuple(None if i % 7 == 0 else f"r{i}" for i in range(N))
    assert "LB016" not in found(replace(CLEAN, reports=silent))
    several = replace(CLEAN, reports=telling, classes=("a", "b"), labels=np.stack([CLEAN.labels, 1 - CLEAN.labels], 1))
    assert "'a' " in found(several)["LB016"].message
