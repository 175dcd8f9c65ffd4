"""The main job on small real data sets, from their manifests as they lie: what their documents say of them holds."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from benchmark.cli import main

pytestmark = pytest.mark.realdata

NAIVE = "majority,metadata-only,tfidf-report,image-statistics"
SETTINGS = {"workers": 1, "evaluation": {"replicates": 200, "evaluators": ["probe_standard"]}}


class Ran:
    """What a run left behind."""

    def __init__(self, folder: Path) -> None:
        self.record = json.loads((folder / "run.json").read_text())
        cells = [json.loads(file.read_text()) for file in (folder / "cells").glob("*.json")]
        self.cells = {cell["spec"]["model"]: cell for cell in cells}
        self.page = (folder / "leaderboard" / "index.html").read_text()
        self.audit = {finding["code"]: finding for finding in self.record["audit"]}

    def primary(self, model: str, metric: str) -> dict[str, float]:
        (found,) = [
            m["estimate"] for m in self.cells[model]["measurements"] if (m["space"], m["metric"]) == ("pooled", metric)
        ]
        return dict(found)


@pytest.fixture
def ran(name: str, real_data: Path, real_cards: dict[str, dict[str, Any]], tmp_path: Path) -> Ran:
    card, config = tmp_path / "card.yaml", tmp_path / "config.yaml"
    manifest = real_data / name / "manifest.csv"
    card.write_text(yaml.safe_dump({"name": name, "manifest": str(manifest), **real_cards[name]}))
    config.write_text(yaml.safe_dump(SETTINGS))
    words = ["run", "--data", str(card), "--config", str(config), "--regime", "frozen", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*words, "--models", f"{NAIVE},lumbarclip-resnet50"])
    assert done.exit_code == 0, done.output
    return Ran(tmp_path / "run")


@pytest.mark.parametrize("name", ["spider_lumbar_mri", "sudirman_lumbar_png_null"])
def test_where_there_is_nothing_to_learn_every_interval_holds_chance(name: str, ran: Ran) -> None:
    for model in ran.cells:
        estimate = ran.primary(model, "roc_auc")
        assert estimate["low"] <= 0.5 <= estimate["high"], (model, estimate)


@pytest.mark.parametrize("name", ["spider_lumbar_mri"])
def test_a_set_without_reports_leaves_out_what_needs_them_and_the_page_says_so(name: str, ran: Ran) -> None:
    assert set(ran.cells) == {"majority", "metadata-only", "image-statistics", "lumbarclip-resnet50"}
    assert "LB012" in ran.audit
    assert "tfidf-report: frozen / none / none" in ran.record["impossible"]
    assert "it is scored from reports, and there are none to learn from" in ran.page


@pytest.mark.parametrize("name", ["sudirman_lumbar_png_null"])
def test_a_set_without_patient_ids_is_announced_as_one_that_may_leak(name: str, ran: Ran) -> None:
    assert ran.record["split"]["grouped_by"] == "identical picture"
    assert ran.audit["LB010"]["severity"] == "warning"
    assert "No patient ids, so the split may leak" in ran.page
    assert "within one part of the split; 1 picture has conflicting labels" in ran.audit["LB002"]["message"]


@pytest.mark.parametrize("name", ["idrid_fundus"])
def test_upstream_duplicates_are_found_and_lie_in_one_part(name: str, ran: Ran) -> None:
    finding = ran.audit["LB002"]
    assert (finding["severity"], finding["count"]) == ("note", 6)
    assert "LB001" not in ran.audit
    assert 0.5 < ran.primary("lumbarclip-resnet50", "roc_auc_macro")["value"] < 0.95


@pytest.mark.parametrize(("name", "metric"), [("covid_cxr", "roc_auc"), ("vqa_rad", "roc_auc_ovr_macro")])
def test_reports_that_name_the_label_beat_the_picture_and_stand_beside_it(name: str, metric: str, ran: Ran) -> None:
    report = ran.primary("tfidf-report", metric)["value"]
    assert report > 0.9
    assert report > ran.primary("image-statistics", metric)["value"]
    assert ran.cells["tfidf-report"]["inputs"] == ["text"]
    assert ran.record["split"]["grouped_by"] == "patient"


@pytest.mark.parametrize("name", ["pneumoniamnist_28"])
def test_pictures_in_an_npz_are_read_in_place(name: str, ran: Ran) -> None:
    assert ran.record["dataset"]["n"] == 1148
    assert ran.primary("lumbarclip-resnet50", "roc_auc")["value"] > ran.primary("majority", "roc_auc")["value"] == 0.5
