"""The page says what the results say, ranks honestly, escapes everything, and is the same every time."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmark.evaluate.analysis import on_validation
from benchmark.result import CellResult, RunRecord, SplitRecord
from leaderboards import columns
from leaderboards.build import build
from leaderboards.columns import compact, find, plus
from leaderboards.view import Row, make_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))
HOSTILE, HOSTILE_ATTRIBUTE = DEMO["HOSTILE"], DEMO["HOSTILE_ATTRIBUTE"]


@pytest.fixture(scope="module")
def demo() -> tuple[RunRecord, list[CellResult]]:
    return DEMO["demo"]()


@pytest.fixture(scope="module")
def site(demo, tmp_path_factory) -> Path:
    run, results = demo
    return build(run, results, tmp_path_factory.mktemp("site"), analysis=DEMO["analysis"](results)).parent


@pytest.fixture(scope="module")
def html(site) -> str:
    return (site / "index.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """All start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = False
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag) -> None:
        self._skip = False

    def handle_data(self, data) -> None:
        self.text += "" if self._skip else f" {data}"


def words(html: str) -> str:
    return " ".join(Tags(html).text.split())


def by_title(rows: tuple[Row, ...], title: str) -> list[Row]:
    return [row for row in rows if row.result.title == title]


def changed(result: CellResult, **values: object) -> CellResult:
    """A result with other values in its specification, under the id that belongs to them."""
    spec = result.spec.model_copy(update=values)
    return result.model_copy(update={"spec": spec, "id": spec.id})


# ------------------------------------------------------------------------------------------ choosing, ranking


def test_best_variant_is_the_best_on_validation_not_on_test(demo):
    """One row per model, whose validation figure no sibling beats; the demo has a sibling that is better on test."""
    run, results = demo
    page = make_page(run, results)
    assert len(page.best.ranked) == 4
    on_test_better = 0
    for row in page.best.ranked:
        siblings = by_title(page.everything.ranked, row.result.title)
        assert on_validation(row.result, "roc_auc") == max(s.result.fits["selection"]["value"] for s in siblings)
        on_test_better += any(s.value > row.value for s in siblings)
    assert on_test_better, "the demo must be able to tell the two ways of choosing apart"


def test_without_validation_figures_every_variant_is_shown(demo):
    """A model with one variant that has no validation figure is not given a best row, and the page says so."""
    run, results = demo
    results = [
        r.model_copy(update={"fits": {}}) if r.spec.model == "convirt" and r.spec.regime == "frozen" else r
        for r in results
    ]
    page = make_page(run, results)
    assert page.unchosen == ("ConVIRT",)
    assert len(by_title(page.best.ranked, "ConVIRT")) == len(by_title(page.everything.ranked, "ConVIRT")) > 1
    assert len(by_title(page.best.ranked, "LumbarCLIP ViT")) == 1


@pytest.mark.parametrize("selection", [{"metric": "roc_auc", "value": None}, {"metric": "accuracy", "value": 0.9}])
def test_undefined_or_foreign_validation_figures_choose_nothing(demo, selection):
    """A validation figure that is undefined, or of another metric, is no ground for a choice."""
    run, results = demo
    page = make_page(run, [r.model_copy(update={"fits": {"selection": selection}}) for r in results])
    assert len(page.unchosen) == 4
    assert page.best.ranked == page.everything.ranked


def test_ranks_follow_the_test_figure_and_skip_what_does_not_read_the_picture(demo):
    """Ranks are 1..n by descending figure; references have none, though one of them has the highest figure."""
    page = make_page(*demo)
    values = [row.value for row in page.everything.ranked]
    assert values == sorted(values, reverse=True)
    assert [row.rank for row in page.everything.ranked] == list(range(1, len(values) + 1))
    assert {row.reads for row in page.everything.references} == {"nothing", "structured", "text"}
    assert all(row.rank is None for row in page.everything.references)
    assert page.everything.references[0].value > values[0]


