"""The Mendeley lumbar data (Sudirman et al., k57fr854j2 and s6bgczr8s2) as published, to a manifest and its card.

The archive is read where it lies, a folder or zip files: nothing is unpacked, and no name in it becomes a path. Of the
headers only what ``lumbar_slices`` needs is read, and a picture is written with what its grey values need and nothing
else, so that no name, date or identity of the headers gets into the folder.

Patients are the unit of work: each is a file under ``patients/`` once its pictures are written, and one whose files in
the archive are the same is not read again.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from benchmark.data.card import Columns, DatasetCard
from benchmark.data.image import decode
from benchmark.data.lumbar_labels import RULES, read_note
from benchmark.data.lumbar_slices import PICK_RULE, Choice, Missing, Slice, pick, read_slice
from benchmark.data.phantom import PROMPTS
from benchmark.data.table import canonical, is_blank
from benchmark.errors import BadInput
from benchmark.result import digest, write_atomically
from benchmark.seeding import generator

SplitKind = Literal["patient", "image-level"]

IMPORT_VERSION = "1"
"""Raised whenever the same archive would give other pictures: patients of another version are read again."""

FRACTIONS = {"train": 0.70, "val": 0.15, "test": 0.15}
"""Parts of the paper's split of pictures."""

LARGEST_FILE = 2**28
"""Bytes of the largest member of an archive that is opened; more is no single slice, and may be a bomb."""

KEPT = (
    "SOPClassUID Modality ImageType SamplesPerPixel PhotometricInterpretation Rows Columns BitsAllocated BitsStored "
    "HighBit PixelRepresentation PixelSpacing PixelAspectRatio PixelPaddingValue PixelPaddingRangeLimit "
    "SmallestImagePixelValue LargestImagePixelValue RescaleIntercept RescaleSlope RescaleType ModalityLUTSequence "
    "WindowCenter WindowWidth VOILUTFunction VOILUTSequence PixelData"
)
"""What a written picture keeps of its header: enough to decode to the same pixels as the original."""

CITATION = (
    "Sudirman S, Al Kafri A, Natalia F, Meidia H, Afriliana N, Al-Rashdan W, Bashtawi M, Al-Jumaily M (2019): Lumbar "
    "Spine MRI Dataset, Mendeley Data V2, doi:10.17632/k57fr854j2.2; Radiologists Notes for Lumbar Spine MRI Dataset, "
    "Mendeley Data V2, doi:10.17632/s6bgczr8s2.2. "
)


@dataclass(frozen=True)
class Exclusion:
    """A patient, or one contrast of a patient, that is not in the manifest."""

    patient: str
    part: str
    """``all``, ``T1`` or ``T2``."""
    reason: str


@dataclass(frozen=True)
class Report:
    """What an import did."""

    card: Path
    patients: int
    pictures: int
    labels: dict[str, int]
    """Label -> pictures."""
    patients_of: dict[str, int]
    """Label -> patients."""
    exclusions: tuple[Exclusion, ...]
    aside: dict[str, int]
    """What else the archive holds -> files."""
    notes_alone: int
    """Patients of the spreadsheet who have no pictures in the archive."""

    def excluded(self) -> dict[str, int]:
        """``part: reason`` -> patients, the most frequent first."""
        return dict(Counter(f"{one.part}: {one.reason}" for one in self.exclusions).most_common())


