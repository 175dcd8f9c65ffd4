"""What the rows of a run say together: which variant stands for a model, who is told apart from whom, and from luck.

Everything here is computed from predictions, over one set of patient-level resamples, and asks the same of every row.
It is the last word on a run: pages print it and compute nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from benchmark.data.subgroups import GROUPED_BY
from benchmark.errors import BadInput
from benchmark.evaluate.compare import Side, exchanged, shared_groups
from benchmark.evaluate.detail import Prevalence, Scope, detail
from benchmark.evaluate.detail_records import Detail
from benchmark.evaluate.factorial import Factorial, factorial
from benchmark.evaluate.metrics import RANKED_BY, primary_metric
from benchmark.evaluate.ranking import Components, JointRank, Rank, components, joint_ranks, ranks
from benchmark.evaluate.resample import as_estimate, percentile_interval, plug_in, replicate
from benchmark.evaluate.significance import adjust
from benchmark.evaluate.standings import standings
from benchmark.result import Adjustment, CellResult, Estimate, Number, RunRecord, digest, without_folders

Floats = NDArray[np.float64]

ANALYSIS_VERSION = 3
"""Raised whenever the same predictions would give another analysis: an older one is not read again."""

FLIPS = 9_999
"""Most swaps of patients in a test: the smallest p-value, 1e-4, survives Holm's correction for some hundred rows."""

MOST_RANKED = 500
"""Rows beyond which ranks of all rows have no intervals: every pair of rows is looked at in every resample."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RankRecord(_Record):
    """Where a row stands among the rows of a table, and where it may stand."""

    rank: Number
    low: Number = math.nan
    """Best rank of the 95% interval of this row alone."""
    high: Number = math.nan
    joint_low: Number = math.nan
    """Best rank of the intervals that hold for all rows at once."""
    joint_high: Number = math.nan

    @classmethod
    def of(cls, rank: Rank, joint: JointRank) -> RankRecord:
        """From what ``ranks`` and ``joint_ranks`` give."""
        return cls(rank=rank.rank, low=rank.low, high=rank.high, joint_low=joint.low, joint_high=joint.high)


class StandingRecord(_Record):
    """One model's chosen row among those of the others."""

    rank: RankRecord
    tied: bool
    """Whether this test set cannot tell it from the best row."""
    p: Number = math.nan
    """Of the best row against this one, adjusted; NaN for the best row itself."""


class SkillRecord(_Record):
    """How much better a row is than the best naive one."""

    gain: Estimate
    """Of the primary metric, paired."""
    p: Number = math.nan
    """Of the swap test, adjusted over the chosen rows; NaN for rows that were not chosen."""

    @property
    def shown(self) -> bool:
        """Whether this test set shows the row to be better: by the test where there was one, else by the interval."""
        better = self.gain.value > 0
        return better and (self.p <= 0.05 if not math.isnan(self.p) else self.gain.low > 0)


class DetectableRecord(_Record):
    """How large a difference of two rows must be to be found with 80% power at 5%."""

    median: Number = math.nan
    smallest: Number = math.nan
    largest: Number = math.nan


class SeedSpread(_Record):
    """A variant that was run under several seeds: how much of its figure's luck is that of training."""

    seeds: int
    mean: Number
    """Of the primary metric over the seeds."""
    seeds_sd: Number
    """Between seeds, on patients in general."""
    patients_sd: Number
    """Between test sets of as many patients, seeds averaged out."""
    interaction_sd: Number
    """Of seeds that suit these patients and would not suit others."""
    standard_error: Number
    """Of the mean, for other patients and other seeds."""

    @classmethod
    def of(cls, mean: float, parts: Components) -> SeedSpread:
        """From what ``components`` gives."""
        return cls(
            seeds=parts.measured,
            mean=mean,
            seeds_sd=math.sqrt(parts.seeds),
            patients_sd=math.sqrt(parts.patients),
            interaction_sd=math.sqrt(parts.interaction),
            standard_error=parts.standard_error,
        )


