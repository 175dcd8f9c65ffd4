"""MedCLIP is the published package to the layer: embeddings, preprocessing, loss, files."""

from __future__ import annotations

import importlib
import math
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from baselines import medclip
from baselines.cards import BIO_CLINICAL_VOCABULARY, MEDCLIP_RESNET50, MEDCLIP_VIT
from baselines.medclip import ARCHITECTURES, MedCLIPLoss, ReleasedMedCLIP, swin_of
from baselines.towers import Architecture, TextSpec
from baselines.wordpiece import learn_wordpiece
from benchmark.data.preprocess import picture
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, Features, ModelEntry
from benchmark.objective import TrainingLoss

REPORTS = ("A disc bulge at L4/5 narrows the left recess.", "No finding.", "Stenosis of the canal at L3/4.")
TEXTS = ["No finding.", "A DISC bulge at L4/5.", "", "stenosis " * 200]
ENTRIES = [MEDCLIP_RESNET50, MEDCLIP_VIT]
ROWS = 200
"""Of the vocabulary that parity is shown with; the published one has 28,996, which changes nothing but time."""


def named(entry: ModelEntry) -> str:
    return entry.card.name


# --------------------------------------------------------------------------------------------- the package


class FeatureExtractor(transformers.FeatureExtractionMixin):
    """What transformers 4.24 had under ``CLIPFeatureExtractor``, as far as the package's processor uses it."""

    def __init__(self, do_resize, size, resample, do_center_crop, crop_size, do_normalize, mean, std, to_rgb, **kwargs):
        super().__init__(**kwargs)
        self.do_resize, self.size, self.resample = do_resize, size, resample
        self.do_center_crop, self.crop_size = do_center_crop, crop_size
        self.do_normalize, self.image_mean, self.image_std = do_normalize, mean, std
        self.do_convert_rgb = to_rgb

    def resize(self, image, size, resample):
        return image.resize((size, size), resample=resample)

    def center_crop(self, image, size):
        assert image.size == (size, size)
        return image

    def normalize(self, image, mean, std):
        return (np.array(image).astype(np.float32) * (1 / 255.0) - np.float32(mean)) / np.float32(std)


@pytest.fixture(scope="module")
def package() -> types.ModuleType:
    """The package, imported under a transformers that no longer has the class it derives from."""
    assert transformers.BertModel  # the first access may replace the module object
    module = sys.modules["transformers"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.CLIPFeatureExtractor = FeatureExtractor
        try:
            return importlib.import_module("medclip")
        finally:
            del module.CLIPFeatureExtractor


@contextmanager
def offline(package: types.ModuleType, rows: int, layers: int) -> Iterator[None]:
    """Build the package's towers from configurations, and let it run on a CPU."""
    modeling = sys.modules["medclip.modeling_medclip"]

    class AutoModel:
        @staticmethod
        def from_pretrained(name: str, **options: object) -> torch.nn.Module:
            if "swin" in name:
                return transformers.SwinModel(transformers.SwinConfig(**options))
            config = transformers.BertConfig(vocab_size=rows, num_hidden_layers=layers, **options)
            return transformers.BertModel(config)

    resnet50 = types.SimpleNamespace(resnet50=lambda pretrained: torchvision.models.resnet50())
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(modeling, "AutoModel", AutoModel))
        patches.enter_context(mock.patch.object(modeling, "AutoTokenizer", mock.MagicMock()))
        patches.enter_context(mock.patch.object(modeling, "torchvision", types.SimpleNamespace(models=resnet50)))
        patches.enter_context(mock.patch.object(torch.Tensor, "cuda", lambda self: self))
        yield


def oracle(package: types.ModuleType, entry: ModelEntry, rows: int = ROWS, layers: int = 3) -> torch.nn.Module:
    towers = {
        "medclip-resnet50": package.MedCLIPVisionModel,
        "medclip-vit": package.MedCLIPVisionModelViT,
    }
    with offline(package, rows, layers), torch.random.fork_rng():
        torch.manual_seed(0)
        model = package.MedCLIPModel(vision_cls=towers[entry.card.name])
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):  # running statistics that a wrong load would show in
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.8, 1.2)
        return model.eval()


def shape(entry: ModelEntry, rows: int = ROWS, layers: int = 3) -> Architecture:
    """The paper's, with a short vocabulary and as few text layers as the pooling needs."""
    paper = ARCHITECTURES[entry.card.name]["paper"]
    config = {**paper.text.config, "vocab_size": rows, "num_hidden_layers": layers}
    text = TextSpec(paper.text.family, config, paper.text.max_length, paper.text.pooling)
    return Architecture(paper.image, text, paper.preprocess)


