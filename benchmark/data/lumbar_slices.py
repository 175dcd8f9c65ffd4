"""Which axial slices of a lumbar MRI study show the last three discs, decided from DICOM headers alone.

Rule ``last-three-discs-v1``, for each contrast of a patient:

1. A slice is axial where its plane is tilted by less than 60° from the transverse one (the last disc follows the
   spine's curve); a series with any other slice, as a three-plane localizer, is not axial.
2. A spin echo is T1 with TR <= 1000 ms and TE <= 30 ms, T2 with TR >= 1500 ms and TE >= 60 ms. The series' name
   decides only where the times are missing or lie between, and never for a gradient echo.
3. The slices of a series fall into stacks, one a disc: another stack begins where the plane turns by more than 2° or
   where the next parallel plane is more than 2.5 slice distances away.
4. The three lowest stacks are L3/4, L4/5 and L5/S1. They must be plausible: none thicker than 32 mm, and their middle
   slices 20 to 60 mm apart; otherwise the series is not used.
5. The picture of a disc is the middle slice of its stack, the upper of two.

Of several series that qualify, one wins whose study has both contrasts, then one without fat suppression or contrast
agent, then that of the later study, then the later series of it.

What it cannot know: a vertebra too many or too few, a series that ends above the sacrum, and a middle slice that grazes
an end plate. It counts from below, as the published description of the data does.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.data.phantom import CONTRASTS, LEVELS
from benchmark.errors import BadInput

if TYPE_CHECKING:
    import pydicom

Vector = NDArray[np.float64]
Contrast = Literal["T1", "T2"]

PICK_RULE = "last-three-discs-v1"
"""Name of this module's rule; another rule gets another name."""

MAX_TILT_DEG = 60.0
"""Tilt from the transverse plane from which a slice is no longer axial."""

T1_TIMES_MS, T2_TIMES_MS = (1000.0, 30.0), (1500.0, 60.0)
"""(TR, TE): a spin echo is T1 up to the first pair, T2 from the second."""

SAME_PLANE_DEG = 2.0
"""Planes that differ by less are parallel."""

GAP_STEPS = 2.5
"""Slice distances between two stacks that are parallel: one slice missing is none, the height of a vertebra is."""

USUAL_STEP_MM = 4.4
"""Distance of axial slices that the data's description gives, for headers that say nothing of it."""

MAX_STACK_MM, DISC_DISTANCE_MM = 32.0, (20.0, 60.0)
"""Thickness of one disc's stack, and distance of neighbouring discs, beyond which the stacks are not believed."""

TAGS = (
    "Modality StudyInstanceUID StudyDate StudyTime StudyDescription SeriesInstanceUID SeriesNumber SeriesDescription "
    "ProtocolName BodyPartExamined ImageType ScanningSequence ScanOptions ContrastBolusAgent RepetitionTime EchoTime "
    "ImageOrientationPatient ImagePositionPatient SliceLocation SliceThickness SpacingBetweenSlices PixelSpacing Rows "
    "Columns InstanceNumber NumberOfFrames"
)
"""What is read of a header; names and birth dates are not."""

_LOCALIZER = re.compile(r"locali[sz]er|\bloc\b|scout|survey|posdisp|\bmpr\b|\bmip\b|projection image")
_AXIAL = re.compile(r"\b(?:ax|axial|tra|trans|transverse|transversal)\b")
_SUPPRESSED = re.compile(r"\b(?:fs|fatsat|fat sat|stir|tirm|spair|spir|dixon|gd|gad|post|contrast|\+ ?c)\b")
_LUMBAR = re.compile(r"\bl ?s? ?spine\b|lumb|\blss\b|\bls\b")
_ELSEWHERE = re.compile(
    r"\b[ctd] ?spine\b|cervi|thorac|dorsal|brain|\bhead\b|\bneck\b|\bhip\b|knee|shoulder|pelvi|abdom|sacroil|\bsij?\b"
)


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a lumbar series, as its header has it."""

    member: str
    """Name of its file in the archive."""
    study: tuple[str, str]
    """(date and time, identity) of its study; for comparison only."""
    series: str
    number: int
    """Of its series; 0 where the header has none."""
    instance: int
    axial: bool
    contrast: Contrast | None
    """None where it is neither."""
    suppressed: bool
    """Whether fat is suppressed or a contrast agent was given."""
    centre_mm: Vector
    """(3,) of the picture's middle in the patient's coordinates: left, back, head."""
    normal: Vector
    """(3,) of its plane, pointing to the head."""
    step_mm: float
    """Distance of the slices of its series, or the usual one."""


@dataclass(frozen=True)
class Choice:
    """How a picture was picked."""

    level: str
    contrast: str
    series: int
    instance: int
    slice: int
    """Place in its stack from above, counted from 1."""
    stack: int
    """Slices of the stack."""
    position_mm: float
    """Of the slice's middle, towards the head."""
    tilt_deg: float
    """Of its plane from the transverse one."""


