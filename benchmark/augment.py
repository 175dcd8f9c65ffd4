"""Rewordings of training reports: asked of an augmentation, held against the reports, the same in every process.

Whatever an augmentation gives, ours or anybody's, passes the check of ``benchmark.data.faithfulness``: a text that
contradicts its report, or adds to it, is not trained on. Nor is one that omits, unless its entry says that it may.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.config import RunConfig
from benchmark.data import faithfulness
from benchmark.data.faithfulness import Change
from benchmark.data.manifest import Dataset
from benchmark.data.split import Split, training_pairs
from benchmark.data.table import did_you_mean
from benchmark.errors import BadInput, BrokenModel
from benchmark.model import Augmentation, AugmentationEntry, Captioned, PicturedAugmentation, RewordContext
from benchmark.registry import Registry
from benchmark.result import RewordingRecord, digest
from benchmark.reworded_file import Candidate, Row, TextFile, write
from benchmark.seeding import generator

FILE = "file"
"""The augmentation whose texts are read from ``--rewordings``."""


@dataclass(frozen=True)
class Source:
    """Where texts come from, found and identified before any of them is asked for."""

    name: str
    version: str
    """Of the entry: seeds what is drawn for a report."""
    identity: str
    """Provider, version, settings and files, and the check's version: part of the id of the cells that use it."""
    augmentation: Augmentation | PicturedAugmentation | TextFile
    may_omit: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the check, and the person who looked, say of one text."""

    text: str
    changes: tuple[Change, ...]
    refused: tuple[Change, ...]
    """Changes for which it is not used; empty where it is used."""
    by_hand: bool = False
    """Whether a person approved it against the check."""
    turned_down: bool = False
    """Whether a person turned it down."""

    @property
    def kept(self) -> bool:
        """Whether it is trained on."""
        return not self.refused and not self.turned_down

    def __str__(self) -> str:
        if self.turned_down:
            return "dropped: turned down by hand"
        if self.refused:
            return "dropped: " + "; ".join(map(str, self.refused))
        why = "; ".join(map(str, self.changes))
        return f"kept{' by hand' if self.by_hand else ''}" + (f", though it {why}" if why else "")


@dataclass(frozen=True)
class Rewordings:
    """The texts that pairs are trained on beside their reports."""

    texts: list[list[str]]
    """``count`` for each pair, repeated where fewer are distinct; empty without augmentation."""
    record: RewordingRecord | None = None


# --------------------------------------------------------------------------------------------- finding


def find(config: RunConfig, registry: Registry) -> dict[str, Source]:
    """Find the augmentations of a run by name; ``none`` is none of them.

    Raises:
        BadInput: where one is unknown, is given settings that it does not have, or lacks its file.
        MissingWeights: where it writes with a model that is not on this machine.
    """
    names = [name for name in config.augmentations if name != "none"]
    known = registry.augmentations()
    for name in config.augmentation_options:
        if name not in known:
            raise BadInput(f"augmentation_options: there is no augmentation {name!r}{did_you_mean(name, known)}")
    if config.rewordings and FILE not in names:
        raise BadInput(
            f"option --rewordings gives texts to the augmentation {FILE!r}, which this run does not have; "
            f"add it: --augmentation {','.join([*config.augmentations, FILE])}"
        )
    return {name: _file(config.rewordings) if name == FILE else _plugin(name, config, registry) for name in names}


def _file(path: Path | None) -> Source:
    if path is None:
        raise BadInput(f"the augmentation {FILE!r} reads its texts from a file; name it with --rewordings FILE.csv")
    texts = TextFile.read(path)
    return Source(FILE, "1", f"{texts.digest}/check {faithfulness.VERSION}", texts)


def _plugin(name: str, config: RunConfig, registry: Registry) -> Source:
    registered = registry.augmentation(name)
    options = config.augmentation_options.get(name, {})
    augmentation = _build(name, registered.entry, options)
    parts = [registered.provider, registered.entry.version]
    if options:
        parts.append(digest(options))
    if isinstance(augmentation, PicturedAugmentation):
        parts.append(augmentation.identify(config.weights_dir))
    identity = "/".join([*parts, f"check {faithfulness.VERSION}"])
    return Source(name, registered.entry.version, identity, augmentation, registered.entry.may_omit)


def _build(name: str, entry: AugmentationEntry, options: Mapping[str, object]) -> Augmentation | PicturedAugmentation:
    augmentation = entry.make(options)
    if not isinstance(augmentation, Augmentation | PicturedAugmentation):
        raise BadInput(
            f"augmentation {name!r} builds a {type(augmentation).__name__}, which has neither 'reword' nor "
            "'identify' and 'reword_pairs'; docs/add-a-model.md shows one"
        )
    return augmentation


def check_files(sources: Iterable[Source], dataset: Dataset, split: Split) -> None:
    """Hold the files of texts against the dataset before anything is trained.

    Raises:
        BadInput: where one was made of other reports.
    """
    for source in sources:
        if isinstance(source.augmentation, TextFile):
            source.augmentation.of(captions(dataset, split))


# --------------------------------------------------------------------------------------------- writing down


def write_file(
    path: Path, source: Source, pairs: Sequence[Captioned], count: int, context: RewordContext, *, include_dropped: bool
) -> RewordingRecord:
    """Write an augmentation's texts, with what the check says of them, for a person to read and correct.

    One row a text: of each pair, where the augmentation looks at pictures; else of each distinct report, under the
    first sample that has it.

    Raises:
        BadInput: where the file exists, for somebody may have worked on it.
    """
    if path.exists():
        raise BadInput(f"{path} exists, and may hold corrections; give another --out, or move it away")
    verdicts = judged(source, pairs, count, context)
    whole = list(zip(pairs, verdicts, strict=True))
    first = {pair.report: pair.sample for pair in reversed(pairs)}
    per_pair = isinstance(source.augmentation, PicturedAugmentation)
    rows = [
        Row(pair.sample, pair.report, verdict.text, str(verdict))
        for pair, each in whole
        if per_pair or first[pair.report] == pair.sample
        for verdict in each
        if verdict.kept or include_dropped
    ]
    write(path, rows)
    return _record(source, pairs, count, verdicts, _used(verdicts, count))


# --------------------------------------------------------------------------------------------- asking


def captions(dataset: Dataset, split: Split) -> list[Captioned]:
    """The training pairs, in their order: all that is ever reworded."""
    reports = dataset.reports or ()
    return [
        Captioned(dataset.sample_ids[i], report, dataset.pixels[i], dataset.pixel_hashes[i])
        for i in training_pairs(dataset, split).tolist()
        if (report := reports[i]) is not None
    ]


def reword(source: Source, pairs: Sequence[Captioned], count: int, context: RewordContext) -> Rewordings:
    """Ask for ``count`` texts a pair, drop what is not faithful, and fill up with what is left.

    A pair keeps its first ``count`` faithful texts, repeated in turn where they are fewer; where there is none, its
    report stands in for them.

    Raises:
        BrokenModel: where an augmentation gives anything else than it was asked for.
    """
    verdicts = judged(source, pairs, count, context)
    kept = _used(verdicts, count)
    texts = []
    for pair, used in zip(pairs, kept, strict=True):
        options = [verdict.text for verdict in used] or [pair.report]
        texts.append([options[i % len(options)] for i in range(count)])
    return Rewordings(texts, _record(source, pairs, count, verdicts, kept))


def _used(verdicts: Sequence[Sequence[Verdict]], count: int) -> list[list[Verdict]]:
    """The texts of each pair that are trained on."""
    return [[verdict for verdict in each if verdict.kept][:count] for each in verdicts]


def judged(source: Source, pairs: Sequence[Captioned], count: int, context: RewordContext) -> list[tuple[Verdict, ...]]:
    """What an augmentation gives for each pair, and what is to be said of it."""
    known: dict[tuple[str, Candidate], Verdict] = {}

    def judge(report: str, candidate: Candidate) -> Verdict:
        key = (report, candidate)
        if key not in known:
            known[key] = _judge(report, candidate, may_omit=source.may_omit)
        return known[key]

    given = _ask(source, pairs, count, context)
    return [
        tuple(judge(pair.report, candidate) for candidate in candidates)
        for pair, candidates in zip(pairs, given, strict=True)
    ]


def _judge(report: str, candidate: Candidate, *, may_omit: bool) -> Verdict:
    changes = faithfulness.changes(report, candidate.text)
    refused = faithfulness.refused(changes, may_omit=may_omit)
    if candidate.use == "no":
        return Verdict(candidate.text, changes, refused, turned_down=True)
    if candidate.use == "yes":
        return Verdict(candidate.text, changes, (), by_hand=bool(refused))
    return Verdict(candidate.text, changes, refused)


def _ask(
    source: Source, pairs: Sequence[Captioned], count: int, context: RewordContext
) -> Sequence[Sequence[Candidate]]:
    augmentation = source.augmentation
    if isinstance(augmentation, TextFile):
        return augmentation.of(pairs)
    if isinstance(augmentation, PicturedAugmentation):
        given = augmentation.reword_pairs(pairs, count, context=context)
        if len(given) != len(pairs):
            raise BrokenModel(f"augmentation {source.name!r} was given {len(pairs)} pairs and gave {len(given)} lists")
        for texts in given:
            _check(source.name, texts, count, fewer=True)
        return [[Candidate(text) for text in texts] for texts in given]
    return _by_report(source, augmentation, pairs, count, context)


def _by_report(
    source: Source, augmentation: Augmentation, pairs: Sequence[Captioned], count: int, context: RewordContext
) -> list[list[Candidate]]:
    """Each distinct report is reworded once, and its texts do not depend on which others there are."""
    reports = sorted({pair.report for pair in pairs})
    reworded = {}
    for done, report in enumerate(reports, start=1):
        rng = generator(context.fingerprint, "reword", source.name, source.version, report)
        texts = list(augmentation.reword(report, count, rng))
        _check(source.name, texts, count, fewer=False)
        reworded[report] = [Candidate(text) for text in texts]
        context.progress(done, len(reports))
    return [reworded[pair.report] for pair in pairs]


def _check(name: str, texts: Sequence[str], count: int, *, fewer: bool) -> None:
    right = len(texts) <= count if fewer else len(texts) == count
    if not right or not all(isinstance(text, str) for text in texts):
        raise BrokenModel(
            f"augmentation {name!r} was asked for {count} texts and gave {len(texts)} objects of type "
            f"{', '.join(sorted({type(text).__name__ for text in texts})) or 'none'}"
        )


def _record(
    source: Source,
    pairs: Sequence[Captioned],
    count: int,
    verdicts: Sequence[Sequence[Verdict]],
    kept: Sequence[Sequence[Verdict]],
) -> RewordingRecord:
    given = [verdict for each in verdicts for verdict in each]
    used = [verdict for each in kept for verdict in each]
    dropped = [verdict for verdict in given if verdict.refused and not verdict.turned_down]
    kinds = Counter(label for verdict in dropped for label in {change.label for change in verdict.refused})
    reports = {pair.report for pair in pairs}
    other = source.augmentation.others(pairs) if isinstance(source.augmentation, TextFile) else 0
    return RewordingRecord(
        augmentation=source.name,
        pairs=len(pairs),
        asked=len(pairs) * count,
        given=len(given),
        kept=len(used),
        kept_by_hand=sum(verdict.by_hand for verdict in used),
        omitting=sum(bool(verdict.changes) and not verdict.by_hand for verdict in used),
        dropped=len(dropped),
        dropped_by_kind=dict(sorted(kinds.items())),
        left_out_by_hand=sum(verdict.turned_down for verdict in given),
        distinct=len({verdict.text for verdict in used} - reports),
        original_alone=sum(not each for each in kept),
        rows_of_other_samples=other,
    )
