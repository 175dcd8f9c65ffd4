"""The page keeps what is reported apart from what is measured, escapes everything, and computes nothing."""

from __future__ import annotations

import csv
import io
import re
import runpy
from pathlib import Path

import pytest

from benchmark.experiment import Difference, Experiment, ExperimentRecord, Ran
from benchmark.result import Estimate, Measurement
from leaderboards.experiment import build, make_experiment_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))
HOSTILE = f"{DEMO['HOSTILE']}{DEMO['HOSTILE_ATTRIBUTE']}"


def record(word: str = "plain", *, paper: bool = True, chart: str = "model") -> ExperimentRecord:
    """The demo run as an experiment; ``word`` stands wherever a file or a dataset can put one."""
    run, results = DEMO["demo"]()
    results = [r.model_copy(update={"title": f"{r.title} {word}"}) if r.spec.model == "convirt" else r for r in results]
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"classes": ("No finding", word)})})
    fields = {
        "name": "demo",
        "title": f"Title {word}",
        "question": f"Question {word}",
        "reading": [f"Point {word}"],
        "runs": [{"name": "one", "title": f"One {word}"}],
        "page": {
            "columns": [{"metric": "primary"}, {"metric": "f1_macro"}, {"metric": "f1_weighted"}],
            "chart": {"column": {"metric": "f1_macro"}, "across": chart},
            "by_class": True,
        },
    }
    if paper:
        fields["paper"] = {
            "citation": f"Citation {word}",
            "place": f"Table {word}",
            "caveats": [f"Caveat {word}"],
            "figures": [
                {"model": "convirt", "title": f"Reported {word}", "figures": {"f1_macro": 0.123}, "note": f"N {word}"},
                {"model": "lumbarclip-vit", "title": "Range", "figures": {"f1_macro": [0.111, 0.222]}},
                {"model": "unknown", "title": "Elsewhere", "figures": {"roc_auc": 0.321}, "computed": True},
            ],
        }
    estimate = Estimate(value=-0.05, low=-0.09, high=-0.01, n=270, n_patients=45)
    some = next(r for r in results if r.spec.model == "convirt")
    return ExperimentRecord(
        experiment=Experiment.model_validate(fields),
        preset="quick",
        runs=(Ran(name="one", title=f"One {word}", record=run, cells=tuple(results), leaderboard="one/index.html"),),
        differences=(
            Difference(
                model="convirt",
                title=some.title,
                alike={"head": "linear-64", "regime": "full", "run": "one"},
                axis="augmentation",
                value="eda",
                base="none",
                column={"metric": "roc_auc"},
                seeds=1,
                paired=True,
                estimate=estimate,
            ),
        ),
        by_class={
            some.id: tuple(
                Measurement(
                    evaluator="probe_standard",
                    space="pooled",
                    metric=f"{rate}: {name}",
                    estimate=Estimate(value=0.5, n=270, n_patients=45),
                )
                for rate in ("recall", "precision")
                for name in ("No finding", word)
            )
        },
    )


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    return build(record(), tmp_path_factory.mktemp("page")).read_text(encoding="utf-8")


def test_reported_figures_stand_in_lines_of_their_own_that_say_so(html):
    """Every line is of one kind, and a reported figure occurs in no measured line."""
    lines = re.findall(r'<tr class="(measured|reported|computed)">(.*?)</tr>', html, flags=re.DOTALL)
    of_kind = {kind: [body for k, body in lines if k == kind] for kind in ("measured", "reported", "computed")}
    assert (len(of_kind["reported"]), len(of_kind["computed"])) == (2, 1)
    assert "0.123" in of_kind["reported"][0]
    assert "0.111–0.222" in of_kind["reported"][1]
    assert not any("0.123" in body or "0.321" in body for body in of_kind["measured"])
    assert all('<span class="source">reported</span>' in body for body in of_kind["reported"])


def test_lines_of_a_model_stand_together_the_papers_models_first_and_yardsticks_last():
    page = make_experiment_page(record())
    assert [group.title for group in page.groups] == [
        "ConVIRT plain",
        "LumbarCLIP ViT",
        "Elsewhere",
        "LumbarCLIP ResNet-50",
        "LumbarCLIP Swin",
        "Majority class",
        "Metadata only",
        "TF-IDF on the report",
    ]
    assert page.groups[0].lines[-1].kind == "reported"
    assert [line.kind for line in page.groups[2].lines] == ["computed"]


def test_columns_without_a_figure_are_left_out_and_the_primary_one_has_its_name():
    page = make_experiment_page(record())
    assert [column.metric for column in page.columns] == ["roc_auc", "f1_macro"]


def test_measured_figures_are_those_of_the_results_with_their_interval(html):
    _, results = DEMO["demo"]()
    done = [r for r in results if r.status == "done"]
    for result in done:
        (found,) = [
            m.estimate
            for m in result.measurements
            if (m.evaluator, m.metric) == ("probe_standard", "f1_macro") and m.space == result.primary_space
        ]
        assert f"{found.value:.3f}<small>{found.low:.3f}–{found.high:.3f}</small>" in html


def test_a_difference_has_its_sign_interval_and_is_marked_where_it_is_clear(html):
    assert re.search(r'class="number +clear" title="270 samples of 45 patients">−0.050<small>−0.090 to −0.010<', html)
    assert "eda less none" in html


def test_small_models_and_the_runs_own_notices_come_first(html):
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "Small models" in text
    assert text.index("Small models") < text.index("Synthetic data") < text.index("Reported and measured")
    assert "LB004" in text
    assert 'href="one/index.html"' in html


def test_the_chart_draws_single_reported_figures_hollow_and_no_range(html):
    chart = html[html.index("<svg") : html.index("</svg>")]
    assert "reported: 0.123" in chart
    assert "0.111" not in chart
    assert ">reported<" in chart


def test_rows_without_a_place_on_the_axis_are_dotted_lines():
    page = make_experiment_page(record(chart="head"))
    assert page.chart_lines == ("Majority class", "Metadata only", "TF-IDF on the report")


def test_without_a_paper_nothing_is_called_reported(tmp_path):
    html = build(record(paper=False), tmp_path).read_text(encoding="utf-8")
    body = html[html.index("<body>") :]
    assert "eported" not in body
    assert "Hollow" not in body


def test_everything_is_escaped_and_no_script_is_in_the_page_nor_allowed(tmp_path):
    html = build(record(HOSTILE), tmp_path).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "script-src" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "SECRET-TRACEBACK" not in html
    assert "SECRET-TRACEBACK" not in (tmp_path / "experiment.json").read_text()
    assert not re.search(r'(?:src|href)="https?:', html)


def test_no_id_is_used_twice_with_several_runs(tmp_path):
    one = record()
    two = one.runs[0].model_copy(update={"name": "two"})
    html = build(one.model_copy(update={"runs": (one.runs[0], two)}), tmp_path).read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "one · full" in html


def test_files_beside_the_page_hold_the_same_and_are_the_same_every_time(tmp_path):
    first, second = build(record(), tmp_path / "a").parent, build(record(), tmp_path / "b").parent
    for name in ("index.html", "experiment.csv", "experiment.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    rows = list(csv.DictReader(io.StringIO((first / "experiment.csv").read_text())))
    assert {row["kind"] for row in rows} == {"measured", "reported", "computed", "difference"}
    (difference,) = [row for row in rows if row["kind"] == "difference"]
    assert (difference["augmentation"], difference["less"], difference["value"]) == ("eda", "none", "-0.05")
    again = ExperimentRecord.model_validate_json((first / "experiment.json").read_text())
    assert again.experiment == record().experiment
