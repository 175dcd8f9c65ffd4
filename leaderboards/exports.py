"""The table of best variants for a paper (LaTeX, with the package booktabs) and for a page of text (GitHub's Markdown).

Both hold the same rows, columns and words as the table on the page. Whatever a plug-in or a dataset is called, it comes
out as text: never as a command of TeX, a link, a mention, markup, or another cell.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leaderboards.columns import DASH, MINUS, Column
from leaderboards.view import Page, Row

RANDOM, TINY = "†", "‡"
"""Marks beside a model's name, explained in the caption."""

METHODS = {"percentile": "percentile bootstrap", "bca": "bias-corrected and accelerated (BCa) bootstrap"}
"""How an interval was read from resamples, in words."""


@dataclass(frozen=True)
class Line:
    """One row of the table, as text that is not yet escaped."""

    model: str
    marks: str
    """Of ``RANDOM`` and ``TINY``; empty for the published model, and where nothing was published."""
    variant: str
    weights: str
    figures: tuple[tuple[str, str], ...]
    """Value and interval of the primary metric, then of each column; an interval may be empty."""


@dataclass(frozen=True)
class Summary:
    """What both formats print."""

    heads: tuple[str, ...]
    """Over the figures."""
    ranked: tuple[Line, ...]
    references: tuple[Line, ...]
    caption: tuple[str, ...]
    """Sentences."""


def summarise(page: Page) -> Summary:
    """The best variant of each model in the figures of quality, and what a reader must know of them."""
    shown = [column for column in page.columns if column.group == "quality"]
    ranked, references = (tuple(_line(row, shown) for row in rows) for rows in (page.best.ranked, page.best.references))
    return Summary(
        heads=(page.metric, *(column.label for column in shown)),
        ranked=ranked,
        references=references,
        caption=tuple(_caption(page, {mark for line in ranked + references for mark in line.marks})),
    )


def _line(row: Row, columns: Sequence[Column]) -> Line:
    spec = row.result.spec
    start = spec.start != "none"
    figures = [row.figures[column.key] for column in columns]
    return Line(
        model=row.result.title,
        marks=RANDOM * spec.random_weights + TINY * (start and spec.scale == "tiny"),
        variant=row.variant if start else f"scored from {row.reads}",
        weights=row.weights,
        figures=((row.shown.text, row.interval), *((shown.text, shown.interval) for shown in figures)),
    )


def _caption(page: Page, marks: set[str]) -> Iterable[str]:
    run = page.run
    unit = "patients" if run.split.grouped_by == "patient" else "groups of identical pictures"
    pictures, patients = run.split.n.get("test", 0), run.split.n_patients.get("test", 0)
    if page.leakage is not None:
        yield f"{page.leakage.title}. {page.leakage.text}"
    yield (
        f"{run.dataset.name}: {page.metric} of the linear probe on {pictures} test pictures of {patients} {unit}, "
        "best first."
    )
    method = METHODS.get(run.intervals, run.intervals)
    yield f"In brackets the 95% interval: {method} over {unit}; wide overlaps leave the order open."
    if page.unchosen:
        yield f"All variants are shown of {', '.join(page.unchosen)}, for which none could be chosen on validation."
    else:
        yield "Of each model the variant that was chosen on validation."
    if page.best.references:
        yield "Rows below the rule are references, not ranked."
    if RANDOM in marks:
        yield f"{RANDOM} starts from random numbers, and says nothing of the published model."
    if TINY in marks:
        yield f"{TINY} narrow and shallow, not of the published size."
    if run.dataset.synthetic:
        yield "A program drew the pictures: no figure is about patients."


# --------------------------------------------------------------------------------------------- LaTeX


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # After a line's end these two would be read as its options.
    "[": "{[}",
    "*": "{*}",
    MINUS: "$-$",
    DASH: "---",
    "–": "--",
    "·": r"\textperiodcentered{}",
    "’": "'",
    RANDOM: r"\dag{}",
    TINY: r"\ddag{}",
}
"""Characters that are commands to TeX, or that its fonts may lack -> how they are written."""


def latex(page: Page) -> str:
    """The table as LaTeX of 2020 or later; the document needs the package booktabs, and no other."""
    summary = summarise(page)
    heads = ["Model", "Variant", "Weights", *summary.heads]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_text(' '.join(summary.caption))}}}",
        rf"  \begin{{tabular}}{{lll{'c' * len(summary.heads)}}}",
        r"    \toprule",
        _latex_row(heads, latex_text),
        r"    \midrule",
        *_latex_lines(summary.ranked),
    ]
    if summary.references:
        lines += [r"    \midrule", *_latex_lines(summary.references)]
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _latex_lines(rows: Sequence[Line]) -> Iterable[str]:
    """Two lines a row: the figures, and their intervals beneath; a little space between rows."""
    for i, row in enumerate(rows):
        if i:
            yield r"    \addlinespace"
        values = [value for value, _ in row.figures]
        yield _latex_row([row.model + row.marks, row.variant, row.weights, *values], latex_text)
        intervals = [interval for _, interval in row.figures]
        if any(intervals):
            yield _latex_row(["", "", "", *intervals], _latex_interval)


def _latex_row(cells: Iterable[str], write: Callable[[str], str]) -> str:
    return rf"    {' & '.join(map(write, cells))} \\"


def _latex_interval(interval: str) -> str:
    return rf"{{\scriptsize [{latex_text(interval)}]}}" if interval else ""


def latex_text(text: str) -> str:
    """Any text as LaTeX that prints it."""
    return "".join(_TEX.get(character, character) for character in _plain(text))


# --------------------------------------------------------------------------------------------- Markdown


_MARKDOWN = re.compile(r"""[!"#$&'*+<=>?@\[\\\]^_`{|}~]|[.:](?! |$)""")
"""What may be markup, a mention, or part of an address or of an emoji's name."""


def markdown(page: Page) -> str:
    """The table as GitHub's Markdown, with its caption above."""
    summary = summarise(page)
    heads = ["Model", "Variant", "Weights", *summary.heads]
    table = [
        list(map(markdown_text, heads)),
        [*["---"] * 3, *["---:"] * len(summary.heads)],
        *map(_markdown_cells, summary.ranked),
    ]
    if summary.references:
        table += [["*References, not ranked*", *[""] * (len(heads) - 1)], *map(_markdown_cells, summary.references)]
    lines = [f"**Table.** {markdown_text(' '.join(summary.caption))}", ""]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in table), ""])


def _markdown_cells(row: Line) -> list[str]:
    figures = [f"{value} ({interval})" if interval else value for value, interval in row.figures]
    return [*map(markdown_text, [row.model + row.marks, row.variant, row.weights]), *figures]


def markdown_text(text: str) -> str:
    """Any text as Markdown that prints it, inside a line: what could be more than text becomes a reference."""
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", _plain(text))


def _plain(text: str) -> str:
    """A text on one line, without characters that control or have no written form."""
    return "".join(c for c in " ".join(text.split()) if unicodedata.category(c)[0] != "C")
