"""Write a run's leaderboard: a page, one more for each model, with the same figures as CSV and JSON beside them.

Pages ask the network for nothing: style, script, charts and pictures are inside them, and their content security policy
allows only that one script, by its hash. Whatever a dataset, plug-in or error message says is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup
from pydantic import BaseModel

from benchmark.evaluate.metrics import primary_metric
from benchmark.result import SCHEMA_VERSION, CellResult, Maps, RunRecord, public, tidy, write_atomically
from leaderboards import columns, exports, figures, pictures
from leaderboards.model_page import ModelPage, make_model_pages
from leaderboards.view import Page, Row, make_page, page_name

STATIC = Path(__file__).with_name("static")

OURS = b'<meta name="generator" content="lumbarclip-benchmark">'
"""Stands in the head of every page, so that pages of models that are gone can be told from files of others."""


class Export(BaseModel):
    """What ``leaderboard.json`` holds."""

    schema_version: int = SCHEMA_VERSION
    run: RunRecord
    cells: list[CellResult]
    """In the order of the plan; tracebacks, and the folders that messages name, stay in the run folder."""


def build(run: RunRecord, results: Sequence[CellResult], out: Path, maps: Mapping[str, Maps] | None = None) -> Path:
    """Write the site into ``out``: same input, same bytes.

    Args:
        run: what was asked for.
        results: the cells that have one, in any order.
        out: the folder of ``index.html``, ``model-*.html`` and ``leaderboard.csv``, ``.json``, ``.tex`` and ``.md``.
        maps: cell id -> its similarity maps, for the models' pages.

    Returns:
        The path of ``index.html``.
    """
    place = {cell: i for i, cell in enumerate(run.cells)}
    ordered = [public(r) for r in sorted(results, key=lambda result: (place.get(result.id, len(place)), result.id))]
    write_atomically(out / "leaderboard.csv", _csv(run, ordered).encode())
    write_atomically(out / "leaderboard.json", _json(run, ordered).encode())
    board = make_page(run, ordered)
    write_atomically(out / "leaderboard.tex", exports.latex(board).encode())
    write_atomically(out / "leaderboard.md", exports.markdown(board).encode())
    models = make_model_pages(board, maps or {})
    for model in models:
        write_atomically(out / model.file, render_model(model).encode())
    _remove_others(out, {model.file for model in models})
    index = out / "index.html"
    write_atomically(index, render(board).encode())
    return index


def _remove_others(out: Path, kept: set[str]) -> None:
    """Remove pages of models that an earlier command wrote here: what they show may no longer be meant to be shown."""
    for file in out.glob("model-*.html"):
        if file.name not in kept and OURS in file.read_bytes()[:2000]:
            file.unlink()


def _csv(run: RunRecord, results: list[CellResult]) -> str:
    frame = tidy(results)
    if len(frame):
        # One measurement per cell is what the page ranks by.
        frame["ranked_by"] = (
            frame["primary_space"]
            & (frame["evaluator"] == columns.RANKED_BY)
            & (frame["metric"] == primary_metric(run.dataset.task))
        )
        frame["leakage"] = " ".join(run.leakage)
    return frame.to_csv(index=False, lineterminator="\n")


def render(page: Page) -> str:
    """The leaderboard as HTML."""
    points = [_point(row) for row in page.rows if row.value == row.value]
    return fill(
        "index.html.j2",
        script=(STATIC / "table.js").read_text(encoding="utf-8"),
        page=page,
        run=page.run,
        groups={key: label for key, label in columns.GROUPS.items() if any(c.group == key for c in page.columns)},
        shown_at_first=columns.SHOWN_AT_FIRST,
        quality_chart=figures.quality(points, metric=page.metric, chance=page.chance),
        speed_chart=figures.speed(points, metric=page.metric),
    )


def render_model(page: ModelPage) -> str:
    """The page of one model as HTML. It needs no script, and allows none."""
    return fill(
        "model.html.j2",
        page=page,
        run=page.run,
        legend=pictures.address(pictures.legend()),
        losses_chart=figures.losses(page.curves),
    )


def fill(template: str, *, script: str = "", **values: object) -> str:
    """A page from one of our templates, with our style, and a policy that allows only the given script."""
    return (
        _environment()
        .get_template(template)
        .render(
            generator=Markup(OURS.decode()),  # noqa: S704 - our own line
            style=Markup((STATIC / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() if script else "",
            **values,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    """The templates, compiled once for all pages, under settings that escape everything."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("leaderboards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["page_name"] = page_name
    return made


def _point(row: Row) -> figures.Point:
    estimate = row.primary.estimate if row.primary is not None else None
    assert estimate is not None, "only rows with a defined figure are drawn"
    return figures.Point(
        model=f"{row.result.title} (tiny)" if row.result.spec.scale == "tiny" and row.stand_in else row.result.title,
        regime=row.result.spec.regime,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        images_per_s=row.result.profile.images_per_s,
        chosen=row.chosen,
        reference=not row.answers_image,
    )


def _json(run: RunRecord, results: list[CellResult]) -> str:
    return Export(run=run, cells=results).model_dump_json(indent=1) + "\n"
