"""CLIP is the published model to the layer: embeddings against transformers' own, tokens against open_clip's."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from baselines import clip
from baselines.cards import CLIP, CLIP_RELEASE
from baselines.clip import ARCHITECTURES, ReleasedCLIP, clip_bpe
from baselines.wordpiece import learn_wordpiece
from benchmark.data.preprocess import CLIP_MEAN, CLIP_STD, picture
from benchmark.errors import BadInput
from benchmark.model import BuildRequest
from benchmark.objective import InfoNCE

REPORTS = ("A disc bulge at L4/5 narrows the left recess.", "No finding.", "Stenosis of the canal at L3/4.")
TEXTS = ["No finding.", "A DISC bulge at L4/5,  left 12mm -- what's more", "", "stenosis " * 200]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's real vocabulary, which open_clip ships in OpenAI's layout, as the two files that the hub has."""
    folder = tmp_path_factory.mktemp("clip")
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
    entries = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(entry, entry): number
        for entry, number in SimpleTokenizer().encoder.items()
    }
    (folder / "vocab.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def oracle(layers: int = 3) -> CLIPModel:
    """transformers' CLIP at the published width with few layers."""
    text = {"num_hidden_layers": layers, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
    vision = {"num_hidden_layers": layers, "patch_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).eval()


def shape(layers: int = 3) -> clip.Architecture:
    paper = ARCHITECTURES["paper"]
    image = clip.ImageSpec(paper.image.arch, 224, {"depth": layers})
    text = clip.TextSpec("clip", {**paper.text.config, "num_hidden_layers": layers}, 77, paper.text.pooling)
    return clip.Architecture(image, text, paper.preprocess)


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the two buffers of the released file, which are computed today."""
    return state | {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(197)[None],
    }


def publish(folder: Path, state: dict[str, Tensor], vocabulary: Path) -> dict[str, Path]:
    home = folder / CLIP_RELEASE.repo_id
    home.mkdir(parents=True)
    torch.save(state, home / "pytorch_model.bin")
    for name in ("vocab.json", "merges.txt"):
        (home / name).write_bytes((vocabulary / name).read_bytes())
    return {CLIP_RELEASE.repo_id: home}


def load(folders: dict[str, Path], layers: int = 3) -> ReleasedCLIP:
    request = BuildRequest(scale="paper", weights="pretrained", files=folders)
    return ReleasedCLIP.build(CLIP.card, shape(layers), request)


def test_embeddings_are_those_of_transformers(tmp_path: Path, vocabulary: Path) -> None:
    theirs = oracle()
    ours = load(publish(tmp_path, as_published(theirs.state_dict()), vocabulary))
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ids = SimpleTokenizer()(TEXTS)
    # OpenAI pads with 0; transformers finds the end of the text by its number, wherever padding begins.
    with torch.inference_mode():
        expected = theirs(input_ids=ids, pixel_values=pixels)
        image, text = ours.encode_image(pixels), ours.encode_text(TEXTS)
        torch.testing.assert_close(ours.project_image(image), expected.image_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.project_text(text), expected.text_embeds, rtol=0, atol=1e-5)
    assert (image.pooled.shape, text.pooled.shape) == ((3, 768), (4, 512))
    assert set(ours.loaded) == {"image tower", "text tower", "image projection", "text projection"}
    assert all(len(set(count.split("/"))) == 1 for count in ours.loaded.values())


def test_full_size_layout_has_a_place_for_every_tensor(tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = oracle(12)
        ours = ReleasedCLIP(CLIP.card, ARCHITECTURES["paper"], learn_wordpiece(REPORTS, 200), seed=0)
    with mock.patch.object(clip, "read_state", return_value=theirs.state_dict()):
        ours.load_published({CLIP_RELEASE.repo_id: tmp_path})
    expected = sum(p.numel() for name, p in theirs.named_parameters() if name != "logit_scale")
    assert sum(p.numel() for p in ours.parameters()) == expected == 149_620_736


def test_tokenizer_is_clips_on_its_real_vocabulary(vocabulary: Path) -> None:
    ours = clip_bpe(vocabulary / "vocab.json", vocabulary / "merges.txt", 49408)
    ours.enable_truncation(77)
    theirs = SimpleTokenizer()
    texts = [*TEXTS, *REPORTS, "T2-weighted: no L5/S1 protrusion; 3.5 cm", "Ödem, café-au-lait", "tab\tand\nline"]
    for text in texts:
        expected = theirs(text)[0].tolist()
        kept = expected[: expected.index(49407) + 1]
        assert ours.encode(text).ids == kept


@pytest.mark.parametrize("size", [(224, 224), (500, 300), (91, 200), (301, 226)])
def test_preprocessing_is_open_clips(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = open_clip.image_transform(224, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    for image in (picture(pixels), picture(pixels[..., 0])):
        torch.testing.assert_close(ARCHITECTURES["paper"].preprocess(image), theirs(image), rtol=0, atol=1e-6)


def test_objective_is_info_nce() -> None:
    from benchmark.objective import make_objective

    assert type(make_objective(CLIP.make(BuildRequest(train_reports=REPORTS)), {})) is InfoNCE


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("vision_model.encoder.layers.1.self_attn.v_proj.bias", "image tower: .*qkv"),
        ("text_model.final_layer_norm.weight", "text tower: .*1 missing"),
        ("visual_projection.weight", "image projection: 0/1"),
    ],
)
def test_an_incomplete_release_is_refused(tmp_path: Path, vocabulary: Path, lost: str, message: str) -> None:
    state = as_published(oracle(2).state_dict())
    del state[lost]
    with pytest.raises(BadInput, match=message):
        load(publish(tmp_path, state, vocabulary), layers=2)


def test_files_that_are_not_clips_vocabulary_are_one_sentence(tmp_path: Path, vocabulary: Path) -> None:
    with pytest.raises(BadInput, match="49408 entries for 100"):
        clip_bpe(vocabulary / "vocab.json", vocabulary / "merges.txt", 100)
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="can't be read as a vocabulary"):
        clip_bpe(tmp_path / "vocab.json", vocabulary / "merges.txt", 49408)
