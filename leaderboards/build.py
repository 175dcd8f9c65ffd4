"""Write a run's site: the leaderboard, the pages it leads to, and the same figures as CSV and JSON beside them.

Pages ask the network for nothing: style, script, charts and pictures are inside them, and their content security policy
allows only that one script, by its hash. Whatever a dataset, plug-in or error message says is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup
from pydantic import BaseModel

from benchmark.evaluate.analysis import Analysis
from benchmark.evaluate.metrics import RANKED_BY, primary_metric
from benchmark.result import SCHEMA_VERSION, CellResult, Maps, RunRecord, public, public_record, tidy, write_atomically
from leaderboards import columns, exports, figures, pictures
from leaderboards.ablation import make_ablation
from leaderboards.model_page import ModelPage, make_model_pages
from leaderboards.reported import make_reported_groups
from leaderboards.verdict import verdict
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
    analysis: Analysis | None = None
    """What they say together."""


def build(
    run: RunRecord,
    results: Sequence[CellResult],
    out: Path,
    maps: Mapping[str, Maps] | None = None,
    analysis: Analysis | None = None,
) -> Path:
    """Write the site into ``out``: same input, same bytes.

    Args:
        run: what was asked for.
        results: the cells that have one, in any order.
        out: the folder of ``index.html``, the pages it leads to, ``leaderboard.csv``, ``.json``, ``.tex`` and ``.md``.
        maps: cell id -> its similarity maps, for the models' pages.
        analysis: what the rows say together; without it nobody is told apart from anybody, and the page says so.

    Returns:
        The path of ``index.html``.
    """
    run = public_record(run)
    place = {cell: i for i, cell in enumerate(run.cells)}
    ordered = [public(r) for r in sorted(results, key=lambda result: (place.get(result.id, len(place)), result.id))]
    write_atomically(out / "leaderboard.csv", _csv(run, ordered).encode())
    write_atomically(out / "leaderboard.json", _json(run, ordered, analysis).encode())
    board = make_page(run, ordered, analysis)
    write_atomically(out / "leaderboard.tex", exports.latex(board).encode())
    write_atomically(out / "leaderboard.md", exports.markdown(board).encode())
    pages = dict(_pages(board, maps or {}))
    for file, html in pages.items():
        write_atomically(out / file, html.encode())
    _remove_others(out, set(pages))
    return out / "index.html"


def _pages(board: Page, maps: Mapping[str, Maps]) -> Iterator[tuple[str, str]]:
    """File name and HTML of every page, the front page last: what it leads to is there when it is."""
    ablation, groups = make_ablation(board), make_reported_groups(board)
    site = _site(bool(ablation), bool(groups))
    for model in make_model_pages(board, maps):
        yield model.file, render_model(model, site)
    yield "data.html", fill("data.html.j2", site=site, here="data.html", run=board.run, board=board)
    yield "protocol.html", fill("protocol.html.j2", site=site, here="protocol.html", run=board.run, board=board)
    if ablation:
        chart = figures.interaction(ablation.means, metric=board.metric)
        yield (
            "ablation.html",
            fill(
                "ablation.html.j2",
                site=site,
                here="ablation.html",
                run=board.run,
                board=board,
                page=ablation,
                chart=chart,
            ),
        )
    if groups:
        yield (
            "reported.html",
            fill("reported.html.j2", site=site, here="reported.html", run=board.run, board=board, groups=groups),
        )
    yield "index.html", _render_index(board, site)


Site = tuple[tuple[str, str], ...]
"""File name and title of the pages that every page leads to."""


def _site(ablation: bool, reported: bool) -> Site:
    return (
        ("index.html", "Leaderboard"),
        *((("ablation.html", "Ablation"),) if ablation else ()),
        ("data.html", "Data and audit"),
        ("protocol.html", "Protocol"),
        *((("reported.html", "Reported and measured"),) if reported else ()),
    )


def _remove_others(out: Path, kept: set[str]) -> None:
    """Remove pages that an earlier command wrote here: what they show may no longer be meant to be shown."""
    for file in out.glob("*.html"):
        if file.name not in kept and OURS in file.read_bytes()[:2000]:
            file.unlink()


def _csv(run: RunRecord, results: list[CellResult]) -> str:
    frame = tidy(results)
    if len(frame):
        # One measurement per cell is what the page ranks by.
        frame["ranked_by"] = (
            frame["primary_space"]
            & (frame["evaluator"] == RANKED_BY)
            & (frame["metric"] == primary_metric(run.dataset.task))
        )
        frame["leakage"] = " ".join(run.leakage)
    return frame.to_csv(index=False, lineterminator="\n")


def _render_index(page: Page, site: Site) -> str:
    points = [_point(row) for row in page.rows if row.value == row.value]
    return fill(
        "index.html.j2",
        script=(STATIC / "table.js").read_text(encoding="utf-8"),
        site=site,
        here="index.html",
        page=page,
        run=page.run,
        answer=verdict(page),
        groups={key: label for key, label in columns.GROUPS.items() if any(c.group == key for c in page.columns)},
        quality_chart=figures.quality(points, metric=page.metric, chance=page.chance),
        speed_chart=figures.speed(points, metric=page.metric) if page.one_machine else None,
    )


def render_model(page: ModelPage, site: Site = ()) -> str:
    """The page of one model. It needs no script, and allows none."""
    return fill(
        "model.html.j2",
        site=site,
        here=page.file,
        page=page,
        run=page.run,
        legend=pictures.address(pictures.legend()),
        losses_chart=figures.losses(page.curves),
    )


def fill(template: str, *, script: str = "", site: Site = (), here: str = "", **values: object) -> str:
    """A page from one of our templates, with our style, and a policy that allows only the given script.

    Args:
        template: name of the file.
        script: that the page may run.
        site: pages that it leads to.
        here: which of them it is.
        values: what the template prints.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            generator=Markup(OURS.decode()),  # noqa: S704 - our own line
            style=Markup((STATIC / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
            site=site,
            here=here,
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
        reference=not row.competes,
    )


def _json(run: RunRecord, results: list[CellResult], analysis: Analysis | None) -> str:
    return Export(run=run, cells=results, analysis=analysis).model_dump_json(indent=1) + "\n"
