"""From a run's results to what its page shows: rows, ranks, notices, words. Reads figures; computes none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.evaluate.analysis import (
    Analysis,
    Choice,
    RankRecord,
    SkillRecord,
    StandingRecord,
    choose,
    competes,
)
from benchmark.evaluate.metrics import RANKED_BY, primary_metric
from benchmark.result import CellResult, Estimate, Measurement, RunRecord, digest
from leaderboards.columns import (
    DASH,
    METRIC_LABELS,
    Column,
    Shown,
    all_columns,
    describe,
    find,
    interval,
    plus,
    present,
    why_absent,
)
from leaderboards.notices import Notice, leakage, notices


@dataclass(frozen=True)
class Bar:
    """Where an interval lies on the scale that all rows share, in percent of its width."""

    low: float
    high: float
    value: float
    mark: float | None
    """Chance, or no difference."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    result: CellResult
    primary: Measurement | None
    shown: Shown
    """The primary metric."""
    interval: str
    bar: Bar | None
    weights: str
    """Where the weights come from, in words."""
    untrained: bool
    """Whether nothing was ever trained: random weights, frozen."""
    reads: str
    """What the score is computed from, in words."""
    competes: bool
    """Whether it is a model's answer from the picture alone: only such rows are ranked."""
    figures: Mapping[str, Shown]
    """Column key -> figure."""
    chosen: bool
    """Whether it stands for its model."""
    standing: StandingRecord | None
    """Among the chosen rows."""
    place: RankRecord | None
    """Among all rows."""
    skill: SkillRecord | None
    """Beyond the best naive row."""
    gain: Shown
    """The same as a figure of the table."""
    naive_best: bool
    """Whether it is that naive row."""
    rank: int | None = None

    @property
    def value(self) -> float:
        """Primary metric on test; NaN where undefined or not measured."""
        return math.nan if self.primary is None else self.primary.estimate.value

    @property
    def stand_in(self) -> str:
        """In what the model of this row is not the published one; empty where it is, or where nothing was published."""
        return stand_in(self.result)

    @property
    def page(self) -> str:
        """File name of the model's own page."""
        return page_name(self.result.spec.model)

    def stands(self, place: RankRecord | None) -> Shown:
        """The row's rank in a table, with the ranks that it may have."""
        text = DASH if self.rank is None else str(self.rank)
        if self.rank is None or place is None or math.isnan(place.joint_low):
            return Shown("" if self.rank is None else text, self.rank)
        if place.rank != self.rank:  # rows without predictions, or of models of which none was chosen, are not in it
            return Shown(text, self.rank, "not all rows of this table could be compared, so the rank has no interval")
        low, high, own = (round(x) for x in (place.joint_low, place.joint_high, place.rank))
        alone = "" if math.isnan(place.low) else f"; looked at by itself, {place.low:.0f} to {place.high:.0f}"
        words = f"rank {own}; between {low} and {high} with 95% confidence for all rows at once{alone}"
        return Shown(text, self.rank, words, interval=f"{low}–{high}" if high > low else str(low))

    @property
    def variant(self) -> str:
        """Regime, augmentation, head and seed in one line, what is ``none`` left out."""
        spec = self.result.spec
        named = [part for part in (spec.head, spec.augmentation) if part != "none"]
        return " · ".join([spec.regime, *named, f"seed {spec.seed}"])


@dataclass(frozen=True)
class Table:
    """Rows that answer the image question, best first, and the references beside them."""

    ranked: tuple[Row, ...]
    references: tuple[Row, ...]


