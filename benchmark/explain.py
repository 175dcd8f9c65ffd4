"""Similarity maps: how near each place of a picture is to a phrase of its report, in a cell's shared space.

::

    m_p = cos(f_I(v_p), f_T(t))        v_p: patch vector p of the picture, t: pooled vector of the phrase,
                                       f_I, f_T: the cell's projections

Such dense readings of a pooled model are known from CLIP (Zhou et al., MaskCLIP, ECCV 2022). They rest on an identity.
Where the tower pools by averaging, v = mean_p v_p, and f_I(v) = W v + b is linear, then f_I(v) = mean_p f_I(v_p), and

    cos(f_I(v), f_T(t)) = sum_p w_p m_p,        w_p = |f_I(v_p)| / (P |f_I(v)|)

so that the map takes the picture's similarity apart without a rest. ``mlp`` heads are not linear, and a ViT that is
read at its class token never projected a patch in training: there the map is a reading by analogy. In no case does it
say what the model would do without that place.

The pictures and phrases depend on the dataset and its split alone, and are the same for every model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.manifest import Dataset
from benchmark.data.preprocess import picture
from benchmark.data.split import Split
from benchmark.embed import Extractor, autocast, inference, preprocessed
from benchmark.errors import BadInput, BenchmarkError, UnsupportedModality
from benchmark.evaluate import pointing
from benchmark.evaluate.pointing import Pointed
from benchmark.model import VisionLanguageModel
from benchmark.result import Maps, PictureMaps
from benchmark.seeding import generator

SHOWN = 4
"""Test pictures whose maps are kept, each of another patient."""

POINTED = 256
"""Test pictures on which the pointing game is played at most: their patch vectors are held in memory together."""

PHRASES = 8
"""Phrases of a report that are mapped, from its beginning."""

Project = Callable[[Tensor], Tensor]
"""Pooled vectors (B, d) to unit vectors (B, D)."""

_CUT = re.compile(r"(?<=[.!?;,])\s+|\s*\n\s*")
_EDGES = " \t.,;!?"


class NoMaps(BenchmarkError):
    """Why a dataset or a model has no similarity maps, in words for readers."""


# --------------------------------------------------------------------------------------------- subjects


def cut(report: str) -> tuple[str, ...]:
    """Cut a report into its sentences and clauses, in order, without the punctuation around them.

    Cuts are made behind ``. ! ? ; ,`` where a space follows, so that 3.5 mm stays whole, and at line breaks. A single
    word says little by itself: it stays with its neighbour, as the end of "no bulge, no herniation, stenosis" does.
    """
    phrases: list[str] = []
    for part in _CUT.split(report):
        words = part.strip(_EDGES)
        if not words:
            continue
        if phrases and (len(words.split()) == 1 or len(phrases[-1].split()) == 1):
            phrases[-1] += f", {words}"
        else:
            phrases.append(words)
    return tuple(phrases)


@dataclass(frozen=True, eq=False)
class Subjects:
    """The test pictures that are explained. Everything is keyed by the sample's number in the dataset."""

    shown: tuple[int, ...]
    """Those whose maps are kept."""
    pointed: tuple[int, ...]
    """Those on which the pointing game is played: they have a mask, and a phrase about it."""
    phrases: dict[int, tuple[str, ...]]
    masks: dict[int, NDArray[np.uint8]]
    """(H, W) or (H, W, 3), nonzero inside; of those that have one."""
    about_mask: re.Pattern[str] | None
    """Found in phrases that speak of what the masks cover; None where the card names no words for it."""

    @property
    def rows(self) -> tuple[int, ...]:
        """All of them, those that are shown first."""
        return tuple(dict.fromkeys(self.shown + self.pointed))

    def is_about_mask(self, phrase: str) -> bool:
        """Whether a phrase speaks of what the masks cover."""
        return self.about_mask is not None and self.about_mask.search(phrase) is not None


