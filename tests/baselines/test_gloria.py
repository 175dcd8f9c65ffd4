"""GLoRIA is the published system: losses by their equations, words by its aggregation, towers by its own recipe."""

from __future__ import annotations

import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from baselines import gloria
from baselines.cards import BENCHX_GLORIA, BIO_CLINICAL_VOCABULARY, GLORIA
from baselines.gloria import (
    ARCHITECTURES,
    BENCHX_ARCHITECTURES,
    GLoRIA,
    GLoRIAImageTower,
    GLoRIALoss,
    GLoRIAPreprocess,
    ReleasedBenchXGLoRIA,
    ReleasedGLoRIA,
)
from baselines.towers import ImageSpec
from baselines.wordpiece import learn_wordpiece, wordpiece
from benchmark.data.preprocess import picture
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, Features, VisionLanguageModel
from benchmark.objective import TrainingLoss

REPORTS = ("A disc bulge at L4/5 narrows the left recess.", "No finding.", "Stenosis of the canal at L3/4.")
PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def units(seed: int, *size: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*size, generator=random, dtype=torch.float64), dim=-1)


# --------------------------------------------------------------------------------------------- loss


def softmax(values: list[float]) -> list[float]:
    exponents = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponents) for value in exponents]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def cross_entropies(logits: list[list[float]]) -> float:
    """Both ways over a square of logits with the right pairs on its diagonal."""
    n = len(logits)
    rows = -sum(math.log(softmax(logits[i])[i]) for i in range(n)) / n
    return rows - sum(math.log(softmax([logits[k][i] for k in range(n)])[i]) for i in range(n)) / n


def local_similarity(regions: list[list[float]], words: list[list[float]]) -> float:
    """One picture and one text: softmax over words, then over regions, weighted contexts, log-sum-exp of cosines."""
    shares = [softmax([dot(region, word) for word in words]) for region in regions]
    total = 0.0
    for w, word in enumerate(words):
        attention = softmax([4 * shares[r][w] for r in range(len(regions))])
        context = [dot(attention, [region[k] for region in regions]) for k in range(len(word))]
        total += math.exp(5 * cosine(context, word))
    return math.log(total)


def loop(image: Tensor, text: Tensor, regions: Tensor, words: Tensor, mask: Tensor) -> float:
    v, t, r = image.tolist(), text.tolist(), regions.tolist()
    w = [[word for word, real in zip(*row, strict=True) if real] for row in zip(words.tolist(), mask, strict=True)]
    n = len(v)
    globally = [[10 * cosine(v[i], t[j]) for j in range(n)] for i in range(n)]
    locally = [[10 * local_similarity(r[i], w[j]) for j in range(n)] for i in range(n)]
    return cross_entropies(globally) + cross_entropies(locally)


