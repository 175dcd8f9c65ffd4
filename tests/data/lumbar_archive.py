"""A small archive in the layout of the Mendeley lumbar data: DICOM files by patient, study and series, and a sheet."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import openpyxl
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SIZE, SPACING_MM, STEP_MM = 12, 20.0, 4.4
DISCS = {"L2/3": (100.0, 0.0), "L3/4": (65.0, 0.0), "L4/5": (30.0, 0.0), "L5/S1": (-6.0, -35.0)}
"""Height of each disc's middle, and tilt of its slices in degrees; the upper ones are parallel, as in the real data."""

TIMES = {"T1": (550.0, 11.0), "T2": (3500.0, 104.0)}
Files = dict[str, bytes]


def dicom(*, pixels: np.ndarray | None = None, **fields: object) -> bytes:
    """One file, with what a header of a hospital would tell of a person."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    defaults = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": generate_uid(),
        "PatientName": "DOE^JANE",
        "PatientID": "mrn-4711",
        "PatientBirthDate": "19610203",
        "InstitutionName": "St Elsewhere",
        "Modality": "MR",
        "StudyDate": "20160309",
        "StudyTime": "091629",
        "StudyDescription": "L-SPINE^LSS",
        "ScanningSequence": "SE",
        "SliceThickness": 4.0,
        "SpacingBetweenSlices": STEP_MM,
        "PixelSpacing": [SPACING_MM, SPACING_MM],
    }
    for name, value in {**defaults, **fields}.items():
        if value is not None:
            setattr(header, name, value)
    pixels = np.zeros((SIZE, SIZE), np.uint16) if pixels is None else pixels.astype(np.uint16)
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.WindowCenter, header.WindowWidth = 800, 1500
    header.PixelData = pixels.tobytes()
    file = io.BytesIO()
    dcmwrite(file, header, enforce_file_format=True)
    return file.getvalue()


def plane(height: float, tilt: float, step: float) -> dict[str, list[float]]:
    """Orientation and corner of a slice ``step`` slice distances above a disc's middle."""
    angle = np.deg2rad(tilt)
    row, column = np.array([1.0, 0, 0]), np.array([0, np.cos(angle), -np.sin(angle)])
    normal = np.cross(row, column)
    corner = np.array([0, 0, height]) + step * STEP_MM * normal - (row + column) * SPACING_MM * (SIZE - 1) / 2
    return {"ImageOrientationPatient": [*row, *column], "ImagePositionPatient": list(corner.round(4))}


def axial(
    folder: str,
    contrast: str,
    *,
    number: int = 4,
    stacks: Mapping[str, int] | Sequence[str] = ("L3/4", "L4/5", "L5/S1"),
    scramble: int | None = None,
    name: str | None = None,
    grey: int = 0,
    **fields: object,
) -> Files:
    """An axial series: stacks from head to foot, instances counted through, file names as published or scrambled.

    A picture's grey values are ``grey`` and its instance number, with a gradient: a test can tell which it has.
    """
    if not isinstance(stacks, Mapping):
        stacks = dict.fromkeys(stacks, 5)
    description = name or {"T1": "t1_tse_tra", "T2": "t2_tse_tra_384"}[contrast]
    repetition, echo = TIMES[contrast]
    series = generate_uid()
    places = [(disc, (n - 1) / 2 - i) for disc, n in stacks.items() for i in range(n)]
    files = {}
    for instance, (disc, step) in enumerate(places, start=1):
        gradient = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
        file = instance if scramble is None else (instance * 7919 + scramble) % 997
        files[f"{folder}/{description.upper()}_{number:04d}/{description.upper()[:11]}_{file:03d}.ima"] = dicom(
            pixels=gradient + 40 * instance + grey,
            **{
                "SeriesInstanceUID": series,
                "SeriesNumber": number,
                "SeriesDescription": description,
                "InstanceNumber": instance,
                "RepetitionTime": repetition,
                "EchoTime": echo,
                "SliceLocation": round(DISCS[disc][0] + step * STEP_MM, 2),
                **plane(*DISCS[disc], step),
                **fields,
            },
        )
    return files


def other_series(folder: str) -> Files:
    """What lies beside the axial series: a sagittal one, a localizer of three planes, a display of positions."""
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [3, 0, 0]}
    coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "ImagePositionPatient": [0, 0, 0]}
    t2 = {"RepetitionTime": 3500, "EchoTime": 104}
    side, three = generate_uid(), generate_uid()
    display = {"SeriesDescription": "PosDisp: [4] t2_tse_tra_384", "SeriesInstanceUID": generate_uid()}
    return (
        {
            f"{folder}/T2_TSE_SAG_384_0002/{i}.ima": dicom(
                SeriesDescription="t2_tse_sag_384", SeriesInstanceUID=side, InstanceNumber=i, **t2, **sagittal
            )
            for i in (1, 2)
        }
        | {
            f"{folder}/SCAN_0001/{i}.ima": dicom(SeriesInstanceUID=three, InstanceNumber=i, **t2, **where)
            for i, where in enumerate((sagittal, coronal, plane(40, 0, 0)), 1)
        }
        | {
            f"{folder}/POSDISP_5001/1.ima": dicom(**t2, **display, **plane(10, 0, 0)),
            f"{folder}/readme.txt": b"not a picture",
        }
    )


def patient(number: int, **fields: object) -> Files:
    """A complete patient in both contrasts."""
    folder = f"01_MRI_Data/{number:04d}/L-SPINE_LSS_20160309_091629_240000"
    return {
        **axial(folder, "T2", number=4, grey=number, **fields),
        **axial(folder, "T1", number=5, grey=500 + number, **fields),
        **other_series(folder),
    }


def sheet(notes: Mapping[int, str | None], columns: Sequence[str] = ("Patient ID", "Clinician's Notes")) -> bytes:
    book = openpyxl.Workbook()
    page = book.active
    page.append(list(columns))
    for number, note in notes.items():
        page.append([number, note])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def unpack(files: Files, folder: Path) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(files: Files, path: Path, names: Iterable[str] = ()) -> Path:
    """A zip file in a shuffled order; ``names`` are put in as they are, with a picture each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files, key=lambda name: name[::-1]):
            archive.writestr(name, files[name])
        for name in names:
            archive.writestr(name, dicom(**plane(0, 0, 0)))
    return path