class Analysis(_Record):
    """What a run's rows say together."""

    of: str
    """Digest of the rows and of everything else that this was computed from."""
    metric: str
    replicates: int
    adjustment: Adjustment = "holm"
    """Of the p-values below, each for the rows of its own table."""
    standings: dict[str, StandingRecord] = {}
    """Cell -> its standing among the chosen rows that read pictures alone."""
    detectable: DetectableRecord = DetectableRecord()
    """Over the pairs of those rows."""
    ranks: dict[str, RankRecord] = {}
    """Cell -> its rank among all rows that read pictures alone; empty where there are too many."""
    naive: str = ""
    """The naive row that is best on validation among those that read no report; empty where there is none."""
    skill: dict[str, SkillRecord] = {}
    """Cell -> its gain over that row, for every other row that reads pictures alone."""
    factorial: Factorial | None = None
    """What each axis does, over the rows that read pictures alone; None where there is no such row."""
    seeds: dict[str, SeedSpread] = {}
    """Cell -> the spread of its variant, for rows whose variant was run under several seeds."""
    details: dict[str, Detail] = {}
    """Cell -> a close look at it, for the row that stands for each model, whatever it reads."""
    left_out: dict[str, str] = {}
    """Cell -> why it is in none of these."""


class Choice(NamedTuple):
    """Which row stands for each model."""

    best: dict[str, str]
    """Model -> cell."""
    unchosen: frozenset[str]
    """Models with several variants of which one has no validation figure."""


def on_validation(result: CellResult, metric: str) -> float:
    """A row's primary metric on validation; NaN where none was recorded, or another one was."""
    selection = result.fits.get("selection") or {}
    value = selection.get("value") if selection.get("metric") == metric else None
    return math.nan if value is None else float(value)


def is_naive(result: CellResult) -> bool:
    """Whether a row is one that every model must beat to have shown anything."""
    return result.naive or result.spec.start == "none"  # older files name only the latter


def competes(result: CellResult) -> bool:
    """Whether a row is a model's answer from the picture alone: only such rows are ranked."""
    return result.inputs == ("image",) and not is_naive(result)


def choose(results: Sequence[CellResult], metric: str) -> Choice:
    """Choose one row per model: its variant by validation figures, and of that variant the first seed.

    Choosing by the test figure would make every reported best too good, so of a model with several variants and a
    validation figure missing none is chosen. A variant that was run under several seeds counts by their mean: the
    luckiest seed is no property of a model.
    """
    of_model: defaultdict[str, list[CellResult]] = defaultdict(list)
    for result in results:
        of_model[result.spec.model].append(result)
    figures = {result.id: on_validation(result, metric) for result in results}
    unchosen = frozenset(
        model for model, rows in of_model.items() if len(rows) > 1 and any(math.isnan(figures[row.id]) for row in rows)
    )
    best = {
        model: _stands_for(rows, figures) if len(rows) > 1 else rows[0].id
        for model, rows in of_model.items()
        if model not in unchosen
    }
    return Choice(best, unchosen)


def _stands_for(rows: Sequence[CellResult], figures: Mapping[str, float]) -> str:
    seeds: defaultdict[tuple[str, ...], list[CellResult]] = defaultdict(list)
    for row in rows:
        seeds[row.spec.regime, row.spec.augmentation, row.spec.head].append(row)
    best = max(seeds.values(), key=lambda variant: sum(figures[row.id] for row in variant) / len(variant))
    return min(best, key=lambda row: row.spec.seed).id


# --------------------------------------------------------------------------------------------- the whole


def identity(record: RunRecord, results: Sequence[CellResult], samples: pd.DataFrame | None) -> str:
    """Digest of all that an analysis is made from: whoever has an analysis of the same digest need not make it."""
    cells = [
        (
            result.id,
            result.status,
            result.primary_space,
            is_naive(result),
            on_validation(result, primary_metric(record.dataset.task)),
        )
        for result in results
    ]
    values = [[*cell[:4], None if math.isnan(cell[4]) else cell[4]] for cell in cells]
    groups = None if samples is None else samples.to_csv(index=False)
    settings = [record.replicates, record.adjustment, record.criterion, record.dataset.prevalence, groups]
    return digest([ANALYSIS_VERSION, record.split.fingerprint, settings, values])