@dataclass(frozen=True)
class Page:
    """Everything that the templates print."""

    run: RunRecord
    analysis: Analysis | None
    """What the rows say together; None where nobody has asked."""
    metric: str
    columns: tuple[Column, ...]
    best: Table
    unchosen: tuple[str, ...]
    """Models without validation figures, of which every variant is shown."""
    everything: Table
    failures: tuple[CellResult, ...]
    left_out: tuple[tuple[str, str, int], ...]
    """Evaluator, reason, rows."""
    leakage: Notice | None
    """Said on every page of the run, where its split leaks."""
    notices: tuple[Notice, ...]
    scale: tuple[float, float]
    chance: float

    @property
    def one_machine(self) -> bool:
        """Whether all speeds were measured on one kind of machine, as far as is recorded, and so can be compared."""
        recorded = {row.result.provenance.get("hardware") for row in self.rows if row.result.spec.start != "none"}
        return len(recorded - {None}) <= 1

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows with figures."""
        return self.everything.ranked + self.everything.references


def make_page(run: RunRecord, results: Sequence[CellResult], analysis: Analysis | None = None) -> Page:
    """Lay out the page of a run; ``results`` in the order of the plan, ``analysis`` of the same."""
    done = [result for result in results if result.status == "done"]
    failures = tuple(result for result in results if result.status == "failed")
    metric = primary_metric(run.dataset.task)
    columns = present(all_columns(run.dataset.task), done)
    measured = [m for result in done if (m := find(result, RANKED_BY, metric)) is not None]
    scale = scale_of(x for m in measured for x in (m.estimate.low, m.estimate.value, m.estimate.high, m.chance))
    chance = next((m.chance for m in measured if not math.isnan(m.chance)), math.nan)
    choice = choose(done, metric)
    rows = [_row(result, metric, columns, scale, choice, analysis) for result in done]
    return Page(
        run=run,
        analysis=analysis,
        metric=METRIC_LABELS.get(metric, metric),
        columns=columns,
        best=_table([row for row in rows if row.chosen or row.result.spec.model in choice.unchosen]),
        unchosen=tuple(dict.fromkeys(row.result.title for row in rows if row.result.spec.model in choice.unchosen)),
        everything=_table(rows),
        failures=failures,
        left_out=_left_out(done),
        leakage=leakage(run),
        notices=tuple(notices(run, rows, failures)),
        scale=scale,
        chance=chance,
    )


# --------------------------------------------------------------------------------------------- rows


def _row(
    result: CellResult,
    metric: str,
    columns: Sequence[Column],
    scale: tuple[float, float],
    choice: Choice,
    analysis: Analysis | None,
) -> Row:
    spec = result.spec
    primary = find(result, RANKED_BY, metric)
    defined = primary is not None and not math.isnan(primary.estimate.value)
    return Row(
        result=result,
        primary=primary,
        shown=Shown(
            text=f"{primary.estimate.value:.3f}" if primary and defined else DASH,
            sort=primary.estimate.value if primary and defined else None,
            title=why_absent(result, RANKED_BY) if primary is None else describe(primary),
        ),
        interval=interval(primary),
        bar=bar_of(primary.estimate, primary.chance, scale) if primary and defined else None,
        weights=_weights_in_words(result),
        untrained=spec.random_weights and spec.regime == "frozen",
        reads=" + ".join(result.inputs) or "nothing",
        competes=competes(result),
        figures={column.key: column.read(result) or _absent(result, column) for column in columns},
        chosen=choice.best.get(spec.model) == result.id,
        standing=analysis.standings.get(result.id) if analysis else None,
        place=analysis.ranks.get(result.id) if analysis else None,
        skill=analysis.skill.get(result.id) if analysis else None,
        gain=_gain(analysis.skill.get(result.id) if analysis else None),
        naive_best=analysis is not None and analysis.naive == result.id,
    )


def _gain(skill: SkillRecord | None) -> Shown:
    if skill is None:
        return Shown(DASH, None, "not compared with a naive row")
    gain = skill.gain
    if math.isnan(gain.value):
        return Shown(DASH, None, f"undefined: {gain.why_undefined}")
    ends = "" if math.isnan(gain.low) else f"{plus(gain.low)} to {plus(gain.high)}"
    words = f"95% interval {ends}" if ends else gain.why_undefined or "no interval"
    if not math.isnan(skill.p):
        words += f"; p = {skill.p:.2g} by swapping patients, adjusted for the number of models"
    doubt = "not shown" if math.isnan(skill.p) else f"not shown, p {skill.p:.2f}"
    return Shown(plus(gain.value), gain.value, words, "" if skill.shown else doubt, ends)


def stand_in(result: CellResult) -> str:
    """In what a row's model is not the published one, in words: its size, and what its towers start from."""
    spec = result.spec
    if spec.start == "none":
        return ""
    return ", ".join(
        [*(["tiny"] if spec.scale == "tiny" else []), *(["randomly initialised"] if spec.random_weights else [])]
    )


