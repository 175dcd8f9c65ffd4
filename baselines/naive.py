"""Rows that every benchmark must beat: features that need no trained encoder, under the same probe as all others.

What is fitted (medians, categories, vocabulary) is fitted on the train rows alone. Standardising and classifying are
the probe's job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UnsupportedModality
from benchmark.model import BuildRequest, ModelCard, ModelEntry

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.data.manifest import Dataset

Indices = NDArray[np.int64]
Matrix = NDArray[np.float64]

_OWN = "a reference row of this benchmark; no publication"

MAJORITY_CARD = ModelCard(
    name="majority",
    title="Majority class",
    summary="Sees nothing and answers with the class frequencies of the train split: "
    "the accuracy that imbalance alone gives away, and 0.5 AUROC.",
    paper=_OWN,
    licence="Apache-2.0",
    inputs=(),
)
METADATA_CARD = ModelCard(
    name="metadata-only",
    title="Metadata only",
    summary="Sees age, sex, scanner and whatever else the manifest lists, and no picture: "
    "an image model that does no better may be reading the case mix.",
    paper=_OWN,
    licence="Apache-2.0",
    inputs=("structured",),
)
TFIDF_CARD = ModelCard(
    name="tfidf-report",
    title="TF-IDF of the report",
    summary="Sees the words of the sample's own report, and no picture: "
    "where it is near perfect, the report names the label and text rows answer an easier question.",
    paper="Salton & Buckley, Information Processing & Management 24(5):513-523 (1988), "
    "doi:10.1016/0306-4573(88)90021-0",
    licence="Apache-2.0",
    inputs=("text",),
)
IMAGE_STATISTICS_CARD = ModelCard(
    name="image-statistics",
    title="Image statistics",
    summary="Sees the grey-level histogram and the size of the picture, and no anatomy: "
    "where it is above chance, scanner, export or exposure go with the label.",
    paper=_OWN,
    licence="Apache-2.0",
    inputs=("image",),
)
RANDOM_PIXELS_CARD = ModelCard(
    name="random-pixels",
    title="Random projection of pixels",
    summary="Sees the grey picture at 64 px through a random matrix: "
    "an encoder that does no better has learned nothing that a linear probe of pixels would not find.",
    paper="Johnson & Lindenstrauss, Contemporary Mathematics 26:189-206 (1984), doi:10.1090/conm/026/737400",
    licence="Apache-2.0",
    inputs=("image",),
)
RANDOM_ENCODER_CARD = ModelCard(
    name="random-encoder",
    title="Random encoder (thin ResNet, never trained)",
    summary="Sees the grey picture at 64 px through a small ResNet with random filters: "
    "what is above it was learned, and is not owed to the form of the network.",
    paper=_OWN,
    licence="Apache-2.0",
    inputs=("image",),
)


class Majority:
    """One column of zeros, from which a probe can learn the class frequencies of the train split and nothing else."""

    card: ModelCard = MAJORITY_CARD

    def features(self, dataset: Dataset, train: Indices) -> Matrix:  # noqa: ARG002 - the protocol's signature
        """Give (n, 1) zeros."""
        return np.zeros((len(dataset), 1))


class MetadataOnly:
    """The structured columns as numbers."""

    card: ModelCard = METADATA_CARD

    def features(self, dataset: Dataset, train: Indices) -> Matrix:
        """Encode the structured columns, in their order, into (n, d).

        A number becomes its value, with the train median where it is missing; a category becomes one 0/1 column per
        category of the train split, all zero for a category not seen there. Each is followed by a 0/1 column that
        says whether it is missing.

        Raises:
            UnsupportedModality: where the dataset has no structured columns.
        """
        if dataset.structured is None or dataset.structured.shape[1] == 0:
            raise UnsupportedModality(f"dataset {dataset.card.name!r} has no structured columns (card: 'structured')")
        columns = [dataset.structured[name] for name in dataset.structured.columns]
        return np.column_stack([_encode(column, train) for column in columns]).astype(np.float64)


class TfidfReport:
    """TF-IDF of the report's words and pairs of words."""

    card: ModelCard = TFIDF_CARD

    def features(self, dataset: Dataset, train: Indices) -> Matrix:
        """Weigh one- and two-word terms (at most 2000, each in two train reports or more) into (n, d).

        Terms and document frequencies come from the train reports, a report that a patient's rows repeat counted
        once. One-character words are kept: ``grade B``. A sample without a report is all zero.

        Raises:
            UnsupportedModality: where the dataset has no reports, or no term is in two train reports.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        if dataset.reports is None:
            raise UnsupportedModality(f"dataset {dataset.card.name!r} has no reports")
        texts = [report or "" for report in dataset.reports]
        documents = [text for _, text in sorted({(int(dataset.groups[i]), texts[i]) for i in train if texts[i]})]
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            min_df=2,
            max_features=2000,
            sublinear_tf=True,
            token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - a token here is a word
        )
        try:
            vectorizer.fit(documents)
        except ValueError as error:  # scikit-learn's only answer to an empty vocabulary
            raise UnsupportedModality(
                f"dataset {dataset.card.name!r}: no word is in two of its {len(documents)} train reports"
            ) from error
        weights: Matrix = vectorizer.transform(texts).toarray()
        return weights


class ImageStatistics:
    """Grey-level histogram and size of the decoded picture."""

    card: ModelCard = IMAGE_STATISTICS_CARD

    def features(self, dataset: Dataset, train: Indices) -> Matrix:  # noqa: ARG002 - nothing here is fitted
        """Describe each picture by 21 figures, (n, 21).

        Shares of 16 equal bins of the 8-bit grey level (mean over colours), its mean and standard deviation, then
        height, width (pixels) and width over height.
        """
        return np.array([_describe(pixels) for pixels in dataset.pixels])


def _encode(column: pd.Series[Any], train: Indices) -> Matrix:
    """One structured column as (n, 2) for a number or (n, categories + 1)."""
    missing = column.isna().to_numpy()
    observed = np.zeros(len(column), dtype=bool)
    observed[train] = True
    observed &= ~missing
    if column.dtype == "category":
        values = column.astype(str).to_numpy()
        known = np.unique(values[observed])
        return np.column_stack([(values[:, None] == known) & ~missing[:, None], missing])
    numbers = column.to_numpy(dtype=np.float64)
    if not observed.any():
        # Never given in train, hence nothing to learn from: a value elsewhere must not reach the probe.
        return np.column_stack([np.zeros(len(column)), missing])
    return np.column_stack([np.where(missing, np.median(numbers[observed]), numbers), missing])


def _describe(pixels: NDArray[np.uint8]) -> Matrix:
    grey = (pixels if pixels.ndim == 2 else pixels.mean(axis=2)).astype(np.uint8)
    height, width = grey.shape
    histogram = np.bincount(grey.ravel() >> 4, minlength=16) / grey.size
    return np.array([*histogram, grey.mean(), grey.std(), height, width, width / height])


def build_majority(_request: BuildRequest) -> Majority:
    """Build the row ``majority``."""
    return Majority()


def build_metadata_only(_request: BuildRequest) -> MetadataOnly:
    """Build the row ``metadata-only``."""
    return MetadataOnly()


def build_tfidf_report(_request: BuildRequest) -> TfidfReport:
    """Build the row ``tfidf-report``."""
    return TfidfReport()


def build_image_statistics(_request: BuildRequest) -> ImageStatistics:
    """Build the row ``image-statistics``."""
    return ImageStatistics()


MAJORITY = ModelEntry(card=MAJORITY_CARD, build=build_majority, kind="naive", trainable=False)
METADATA_ONLY = ModelEntry(card=METADATA_CARD, build=build_metadata_only, kind="naive", trainable=False)
TFIDF_REPORT = ModelEntry(card=TFIDF_CARD, build=build_tfidf_report, kind="naive", trainable=False)
IMAGE_STATISTICS = ModelEntry(card=IMAGE_STATISTICS_CARD, build=build_image_statistics, kind="naive", trainable=False)
RANDOM_PIXELS = ModelEntry(
    card=RANDOM_PIXELS_CARD, build="baselines.random_rows:build_pixels", kind="naive", trainable=False
)
RANDOM_ENCODER = ModelEntry(
    card=RANDOM_ENCODER_CARD, build="baselines.random_rows:build_encoder", kind="naive", trainable=False
)
