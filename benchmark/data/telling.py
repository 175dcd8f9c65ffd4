"""How well a label can be guessed without looking at a picture: from the report, or from the structured columns.

A logistic regression on training samples alone, each guessed by a model that saw none of its patient. It is a warning
light and no result: the rows ``tfidf-report`` and ``metadata-only`` of a run measure the same on test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.data.manifest import Dataset

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Indices = NDArray[np.int64]

FOLDS = 5

FEWEST = 10
"""Training patients with a class, and without it, below which nothing is said about it."""

MOST = 20_000
"""Training samples that are looked at; of more, evenly spaced ones."""

TERMS = 2000
"""Words and pairs of words of reports; a word that one report alone has is none."""

CATEGORIES = 50
"""Commonest values of a structured column that count as its categories."""


@dataclass(frozen=True)
class Guess:
    """The class that is guessed best, against all others."""

    name: str
    auroc: float
    low: float
    """Lower end of its 95% interval over patients."""
    balanced_accuracy: float

    def __str__(self) -> str:
        return (
            f"on training patients not learned from, {self.name!r} is guessed with AUROC {self.auroc:.2f} (at least "
            f"{self.low:.2f}) and balanced accuracy {self.balanced_accuracy:.2f}"
        )


def from_reports(dataset: Dataset, train: Indices) -> Guess | None:
    """Guess each class from the words of the reports; None where there are too few of them."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    reports = dataset.reports or ()
    rows = _thinned(np.array([i for i in train if reports and reports[i]], dtype=np.int64))
    texts = [str(reports[i]) for i in rows]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=TERMS, sublinear_tf=True)
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError:  # scikit-learn's only answer where no word is in two reports
        return None
    return _best(dataset, rows, features)


def from_metadata(dataset: Dataset, train: Indices) -> Guess | None:
    """Guess each class from the structured columns; None where there are none, or too few samples."""
    if dataset.structured is None or not dataset.structured.shape[1]:
        return None
    rows = _thinned(train)
    return _best(
        dataset, rows, np.hstack([_encoded(dataset.structured[name].iloc[rows]) for name in dataset.structured])
    )


def _thinned(rows: Indices) -> Indices:
    return rows[:: -(-len(rows) // MOST) or 1]


def _encoded(column: pd.Series[Any]) -> NDArray[np.float64]:
    """One column as (n, 2) standardised number and whether it is missing, or (n, categories)."""
    if column.dtype == "category":
        values = column.astype(object).where(column.notna(), "")
        common = values.value_counts().index[:CATEGORIES]
        return np.column_stack([values.to_numpy() == value for value in common]).astype(np.float64)
    numbers, missing = column.to_numpy(dtype=np.float64), column.isna().to_numpy()
    if missing.all():
        return np.zeros((len(column), 0))
    filled = np.where(missing, np.median(numbers[~missing]), numbers)
    return np.column_stack([(filled - filled.mean()) / (filled.std() or 1.0), missing])


def _best(dataset: Dataset, rows: Indices, features: csr_matrix | NDArray[np.float64]) -> Guess | None:
    """Guess every class in turn, and give the one whose interval lies highest."""
    labels, groups = dataset.labels[rows], dataset.groups[rows]
    guesses = []
    for index, name in enumerate(dataset.classes):
        if dataset.card.task == "binary" and index == 0:  # the other side of the same question
            continue
        members = labels == index if labels.ndim == 1 else labels[:, index] == 1
        n_with, n_without = (len(np.unique(groups[where])) for where in (members, ~members))
        if min(n_with, n_without) >= FEWEST:
            guesses.append(_guess(name, features, members, groups, (n_with, n_without)))
    return max(guesses, key=lambda guess: guess.low, default=None)


def _guess(
    name: str,
    features: csr_matrix | NDArray[np.float64],
    members: NDArray[np.bool_],
    groups: Indices,
    n_patients: tuple[int, int],
) -> Guess:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    scores = cross_val_predict(
        LogisticRegression(C=10, class_weight="balanced", solver="liblinear"),
        features,
        members,
        groups=groups,
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0),
        method="predict_proba",
    )[:, 1]
    auroc = float(roc_auc_score(members, scores))
    return Guess(
        name=name,
        auroc=auroc,
        low=auroc - 1.96 * _standard_error(auroc, *n_patients),
        balanced_accuracy=float(balanced_accuracy_score(members, scores > 0.5)),
    )


def _standard_error(auroc: float, n_with: int, n_without: int) -> float:
    """Hanley and McNeil 1982, equation 1; patients are counted, as samples of one patient are alike."""
    both_with, both_without = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = (
        auroc * (1 - auroc) + (n_with - 1) * (both_with - auroc**2) + (n_without - 1) * (both_without - auroc**2)
    ) / (n_with * n_without)
    return float(np.sqrt(max(variance, 0.0)))
