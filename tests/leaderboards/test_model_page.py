"""A model's page says what the model is and is not, shows pictures only where it may, and escapes everything."""

from __future__ import annotations

import base64
import io
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmark.result import CellResult, Maps, RunRecord
from leaderboards import pictures
from leaderboards.build import build
from leaderboards.view import page_name

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))
HOSTILE, HOSTILE_ATTRIBUTE = DEMO["HOSTILE"], DEMO["HOSTILE_ATTRIBUTE"]


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

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def words(html: str) -> str:
    return " ".join(Tags(html).text.split())


@pytest.fixture(scope="module")
def demo() -> tuple[RunRecord, list[CellResult]]:
    return DEMO["demo"]()


@pytest.fixture(scope="module")
def maps(demo) -> dict[str, Maps]:
    return DEMO["maps"](demo[1])


@pytest.fixture(scope="module")
def few(demo) -> tuple[RunRecord, list[CellResult]]:
    """Two models with a row that has maps each: what is quick to draw."""
    run, results = demo
    kept = [r for r in results if r.spec.model in ("convirt", "lumbarclip-vit") and r.spec.head == "mlp-64"]
    return run, [r for r in kept if r.spec.regime == "heads" and r.spec.augmentation == "none"]


@pytest.fixture(scope="module")
def site(demo, maps, tmp_path_factory) -> Path:
    return build(*demo, tmp_path_factory.mktemp("site"), maps).parent


@pytest.fixture(scope="module")
def html(site) -> str:
    return (site / "model-lumbarclip-vit.html").read_text(encoding="utf-8")


def published(run: RunRecord, results: list[CellResult]) -> tuple[RunRecord, list[CellResult]]:
    """The demo at paper scale, from published weights, on data that nobody drew."""
    cells = [
        r.model_copy(update={"spec": r.spec.model_copy(update={"scale": "paper", "weights": "5f2b"})})
        if r.spec.random_weights
        else r
        for r in results
    ]
    return run.model_copy(update={"dataset": run.dataset.model_copy(update={"synthetic": False})}), cells


# ------------------------------------------------------------------------------------------ what it says


def test_every_model_has_a_page_that_is_linked_from_the_leaderboard_and_back(demo, site):
    linked = {a.get("href") for t, a in Tags((site / "index.html").read_text()).tags if t == "a"}
    pages = {file.name for file in site.glob("model-*.html")}
    assert pages == {f"model-{r.spec.model}.html" for r in demo[1]}
    assert pages <= linked
    for page in pages:
        assert "index.html" in {a.get("href") for t, a in Tags((site / page).read_text()).tags if t == "a"}


def test_a_tiny_random_model_cannot_be_taken_for_the_published_one(demo, html, site):
    """In the window's title, the heading, a notice, each row of the leaderboard and the names in its charts."""
    mark = "tiny, randomly initialised"
    assert f"<title>LumbarCLIP ViT ({mark}) on Lumbar phantom</title>" in html
    text = words(html)
    assert f"LumbarCLIP ViT {mark} As published: What the card says of LumbarCLIP ViT." in text
    assert "Tiny, randomly initialised: nothing on this page speaks about the published model." in text
    assert "published training data is not true of this model" in text
    index = (site / "index.html").read_text(encoding="utf-8")
    encoders = [r for r in demo[1] if r.status == "done" and r.spec.start != "none"]
    assert index.count(f">{mark}</span>") == len(encoders) + 4  # every row, and the best of each of four models
    assert "LumbarCLIP ViT (tiny)" in re.sub(r"<table.*?</table>", "", index, flags=re.DOTALL)


def test_a_published_model_carries_no_such_mark(few, tmp_path):
    folder = build(*published(*few), tmp_path).parent
    for page in folder.glob("*.html"):
        text = words(page.read_text(encoding="utf-8"))
        assert "nothing on this page speaks about" not in text
        assert "(tiny)" not in text
        assert "randomly initialised" not in text


