"""Conformance passes a sound model and names exactly the clause that a broken one breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.conformance import EXAMPLE_REPORTS, NAIVE_CLAUSES, check
from benchmark.conformance_encoder import ENCODER_CLAUSES
from benchmark.conformance_examples import TRAIN, example_dataset, with_other_held_out_inputs
from benchmark.errors import UnsupportedModality
from benchmark.model import BuildRequest, Features, ModelCard, ModelEntry, Size, WeightSource

CARD = ModelCard(name="sound", title="Sound", summary="A sound model.", paper="none", licence="MIT", inputs=("image",))
REQUEST = BuildRequest(train_reports=EXAMPLE_REPORTS)
SIDE = 16


class Sound(nn.Module):
    """A model that keeps every clause, in as few layers as show them all."""

    card = CARD
    image_dim = 6
    text_dim = 4

    def __init__(self, request: BuildRequest) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            self.patches = nn.Conv2d(3, 5, 4, stride=4)
            self.norm = nn.BatchNorm2d(5)
            self.image = nn.Linear(5, 6)
            self.drop = nn.Dropout(0.2)
            self.characters = nn.Embedding(128, 4)
            self.text = nn.Linear(4, 4)
            self.released = nn.Linear(6, 4, bias=False)
        self.register_buffer("spread", torch.tensor(2.0))

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels = np.array(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def encode_image(self, pixels: Tensor) -> Features:
        tokens = self.norm(self.patches(pixels)).relu().flatten(2).mT
        return Features(self.drop(self.image(tokens.mean(1))) * self.spread, tokens)

    def encode_text(self, texts: Sequence[str]) -> Features:
        rows = [torch.tensor([ord(c) % 128 for c in text[:64]] or [0]) for text in texts]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.text.weight.device)
        mask = tokens >= 0
        words = self.characters(tokens.clamp(min=0)) * mask[..., None]
        return Features(self.text(words.sum(1) / mask.sum(1, keepdim=True)), words, mask)

    def project_image(self, features: Features) -> Tensor:
        return F.normalize(self.released(features.pooled), dim=-1)

    def project_text(self, features: Features) -> Tensor:
        return F.normalize(features.pooled, dim=-1)


def changed(features: Features, pooled: Tensor) -> Features:
    return Features(pooled, features.tokens, features.mask)


class NoCardOfItsOwn(Sound):
    card = CARD.model_copy(update={"version": "2"})


class FractionalWidth(Sound):
    image_dim = 6.0


class KeepsThePicturesSize(Sound):
    def preprocess(self, image):
        return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)


class GreyStaysGrey(Sound):
    def preprocess(self, image):
        return super().preprocess(image)[: len(image.getbands())]


class WholeNumberPixels(Sound):
    def preprocess(self, image):
        return (super().preprocess(image) * 255).to(torch.uint8)


class DividesByTheSpread(Sound):
    """NaN for a blank picture."""

    def preprocess(self, image):
        pixels = super().preprocess(image)
        return (pixels - pixels.mean()) / pixels.std()


class WrongWidth(Sound):
    image_dim = 7


class DoublePrecision(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled.double())


class NotFinite(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled.log())


class FailsOnEmptyText(Sound):
    def encode_text(self, texts):
        features = super().encode_text(texts)
        return changed(features, features.pooled / torch.tensor([[float(len(text) > 0)] for text in texts]))


class FailsOnLongText(Sound):
    def encode_text(self, texts):
        assert all(len(text) < 1000 for text in texts), "sequence is longer than 1000"
        return super().encode_text(texts)


class FailsOutsideAscii(Sound):
    def encode_text(self, texts):
        for text in texts:
            text.encode("ascii")
        return super().encode_text(texts)


class DropsInEval(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, F.dropout(features.pooled, 0.5, training=True))


class RemembersTheLastBatch(Sound):
    last = 0.0

    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        pooled = features.pooled + self.last
        self.last = float(len(pixels))
        return changed(features, pooled)


class RandomCrop(Sound):
    def preprocess(self, image):
        return super().preprocess(image) + torch.rand(1)


class BatchNormLeftInTraining(Sound):
    def encode_image(self, pixels):
        norm = self.norm
        maps = F.batch_norm(
            self.patches(pixels), norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True
        )
        return Features(self.image(maps.relu().mean((2, 3))))


class SwitchesItselfToEval(Sound):
    def encode_image(self, pixels):
        self.eval()
        return super().encode_image(pixels)


class SubtractsTheBatchMean(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled - features.pooled.mean(0))


class CountsPadding(Sound):
    """The classic: a text's features depend on the longest text beside it."""

    def encode_text(self, texts):
        features = super().encode_text(texts)
        return changed(features, self.text(features.tokens.mean(1)))