def test_equal_figures_share_a_rank_and_undefined_ones_have_none(demo):
    """Two equal rows are both first, the next is third, and a row without a figure comes last without a rank."""
    run, results = demo
    first, second, third = [r for r in results if r.spec.model == "convirt"][:3]
    metric = find(first, "probe_standard", "roc_auc")
    lower = metric.model_copy(update={"estimate": metric.estimate.model_copy(update={"value": 0.1})})
    rows = [
        first.model_copy(update={"measurements": (metric,)}),
        second.model_copy(update={"measurements": (metric,)}),
        third.model_copy(update={"measurements": (lower,)}),
        changed(first, seed=9).model_copy(update={"measurements": ()}),
    ]
    assert [row.rank for row in make_page(run, rows).everything.ranked] == [1, 1, 3, None]


# ------------------------------------------------------------------------------------------ what is said


@pytest.mark.parametrize(
    ("weights", "regime", "label"),
    [
        ("random:0", "frozen", "random weights, untrained"),
        ("random:0", "heads", "random towers, trained heads"),
        ("random:0", "full", "trained from scratch on the train split"),
        ("5f2b", "frozen", "pretrained, as released"),
        ("5f2b", "heads", "pretrained towers, trained heads"),
        ("5f2b", "full", "pretrained, trained on the train split"),
        ("none", "frozen", "no encoder"),
    ],
)
def test_every_row_says_where_its_weights_come_from(demo, weights, regime, label):
    """The label tells random from pretrained weights and trained from untrained ones."""
    run, results = demo
    row = make_page(run, [changed(results[5], weights=weights, regime=regime)]).rows[0]
    assert row.weights == label
    assert row.untrained == (label == "random weights, untrained")


def test_random_weights_are_announced_with_their_number(demo):
    """The notice counts untrained rows among the random ones, and is absent where all weights are published."""
    run, results = demo
    notice = next(n for n in make_page(run, results).notices if n.title == "Random weights")
    assert "4 of their 35 rows are untrained" in notice.text
    untrained = [r for r in results if r.spec.random_weights and r.spec.regime == "frozen"]
    notice = next(n for n in make_page(run, untrained).notices if n.title == "Random weights")
    assert "none of their rows is trained" in notice.text
    published = [changed(r, weights="5f2b") if r.spec.random_weights else r for r in results]
    assert "Random weights" not in {n.title for n in make_page(run, published).notices}


def test_everything_that_weakens_the_figures_is_announced(demo, tmp_path):
    """Synthetic data, audit, grouping, missing texts, exclusions, failures, unfinished runs: each has a notice."""
    run, results = demo
    left = {"zero_shot": "no projection", "retrieval": "there are no encoded reports"}
    results = [r.model_copy(update={"left_out": left}) for r in results]
    split = SplitRecord.model_validate(run.split.model_dump() | {"grouped_by": "identical picture"})
    dataset = run.dataset.model_copy(update={"has_reports": False, "exclusions": {"truncated file": 12}})
    run = run.model_copy(update={"split": split, "dataset": dataset, "cells": (*run.cells, "not-run-yet")})
    index = build(run, results, tmp_path)
    text = words(index.read_text(encoding="utf-8"))
    for said in (
        "39 of 40 planned rows have a result",
        "1 row failed. Of ConVIRT.",
        "A program drew these pictures.",
        "No patient ids, so the split may leak",
        "no model is trained on pairs. Left out: zero-shot, retrieval.",
        "12 samples left out truncated file (12).",
        "LB004, the report alone determines the label",
    ):
        assert said in text
    text = words(index.with_name("data.html").read_text(encoding="utf-8"))
    assert "LB004 warning 1,712 the report alone determines the label" in text
    assert "read rows that score the report as a ceiling" in text
    assert "12 truncated file" in text


def test_notices_are_absent_where_there_is_nothing_to_say(demo):
    """A finished run of published weights on real, clean, grouped data with reports has no notice."""
    run, results = demo
    done = [changed(r, weights="5f2b") if r.spec.random_weights else r for r in results if r.status == "done"]
    run = run.model_copy(update={"audit": (), "cells": tuple(r.id for r in done)})
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"synthetic": False})})
    assert make_page(run, done).notices == ()


