"""A timm trunk beside a text tower over TF-IDF."""

from collections.abc import Sequence

import timm
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn

from benchmark.data.preprocess import Preprocess
from benchmark.errors import UnsupportedModality
from benchmark.model import BuildRequest, Features
from timm_tfidf.cards import TIMM_TFIDF

TRUNKS = {"paper": ("resnet18", 224), "tiny": ("resnet10t", 64)}
COUNTS = HashingVectorizer(n_features=4096, ngram_range=(1, 2), alternate_sign=False, norm=None)


class TfidfTower(nn.Module):
    """TF-IDF of words and pairs of words, then one learned layer; a buffer, ``idf`` is part of the state dict."""

    def __init__(self, reports: Sequence[str], width: int) -> None:
        super().__init__()
        holding = torch.from_numpy(COUNTS.transform(reports).getnnz(axis=0))
        self.idf = nn.Buffer(1 + torch.log((1 + len(reports)) / (1 + holding)))
        self.layer = nn.Linear(len(self.idf), width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        counts = torch.from_numpy(COUNTS.transform(texts).toarray()).to(self.idf)
        encoded: Tensor = self.layer(nn.functional.normalize(counts * self.idf))
        return encoded


class TimmTfidf(nn.Module):
    """The two towers; without train reports there is nothing to fit the text tower on, and there is none."""

    def __init__(self, trunk: str, size: int, reports: Sequence[str], width: int = 256) -> None:
        super().__init__()
        self.card = TIMM_TFIDF.card
        self.preprocess = Preprocess(size)
        self.image = timm.create_model(trunk, pretrained=False, num_classes=0)
        self.text = TfidfTower(reports, width) if reports else None
        self.image_dim, self.text_dim = self.image.num_features, width

    def encode_image(self, pixels: Tensor) -> Features:
        return Features(self.image(pixels))

    def encode_text(self, texts: Sequence[str]) -> Features:
        if self.text is None:
            raise UnsupportedModality("timm-tfidf fits its text tower on the train reports, and there are none")
        return Features(self.text(texts))


def build(request: BuildRequest) -> TimmTfidf:
    """Draw random weights from the request's seed, and load the state dict that it names, if any, in their place."""
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        model = TimmTfidf(*TRUNKS[request.scale], request.train_reports)
    if request.weights != "random":
        model.load_state_dict(torch.load(request.weights, map_location="cpu", weights_only=True))
    return model.to(request.device).eval()