def local_features(seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    regions = torch.randn(5, 6, 4, generator=random, dtype=torch.float64)
    words = torch.randn(5, 7, 4, generator=random, dtype=torch.float64)
    return regions, words, torch.arange(7) < torch.tensor([3, 7, 1, 5, 2])[:, None]


def test_loss_equals_the_equations_in_double_precision() -> None:
    image, text = units(0, 5, 3), units(1, 5, 3)
    regions, words, mask = local_features()
    found = TrainingLoss(GLoRIALoss())(Features(image, regions), Features(text, words, mask), None, torch.zeros(5, 2))
    assert float(found) == pytest.approx(loop(image, text, regions, words, mask), abs=1e-9)
    other, more = units(2, 5, 3), local_features(6)[1]
    both = TrainingLoss(GLoRIALoss())(
        Features(image, regions), Features(text, words, mask), Features(other, more, mask), torch.zeros(5, 2)
    )
    expected = (loop(image, text, regions, words, mask) + loop(image, other, regions, more, mask)) / 2
    assert float(both) == pytest.approx(expected, abs=1e-9)


def test_loss_gradients_are_those_of_finite_differences() -> None:
    regions, words, mask = (x[:2, :3] for x in local_features())
    inputs = [units(0, 2, 2), units(1, 2, 2), regions, words]

    def apply(image: Tensor, text: Tensor, regions: Tensor, words: Tensor) -> Tensor:
        return TrainingLoss(GLoRIALoss())(
            Features(image, regions), Features(text, words, mask), None, torch.zeros(2, 2)
        )

    assert torch.autograd.gradcheck(apply, [x.requires_grad_(True) for x in inputs])


def test_padding_of_words_changes_nothing() -> None:
    regions, words, mask = local_features()
    longer = torch.cat([words, torch.randn(5, 3, 4, dtype=torch.float64)], dim=1)
    padded = torch.cat([mask, torch.zeros(5, 3, dtype=torch.bool)], dim=1)
    loss = GLoRIALoss()
    assert torch.allclose(loss.local(regions, words, mask), loss.local(regions, longer, padded), atol=1e-12)


def test_loss_is_finite_and_has_gradients_where_features_vanish() -> None:
    regions = torch.zeros(3, 4, 2, requires_grad=True)
    words = torch.zeros(3, 2, 2, requires_grad=True)
    mask = torch.ones(3, 2, dtype=torch.bool)
    pooled = units(0, 3, 2).float()
    loss = TrainingLoss(GLoRIALoss())(Features(pooled, regions), Features(pooled, words, mask), None, torch.zeros(3, 2))
    loss.backward()
    assert loss.isfinite()
    assert regions.grad.isfinite().all()
    assert words.grad.isfinite().all()


def test_without_local_features_the_global_loss_is_left_and_maps_over_many_heads() -> None:
    stacked = [units(seed, 4, 6, 3) for seed in range(2)]

    def apply(image: Tensor, text: Tensor) -> Tensor:
        return TrainingLoss(GLoRIALoss())(Features(image), Features(text), None, torch.zeros(6, 2))

    together = torch.func.vmap(apply)(*stacked)
    for m in range(4):
        logits = [[10 * dot(a, b) for b in stacked[1][m].tolist()] for a in stacked[0][m].tolist()]
        assert float(together[m]) == pytest.approx(cross_entropies(logits), abs=1e-9)


# --------------------------------------------------------------------------------------------- text


def tiny(seed: int = 0, **changes: object) -> GLoRIA:
    return GLORIA.make(BuildRequest(seed=seed, train_reports=REPORTS, **changes))


def aggregated(model: GLoRIA, text: str) -> tuple[Tensor, Tensor, int]:
    """Words, global feature and number of kept words of one text, piece by piece as the published loop has it."""
    tower = model.text
    encoding = tower.tokenizer.encode(text)
    ids, mask = torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask])
    layers = tower.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-4:]
    vectors = sum(layer[0] for layer in layers)
    words: list[Tensor] = []
    names: list[str] = []
    for token, vector in zip(encoding.tokens, vectors, strict=True):
        if token.startswith("##"):
            words[-1] = words[-1] + vector
            names[-1] += token[2:]
        else:
            words.append(vector)
            names.append(token)
    kept = len([name for name in names if not name.startswith("[")]) + 1
    padded = torch.stack(words + [torch.zeros_like(words[0])] * (tower.spec.max_length - len(words)))
    return padded, padded.mean(dim=0), kept


@pytest.mark.parametrize(
    "text",
    ["a disc bulge narrows", "stenosis of the canal and unseen wordings", "", "zzz 椎 disc qqq", "canal " * 300],
)
def test_words_and_text_are_aggregated_as_published(text: str) -> None:
    model = tiny()
    with torch.inference_mode(), mock.patch.object(type(model.text), "cleaned", lambda _, text: text):
        found = model.encode_text([text, "disc bulge"])
        words, pooled, kept = aggregated(model, text)
    assert int(found.mask[0].sum()) == kept
    torch.testing.assert_close(found.tokens[0, :kept], words[:kept], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled[0], pooled, rtol=0, atol=1e-5)


