"""A gate's verdict for those who read it elsewhere: JUnit XML for a build server, Markdown for a pull request.

Names of models, of datasets and the messages of what failed come from outside, and nothing in them may become markup,
a link, or the mention of a person.
"""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from benchmark.gate import THROUGHPUT, Check, Verdict
from benchmark.result import Estimate

SUITE = "benchmark gate"

_NOT_XML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write, and the control characters that it discourages."""


def plain(text: str) -> str:
    """A text on one line, without characters that a terminal or an XML parser would stumble over."""
    return _NOT_XML.sub("\ufffd", " ".join(text.split()))


def figures(check: Check) -> tuple[str, str, str, str]:
    """Before, after, difference with its interval, and margin, as they are shown; empty where there are none."""
    if check.what == THROUGHPUT:
        change = "" if math.isnan(check.after) else f"{check.after / check.before - 1:+.0%}"
        return number(check.before, ".3g"), number(check.after, ".3g"), change, f"{check.margin:.0%}"
    if check.difference is None:
        return "", "", "", ""
    return number(check.before), number(check.after), with_interval(check.difference), f"{check.margin:g}"


def with_interval(difference: Estimate) -> str:
    """A difference with its sign, and its interval where it has one."""
    interval = "" if math.isnan(difference.low) else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return number(difference.value, "+.4f") + interval


def number(value: float, shape: str = ".4f") -> str:
    """A number in a format, or nothing where it is undefined."""
    return "" if math.isnan(value) else format(value, shape)


def summary(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    cells = len({check.place for check in verdict.checks})
    judged = sum(check.outcome != "not judged" for check in verdict.checks)
    outcome = f"{len(verdict.failed)} failed" if verdict.failed else "all passed"
    return f"{judged} checks of {cells} cells on {plain(verdict.dataset)}: {outcome}"


def to_junit(verdict: Verdict) -> bytes:
    """One test case a check: its class is the cell, its name what was checked."""
    not_judged = sum(check.outcome == "not judged" for check in verdict.checks)
    counts = {"tests": len(verdict.checks), "failures": len(verdict.failed), "errors": 0, "skipped": not_judged}
    suite = ElementTree.Element("testsuite", {"name": SUITE, **{name: str(count) for name, count in counts.items()}})
    for check in verdict.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=plain(str(check.place)), name=plain(check.what))
        if check.outcome == "failed":
            ElementTree.SubElement(case, "failure", message=plain(check.why)).text = " | ".join(figures(check))
        elif check.outcome == "not judged":
            ElementTree.SubElement(case, "skipped", message=plain(check.why))
    if verdict.notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(map(plain, verdict.notes))
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def to_markdown(verdict: Verdict) -> str:
    """A heading, the failures in a table, all else folded away, and what else is to be known."""
    lines = [f"### {'❌' if verdict.failed else '✅'} Benchmark gate: {_quoted(summary(verdict))}", ""]
    if verdict.failed:
        lines += [*_table(verdict.failed), ""]
    others = [check for check in verdict.checks if check.outcome != "failed"]
    if others:
        lines += [f"<details><summary>{len(others)} other checks</summary>", "", *_table(others), "", "</details>", ""]
    return "\n".join([*lines, *(f"* {_quoted(note)}" for note in verdict.notes)]).rstrip() + "\n"


def _table(checks: list[Check] | tuple[Check, ...]) -> list[str]:
    head = ("cell", "check", "outcome", "before", "after", "difference", "margin", "")
    rows = [
        (_quoted(str(check.place)), _quoted(check.what), check.outcome, *figures(check), _quoted(check.why))
        for check in checks
    ]
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _quoted(text: str) -> str:
    """A text as code, with all punctuation as character references.

    References keep it from being Markdown or HTML; within ``code`` forges make no links and notify nobody.
    """
    if not text:
        return ""
    return f"<code>{re.sub(r'[^A-Za-z0-9 ,/-]', lambda found: f'&#{ord(found[0])};', plain(text))}</code>"
