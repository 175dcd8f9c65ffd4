"""BiomedCLIP is what open_clip builds from its folder: embeddings, counts, preprocessing, and its settings checked."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig

from baselines import biomedclip
from baselines.biomedclip import ARCHITECTURES, ReleasedBiomedCLIP
from baselines.cards import BIOMEDCLIP, BIOMEDCLIP_RELEASE
from baselines.towers import Architecture, ImageSpec, TextSpec
from baselines.wordpiece import learn_wordpiece
from benchmark.data.preprocess import CLIP_MEAN, CLIP_STD, picture
from benchmark.errors import BadInput
from benchmark.model import BuildRequest
from benchmark.objective import InfoNCE

REPORTS = ("A disc bulge at L4/5 narrows the left recess.", "No finding.", "Stenosis of the canal at L3/4.")
TEXTS = ["No finding.", "A DISC bulge at L4/5.", "", "stenosis " * 300]
ROWS = 200

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    },
    "preprocess_cfg": {"mean": list(CLIP_MEAN), "std": list(CLIP_STD)},
}
"""``open_clip_config.json`` as its public copies have it."""


def oracle(folder: Path, rows: int = ROWS, layers: int = 3) -> nn.Module:
    """open_clip's own model, its BERT built from a local configuration instead of the hub's."""
    folder.mkdir(parents=True, exist_ok=True)
    BertConfig(vocab_size=rows, num_hidden_layers=layers).save_pretrained(folder)
    settings = copy.deepcopy(CONFIG["model_cfg"])
    settings["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CustomTextCLIP(**settings).eval()


def shape(layers: int = 3, depth: int = 12) -> Architecture:
    paper = ARCHITECTURES["paper"]
    text = TextSpec("bert", {**paper.text.config, "vocab_size": ROWS, "num_hidden_layers": layers}, 256, "cls")
    return Architecture(ImageSpec(paper.image.arch, 224, {"depth": depth}), text, paper.preprocess)


def publish(folder: Path, state: dict[str, Tensor], config: dict[str, Any] = CONFIG) -> dict[str, Path]:
    home = folder / BIOMEDCLIP_RELEASE.repo_id
    home.mkdir(parents=True)
    older = {"text.transformer.embeddings.position_ids": torch.arange(512)[None]}
    torch.save(state | older, home / "open_clip_pytorch_model.bin")
    (home / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = sorted(learn_wordpiece(REPORTS, ROWS).get_vocab().items(), key=lambda item: item[1])
    entries = [token for token, _ in vocabulary] + [f"[unused{i}]" for i in range(ROWS - len(vocabulary))]
    (home / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return {BIOMEDCLIP_RELEASE.repo_id: home}


def load(folders: dict[str, Path], layers: int = 3, depth: int = 12) -> ReleasedBiomedCLIP:
    request = BuildRequest(scale="paper", weights="pretrained", files=folders)
    return ReleasedBiomedCLIP.build(BIOMEDCLIP.card, shape(layers=layers, depth=depth), request)


def shallow() -> dict[str, Tensor]:
    """The released layout, two blocks and one text layer deep: enough to be refused."""
    model = ReleasedBiomedCLIP(BIOMEDCLIP.card, shape(layers=1, depth=2), learn_wordpiece(REPORTS, ROWS), seed=0)
    parts = {
        "visual.trunk.": model.image.trunk,
        "visual.head.proj.": model.image_projection,
        "text.transformer.": model.text.encoder,
        "text.proj.": model.text_projection,
    }
    state = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    return state | {"logit_scale": torch.ones(())}


def test_embeddings_are_open_clips(tmp_path: Path) -> None:
    theirs = oracle(tmp_path / "bert")
    ours = load(publish(tmp_path, theirs.state_dict()))
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    # open_clip pads every text to the whole context and reads the mask off the padding's number.
    ids = torch.zeros(len(TEXTS), 256, dtype=torch.int64)
    for row, text in zip(ids, TEXTS, strict=True):
        found = ours.tokenizer.encode(text).ids
        row[: len(found)] = torch.tensor(found)
    assert int((ids[3] > 0).sum()) == 256, "a long text fills the context"
    with torch.inference_mode():
        image, text = ours.encode_image(pixels), ours.encode_text(TEXTS)
        found = ours.project_image(image), ours.project_text(text)
        expected = theirs.encode_image(pixels, normalize=True), theirs.encode_text(ids, normalize=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert (image.pooled.shape, text.pooled.shape) == ((3, 768), (4, 768))
    assert set(ours.loaded) == {"image tower", "text tower", "image projection", "text projection"}
    assert ours.loaded["text projection"] == "2/2"


def test_full_size_layout_has_a_place_for_every_tensor(tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = oracle(tmp_path / "bert", 30522, 12)
        ours = ReleasedBiomedCLIP(BIOMEDCLIP.card, ARCHITECTURES["paper"], learn_wordpiece(REPORTS, ROWS), seed=0)
    assert len(theirs.state_dict()) == 351
    folders = publish(tmp_path, {})
    with mock.patch.object(biomedclip, "read_state", return_value=theirs.state_dict()):
        ours.load_published(folders)
    expected = sum(p.numel() for name, p in theirs.named_parameters() if name != "logit_scale")
    assert sum(p.numel() for p in ours.parameters()) == expected == 195_902_720


@pytest.mark.parametrize("size", [(224, 224), (500, 300), (91, 200)])
def test_preprocessing_is_open_clips(size: tuple[int, int]) -> None:
    image = picture(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    theirs = open_clip.image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    torch.testing.assert_close(ARCHITECTURES["paper"].preprocess(image), theirs(image), rtol=0, atol=1e-6)


def test_objective_is_info_nce() -> None:
    from benchmark.objective import make_objective

    assert type(make_objective(BIOMEDCLIP.make(BuildRequest(train_reports=REPORTS)), {})) is InfoNCE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model_cfg", "text_cfg", "hf_pooler_type"), "mean_pooler"),
        (("model_cfg", "text_cfg", "context_length"), 77),
        (("preprocess_cfg", "mean"), [0.5, 0.5, 0.5]),
    ],
)
def test_another_models_settings_are_refused(tmp_path: Path, path: tuple[str, ...], value: object) -> None:
    """What no tensor's shape shows: the file would load, and every embedding would be wrong."""
    config = copy.deepcopy(CONFIG)
    place = config
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    folders = publish(tmp_path, shallow(), config)
    with pytest.raises(BadInput, match=rf"of another model than BiomedCLIP: {'.'.join(path)} is"):
        load(folders, layers=1, depth=2)
    (folders[BIOMEDCLIP_RELEASE.repo_id] / "open_clip_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="can't be read as open_clip's settings"):
        load(folders, layers=1, depth=2)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("visual.trunk.norm.weight", "image tower: .*1 missing"),
        ("text.proj.2.weight", "text projection: 1/2"),
        ("text.transformer.embeddings.word_embeddings.weight", "text tower: .*1 missing"),
    ],
)
def test_an_incomplete_release_is_refused(tmp_path: Path, lost: str, message: str) -> None:
    state = shallow()
    load(publish(tmp_path / "whole", state), layers=1, depth=2)
    del state[lost]
    with pytest.raises(BadInput, match=message):
        load(publish(tmp_path / "incomplete", state), layers=1, depth=2)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    folders = publish(tmp_path, shallow() | {"text.pooler.weight": torch.ones(1)})
    with pytest.raises(BadInput, match=r"1 of its \d+ tensors belong to no part of the model \(text\.pooler\.weight\)"):
        load(folders, layers=1, depth=2)