def test_unknown_words_cut_words_off_the_end() -> None:
    """A quirk of the published count, kept since the weights were trained with it."""
    model = tiny()
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "disc", "bulge"])}
    model.text.tokenizer = wordpiece(vocabulary)
    with torch.inference_mode():
        assert int(model.encode_text(["disc bulge disc"]).mask.sum()) == 4
        assert int(model.encode_text(["disc unseen bulge"]).mask.sum()) == 3


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("No finding.", "no finding"),
        ("Normal. Disc bulge at L4/L5, mild.", "disc bulge at l4 l5 mild"),
        # A number before a full stop counts as an item's: it is lost, here with half of the level.
        ("Disc bulge at L4/L5.", "disc bulge at l4 l"),
        ("1. Mild stenosis\n2. T2-weighted signal loss", "mild stenosis t2 weighted signal loss"),
        ("Größe 3.5 cm, café", "5 cm caf"),
        ("", ""),
        ("finding", ""),
    ],
)
def test_sentences_are_cleaned_as_published(text: str, cleaned: str) -> None:
    assert tiny().text.cleaned(text) == cleaned


# --------------------------------------------------------------------------------------------- pictures


def test_image_tower_is_torchvisions_resnet_on_the_enlarged_picture() -> None:
    """299 px, third stage 19 x 19, both against torchvision's trunk run by hand."""
    theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]).eval()
    theirs.fc = torch.nn.Identity()
    tower = GLoRIAImageTower(ImageSpec("resnet50.tv_in1k", 224, {"layers": (1, 1, 1, 1)})).eval()
    tower.trunk.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    stages: list[Tensor] = []
    theirs.layer3.register_forward_hook(lambda _, __, out: stages.append(out))
    with torch.inference_mode():
        found = tower(pixels)
        expected = theirs(torch.nn.Upsample(size=(299, 299), mode="bilinear", align_corners=True)(pixels))
    torch.testing.assert_close(found.pooled, expected, rtol=0, atol=1e-5)
    assert stages[0].shape == (2, 1024, 19, 19)
    torch.testing.assert_close(found.tokens, stages[0].flatten(2).mT, rtol=0, atol=1e-5)


