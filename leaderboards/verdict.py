"""The front page's answer in sentences: which model, how sure, against what, at what cost. Computes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.evaluate.analysis import Analysis
from benchmark.result import RunRecord
from leaderboards.columns import compact
from leaderboards.view import Page, Row

NAMES = 4
"""Models that a sentence names; the others are counted."""


def verdict(page: Page) -> tuple[str, ...]:
    """What a reader should leave with, in plain sentences; empty where no model has a figure."""
    rows = [row for row in page.best.ranked if not math.isnan(row.value)]
    if not rows:
        return ()
    said = [_leak(page), _best(page, rows[0])]
    if len(rows) > 1:
        said.append(_ties(page, rows))
    if page.analysis is not None:
        said += [_detectable(page.analysis), _skill(page, rows, page.analysis), _cost(page, rows)]
    return tuple(sentence for sentence in said if sentence)


def _leak(page: Page) -> str:
    return "" if page.leakage is None else "The split leaks: every figure below is too good."


def _best(page: Page, row: Row) -> str:
    sure = f" (95% interval {row.interval})" if row.interval else ", without an interval"
    alone = "is the only model here, with" if len(page.best.ranked) == 1 else "has the highest"
    spread = page.analysis.seeds.get(row.result.id) if page.analysis else None
    seeds = (
        f" That is seed {row.result.spec.seed}; the mean over {spread.seeds} seeds is {spread.mean:.3f}."
        if spread
        else ""
    )
    return f"{_name(row)} {alone} {page.metric}: {row.shown.text}{sure}.{seeds}"


def _ties(page: Page, rows: Sequence[Row]) -> str:
    if any(row.standing is None for row in rows):
        return "Which models tie with it was not computed; where intervals overlap widely, the order is not settled."
    others = [row.result.title for row in rows[1:] if row.standing is not None and row.standing.tied]
    on = f"on the test set's {_units(page.run)}"
    if not others:
        return f"It is told apart from every other model {on}."
    if len(others) == len(rows) - 1:
        all_of_them = "both" if len(rows) == 2 else f"all {len(rows)}"
        return f"No other model can be told apart from it {on}: {all_of_them} tie, and their order is not settled."
    return f"{_list(others)} cannot be told apart from it {on}; the other {len(rows) - 1 - len(others)} can."


def _detectable(analysis: Analysis) -> str:
    size = analysis.detectable.median
    if math.isnan(size):
        return ""
    return (
        f"A true difference of about {size:.3f} between two of these models is found in four of five test sets"
        " like this one, where it is the only comparison."
    )


def _skill(page: Page, rows: Sequence[Row], analysis: Analysis) -> str:
    naive = next((row for row in page.best.references if row.result.id == analysis.naive), None)
    if naive is None or any(row.skill is None for row in rows):
        return ""
    doubtful = [row.result.title for row in rows if row.skill is not None and not row.skill.shown]
    what = f"the naive row that is best on validation ({naive.result.title}, {naive.shown.text})"
    rivals = [row for row in page.best.references if "text" not in row.result.inputs and row.value > naive.value]
    higher = "".join(f" On test, {row.result.title} has {row.shown.text}." for row in rivals[:1])
    if not doubtful:
        return f"Every model is shown to be better than {what}.{higher}"
    if len(doubtful) == len(rows):
        return f"No model is shown to be better than {what}.{higher}"
    return f"{_list(doubtful)} {'is' if len(doubtful) == 1 else 'are'} not shown to be better than {what}.{higher}"


def _cost(page: Page, rows: Sequence[Row]) -> str:
    if not page.one_machine:
        return ""
    tied = [row for row in rows if row.standing is not None and row.standing.tied]
    timed = [row for row in tied if row.result.profile.images_per_s > 0]
    if len(timed) < 2:
        return ""
    fastest = max(timed, key=lambda row: row.result.profile.images_per_s)
    tiny = ", at a tiny size" if fastest.result.spec.scale == "tiny" else ""
    return (
        f"Of those that tie, {fastest.result.title} is the fastest here: "
        f"{compact(fastest.result.profile.images_per_s)} images/s{tiny}."
    )


def _name(row: Row) -> str:
    return f"{row.result.title} ({row.stand_in})" if row.stand_in else row.result.title


def _list(names: Sequence[str]) -> str:
    if len(names) > NAMES:
        return f"{', '.join(names[: NAMES - 1])} and {len(names) - NAMES + 1} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _units(run: RunRecord) -> str:
    count, noun = run.split.n_patients.get("test", 0), "patient" if run.split.grouped_by == "patient" else "group"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
