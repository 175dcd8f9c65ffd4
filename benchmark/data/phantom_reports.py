"""Reports of the lumbar phantom: a small grammar with varied wording over what can be seen at one level.

A reader misses and overcalls now and then, words things in his own way and leaves out what is normal. No report
names the label: pain is not to be seen in a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Level:
    """One disc level as it was drawn."""

    name: str
    bulge_mm: float
    herniation_mm: float
    side: str
    """``left``, ``right``, ``central``; empty without a herniation."""
    degeneration: float
    """0 to 1."""
    ligament_mm: float
    facet_mm: float
    grade: str
    """``A`` to ``D``."""


INDICATIONS = (
    "Axial MRI of the lumbar spine.",
    "MRI lumbar spine, axial slices.",
    "Lumbar spine MR examination.",
    "Axial T1 and T2 images.",
    "",
    "",
)
LEVEL_WORDS = {
    "L3/4": ("L3/4", "L3-L4", "L3-4"),
    "L4/5": ("L4/5", "L4-L5", "L4-5"),
    "L5/S1": ("L5/S1", "L5-S1"),
}
NORMAL = (
    "{level}: No disc bulge or herniation. Canal and foramina are patent.",
    "At {level} the disc is of normal height and signal. No nerve root compression.",
    "{level}: unremarkable.",
    "Normal appearance of the {level} disc. No canal stenosis.",
)
DISC = {
    "normal": ("disc of normal signal", "preserved disc signal", "well hydrated disc", ""),
    "mild": ("mild disc desiccation", "slight loss of disc signal", "early degeneration of the disc"),
    "marked": ("marked disc desiccation", "degenerated dark disc", "severe disc degeneration with loss of height"),
}
BULGE = {
    "none": ("no disc bulge", "no posterior disc bulge", ""),
    "mild": ("mild diffuse disc bulge", "slight circumferential bulging of the disc", "minimal annular disc bulge"),
    "broad": ("broad-based disc bulge of {mm} mm", "diffuse disc bulge of {mm} mm", "large annular bulge of {mm} mm"),
}
HERNIATION = (
    "{side} disc herniation of {mm} mm",
    "{side} disc protrusion measuring {mm} mm",
    "{mm} mm {side} extrusion",
    "focal {side} protrusion of {mm} mm indenting the thecal sac",
)
NO_HERNIATION = ("no disc herniation", "no focal protrusion", "", "")
SIDES = {
    "left": ("left paracentral", "left posterolateral", "left"),
    "right": ("right paracentral", "right posterolateral", "right"),
    "central": ("central", "midline"),
}
FACET = {
    "normal": ("unremarkable facet joints", "no facet arthropathy", "", ""),
    "large": ("facet joint hypertrophy", "hypertrophic facet arthropathy", "bilateral facet arthrosis"),
}
LIGAMENT = {
    "normal": ("no thickening of the ligamentum flavum", "", ""),
    "thick": ("thickened ligamentum flavum", "ligamentum flavum hypertrophy of {mm} mm"),
}
CANAL = {
    "A": ("no canal stenosis", "the spinal canal is of normal width", "canal patent without nerve root compression"),
    "B": ("mild canal stenosis", "mild narrowing of the spinal canal, grade B", "slight narrowing of the thecal sac"),
    "C": ("moderate canal stenosis", "moderate central stenosis, grade C", "moderate compression of the thecal sac"),
    "D": ("severe canal stenosis", "severe central stenosis, grade D", "severe compression of the thecal sac"),
}


def write_report(level: Level, rng: np.random.Generator) -> str:
    """Write the report of one level; the same generator state gives the same words."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    # A reader's thresholds are not sharp: each reading has an error of its own.
    degeneration = level.degeneration + rng.normal(0, 0.12)
    bulge = level.bulge_mm + rng.normal(0, 0.5)
    name = pick(LEVEL_WORDS[level.name])
    opening = pick(INDICATIONS)
    if degeneration < 0.5 and bulge < 1.5 and not level.side and level.grade in "AB" and rng.random() < 0.6:
        return f"{opening} {pick(NORMAL).format(level=name)}".strip()
    findings = [
        pick(DISC["normal" if degeneration < 0.45 else "mild" if degeneration < 0.7 else "marked"]),
        pick(BULGE["none" if bulge < 1.0 else "mild" if bulge < 2.5 else "broad"]).format(mm=max(2, round(bulge))),
        pick(HERNIATION).format(side=pick(SIDES[level.side]), mm=round(level.herniation_mm))
        if level.side and rng.random() < 0.92
        else pick(NO_HERNIATION),
        pick(FACET["large" if level.facet_mm + rng.normal(0, 0.3) > 6.5 else "normal"]),
        pick(LIGAMENT["thick" if level.ligament_mm + rng.normal(0, 0.3) > 4.0 else "normal"]).format(
            mm=round(level.ligament_mm)
        ),
        pick(CANAL[level.grade]),
    ]
    said = [finding for finding in findings if finding]
    if rng.random() < 0.3:
        body = f"At {name} there is " + ", ".join(said[:-1]) + f". {_capital(said[-1])}." if len(said) > 1 else ""
        body = body or f"At {name} {said[0]}."
    elif rng.random() < 0.5:
        body = f"{name}: " + ". ".join(_capital(finding) for finding in said) + "."
    else:
        body = f"{name}: " + ", ".join(said) + "."
    return f"{opening} {body}".strip()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
