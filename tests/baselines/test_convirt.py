"""ConVIRT is BenchX's: its loss by the paper's equations, its file layouts strictly, its tokenizer token by token."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import RobertaTokenizer

from baselines.cards import BIOMED_ROBERTA, CONVIRT, CONVIRT_RELEASE
from baselines.convirt import ARCHITECTURES, ConVIRT, ConVIRTLoss, ReleasedConVIRT, byte_level_bpe
from benchmark.errors import BadInput
from benchmark.model import BuildRequest, Features, VisionLanguageModel
from benchmark.objective import TrainingLoss

REPORTS = ("A disc bulge at L4/5 narrows the left recess.", "No finding.", "Stenosis of the canal at L3/4.")
TEXTS = ["No finding.", "A DISC bulge at L4/5 – Ödem 椎", ""]
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def units(seed: int, *shape: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def apply(loss: ConVIRTLoss, image: Tensor, text: Tensor, augmented: Tensor | None = None) -> Tensor:
    labels = torch.zeros(len(image), 2)
    return TrainingLoss(loss)(
        Features(image), Features(text), None if augmented is None else Features(augmented), labels
    )


def loop(image: Tensor, text: Tensor, tau: float = 0.1, weight: float = 0.75) -> float:
    """Equations 2 to 4 of the paper, written out over Python floats."""
    v, u, n = image.tolist(), text.tolist(), len(image)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))

    total = 0.0
    for i in range(n):
        own = math.exp(cosine(v[i], u[i]) / tau)
        of_image = -math.log(own / sum(math.exp(cosine(v[i], u[k]) / tau) for k in range(n)))
        of_text = -math.log(own / sum(math.exp(cosine(v[k], u[i]) / tau) for k in range(n)))
        total += weight * of_image + (1 - weight) * of_text
    return total / n


# --------------------------------------------------------------------------------------------- loss


def test_loss_equals_the_equations_in_double_precision() -> None:
    image, text, other = units(0, 6, 4), units(1, 6, 4), units(2, 6, 4)
    loss = ConVIRTLoss()
    assert float(apply(loss, image, text)) == pytest.approx(loop(image, text), abs=1e-10)
    assert float(apply(loss, text, image)) != pytest.approx(loop(image, text), abs=1e-3), "the two ways weigh unequally"
    doubled = float(apply(loss, image, text, other))
    assert doubled == pytest.approx((loop(image, text) + loop(image, other)) / 2, abs=1e-10)


def test_loss_gradients_are_those_of_finite_differences() -> None:
    inputs = [units(seed, 4, 3).requires_grad_(True) for seed in range(3)]
    assert torch.autograd.gradcheck(lambda i, t, a: apply(ConVIRTLoss(), i, t, a), inputs)


def test_loss_of_many_heads_at_once_equals_one_after_another() -> None:
    stacked = [units(seed, 5, 6, 4) for seed in range(3)]
    loss = ConVIRTLoss()
    together = torch.func.vmap(lambda i, t, a: apply(loss, i, t, a))(*stacked)
    alone = torch.stack([apply(loss, *(x[m] for x in stacked)) for m in range(5)])
    assert torch.allclose(together, alone, atol=1e-12)


# --------------------------------------------------------------------------------------------- model


def tiny(seed: int = 0, **changes: object) -> ConVIRT:
    return CONVIRT.make(BuildRequest(seed=seed, train_reports=REPORTS, **changes))


def test_random_model_keeps_the_interface_and_has_no_projection() -> None:
    model = tiny()
    assert isinstance(model, VisionLanguageModel)
    assert (model.image_dim, model.text_dim) == (512, 96)
    assert not hasattr(model, "project_image")
    assert isinstance(model.make_objective(), ConVIRTLoss)
    with torch.inference_mode():
        text = model.encode_text(TEXTS)
    assert text.pooled.abs().max() < 1, "the pooler ends in tanh"


def test_pictures_are_stretched_with_imagenet_statistics() -> None:
    record = tiny().preprocess.record()
    assert ARCHITECTURES["paper"].preprocess.fit == "stretch"
    text = json.dumps(record)
    assert "0.485" in text
    assert "0.225" in text
    assert "bilinear" in text


# --------------------------------------------------------------------------------------------- released file


def bpe_files(folder: Path) -> None:
    """RoBERTa's two tokenizer files, learned here, special tokens under RoBERTa's numbers."""
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(REPORTS, vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))


def released(folder: Path, source: ReleasedConVIRT, layout: str) -> dict[str, Path]:
    """Write ``ConVIRT.pth`` as BenchX names its parts, at the tiny width."""
    folders = {repo: folder / repo for repo in (CONVIRT_RELEASE.repo_id, BIOMED_ROBERTA.repo_id)}
    for path in folders.values():
        path.mkdir(parents=True)
    bpe_files(folders[BIOMED_ROBERTA.repo_id])
    trunk = source.image.trunk.state_dict()
    if layout == "un-named":
        number = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
        trunk = {f"{number[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in trunk.items()}
    state = {f"visual.model.{key}": value for key, value in trunk.items()}
    state |= {f"linguistic.encoder.{key}": value for key, value in source.text.encoder.state_dict().items()}
    state["linguistic.encoder.embeddings.position_ids"] = torch.arange(98)[None]
    state |= {f"vis_proj.{key}": value for key, value in source.image_projection.state_dict().items()}
    state |= {f"lin_proj.{key}": value for key, value in source.text_projection.state_dict().items()}
    wrapped = {
        "state_dict": {"state_dict": state},
        "model": {"model": state, "scaler": None, "config": Path("an object that is not a tensor")},
    }
    torch.save(wrapped.get(layout, state), folders[CONVIRT_RELEASE.repo_id] / "ConVIRT.pth")
    return folders


def source(folder: Path) -> ReleasedConVIRT:
    folder.mkdir()
    bpe_files(folder)
    tokenizer = byte_level_bpe(folder / "vocab.json", folder / "merges.txt")
    return ReleasedConVIRT(CONVIRT.card, ARCHITECTURES["tiny"], tokenizer, seed=4).eval()


def load(folders: dict[str, Path]) -> ReleasedConVIRT:
    request = BuildRequest(scale="paper", weights="pretrained", files=folders)
    return ReleasedConVIRT.build(CONVIRT.card, ARCHITECTURES["tiny"], request)


def outputs(model: ReleasedConVIRT) -> list[Tensor]:
    with torch.inference_mode():
        image, text = model.encode_image(PIXELS), model.encode_text(TEXTS)
        return [image.pooled, text.pooled, model.project_image(image), model.project_text(text)]


@pytest.mark.parametrize("layout", ["flat", "state_dict", "model", "un-named"])
def test_every_layout_of_the_release_loads_whole_and_is_counted(tmp_path: Path, layout: str) -> None:
    original = source(tmp_path / "source")
    model = load(released(tmp_path, original, layout))
    trunk, text = len(original.image.trunk.state_dict()), len(original.text.encoder.state_dict())
    assert model.loaded == {
        "image tower": f"{trunk}/{trunk}",
        "text tower": f"{text}/{text}",
        "image projection": "4/4",
        "text projection": "4/4",
    }
    found, expected = outputs(model), outputs(original)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.allclose(found[2].norm(dim=1), torch.ones(2))
    assert (found[2].shape, found[3].shape) == ((2, 96), (3, 96))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("vis_proj.2.bias", r"image projection: 3/4 tensors fit, 1 missing \(2\.bias\)"),
        ("visual.model.conv1.weight", "image tower: .*1 missing"),
        ("linguistic.encoder.pooler.dense.bias", "text tower: .*1 missing"),
    ],
)
def test_an_incomplete_release_is_refused(tmp_path: Path, lost: str, message: str) -> None:
    folders = released(tmp_path, source(tmp_path / "source"), "flat")
    file = folders[CONVIRT_RELEASE.repo_id] / "ConVIRT.pth"
    state = torch.load(file, weights_only=True)
    del state[lost]
    torch.save(state, file)
    with pytest.raises(BadInput, match=message):
        load(folders)


def test_parts_that_belong_nowhere_are_refused(tmp_path: Path) -> None:
    folders = released(tmp_path, source(tmp_path / "source"), "flat")
    file = folders[CONVIRT_RELEASE.repo_id] / "ConVIRT.pth"
    torch.save(torch.load(file, weights_only=True) | {"my.visual.model.conv1.weight": torch.ones(1)}, file)
    with pytest.raises(
        BadInput, match=r"1 of its \d+ tensors belong to no part of the model \(my\.visual\.model\.conv1\.weight\)"
    ):
        load(folders)


@pytest.mark.parametrize("with_projections", [False, True])
def test_saved_state_comes_back_with_or_without_projections(tmp_path: Path, with_projections: bool) -> None:
    original = source(tmp_path / "source") if with_projections else tiny(5)
    torch.save(original.state_dict(), tmp_path / "state.pt")
    again = CONVIRT.make(BuildRequest(weights=tmp_path / "state.pt"))
    assert type(again) is type(original)
    with torch.inference_mode():
        assert torch.equal(again.encode_text(TEXTS).pooled, original.encode_text(TEXTS).pooled)
        assert torch.equal(again.encode_image(PIXELS).pooled, original.encode_image(PIXELS).pooled)


def test_published_weights_exist_at_paper_scale_only() -> None:
    with pytest.raises(BadInput, match="at scale 'paper' only"):
        CONVIRT.make(BuildRequest(scale="tiny", weights="pretrained"))


def test_tokenizer_is_robertas(tmp_path: Path) -> None:
    """Token for token what transformers' own tokenizer gives over the same two files: cased, bytes, <s> and </s>."""
    bpe_files(tmp_path)
    ours = byte_level_bpe(tmp_path / "vocab.json", tmp_path / "merges.txt")
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    theirs = RobertaTokenizer(vocab=vocabulary, merges=[tuple(line.split(" ")) for line in lines])
    for text in (*REPORTS, *TEXTS, "  two  spaces\tand a tab\n"):
        assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert ours.encode("Disc").ids != ours.encode("disc").ids


def test_damaged_tokenizer_files_are_one_sentence(tmp_path: Path) -> None:
    bpe_files(tmp_path)
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="can't be read as a vocabulary"):
        byte_level_bpe(tmp_path / "vocab.json", tmp_path / "merges.txt")
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(BadInput, match="has no <s> and </s>"):
        byte_level_bpe(tmp_path / "vocab.json", tmp_path / "merges.txt")
