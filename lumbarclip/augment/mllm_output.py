"""The sentences in what a language model wrote, however it laid them out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

_TURN = re.compile(r"\[/INST\]|<\|im_start\|>\s*assistant|<\|assistant\|>|\bASSISTANT:|###\s*Assistant:", re.I)
"""After the last of these the answer begins, where the question is echoed."""

_SPECIAL = re.compile(r"</?s>|<\|[^<>|]*\|>|<(?:image|pad|unk|eos|bos)>|\[/?INST\]")
_MARK = re.compile(
    r"^\s*(?:\(?\d{1,2}\s*[.):]\)?|\(?[a-h]\)|[-*•–—▪◦·]|#+|(?:\W*)(?:sentence|caption)\s*\d{1,2}\s*\W*[:.)])\s+", re.I
)
"""What stands before an item of a list."""

_INLINE = re.compile(r"(?:^|(?<=[.!?\"”])\s+)\(?\d{1,2}[.)]\s+(?=[\"“*A-Z])")
_SENTENCE = re.compile(r"(?<=[.!?])[\"”]?\s+(?=[\"“A-Z])")
_LABEL = re.compile(
    r"^(?:the\s+)?(?:original(?:\s+caption)?|rephrased?|rewording|expan(?:ded|sion))\s*\d*\s*[:\-–]\s+", re.I
)
_PREAMBLE = re.compile(
    r"^(?:sure|certainly|of course|ok(?:ay)?|here (?:are|is)|below|the following|these (?:are|sentences))\b", re.I
)
_REFUSAL = re.compile(r"^(?:i'?m sorry|i am sorry|sorry|as an ai|i can(?:no|')t|i am unable|unfortunately,? i)\b", re.I)
_QUOTES = "\"'“”‘’`«»"
_CLOSING = tuple(".!?…")


def sentences(output: str, caption: str, count: int) -> list[str]:
    """Take up to ``count`` sentences out of a model's answer, the caption and repetitions left out.

    Understood are numbered lists, bullets, one a line, JSON lists, and one paragraph; with headings, quotes, markdown
    or an echo of the question around them. A last sentence that was cut off, as where the model ran out of tokens, is
    left out where others are whole.
    """
    text = _SPECIAL.sub(" ", _TURN.split(output)[-1])
    items = [_clean(item) for item in _json_list(text) or _listed(text)]
    if len(items) > 1 and not items[-1].endswith(_CLOSING) and any(item.endswith(_CLOSING) for item in items[:-1]):
        items.pop()
    seen = {_words(caption)}
    kept = []
    for item in items:
        if any(map(str.isalpha, item)) and _words(item) not in seen and not _REFUSAL.match(item):
            seen.add(_words(item))
            kept.append(item)
    return kept[:count]


def _json_list(text: str) -> list[str]:
    """The strings of the first JSON list, also inside an object or a code fence; none where there is no such list."""
    for start in (match.start() for match in re.finditer(r"\[(?=\s*[\"{])", text)):
        try:
            found, _ = json.JSONDecoder().raw_decode(text[start:])
        except ValueError:
            continue
        if isinstance(found, list):
            values = [next(iter(each.values()), None) if isinstance(each, dict) else each for each in found]
            return [value for value in values if isinstance(value, str)]
    return []


def _listed(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    if sum(bool(_MARK.match(line)) for line in lines) > 1:
        return _marked(lines)
    plain = [line for line in lines if not _is_preamble(line)]
    if len(plain) > 1:
        return plain
    return [part for line in plain for part in _in_paragraph(line)]


def _marked(lines: Iterable[str]) -> list[str]:
    """Items that begin with a mark, each with the lines that it runs on over."""
    items: list[str] = []
    for line in lines:
        if _MARK.match(line):
            items.append(_MARK.sub("", line))
        elif items and not items[-1].rstrip(_QUOTES + "* ").endswith(_CLOSING) and not _is_preamble(line):
            items[-1] += f" {line}"
    return items


def _in_paragraph(line: str) -> list[str]:
    numbered = [part for part in _INLINE.split(line) if part.strip()]
    if len(numbered) > 1:
        return [part for part in numbered if not _is_preamble(part.strip())]
    return _SENTENCE.split(line)


def _is_preamble(line: str) -> bool:
    bare = line.strip(" *_#")
    return bare.endswith(":") or (_PREAMBLE.match(bare) is not None and "sentence" in bare.lower())


def _clean(item: str) -> str:
    """One sentence without marks, labels, markdown and quotes around it."""
    text = re.sub(r"\*\*|__|`", "", " ".join(item.split()))
    text = _MARK.sub("", text).strip(" *_")
    text = _LABEL.sub("", text).strip()
    if text[:1] in _QUOTES:
        text = text.strip(_QUOTES + " ,")
    return text.strip()


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))
