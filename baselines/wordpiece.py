"""The tokenizer of BERT-like text towers: read from a published vocabulary, or learned from train reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from benchmark.errors import BadInput

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Entries that every vocabulary has, beside [PAD]."""


def wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: lower-case, accents stripped, [CLS] text [SEP].

    Lower-casing is pinned, also for the cased vocabulary of Bio_ClinicalBERT: that is what its tokenizer has always
    done in effect, and what systems built on it were trained with.
    """
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106 - a token here is a word
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def learn_wordpiece(reports: Sequence[str], size: int, *, pad_id: int = 0) -> Tokenizer:
    """Train a WordPiece vocabulary of at most ``size`` entries on reports; the same reports give the same vocabulary.

    Pieces in at least two places are merged. At most a quarter of the vocabulary goes to single characters, the most
    frequent ones, and a character that is not among them becomes [UNK].
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(report) for report in reports]
    counts = Counter(c for text in texts for word, _ in splitter.pre_tokenize_str(text) for c in word)
    kept = sorted(sorted(counts, key=lambda c: (-counts[c], c))[: size // 4])
    special = [*SPECIAL[:pad_id], "[PAD]", *SPECIAL[pad_id:]]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = splitter
    # The trainer numbers ##-characters in the order of a hash map that differs from process to process, and breaks
    # ties by number. Given as special tokens they are numbered in our order, and the vocabulary is always the same.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=special + [f"##{c}" for c in kept],
        show_progress=False,
    )
    alphabet = set(kept)
    tokenizer.train_from_iterator(("".join(c if c in alphabet else " " for c in text) for text in texts), trainer)
    return wordpiece(tokenizer.get_vocab())


def read_wordpiece(path: Path, size: int) -> Tokenizer:
    """The tokenizer of a ``vocab.txt``, one entry a line.

    Raises:
        BadInput: where the file is no text, has not ``size`` entries, or lacks a special token.
    """
    try:
        entries = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not a BERT vocabulary: it is no text; fetch or copy it again") from error
    vocabulary = {entry.rstrip("\r"): i for i, entry in enumerate(entries[:-1] if entries[-1] == "" else entries)}
    lacking = [token for token in (*SPECIAL, "[PAD]") if token not in vocabulary]
    if lacking:
        raise BadInput(f"{path} is not a BERT vocabulary: it has no entry {lacking[0]}; fetch or copy it again")
    if len(vocabulary) != size:
        raise BadInput(
            f"{path} has {len(vocabulary)} distinct entries, the published vocabulary {size}; fetch it again"
        )
    return wordpiece(vocabulary)