class CrashesOnOne(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        pooled = features.pooled.squeeze()
        assert pooled.ndim == 2, "expected a matrix"
        return changed(features, pooled)


class Detached(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled.detach())


class PartlyDetached(Sound):
    def encode_image(self, pixels):
        with torch.no_grad():
            tokens = self.norm(self.patches(pixels)).relu().flatten(2).mT
        return Features(self.drop(self.image(tokens.mean(1))) * self.spread, tokens)


class InfiniteGradient(Sound):
    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled + (self.image.bias * 0).sum().sqrt())


class BranchesOnTheLoss(Sound):
    """What a loop may do and vmap may not."""

    def make_objective(self):
        return _Branching()


class _Branching(nn.Module):
    def forward(self, image, text, labels):
        loss = (image.pooled - text.pooled).square().mean()
        return loss * 2 if loss.item() > 1 else loss


class ObjectiveWithTowerParameters(Sound):
    def make_objective(self):
        return _Weighted(self.text)


class _Weighted(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, image, text, labels):
        return (image.pooled * text.pooled).sum(1).mean() * self.layer.weight.mean()


class ObjectiveDrawnAtRandom(Sound):
    """Whose temperature depends on how many were made before it."""

    def make_objective(self):
        return _Tempered(torch.rand(1))


class _Tempered(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.temperature = nn.Parameter(start)

    def forward(self, image, text, labels):
        return (image.pooled - text.pooled).square().mean() * self.temperature.exp().sum()


class IgnoresTheSeed(Sound):
    def __init__(self, request):
        super().__init__(replace(request, seed=0))


class StateOutsideTheStateDict(Sound):
    def __init__(self, request):
        super().__init__(request)
        self.register_buffer("shift", torch.rand(6, generator=torch.Generator().manual_seed(request.seed)), False)

    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled + self.shift)


class PlainTensor(Sound):
    def __init__(self, request):
        super().__init__(request)
        self.offset = torch.ones(6)

    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled + self.offset)


class OtherEachTime(Sound):
    """Draws from the global state instead of the request's seed."""

    def __init__(self, request):
        super().__init__(request)
        nn.init.normal_(self.text.weight)


class WithoutTextMethod:
    card = CARD
    image_dim = text_dim = 4

    def __init__(self, request):
        pass

    def preprocess(self, image):
        return torch.zeros(3, 4, 4)

    def encode_image(self, pixels):
        return Features(pixels.flatten(1)[:, :4])


class ImageOnly(Sound):
    text_dim = 0

    def encode_text(self, texts):
        raise UnsupportedModality("no text encoder")


class SaysSo(ImageOnly):
    card = CARD.model_copy(update={"encodes": ("image",)})


class PlainObject:
    """Not an nn.Module, as an adapter around another framework's model would be."""

    card = CARD
    image_dim = 6
    text_dim = 4

    def __init__(self, request):
        self._inner = Sound(request).eval()
        self.preprocess = self._inner.preprocess
        self.encode_image = self._inner.encode_image
        self.encode_text = self._inner.encode_text


class ZeroGain(Sound):
    """A residual branch behind a gain of zero, as timm initialises ResNet: its layers learn from the second step."""

    def __init__(self, request):
        super().__init__(request)
        self.branch = nn.ModuleList([nn.Linear(6, 6) for _ in range(8)])
        self.gain = nn.Parameter(torch.zeros(1))

    def encode_image(self, pixels):
        features = super().encode_image(pixels)
        return changed(features, features.pooled + self.gain * sum(layer(features.pooled) for layer in self.branch))


def cannot_build(request):
    raise FileNotFoundError("no such checkpoint")


def verdicts(entry: ModelEntry) -> dict[str, bool | None]:
    return {clause.name: clause.passed for clause in check(entry, REQUEST)}


def failed(entry: ModelEntry, request: BuildRequest = REQUEST) -> dict[str, str]:
    return {clause.name: clause.detail for clause in check(entry, request) if clause.passed is False}


def with_size(**figures: int) -> ModelCard:
    """The card of the sound model, with what it states of its size."""
    size = Size(**({"parameters": 847, "image_dim": 6, "text_dim": 4, "input_size": SIDE} | figures))
    return CARD.model_copy(update={"sizes": {"tiny": size}})


