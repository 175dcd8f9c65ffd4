"""The lumbar phantom: patients with a hidden severity, drawn as axial slices and described in reports.

It is the embedded default dataset: nothing to download, nobody's data, and a known truth. Each patient has three
levels, each in T1 and T2, one report per level (shared by both contrasts, as reports are in practice), a label of the
*patient* (``LBP`` or ``No Finding``), a stenosis grade per level, and a few structured columns. The label is drawn
from the severity with chance, so no model can be perfect; body size, position, coil, contrast and noise vary between
pictures, so no template and no mean grey value solves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

from benchmark.data.image import pixel_hash
from benchmark.data.manifest import Columns, Dataset, DatasetCard
from benchmark.data.phantom_reports import Level, write_report
from benchmark.data.phantom_slices import SCANNERS, Anatomy, Scanner, Slices, draw_slices
from benchmark.result import write_atomically
from benchmark.seeding import generator

Floats = NDArray[np.float64]
PhantomTask = Literal["pain", "stenosis"]

LEVELS = ("L3/4", "L4/5", "L5/S1")
CONTRASTS = ("T1", "T2")
GRADES = ("A", "B", "C", "D")

GRADE_AREAS_MM2 = (205.0, 165.0, 125.0)
"""Area of the thecal sac below which the grade is B, C, D; body size divided out."""

STRENGTH = 4.0
"""How closely the label follows the severity: the slope of a logistic curve. Infinite would make it a threshold."""

SHARE_WITH_PAIN = 0.62
"""About the share of patients labelled ``LBP``."""

AGE_EFFECT, BMI_EFFECT = 0.22, 0.12
"""Correlation of the severity with age and body-mass index: metadata say a little, and less than a picture."""

ELSEWHERE = 1_000_000
"""Added to the seed of patients on another scanner, so that nobody is in both."""

PROMPTS = {
    "No Finding": (
        "normal disc height and signal, no disc herniation",
        "the spinal canal is of normal width without nerve root compression",
        "unremarkable facet joints and ligamenta flava",
    ),
    "LBP": (
        "degenerated disc with posterior bulge",
        "disc herniation narrowing the spinal canal",
        "severe canal stenosis with facet joint hypertrophy and thickened ligamentum flavum",
    ),
}


def card(task: PhantomTask = "pain") -> DatasetCard:
    """The card of the phantom's files: the patient's label, or the grade of each level."""
    pain = task == "pain"
    return DatasetCard(
        name="lumbar-phantom" if pain else "lumbar-phantom-stenosis",
        manifest="manifest.csv",
        columns=Columns(
            image="image", report="report", patient_id="patient_id", sample_id="sample_id", mask="mask", view="view"
        ),
        task="binary" if pain else "multiclass",
        label="lbp" if pain else "stenosis",
        classes={"0": "No Finding", "1": "LBP"} if pain else {grade: f"grade {grade}" for grade in GRADES},
        positive_class="LBP" if pain else None,
        prompts=PROMPTS if pain else {},
        mask_words=("canal", "stenosis", "thecal sac"),
        structured={"age": "number", "sex": "category", "bmi": "number"},
        subgroups={"level": "category", "sequence": "category"},
        licence="Apache-2.0",
        citation="Drawn by this program; no patient is in it.",
        synthetic=True,
    )


def draw(n_patients: int = 300, *, seed: int = 0, size: int = 96, task: PhantomTask = "pain") -> Dataset:
    """Draw the phantom in memory: six pictures a patient, (size, size) uint8."""
    return _dataset(n_patients, seed, size, SCANNERS["A"], card(task))


def draw_elsewhere(n_patients: int = 300, *, seed: int = 0, size: int = 96, task: PhantomTask = "pain") -> Dataset:
    """Draw other patients on another scanner: what a model trained on the phantom can be tested on from outside."""
    named = card(task).model_copy(update={"name": f"{card(task).name}-b"})
    return _dataset(n_patients, ELSEWHERE + seed, size, SCANNERS["B"], named)


def _dataset(n_patients: int, seed: int, size: int, scanner: Scanner, card: DatasetCard) -> Dataset:
    table, slices = _phantom(n_patients, seed, size, scanner)
    pictures = [slices.pixels[level, c] for level in range(len(slices.canal)) for c in range(len(CONTRASTS))]
    structured = table[["age", "sex", "bmi"]].astype({"age": "float64", "bmi": "float64", "sex": "category"})
    masks = [np.where(slices.canal[level], 255, 0).astype(np.uint8) for level in range(len(slices.canal))]
    return Dataset(
        card=card,
        classes=tuple(card.classes.values()),
        sample_ids=tuple(table["sample_id"]),
        rows=np.arange(1, len(table) + 1, dtype=np.int64),
        labels=np.array([list(card.classes).index(str(value)) for value in table[str(card.label)]], dtype=np.int64),
        groups=np.repeat(np.arange(n_patients, dtype=np.int64), len(LEVELS) * len(CONTRASTS)),
        grouped_by="patient",
        pixels=pictures,
        pixel_hashes=tuple(pixel_hash(p) for p in pictures),
        reports=tuple(table["report"]),
        structured=structured.reset_index(drop=True),
        subgroups=table[["level", "sequence"]].astype("category").reset_index(drop=True),
        views=tuple(table["view"]),
        masks=[masks[i // len(CONTRASTS)] for i in range(len(table))],
    )


def write(out: Path, n_patients: int = 300, *, seed: int = 0, size: int = 96) -> Path:
    """Write the phantom as files and give the path of its card.

    ``card.yaml`` asks for the patient's label, ``stenosis.yaml`` for the grade of each level. The cards are written
    last, so a folder with a card is complete.
    """
    table, slices = _phantom(n_patients, seed, size, SCANNERS["A"])
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, (image, mask) in enumerate(zip(table["image"], table["mask"], strict=True)):
        level, contrast = divmod(i, len(CONTRASTS))
        Image.fromarray(slices.pixels[level, contrast]).save(out / image)
        if contrast == 0:
            Image.fromarray(np.where(slices.canal[level], 255, 0).astype(np.uint8)).save(out / mask)
    write_atomically(out / "manifest.csv", table.to_csv(index=False).encode())
    for name, task in (("stenosis.yaml", card("stenosis")), ("card.yaml", card())):
        text = yaml.safe_dump(task.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
        write_atomically(out / name, text.encode())
    return out / "card.yaml"


# --------------------------------------------------------------------------------------------- patients


@dataclass(frozen=True, eq=False)
class _Levels:
    """Truth of n = patients x 3 levels, in order."""

    anatomy: Anatomy
    severity: Floats
    herniation: NDArray[np.str_]
    """(n,) ``left``, ``right``, ``central`` or empty."""


def _phantom(n_patients: int, seed: int, size: int, scanner: Scanner) -> tuple[pd.DataFrame, Slices]:
    """Draw everything; the table has one row per picture, the slices one entry per level."""
    rng = generator("lumbar phantom", seed)
    age = np.clip(np.rint(rng.normal(51, 14, n_patients)), 18, 88)
    bmi = np.round(np.clip(rng.normal(27, 4, n_patients), 17, 45), 1).astype(np.float64)
    female = rng.random(n_patients) < 0.55
    known = AGE_EFFECT * (age - 51) / 14 + BMI_EFFECT * (bmi - 27) / 4
    patient = known + rng.normal(0, np.sqrt(1 - AGE_EFFECT**2 - BMI_EFFECT**2), n_patients)
    levels = _levels(patient, bmi, rng)
    burden = levels.severity.reshape(n_patients, len(LEVELS)).mean(axis=1)
    threshold = np.quantile(burden, 1 - SHARE_WITH_PAIN)
    pain = rng.random(n_patients) < expit(STRENGTH * (burden - threshold))
    slices = draw_slices(levels.anatomy, size, rng, scanner)
    grade = np.searchsorted(-np.array(GRADE_AREAS_MM2), -slices.canal_area_mm2)
    rows = []
    for i in range(n_patients * len(LEVELS)):
        p, level = divmod(i, len(LEVELS))
        report = write_report(_observed(levels, grade, i, LEVELS[level]), rng)
        for contrast in CONTRASTS:
            sample = f"p{p:04d}-{LEVELS[level].replace('/', '')}-{contrast}"
            rows.append(
                {
                    "image": f"images/{sample}.png",
                    "report": report,
                    "patient_id": f"phantom-{p:04d}",
                    "sample_id": sample,
                    "lbp": int(pain[p]),
                    "stenosis": GRADES[grade[i]],
                    "age": int(age[p]),
                    "sex": "F" if female[p] else "M",
                    "bmi": bmi[p],
                    "level": LEVELS[level],
                    "sequence": contrast,
                    "view": f"{LEVELS[level]} {contrast}",
                    "mask": f"masks/{sample.rpartition('-')[0]}.png",
                    "canal_area_mm2": round(float(slices.canal_area_mm2[i]), 1),
                }
            )
    return pd.DataFrame(rows), slices


def _levels(patient: Floats, bmi: Floats, rng: np.random.Generator) -> _Levels:
    """Draw each level's severity about its patient's, and an anatomy about the severity."""
    n = len(patient) * len(LEVELS)

    def each(values: Floats) -> Floats:
        return np.repeat(values, len(LEVELS))

    def normal(mean: float | Floats, deviation: float) -> Floats:
        return np.asarray(mean + rng.normal(0, deviation, n))

    habit = each(rng.normal(0, 1, len(patient)))
    severity = each(patient) + np.tile([-0.2, 0.2, 0.0], len(patient)) + rng.normal(0, 0.4, n)
    herniated = rng.random(n) < expit(1.8 * severity - 1.6)
    side = rng.choice(["left", "right", "central"], n, p=[0.4, 0.4, 0.2])
    # The viewer sees the patient's left on the right.
    offset = np.select([side == "left", side == "right"], [6.0, -6.0], 0.0) + rng.normal(0, 0.8, n)
    anatomy = Anatomy(
        scale=_f32(np.exp(0.06 * habit + 0.03 * rng.normal(0, 1, n))),
        shift_x=_f32(normal(0, 2.5)),
        shift_y=_f32(normal(0, 2.5)),
        turn=_f32(np.deg2rad(rng.uniform(-6, 6, n))),
        disc_width=_f32(normal(25, 1.5)),
        disc_depth=_f32(normal(17, 1.0)),
        concavity=_f32(normal(2, 0.5)),
        bulge=_f32(np.maximum(0, normal(1.5 + 1.5 * severity, 0.5))),
        herniation=_f32(np.where(herniated, rng.uniform(3, 7.5, n), 0)),
        herniation_x=_f32(offset),
        herniation_width=_f32(rng.uniform(5, 8, n)),
        degeneration=_f32(expit(normal(2.0 * severity, 0.8))),
        sac_width=_f32(normal(10.3 - 1.6 * severity, 0.6)),
        sac_depth=_f32(normal(8.3 - 1.2 * severity, 0.5)),
        ligament=_f32(np.maximum(1.8, normal(3.6 + 0.9 * severity, 0.4))),
        facet=_f32(np.clip(normal(6.0 + 0.7 * severity, 0.4), 4, 8.5)),
        facet_angle=_f32(rng.random(n)),
        muscle=_f32(normal(1.0, 0.08)),
        infiltration=_f32(rng.uniform(0.1, 0.45, n)),
        fat=_f32(np.clip(normal(each(2 + 0.9 * (bmi - 20)), 3), 1, 24)),
        asymmetry=_f32(normal(0, 0.06)),
    )
    return _Levels(anatomy, severity, np.where(herniated, side, ""))


def _f32(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _observed(levels: _Levels, grade: NDArray[np.int64], i: int, name: str) -> Level:
    """What a reader could see of one level."""
    a = levels.anatomy
    return Level(
        name=name,
        bulge_mm=float(a.bulge[i]),
        herniation_mm=float(a.herniation[i]),
        side=str(levels.herniation[i]),
        degeneration=float(a.degeneration[i]),
        ligament_mm=float(a.ligament[i]),
        facet_mm=float(a.facet[i]),
        grade=GRADES[grade[i]],
    )