@dataclass(frozen=True)
class Missing:
    """What a patient lacks, and why."""

    part: str
    """A contrast, or one picture of it."""
    reason: str


def read_slice(file: IO[bytes], member: str) -> Slice | str:
    """Read one file's header.

    Returns:
        The slice, or in a word what else it is: a count of these belongs into the report.

    Raises:
        BadInput: where it is no whole DICOM file.
    """
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values the standard does not allow, which nobody here can mend
            return _to_slice(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS.split()), member)
    except Exception as error:
        # pydicom raises nearly every type there is on damaged headers, and zip files add theirs.
        raise BadInput("no readable DICOM header") from error


def pick(slices: Sequence[Slice]) -> tuple[list[tuple[str, Choice]], list[Missing]]:
    """Pick the last three discs of one patient in each contrast.

    Returns:
        The names of the picked files, each with how it was picked, and the contrasts that the patient lacks.
    """
    stacks, unusable = {}, {}
    of_series = _axial_series(slices)
    for key, members in of_series.items():
        found = _stacks(members)
        problem = _implausible(found)
        if problem is None:
            stacks[key] = found[-len(LEVELS) :]
        else:
            unusable[key] = problem
    contrasts_of = Counter(study for study, _ in {(of_series[key][0].study, key[1]) for key in stacks})
    choices, missing = [], []
    for contrast in CONTRASTS:
        usable = [key for key in stacks if key[1] == contrast]
        if usable:
            best = max(usable, key=lambda key: _preference(of_series[key][0], contrasts_of))
            choices += [_choose(stack, level) for stack, level in zip(stacks[best], LEVELS, strict=True)]
        else:
            reasons = sorted(reason for (_, other), reason in unusable.items() if other == contrast)
            unknown = any(one.axial and one.contrast is None for one in slices)
            none = "no axial series but of unknown contrast" if unknown else "no axial series"
            missing.append(Missing(contrast, reasons[0] if reasons else none))
    return choices, missing


# --------------------------------------------------------------------------------------------- headers


def _to_slice(header: pydicom.Dataset, member: str) -> Slice | str:
    named = _words(header.get("SeriesDescription"), header.get("ProtocolName")) or _words(*member.split("/")[-2:-1])
    if header.get("Modality", "MR") != "MR" or not header.get("Rows"):
        return "no MR picture"
    if int(header.get("NumberOfFrames") or 1) > 1:
        return "several frames in one file"
    if _LOCALIZER.search(named) or _LOCALIZER.search(_words(*_values(header, "ImageType"))):
        return "localizer"
    if not _is_lumbar(header, named, member):
        return "another part of the body"
    centre, normal = _plane(header, named)
    axial = bool(normal[2] > np.cos(np.deg2rad(MAX_TILT_DEG)))
    if axial and not np.isfinite(centre).all():
        return "axial, but without a position"
    return Slice(
        member=member,
        study=(_when(header, member), str(header.get("StudyInstanceUID"))),
        series=str(header.get("SeriesInstanceUID") or member.rpartition("/")[0]),
        number=int(header.get("SeriesNumber") or 0),
        instance=int(header.get("InstanceNumber") or 0),
        axial=axial,
        contrast=_contrast(header, named),
        suppressed=bool(_SUPPRESSED.search(named) or header.get("ContrastBolusAgent"))
        or "FS" in _values(header, "ScanOptions"),
        centre_mm=centre,
        normal=normal,
        step_mm=float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or USUAL_STEP_MM),
    )


def _when(header: pydicom.Dataset, member: str) -> str:
    """Date and time of the study as figures; the published headers lack the date, and their folders have it."""
    if header.get("StudyDate"):
        return f"{header.StudyDate}{header.get('StudyTime') or ''}"
    folder = re.search(r"(?<!\d)((?:19|20)\d{6})_(\d{6})(?!\d)", member)
    return folder[1] + folder[2] if folder else ""


def _words(*texts: object) -> str:
    """Texts as lower-case words: underscores, carets and hyphens separate, as blanks do."""
    return " ".join(re.sub(r"[_^\-./,\s]+", " ", str(text)) for text in texts if text).lower().strip()


def _values(header: pydicom.Dataset, name: str) -> list[str]:
    value = header.get(name) or []
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _is_lumbar(header: pydicom.Dataset, named: str, member: str) -> bool:
    """What is nearest to the series decides; where nobody names a part of the body, it is the lumbar spine."""
    study = _words(header.get("StudyDescription")) or _words(*member.split("/")[:-2])
    for text in (named, study, _words(header.get("BodyPartExamined"))):
        if _LUMBAR.search(text) or _ELSEWHERE.search(text):
            return bool(_LUMBAR.search(text))
    return True


