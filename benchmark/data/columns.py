"""Turns a manifest's columns of words into arrays, and keeps a list of every problem met on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data.table import canonical, did_you_mean, is_blank, listed
from benchmark.errors import BadInput

if TYPE_CHECKING:
    from benchmark.data.card import DatasetCard

PARTS = ("train", "val", "test")
"""The parts of a split."""

_PART_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}


class Problems:
    """What is wrong with one manifest: problems of the whole file, and problems of single rows."""

    def __init__(self, file: str, rows: NDArray[np.int64]) -> None:
        self.file = file
        self.rows = rows
        self.reasons: dict[int, str] = {}
        """Position -> the first reason, short and countable, why this row cannot be used."""
        self._of_file: list[str] = []
        self._of_rows: dict[int, list[str]] = {}

    def add(self, text: str) -> None:
        """Note a problem that leaving out rows cannot mend."""
        self._of_file.append(f"{self.file}: {text}")

    def add_row(self, position: int, column: str, text: str, reason: str) -> None:
        """Note a problem that leaving out this row mends."""
        self._of_rows.setdefault(position, []).append(self.place(position, column, text))
        self.reasons.setdefault(position, reason)

    def add_between_rows(self, position: int, column: str, text: str) -> None:
        """Note a problem that shows at this row but is not its alone, so that leaving it out would be arbitrary."""
        self._of_file.append(self.place(position, column, text))

    def place(self, position: int, column: str, text: str) -> str:
        """Put file, row and column before a text."""
        return f"{self.file}, row {self.rows[position]}, column {column!r}: {text}"

    def raise_if_any(self, *, allow_exclusions: bool) -> None:
        """End with one message that lists everything; rows are forgiven where exclusions are allowed.

        Raises:
            BadInput: where a problem is left.
        """
        of_rows = [text for _, texts in sorted(self._of_rows.items()) for text in texts]
        lines = self._of_file + ([] if allow_exclusions else of_rows)
        if not lines:
            return
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        hint = "" if allow_exclusions or not of_rows else "; --allow-exclusions leaves such rows out and counts them"
        raise BadInput(f"{self.file} has {count} (rows count from 1 below the header{hint}):\n{listed(lines)}")


def filter_rows(table: pd.DataFrame, card: DatasetCard, file: str) -> pd.DataFrame:
    """Keep the rows that the card's filter asks for; values are compared as in the file, but ``1`` is ``1.0``.

    Raises:
        BadInput: for an unknown column or value, or where no row is left.
    """
    keep = np.ones(len(table), dtype=bool)
    for column, values in card.rows.items():
        if column not in table:
            raise BadInput(f"{file}: {_no_column(table, column, 'rows')}")
        words = table[column].map(canonical)
        for value in values:
            if not (words == canonical(value)).any():
                known = list(dict.fromkeys(table[column]))
                raise BadInput(
                    f"{file}: no row has the value {value!r} that the card's field 'rows' wants in column {column!r}"
                    f"{did_you_mean(value, known)}; its values are {_some(known)}"
                )
        keep &= words.isin([canonical(value) for value in values]).to_numpy(dtype=bool)
    if not keep.any():
        raise BadInput(f"{file}: the card's field 'rows' leaves no row")
    return table[keep]


def read_words(table: pd.DataFrame, column: str, field: str, problems: Problems) -> list[str] | None:
    """Read a column; cells that mean "not given" become "". None, and a problem, where the file has no such column."""
    if column not in table:
        problems.add(_no_column(table, column, field))
        return None
    return ["" if is_blank(word) else word.strip() for word in table[column]]


def read_optional(table: pd.DataFrame, column: str | None, field: str, problems: Problems) -> list[str] | None:
    """Read a column that may be absent: a column that is empty in every row counts as absent."""
    words = None if column is None else read_words(table, column, field, problems)
    return words if words and any(words) else None


def read_filled(table: pd.DataFrame, column: str | None, field: str, problems: Problems) -> list[str] | None:
    """Read a column that may be absent, but not in single rows."""
    words = read_optional(table, column, field, problems)
    for position, word in enumerate(words or ()):
        if not word:
            text = f"empty; give every row one or take '{field}' out of the card"
            problems.add_row(position, str(column), text, f"empty {column}")
    return words


def read_labels(
    table: pd.DataFrame, card: DatasetCard, problems: Problems
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Read class names and labels.

    Returns:
        The class names (a binary task's positive class last) and (n,) class indices, or (n, C) of 0/1 for multilabel;
        -1 where a cell cannot be used.
    """
    if card.prevalence is not None and card.task != "binary":
        problems.add("the card's field 'prevalence' is for binary tasks only")
    if card.task == "multilabel":
        return _multilabel(table, card, problems)
    if not isinstance(card.label, str):
        problems.add(f"the card's field 'label' must be one column for a {card.task} task, or the task multilabel")
        return (), np.full(len(table), -1)
    words = _label_words(table, card.label, card.classes, problems)
    names = {canonical(value): name for value, name in card.classes.items()}
    names = names or {value: value for value in sorted({w for w in words if w}, key=_numbers_first)}
    classes = _ordered(tuple(dict.fromkeys(names.values())), card, words, problems)
    code = {value: classes.index(name) for value, name in names.items()}
    for position, word in enumerate(words):
        if word and word not in code:
            text = f"{word!r} is not among the card's classes{did_you_mean(word, names)}; they are {_some(names)}"
            problems.add_row(position, card.label, text, f"{card.label} not among the classes")
    return classes, np.array([code.get(word, -1) for word in words], dtype=np.int64)