# --------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize(("build", "parameters"), [(Sound, 847), (ZeroGain, 847 + 8 * 42 + 1)])
def test_sound_model_passes_every_clause(build, parameters, monkeypatch):
    monkeypatch.setattr(build, "card", with_size(parameters=parameters))
    clauses = check(ModelEntry(build.card, build), REQUEST)
    assert [clause.name for clause in clauses] == [each.name for each in ENCODER_CLAUSES]
    assert [clause for clause in clauses if clause.passed is not True] == []


@pytest.mark.parametrize(
    ("build", "clause", "said"),
    [
        (cannot_build, "builds", "FileNotFoundError: no such checkpoint"),
        ("no.such.module:build", "builds", "ModuleNotFoundError"),
        (WithoutTextMethod, "protocol", "lacks encode_text"),
        (NoCardOfItsOwn, "protocol", "not the card of its registered entry"),
        (FractionalWidth, "protocol", "image_dim is 6.0"),
        (KeepsThePicturesSize, "preprocess", "different shapes"),
        (GreyStaysGrey, "preprocess", "a L picture of 96 x 40 becomes (1, 16, 16)"),
        (WholeNumberPixels, "preprocess", "torch.uint8"),
        (DividesByTheSpread, "preprocess", "not finite"),
        (WrongWidth, "image features", "shape (5, 6) where the model promises (5, 7)"),
        (DoublePrecision, "image features", "float64, not float32"),
        (NotFinite, "image features", "not finite for"),
        (FailsOnEmptyText, "text features", "not finite for 1 of 5"),
        (FailsOnLongText, "text features", "longer than 1000"),
        (FailsOutsideAscii, "text features", "UnicodeEncodeError"),
        (DropsInEval, "deterministic", "image differs by up to"),
        (RemembersTheLastBatch, "deterministic", "image differs by up to"),
        (RandomCrop, "deterministic", "preprocess gives other values"),
        (BatchNormLeftInTraining, "eval mode", "writes to norm.running_mean, norm.running_var"),
        (SwitchesItselfToEval, "eval mode", "switches the training flag"),
        (SubtractsTheBatchMean, "batch invariance", "image features of the same samples in batches of one differ"),
        (CountsPadding, "batch invariance", "text features of the same samples in batches of one differ"),
        (CrashesOnOne, "batch invariance", "AssertionError: expected a matrix"),
        (Detached, "gradient flow", "image features carry no gradient"),
        (
            PartlyDetached,
            "gradient flow",
            "4 of 9 trainable parameter tensors get no gradient, the first patches.weight",
        ),
        (InfiniteGradient, "gradient flow", "is not finite"),
        (BranchesOnTheLoss, "objective", "vmap"),
        (ObjectiveWithTowerParameters, "objective", "holds parameters of the model"),
        (ObjectiveDrawnAtRandom, "objective", "heads trained together (augmentation 'none') lose"),
        (IgnoresTheSeed, "state round trip", "another seed gives the same random weights"),
        (StateOutsideTheStateDict, "state round trip", "image differs by up to"),
        (PlainTensor, "device move", "offset is a plain tensor"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_model_fails_exactly_the_clause_it_breaks(build, clause, said):
    found = failed(ModelEntry(CARD, build))
    assert list(found) == [clause]
    assert said in found[clause]


def test_model_that_comes_out_otherwise_each_time_fails_where_it_travels():
    # Its second copy differs from the first wherever one is built: moved, or in a worker.
    assert set(failed(ModelEntry(CARD, OtherEachTime))) == {"device move", "pickling for workers"}


def test_build_function_that_cannot_travel_to_a_worker_is_named():
    found = failed(ModelEntry(CARD, lambda request: Sound(request)))
    assert list(found) == ["pickling for workers"]


def test_what_rests_on_a_failed_clause_is_not_checked_and_says_so():
    clauses = {c.name: c for c in check(ModelEntry(CARD, WrongWidth), REQUEST)}
    assert clauses["batch invariance"].passed is None
    assert clauses["batch invariance"].detail == "not checked, as 'image features' does not hold"
    assert clauses["text features"].passed is True


def test_image_only_model_has_no_text_clauses_and_is_not_failed_for_it():
    found = verdicts(ModelEntry(SaysSo.card, SaysSo))
    assert {name for name, passed in found.items() if passed is None} == {
        "stated sizes",
        "text features",
        "gradient flow",
        "objective",
    }
    assert False not in found.values()


def test_image_only_model_must_say_so_on_its_card():
    assert "encodes=('image',)" in failed(ModelEntry(CARD, ImageOnly))["text features"]


def test_frozen_adapter_around_a_plain_object_has_no_state_clauses():
    found = verdicts(ModelEntry(CARD, PlainObject, trainable=False))
    assert {name for name, passed in found.items() if passed is None} == {
        "stated sizes",
        "eval mode",
        "gradient flow",
        "state round trip",
        "device move",
    }
    assert False not in found.values()
    assert list(failed(ModelEntry(CARD, PlainObject, trainable=True))) == ["protocol"]


def test_card_must_say_what_a_reader_needs_and_pin_what_it_downloads():
    def clause(**fields):
        card = CARD.model_copy(update=fields)
        return next(
            c for c in check(ModelEntry(card, type("Own", (Sound,), {"card": card})), REQUEST) if c.name == "card"
        )

    def said(**fields):
        assert clause(**fields).passed is False
        return clause(**fields).detail

    moving = WeightSource(repo_id="a/b", revision="main", files=("f",), tower="both", licence="MIT")
    assert said(paper=" ", licence="") == "empty on the card: paper, licence"
    assert "'inputs' is empty" in said(inputs=())
    assert "'main' is not a commit" in said(weights=(moving,))
    known = moving.model_copy(update={"unpinned": "its publisher keeps no history"})
    assert clause(weights=(known,)).passed
    assert clause(weights=(known,)).detail == "a/b is not pinned: its publisher keeps no history"
    assert "no files" in said(weights=(moving.model_copy(update={"revision": "0" * 40, "files": ()}),))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"parameters": 846}, "the card states parameters 846, and it is 847"),
        ({"image_dim": 7}, "the card states image_dim 7, and it is 6"),
        ({"text_dim": 0, "input_size": 32}, "the card states text_dim 0, and it is 4; input_size 32, and it is 16"),
    ],
)
def test_size_that_the_card_states_must_be_the_built_models(figures, said, monkeypatch):
    monkeypatch.setattr(Sound, "card", with_size(**figures))
    assert failed(ModelEntry(Sound.card, Sound)) == {"stated sizes": said}