def test_what_has_no_figure_no_interval_or_no_naive_row_beside_it_is_announced(demo):
    """Undefined figures and missing intervals are given with their reason, and so is the absence of naive rows."""
    run, results = demo
    row = next(r for r in results if r.spec.regime == "full" and r.status == "done")

    def with_estimate(**values):
        measurements = tuple(
            m.model_copy(update={"estimate": m.estimate.model_copy(update=values)}) for m in row.measurements
        )
        return {
            n.title: n.text for n in make_page(run, [row.model_copy(update={"measurements": measurements})]).notices
        }

    undefined = with_estimate(value=math.nan, why_undefined="no test sample is 'mild'")
    assert "no test sample is 'mild'" in undefined["The figure that rows are ranked by is undefined"]
    bare = with_estimate(low=math.nan, high=math.nan, why_undefined="no interval: undefined in 14% of the resamples")
    assert bare["No interval"] == "1 row: undefined in 14% of the resamples."
    assert "No naive rows" in bare


def test_ties_rank_intervals_skill_and_seeds_have_their_places(html):
    """Each is printed where the analysis has it, and the row that skill is measured from says so."""
    text = words(html)
    assert text.count("tied") >= 2
    assert text.count("skill is measured from here") == 2  # in both tables
    assert "not shown, p 0.30" in text
    assert "1 1–4 tied LumbarCLIP Swin" in text
    assert "0.012 3 seeds" in text


def test_data_protocol_and_hardware_are_stated(html, site):
    """Counts per part, class balance, task, fingerprint, primary metric, time and hardware are on the pages."""
    for said in ("Lumbar phantom", "has the highest ROC AUC", "270 test pictures of 45 patients", "AMD EPYC 7763"):
        assert said in words(html)
    text = words((site / "data.html").read_text(encoding="utf-8"))
    for said in (
        "binary, 2 classes; positive: Low back pain",
        "8f14e45fceea",
        "2025-01-31 09:30 UTC",
        "AMD EPYC 7763",
        "train 1,260 210 504 40% 756 60%",
        "test 270 45 102 38% 168 62%",
    ):
        assert said in text


def test_undefined_figures_are_a_dash_with_the_reason(demo, html):
    """A metric that is NaN, or an evaluator that was left out, prints a dash whose title says why, and never 0."""
    run, results = demo
    page = make_page(run, results)
    row = next(row for row in page.everything.ranked if row.result.id == results[4].id)
    mcc = row.figures["probe_standard-mcc"]
    assert (mcc.text, mcc.sort) == ("—", None)
    assert mcc.title == "undefined: the prediction never names one class"
    majority = by_title(page.everything.references, "Majority class")[0]
    assert majority.figures["retrieval-recall@5_image_to_text"].title == "no text encoder"
    assert majority.figures["images_per_s"].title == "no encoder to measure"
    assert 'data-v="" title="undefined: the prediction never names one class">—</td>' in html


def test_rows_show_their_primary_space(demo):
    """Where a row was measured in two spaces, the figure shown is that of the space it is ranked by."""
    run, results = demo
    result = next(r for r in results if r.spec.regime == "heads")
    row = make_page(run, [result]).rows[0]
    values = {
        m.space: m.estimate.value
        for m in result.measurements
        if m.metric == "roc_auc" and m.evaluator == "probe_standard"
    }
    assert values["pooled"] != values["projected"]
    assert row.value == values["projected"]


def test_figures_at_the_validation_threshold_stand_in_a_group_of_their_own(demo, html):
    """Beside the 0.5 figures, hidden at first, and saying what decides; no column where no row has such figures."""
    run, results = demo
    page = make_page(run, results)
    keys = [column.key for column in page.columns if column.group == "threshold"]
    assert keys == ["probe_standard-balanced_accuracy@val_threshold", "probe_standard-specificity@val_threshold"]
    for key in keys:
        (head,) = {re.search(r'title="([^"]*)"', found)[1] for found in re.findall(f'data-key="{key}".*?</th>', html)}
        assert "above a threshold chosen on validation samples" in head
    style = Path(columns.__file__).with_name("static").joinpath("style.css").read_text(encoding="utf-8")
    for group in columns.GROUPS:
        assert f'.board:not(.show-{group}) [data-g="{group}"]' in style


