"""Whatever an augmentation gives is held against the report, counted, and brought to the same number for each pair."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmark.augment import Source, Verdict, captions, find, judged, reword
from benchmark.config import RunConfig
from benchmark.data.phantom import draw
from benchmark.data.split import make_split
from benchmark.errors import BadInput, BrokenModel
from benchmark.model import Augmentation, Captioned, PicturedAugmentation, RewordContext
from benchmark.registry import Registry
from benchmark.reworded_file import Row, TextFile, write


def pair(sample: str, report: str) -> Captioned:
    return Captioned(sample, report, np.zeros((2, 2), dtype=np.uint8), f"hash of {sample}")


def source(augmentation: Augmentation | PicturedAugmentation | TextFile, *, may_omit: bool = False) -> Source:
    return Source("mine", "1", "mine/1", augmentation, may_omit)


@pytest.fixture
def context(tmp_path: Path) -> RewordContext:
    return RewordContext(tmp_path, "cpu", None, "f", lambda done, total: None)


class Shout:
    name = "shout"

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        return [f"{report} {'!' * rng.integers(1, 1000)}" for _ in range(count)]


class Says:
    """Gives the texts it was made with, whatever the report."""

    name = "says"

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def reword(self, report: str, count: int, rng: np.random.Generator) -> list[str]:
        return self.texts


class Looks:
    """Sees pictures: gives ``texts[sample]``."""

    name = "looks"

    def __init__(self, **texts: list[str]) -> None:
        self.texts = texts

    def identify(self, weights_dir: Path | None) -> str:
        return "its files"

    def reword_pairs(self, pairs: Sequence[Captioned], count: int, *, context: RewordContext) -> list[list[str]]:
        return [self.texts[each.sample] for each in pairs]


def test_a_reports_rewordings_do_not_depend_on_the_other_reports(context: RewordContext) -> None:
    alone = reword(source(Shout()), [pair("1", "a")], 3, context).texts
    among = reword(source(Shout()), [pair("2", "b"), pair("1", "a"), pair("3", "c"), pair("4", "a")], 3, context).texts
    assert among[1] == among[3] == alone[0]
    other = Source("mine", "2", "mine/2", Shout())
    assert reword(other, [pair("1", "a")], 3, context).texts != [alone[0]]


def test_what_is_not_faithful_is_dropped_and_every_pair_still_has_its_number_of_texts(context: RewordContext) -> None:
    says = Says("A left bulge.", "right bulge", "left bulge at L4/5", "Left bulge is seen.")
    record = (result := reword(source(says), [pair("1", "left bulge")] * 2, 4, context)).record
    assert result.texts == [["A left bulge.", "Left bulge is seen."] * 2] * 2
    assert record is not None
    assert (record.pairs, record.asked, record.given, record.kept, record.dropped) == (2, 8, 8, 4, 4)
    assert record.dropped_by_kind == {"adds level": 2, "contradicts side": 2}
    assert (record.distinct, record.original_alone) == (2, 0)


def test_a_pair_without_a_faithful_text_is_trained_on_its_report(context: RewordContext) -> None:
    looks = Looks(a=["no bulge", "bulge at L4/5"], b=[], c=["A bulge"])
    result = reword(source(looks), [pair(name, "bulge") for name in "abc"], 3, context)
    assert result.texts == [["bulge"] * 3, ["bulge"] * 3, ["A bulge"] * 3]
    assert result.record is not None
    assert (result.record.original_alone, result.record.asked, result.record.given) == (2, 9, 3)


def test_omissions_are_dropped_unless_the_entry_says_otherwise(context: RewordContext) -> None:
    says, pairs = Says("a bulge"), [pair("1", "bulge, no stenosis")]
    strict, lenient = (reword(source(says, may_omit=may), pairs, 1, context).record for may in (False, True))
    assert strict is not None
    assert lenient is not None
    assert (strict.kept, strict.dropped_by_kind, strict.omitting) == (0, {"omits finding": 1}, 0)
    assert (lenient.kept, lenient.dropped, lenient.omitting) == (1, 0, 1)


@pytest.mark.parametrize("texts", [["one"], ["one", "two", "three"], ["one", 2]])
def test_another_number_or_kind_of_texts_than_asked_for_is_a_broken_contract(
    texts: list[str], context: RewordContext
) -> None:
    with pytest.raises(BrokenModel, match="was asked for 2 texts and gave"):
        reword(source(Says(*texts)), [pair("1", "a")], 2, context)


def test_one_that_looks_may_give_fewer_and_not_more(context: RewordContext) -> None:
    assert reword(source(Looks(a=["x"])), [pair("a", "y")], 2, context).texts == [["x", "x"]]
    with pytest.raises(BrokenModel, match="was asked for 2 texts and gave 3"):
        reword(source(Looks(a=["x"] * 3)), [pair("a", "y")], 2, context)


def test_progress_ends_at_the_number_of_distinct_reports(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    context = RewordContext(tmp_path, "cpu", None, "f", lambda done, total: seen.append((done, total)))
    reword(source(Shout()), [pair("1", "a"), pair("2", "b"), pair("3", "a")], 1, context)
    assert seen == [(1, 2), (2, 2)]


# --------------------------------------------------------------------------------------------- a file of texts


def texts_file(tmp_path: Path, *rows: Row) -> TextFile:
    write(tmp_path / "texts.csv", rows)
    return TextFile.read(tmp_path / "texts.csv")


def test_a_person_overrules_the_check_both_ways_and_the_counts_say_so(tmp_path: Path, context: RewordContext) -> None:
    rows = [
        Row("1", "left bulge", "right bulge", use="yes"),
        Row("1", "left bulge", "A left bulge.", use="no"),
        Row("1", "left bulge", "right bulge, seen"),
        Row("1", "left bulge", "Left bulge seen"),
        Row("val", "left bulge", "left bulge!"),
    ]
    result = reword(source(texts_file(tmp_path, *rows)), [pair("1", "left bulge")], 2, context)
    assert result.texts == [["right bulge", "Left bulge seen"]]
    record = result.record
    assert record is not None
    assert (record.kept, record.kept_by_hand, record.left_out_by_hand, record.dropped) == (2, 1, 1, 1)
    assert record.rows_of_other_samples == 1


def test_texts_of_a_report_serve_every_pair_with_it_that_has_none_of_its_own(
    tmp_path: Path, context: RewordContext
) -> None:
    """A text-only augmentation is written once a report; one that looks at pictures, once a pair."""
    rows = [Row("1", "bulge", "A bulge."), Row("3", "bulge", "The bulge")]
    pairs = [pair("1", "bulge"), pair("2", "bulge"), pair("3", "bulge"), pair("4", "cyst")]
    assert reword(source(texts_file(tmp_path, *rows)), pairs, 1, context).texts == [
        ["A bulge."],
        ["A bulge."],
        ["The bulge"],
        ["cyst"],
    ]


def test_a_file_survives_quotes_lines_and_a_spreadsheets_ends_of_lines(tmp_path: Path) -> None:
    row = Row("ü,1", 'says "a",\nb', "- one\ntwo", "kept", "yes")
    file = texts_file(tmp_path, row)
    assert [(r.sample, r.report, r.rewording, r.use) for r in file.rows] == [
        ("ü,1", 'says "a",\nb', "- one\ntwo", "yes")
    ]
    text = (tmp_path / "texts.csv").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "texts.csv").write_bytes(text)
    again = TextFile.read(tmp_path / "texts.csv")
    assert len(again.of([pair("ü,1", 'says "a",\nb')])[0]) == 1


def test_what_is_read_decides_the_digest_and_the_verdict_does_not(tmp_path: Path) -> None:
    one = texts_file(tmp_path, Row("1", "a", "b", "kept")).digest
    assert texts_file(tmp_path, Row("1", "a", "b", "seen by me")).digest == one
    assert texts_file(tmp_path, Row("1", "a", "c", "kept")).digest != one
    assert texts_file(tmp_path, Row("1", "a", "b", "kept", "no")).digest != one


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sample,report\n1,a\n", "no column rewording, use"),
        ("sample,report,rewording,use\n1,a,b,maybe\n", "row 1: use is 'maybe'; write yes, no, or nothing"),
        ("sample,report,rewording,use\n1,a,b,\n1,a\n", "row 2: no value for rewording, use"),
        ("sample,report,rewording,use\n1,a, ,\n", "row 1: the rewording is empty"),
        ("\xff", "not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused_by_row(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "texts.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput, match=re.escape(message)):
        TextFile.read(tmp_path / "texts.csv")


def test_texts_made_of_another_report_are_refused(tmp_path: Path) -> None:
    file = texts_file(tmp_path, Row("1", "bulge", "A bulge."))
    with pytest.raises(BadInput, match=r"row 1: the report of sample '1' is another one"):
        file.of([pair("1", "cyst")])


# --------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentations": ["file"]}, "name it with --rewordings"),
        ({"augmentations": ["none"], "rewordings": "texts.csv"}, "add it: --augmentation none,file"),
        ({"augmentations": ["file"], "rewordings": "nowhere.csv"}, "cannot be read"),
        (
            {"augmentations": ["eda"], "augmentation_options": {"edda": {}}},
            "there is no augmentation 'edda' (did you mean 'eda'?)",
        ),
        (
            {"augmentations": ["eda"], "augmentation_options": {"eda": {"swop": 1}}},
            "unexpected keyword argument 'swop'",
        ),
    ],
)
def test_what_cannot_be_found_is_one_sentence(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        find(RunConfig.model_validate(settings), Registry.load())


def test_settings_reach_the_augmentation_and_its_identity() -> None:
    def eda(options: dict[str, object]) -> Source:
        settings = {"augmentations": ["none", "eda"], "augmentation_options": options}
        return find(RunConfig.model_validate(settings), Registry.load())["eda"]

    weak, plain = eda({"eda": {"swap": 0.3}}), eda({})
    assert getattr(weak.augmentation, "swap", None) == 0.3
    assert weak.identity != plain.identity
    assert plain.identity.endswith("/check 1")


def test_eda_passes_the_check_on_every_report_of_the_phantom(context: RewordContext) -> None:
    dataset = draw(60)
    split = make_split(dataset)
    pairs = captions(dataset, split)
    assert {p.sample for p in pairs} <= {dataset.sample_ids[i] for i in split.train}
    eda = find(RunConfig(augmentations=("eda",)), Registry.load())["eda"]
    record = reword(eda, pairs, 4, context).record
    assert record is not None
    assert (record.dropped, record.kept, record.original_alone) == (0, record.asked, 0)


def test_a_verdict_in_words(context: RewordContext) -> None:
    says = Says("bulge at L4/5", "bulge seen", "a")
    (verdicts,) = judged(source(says, may_omit=True), [pair("1", "bulge")], 3, context)
    assert [str(verdict) for verdict in verdicts] == [
        "dropped: adds level (L4-L5)",
        "kept",
        "kept, though it omits finding (bulge)",
    ]
    assert str(Verdict("a", (), (), turned_down=True)) == "dropped: turned down by hand"