def choose(dataset: Dataset, split: Split) -> Subjects:
    """Draw the pictures from the test split, by its fingerprint alone; empty where no test picture has a report."""
    order = generator(split.fingerprint, "maps").permutation(split.test).tolist()
    reports = dataset.reports or (None,) * len(dataset)
    phrases = {row: kept for row in order if (report := reports[row]) and (kept := _phrases(report))}
    first_of_patient: dict[int, int] = {}
    for row in phrases:
        first_of_patient.setdefault(int(dataset.groups[row]), row)
    shown = tuple(first_of_patient.values())[:SHOWN]
    subjects = Subjects(shown, (), phrases, {}, _any_word(dataset.card.mask_words))
    masks = {row: mask for row in shown if (mask := _mask(dataset, row)) is not None}
    pointed: list[int] = []
    for row in (row for row in phrases if any(map(subjects.is_about_mask, phrases[row]))):
        mask = masks.get(row) if row in masks else _mask(dataset, row)
        if mask is not None:
            masks[row] = mask
            pointed.append(row)
        if len(pointed) == POINTED:
            break
    used = {row: phrases[row] for row in dict.fromkeys([*shown, *pointed])}
    return Subjects(shown, tuple(pointed), used, masks, subjects.about_mask)


def _phrases(report: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cut(report)))[:PHRASES]


def _any_word(words: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE) if words else None


def _mask(dataset: Dataset, row: int) -> NDArray[np.uint8] | None:
    """The mask of a sample, None where it has none.

    Raises:
        BadInput: where it is not of its picture's size.
    """
    mask = None if dataset.masks is None else dataset.masks[row]
    if mask is not None and mask.shape[:2] != dataset.pixels[row].shape[:2]:
        sizes = [" x ".join(map(str, array.shape[:2])) for array in (mask, dataset.pixels[row])]
        raise BadInput(
            f"manifest row {dataset.rows[row]}: the mask has {sizes[0]} pixels and its picture {sizes[1]}; "
            "draw masks on the pictures that the manifest names"
        )
    return mask


# --------------------------------------------------------------------------------------------- one model's view


@dataclass(frozen=True, eq=False)
class View:
    """The subjects through one model's towers: shared by all cells of one set of weights."""

    subjects: Subjects
    side: int
    """Patches per side of the square grid."""
    patches: dict[int, Tensor]
    """(side * side, d_I) float32 on the CPU, row by row."""
    text_of: dict[str, NDArray[np.float32]]
    """Phrase -> (d_T,)."""
    seen: dict[int, NDArray[np.uint8]]
    """(H, W) what the model was given, brought to grey, of those that are shown."""
    region: dict[int, NDArray[np.bool_]]
    """(H, W) the mask under the same geometry."""


def look(extractor: Extractor, subjects: Subjects, dataset: Dataset, *, batch: int) -> View:
    """Take the subjects' pictures and phrases through a model.

    Raises:
        NoMaps: where there is nothing to explain, or the model has no patch vectors that its projection takes.
    """
    if not subjects.rows:
        raise NoMaps("no test picture has a report")
    model = extractor.model
    patches: dict[int, Tensor] = {}
    # The few that are shown come first, alone: most models without a map are found by them.
    for rows in (subjects.shown, *_parts([row for row in subjects.rows if row not in subjects.shown], batch)):
        patches.update(zip(rows, _encode(extractor, dataset, rows), strict=True))
    phrases = list(dict.fromkeys(phrase for row in subjects.rows for phrase in subjects.phrases[row]))
    try:
        vectors = extractor.texts(phrases, batch=batch)
    except UnsupportedModality as error:
        raise NoMaps("the model encodes no text") from error
    side = math.isqrt(len(patches[subjects.shown[0]]))
    seen = {row: grey(model.preprocess(picture(dataset.pixels[row]))) for row in subjects.shown}
    region = {row: _as_seen(model, mask) for row, mask in subjects.masks.items()}
    return View(subjects, side, patches, dict(zip(phrases, vectors, strict=True)), seen, region)