def check_classes(classes: tuple[str, ...], labels: NDArray[np.int64], card: DatasetCard, problems: Problems) -> None:
    """Note classes without rows, and labels that are the same in all rows: nothing can be learned from them."""
    if not len(labels):
        return
    if labels.ndim == 2:
        for name, column in zip(classes, labels.T, strict=True):
            if len(np.unique(column[column >= 0])) < 2:
                problems.add(f"label {name!r} has the same value in all rows; take it out of the card's field 'label'")
        return
    present = [name for index, name in enumerate(classes) if (labels == index).any()]
    if len(present) == 1:
        problems.add(f"all rows have the class {present[0]!r} in column {card.label!r}; a task needs at least two")
    elif present and len(present) < len(classes):
        absent = [name for name in classes if name not in present]
        problems.add(f"no row has the class {_some(absent)}; take it out of the card's field 'classes'")


def check_prompts(classes: tuple[str, ...], card: DatasetCard, problems: Problems) -> None:
    """Note prompts for classes that do not exist, and empty lists of prompts."""
    for name, sentences in card.prompts.items():
        if classes and name not in classes:
            hint = did_you_mean(name, classes)
            problems.add(f"the card's field 'prompts' has the unknown class {name!r}{hint}; they are {_some(classes)}")
        elif not sentences or not all(sentence.strip() for sentence in sentences):
            problems.add(f"the card's field 'prompts' has an empty prompt for class {name!r}")


def read_split(table: pd.DataFrame, card: DatasetCard, problems: Problems) -> NDArray[np.str_] | None:
    """Read the given split as ``train``, ``val``, ``test``, "" for unusable cells; None where there is none."""
    words = read_filled(table, card.columns.split, "columns.split", problems)
    if words is None:
        return None
    for position, word in enumerate(words):
        if word and word.lower() not in _PART_WORDS:
            text = f"{word!r} is not a part{did_you_mean(word, _PART_WORDS)}; write train, val or test"
            problems.add_row(position, str(card.columns.split), text, f"unknown word in {card.columns.split}")
    return np.array([_PART_WORDS.get(word.lower(), "") for word in words])


def check_split(
    parts: NDArray[np.str_], patients: Sequence[str], counted: NDArray[np.bool_], card: DatasetCard, problems: Problems
) -> None:
    """Note every row whose part is not that of its patient's first row; ``counted`` says which rows matter."""
    first: dict[str, int] = {}
    for position in np.flatnonzero(counted & (parts != "")).tolist():
        if not patients[position]:
            continue
        seen = first.setdefault(patients[position], position)
        if parts[seen] != parts[position]:
            text = (
                f"{str(parts[position])!r}, but row {problems.rows[seen]} of the same patient says {str(parts[seen])!r}"
            )
            problems.add_between_rows(position, str(card.columns.split), text)


