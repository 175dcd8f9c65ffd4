"""Write a run's leaderboard: one self-contained page, with the same figures as CSV and JSON beside it.

The page asks the network for nothing: style, script and charts are inside it, and its content security policy allows
only that one script, by its hash. Whatever a dataset, plug-in or error message says is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from pydantic import BaseModel

from benchmark.evaluate.metrics import primary_metric
from benchmark.result import SCHEMA_VERSION, CellResult, RunRecord, tidy, write_atomically
from leaderboards import columns, figures
from leaderboards.view import Page, Row, make_page

ABSOLUTE_PATH = re.compile(r"""(?<![\w./:])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:;,'"]+){2,}""")
"""Two folders or more from a root; a rate such as images/s, a fraction or an address is none."""

STATIC = Path(__file__).with_name("static")


class Export(BaseModel):
    """What ``leaderboard.json`` holds."""

    schema_version: int = SCHEMA_VERSION
    run: RunRecord
    cells: list[CellResult]
    """In the order of the plan; tracebacks, and the folders that messages name, stay in the run folder."""


def build(run: RunRecord, results: Sequence[CellResult], out: Path) -> Path:
    """Write ``index.html``, ``leaderboard.csv`` and ``leaderboard.json`` into ``out``: same input, same bytes.

    Returns:
        The path of ``index.html``.
    """
    place = {cell: i for i, cell in enumerate(run.cells)}
    ordered = [public(r) for r in sorted(results, key=lambda result: (place.get(result.id, len(place)), result.id))]
    write_atomically(out / "leaderboard.csv", _csv(run, ordered).encode())
    write_atomically(out / "leaderboard.json", _json(run, ordered).encode())
    index = out / "index.html"
    write_atomically(index, render(make_page(run, ordered)).encode())
    return index


def _csv(run: RunRecord, results: list[CellResult]) -> str:
    frame = tidy(results)
    if len(frame):
        # One measurement per cell is what the page ranks by.
        frame["ranked_by"] = (
            frame["primary_space"]
            & (frame["evaluator"] == columns.RANKED_BY)
            & (frame["metric"] == primary_metric(run.dataset.task))
        )
    return frame.to_csv(index=False, lineterminator="\n")


def public(result: CellResult) -> CellResult:
    """The result with nothing of this machine in its failure: no traceback, and of paths only the last part."""
    if result.failure is None:
        return result
    message = ABSOLUTE_PATH.sub(lambda path: re.split(r"[\\/]", path[0])[-1], result.failure.message)
    failure = result.failure.model_copy(update={"message": message, "traceback_tail": ""})
    return result.model_copy(update={"failure": failure})


def environment() -> jinja2.Environment:
    """The templates, under settings that escape everything and refuse what is not there."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("leaderboards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(page: Page) -> str:
    """The page as HTML."""
    script = (STATIC / "table.js").read_text(encoding="utf-8")
    points = [_point(row) for row in page.rows if row.value == row.value]
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            page=page,
            run=page.run,
            groups={key: label for key, label in columns.GROUPS.items() if any(c.group == key for c in page.columns)},
            shown_at_first=columns.SHOWN_AT_FIRST,
            style=Markup((STATIC / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            quality_chart=figures.quality(points, metric=page.metric, chance=page.chance),
            speed_chart=figures.speed(points, metric=page.metric),
        )
    )


def _point(row: Row) -> figures.Point:
    estimate = row.primary.estimate if row.primary is not None else None
    assert estimate is not None, "only rows with a defined figure are drawn"
    return figures.Point(
        model=row.result.title,
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