def _parts(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _encode(extractor: Extractor, dataset: Dataset, rows: Sequence[int]) -> Tensor:
    """Patch vectors (B, P, d_I) of some pictures, on the CPU."""
    model = extractor.model
    (pixels,) = preprocessed(model, dataset.pixels, [rows], device=extractor.device)
    with inference(model), autocast(extractor.device, extractor.precision):
        features = model.encode_image(pixels)
    extractor.passes["image"] += len(rows)
    if features.tokens is None:
        raise NoMaps("the model gives no patch vectors")
    tokens = features.tokens.float().cpu()
    why_not = _why_no_map(tuple(tokens.shape[1:]), tuple(pixels.shape[2:]), model.image_dim)
    if why_not:
        raise NoMaps(why_not)
    if not tokens.isfinite().all():
        raise NoMaps("its patch vectors are not all finite")
    return tokens


def _why_no_map(tokens: tuple[int, ...], pixels: tuple[int, ...], width: int) -> str:
    patches, patch_width = tokens
    if patch_width != width:
        return f"its patch vectors are {patch_width} wide, and its projection takes pooled vectors, {width} wide"
    if pixels[0] != pixels[1] or math.isqrt(patches) ** 2 != patches:
        return f"its {patches} patch vectors of {pixels[0]} x {pixels[1]} pixels are no square grid"
    return "its last map is a single cell" if patches == 1 else ""


def grey(pixels: Tensor) -> NDArray[np.uint8]:
    """A preprocessed picture (3, H, W) as (H, W) uint8: the channels' mean, from its darkest place to its brightest.

    Preprocessing normalises each channel by constants of its own. On grey pictures this undoes any of them.
    """
    mean = pixels.float().mean(dim=0)
    low, high = mean.aminmax()
    scaled = (mean - low) * (255 / (high - low).clamp(min=1e-6))
    return scaled.round().to(torch.uint8).numpy()


def _as_seen(model: VisionLanguageModel, mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """A mask under the model's geometry (H, W): what of it lies outside of the model's input is cut off."""
    inside = mask > 0 if mask.ndim == 2 else (mask > 0).any(axis=2)
    return np.asarray(grey(model.preprocess(picture(np.where(inside, 255, 0).astype(np.uint8)))) > 127)


# --------------------------------------------------------------------------------------------- one cell's maps


def similarity(patches: Tensor, phrases: Tensor, side: int) -> NDArray[np.float32]:
    """Cosines of unit vectors (side * side, D) and (k, D) as (k, side, side)."""
    return (phrases @ patches.T).reshape(len(phrases), side, side).numpy()


def read(view: View, project_image: Project, project_text: Project, n: int) -> tuple[Maps, Pointed | None]:
    """The maps of the pictures that are shown, and the pointing game over all that have a mask.

    Args:
        view: the subjects through the cell's towers.
        project_image: the cell's projection of pictures.
        project_text: the cell's projection of texts.
        n: samples of the dataset.
    """
    with torch.inference_mode():
        directions = project_text(torch.from_numpy(np.stack(list(view.text_of.values())))).float()
        place = {phrase: i for i, phrase in enumerate(view.text_of)}
        maps = {
            row: similarity(
                project_image(patches).float(), directions[[place[p] for p in view.subjects.phrases[row]]], view.side
            )
            for row, patches in view.patches.items()
        }
    return Maps(tuple(_picture(view, row, maps[row]) for row in view.subjects.shown)), _play(view, maps, n)


def _picture(view: View, row: int, maps: NDArray[np.float32]) -> PictureMaps:
    seen, phrases = view.seen[row], view.subjects.phrases[row]
    nothing = np.zeros(seen.shape, dtype=np.bool_)
    about = tuple(map(view.subjects.is_about_mask, phrases))
    return PictureMaps(seen, view.region.get(row, nothing), phrases, about, maps)


def _play(view: View, maps: dict[int, NDArray[np.float32]], n: int) -> Pointed | None:
    """Play on every picture with a mask, over its phrases about it. A mask that was cut off whole is none."""
    hits, chance, ceiling = (np.full(n, np.nan) for _ in range(3))
    for row in view.subjects.pointed:
        cover = pointing.cell_shares(view.region[row], view.side)
        if not cover.any():
            continue
        of_mask = [view.subjects.is_about_mask(phrase) for phrase in view.subjects.phrases[row]]
        hits[row] = np.mean([pointing.hit(m, cover) for m, about in zip(maps[row], of_mask, strict=True) if about])
        chance[row], ceiling[row] = cover.mean(), cover.max()
    return None if np.isnan(hits).all() else Pointed(hits, chance, ceiling)
