"""Shared towers are the published architectures to the layer, seeded, independent of batch-mates, and offline."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from transformers import BertTokenizer

from baselines import biomedclip, clip, convirt, gloria, medclip
from baselines.towers import DualEncoder, ImageSpec, ImageTower, TextTower, seeded
from baselines.wordpiece import learn_wordpiece, read_wordpiece, wordpiece
from benchmark.errors import BadInput, UnsupportedModality
from lumbarclip import model as lumbarclip
from lumbarclip.cards import RESNET50

SHAPES = {
    **lumbarclip.ARCHITECTURES,
    "convirt": convirt.ARCHITECTURES,
    "gloria": gloria.ARCHITECTURES,
    **medclip.ARCHITECTURES,
    "biomedclip": biomedclip.ARCHITECTURES,
    "clip": clip.ARCHITECTURES,
}
REPORTS = (
    "At L3/4 there is a moderate disc bulge with narrowing of the left lateral recess.",
    "At L4/5 a right paracentral disc herniation compresses the traversing nerve root.",
    "Disc bulge at L5/S1, mild stenosis; Modic-1 oedema (café-au-lait), Ödem.",
    "No finding.",
)
TEXTS = ["No finding.", REPORTS[0], "", "disc " * 300, "Unseen wörds: 椎間板 🩻 T2-hyperintense"]


# --------------------------------------------------------------------------------------------- architecture


def bert_parameters(vocabulary: int, positions: int, types: int, d: int = 768, layers: int = 12) -> int:
    """Embeddings and their LayerNorm; per layer four d x d maps, a 4d feed-forward, two LayerNorms."""
    return (vocabulary + positions + types + 2) * d + layers * (12 * d * d + 13 * d)


@pytest.mark.parametrize(
    ("name", "width", "cells", "reference"),
    [
        ("lumbarclip-resnet50", 2048, 49, lambda: (torchvision.models.resnet50(), "fc")),
        ("lumbarclip-vit", 768, 196, lambda: (torchvision.models.vit_b_16(), "heads")),
        ("lumbarclip-swin", 1024, 49, lambda: (torchvision.models.swin_b(), "head")),
    ],
)
def test_paper_image_towers_have_the_published_size(name: str, width: int, cells: int, reference: object) -> None:
    """Against torchvision's independent implementations, less their classifiers."""
    with torch.device("meta"):
        tower = ImageTower(SHAPES[name]["paper"].image).eval()
        other, classifier = reference()
        out = tower(torch.empty(2, 3, 224, 224))
    expected = sum(p.numel() for key, p in other.named_parameters() if not key.startswith(classifier + "."))
    assert sum(p.numel() for p in tower.parameters()) == expected
    assert tower.width == width
    assert out.pooled.shape == (2, width)
    assert out.tokens.shape == (2, cells, width)


def test_paper_text_towers_have_the_published_size() -> None:
    """Against the closed form of BERT-base's parameter count: 107.7 M, and 124.6 M for RoBERTa with its pooler."""
    vocabulary = learn_wordpiece(REPORTS, 500), learn_wordpiece(REPORTS, 500, pad_id=1)
    with torch.device("meta"):
        bert = TextTower(SHAPES["lumbarclip-vit"]["paper"].text, vocabulary[0])
        roberta = TextTower(SHAPES["convirt"]["paper"].text, vocabulary[1])
    assert sum(p.numel() for p in bert.parameters()) == bert_parameters(28996, 512, 2)
    pooler = 768 * 768 + 768
    assert sum(p.numel() for p in roberta.parameters()) == bert_parameters(50265, 514, 1) + pooler


