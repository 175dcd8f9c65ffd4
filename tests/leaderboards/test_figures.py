"""The charts draw every point, are told apart without colour, fit into a page, and are the same every time."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from leaderboards.figures import CSS_COLOURS, Point, quality, speed


def point(model: str, value: float, *, regime: str = "frozen", chosen: bool = False, **other: object) -> Point:
    values = {"low": value - 0.05, "high": value + 0.05, "images_per_s": 100.0, "reference": False} | other
    return Point(model=model, regime=regime, value=value, chosen=chosen, **values)


POINTS = [
    point("Alpha", 0.62),
    point("Alpha", 0.71, regime="heads"),
    point("Alpha", 0.74, regime="full", chosen=True),
    point("Beta", 0.81, regime="full", chosen=True, images_per_s=240.0),
    point("Words", 0.95, chosen=True, reference=True, images_per_s=math.nan),
]


def drawn_points(svg: str) -> int:
    """Filled shapes inside the axes; lines are not filled, and the legend is not clipped by the axes."""
    root = ET.fromstring(svg)
    clipped = [shape for shape in root.iter("path") if "clip-path" in shape.attrib]
    clipped += [shape for group in root.iter("g") if "clip-path" in group.attrib for shape in group.findall("use")]
    return sum("fill: var(--" in shape.get("style", "") for shape in clipped)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("text")]


def test_every_variant_is_a_point():
    """As many markers as points, in both charts; references and rows without a speed are not in the second."""
    assert drawn_points(quality(POINTS, metric="ROC AUC", chance=0.5)) == 5
    assert drawn_points(speed(POINTS, metric="ROC AUC")) == 4


def test_models_are_listed_best_first_with_references_last():
    """The order is that of the chosen figures; a reference with the highest figure still comes last."""
    written = texts(quality(POINTS, metric="ROC AUC", chance=0.5))
    assert [text for text in written if text in ("Alpha", "Beta", "Words")] == ["Beta", "Alpha", "Words"]
    assert "chance" in written


def test_chance_is_drawn_only_where_it_is_known():
    """No line and no word for a metric without a chance level."""
    assert "chance" not in texts(quality(POINTS, metric="Brier", chance=math.nan))


def test_regimes_differ_in_colour_and_in_shape():
    """Each regime has a CSS colour of its own and a marker path of its own."""
    root = ET.fromstring(quality(POINTS, metric="ROC AUC", chance=0.5))
    shapes = {path.get("id"): path.get("d") for path in root.iter("path") if path.get("id")}
    in_legend = {
        regime: shapes[use.get("href").removeprefix("#")]
        for use in root.iter("use")
        for regime in ("frozen", "heads", "full")
        if f"fill: var(--{regime})" in use.get("style")
    }
    assert len(in_legend) == len(set(in_legend.values())) == 3


def test_drawing_is_fit_for_inlining():
    """No size, prolog, namespace, font, style element, foreign id or colour that a dark page could not change."""
    charts = {"quality": quality(POINTS, metric="ROC AUC", chance=0.5), "speed": speed(POINTS, metric="ROC AUC")}
    for name, svg in charts.items():
        root = ET.fromstring(svg)
        assert svg.startswith("<svg viewBox=")
        assert "width" not in root.attrib
        assert "http" not in svg
        assert "font-family" not in svg
        assert root.find(".//style") is None
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert all(id_.startswith(f"{name}-") for id_ in ids)
        used = re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)
        assert used
        assert set(used) <= set(ids)
        assert not any(stand_in in svg for stand_in in CSS_COLOURS)
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= set()


def test_chart_has_a_name_and_a_description():
    """What is drawn is also written: title and description, tied to the image role."""
    root = ET.fromstring(quality(POINTS, metric="ROC AUC", chance=0.5))
    assert root.get("role") == "img"
    labels = [
        element.text for id_ in root.get("aria-labelledby").split() for element in root if element.get("id") == id_
    ]
    assert labels[0] == "ROC AUC on test of every variant, by model"
    assert labels[1].startswith("Beta: 0.810 (95% interval 0.760 to 0.860); Alpha: 0.740")


def test_same_points_give_the_same_bytes():
    """Ids and order do not depend on the moment."""
    assert quality(POINTS, metric="m", chance=0.5) == quality(POINTS, metric="m", chance=0.5)
    assert speed(POINTS, metric="m") == speed(POINTS, metric="m")


def test_nothing_to_draw_is_no_chart():
    """No point, or no speed: None, and no empty frame."""
    assert quality([], metric="m", chance=0.5) is None
    assert speed([], metric="m") is None
    assert speed([point("A", 0.5, images_per_s=math.nan), point("B", 0.9, reference=True)], metric="m") is None


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=1>', "a $x^$ b", "日本", "x" * 300]
)
def test_names_are_text_whatever_they_hold(name):
    """Markup, formulas, letters that the drawing font lacks and endless names: drawn, shortened, never interpreted."""
    points = [point(name, 0.7, chosen=True), point("Plain", 0.6, chosen=True)]
    for svg in (quality(points, metric="m", chance=0.5), speed(points, metric="m")):
        root = ET.fromstring(svg)
        assert root.find(".//script") is None
        assert root.find(".//img") is None
        assert any(text == name or (text.endswith("…") and name.startswith(text[:-1])) for text in texts(svg))


def test_names_of_crowded_points_do_not_overlap():
    """Eight models of nearly the same figure and speed: their names keep a line's distance."""
    points = [point(f"Model {i}", 0.7 + i / 10_000, chosen=True, images_per_s=100 + i) for i in range(8)]
    root = ET.fromstring(speed(points, metric="m"))
    heights = sorted(float(t.get("y")) for t in root.iter("text") if "".join(t.itertext()).startswith("Model"))
    assert len(heights) == 8
    assert min(b - a for a, b in pairwise(heights)) >= 9.0


def test_a_single_point_without_interval_is_drawn():
    """Undefined interval ends leave the point alone, without a warning."""
    alone = [point("A", 0.7, chosen=True, low=math.nan, high=math.nan)]
    assert drawn_points(quality(alone, metric="m", chance=math.nan)) == 1