def test_variants_stand_with_figures_and_intervals_and_how_they_were_made(demo, html):
    text = words(html)
    rows = [r for r in demo[1] if r.spec.model == "lumbarclip-vit"]
    primary = [
        next(m.estimate for m in r.measurements if m.metric == "roc_auc" and m.space == r.primary_space) for r in rows
    ]
    assert len(rows) == 9
    for estimate in primary:
        assert f"{estimate.value:.3f} {estimate.low:.3f}–{estimate.high:.3f}" in text
    for said in (
        "Paper A paper, 2025",
        "Parameters here 86.4 M",
        "Preprocessing size 64, fit pad",
        "Weights random:0",
        "Hardware AMD EPYC 7763",
        "heads · linear-64 · eda · seed 0: from 4.800 to 3.900",
        "0.070",
        "0.031",
        "0.620",
        "over 270 test pictures of 45 patients",
    ):
        assert said in text, said


def test_a_run_without_cards_says_that_none_was_recorded(few, tmp_path):
    """``run.json`` of earlier versions has no cards in it."""
    run, results = few
    old = RunRecord.model_validate({k: v for k, v in run.model_dump().items() if k != "models"})
    folder = build(old, results, tmp_path).parent
    text = words((folder / "model-convirt.html").read_text(encoding="utf-8"))
    assert "Card not recorded by the version that ran this" in text
    assert "none were recorded; 'run --fresh' makes them" in text


def test_a_model_that_only_failed_has_a_page_with_the_reason(demo, tmp_path):
    run, results = demo
    broken = next(r for r in results if r.failure)
    folder = build(run, [broken], tmp_path).parent
    text = words((folder / "model-convirt.html").read_text(encoding="utf-8"))
    assert "the training loss is not finite at step 12" in text
    assert "SECRET-TRACEBACK" not in text


# ------------------------------------------------------------------------------------------ pictures


def test_maps_lie_over_the_pictures_with_words_for_those_who_do_not_see_them(html, maps):
    page = Tags(html)
    first = next(iter(maps.values()))
    shown = page.images()
    assert len(shown) == 8 * 3  # variants, phrases
    assert all(image["src"].startswith("data:image/png;base64,") for image in shown)
    row, column = np.unravel_index(first.pictures[0].maps[1].argmax(), (4, 4))
    said = f"Map of “mild canal stenosis”: nearest at row {row + 1}, column {column + 1} of 4 x 4 cells; cosines from "
    assert shown[1]["alt"].startswith(said)
    seen = Image.open(io.BytesIO(base64.b64decode(re.search(r"seen-0 \{ background-image: url\(.*?,(.*?)\)", html)[1])))
    np.testing.assert_array_equal(np.asarray(seen), first.pictures[0].shown)
    assert html.count(pictures.address(first.pictures[0].shown)) == 1  # drawn once for all maps of all variants


def test_the_colour_scale_is_that_of_all_maps_of_a_picture():
    values = np.array([[-0.2, 0.1], [0.4, 0.4]])
    drawn = pictures.overlay(values, -0.2, 0.4)
    scale = pictures.legend()[0]
    assert drawn[0, 0].tolist() == scale[0].tolist()
    assert drawn[1, 0].tolist() == drawn[1, 1].tolist() == scale[-1].tolist()
    assert (pictures.overlay(np.full((2, 2), 0.3), 0.3, 0.3) == scale[0]).all()


def test_an_outline_is_the_edge_of_its_region():
    region = np.zeros((5, 5), dtype=bool)
    region[1:4, 1:4] = True
    drawn = pictures.outline(region)[..., 3] > 0
    assert drawn.sum() == 8
    assert not drawn[2, 2]


def test_pages_of_real_data_show_no_picture_and_no_phrase_unless_the_run_was_asked_to(few, maps, tmp_path):
    """Even where maps are handed over: a page is published, and the run's own word counts."""
    run, results = few
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"synthetic": False})})
    folder = build(run, results, tmp_path, maps).parent
    for page in folder.glob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert "data:image" not in html
        assert "mild canal stenosis" not in html
    assert "this run keeps no pictures of its data; 'run --include-images --fresh' does" in words(
        (folder / "model-lumbarclip-vit.html").read_text(encoding="utf-8")
    )
    asked = run.model_copy(update={"config": run.config | {"include_images": True}})
    build(asked, results, tmp_path, maps)
    assert "mild canal stenosis" in (folder / "model-lumbarclip-vit.html").read_text(encoding="utf-8")
    build(run, results, tmp_path, maps)
    assert "data:image" not in (folder / "model-lumbarclip-vit.html").read_text(encoding="utf-8")


