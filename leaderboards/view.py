"""From a run's results to what its page shows: rows, ranks, notices, words. Reads figures; computes none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmark.evaluate.analysis import (
    RANKED_BY,
    Analysis,
    Choice,
    RankRecord,
    SkillRecord,
    StandingRecord,
    choose,
    competes,
)
from benchmark.evaluate.metrics import primary_metric
from benchmark.result import CellResult, DatasetRecord, Finding, Measurement, RewordingRecord, RunRecord, digest
from leaderboards.columns import (
    DASH,
    METRIC_LABELS,
    Column,
    Shown,
    all_columns,
    describe,
    find,
    interval,
    present,
    why_absent,
)


@dataclass(frozen=True)
class Bar:
    """Where an interval lies on the scale that all rows share, in percent of its width."""

    low: float
    high: float
    value: float
    chance: float | None


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
class Notice:
    """Something to know before reading the figures."""

    severity: Literal["error", "warning", "note"]
    title: str
    text: str
    findings: tuple[Finding, ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Page:
    """Everything that the templates print."""

    run: RunRecord
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
    analysis: Analysis | None
    """What the rows say together; None where nobody has asked."""

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
    scale = _scale(measured)
    chance = next((m.chance for m in measured if not math.isnan(m.chance)), math.nan)
    choice = choose(done, metric)
    rows = [_row(result, metric, columns, scale, choice, analysis) for result in done]
    return Page(
        run=run,
        metric=METRIC_LABELS.get(metric, metric),
        columns=columns,
        best=_table([row for row in rows if row.chosen or row.result.spec.model in choice.unchosen]),
        unchosen=tuple(dict.fromkeys(row.result.title for row in rows if row.result.spec.model in choice.unchosen)),
        everything=_table(rows),
        failures=failures,
        left_out=_left_out(done),
        leakage=_leakage(run),
        notices=tuple(_notices(run, rows, failures)),
        scale=scale,
        chance=chance,
        analysis=analysis,
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
        bar=_bar(primary, scale) if primary and defined else None,
        weights=_weights_in_words(result),
        untrained=spec.random_weights and spec.regime == "frozen",
        reads=" + ".join(result.inputs) or "nothing",
        competes=competes(result),
        figures={column.key: column.read(result) or _absent(result, column) for column in columns},
        chosen=choice.best.get(spec.model) == result.id,
        standing=analysis.standings.get(result.id) if analysis else None,
        place=analysis.ranks.get(result.id) if analysis else None,
        skill=analysis.skill.get(result.id) if analysis else None,
    )


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


def _scale(measurements: Sequence[Measurement]) -> tuple[float, float]:
    """Whole tenths around everything drawn, so that small differences can be seen and the ends can be read."""
    drawn = [x for m in measurements for x in (m.estimate.low, m.estimate.value, m.estimate.high, m.chance)]
    finite = [x for x in drawn if not math.isnan(x)]
    if not finite:
        return 0.0, 1.0
    low, high = math.floor(min(finite) * 10) / 10, math.ceil(max(finite) * 10) / 10
    return (low, high) if high > low else (low, low + 0.1)


def _bar(measurement: Measurement, scale: tuple[float, float]) -> Bar:
    def place(x: float) -> float:
        return round(100 * (x - scale[0]) / (scale[1] - scale[0]), 1)

    estimate = measurement.estimate
    low, high = (estimate.value if math.isnan(end) else end for end in (estimate.low, estimate.high))
    chance = None if math.isnan(measurement.chance) else place(measurement.chance)
    return Bar(place(low), place(high), place(estimate.value), chance)


def _table(rows: Sequence[Row]) -> Table:
    """Sort by the primary metric, undefined last; equal figures share a rank."""

    def order(row: Row) -> tuple[bool, float, str, str]:
        return math.isnan(row.value), -row.value if row.value == row.value else 0.0, row.result.title, row.result.id

    image = sorted((row for row in rows if row.competes), key=order)
    values = [row.value for row in image]
    ranked = [replace(row, rank=None if math.isnan(row.value) else values.index(row.value) + 1) for row in image]
    references = sorted((row for row in rows if not row.competes), key=order)
    return Table(tuple(ranked), tuple(references))


# --------------------------------------------------------------------------------------------- notices


def _notices(run: RunRecord, rows: Sequence[Row], failures: Sequence[CellResult]) -> list[Notice]:
    candidates = [
        _leakage(run),
        _unfinished(run, len(rows) + len(failures)),
        _failed(failures),
        _undefined(rows),
        _no_intervals(rows),
        _no_naive(rows),
        _random(rows),
        _from_file(rows),
        _patients_shown(run),
        _synthetic(run.dataset),
        _ungrouped(run),
        _no_reports(run.dataset, rows),
        _excluded(run.dataset),
        *_rewordings(rows),
        *(_audit(run.audit)),
    ]
    return [notice for notice in candidates if notice is not None]


def _leakage(run: RunRecord) -> Notice | None:
    if not run.leakage:
        return None
    text = (
        f"Parts of the split share patients or pictures ({', '.join(run.leakage)}), and the run was allowed to go on"
        " with that. Every figure is too good: none says how well a model does on patients it has not seen."
    )
    return Notice("error", "Leakage: test is not held out", text)


def _unfinished(run: RunRecord, finished: int) -> Notice | None:
    if finished >= len(run.cells):
        return None
    text = f"{finished} of {len(run.cells)} planned rows have a result; the others are not on this page."
    return Notice("warning", "This run is not finished", text)


def _failed(failures: Sequence[CellResult]) -> Notice | None:
    if not failures:
        return None
    names = ", ".join(dict.fromkeys(result.title for result in failures))
    return Notice(
        "error", f"{_count(len(failures), 'row')} failed", f"Of {names}. All other rows stand.", link="failed"
    )


def _undefined(rows: Sequence[Row]) -> Notice | None:
    reasons = [row.primary.estimate.why_undefined for row in rows if row.primary and math.isnan(row.value)]
    if not reasons:
        return None
    text = f"Of {_count(len(reasons), 'row')}, which therefore {'has' if len(reasons) == 1 else 'have'} no rank: "
    return Notice("warning", "The figure that rows are ranked by is undefined", text + _reasons(reasons))


def _no_intervals(rows: Sequence[Row]) -> Notice | None:
    reasons = [
        row.primary.estimate.why_undefined
        for row in rows
        if row.primary and not math.isnan(row.value) and math.isnan(row.primary.estimate.low)
    ]
    if not reasons:
        return None
    return Notice("warning", "No interval", f"{_count(len(reasons), 'row')}: {_reasons(reasons)}")


def _reasons(reasons: Sequence[str | None]) -> str:
    words = ((reason or "no reason recorded").removeprefix("no interval: ") for reason in reasons)
    return "; ".join(dict.fromkeys(words)) + "."


def _no_naive(rows: Sequence[Row]) -> Notice | None:
    if not rows or any(row.result.spec.start == "none" for row in rows):
        return None
    text = (
        "Nothing here says what can be had without a model: the majority class, metadata, the report's words, picture"
        " statistics. Run with all models to see them."
    )
    return Notice("warning", "No naive rows", text)


def _random(rows: Sequence[Row]) -> Notice | None:
    random = [row for row in rows if row.result.spec.random_weights]
    if not random:
        return None
    untrained = sum(row.untrained for row in random)
    every = "Every model starts" if len(random) == sum(row.competes for row in rows) else "Some models start"
    if untrained == len(random):
        state = "none of their rows is trained"
    else:
        state = f"{untrained} of their {len(random)} rows are untrained, the others were trained on this dataset alone"
    text = (
        f"{every} from random numbers instead of published weights: {state}. Each is labelled. None of them says what"
        " the published model can do."
    )
    return Notice("warning", "Random weights", text)


def _from_file(rows: Sequence[Row]) -> Notice | None:
    count = sum(row.result.spec.start == "file" for row in rows)
    if not count:
        return None
    text = (
        f"{_count(count, 'row')} from a saved state that was given by its path. What that was trained on is not known"
        " here: if patients of this test part were among it, these figures are too good."
    )
    return Notice("warning", "Weights from a file", text)


def _patients_shown(run: RunRecord) -> Notice | None:
    if run.dataset.synthetic or not run.config.get("include_images"):
        return None
    text = (
        "The models' pages show test pictures and phrases of their reports, as --include-images asked for. Make sure"
        " that they may be shown before this folder leaves the house."
    )
    return Notice("warning", "Pictures of patients", text)


def _synthetic(dataset: DatasetRecord) -> Notice | None:
    if not dataset.synthetic:
        return None
    return Notice("warning", "Synthetic data", "A program drew these pictures. No figure here is about patients.")


def _ungrouped(run: RunRecord) -> Notice | None:
    if run.split.grouped_by == "patient":
        return None
    text = (
        "Rows are grouped by identical picture instead: two pictures of one patient may lie on both sides of the"
        " split. Figures may be too good, and intervals too narrow."
    )
    return Notice("warning", "No patient ids, so the split may leak", text)


def _no_reports(dataset: DatasetRecord, rows: Sequence[Row]) -> Notice | None:
    if dataset.has_reports:
        return None
    image = [row.result.left_out for row in rows if row.competes]
    everywhere = [name for name in (image[0] if image else {}) if all(name in left for left in image)]
    missing = ", ".join(name.replace("_", "-") for name in everywhere)
    text = "This dataset has pictures and labels only, so no model is trained on pairs."
    return Notice("note", "No reports", f"{text} Left out: {missing}." if missing else text)


def _excluded(dataset: DatasetRecord) -> Notice | None:
    if not dataset.exclusions:
        return None
    reasons = "; ".join(f"{reason} ({count})" for reason, count in dataset.exclusions.items())
    return Notice("warning", f"{_count(sum(dataset.exclusions.values()), 'sample')} left out", f"{reasons}.")


def _rewordings(rows: Sequence[Row]) -> list[Notice]:
    """What was refused of each augmentation's texts; in counts, for a page shows no report's words."""
    records = [RewordingRecord.model_validate(found) for row in rows if (found := _reworded(row.result))]
    said: dict[str, RewordingRecord] = {record.augmentation: record for record in records if record.worth_saying}
    return [
        Notice("warning", f"Rewordings of the augmentation {name}", f"{record.summary}.")
        for name, record in sorted(said.items())
    ]


def _reworded(result: CellResult) -> dict[str, object] | None:
    found: dict[str, object] | None = (result.fits.get("training") or {}).get("rewordings")
    return found


def _audit(findings: Sequence[Finding]) -> list[Notice]:
    notices = []
    for severity in ("error", "warning", "note"):
        found = tuple(finding for finding in findings if finding.severity == severity and not finding.muted)
        if found:
            title = f"Audit of the data: {_count(len(found), severity)}"
            notices.append(Notice(severity, title, "", found))
    if muted := tuple(finding for finding in findings if finding.muted):
        notices.append(
            Notice("note", f"Audit of the data: {_count(len(muted), 'finding')} muted by --ignore", "", muted)
        )
    return notices


def _left_out(done: Sequence[CellResult]) -> tuple[tuple[str, str, int], ...]:
    counts = Counter((name, why) for result in done for name, why in result.left_out.items())
    return tuple((name, why, count) for (name, why), count in sorted(counts.items()))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