def page_name(model: str) -> str:
    """File name of a model's page: its name where that is plain, else what is plain of it, with a digest of the whole.

    Two names never share a page: a plain name that ends like a digest gets one, too.
    """
    if len(model) <= 60 and re.fullmatch(r"(?!.*-[0-9a-f]{12}$)[a-z0-9]+(-[a-z0-9]+)*", model):
        return f"model-{model}.html"
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40].strip("-")
    return f"model-{plain or 'unnamed'}-{digest(model, 6)}.html"


def _weights_in_words(result: CellResult) -> str:
    spec = result.spec
    if spec.start == "none":
        return "no encoder"
    words = {
        ("random", "frozen"): "random weights, untrained",
        ("random", "heads"): "random towers, trained heads",
        ("random", "full"): "trained from scratch on the train split",
        ("file", "frozen"): "weights from a file",
        ("file", "heads"): "towers from a file, trained heads",
        ("file", "full"): "weights from a file, trained on the train split",
        ("pretrained", "frozen"): "pretrained, as released",
        ("pretrained", "heads"): "pretrained towers, trained heads",
        ("pretrained", "full"): "pretrained, trained on the train split",
    }
    return words[spec.start, spec.regime]


def _absent(result: CellResult, column: Column) -> Shown:
    if column.group != "cost":
        return Shown(DASH, None, why_absent(result, column.key.split("-")[0]))
    if column.key == "adapt_s":
        return Shown(DASH, None, "nothing was trained")
    return Shown(DASH, None, "no encoder to measure" if result.spec.start == "none" else "not measured")


def scale_of(drawn: Iterable[float], step: float = 0.1) -> tuple[float, float]:
    """Whole steps around everything drawn, so that small differences can be seen and the ends can be read."""
    finite = [x for x in drawn if not math.isnan(x)]
    if not finite:
        return 0.0, 1.0
    low, high = math.floor(min(finite) / step) * step, math.ceil(max(finite) / step) * step
    return (low, high) if high > low else (low, low + step)


def bar_of(estimate: Estimate, mark: float, scale: tuple[float, float]) -> Bar:
    """An estimate on a scale, with a mark such as chance or no difference; NaN for none."""

    def place(x: float) -> float:
        return round(100 * (x - scale[0]) / (scale[1] - scale[0]), 1)

    low, high = (estimate.value if math.isnan(end) else end for end in (estimate.low, estimate.high))
    return Bar(place(low), place(high), place(estimate.value), None if math.isnan(mark) else place(mark))


def _table(rows: Sequence[Row]) -> Table:
    """Sort by the primary metric, undefined last; equal figures share a rank."""

    def order(row: Row) -> tuple[bool, float, str, str]:
        return math.isnan(row.value), -row.value if row.value == row.value else 0.0, row.result.title, row.result.id

    image = sorted((row for row in rows if row.competes), key=order)
    values = [row.value for row in image]
    ranked = [replace(row, rank=None if math.isnan(row.value) else values.index(row.value) + 1) for row in image]
    references = sorted((row for row in rows if not row.competes), key=order)
    return Table(tuple(ranked), tuple(references))


def _left_out(done: Sequence[CellResult]) -> tuple[tuple[str, str, int], ...]:
    counts = Counter((name, why) for result in done for name, why in result.left_out.items())
    return tuple((name, why, count) for (name, why), count in sorted(counts.items()))
