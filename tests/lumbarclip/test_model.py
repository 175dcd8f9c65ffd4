"""LumbarCLIP builds at both scales, offline, and loads the files that were published for its towers or nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from baselines.wordpiece import learn_wordpiece
from benchmark.errors import BadInput, MissingWeights
from benchmark.model import BuildRequest, ModelEntry, VisionLanguageModel
from lumbarclip.cards import BIO_CLINICAL_BERT, RESNET50, SWIN, VIT
from lumbarclip.loss import SoftCLIPLoss
from lumbarclip.model import ARCHITECTURES, LumbarCLIP

ENTRIES = [RESNET50, VIT, SWIN]
REPORTS = ("A disc bulge at L4/5 narrows the left recess.", "No finding.", "Stenosis of the canal at L3/4.")
TEXTS = ["No finding.", "A DISC bulge at L4/5.", ""]
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def named(entry: ModelEntry) -> str:
    return entry.card.name


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection fails the test that made it."""

    def refuse(*_: object) -> None:
        raise AssertionError("a model tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def tiny(entry: ModelEntry, seed: int = 0, **changes: object) -> LumbarCLIP:
    return entry.make(BuildRequest(seed=seed, train_reports=REPORTS, **changes))


@pytest.mark.parametrize(
    ("entry", "width", "mean"),
    [(RESNET50, 512, 0.485), (VIT, 64, 0.5), (SWIN, 128, 0.485)],
    ids=["resnet", "vit", "swin"],
)
def test_tiny_models_keep_the_interface(entry: ModelEntry, width: int, mean: float) -> None:
    model = tiny(entry)
    assert isinstance(model, VisionLanguageModel)
    assert not model.training
    assert (model.image_dim, model.text_dim, model.loaded) == (width, 96, {})
    grey = Image.fromarray(np.full((40, 40), 128, dtype=np.uint8))
    pixels = model.preprocess(grey)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    std = 0.5 if mean == 0.5 else 0.229
    assert float(pixels[0].mean()) == pytest.approx((128 / 255 - mean) / std, abs=1e-5)
    with torch.inference_mode():
        assert model.encode_image(pixels[None]).pooled.shape == (1, width)
        assert model.encode_text(TEXTS).pooled.shape == (3, 96)
    assert isinstance(model.make_objective(), SoftCLIPLoss)


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_tiny_image_towers_learn(entry: ModelEntry) -> None:
    """Thirty steps on one batch lower the loss: gradients reach a tower that can move."""
    model = tiny(entry).train()
    pixels = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    target = torch.arange(8) % 2
    optimizer = torch.optim.AdamW(model.image.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        pooled = model.encode_image(pixels).pooled
        loss = torch.nn.functional.cross_entropy(pooled[:, :2], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


# --------------------------------------------------------------------------------------------- published files


def publish(folder: Path, entry: ModelEntry, source: LumbarCLIP, *, old_names: bool = False) -> dict[str, Path]:
    """Write files as their publishers lay them out, at the tiny width: timm's with classifier, BERT's with heads."""
    image_source = entry.card.weights[0]
    folders = {s.repo_id: folder / s.repo_id for s in entry.card.weights}
    for path in folders.values():
        path.mkdir(parents=True)
    shape = ARCHITECTURES[entry.card.name]["tiny"].image
    whole = timm.create_model(shape.arch, pretrained=False, **shape.options).state_dict()
    image = whole | source.image.trunk.state_dict()
    assert len(image) == len(source.image.trunk.state_dict()) + 2, "weight and bias of the classifier"
    if old_names:
        image = original_swin_names(image)
    save_file(
        {key: value.contiguous() for key, value in image.items()}, folders[image_source.repo_id] / "model.safetensors"
    )
    text = {f"bert.{key}": value for key, value in source.text.encoder.state_dict().items()}
    if old_names:
        text = {tensorflow_names(key): value for key, value in text.items()}
    text |= {
        "bert.embeddings.position_ids": torch.arange(96)[None],
        "bert.pooler.dense.weight": torch.zeros(96, 96),
        "bert.pooler.dense.bias": torch.zeros(96),
        "cls.predictions.bias": torch.zeros(2000),
        "cls.seq_relationship.weight": torch.zeros(2, 96),
    }
    bert = folders[BIO_CLINICAL_BERT.repo_id]
    torch.save(text, bert / "pytorch_model.bin")
    vocabulary = sorted((i, token) for token, i in source.tokenizer.get_vocab().items())
    entries = [token for _, token in vocabulary] + [f"[unused{i}]" for i in range(2000 - len(vocabulary))]
    (bert / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return folders


def original_swin_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the original Swin release: a stage ends with the downsampling after it; buffers are stored."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts).replace("head.fc.", "head.")] = value
    return renamed | {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
        "layers.1.blocks.1.attn_mask": torch.zeros(4, 16, 16),
    }


def tensorflow_names(key: str) -> str:
    if "LayerNorm" not in key:
        return key
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def load(entry: ModelEntry, folders: dict[str, Path]) -> LumbarCLIP:
    """Build from published files, at the width the test can afford."""
    request = BuildRequest(scale="paper", weights="pretrained", files=folders, seed=9)
    return LumbarCLIP.build(entry.card, ARCHITECTURES[entry.card.name]["tiny"], request)


@pytest.mark.parametrize(
    ("entry", "old_names"),
    [(RESNET50, False), (VIT, False), (SWIN, False), (SWIN, True)],
    ids=["resnet", "vit", "swin", "older names"],
)
def test_published_files_load_whole_and_are_counted(tmp_path: Path, entry: ModelEntry, old_names: bool) -> None:
    source = tiny(entry)
    model = load(entry, publish(tmp_path, entry, source, old_names=old_names))
    n_image, n_text = len(source.image.trunk.state_dict()), len(source.text.encoder.state_dict())
    assert model.loaded == {"image tower": f"{n_image}/{n_image}", "text tower": f"{n_text}/{n_text}"}
    with torch.inference_mode():
        assert torch.equal(model.encode_image(PIXELS).pooled, source.encode_image(PIXELS).pooled)
        assert torch.equal(model.encode_text(TEXTS).pooled, source.encode_text(TEXTS).pooled)


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    folders = publish(tmp_path, VIT, tiny(VIT))
    state = {"conv1.weight": torch.ones(1), "cls_token": torch.ones(1, 1, 64)}
    save_file(state, folders[VIT.card.weights[0].repo_id] / "model.safetensors")
    with pytest.raises(BadInput, match=r"does not fit the image tower: 1/\d+ tensors fit, .*missing .*conv1\.weight"):
        load(VIT, folders)


def test_part_of_a_text_tower_is_refused(tmp_path: Path) -> None:
    folders = publish(tmp_path, VIT, tiny(VIT))
    file = folders[BIO_CLINICAL_BERT.repo_id] / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    del state["bert.encoder.layer.1.output.dense.weight"]
    torch.save(state, file)
    with pytest.raises(BadInput, match=r"text tower: 36/37 tensors fit, 1 missing \(encoder\.layer\.1\.output"):
        load(VIT, folders)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    folders = publish(tmp_path, RESNET50, tiny(RESNET50))
    (folders[RESNET50.card.weights[0].repo_id] / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"model\.safetensors"):
        load(RESNET50, folders)


def test_published_weights_exist_at_paper_scale_only() -> None:
    with pytest.raises(BadInput, match="lumbarclip-vit has published weights at scale 'paper' only"):
        VIT.make(BuildRequest(scale="tiny", weights="pretrained"))


@pytest.mark.parametrize("reports", [REPORTS, ()], ids=["with text", "image only"])
def test_saved_state_comes_back_with_its_vocabulary(tmp_path: Path, reports: tuple[str, ...]) -> None:
    """From a path, without the reports that its tokenizer was learned from."""
    source = SWIN.make(BuildRequest(seed=3, train_reports=reports))
    torch.save(source.state_dict(), tmp_path / "state.pt")
    again = SWIN.make(BuildRequest(weights=tmp_path / "state.pt"))
    n = len(source.state_dict())
    assert again.loaded == {"whole model": f"{n}/{n}"}
    assert (again.tokenizer is None) == (not reports)
    with torch.inference_mode():
        assert torch.equal(again.encode_image(PIXELS).pooled, source.encode_image(PIXELS).pooled)
        if reports:
            assert torch.equal(again.encode_text(TEXTS).pooled, source.encode_text(TEXTS).pooled)


def test_saved_state_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save(tiny(SWIN).state_dict(), tmp_path / "state.pt")
    with pytest.raises(BadInput, match="does not fit the lumbarclip-vit"):
        VIT.make(BuildRequest(weights=tmp_path / "state.pt"))


# --------------------------------------------------------------------------------------------- cards


def test_cards_are_listed_without_torch() -> None:
    code = "import sys, lumbarclip.cards, baselines.cards; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_cards_pin_what_they_name_and_say_what_is_reported(entry: ModelEntry) -> None:
    assert all(len(source.revision) == 40 and int(source.revision, 16) for source in entry.card.weights)
    (figures,) = entry.card.reported
    assert set(figures.values) == {"Accuracy", "Precision", "Recall", "F1"}
    assert "462 of 528" in figures.caveat
    assert entry.card.weights[0].repo_id == f"timm/{ARCHITECTURES[entry.card.name]['paper'].image.arch}"


def test_vocabulary_of_a_paper_model_without_files_fits_its_table() -> None:
    """Random weights need no published file at any scale: the published table is used as far as words go."""
    spec = ARCHITECTURES["lumbarclip-vit"]["paper"].text
    assert learn_wordpiece(REPORTS, spec.config["vocab_size"]).get_vocab_size() <= 28996