def publish(folder: Path, entry: ModelEntry, state: dict[str, Tensor]) -> dict[str, Path]:
    """Write ``pytorch_model.bin`` and the vocabulary where the card says they are."""
    source, _ = entry.card.weights
    folders = {s.repo_id: folder / s.repo_id for s in entry.card.weights}
    for path in folders.values():
        path.mkdir(parents=True)
    torch.save(state, folders[source.repo_id] / "pytorch_model.bin")
    vocabulary = sorted(learn_wordpiece(REPORTS, ROWS).get_vocab().items(), key=lambda item: item[1])
    entries = [token for token, _ in vocabulary] + [f"[unused{i}]" for i in range(ROWS - len(vocabulary))]
    (folders[BIO_CLINICAL_VOCABULARY.repo_id] / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return folders


OLD_NAMES = (
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.relative_position_bias.relative_position_bias_table", ".attention.self.relative_position_bias_table"),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers 4.24 saved it: Swin's old names, and buffers that are computed today."""
    published = {"text_model.model.embeddings.position_ids": torch.arange(512)[None]}
    for key, value in state.items():
        if key.startswith("vision_model.model."):
            for new, old in OLD_NAMES:
                key = key.replace(new, old)
        published[key] = value
        if key.endswith("relative_position_bias_table"):
            published[key.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.int64)
    return published


def load(entry: ModelEntry, folders: dict[str, Path]) -> ReleasedMedCLIP:
    request = BuildRequest(scale="paper", weights="pretrained", files=folders)
    return ReleasedMedCLIP.build(entry.card, shape(entry), request)


# --------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("published", [True, False], ids=["as released", "as saved today"])
@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_embeddings_are_the_packages(package, tmp_path: Path, entry: ModelEntry, published: bool) -> None:
    theirs = oracle(package, entry)
    state = theirs.state_dict()
    ours = load(entry, publish(tmp_path, entry, as_published(state) if published else state))
    pixels = torch.randn(3, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), offline(package, ROWS, 3):
        expected = theirs.encode_image(pixels)
        image = ours.encode_image(pixels.expand(-1, 3, -1, -1))
        text = ours.encode_text(TEXTS)
        alone = []
        for one in TEXTS:
            encoding = ours.tokenizer.encode(one)
            ids, mask = torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask])
            alone.append(theirs.encode_text(ids, mask))
        assert ids.shape[1] == 77, "the last text is longer than what is kept of it"
        torch.testing.assert_close(ours.project_image(image), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.project_text(text), torch.cat(alone), rtol=0, atol=1e-5)
    trunk, bert = len(ours.image.trunk.state_dict()), len(ours.text.encoder.state_dict())
    assert ours.loaded == {
        "image tower": f"{trunk}/{trunk}",
        "image projection": "1/1",
        "text tower": f"{bert}/{bert}",
        "text projection": "1/1",
    }


@pytest.mark.parametrize(("entry", "tensors"), [(MEDCLIP_RESNET50, 521), (MEDCLIP_VIT, 434)], ids=["resnet", "vit"])
def test_full_size_layout_has_a_place_for_every_tensor(package, tmp_path: Path, entry: ModelEntry, tensors) -> None:
    """The package's own model at full size, on the meta device: names, shapes and counts, without the bytes."""
    with torch.device("meta"):
        theirs = oracle(package, entry, 28996, 12)
        ours = ReleasedMedCLIP(
            entry.card, ARCHITECTURES[entry.card.name]["paper"], learn_wordpiece(REPORTS, ROWS), seed=0
        )
        published = as_published(theirs.state_dict())
    assert len(published) == tensors
    kept = {k: v for k, v in published.items() if not k.endswith(("position_ids", "relative_position_index"))}
    with mock.patch.object(medclip, "read_state", return_value=kept):
        ours.load_published({source.repo_id: tmp_path for source in entry.card.weights})
    assert all(len(set(count.split("/"))) == 1 for count in ours.loaded.values())
    unused = "logit_scale", "text_model.model.pooler.dense.weight", "text_model.model.pooler.dense.bias"
    expected = sum(p.numel() for name, p in theirs.named_parameters() if name not in unused)
    assert sum(p.numel() for p in ours.parameters()) == expected


@pytest.mark.parametrize("size", [(224, 224), (500, 300), (91, 200), (640, 1), (37, 1000)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_preprocessing_is_the_packages(package, size: tuple[int, int], mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)[: 2 + (mode == "RGB")], dtype=np.uint8)
    image = picture(pixels)
    theirs = sys.modules["medclip.dataset"].MedCLIPFeatureExtractor()(Image.fromarray(pixels), return_tensors="np")
    ours = ARCHITECTURES["medclip-vit"]["paper"].preprocess(image)
    expected = torch.from_numpy(np.asarray(theirs["pixel_values"]))[0].expand(3, -1, -1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------------------- loss


def units(seed: int, *size: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*size, generator=random, dtype=torch.float64), dim=-1)


def labels(n: int, classes: int = 14) -> Tensor:
    return torch.randint(-1, 2, (n, classes), generator=torch.Generator().manual_seed(9)).double()


def loop(image: Tensor, text: Tensor, label: Tensor, scale: float) -> float:
    """The published loss over Python floats."""
    v, t, y, n = image.tolist(), text.tolist(), label.tolist(), len(image)

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * z for x, z in zip(a, b, strict=True))

    def soft(values: list[float]) -> list[float]:
        exponents = [math.exp(value) for value in values]
        return [value / sum(exponents) for value in exponents]

    total = 0.0
    for i in range(n):
        target = soft([dot(y[i], y[j]) for j in range(n)])
        of_image = soft([scale * dot(v[i], t[j]) for j in range(n)])
        of_text = soft([scale * dot(v[j], t[i]) for j in range(n)])
        total -= sum(target[j] * (math.log(of_image[j]) + math.log(of_text[j])) for j in range(n)) / 2
    return total / n