def import_lumbar(
    source: Path,
    out: Path,
    *,
    notes: Path | None = None,
    labels: str = "notes-v1",
    split: SplitKind = "patient",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Write the dataset's last three discs in T1 and T2, labelled from the notes, as pictures, manifest and card.

    Args:
        source: the unpacked archive, or a zip file, or the folder that holds the zip files.
        out: folder to write into; what an earlier call finished there is kept.
        notes: the spreadsheet of the notes; found in ``source`` or beside the zip file where it is not given.
        labels: the rule of ``lumbar_labels`` by which the notes give labels.
        split: ``patient`` leaves the division to the harness, ``image-level`` writes the paper's, which leaks.
        seed: of the division by picture.
        progress: called with (patients read, patients in all).

    Raises:
        BadInput: where the source is no such archive, the notes cannot be found, or no picture is left.
    """
    if labels not in RULES:
        raise BadInput(f"no labelling rule {labels!r}; there are {', '.join(RULES)}")
    archive = Archive(source, without=out)
    patients = archive.patients()
    if not patients:
        raise BadInput(
            f"{source} holds no file in a folder with a patient's number, as 01_MRI_Data/0001/…; give the unpacked "
            "archive of doi:10.17632/k57fr854j2.2, or its zip file (of a zip file in a zip file, the inner one)"
        )
    texts = find_notes(archive, source) if notes is None else read_notes(notes)
    aside: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    exclusions: list[Exclusion] = []
    for done, (number, members) in enumerate(sorted(patients.items())):
        if progress:
            progress(done, len(patients))
        patient = f"{number:04d}"
        found = _import_patient(archive, patient, members, out)
        aside.update(found.aside)
        exclusions += [Exclusion(patient, one.part, one.reason) for one in found.missing]
        reading = read_note(texts.get(number, ""), labels)
        if reading.label is None:
            exclusions.append(Exclusion(patient, "all", f"no label by {labels}: {reading.why}"))
        else:
            rows += [_row(patient, choice, texts[number], reading.label) for choice in found.choices]
    if progress:
        progress(len(patients), len(patients))
    if not rows:
        why = "; ".join(f"{reason} ({n})" for reason, n in Counter(one.reason for one in exclusions).most_common(4))
        raise BadInput(f"{source}: no picture is left of {len(patients)} patients: {why or 'no axial series'}")
    if split == "image-level":
        _divide(rows, seed)
    _write_table(out / "exclusions.csv", [asdict(one) for one in exclusions], ["patient", "part", "reason"])
    _write_table(out / "manifest.csv", rows, list(rows[0]))
    _write_card(out, labels, split, seed)
    label_of = {row["patient_id"]: row["label"] for row in rows}
    return Report(
        card=out / "card.yaml",
        patients=len(label_of),
        pictures=len(rows),
        labels=dict(Counter(row["label"] for row in rows).most_common()),
        patients_of=dict(Counter(label_of.values()).most_common()),
        exclusions=tuple(exclusions),
        aside=dict(aside.most_common()),
        notes_alone=len(texts.keys() - patients.keys()),
    )


# --------------------------------------------------------------------------------------------- the archive


@dataclass(frozen=True)
class Member:
    """A file of an archive."""

    stamp: str
    """Changes when the file does."""
    open: Callable[[], IO[bytes]]


class Archive:
    """The files of a folder and of the zip files directly in it, or of one zip file; read where they lie."""

    def __init__(self, source: Path, *, without: Path) -> None:
        """List the files.

        Args:
            source: a folder or a zip file.
            without: a folder that does not count, for it is written to.

        Raises:
            BadInput: where the source is neither.
        """
        self.members: dict[str, Member] = {}
        if source.is_file():
            self._add_zip(source)
        elif source.is_dir():
            apart = without.resolve()
            for path in sorted(source.rglob("*")):
                if path.is_file() and not path.resolve().is_relative_to(apart):
                    self._add_file(path, source)
        else:
            raise BadInput(f"no file or folder {source}; give the unpacked archive or its zip file")

    def _add_file(self, path: Path, source: Path) -> None:
        if path.suffix.lower() == ".zip" and path.parent == source:
            self._add_zip(path)
        else:
            status = path.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns}"
            self.members[path.relative_to(source).as_posix()] = Member(stamp, _opener(path))

    def _add_zip(self, path: Path) -> None:
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise BadInput(f"{path} is not a whole zip file; download it again, or give the unpacked folder") from None
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise BadInput(f"{path} asks for a password; unpack it and give the folder")
            if info.file_size > LARGEST_FILE:
                raise BadInput(
                    f"{path} holds a file of {info.file_size >> 20} MiB, {info.filename!r}; no slice is so large. "
                    "Unpack what belongs to the dataset and give that folder"
                )
            if not info.is_dir():
                self.members[info.filename] = Member(f"{info.file_size} {info.CRC}", partial(archive.open, info))

    def patients(self) -> dict[int, list[str]]:
        """Number -> names of the files in the patient's folder: the first whose name is one to four figures."""
        found: dict[int, list[str]] = {}
        for name in self.members:
            number = next((part for part in name.split("/")[:-1] if re.fullmatch(r"[0-9]{1,4}", part)), None)
            if number is not None:
                found.setdefault(int(number), []).append(name)
        return found


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


# --------------------------------------------------------------------------------------------- the notes


def read_notes(path: Path) -> dict[int, str]:
    """Read the spreadsheet of the notes: patient number -> text; empty notes are left out.

    Raises:
        BadInput: where it cannot be read or lacks a column.
    """
    if not path.is_file():
        raise BadInput(f"no spreadsheet {path}; give the notes of doi:10.17632/s6bgczr8s2.2, as .xlsx or .csv")
    notes = _notes_in(_sheets(path.read_bytes(), path.name), path.name)
    if notes is None:
        raise BadInput(f"{path} has no row with the columns 'Patient ID' and 'Clinician's Notes'; name them so")
    return notes


def find_notes(archive: Archive, source: Path) -> dict[int, str]:
    """Find the spreadsheet of the notes, in the archive or beside its zip file, by its columns.

    Raises:
        BadInput: where there is none, or more than one.
    """
    readers = {name: member.open for name, member in archive.members.items()}
    if source.is_file():
        readers |= {str(path): _opener(path) for path in sorted(source.parent.iterdir()) if path.is_file()}
    found: dict[str, dict[int, str]] = {}
    unreadable = []
    for name in sorted(name for name in readers if name.lower().endswith((".xlsx", ".csv"))):
        with readers[name]() as file:
            data = file.read()
        try:
            sheets = _sheets(data, name)
        except BadInput:
            unreadable.append(name)
            continue
        notes = _notes_in(sheets, name)
        if notes is not None:
            found[name] = notes
    if len(found) != 1:
        which = f"several ({', '.join(found)})" if found else "none"
        which += f" (not readable: {', '.join(unreadable)})" if unreadable and not found else ""
        raise BadInput(
            f"{source}: of spreadsheets with the columns 'Patient ID' and 'Clinician's Notes' there is {which}; give "
            "the one of doi:10.17632/s6bgczr8s2.2 by --notes"
        )
    return next(iter(found.values()))


def _notes_in(sheets: Sequence[Sequence[Sequence[str]]], name: str) -> dict[int, str] | None:
    """The notes of a spreadsheet, None where no sheet has the columns."""
    for rows in sheets:
        for place, header in enumerate(rows[:10]):
            titles = [re.sub("[^a-z]", "", title.lower()) for title in header]
            ids = [i for i, title in enumerate(titles) if title in ("patientid", "patient", "patientno")]
            texts = [i for i, title in enumerate(titles) if re.search("note|report", title)]
            if ids and texts:
                return _by_patient(rows[place + 1 :], ids[0], texts[0], name)
    return None


def _by_patient(rows: Sequence[Sequence[str]], patient: int, text: int, name: str) -> dict[int, str]:
    notes: dict[int, str] = {}
    for cells in rows:
        number, note = (cells[i].strip() if i < len(cells) else "" for i in (patient, text))
        if not number:
            continue
        if not re.fullmatch(r"[0-9]{1,4}", canonical(number)):
            raise BadInput(f"{name}: the patient id {number!r} is not a number of one to four figures; correct it")
        if not is_blank(note):
            key = int(canonical(number))
            notes[key] = f"{notes[key]}\n{note}" if key in notes else note
    return notes


def _sheets(data: bytes, name: str) -> list[list[list[str]]]:
    """Every sheet as rows of words; a CSV is one sheet."""
    if name.lower().endswith(".csv"):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252", errors="replace")  # as spreadsheets save it on Windows
        return [list(csv.reader(io.StringIO(text, newline="")))]
    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and validations, which nobody asks for
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            return [
                [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
                for sheet in book.worksheets
            ]
    except Exception as error:
        # openpyxl raises what zip, XML and its own parts raise on a file that is none
        raise BadInput(f"{name} is not a spreadsheet that can be read ({error}); save it as .csv") from error


# --------------------------------------------------------------------------------------------- one patient


class _Patient(BaseModel):
    """What was taken of one patient; the file of it says that the patient's pictures are written."""

    stamp: str
    choices: tuple[Choice, ...]
    missing: tuple[Missing, ...]
    aside: dict[str, int]


def _import_patient(archive: Archive, patient: str, members: Sequence[str], out: Path) -> _Patient:
    """Pick and write the pictures of one patient, unless that was done before from the same files."""
    record = out / "patients" / f"{patient}.json"
    stamp = digest([IMPORT_VERSION, PICK_RULE, sorted([name, archive.members[name].stamp] for name in members)])
    known = _recorded(record)
    if known and known.stamp == stamp and all((out / _image(patient, one)).is_file() for one in known.choices):
        return known
    slices: list[Slice] = []
    aside: Counter[str] = Counter()
    for name in sorted(members):
        found = _read_header(archive, name)
        if isinstance(found, str):
            aside[found] += 1
        else:
            slices.append(found)
    picked, missing = pick(slices)
    choices = []
    for name, choice in picked:
        try:
            _write_picture(archive.members[name], out, _image(patient, choice))
            choices.append(choice)
        except BadInput as error:
            missing.append(Missing(f"{choice.level} {choice.contrast}", f"picture {error}"))
    done = _Patient(stamp=stamp, choices=tuple(choices), missing=tuple(missing), aside=dict(aside))
    write_atomically(record, done.model_dump_json(indent=1).encode())
    return done


def _recorded(record: Path) -> _Patient | None:
    try:
        return _Patient.model_validate_json(record.read_bytes())
    except (FileNotFoundError, ValidationError):  # of an earlier version of this program: read anew
        return None


def _image(patient: str, choice: Choice) -> str:
    return f"images/{patient}-{choice.level.replace('/', '')}-{choice.contrast}.dcm"


def _read_header(archive: Archive, name: str) -> Slice | str:
    try:
        with archive.members[name].open() as file:
            return read_slice(file, name)
    except BadInput as error:
        return str(error)


def _write_picture(member: Member, out: Path, image: str) -> None:
    """Write one picture with what its grey values need, and see that it decodes.

    Raises:
        BadInput: where it does not.
    """
    import pydicom

    try:
        with member.open() as file:
            header = pydicom.dcmread(io.BytesIO(file.read()))
        plain = pydicom.Dataset()
        for keyword in KEPT.split():
            if keyword in header:
                plain[keyword] = header[keyword]
        plain.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[image])
        plain.file_meta = pydicom.dataset.FileMetaDataset()
        plain.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
        written = io.BytesIO()
        pydicom.dcmwrite(written, plain, enforce_file_format=True)
    except Exception as error:
        # pydicom raises nearly every type there is on damaged files, and zip files add theirs.
        raise BadInput("is damaged") from error
    write_atomically(out / image, written.getvalue())
    decode(image, out)


# --------------------------------------------------------------------------------------------- what is written


def _row(patient: str, choice: Choice, note: str, label: str) -> dict[str, Any]:
    image = _image(patient, choice)
    return {
        "image": image,
        "report": note.strip(),
        "patient_id": patient,
        "sample_id": PurePosixPath(image).stem,
        "label": label,
        "view": f"{choice.level} {choice.contrast}",
        **asdict(choice),
    }


def _divide(rows: Sequence[dict[str, Any]], seed: int) -> None:
    """Add the paper's division of pictures, whoever's they are."""
    order = generator("lumbar image-level split", seed).permutation(len(rows))
    bounds = [round(share * len(rows)) for share in accumulate(FRACTIONS.values())]
    for place, row in enumerate(order):
        rows[row]["split"] = list(FRACTIONS)[bisect_right(bounds, place)]


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _write_card(out: Path, labels: str, split: SplitKind, seed: int) -> None:
    by_picture = split == "image-level"
    how = f"Slices by {PICK_RULE}, labels by {labels}" + (f", split by picture with seed {seed}" if by_picture else "")
    card = DatasetCard(
        name="mendeley-lumbar-image-level" if by_picture else "mendeley-lumbar",
        manifest="manifest.csv",
        columns=Columns(
            image="image",
            report="report",
            patient_id="patient_id",
            sample_id="sample_id",
            split="split" if by_picture else None,
            view="view",
        ),
        task="binary",
        label="label",
        classes={"No Finding": "No Finding", "LBP": "LBP"},
        positive_class="LBP",
        prompts=PROMPTS,
        allow_patient_overlap=by_picture,
        licence="CC BY 4.0",
        citation=f"{CITATION}{how}.",
    )
    text = yaml.safe_dump(card.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    write_atomically(out / "card.yaml", text.encode())