def test_timm_resnet_is_torchvisions() -> None:
    """Same keys, same features: published files of either fit, and ConVIRT's trunk is what its authors trained."""
    other = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]).eval()
    tower = ImageTower(ImageSpec("resnet50.tv_in1k", 64, {"layers": (1, 1, 1, 1)})).eval()
    other.fc = torch.nn.Identity()
    tower.trunk.load_state_dict(other.state_dict())
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(tower(pixels).pooled, other(pixels), atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_pooled_is_the_mean_of_the_map_or_the_class_token(name: str) -> None:
    shape = SHAPES[name]["tiny"]
    tower = ImageTower(shape.image).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = tower(pixels)
        expected = out.tokens.mean(dim=1)
        if name in ("lumbarclip-vit", "biomedclip", "clip"):
            expected = tower.trunk.forward_features(pixels)[:, 0]
            assert out.tokens.shape[1] == 64
    assert torch.allclose(out.pooled, expected, atol=1e-5)


def test_tiny_swin_really_shifts_windows() -> None:
    """A tiny topology that lost the shifted window would be another architecture."""
    for name in ("lumbarclip-swin", "medclip-vit"):
        tower = ImageTower(SHAPES[name]["tiny"].image)
        shifts = [module.shift_size for module in tower.modules() if hasattr(module, "shift_size")]
        assert (1, 1) in shifts


@pytest.mark.parametrize("name", SHAPES)
def test_tiny_towers_have_no_randomness_in_training(name: str) -> None:
    tiny = SHAPES[name]["tiny"]
    dropout = [
        m.p
        for tower in (ImageTower(tiny.image), text_tower(name))
        for m in tower.modules()
        if isinstance(m, torch.nn.Dropout)
    ]
    assert set(dropout) <= {0.0}
    torch.manual_seed(0)
    tower, pixels = ImageTower(tiny.image).train(), torch.randn(4, 3, 64, 64)
    assert torch.equal(tower(pixels).pooled, tower(pixels).pooled)


# --------------------------------------------------------------------------------------------- text


def text_tower(name: str = "lumbarclip-vit") -> TextTower:
    spec = SHAPES[name]["tiny"].text
    with seeded("test", 0):
        return TextTower(spec, learn_wordpiece(REPORTS, 2000, pad_id=spec.config["pad_token_id"])).eval()


@pytest.mark.parametrize("name", ["lumbarclip-vit", "convirt", "gloria", "medclip-vit", "clip"])
def test_a_text_does_not_feel_its_batch_mates(name: str) -> None:
    tower = text_tower(name)
    with torch.inference_mode():
        together = tower(TEXTS)
        alone = torch.cat([tower([text]).pooled for text in TEXTS])
    assert together.pooled.dtype == torch.float32
    assert (together.pooled - alone).abs().max() < 1e-5
    assert together.tokens.shape == (
        len(TEXTS),
        tower.spec.max_length,
        tower.spec.config["hidden_size"],
    )  # 'disc' 300 times is cut
    assert together.mask[2].sum() == 2  # the empty text is its two special tokens
    assert len({tuple(row.tolist()) for row in together.pooled}) == len(TEXTS)


def test_tokenizer_is_berts() -> None:
    """Token for token what transformers' own tokenizer gives over the same vocabulary, lower-casing."""
    vocabulary = learn_wordpiece(REPORTS, 2000).get_vocab()
    theirs = BertTokenizer(vocab=vocabulary, do_lower_case=True)
    ours = wordpiece(vocabulary)
    for text in [*REPORTS, *TEXTS, "DISC Bulge\tL4/L5\n\u200b", "x" * 150]:
        assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert ours.encode("DISC").ids == ours.encode("disc").ids


def test_learned_vocabulary_is_the_same_in_every_process() -> None:
    """The library's own training depends on hash maps seeded anew in each process."""
    reports = [
        f"{a} {b} at {c}."
        for a in ("mild", "severe", "no")
        for b in ("bulge", "bulging", "stenosis")
        for c in ("L3/4", "L4/5")
    ]
    code = (
        "import sys, hashlib; from baselines.wordpiece import learn_wordpiece;"
        f"print(hashlib.sha256(learn_wordpiece({reports!r}, 60).to_str().encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(4)
    }
    assert len(digests) == 1


def test_learned_vocabulary_covers_its_reports_and_keeps_its_size() -> None:
    tokenizer = learn_wordpiece(REPORTS, 2000)
    unknown = tokenizer.token_to_id("[UNK]")
    assert all(unknown not in tokenizer.encode(report).ids for report in REPORTS)
    assert unknown in tokenizer.encode("椎間板").ids
    crowded = ["".join(chr(0x4E00 + i) for i in range(3000)), "disc disc disc"]
    small = learn_wordpiece(crowded, 400)
    assert small.get_vocab_size() <= 400
    assert small.token_to_id("d") is not None


@pytest.mark.parametrize("pad_id", [0, 1])
def test_padding_has_the_number_that_the_encoder_expects(pad_id: int) -> None:
    assert learn_wordpiece(REPORTS, 500, pad_id=pad_id).token_to_id("[PAD]") == pad_id


def test_a_vocabulary_larger_than_the_embedding_table_is_refused() -> None:
    words = [f"w{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)} " * 2 for i in range(5000)]
    with pytest.raises(BadInput, match=r"does not fit the text tower's 2000 rows"):
        text_tower().tokenizer = learn_wordpiece(words, 4000)


def test_vocabulary_file_is_checked(tmp_path: Path) -> None:
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "disc", "##s"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    assert read_wordpiece(path, 7).encode("Discs").tokens == ["[CLS]", "disc", "##s", "[SEP]"]
    with pytest.raises(BadInput, match=r"has 7 distinct entries, the published vocabulary 28996"):
        read_wordpiece(path, 28996)
    path.write_text("\n".join(entries[3:]), encoding="utf-8")
    with pytest.raises(BadInput, match=r"not a BERT vocabulary: it has no entry \[UNK\]"):
        read_wordpiece(path, 4)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(BadInput, match=r"vocab\.txt is not a BERT vocabulary: it is no text"):
        read_wordpiece(path, 4)


# --------------------------------------------------------------------------------------------- both


def encoder(seed: int = 0, reports: tuple[str, ...] = REPORTS, name: str = "lumbarclip-resnet50") -> DualEncoder:
    tokenizer = learn_wordpiece(reports, 2000) if reports else None
    return DualEncoder(RESNET50.card, SHAPES[name]["tiny"], tokenizer, seed=seed).eval()


@pytest.mark.parametrize("name", ["lumbarclip-resnet50", "lumbarclip-vit", "lumbarclip-swin"])
def test_random_weights_come_from_the_seed_and_from_nothing_else(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = encoder(0, name=name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = encoder(0, name=name).state_dict(), encoder(1, name=name).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.state_dict().items())
    for part in ("image.", "text.encoder."):
        assert any(not torch.equal(v, other[k]) for k, v in first.state_dict().items() if k.startswith(part))


def test_saved_state_carries_its_tokenizer() -> None:
    """A state loaded into a model whose vocabulary was learned elsewhere encodes texts as where it was saved."""
    source, target = encoder(0), encoder(1, ("Completely other wording of reports, reports and wording.",))
    target.load_state_dict(source.state_dict())
    with torch.inference_mode():
        assert torch.equal(source.encode_text(TEXTS).pooled, target.encode_text(TEXTS).pooled)


def test_copies_and_pickles_encode_alike() -> None:
    source = encoder()
    with torch.inference_mode():
        expected = source.encode_text(TEXTS).pooled
        for other in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
            assert torch.equal(other.encode_text(TEXTS).pooled, expected)


def test_without_reports_there_is_no_text_tower() -> None:
    blind = encoder(reports=())
    assert blind.tokenizer is None
    assert not any(key.startswith("text.") for key in blind.state_dict())
    with pytest.raises(UnsupportedModality, match="vocabulary is learned from the reports of the train split"):
        blind.encode_text(["No finding."])


@pytest.mark.parametrize(
    ("name", "tokens", "pooling", "vocabulary"),
    [
        ("lumbarclip-vit", 128, "cls", 28996),
        ("convirt", 128, "pooler", 50265),
        ("gloria", 97, "sum of last 4 layers", 28996),
        ("medclip-resnet50", 77, "mean of layers 1, 2 and last", 28996),
        ("medclip-vit", 77, "mean of layers 1, 2 and last", 28996),
        ("biomedclip", 256, "cls", 30522),
        ("clip", 77, "eot", 49408),
    ],
)
def test_paper_text_towers_read_texts_as_published(name: str, tokens: int, pooling: str, vocabulary: int) -> None:
    """Of each system: tokens kept of a text, what is taken of the hidden states, and entries of the vocabulary."""
    spec = SHAPES[name]["paper"].text
    assert (spec.max_length, spec.pooling, spec.config["vocab_size"]) == (tokens, pooling, vocabulary)
