"""The audit's checks of reports: whether they are copies, whether they give the label away, whether they are there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy.stats import fisher_exact

from benchmark.data import telling, wordings
from benchmark.data.case import Case, Found, amount, memberships
from benchmark.data.manifest import Dataset

CLEAR, TELLING = 0.001, 0.1
"""Fisher's p below which, and difference of shares from which, something about a report is said to tell the label."""

MANY = 0.25
"""Share of the test reports that training has too, or nearly so, from which this is a warning. Template phrases for
what is normal come back in any set: in 11 to 19 % of the reports of lumbar phantoms of 300 patients."""

NAMED = 0.9
"""Lower end of the AUROC's interval from which reports are said to name the label. That they tell something about it
is expected: they describe what it is about."""

NAME_LETTERS = 3
"""Letters from which a class name is looked for in reports."""


def identical_texts(case: Case) -> Found | None:
    """Find validation and test rows whose report, but for case, blanks and punctuation, is also a training report."""
    reports = _reports(case.dataset)
    known = {reports[position] for position in case.split.train} - {""}
    return _repeated(case, reports, known, "that training has too")


def _reports(dataset: Dataset) -> list[str]:
    # the words of each report; empty without one
    return [" ".join(wordings.words(report or "")) for report in dataset.reports or [None] * len(dataset)]


def _repeated(case: Case, reports: Sequence[str], repeated: Collection[str], words: str) -> Found | None:
    """What is said of validation and test rows whose report is one of those that training has, or nearly has."""
    in_test = [position for position in case.split.test if reports[position] in repeated]
    in_val = [position for position in case.split.val if reports[position] in repeated]
    if not in_test and not in_val:
        return None
    share = len(in_test) / max(1, sum(bool(reports[position]) for position in case.split.test))
    return Found(
        "warning" if share >= MANY else "note",
        f"{amount(len(in_test), 'test row', 'test rows')} ({share:.0%} of those with a report) and {len(in_val)} of "
        f"validation have a report {words}: results of text, and of retrieval, partly measure memory",
        "read text and retrieval figures with care; template phrases are natural, copies are not",
        case.rows(in_test) + case.rows(in_val),
    )


def telling_reports(case: Case) -> Found | None:
    """Find that the words of the report tell the label, to samples of patients who were not learned from."""
    guess = telling.from_reports(case.dataset, case.split.train)
    if guess is None or guess.low <= 0.5:
        return None
    names = guess.low >= NAMED
    return Found(
        "warning" if names else "note",
        f"the words of a report {'name' if names else 'tell something about'} the label: {guess}",
        "read what is scored from text, or trained on it, as a ceiling and not as a competitor of pictures",
        count=sum(bool(case.dataset.reports and case.dataset.reports[i]) for i in case.split.train),
    )


def similar_texts(case: Case) -> Found | None:
    """Find validation and test rows whose report is nearly a training report, and not the same."""
    reports = _reports(case.dataset)
    known = {reports[position] for position in case.split.train} - {""}
    asked = {reports[position] for part in (case.split.val, case.split.test) for position in part} - known - {""}
    return _repeated(case, reports, wordings.near(asked, known), "that is one of training's but for a few words")


def named_labels(case: Case) -> Found | None:
    """Find reports that have a class name or a prompt of it word for word."""
    dataset = case.dataset
    reports = np.array([f" {report} " for report in _reports(dataset)], dtype=object)
    naming = np.zeros(len(dataset), dtype=bool)
    shares, tells = [], False
    for index, name in enumerate(dataset.classes):
        members = dataset.labels == index if dataset.labels.ndim == 1 else dataset.labels[:, index] == 1
        phrases = [" ".join(wordings.words(phrase)) for phrase in (name, *dataset.card.prompts.get(name, ()))]
        # '0', 'A' or 'no' is a word of many reports, and names nothing there
        phrases = [f" {phrase} " for phrase in phrases if sum(letter.isalpha() for letter in phrase) >= NAME_LETTERS]
        named = np.array([any(phrase in report for phrase in phrases) for report in reports], dtype=bool)
        if named.any():
            table = np.array([[(named & where).sum(), (~named & where).sum()] for where in (members, ~members)])
            inside, outside = table[:, 0] / table.sum(axis=1).clip(min=1)
            shares.append(f"{name!r} {inside:.0%}, the others {outside:.0%}")
            tells |= bool(abs(inside - outside) >= TELLING and fisher_exact(table).pvalue < CLEAR)
            naming |= named
    if not shares:
        return None
    return Found(
        "warning" if tells else "note",
        f"reports have a class name or a prompt word for word (share of a class's rows: {'; '.join(shares)}): "
        "zero-shot by text, and training on these reports, meet the answer",
        "take the phrase out of the reports, or word the prompts otherwise",
        case.rows(np.flatnonzero(naming)),
    )


def rows_without_report(case: Case) -> Found | None:
    """Find rows without a report in a dataset that has reports."""
    positions = [position for position, report in enumerate(case.dataset.reports or ()) if not report]
    if not positions:
        return None
    return Found(
        "note",
        f"{amount(len(positions), 'row has', 'rows have')} no report: the image task counts them, training on "
        "text and retrieval leave them out, and rows scored from text take them as empty",
        "add the reports, or set 'require_report: true' in the card to refuse such rows",
        case.rows(positions),
    )


def telling_absence(case: Case) -> Found | None:
    """Find that whether a row has a report goes with its label, so that no word need be read to guess it."""
    dataset = case.dataset
    absent = np.array([report is None for report in dataset.reports or ()], dtype=bool)
    if not absent.any() or absent.all():
        return None
    shares = {}
    for name, members in memberships(dataset):
        table = np.array([[(absent & where).sum(), (~absent & where).sum()] for where in (members, ~members)])
        inside, outside = table[:, 0] / table.sum(axis=1).clip(min=1)
        if inside - outside >= TELLING and fisher_exact(table).pvalue < CLEAR:
            shares[name] = f"{name!r} {inside:.0%}, the others {outside:.0%}"
    if not shares:
        return None
    return Found(
        "warning",
        f"whether there is a report goes with the label (share of rows without one: {'; '.join(shares.values())}): "
        "what is scored from text may score its absence",
        "set 'require_report: true' in the card, or read text rows with this in mind",
        count=int(absent.sum()),
    )


def no_reports(case: Case) -> Found | None:
    """Find that a dataset has pictures alone."""
    if case.dataset.reports is not None:
        return None
    return Found(
        "note",
        "there are no reports: text columns, training on text, zero-shot of trained text and retrieval are left out",
        "name the report column in the card's field 'columns.report' if there is one",
    )
