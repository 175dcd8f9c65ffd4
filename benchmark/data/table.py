"""Reads a manifest file (CSV, JSONL, Parquet) into a table of words, as they stand in the file."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmark.errors import BadInput

SUFFIXES = (".csv", ".jsonl", ".parquet")
"""File name endings that a manifest may have."""

SHOWN = 20
"""Problems that one message lists; the rest is counted."""

_BLANK = {"", "nan", "<na>", "na", "n/a", "null"}
"""Words that mean "not given", in lower case. ``none`` is not among them: it is the name of many a class."""


def read_table(path: Path, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a manifest; every cell is a string, the index is the 1-based row number (the header not counted).

    Raises:
        BadInput: a file that is missing, empty, in another encoding, or not of the kind its name says.
    """
    if not path.is_file():
        raise BadInput(f"no manifest at {path}")
    if path.suffix.lower() == ".parquet":
        table = _read_parquet(path)
    else:
        read = _read_csv if path.suffix.lower() == ".csv" else _read_jsonl
        table = read(path, read_text(path, encoding))
    if table.empty:
        raise BadInput(f"{path} has no rows")
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise BadInput(f"{path} has the column {twice[0]!r} twice; rename or drop one of them")
    table.index = pd.RangeIndex(1, len(table) + 1, name="row")
    return table


def canonical(word: str) -> str:
    """Give one spelling to a value that CSV, JSON and Parquet write differently: ``1``, ``1.0`` and ``True``."""
    word = word.strip()
    if word.lower() in ("true", "false"):
        return "1" if word.lower() == "true" else "0"
    whole = re.fullmatch(r"([+-]?\d+)\.0*", word)
    return whole[1] if whole else word


def is_blank(word: str) -> bool:
    """Whether a cell means "not given"."""
    return word.strip().lower() in _BLANK


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Say `` (did you mean 'x'?)`` where one of the options is close to the word, and nothing otherwise."""
    lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""


def listed(lines: Sequence[str]) -> str:
    """One line per problem, at most 20, then how many more there are."""
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])


def read_text(path: Path, encoding: str) -> str:
    """Decode a text file of the declared encoding; a byte order mark is dropped.

    Raises:
        BadInput: naming the first byte that is not of this encoding.
    """
    data = path.read_bytes()
    try:
        text = data.decode(encoding)
    except LookupError:
        raise BadInput(f"unknown encoding {encoding!r} for {path}; use a name like utf-8, cp1252 or utf-16") from None
    except UnicodeDecodeError as error:
        raise BadInput(_not_this_encoding(path, encoding, data, error.start)) from None
    if "\x00" in text:
        raise BadInput(_not_this_encoding(path, encoding, data, data.index(0)))
    return text.removeprefix("\ufeff")


def _not_this_encoding(path: Path, encoding: str, data: bytes, offset: int) -> str:
    likely = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 in data else "cp1252"
    line = data.count(b"\n", 0, offset) + 1
    return (
        f"{path} is not {encoding}: byte {offset} (line {line}) does not belong to it; save the file as UTF-8, "
        f"or set the card's field encoding: to the right one, for example 'encoding: {likely}'"
    )


def _read_csv(path: Path, text: str) -> pd.DataFrame:
    # pandas would pad short rows, shift long ones into an index and rename double columns, all without a word
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *rows = [cells for cells in reader if cells] or [[]]
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not valid CSV ({error}); check its quotation marks") from None
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise BadInput(f"{path} separates its columns by semicolons or tabs; save it with commas")
    ragged = [
        f"{path.name}, row {row}: {len(cells)} cells, but the header has {len(header)}"
        for row, cells in enumerate(rows, 1)
        if len(cells) != len(header)
    ]
    if ragged:
        raise BadInput(f"{path}: {len(ragged)} rows do not fit the header:\n{listed(ragged)}")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _read_jsonl(path: Path, text: str) -> pd.DataFrame:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: not valid JSON ({error})") from None
        if not isinstance(record, dict):
            raise BadInput(f'{path}, line {number}: every line must be an object like {{"image": "a.png", …}}')
        records.append(record)
    columns = list(dict.fromkeys(key for record in records for key in record))
    return pd.DataFrame([[_word(r.get(c)) for c in columns] for r in records], columns=columns, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise BadInput(f"{path} is not a Parquet file ({str(error).splitlines()[0]})") from None
    # by way of Python values: pandas would turn whole numbers with gaps into floats
    cells = [[_word(value) for value in column.to_pylist()] for column in table.columns]
    return pd.DataFrame(list(zip(*cells, strict=True)), columns=table.column_names, dtype=object)


def _word(value: object) -> str:
    return "" if value is None or value != value else str(value)