def test_pages_of_models_that_are_gone_are_removed_and_files_of_others_are_not(few, tmp_path):
    run, results = few
    build(run, results, tmp_path)
    (tmp_path / "model-of-mine.html").write_text("<p>not one of ours</p>")
    build(run, [r for r in results if r.spec.model != "convirt"], tmp_path)
    assert not (tmp_path / "model-convirt.html").exists()
    assert (tmp_path / "model-of-mine.html").exists()


# ------------------------------------------------------------------------------------------ safety


@pytest.mark.parametrize("name", [HOSTILE, HOSTILE_ATTRIBUTE, "{{ 7 * 7 }}", "</style></svg>", "日本 $x^$ & <b>"])
def test_hostile_names_phrases_and_reasons_are_text(few, tmp_path, name):
    """They add no element, show as they are written, and are no part of a file name."""
    run, results = few

    def site(text: str, folder: Path) -> tuple[str, Path]:
        model = f"convirt{text}"
        cells = [
            r.model_copy(
                update={
                    "spec": r.spec.model_copy(
                        update={"model": model, "augmentation": text, "weights": f"random:{text}"}
                    ),
                    "title": text,
                    "left_out": {"maps": text},
                    "provenance": {"hardware": text, "model": {"preprocess": {text: [text]}}},
                }
            )
            for r in results
            if r.spec.model == "convirt"
        ]
        card = run.models["convirt"].model_copy(
            update={"title": text, "summary": text, "paper": text, "training_data": text, "weights": (text,)}
        )
        record = run.model_copy(update={"models": {model: card}})
        drawn = DEMO["maps"](cells, phrase=f"canal {text}")
        build(record, cells, folder, drawn)
        (page,) = folder.glob("model-*.html")
        return page.read_text(encoding="utf-8"), page

    html, file = site(name, tmp_path / "hostile")
    harmless, _ = site("harmless", tmp_path / "plain")
    assert tag_counts(html) == tag_counts(harmless)
    assert re.fullmatch(r"model-[a-z0-9-]+\.html", file.name)
    assert f"canal {name}" in words(html)
    assert any(f"canal {name}" in (image["alt"] or "") for image in Tags(html).images())
    assert not any(key.startswith("on") for _, attributes in Tags(html).tags for key in attributes)


def tag_counts(html: str) -> dict[str, int]:
    """How often each element occurs; drawing elements depend on the lengths of names."""
    tags = [tag for tag, _ in Tags(html).tags]
    return {tag: tags.count(tag) for tag in sorted(set(tags) - {"g", "path", "use", "text", "defs", "rect"})}


def test_the_page_allows_no_script_and_names_no_host(html):
    policy = next(a["content"] for t, a in Tags(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "<script" not in html
    without_data = re.sub(r"data:image/png;base64,[\w+/=]+", "", html)
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", without_data)


@pytest.mark.parametrize(
    ("model", "file"), [("biomedclip", "model-biomedclip.html"), ("gloria-benchx", "model-gloria-benchx.html")]
)
def test_plain_names_are_their_own_file_names(model, file):
    assert page_name(model) == file


@given(st.lists(st.text(max_size=90), min_size=2, unique=True))
def test_no_two_names_share_a_page_and_none_leaves_the_folder(names):
    """Compared without case, as some file systems do; names that look like another's file name among them."""
    names = list(dict.fromkeys([*names, *(page_name(name)[6:-5] for name in names)]))
    files = [page_name(name).lower() for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"model-[a-z0-9]+(-[a-z0-9]+)*\.html", file) and len(file) < 90 for file in files)


def test_of_hundreds_of_variants_the_best_and_the_chosen_are_listed(tmp_path):
    run, results = DEMO["many"](1500)
    html = build(run, results, tmp_path).with_name("model-convirt.html").read_text(encoding="utf-8")
    start = html.index('<section id="variants"')
    table = html[start : html.index("</table>", start)]
    assert 100 <= table.count('<th scope="row"') <= 101
    assert table.count(">chosen<") == 1
    rows = sum(r.spec.model == "convirt" and r.status == "done" for r in results)
    assert f"of {rows} are here; the leaderboard has all." in table