def by_upstreams_recipe(pixels: np.ndarray) -> Tensor:
    """Area resampling of the longer side to 256, zero padding, central 224, [-1, 1]."""
    height, width = pixels.shape
    if height >= width:
        size = (256, int(float(width) * (256 / float(height))))
    else:
        size = (int(float(height) * (256 / float(width))), 256)
    resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)
    gap = 256 - min(resized.shape)
    before, after = math.floor(gap / 2), math.ceil(gap / 2)
    around = [(0, 0), (before, after)] if height >= width else [(before, after), (0, 0)]
    image = Image.fromarray(np.pad(resized, around)).convert("RGB")
    steps = torchvision.transforms.Compose(
        [
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    return steps(image)


@pytest.mark.parametrize("shape", [(256, 256), (320, 320), (500, 300), (91, 200), (1000, 37), (333, 512)])
def test_preprocessing_is_upstreams(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = GLoRIAPreprocess(224)(picture(pixels))
    torch.testing.assert_close(found, by_upstreams_recipe(pixels), rtol=0, atol=1e-6)


def test_benchx_prepares_pictures_and_reports_in_its_own_way() -> None:
    paper, text = BENCHX_ARCHITECTURES["paper"], "Disc bulge at L4/L5."
    record = paper.preprocess.record()
    assert (record["fit"], record["mean"], record["interpolation"]) == ("stretch", (0.485, 0.456, 0.406), "bilinear")
    assert paper.text.max_length == 128
    model = BENCHX_GLORIA.make(BuildRequest(train_reports=REPORTS))
    assert model.text.cleaned(text) == text
    released = ReleasedBenchXGLoRIA(BENCHX_GLORIA.card, BENCHX_ARCHITECTURES["tiny"], model.tokenizer, seed=0)
    assert released.text.cleaned(text) == text


def test_preprocessing_takes_any_picture() -> None:
    for shape in [(1, 1), (1, 300), (2, 3), (40, 40, 3)]:
        assert GLoRIAPreprocess(64)(picture(np.full(shape, 9, dtype=np.uint8))).shape == (3, 64, 64)


# --------------------------------------------------------------------------------------------- files


class Config:
    """What a Lightning checkpoint holds of settings: an object of a library that is not here when it is read."""

    def __init__(self) -> None:
        self.model = {"vision": "resnet_50"}


def write_checkpoint(path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Save as Lightning does, settings included, under a module that nobody can import afterwards."""
    module = types.ModuleType("omegaconf_of_another_machine")
    module.Config = Config
    with monkeypatch.context() as patch:
        patch.setattr(Config, "__module__", module.__name__)
        patch.setitem(sys.modules, module.__name__, module)
        content = {"epoch": 3, "state_dict": state, "hyper_parameters": Config(), "callbacks": {Config: {"best": 0.1}}}
        torch.save(content, path)


def published(model: ReleasedGLoRIA) -> dict[str, Tensor]:
    """The released keys: torchvision's trunk without classifier, both embedders, BERT with its pooler and positions."""
    hidden = model.text_dim
    state = {f"gloria.img_encoder.model.{k}": v for k, v in model.image.trunk.state_dict().items()}
    state |= {f"gloria.img_encoder.global_embedder.{k}": v for k, v in model.image_projection.state_dict().items()}
    state["gloria.img_encoder.local_embedder.weight"] = model.local_projection.weight.detach()[:, :, None, None]
    state |= {f"gloria.text_encoder.model.{k}": v for k, v in model.text.encoder.state_dict().items()}
    return state | {
        "gloria.text_encoder.model.pooler.dense.weight": torch.zeros(hidden, hidden),
        "gloria.text_encoder.model.pooler.dense.bias": torch.zeros(hidden),
        "gloria.text_encoder.model.embeddings.position_ids": torch.arange(512)[None],
    }


def publish(folder: Path, entry: Any, model: ReleasedGLoRIA, patch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {source.repo_id: folder / source.repo_id for source in entry.card.weights}
    for path in folders.values():
        path.mkdir(parents=True)
    vocabulary = sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1])
    entries = [token for token, _ in vocabulary] + [f"[unused{i}]" for i in range(2000 - len(vocabulary))]
    (folders[BIO_CLINICAL_VOCABULARY.repo_id] / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    source = entry.card.weights[0]
    write_checkpoint(folders[source.repo_id] / source.files[0], published(model), patch)
    return folders


def source_model(seed: int = 4) -> ReleasedGLoRIA:
    return ReleasedGLoRIA(GLORIA.card, ARCHITECTURES["tiny"], learn_wordpiece(REPORTS, 2000), seed=seed).eval()


def load(entry: Any, folders: dict[str, Path]) -> ReleasedGLoRIA:
    request = BuildRequest(scale="paper", weights="pretrained", files=folders)
    return ReleasedGLoRIA.build(entry.card, ARCHITECTURES["tiny"], request)


def outputs(model: ReleasedGLoRIA) -> list[Tensor]:
    with torch.inference_mode():
        image, text = model.encode_image(PIXELS), model.encode_text(["No finding.", REPORTS[0], ""])
        return [
            image.pooled,
            image.tokens,
            text.pooled,
            text.tokens,
            model.project_image(image),
            model.project_text(text),
        ]


@pytest.mark.parametrize("entry", [GLORIA, BENCHX_GLORIA], ids=["authors", "benchx"])
def test_lightning_checkpoint_loads_whole_without_its_libraries(tmp_path, monkeypatch, entry) -> None:
    original = source_model()
    folders = publish(tmp_path, entry, original, monkeypatch)
    source = entry.card.weights[0]
    with pytest.raises((ModuleNotFoundError, AttributeError, pickle.UnpicklingError)):
        torch.load(folders[source.repo_id] / source.files[0], weights_only=False)
    model = load(entry, folders)
    trunk, text = len(original.image.trunk.state_dict()), len(original.text.encoder.state_dict())
    assert model.loaded == {
        "image tower": f"{trunk}/{trunk}",
        "text tower": f"{text}/{text}",
        "image projection": "2/2",
        "local projection": "1/1",
    }
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(original), strict=True))
    assert torch.allclose(outputs(model)[-2].norm(dim=1), torch.ones(2))


def test_benchxs_own_layout_loads_whole(tmp_path, monkeypatch) -> None:
    """What its trainer writes: other prefixes, the trunk as an un-named Sequential, settings beside the weights."""
    original = source_model()
    folders = publish(tmp_path, BENCHX_GLORIA, original, monkeypatch)
    number = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    state = {}
    for key, value in published(original).items():
        part, _, rest = key.removeprefix("gloria.img_encoder.model.").partition(".")
        renamed = {
            "gloria.img_encoder.model.": f"visual.model.{number.get(part)}.{rest}",
            "gloria.text_encoder.model.": key.replace("gloria.text_encoder.model.", "linguistic.encoder."),
            "gloria.img_encoder.": key.removeprefix("gloria.img_encoder."),
        }
        state[next(new for old, new in renamed.items() if key.startswith(old))] = value
    source = BENCHX_GLORIA.card.weights[0]
    torch.save({"model": state, "optimizer": {}, "scaler": None}, folders[source.repo_id] / source.files[0])
    model = load(BENCHX_GLORIA, folders)
    assert all(len(set(count.split("/"))) == 1 for count in model.loaded.values())
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(original), strict=True))


