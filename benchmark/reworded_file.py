"""A file of rewordings that a person can read and correct, and the way back from it into a run.

CSV in UTF-8, one row a text: ``sample``, ``report``, ``rewording``, ``verdict`` (what the check said when it was
written; not read back) and ``use``: ``yes`` keeps a text whatever the check says, ``no`` turns it down, and an empty
one leaves it to the check, which is asked again when the file is used.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.errors import BadInput
from benchmark.model import Captioned
from benchmark.result import digest, write_atomically

COLUMNS = ("sample", "report", "rewording", "verdict", "use")

Use = Literal["yes", "no", ""]


@dataclass(frozen=True)
class Candidate:
    """A text that may be trained on, and what a person said of it."""

    text: str
    use: Use = ""


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    sample: str
    report: str
    rewording: str
    verdict: str = ""
    use: Use = ""


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a file of texts; it appears whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row.sample, row.report, row.rewording, row.verdict, row.use] for row in rows)
    # With a byte order mark, as spreadsheets need one to read UTF-8.
    write_atomically(path, text.getvalue().encode("utf-8-sig"))


@dataclass(frozen=True)
class TextFile:
    """The texts of a file, by sample."""

    name: str
    """The file's name, for errors."""
    digest: str
    """Of what is read, so that a note in another column changes no cell."""
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> TextFile:
        """Read a file of texts.

        Raises:
            BadInput: naming the row, where it is no such file.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8; save it as CSV UTF-8"
            raise BadInput(f"rewordings {path} cannot be read ({said})") from error
        reader = csv.DictReader(io.StringIO(text, newline=""))
        lacking = [name for name in COLUMNS if name != "verdict" and name not in (reader.fieldnames or ())]
        if lacking:
            raise BadInput(f"rewordings {path}: no column {', '.join(lacking)}; 'data augment' writes such a file")
        rows = tuple(_row(path, number, fields) for number, fields in enumerate(reader, start=1))
        return cls(path.name, digest([[r.sample, r.report, r.rewording, r.use] for r in rows]), rows)

    def of(self, pairs: Sequence[Captioned]) -> list[list[Candidate]]:
        """The texts of each pair: those of its sample, or else of the first sample with the very same report.

        Raises:
            BadInput: where a sample's report is another one than the texts were made of.
        """
        of_sample: dict[str, list[Candidate]] = defaultdict(list)
        of_report: dict[str, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
        report_of = {pair.sample: pair.report for pair in pairs}
        for number, row in enumerate(self.rows, start=1):
            if row.sample not in report_of:
                continue
            if _lines(row.report) != _lines(report_of[row.sample]):
                raise BadInput(
                    f"rewordings {self.name}, row {number}: the report of sample {row.sample!r} is another one in the "
                    "dataset; write the file anew with 'data augment'"
                )
            candidate = Candidate(row.rewording, row.use)
            of_sample[row.sample].append(candidate)
            of_report[report_of[row.sample]][row.sample].append(candidate)

        def texts(pair: Captioned) -> list[Candidate]:
            if pair.sample in of_sample:
                return of_sample[pair.sample]
            return next(iter(of_report[pair.report].values()), [])

        return [texts(pair) for pair in pairs]

    def others(self, pairs: Sequence[Captioned]) -> int:
        """Rows of samples that are none of these pairs."""
        samples = {pair.sample for pair in pairs}
        return sum(row.sample not in samples for row in self.rows)


def _row(path: Path, number: int, fields: dict[str, str | None]) -> Row:
    values = {name: fields.get(name) for name in COLUMNS if name != "verdict"}
    short = [name for name, value in values.items() if value is None]
    if short:
        raise BadInput(f"rewordings {path}, row {number}: no value for {', '.join(short)}; put quotes around commas")
    sample, report, rewording, use = (value or "" for value in values.values())
    use = use.strip().lower()
    if use not in ("yes", "no", ""):
        raise BadInput(f"rewordings {path}, row {number}: use is {use!r}; write yes, no, or nothing")
    if not rewording.strip() and use != "no":
        raise BadInput(f"rewordings {path}, row {number}: the rewording is empty; write one, or 'no' under use")
    said: Use = "yes" if use == "yes" else "no" if use == "no" else ""
    return Row(sample, report, rewording, use=said)


def _lines(text: str) -> str:
    """A text with its ends of lines as a spreadsheet may have written them, brought to one form."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