def test_failed_cells_are_listed_with_their_message_alone(html, site):
    """The error sentence is on the page; no traceback is, nor in the JSON beside it."""
    assert "the training loss is not finite at step 12" in words(html)
    assert "SECRET-TRACEBACK" not in html
    assert "SECRET-TRACEBACK" not in (site / "leaderboard.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/home/annabel7/studies/w.pt does not fit", "w.pt does not fit"),
        ("no 'C:\\Users\\annabel7\\w.pt' here", "no 'w.pt' here"),
        ("images/s and 1/2 and https://host/a/b stay", "images/s and 1/2 and https://host/a/b stay"),
    ],
)
def test_folders_of_this_machine_are_not_published(demo, tmp_path, message, shown):
    """Of a path in an error message only the last part is in the page and in the JSON."""
    run, results = demo
    broken = next(r for r in results if r.failure)
    broken = broken.model_copy(update={"failure": broken.failure.model_copy(update={"message": message})})
    page = build(run, [broken], tmp_path)
    assert shown in words(page.read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "leaderboard.json").read_text())["cells"][0]["failure"]["message"] == shown
    assert "annabel7" not in words(page.read_text(encoding="utf-8"))


def test_variants_that_were_not_run_are_listed(html):
    """Collapsed and impossible variants stand on the page with their reasons."""
    text = words(html)
    assert "frozen / eda / linear-64 the same as frozen / none / none" in text
    assert "clip: full / none / linear-64 this model passes no gradients" in text


@pytest.mark.parametrize(
    ("task", "metric", "label"),
    [
        ("multiclass", "roc_auc_ovr_macro", "ROC AUC (one-vs-rest, macro)"),
        ("multilabel", "roc_auc_macro", "ROC AUC (macro)"),
    ],
)
def test_other_tasks_are_ranked_by_their_own_metric(demo, tmp_path, task, metric, label):
    """The primary metric follows the task, and columns without a measurement are not shown."""
    run, results = demo
    renamed = [
        r.model_copy(
            update={
                "measurements": tuple(
                    m.model_copy(update={"metric": metric}) if m.metric == "roc_auc" else m
                    for m in r.measurements
                    if m.metric != "average_precision"
                ),
                "fits": {"selection": {"metric": metric, "value": 0.5}},
            }
        )
        for r in results
    ]
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"task": task, "positive_class": None})})
    page = make_page(run, renamed)
    assert page.metric == label
    assert page.everything.ranked[0].value == make_page(*demo).everything.ranked[0].value
    assert not any("average_precision" in column.key for column in page.columns)
    assert f"has the highest {label}" in words(build(run, renamed, tmp_path).read_text(encoding="utf-8"))


def test_intervals_stand_on_one_scale(demo):
    """Bars of all rows share a scale of whole tenths that holds every interval, in the order low, value, high."""
    page = make_page(*demo)
    low, high = page.scale
    assert (low * 10, high * 10) == (pytest.approx(round(low * 10)), pytest.approx(round(high * 10)))
    for row in page.rows:
        assert 0 <= row.bar.low <= row.bar.value <= row.bar.high <= 100
        assert row.bar.value == pytest.approx(100 * (row.value - low) / (high - low), abs=0.06)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0421, "0.042"),
        (7.12, "7.1"),
        (99.96, "100.0"),
        (812.0, "812"),
        (1240.4, "1,240"),
        (25_600_000, "25.6 M"),
        (3e9, "3 G"),
    ],
)
def test_numbers_of_any_size_are_short(value, text):
    """Costs span nine orders of magnitude and stay readable."""
    assert compact(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "+0.012"), (-0.0123, "−0.012"), (-0.0003, "0.000"), (0.0, "0.000"), (-0.0006, "−0.001")],
)
def test_differences_have_a_sign_unless_they_round_to_nothing(value, text):
    assert plus(value) == text