def test_input_that_is_no_square_has_no_size_to_state(monkeypatch):
    monkeypatch.setattr(Sound, "card", with_size())
    monkeypatch.setattr(Sound, "preprocess", lambda self, image: torch.zeros(3, 8, SIDE))
    assert failed(ModelEntry(Sound.card, Sound))["stated sizes"] == ("the card states input_size 16, and it is 8 x 16")


def test_size_at_another_scale_is_not_compared(monkeypatch):
    monkeypatch.setattr(Sound, "card", CARD.model_copy(update={"sizes": {"paper": with_size().sizes["tiny"]}}))
    clause = next(c for c in check(ModelEntry(Sound.card, Sound), REQUEST) if c.name == "stated sizes")
    assert (clause.passed, clause.detail) == (None, "the card states no size at scale 'tiny'")


def test_parameters_are_compared_where_they_show_and_are_random(monkeypatch):
    card = with_size(parameters=1)

    def stated(entry, request=REQUEST):
        clause = next(c for c in check(entry, request) if c.name == "stated sizes")
        return clause.passed, clause.detail

    monkeypatch.setattr(PlainObject, "card", card)
    monkeypatch.setattr(Sound, "card", card)
    assert stated(ModelEntry(card, PlainObject, trainable=False)) == (True, "parameters are not compared")
    pretrained = replace(REQUEST, weights="pretrained")
    assert stated(ModelEntry(card, Sound), pretrained) == (True, "parameters are not compared")
    assert stated(ModelEntry(card, Sound))[0] is False


@pytest.mark.parametrize("build", [Sound, ZeroGain])
def test_published_size_is_held_to_the_same_clauses_on_fewer_examples(build, monkeypatch):
    seen: list[int] = []
    encode = Sound.encode_image
    monkeypatch.setattr(Sound, "encode_image", lambda self, pixels: seen.append(len(pixels)) or encode(self, pixels))
    clauses = check(ModelEntry(CARD, build), replace(REQUEST, scale="paper"))
    assert [clause.name for clause in clauses if clause.passed is not True] == ["stated sizes"]
    assert set(seen) == {1, 2, 3}