def analyse(
    record: RunRecord,
    results: Sequence[CellResult],
    predictions: Callable[[str], pd.DataFrame],
    samples: pd.DataFrame | None = None,
) -> Analysis:
    """Read a run's rows together.

    Args:
        record: of the run.
        results: its cells, in the order of the plan.
        predictions: gives the table of a finished cell (see ``predictions``).
        samples: which subgroups each sample is in (see ``benchmark.data.subgroups``), where that was recorded.

    Raises:
        BadInput: where rows were not scored on the same test samples, or ``samples`` lacks some of them.
    """
    metric = primary_metric(record.dataset.task)
    done = [result for result in results if result.status == "done"]
    sides: dict[str, Side] = {}
    left_out: dict[str, str] = {}
    for result in done:
        try:
            sides[result.id] = _side(record, result, predictions(result.id))
        except BadInput as error:
            left_out[result.id] = without_folders(str(error))
    chosen = choose(done, metric)
    rows = [result for result in done if result.id in sides and competes(result)]
    best = [result.id for result in rows if chosen.best.get(result.spec.model) == result.id]
    found = Analysis(
        of=identity(record, results, samples),
        metric=metric,
        replicates=record.replicates,
        adjustment=record.adjustment,
        left_out=left_out,
    )
    if not sides:
        return found
    yardstick = best_naive([result for result in done if result.id in sides], metric)
    return found.model_copy(
        update={
            **_standings([(cell, sides[cell]) for cell in best], record),
            **_together(rows, best, yardstick, sides, record),
            "details": {cell: _detail(record, sides[cell], samples) for cell in chosen.best.values() if cell in sides},
        }
    )


def best_naive(results: Sequence[CellResult], metric: str) -> str:
    """The naive row that is best on validation, of those that read no report; empty where none has a figure.

    A report may state the answer, and is not what a model of pictures competes with. The choice is made on validation
    as every other is.
    """
    figures = {r.id: on_validation(r, metric) for r in results if is_naive(r) and "text" not in r.inputs}
    known = {cell: figure for cell, figure in figures.items() if not math.isnan(figure)}
    return max(known, key=lambda cell: known[cell], default="")


def _side(record: RunRecord, result: CellResult, table: pd.DataFrame) -> Side:
    side = Side([table], result.primary_space, record.dataset.task, record.dataset.classes, record.split.fingerprint)
    side.rows(RANKED_BY)  # or it says what is missing
    return side


def _standings(rows: Sequence[tuple[str, Side]], record: RunRecord) -> dict[str, object]:
    """The chosen rows among each other."""
    if not rows:
        return {}
    found = standings(
        [side for _, side in rows],
        RANKED_BY,
        replicates=record.replicates,
        flips=FLIPS,
        adjustment=record.adjustment,
    )
    return {
        "standings": {
            cell: StandingRecord(rank=RankRecord.of(row.rank, row.joint_rank), tied=row.tied, p=row.p_adjusted)
            for (cell, _), row in zip(rows, found.rows, strict=True)
        },
        "detectable": DetectableRecord(**found.detectable._asdict()),
    }


class _Table(NamedTuple):
    """The primary metric of k rows over one set of resamples."""

    rows: Sequence[CellResult]
    values: Floats
    """(k,)."""
    drawn: Floats
    """(k, b)."""
    groups: NDArray[np.int64]
    """(n,) patient of each test sample."""


def _together(
    rows: Sequence[CellResult],
    best: Sequence[str],
    naive: str,
    sides: Mapping[str, Side],
    record: RunRecord,
) -> dict[str, object]:
    """All rows among each other, and against the best naive one, over one table of replicates."""
    everyone = [*(sides[row.id] for row in rows), *([sides[naive]] if naive else [])]
    if not everyone:
        return {}
    metric = primary_metric(record.dataset.task)
    groups = shared_groups(everyone, RANKED_BY)
    areas = [side.areas(RANKED_BY) for side in everyone]
    values = np.array([plug_in(area)[metric] for area in areas])
    drawn = replicate(areas, groups, replicates=record.replicates, fingerprint=record.split.fingerprint)
    every = np.stack([of[metric] for of in drawn])
    table = _Table(rows, values[: len(rows)], every[: len(rows)], groups)
    known = ~np.isnan(table.values)
    return {
        "naive": naive,
        "ranks": _ranks(table) if 0 < len(rows) <= MOST_RANKED else {},
        "skill": _skill(table, best, sides, naive, (values[-1], every[-1]), record.adjustment) if naive else {},
        "factorial": factorial([row.spec for row in rows], *table[1:]) if known.any() else None,
        "seeds": _seeds(table),
    }


