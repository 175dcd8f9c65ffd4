"""From a run's results to what the page of one model shows. Reads figures; computes none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.result import MAPS_EVALUATOR, CellResult, Maps, ModelRecord, PictureMaps, RunRecord
from leaderboards import pictures
from leaderboards.columns import compact, find, interval, signed
from leaderboards.detail_view import DetailShown, detail_of
from leaderboards.figures import Curve
from leaderboards.view import Page, Row, page_name, stand_in

MOST_ROWS = 100
"""Variants in the table of a model's page; the leaderboard has all."""

MOST_CURVES = 24
"""Losses in one chart: more lines can't be told apart."""


@dataclass(frozen=True)
class MapShown:
    """One phrase's map over its picture."""

    phrase: str
    about_mask: bool
    overlay: str
    """Address of the map, one pixel a cell."""
    words: str
    """The map for those who do not see it."""


@dataclass(frozen=True)
class PictureShown:
    """One test picture with the maps of its phrases, all on one colour scale."""

    number: int
    """From 1; the same picture has the same number on the page of every model."""
    place: int
    """Which of the page's pictures it is drawn on."""
    has_mask: bool
    low: str
    high: str
    """Ends of the colour scale."""
    maps: tuple[MapShown, ...]


@dataclass(frozen=True)
class Seen:
    """What the model saw, drawn once and laid under every map of it."""

    picture: str
    outline: str
    width: int
    height: int


@dataclass(frozen=True)
class Pointing:
    """The pointing game of one variant, in words."""

    rate: str
    interval: str
    chance: str
    ceiling: str
    n: int
    n_patients: int


@dataclass(frozen=True)
class Explained:
    """The maps of one variant."""

    row: Row
    pictures: tuple[PictureShown, ...]
    pointing: Pointing | None


@dataclass(frozen=True)
class Origin:
    """How some rows were made: facts in words."""

    rows: tuple[str, ...]
    """Their variants; empty where it is all of them."""
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ModelPage:
    """Everything that the template of a model's page prints."""

    run: RunRecord
    name: str
    title: str
    stand_in: str
    """In what this is not the published model; empty where it is."""
    card: ModelRecord | None
    facts: tuple[tuple[str, str], ...]
    board: Page
    """The whole leaderboard's page: its metric, columns and scale."""
    rows: tuple[Row, ...]
    """Best first."""
    failures: tuple[CellResult, ...]
    curves: tuple[Curve, ...]
    """Losses of the chosen variant and the best others."""
    curves_left_out: int
    detail: DetailShown | None
    """Of the row that stands for the model; None where none does, or nothing was analysed."""
    seen: tuple[Seen, ...]
    explained: tuple[Explained, ...]
    """Variants with maps or a pointing game, the chosen one first."""
    without_maps: tuple[tuple[str, tuple[str, ...]], ...]
    """Reason -> variants that have no maps."""
    origins: tuple[Origin, ...]

    @property
    def listed(self) -> tuple[Row, ...]:
        """The rows of its table: the best, and the chosen one wherever it stands."""
        return tuple(row for i, row in enumerate(self.rows) if i < MOST_ROWS or row.chosen)

    @property
    def file(self) -> str:
        """Its file name."""
        return page_name(self.name)


def may_show_pictures(run: RunRecord) -> bool:
    """Whether pictures and phrases of reports may be published: a program drew them, or it was asked for."""
    return run.dataset.synthetic or run.config.get("include_images") is True


def make_model_pages(board: Page, maps: Mapping[str, Maps]) -> list[ModelPage]:
    """The pages of all models that have a row or a failure, in the order of the leaderboard.

    Args:
        board: the leaderboard's page.
        maps: cell id -> its similarity maps. Nothing of them is used where pictures may not be shown.
    """
    results = [*(row.result for row in board.rows), *board.failures]
    shown = maps if may_show_pictures(board.run) else {}
    return [_page(name, board, shown) for name in dict.fromkeys(result.spec.model for result in results)]


def _page(name: str, board: Page, maps: Mapping[str, Maps]) -> ModelPage:
    rows = tuple(row for row in board.rows if row.result.spec.model == name)
    failures = tuple(result for result in board.failures if result.spec.model == name)
    first = rows[0].result if rows else failures[0]
    card = board.run.models.get(name)
    explained, seen = _explained(rows, maps)
    curves = [curve for row in sorted(rows, key=lambda row: not row.chosen) if (curve := _curve(row)) is not None]
    return ModelPage(
        run=board.run,
        name=name,
        title=first.title,
        stand_in=stand_in(first),
        card=card,
        facts=_facts(first, card),
        board=board,
        rows=rows,
        failures=failures,
        curves=tuple(curves[:MOST_CURVES]),
        curves_left_out=max(0, len(curves) - MOST_CURVES),
        detail=detail_of(rows, board.analysis),
        seen=seen,
        explained=explained,
        without_maps=_without_maps(rows, {each.row.result.id for each in explained if each.pictures}, board.run),
        origins=_origins(rows),
    )


# --------------------------------------------------------------------------------------------- what it is


def _facts(result: CellResult, card: ModelRecord | None) -> tuple[tuple[str, str], ...]:
    facts = {"Name": result.spec.model, "Score from": " + ".join(result.inputs) or "nothing"}
    if card is not None:
        facts |= {"Paper": card.paper, "Published training data": card.training_data}
        facts |= {"Parameters here": compact(card.parameters) if card.parameters else ""}
        facts |= {"Input here": f"{card.input_size} x {card.input_size} pixels" if card.input_size else ""}
        facts |= {"Weights read": "; ".join(card.weights), "Licence of the code": card.licence}
    facts |= {"Registered by": result.spec.provider}
    return tuple((name, text) for name, text in facts.items() if text)