@pytest.mark.parametrize("build", [PartlyDetached, CountsPadding, SubtractsTheBatchMean, DropsInEval])
def test_published_size_fails_as_the_tiny_one_does(build):
    paper = failed(ModelEntry(CARD, build), replace(REQUEST, scale="paper"))
    assert list(paper) == list(failed(ModelEntry(CARD, build)))


def test_check_leaves_global_random_state_and_the_callers_entry_as_they_were():
    entry = ModelEntry(CARD, Sound)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check(entry, REQUEST)
    assert torch.equal(torch.rand(3), expected)


def build_on_device(request):
    return Sound(request).to(request.device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sound_model_passes_on_a_gpu():
    assert failed(ModelEntry(CARD, build_on_device), replace(REQUEST, device="cuda")) == {}


# --------------------------------------------------------------------------------------------- naive rows

NAIVE_CARD = CARD.model_copy(update={"inputs": ()})


class Row:
    """Height of the picture in units of the train rows' mean."""

    card = NAIVE_CARD

    def __init__(self, request):
        pass

    def features(self, dataset, train):
        heights = np.array([[pixels.shape[0]] for pixels in dataset.pixels], dtype=np.float64)
        return heights / heights[train].mean()


class FitsOnAllRows(Row):
    def features(self, dataset, train):
        return super().features(dataset, np.arange(len(dataset)))


class ReadsHeldOutLabels(Row):
    def features(self, dataset, train):
        return np.where(np.isin(np.arange(len(dataset)), train), 0, dataset.labels)[:, None].astype(float)


class VocabularyOfAllRows(Row):
    """As many columns as there are distinct reports, held-out ones included."""

    def features(self, dataset, train):
        known = sorted({report or "" for report in dataset.reports})
        return np.array([[report == word for word in known] for report in dataset.reports], dtype=float)


class RowNotFinite(Row):
    def features(self, dataset, train):
        return dataset.structured[["age"]].to_numpy()


class RowOfRandomNumbers(Row):
    rng = np.random.default_rng(0)

    def features(self, dataset, train):
        return self.rng.random((len(dataset), 2))


class FlatRow(Row):
    def features(self, dataset, train):
        return np.zeros(len(dataset))


class RefusesEverything(Row):
    def features(self, dataset, train):
        raise UnsupportedModality("no volumes")


class NoFeatures:
    card = NAIVE_CARD

    def __init__(self, request):
        pass


def naive(build) -> ModelEntry:
    return ModelEntry(NAIVE_CARD, build, kind="naive", trainable=False)


def test_sound_row_passes_every_clause():
    clauses = check(naive(Row), REQUEST)
    assert [clause.name for clause in clauses] == [each.name for each in NAIVE_CLAUSES]
    assert [clause for clause in clauses if clause.passed is not True] == []


@pytest.mark.parametrize(
    ("build", "clause", "said"),
    [
        (cannot_build, "builds", "no such checkpoint"),
        (NoFeatures, "protocol", "lacks"),
        (RowNotFinite, "features", "finite"),
        (FlatRow, "features", "shape (24,)"),
        (RefusesEverything, "features", "refuses a dataset that has everything: no volumes"),
        (RowOfRandomNumbers, "deterministic", "differs by up to"),
        (FitsOnAllRows, "fitted on train only", "held-out rows decide about train rows"),
        (VocabularyOfAllRows, "fitted on train only", "held-out rows decide about train rows"),
        (ReadsHeldOutLabels, "fitted on train only", "held-out labels are read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_row_fails_exactly_the_clause_it_breaks(build, clause, said):
    found = failed(naive(build))
    assert list(found) == [clause]
    assert said in found[clause]


def test_naive_row_registered_as_trainable_is_refused():
    assert list(failed(replace(naive(Row), trainable=True))) == ["protocol"]


def test_example_dataset_changes_everything_that_is_held_out_and_nothing_else():
    one, two = example_dataset(), with_other_held_out_inputs(example_dataset())
    for i in range(len(one)):
        same = i in TRAIN
        assert (one.reports[i] == two.reports[i]) == same
        assert (one.labels[i] == two.labels[i]) == same
        assert (one.pixel_hashes[i] == two.pixel_hashes[i]) == same
        assert (one.pixels[i].shape == two.pixels[i].shape and bool((one.pixels[i] == two.pixels[i]).all())) == same
        assert (one.structured.astype(str).iloc[i].tolist() == two.structured.astype(str).iloc[i].tolist()) == same