def test_full_size_layout_has_the_published_number_of_tensors(tmp_path: Path) -> None:
    """520 tensors and position_ids: 318 of the trunk, 2 and 1 of the embedders, 199 of BERT with its pooler."""
    with torch.device("meta"):
        model = ReleasedGLoRIA(GLORIA.card, ARCHITECTURES["paper"], learn_wordpiece(REPORTS, 2000), seed=0)
        state = published(model)
        state.pop("gloria.text_encoder.model.embeddings.position_ids")
        assert len(state) == 520
        reference = torchvision.models.resnet50().state_dict()
    trunk = {k.removeprefix("gloria.img_encoder.model."): v.shape for k, v in state.items() if "encoder.model." in k}
    assert all(trunk[key] == value.shape for key, value in reference.items() if not key.startswith("fc."))
    assert state["gloria.img_encoder.local_embedder.weight"].shape == (768, 1024, 1, 1)
    assert state["gloria.img_encoder.global_embedder.weight"].shape == (768, 2048)
    with mock.patch.object(gloria, "read_state", return_value=state):
        model.load_published({source.repo_id: tmp_path for source in GLORIA.card.weights})
    assert model.loaded["image tower"] == "318/318"
    assert model.loaded["text tower"] == "197/197"


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("gloria.img_encoder.local_embedder.weight", "local projection: 0/1 tensors fit, 1 missing"),
        ("gloria.img_encoder.model.layer3.0.conv1.weight", "image tower: .*1 missing"),
        ("gloria.text_encoder.model.encoder.layer.0.output.dense.bias", "text tower: .*1 missing"),
    ],
)
def test_an_incomplete_release_is_refused(tmp_path, monkeypatch, lost: str, message: str) -> None:
    model = source_model()
    folders = publish(tmp_path, GLORIA, model, monkeypatch)
    state = published(model)
    del state[lost]
    source = GLORIA.card.weights[0]
    write_checkpoint(folders[source.repo_id] / source.files[0], state, monkeypatch)
    with pytest.raises(BadInput, match=message):
        load(GLORIA, folders)


@pytest.mark.parametrize("released", [False, True])
def test_saved_state_comes_back_with_or_without_the_projection(tmp_path: Path, released: bool) -> None:
    original = source_model() if released else tiny(5)
    torch.save(original.state_dict(), tmp_path / "state.pt")
    again = GLORIA.make(BuildRequest(weights=tmp_path / "state.pt"))
    assert type(again) is type(original)
    with torch.inference_mode():
        assert torch.equal(again.encode_image(PIXELS).tokens, original.encode_image(PIXELS).tokens)


def test_random_model_keeps_the_interface_and_has_no_global_projection() -> None:
    model = tiny()
    assert isinstance(model, VisionLanguageModel)
    assert (model.image_dim, model.text_dim) == (512, 64)
    assert not hasattr(model, "project_image")
    with torch.inference_mode():
        image = model.encode_image(PIXELS)
    assert image.tokens.shape == (2, 16, 64), "48 px enlarged to 64 are 4 x 4 regions of the third stage"
