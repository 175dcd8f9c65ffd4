"""The sentences of any answer are found; a model's answers are batched, seeded, kept on disk and never asked twice."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.augment import Source, reword
from benchmark.errors import BadInput, MissingWeights
from benchmark.model import Captioned, PicturedAugmentation, RewordContext
from lumbarclip import cards
from lumbarclip.augment import mllm
from lumbarclip.augment.mllm import MLLM, MODEL, Writer, prompt
from lumbarclip.augment.mllm_output import sentences

# --------------------------------------------------------------------------------------------- reading answers

CAPTION = "Mild bulge at L4/5."
FOUR = [
    "A mild bulge is seen at L4/5.",
    "At L4/5, there is a mild bulge.",
    "The L4/5 disc bulges mildly.",
    "Mild bulging at L4/5 is noted.",
]
FIVE = [CAPTION, *FOUR]


def numbered(items: Sequence[str], form: str = "{}. {}") -> str:
    return "\n".join(form.format(i, item) for i, item in enumerate(items, start=1))


@pytest.mark.parametrize(
    "answer",
    [
        numbered(FIVE),
        numbered(FIVE, "{}) {}"),
        numbered(FIVE, "({}) {}"),
        numbered(FIVE, "**{}.** {}"),
        numbered(FIVE, "Sentence {}: {}"),
        numbered(FIVE, '{}. "{}"'),
        numbered(FIVE, "{}. “{}”"),
        numbered(FIVE, "{}. **{}**"),
        "Here are 5 distinct sentences:\n\n" + numbered(FIVE),
        "Sure! Here are five sentences describing the image:\n" + numbered(FIVE) + "\n\nI hope this helps!",
        "\n\n".join(numbered(FIVE).splitlines()),
        numbered([f"Original caption: {CAPTION}", *FOUR]),
        "\n".join(f"- {item}" for item in FIVE),
        "\n".join(f"* {item}" for item in FIVE),
        "\n".join(f"• {item}" for item in FIVE),
        "\n".join(FIVE),
        "\r\n".join(FIVE),
        "Here are five sentences:\n" + "\n".join(FIVE),
        " ".join(FIVE),
        " ".join(f"{i}. {item}" for i, item in enumerate(FIVE, start=1)),
        json.dumps(FIVE),
        json.dumps({"sentences": FIVE}),
        json.dumps([{"sentence": item} for item in FIVE]),
        f"```json\n{json.dumps(FIVE, indent=1)}\n```",
        f"[INST] Generate 5 … 1. One. 2. Two. [/INST] {numbered(FIVE)}</s>",
        f"USER: <image>\nGenerate…\nASSISTANT: {numbered(FIVE)}",
        f"<|im_start|>assistant\n{numbered(FIVE)}<|im_end|>",
        numbered([*FIVE, "A mild bulge is seen at"]),
        numbered([*FIVE, *FOUR]),
        numbered([FOUR[0], CAPTION.upper(), *FOUR]),
    ],
)
def test_the_sentences_are_found_however_they_are_laid_out(answer: str) -> None:
    assert sentences(answer, CAPTION, 4) == FOUR


def test_an_item_over_several_lines_is_one_and_a_long_item_is_not_cut() -> None:
    answer = "1. A mild bulge\n   is seen at L4/5.\n2. First part. Second part."
    assert sentences(answer, CAPTION, 4) == [FOUR[0], "First part. Second part."]


def test_too_many_are_cut_and_too_few_are_as_many_as_there_are() -> None:
    assert sentences(numbered(FIVE), CAPTION, 2) == FOUR[:2]
    assert sentences(numbered([CAPTION, FOUR[0]]), CAPTION, 4) == FOUR[:1]


@pytest.mark.parametrize(
    "answer", ["", "\n", CAPTION, "I'm sorry, I can't describe medical images.", "1.", "[]", "</s>"]
)
def test_an_answer_without_sentences_gives_none(answer: str) -> None:
    assert sentences(answer, CAPTION, 4) == []


def test_a_lone_sentence_without_a_full_stop_is_kept() -> None:
    """Where nothing ends in a mark, the end says nothing about being cut off."""
    assert sentences("1. mild bulge seen\n2. bulging disc", CAPTION, 4) == ["mild bulge seen", "bulging disc"]


@given(st.text(max_size=200), st.text(max_size=40), st.integers(0, 6))
def test_any_answer_gives_at_most_the_count_of_different_clean_texts(answer: str, caption: str, count: int) -> None:
    found = sentences(answer, caption, count)
    assert len(found) <= count
    assert len({tuple(re.findall(r"\w+", text.lower())) for text in found}) == len(found)
    assert all(text == text.strip() and "\n" not in text for text in found)


SENTENCES = st.lists(
    st.from_regex(r"[A-Z][a-z]{2,8}( [a-z]{2,8}| L[1-5]/[1-5]| \d mm){1,6}\.", fullmatch=True),
    min_size=2,
    unique=True,
    max_size=5,
)


@given(SENTENCES, st.sampled_from(["{}. {}", "{}) {}", "- {1}", "{1}", '{}. "{}"', "**{}.** {}"]))
def test_what_was_laid_out_is_read_back(items: list[str], form: str) -> None:
    kept = {tuple(re.findall(r"\w+", item.lower())): item for item in items}
    if len(kept) == len(items) and not any(
        re.match(r"(?i)here|sure|sorry|below|original|caption|sentence", i) for i in items
    ):
        answer = "Here are the sentences:\n" + "\n".join(form.format(i, item) for i, item in enumerate(items, start=1))
        assert sentences(answer, "caption", 9) == items


# --------------------------------------------------------------------------------------------- settings, files


def test_the_prompt_is_the_papers() -> None:
    assert prompt("Mild bulge.", 4) == (
        "Generate 5 distinct, precise, and medically accurate sentences to describe the provided lumbar MRI image. "
        'One of the sentences must be the original caption: "Mild bulge.". The other four sentences should rephrase '
        "or expand on the original caption, maintaining its key details (e.g., vertebrae count, disc conditions, "
        "Pfirrmann grades, narrowing, bulging, endplate changes) while varying the wording and structure. Ensure all "
        "sentences are concise and focus solely on the MRI findings. \n<image>"
    )
    assert "Generate 3 distinct" in prompt("{original_caption} {all}", 2)
    assert '"{all} a"' in prompt("{all}\n a", 2)


def test_the_entry_builds_one_that_looks_at_pictures() -> None:
    built = cards.MLLM.make()
    assert isinstance(built, PicturedAugmentation)
    assert (built.name, built.model, built.temperature, built.max_new_tokens) == ("mllm", MODEL, 0.2, 1024)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoding": "beam"}, "decoding: 'beam'"),
        ({"temperature": 0}, "temperature: 0; it must be a number above 0"),
        ({"batch": "8"}, "batch: '8'"),
        ({"model": "/models/llava"}, "give a hub's OWNER/NAME"),
    ],
)
def test_settings_that_cannot_be_used_are_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        MLLM(**settings)


def test_a_model_that_is_not_here_is_one_sentence_with_the_two_ways_out(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"not on this machine: put its files.*--rewordings FILE\.csv") as raised:
        MLLM().identify(tmp_path)
    assert str(tmp_path / MODEL) in str(raised.value)


def test_published_files_of_another_layout_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / MODEL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_mistral"}))
    with pytest.raises(BadInput, match=r"'llava_mistral', which transformers does not read.*converted copy"):
        MLLM().identify(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(MissingWeights, match=r"lacks model\.safetensors"):
        MLLM().identify(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(b"one")
    with pytest.raises(MissingWeights, match=r"lacks model-2\.safetensors"):
        MLLM().identify(tmp_path)
    (folder / "model-2.safetensors").write_bytes(b"two")
    before = MLLM().identify(tmp_path)
    (folder / "model-2.safetensors").write_bytes(b"three")
    assert MLLM().identify(tmp_path) != before


# --------------------------------------------------------------------------------------------- a small model

NAME = "tests/tiny-llava"


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of a few thousand random weights, in the published layout of transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers import decoders as decode
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        MistralConfig,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("weights")
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decode.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images, fast, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=16, **size),
        text_config=MistralConfig(vocab_size=len(tokenizer.get_vocab()), num_key_value_heads=1, **ends, **size),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            parameter.data.mul_(4)  # so that what is likely depends on what was asked
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(folder / NAME)
    processor.save_pretrained(folder / NAME)
    return folder


def pairs_of(n: int) -> list[Captioned]:
    rng = np.random.default_rng(0)
    return [
        Captioned(
            f"s{i}", f"Bulge at L4/5{' and a cyst' * i}.", rng.integers(0, 255, (40, 30), dtype=np.uint8), f"hash {i}"
        )
        for i in range(n)
    ]


def small(**settings: Any) -> MLLM:
    return MLLM(**{"model": NAME, "max_new_tokens": 12, "batch": 2} | settings)


@pytest.fixture
def context(tmp_path: Path, weights_dir: Path) -> RewordContext:
    return RewordContext(tmp_path / "cache", "cpu", weights_dir, "f", lambda done, total: None)


@pytest.fixture(scope="module")
def writer(weights_dir: Path) -> Writer:
    return Writer(weights_dir / NAME, "cpu")


def ask(writer: Writer, pairs: Sequence[Captioned], temperature: float, seeds: Sequence[int]) -> list[str]:
    asked = [f"{pair.report}\n<image>" for pair in pairs]
    return writer.answers(pairs, asked, max_new_tokens=8, temperature=temperature, seeds=seeds)


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_an_answer_does_not_depend_on_its_batch(writer: Writer, temperature: float) -> None:
    """Prompts of unlike length are filled up in front, and each row draws from its own stream."""
    pairs, seeds = pairs_of(4), [100, 101, 102, 103]
    alone = [ask(writer, [pair], temperature, [seed])[0] for pair, seed in zip(pairs, seeds, strict=True)]
    assert ask(writer, pairs, temperature, seeds) == alone
    assert ask(writer, pairs[2:], temperature, seeds[2:]) == alone[2:]
    assert len(set(alone)) > 1


def test_a_picture_and_a_seed_change_the_answer_and_greedy_draws_nothing(writer: Writer) -> None:
    one, other = pairs_of(2)
    other = replace(other, report=one.report)
    assert ask(writer, [one], 0, [1]) == ask(writer, [one], 0, [2])
    assert ask(writer, [one], 1.0, [1]) == ask(writer, [one], 1.0, [1])
    assert ask(writer, [one], 1.0, [1]) != ask(writer, [one], 1.0, [2])
    assert ask(writer, [one], 0, [1]) != ask(writer, [other], 0, [1])


def test_a_chat_template_is_followed_and_without_one_mistral_gets_its_brackets(writer: Writer) -> None:
    assert writer._dressed("Say.\n<image>") == "[INST] Say.\n<image> [/INST]"
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
        "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    writer.processor.chat_template = template
    try:
        assert writer._dressed("Say.\n<image>") == "USER: Say.<image> ASSISTANT:"
    finally:
        writer.processor.chat_template = None


def test_draws_have_the_softmax_frequencies() -> None:
    logits = torch.tensor([[0.0, 0.2, -0.3, 0.1]])
    draw = mllm._Draws(0.5, [7])
    counts = np.bincount([int(draw(logits, logits).argmax()) for _ in range(4000)], minlength=4) / 4000
    assert counts == pytest.approx(torch.softmax(logits[0] / 0.5, 0).numpy(), abs=0.03)


class FakeWriter:
    """Answers by the report, and counts what it was asked."""

    asked: ClassVar[list[str]] = []
    fails_at = 10**9

    def __init__(self, folder: Path, device: str) -> None:
        pass

    def answers(self, pairs: Sequence[Captioned], prompts: Sequence[str], **settings: Any) -> list[str]:
        if len(FakeWriter.asked) + len(pairs) > FakeWriter.fails_at:
            raise KeyboardInterrupt
        FakeWriter.asked += [pair.sample for pair in pairs]
        return [numbered([pair.report, f"{pair.report} Noted.", f"{pair.report} At L1."]) for pair in pairs]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWriter]:
    monkeypatch.setattr(mllm, "Writer", FakeWriter)
    monkeypatch.setattr(FakeWriter, "asked", [])
    monkeypatch.setattr(FakeWriter, "fails_at", 10**9)
    return FakeWriter


def test_a_kill_loses_the_batch_under_way_and_nothing_is_asked_twice(
    fake: type[FakeWriter], context: RewordContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(7)
    monkeypatch.setattr(fake, "fails_at", 5)
    with pytest.raises(KeyboardInterrupt):
        small().reword_pairs(pairs, 4, context=context)
    assert len(fake.asked) == 4
    monkeypatch.setattr(fake, "fails_at", 10**9)
    texts = small().reword_pairs(pairs, 4, context=context)
    assert sorted(fake.asked) == [pair.sample for pair in pairs]
    assert texts == [[f"{pair.report} Noted.", f"{pair.report} At L1."] for pair in pairs]
    assert small().reword_pairs(pairs, 4, context=context) == texts
    assert small(batch=5).reword_pairs(pairs[3:], 4, context=context) == texts[3:]
    assert len(fake.asked) == 7


def test_what_decides_an_answer_decides_its_place_on_disk(fake: type[FakeWriter], context: RewordContext) -> None:
    pair = pairs_of(1)[0]
    same_picture = Captioned("other", pair.report, pair.pixels, pair.pixel_hash)
    small().reword_pairs([pair, same_picture], 4, context=context)
    assert len(fake.asked) == 1
    other_text = Captioned("s0", "Cyst.", pair.pixels, pair.pixel_hash)
    other_picture = Captioned("s0", pair.report, pair.pixels, "another")
    small().reword_pairs([other_text, other_picture], 4, context=context)
    assert len(fake.asked) == 3
    for settings in ({"decoding": "greedy"}, {"temperature": 0.3}, {"seed": 1}, {"max_new_tokens": 13}):
        small(**settings).reword_pairs([pair], 4, context=context)
    small().reword_pairs([pair], 3, context=context)
    assert len(fake.asked) == 8
    small(decoding="greedy", temperature=0.9, seed=5).reword_pairs([pair], 4, context=context)
    assert len(fake.asked) == 8, "greedy draws nothing, so neither matters"


def test_the_check_holds_for_what_a_model_writes(fake: type[FakeWriter], context: RewordContext) -> None:
    source = Source("mllm", "1", "x", small(), may_omit=True)
    result = reword(source, pairs_of(2), 4, context)
    assert result.record is not None
    assert result.record.dropped_by_kind == {"adds level": 2}
    assert result.texts[0] == ["Bulge at L4/5. Noted."] * 4


def test_the_small_model_answers_through_the_whole_road(context: RewordContext) -> None:
    seen: list[tuple[int, int]] = []
    context = RewordContext(
        context.cache, "cpu", context.weights_dir, "f", lambda done, total: seen.append((done, total))
    )
    texts = small().reword_pairs(pairs_of(3), 4, context=context)
    assert len(texts) == 3
    assert seen == [(0, 3), (2, 3), (3, 3)]
    kept = sorted(context.cache.rglob("*.json"))
    assert len(kept) == 3
    assert all(json.loads(file.read_text())["answer"] for file in kept)


def test_a_file_that_lacks_tensors_is_refused(weights_dir: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(weights_dir / NAME, tmp_path / NAME)
    file = tmp_path / NAME / "model.safetensors"
    tensors = load_file(file)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"1 tensors are not in its files"):
        Writer(tmp_path / NAME, "cpu")