def read_declared(
    table: pd.DataFrame, card: DatasetCard, field: Literal["structured", "subgroups"], problems: Problems
) -> pd.DataFrame | None:
    """Read the columns of a field: float64 for numbers (NaN missing), category for categories; empty ones left out."""
    reserved = {card.label} if isinstance(card.label, str) else set(card.label)
    reserved |= {card.columns.image, card.columns.patient_id or "", card.columns.sample_id or ""}
    declared = card.structured if field == "structured" else card.subgroups
    columns: dict[str, pd.Series] = {}
    for column, kind in declared.items():
        if column in reserved:
            problems.add(f"the card's field '{field}' has {column!r}, which is the label, an id or the image")
            continue
        words = read_optional(table, column, field, problems)
        if words is not None:
            columns[column] = _numbers(words, column, problems) if kind == "number" else _categories(words)
    return pd.DataFrame(columns) if columns else None


def _multilabel(
    table: pd.DataFrame, card: DatasetCard, problems: Problems
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    columns = (card.label,) if isinstance(card.label, str) else card.label
    for column in card.classes:
        if column not in columns:
            problems.add(f"the card's field 'classes' has {column!r}, no label column{did_you_mean(column, columns)}")
    classes = tuple(card.classes.get(column, column) for column in columns)
    if len(set(classes)) < len(classes):
        problems.add("the card gives two label columns the same class name")
    if card.positive_class is not None:
        problems.add("the card's field 'positive_class' is for binary tasks only")
    labels = np.full((len(table), len(columns)), -1, dtype=np.int64)
    for index, column in enumerate(columns):
        for position, word in enumerate(_label_words(table, column, {}, problems)):
            if word in ("0", "1"):
                labels[position, index] = int(word)
            elif word:
                text = f"{word!r} is neither 0 nor 1"
                problems.add_row(position, column, text, f"{column} neither 0 nor 1")
    return classes, labels


def _label_words(table: pd.DataFrame, column: str, named: dict[str, str], problems: Problems) -> list[str]:
    # a word that usually means "not given" is a label where the card names it as a class
    if column not in table:
        problems.add(_no_column(table, column, "label"))
        return [""] * len(table)
    values = {canonical(value) for value in named}
    words = [canonical(word) for word in table[column]]
    words = ["" if is_blank(word) and word not in values else word for word in words]
    for position, word in enumerate(words):
        if not word:
            text = "empty; filter such rows out by the card's field 'rows', or give a label"
            problems.add_row(position, column, text, f"empty {column}")
    return words


def _ordered(classes: tuple[str, ...], card: DatasetCard, words: Sequence[str], problems: Problems) -> tuple[str, ...]:
    # the positive class of a binary task goes last
    if card.task == "binary" and len(classes) > 2:
        where = "the card's field 'classes'" if card.classes else f"column {card.label!r}"
        problems.add(
            f"a binary task has 2 classes, {where} has {len(classes)} ({_some(classes)}); name two, filter "
            "the rows, or use task: multiclass"
        )
    positive = card.positive_class
    if positive is None:
        return classes
    if card.task != "binary":
        problems.add("the card's field 'positive_class' is for binary tasks only")
    elif any(words) and positive not in classes:
        hint = did_you_mean(positive, classes)
        problems.add(f"the card's field 'positive_class' is {positive!r}, no class{hint}; they are {_some(classes)}")
    return (*(name for name in classes if name != positive), *(name for name in classes if name == positive))


def _numbers(words: Sequence[str], column: str, problems: Problems) -> pd.Series:
    values = np.full(len(words), math.nan)
    for position, word in enumerate(words):
        try:
            values[position] = float(canonical(word) or "nan")
        except ValueError:
            values[position] = math.inf
        if math.isinf(values[position]):
            problems.add_row(position, column, f"{word!r} is not a number", f"{column} is not a number")
    return pd.Series(values)


def _categories(words: Sequence[str]) -> pd.Series:
    return pd.Series(pd.Categorical([canonical(word) or None for word in words]))


def _numbers_first(word: str) -> tuple[float, str]:
    try:
        return float(word), word
    except ValueError:
        return math.inf, word


def _no_column(table: pd.DataFrame, column: str, field: str) -> str:
    hint = did_you_mean(column, table.columns)
    return f"no column {column!r}{hint} for the card's field '{field}'; the columns are {', '.join(table.columns)}"


def _some(words: Sequence[str] | dict[str, str]) -> str:
    first = ", ".join(repr(word) for word in list(words)[:8])
    return f"{first}, …" if len(words) > 8 else first