def _curve(row: Row) -> Curve | None:
    losses = (row.result.fits.get("training") or {}).get("losses")
    if not losses:
        return None
    spec = row.result.spec
    return Curve(row.variant, spec.regime, spec.augmentation, tuple(float(loss) for loss in losses))


PROBE_SETTINGS = ("class_weight", "paper_loss", "paper_upsample", "threshold")
"""Settings of the evaluation that two pages of the same rows may differ in."""


def _origins(rows: Sequence[Row]) -> tuple[Origin, ...]:
    """How rows were made, rows of equal making together."""
    made: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in rows:
        made.setdefault(_origin(row.result), []).append(row.variant)
    return tuple(Origin(() if len(made) == 1 else tuple(names), facts) for facts, names in made.items() if facts)


def _origin(result: CellResult) -> tuple[tuple[str, str], ...]:
    model = result.provenance.get("model") or {}
    evaluation = result.spec.protocol.get("evaluation") or {}
    facts = {
        "Split": result.spec.split,
        "Weights": result.spec.weights,
        "Preprocessing": _in_words(model.get("preprocess")),
        "Tensors loaded": _in_words(model.get("tensors_loaded")),
        "Precision": _in_words(result.spec.protocol.get("precision")),
        "Training": _in_words(result.spec.protocol.get("training")),
        "Epoch kept": _in_words((result.fits.get("training") or {}).get("kept_epoch")),
        "Probes": _in_words({k: v for k, v in evaluation.items() if k in PROBE_SETTINGS}),
        "Hardware": _in_words(result.provenance.get("hardware")),
        "Code": _in_words(result.provenance.get("commit")),
    }
    return tuple((name, text) for name, text in facts.items() if text)


def _in_words(value: object) -> str:
    """A recorded value, of whatever kind a plug-in gave, in one line."""
    if isinstance(value, Mapping):
        words = {str(key).replace("_", " "): _in_words(each) for key, each in value.items()}
        return ", ".join(f"{key} {said}" for key, said in words.items() if said)
    if isinstance(value, list | tuple):
        return f"({', '.join(_in_words(each) for each in value)})"
    return "" if value is None else str(value)


# --------------------------------------------------------------------------------------------- maps


def _explained(rows: Sequence[Row], maps: Mapping[str, Maps]) -> tuple[tuple[Explained, ...], tuple[Seen, ...]]:
    """The variants' maps, the chosen one's first, and the distinct pictures that they lie over."""
    seen: dict[Seen, int] = {}
    explained = []
    for row in sorted(rows, key=lambda row: not row.chosen):
        found = maps.get(row.result.id)
        shown = tuple(_picture(i, each, seen) for i, each in enumerate(found.pictures)) if found else ()
        pointing = _pointing(row.result)
        if shown or pointing:
            explained.append(Explained(row, shown, pointing))
    return tuple(explained), tuple(seen)


def _picture(i: int, picture: PictureMaps, seen: dict[Seen, int]) -> PictureShown:
    height, width = picture.shown.shape
    has_mask = bool(picture.mask.any())
    outline = pictures.address(pictures.outline(picture.mask)) if has_mask else ""
    base = Seen(pictures.address(picture.shown), outline, width, height)
    low, high = float(picture.maps.min()), float(picture.maps.max())
    return PictureShown(
        number=i + 1,
        place=seen.setdefault(base, len(seen)),
        has_mask=has_mask,
        low=signed(low),
        high=signed(high),
        maps=tuple(
            MapShown(
                phrase,
                about_mask=about and has_mask,
                overlay=pictures.address(pictures.overlay(values, low, high)),
                words=_map_in_words(values),
            )
            for phrase, about, values in zip(picture.phrases, picture.about_mask, picture.maps, strict=True)
        ),
    )


def _map_in_words(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
    row, column = (int(place) + 1 for place in np.unravel_index(int(values.argmax()), values.shape))
    return (
        f"nearest at row {row}, column {column} of {values.shape[0]} x {values.shape[1]} cells; "
        f"cosines from {signed(float(values.min()))} to {signed(float(values.max()))}"
    )


def _pointing(result: CellResult) -> Pointing | None:
    played, ceiling = (find(result, MAPS_EVALUATOR, name) for name in ("pointing_game", "pointing_game_ceiling"))
    if played is None or ceiling is None:
        return None
    estimate = played.estimate
    return Pointing(
        rate=signed(estimate.value),
        interval=interval(played),
        chance=signed(played.chance),
        ceiling=signed(ceiling.estimate.value),
        n=estimate.n,
        n_patients=estimate.n_patients,
    )


def _without_maps(rows: Sequence[Row], shown: set[str], run: RunRecord) -> tuple[tuple[str, tuple[str, ...]], ...]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.result.id in shown:
            continue
        why = row.result.left_out.get(MAPS_EVALUATOR, "")
        if row.result.spec.start == "none":
            why = "nothing here is compared with words: it has no encoder"
        elif not why and not may_show_pictures(run):
            why = "this run keeps no pictures of its data; 'run --include-images --fresh' does"
        reasons.setdefault(why or "none were recorded; 'run --fresh' makes them", []).append(row.variant)
    return tuple((why, tuple(variants)) for why, variants in reasons.items())
