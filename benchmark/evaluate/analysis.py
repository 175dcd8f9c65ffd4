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

from benchmark.errors import BadInput
from benchmark.evaluate.compare import Side, exchanged, shared_groups
from benchmark.evaluate.factorial import Factorial
from benchmark.evaluate.metrics import primary_metric
from benchmark.evaluate.ranking import JointRank, Rank, joint_ranks, ranks
from benchmark.evaluate.resample import percentile_interval, plug_in, replicate
from benchmark.evaluate.significance import adjust
from benchmark.evaluate.standings import standings
from benchmark.result import CellResult, Estimate, Number, RunRecord, digest

Floats = NDArray[np.float64]

ANALYSIS_VERSION = 1
"""Raised whenever the same predictions would give another analysis: an older one is not read again."""

RANKED_BY = "probe_standard"
"""The evaluator whose primary metric ranks the rows."""

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
    """Of the best row against this one, after Holm; NaN for the best row itself."""


class SkillRecord(_Record):
    """How much better a row is than the best naive one."""

    gain: Estimate
    """Of the primary metric, paired."""
    p: Number = math.nan
    """Of the swap test, after Holm over the chosen rows; NaN for rows that were not chosen."""

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


class Analysis(_Record):
    """What a run's rows say together."""

    of: str
    """Digest of the rows and of everything else that this was computed from."""
    metric: str
    replicates: int
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
    """Choose one row per model, by its validation figure.

    Choosing by the test figure would make every reported best too good, so of a model with several variants and a
    validation figure missing none is chosen.
    """
    of_model: defaultdict[str, list[CellResult]] = defaultdict(list)
    for result in results:
        of_model[result.spec.model].append(result)
    figures = {result.id: on_validation(result, metric) for result in results}
    unchosen = frozenset(
        model for model, rows in of_model.items() if len(rows) > 1 and any(math.isnan(figures[row.id]) for row in rows)
    )
    best = {
        model: max(rows, key=lambda row: figures[row.id]).id if len(rows) > 1 else rows[0].id
        for model, rows in of_model.items()
        if model not in unchosen
    }
    return Choice(best, unchosen)


# --------------------------------------------------------------------------------------------- the whole


def identity(record: RunRecord, results: Sequence[CellResult]) -> str:
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
    return digest([ANALYSIS_VERSION, record.split.fingerprint, record.replicates, values])


def analyse(record: RunRecord, results: Sequence[CellResult], predictions: Callable[[str], pd.DataFrame]) -> Analysis:
    """Read a run's rows together.

    Args:
        record: of the run.
        results: its cells, in the order of the plan.
        predictions: gives the table of a finished cell (see ``predictions``).

    Raises:
        BadInput: where rows were not scored on the same test samples.
    """
    metric = primary_metric(record.dataset.task)
    done = [result for result in results if result.status == "done"]
    sides: dict[str, Side] = {}
    left_out: dict[str, str] = {}
    for result in done:
        try:
            sides[result.id] = _side(record, result, predictions(result.id))
        except (BadInput, FileNotFoundError) as error:
            left_out[result.id] = _why(error)
    chosen = choose([result for result in done if result.id in sides], metric)
    rows = [result for result in done if result.id in sides and competes(result)]
    best = [result.id for result in rows if chosen.best.get(result.spec.model) == result.id]
    found = Analysis(of=identity(record, results), metric=metric, replicates=record.replicates, left_out=left_out)
    if not sides:
        return found
    yardstick = best_naive([result for result in done if result.id in sides], metric)
    return found.model_copy(
        update={
            **_standings([(cell, sides[cell]) for cell in best], record.replicates),
            **_together(rows, best, yardstick, sides, metric, record.replicates),
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


def _why(error: Exception) -> str:
    return "its predictions are gone" if isinstance(error, FileNotFoundError) else str(error)


def _standings(rows: Sequence[tuple[str, Side]], replicates: int) -> dict[str, object]:
    """The chosen rows among each other."""
    if not rows:
        return {}
    found = standings([side for _, side in rows], RANKED_BY, replicates=replicates, flips=FLIPS)
    return {
        "standings": {
            cell: StandingRecord(rank=RankRecord.of(row.rank, row.joint_rank), tied=row.tied, p=row.p_adjusted)
            for (cell, _), row in zip(rows, found.rows, strict=True)
        },
        "detectable": DetectableRecord(**found.detectable._asdict()),
    }


def _together(
    rows: Sequence[CellResult],
    best: Sequence[str],
    naive: str,
    sides: Mapping[str, Side],
    metric: str,
    replicates: int,
) -> dict[str, object]:
    """All rows among each other, and against the best naive one, over one table of replicates."""
    cells = [row.id for row in rows]
    everyone = [*cells, naive] if naive else cells
    if not everyone:
        return {}
    groups = shared_groups([sides[cell] for cell in everyone], RANKED_BY)
    areas = [sides[cell].areas(RANKED_BY) for cell in everyone]
    values = np.array([plug_in(area)[metric] for area in areas])
    fingerprint = sides[everyone[0]].fingerprint
    drawn = np.stack([of[metric] for of in replicate(areas, groups, replicates=replicates, fingerprint=fingerprint)])
    found: dict[str, object] = {"naive": naive}
    if 0 < len(cells) <= MOST_RANKED:
        own, table = values[: len(cells)], drawn[: len(cells)]
        of_rows = zip(cells, ranks(own, table), joint_ranks(own, table), strict=True)
        found["ranks"] = {cell: RankRecord.of(rank, joint) for cell, rank, joint in of_rows}
    if naive:
        p = np.full(len(cells), np.nan)
        for i in (i for i, cell in enumerate(cells) if cell in best):
            p[i] = exchanged(sides[cells[i]], sides[naive], RANKED_BY, flips=FLIPS, metrics="areas")[metric].p
        gains = (_gain(values[i] - values[-1], drawn[i] - drawn[-1], groups) for i in range(len(cells)))
        found["skill"] = {
            cell: SkillRecord(gain=gain, p=float(after))
            for cell, gain, after in zip(cells, gains, adjust(p), strict=True)
        }
    return found


def _gain(value: float, drawn: Floats, groups: NDArray[np.int64]) -> Estimate:
    patients = len(np.unique(groups))
    if math.isnan(value):
        return Estimate(value=value, n=len(groups), n_patients=patients, why_undefined="undefined for one of the two")
    low, high, why = percentile_interval(drawn)
    if patients < 2:
        low, high, why = math.nan, math.nan, "no interval: all samples are of one patient"
    return Estimate(value=float(value), low=low, high=high, n=len(groups), n_patients=patients, why_undefined=why)