# ------------------------------------------------------------------------------------------ files


def test_csv_has_one_line_per_measurement(demo, site):
    """Every measurement of every finished cell is a line, with its value to full precision."""
    _, results = demo
    lines = list(csv.DictReader(io.StringIO((site / "leaderboard.csv").read_text(encoding="utf-8"))))
    assert len(lines) == sum(len(r.measurements) for r in results)
    measured = [m for r in results for m in r.measurements]
    assert [line["metric"] for line in lines] == [m.metric for m in measured]
    assert [float(line["value"] or "nan") for line in lines] == pytest.approx(
        [m.estimate.value for m in measured], rel=1e-12, nan_ok=True
    )


def test_json_reads_back_as_the_results(demo, site):
    """It is strict JSON, holds the run and one object per cell, and undefined figures are null."""
    run, results = demo

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((site / "leaderboard.json").read_text(encoding="utf-8"), parse_constant=reject)
    assert RunRecord.model_validate(read["run"]) == run
    assert [cell["id"] for cell in read["cells"]] == [r.id for r in results]
    undefined = [m for m in read["cells"][4]["measurements"] if m["metric"] == "mcc"]
    assert undefined[0]["estimate"]["value"] is None


def test_same_results_give_the_same_bytes_in_any_order(demo, site, tmp_path):
    """Every file, byte by byte, though the results are handed over backwards."""
    run, results = demo
    build(run, results[::-1], tmp_path, analysis=DEMO["analysis"](results))
    names = sorted(file.name for file in site.iterdir())
    assert names == sorted(file.name for file in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (site / name).read_bytes(), name


def test_a_run_without_figures_still_has_a_page(demo, tmp_path):
    """Nothing measured, everything failed: a page that says so, and no chart."""
    run, results = demo
    html = build(run, [], tmp_path / "nothing").read_text(encoding="utf-8")
    assert "No row with figures." in html
    assert "<svg" not in html
    failed = [r for r in results if r.status == "failed"]
    assert "1 row failed" in build(run, failed, tmp_path / "failed").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ safety


PAGES = ("index.html", "ablation.html", "data.html", "protocol.html", "reported.html", "model-convirt.html")


def pages(site: Path) -> dict[str, str]:
    return {page.name: page.read_text(encoding="utf-8") for page in sorted(site.glob("*.html"))}


def test_the_site_has_its_pages(site):
    """One page a model, and those that every page leads to."""
    assert set(PAGES) <= set(pages(site))


@pytest.mark.parametrize(
    "file", ["index.html", "ablation.html", "data.html", "protocol.html", "reported.html", "model-convirt.html"]
)
def test_page_is_self_contained(site, file):
    """No element loads anything, every link is within the site and leads somewhere, no address of any host appears."""
    html = pages(site)[file]
    for tag, attributes in Tags(html).tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert (attributes.get("src") or "data:").startswith("data:")
        href = attributes.get("href") or attributes.get("xlink:href") or "#"
        target, _, place = href.partition("#")
        assert href.startswith("data:,") or (site / (target or file)).name == (target or file)
        assert href.startswith("data:,") or (site / (target or file)).is_file()
        assert not place or tag == "use" or f'id="{place}"' in pages(site)[target or file]
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", html)


def test_folders_of_this_machine_are_on_no_page(demo, tmp_path):
    """Options of a plug-in may name a folder; pages and files show its last part."""
    run, results = demo
    config = run.config | {"augmentation_options": {"mllm": {"prompts": "/home/someone/secret/prompts.txt"}}}
    build(run.model_copy(update={"config": config}), results, tmp_path)
    for file in tmp_path.iterdir():
        assert "someone" not in file.read_text(encoding="utf-8"), file.name
    assert "prompts.txt" in (tmp_path / "protocol.html").read_text(encoding="utf-8")


def test_policy_allows_the_one_script_and_nothing_else(html):
    """The content security policy carries the hash of the script as it stands in the page."""
    policy = next(a["content"] for t, a in Tags(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not any(name.startswith("on") for _, attributes in Tags(html).tags for name in attributes)


@pytest.mark.parametrize(
    "name", [HOSTILE, HOSTILE_ATTRIBUTE, "{{ 7 * 7 }}", "</script></style></svg>", "日本 $x^$ & <b>"]
)
def test_hostile_names_are_text_everywhere(demo, tmp_path, name):
    """A hostile dataset, class, model, plug-in, reason or message adds no element and shows as it is written."""
    run, results = demo
    results = [
        changed(r, model=f"{r.spec.model}{name}", augmentation=name, weights=name).model_copy(
            update={"title": f"{r.title} {name}", "left_out": {name: name}} | ({"inputs": (name,)} if i == 0 else {})
        )
        for i, r in enumerate(results[:8])
    ]
    plain_tags = tag_counts(build(*plain(run, results, name), tmp_path / "plain"))
    hostile_run = RunRecord.model_validate(
        json.loads(run.model_dump_json().replace("Low back pain", json.dumps(name)[1:-1]))
    )
    hostile_run = hostile_run.model_copy(
        update={
            "name": name,
            "dataset": hostile_run.dataset.model_copy(update={"name": name, "licence": name, "citation": name}),
            "audit": tuple(f.model_copy(update={"message": name, "remedy": name}) for f in run.audit),
            "collapsed": {name: name},
            "impossible": {name: name},
            "provenance": {"hardware": name, "packages": {name: name}, "python": name, "commit": name},
            "config": {"preset": name, "evaluation": {name: name, "replicates": 100}},
        }
    )
    index = build(hostile_run, results, tmp_path / "hostile")
    assert tag_counts(index) == plain_tags
    for file in ("index.html", "data.html", "protocol.html"):
        assert name.strip() in words(index.with_name(file).read_text(encoding="utf-8"))


def plain(run: RunRecord, results: list[CellResult], name: str) -> tuple[RunRecord, list[CellResult]]:
    """The same shape of run with a harmless name."""

    def harmless(text: str) -> str:
        return text.replace(json.dumps(name, ensure_ascii=False)[1:-1], "harmless")

    cells = [CellResult.model_validate_json(harmless(r.model_dump_json())) for r in results]
    run = run.model_copy(
        update={
            "dataset": run.dataset.model_copy(update={"citation": "harmless"}),
            "audit": tuple(f.model_copy(update={"remedy": "harmless"}) for f in run.audit),
            "provenance": {"hardware": "harmless", "packages": {"a": "1"}, "python": "3", "commit": "0"},
        }
    )
    return run, cells


def tag_counts(index: Path) -> dict[str, int]:
    """How often each element that could do something occurs; drawing elements depend on the lengths of names."""
    tags = [tag for tag, _ in Tags(index.read_text(encoding="utf-8")).tags]
    drawn = {"g", "path", "use", "text", "defs", "rect"}
    return {tag: tags.count(tag) for tag in sorted(set(tags) - drawn)}


def test_demo_is_what_the_tests_take_it_for(demo):
    """The demo itself is what the tests above take it for: seven models, one failure, one undefined metric."""
    run, results = demo
    assert len({r.spec.model for r in results}) == 7
    assert len(run.cells) == len(set(run.cells)) == len(results) == 39
    assert sum(r.status == "failed" for r in results) == 1
    undefined = [m for r in results for m in r.measurements if math.isnan(m.estimate.value)]
    assert [m.metric for m in undefined] == ["mcc"]


def test_negative_figures_have_a_minus_sign_and_sort_as_numbers(demo):
    """A correlation below zero is printed with a minus, not a hyphen, and keeps its value for sorting."""
    run, results = demo
    mcc = DEMO["measure"]("probe_standard", "mcc", -0.25)
    shown = (
        make_page(run, [results[5].model_copy(update={"measurements": (mcc,)})]).rows[0].figures["probe_standard-mcc"]
    )
    assert (shown.text, shown.sort) == ("−0.250", -0.25)