def _ranks(table: _Table) -> dict[str, RankRecord]:
    places = zip(table.rows, ranks(table.values, table.drawn), joint_ranks(table.values, table.drawn), strict=True)
    return {row.id: RankRecord.of(rank, joint) for row, rank, joint in places}


def _skill(
    table: _Table,
    best: Sequence[str],
    sides: Mapping[str, Side],
    naive: str,
    of_naive: tuple[float, Floats],
    adjustment: Adjustment,
) -> dict[str, SkillRecord]:
    """Gains over the naive row, whose figure and replicates are ``of_naive``."""
    value, drawn = of_naive
    metric = primary_metric(sides[naive].task)
    p = np.full(len(table.rows), np.nan)
    for i, row in enumerate(table.rows):
        if row.id in best:
            p[i] = exchanged(sides[row.id], sides[naive], RANKED_BY, flips=FLIPS, metrics="areas")[metric].p
    why = "undefined for one of the two"
    gains = [
        as_estimate(gain, percentile_interval(of_resamples), table.groups, why_undefined=why)
        for gain, of_resamples in zip(table.values - value, table.drawn - drawn, strict=True)
    ]
    columns = zip(table.rows, gains, adjust(p, adjustment).tolist(), strict=True)
    return {row.id: SkillRecord(gain=gain, p=adjusted) for row, gain, adjusted in columns}


def _seeds(table: _Table) -> dict[str, SeedSpread]:
    """Of every row whose variant has a figure under several seeds."""
    of_variant: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(table.rows):
        if not math.isnan(table.values[i]):
            of_variant[row.spec.model, row.spec.regime, row.spec.augmentation, row.spec.head].append(i)
    found = {}
    for seeds in of_variant.values():
        drawn = table.drawn[seeds]
        drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
        if len(seeds) > 1 and drawn.shape[1] > 1:
            spread = SeedSpread.of(float(table.values[seeds].mean()), components(table.values[seeds], drawn))
            found.update({table.rows[i].id: spread for i in seeds})
    return found


def _detail(record: RunRecord, side: Side, samples: pd.DataFrame | None) -> Detail:
    (test,) = side.rows(RANKED_BY)
    (val,) = side.rows(RANKED_BY, part="val")
    return detail(val, test, _scope(record), _subgroups(test, samples))


def _scope(record: RunRecord) -> Scope:
    """Prevalences are the card's where it states one, else those of the train split."""
    train, n = record.split.class_counts.get("train", {}), record.split.n.get("train", 0)
    prevalences = {name: Prevalence(count / n if n else math.nan, "train") for name, count in train.items()}
    if record.dataset.prevalence is not None:
        prevalences[record.dataset.classes[-1]] = Prevalence(record.dataset.prevalence, "card")
    return Scope(
        task=record.dataset.task,
        classes=record.dataset.classes,
        criterion=record.criterion,
        prevalences=prevalences,
        replicates=record.replicates,
        fingerprint=record.split.fingerprint,
    )


def _subgroups(test: pd.DataFrame, samples: pd.DataFrame | None) -> dict[str, pd.Categorical]:
    """Column -> the group of each test row."""
    if samples is None:
        return {}
    place = pd.Index(samples["sample"]).get_indexer(test["sample"])
    if (place < 0).any():
        raise BadInput(
            f"samples.parquet lacks {(place < 0).sum()} of the test samples; the command of the run, given again, "
            "writes it anew"
        )
    columns = [name for name in samples if str(name).startswith(GROUPED_BY)]
    return {str(name).removeprefix(GROUPED_BY): pd.Categorical(samples[name].iloc[place]) for name in columns}