def test_loss_equals_the_equations_in_double_precision() -> None:
    image, text, other, y = units(0, 6, 4), units(1, 6, 4), units(2, 6, 4), labels(6)
    loss = TrainingLoss(MedCLIPLoss().double())
    scale = float(loss.objective.log_scale.detach().exp())
    assert scale == pytest.approx(1 / 0.07, rel=1e-6)
    plain = float(loss(Features(image), Features(text), None, y).detach())
    assert plain == pytest.approx(loop(image, text, y, scale), abs=1e-9)
    both = float(loss(Features(image), Features(text), Features(other), y).detach())
    assert both == pytest.approx((loop(image, text, y, scale) + loop(image, other, y, scale)) / 2, abs=1e-9)


def test_loss_is_the_packages(package) -> None:
    image, text, other, y = (x.float() for x in (units(0, 6, 4), units(1, 6, 4), units(2, 6, 4), labels(6)))
    model = mock.MagicMock(return_value={"logits": image @ text.T / 0.07, "img_embeds": image})
    model.encode_text = lambda *_: other
    model.compute_logits = lambda v, t: v @ t.T / 0.07
    loss = sys.modules.get("medclip.losses") or importlib.import_module("medclip.losses")
    theirs = loss.ImageTextContrastiveLoss(model)(img_labels=y, text_labels=y, aug_input_ids=1)["loss_value"]
    ours = TrainingLoss(MedCLIPLoss())(Features(image), Features(text), Features(other), y)
    assert float(ours.detach()) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize(("value", "used"), [(9.0, 4.6052), (-3.0, 0.0)])
def test_temperature_keeps_to_the_published_limits(value: float, used: float) -> None:
    loss = TrainingLoss(MedCLIPLoss().double())
    loss.objective.log_scale.data.fill_(value)
    image, y = units(3, 4, 3), labels(4)
    found = float(loss(Features(image), Features(image), None, y).detach())
    assert found == pytest.approx(loop(image, image, y, math.exp(used)), abs=1e-9)
    assert float(loss.objective.log_scale.detach()) == value, "nothing is written while a loss is computed"


def test_loss_of_many_heads_at_once_equals_one_after_another() -> None:
    stacked, y, loss = [units(seed, 5, 6, 4) for seed in range(3)], labels(6), TrainingLoss(MedCLIPLoss().double())

    def apply(i: Tensor, t: Tensor, a: Tensor) -> Tensor:
        return loss(Features(i), Features(t), Features(a), y)

    together = torch.func.vmap(apply)(*stacked)
    alone = torch.stack([apply(*(x[m] for x in stacked)) for m in range(5)])
    assert torch.allclose(together, alone, atol=1e-12)


# --------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("vision_model.projection_head.weight", "image projection: 0/1 tensors fit, 1 missing"),
        ("vision_model.model.encoder.layers.0.blocks.1.attention.self.key.weight", "image tower: .*qkv"),
        ("text_model.model.encoder.layer.2.output.dense.bias", "text tower: .*1 missing"),
    ],
)
def test_an_incomplete_release_is_refused(package, tmp_path: Path, lost: str, message: str) -> None:
    state = as_published(oracle(package, MEDCLIP_VIT).state_dict())
    del state[lost]
    with pytest.raises(BadInput, match=message):
        load(MEDCLIP_VIT, publish(tmp_path, MEDCLIP_VIT, state))


def test_the_other_towers_release_is_refused(package, tmp_path: Path) -> None:
    state = as_published(oracle(package, MEDCLIP_RESNET50).state_dict())
    with pytest.raises(BadInput, match="image tower"):
        load(MEDCLIP_VIT, publish(tmp_path, MEDCLIP_VIT, state))


def test_names_of_both_generations_of_transformers_mean_the_same(package) -> None:
    state = oracle(package, MEDCLIP_VIT).vision_model.model.state_dict()
    old = {
        k.removeprefix("vision_model.model."): v
        for k, v in as_published({f"vision_model.model.{k}": v for k, v in state.items()}).items()
        if not k.startswith("text_model") and not k.endswith("index")
    }
    assert old.keys() != state.keys()
    one, two = swin_of(old), swin_of(state)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