def _plane(header: pydicom.Dataset, named: str) -> tuple[Vector, Vector]:
    """Centre and normal of a slice; without an orientation the name tells the axial, and the location is the height."""
    location = header.get("SliceLocation")
    centre = np.array([0.0, 0.0, np.nan if location is None else float(location)])
    if header.get("ImagePositionPatient"):
        centre = np.array(header.ImagePositionPatient, dtype=np.float64)
    if not header.get("ImageOrientationPatient"):
        return centre, np.array([0.0, 0.0, 1.0] if _AXIAL.search(named) else [1.0, 0.0, 0.0])
    along_row, along_column = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)
    if header.get("PixelSpacing"):
        between_rows, between_columns = (float(spacing) for spacing in header.PixelSpacing)
        centre = centre + along_row * between_columns * (int(header.Columns) - 1) / 2
        centre = centre + along_column * between_rows * (int(header.Rows) - 1) / 2
    return centre, normal if normal[2] >= 0 else -normal


def _contrast(header: pydicom.Dataset, named: str) -> Contrast | None:
    if "GR" in _values(header, "ScanningSequence"):
        return None
    if header.get("RepetitionTime") is not None and header.get("EchoTime") is not None:
        times = float(header.RepetitionTime), float(header.EchoTime)
        if times[0] <= T1_TIMES_MS[0] and times[1] <= T1_TIMES_MS[1]:
            return "T1"
        if times[0] >= T2_TIMES_MS[0] and times[1] >= T2_TIMES_MS[1]:
            return "T2"
    words = {"T1": r"\bt1(?![\d*])", "T2": r"\bt2(?![\d*])"}
    given = [contrast for contrast in CONTRASTS if re.search(words[contrast], named)]
    return "T1" if given == ["T1"] else "T2" if given == ["T2"] else None


# --------------------------------------------------------------------------------------------- stacks


def _axial_series(slices: Sequence[Slice]) -> dict[tuple[str, str], list[Slice]]:
    """(series, contrast) -> its slices, for the series that are axial throughout; each plane once."""
    mixed = {one.series for one in slices if not one.axial}
    found: dict[tuple[str, str], list[Slice]] = {}
    for one in sorted(slices, key=lambda one: (one.instance, one.member)):
        if one.series in mixed or one.contrast is None:
            continue
        members = found.setdefault((one.series, one.contrast), [])
        if not any(_same_plane(one, other) for other in members):
            members.append(one)
    return found


def _stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """The stacks of a series from head to foot, and so are the slices of each."""
    parallel: list[list[Slice]] = []
    for one in slices:
        for members in parallel:
            if _parallel(members[0], one):
                members.append(one)
                break
        else:
            parallel.append([one])
    stacks = []
    for members in parallel:
        heights = np.array([members[0].normal @ one.centre_mm for one in members])
        order = np.argsort(-heights, kind="stable")
        gaps = np.flatnonzero(-np.diff(heights[order]) > GAP_STEPS * members[0].step_mm)
        stacks += [[members[i] for i in part] for part in np.split(order, gaps + 1)]
    return sorted(stacks, key=lambda stack: -_middle(stack).centre_mm[2])


def _parallel(one: Slice, other: Slice) -> bool:
    return bool(one.normal @ other.normal > np.cos(np.deg2rad(SAME_PLANE_DEG)))


def _same_plane(one: Slice, other: Slice) -> bool:
    return _parallel(one, other) and bool(np.allclose(one.centre_mm, other.centre_mm, atol=0.1))


def _implausible(stacks: Sequence[Sequence[Slice]]) -> str | None:
    """Why the lowest stacks cannot be the last three discs, or None."""
    if len(stacks) < len(LEVELS):
        return f"axial series with fewer than {len(LEVELS)} stacks of slices"
    last = stacks[-len(LEVELS) :]
    if any(abs(stack[0].normal @ (stack[0].centre_mm - stack[-1].centre_mm)) > MAX_STACK_MM for stack in last):
        return "axial series with a stack too thick for one disc"
    least, most = DISC_DISTANCE_MM
    for upper, lower in pairwise(last):
        if not least <= float(np.linalg.norm(_middle(upper).centre_mm - _middle(lower).centre_mm)) <= most:
            return "axial series whose stacks are not one disc apart"
    return None


def _middle(stack: Sequence[Slice]) -> Slice:
    return stack[(len(stack) - 1) // 2]


def _preference(one: Slice, contrasts_of: Counter[tuple[str, str]]) -> tuple[int, bool, tuple[str, str], int, str]:
    """Rank of a series, the largest the best: see the module's text."""
    return contrasts_of[one.study], not one.suppressed, one.study, one.number, one.series


def _choose(stack: Sequence[Slice], level: str) -> tuple[str, Choice]:
    one = _middle(stack)
    return one.member, Choice(
        level=level,
        contrast=str(one.contrast),
        series=one.number,
        instance=one.instance,
        slice=stack.index(one) + 1,
        stack=len(stack),
        position_mm=round(float(one.centre_mm[2]), 1),
        tilt_deg=round(float(np.rad2deg(np.arccos(min(1.0, one.normal[2])))), 1),
    )
