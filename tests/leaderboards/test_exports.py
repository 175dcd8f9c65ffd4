"""The tables for papers say what the page says, and print every name as text, whatever is in it."""

from __future__ import annotations

import math
import re
import runpy
import unicodedata
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmark.result import CellResult, Estimate, Measurement, RunRecord
from leaderboards.build import build
from leaderboards.exports import latex, latex_text, markdown, markdown_text
from leaderboards.view import Page, make_page

DEMO = runpy.run_path(str(Path(__file__).with_name("demo.py")))
HOSTILE_TEX = r"\input{/etc/passwd}$\catcode`\%=12^^41 100% _a_ #1 ~ & \\[2em]*"
HOSTILE_MARKDOWN = "a|b [x](http://evil.example) <img src=x> @everyone #1 ![](//e) `c` **d** www.evil.example :smile:"

texts = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def demo() -> tuple[RunRecord, list[CellResult]]:
    return DEMO["demo"]()


@pytest.fixture(scope="module")
def page(demo: tuple[RunRecord, list[CellResult]]) -> Page:
    return make_page(*demo)


def plain(text: str) -> str:
    """What of a text can be printed on one line."""
    return "".join(c for c in " ".join(text.split()) if unicodedata.category(c)[0] != "C")


# --------------------------------------------------------------------------------------------- LaTeX

PRINTS = {
    **{name: name for name in ["\\{", "\\}", "\\$", "\\&", "\\#", "\\%", "\\_"]},
    "\\textbackslash": "\\",
    "\\textasciicircum": "^",
    "\\textasciitilde": "~",
    "\\textless": "<",
    "\\textgreater": ">",
    "\\textbar": "|",
    "\\textasciigrave": "`",
    "\\textperiodcentered": "·",
    "\\dag": "†",
    "\\ddag": "‡",
}
"""Commands that print a character -> the character, after the backslash of the first seven is taken away."""

TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\$-\$|.", flags=re.DOTALL)


def typeset(tex: str) -> str:
    """What TeX prints of escaped text, read by its own rules: any other command, or a lone special, is an error."""
    printed, depth = "", 0
    for token in tokens(tex):
        if token in "{}":
            depth += 1 if token == "{" else -1
            assert depth >= 0
        elif token.startswith("\\"):
            printed += PRINTS[token].removeprefix("\\") if len(token) == 2 else PRINTS[token]
        elif token == "$-$":
            printed += "−"
        else:
            assert token not in "$&#%_^~\\", token
            printed += token
    assert depth == 0
    return printed


def tokens(tex: str) -> Iterator[str]:
    return (found[0] for found in TOKEN.finditer(tex))


@given(texts)
@example(HOSTILE_TEX)
@example("\\\\[1pt]*")
@example("^^5c^^5cinput")
def test_latex_prints_any_text_as_it_is(text: str) -> None:
    written = plain(text).replace("—", "---").replace("–", "--").replace("’", "'")
    assert typeset(latex_text(text)) == written


@given(texts)
def test_no_text_can_be_read_as_the_options_of_the_line_before(text: str) -> None:
    assert not latex_text(text).startswith(("[", "*"))


def test_latex_table_has_a_row_for_each_row_of_the_page_and_as_many_cells_in_each(page: Page) -> None:
    tex = latex(page)
    body = tex.split("\\toprule")[1].split("\\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith("\\\\")]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", tex)
    assert columns is not None
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns[1])}
    rows = [*page.best.ranked, *page.best.references]
    assert len([line for line in lines if "scriptsize" not in line]) == len(rows) + 1
    for row in rows:
        (line,) = [line for line in lines if line.strip().startswith(latex_text(row.result.title))]
        assert f"& {row.shown.text} &" in line
        below = lines[lines.index(line) + 1]
        assert f"[{latex_text(row.interval)}]" in below
        assert ("\\dag" in line) == row.result.spec.random_weights


@pytest.mark.parametrize("write", [latex, markdown])
def test_the_caption_says_on_whom_in_what_how_and_what_is_wrong(demo, write) -> None:
    run, results = demo
    text = write(make_page(run, results))
    assert "45 patients" in text
    assert "ROC AUC" in text
    assert "percentile bootstrap over patients" in text
    assert "A program drew the pictures" in text
    assert "eakage" not in text
    leak = run.audit[0].model_copy(update={"code": "LB001", "severity": "error"})
    changed = {"audit": (leak,), "config": {**run.config, "intervals": "bca"}}
    text = write(make_page(run.model_copy(update=changed), results))
    assert "Leakage: test is not held out" in text
    assert "LB001" in text
    assert "(BCa) bootstrap over patients" in text


# --------------------------------------------------------------------------------------------- Markdown


@given(texts)
@example(HOSTILE_MARKDOWN)
@example("</td>|\n| --- |\n# x")
def test_markdown_prints_any_text_as_it_is(text: str) -> None:
    written = markdown_text(text)
    assert unescape(written) == plain(text)
    bare = re.sub(r"&#\d+;", "", written)
    assert not set(bare) & set("\\`*_{}[]<>#+!|&@~\"'\n$^")
    assert "www." not in bare
    assert "://" not in bare


def test_markdown_table_has_as_many_cells_in_every_row(page: Page) -> None:
    lines = [line for line in markdown(page).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    rows = [*page.best.ranked, *page.best.references]
    assert len(lines) == len(rows) + 2 + bool(page.best.references)
    for row in rows:
        (line,) = [line for line in lines if line.startswith(f"| {markdown_text(row.result.title)}")]
        assert f"| {row.shown.text} ({row.interval}) |" in line
        assert ("†" in line) == row.result.spec.random_weights


# --------------------------------------------------------------------------------------------- both


def test_both_are_written_beside_the_page_and_hostile_names_stay_text(demo, tmp_path) -> None:
    run, results = demo
    hostile = [r.model_copy(update={"title": HOSTILE_TEX + HOSTILE_MARKDOWN}) for r in results[:2]]
    index = build(run, hostile, tmp_path)
    tex, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("leaderboard.tex", "leaderboard.md"))
    for name in ("leaderboard.tex", "leaderboard.md"):
        assert f'href="{name}"' in index.read_text(encoding="utf-8")
    assert "\\input" not in tex
    assert "http://" not in text
    assert "<img" not in text
    page = make_page(run, hostile)
    assert (latex(page), markdown(page)) == (tex, text)


def test_an_undefined_figure_is_a_dash_and_never_a_number(demo) -> None:
    run, results = demo

    def undefined(m: Measurement) -> Measurement:
        return m.model_copy(update={"estimate": Estimate(value=math.nan, n=9, n_patients=3, why_undefined="one class")})

    bare = results[0].model_copy(update={"measurements": tuple(map(undefined, results[0].measurements))})
    page = make_page(run, [bare])
    assert "& --- &" in latex(page)
    assert "| — |" in markdown(page)
    rows = latex(page).split("\\midrule", 1)[1] + markdown(page).split("---:", 1)[1]
    assert not re.search(r"\d\.\d", rows)


def test_a_run_without_results_has_a_table_without_rows(demo) -> None:
    page = make_page(demo[0], [])
    assert "\\bottomrule" in latex(page)
    assert markdown(page).count("\n|") == 2
