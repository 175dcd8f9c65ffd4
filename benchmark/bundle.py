"""One file with all that a leaderboard needs of a run, to be sent to another machine and joined there.

A bundle is a zip with the layout of a run folder, and ``bundle.json``, which lists every member with size and digest:

    bundle.json  run.json  cells/<id>.json  predictions/<id>.parquet  [maps/<id>.npz]

It is made to leave the house. Names of samples, which often hold the patient's, are replaced by their place in the
sorted names of their part of the split (``test-0000012``), and patients by their place among the patients. Machines
with the same split (same fingerprint, hence same names) number alike, so their rows still pair. A digest of a name
would not do: who has a list of patients can try them all. Of failures only the kind is kept.

Reading trusts nothing: only these names, each once, of the size and digest that ``bundle.json`` says, within limits. A
digest finds damage, not forgery: take bundles from those whose figures you would believe.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import BadInput
from benchmark.result import CellResult, open_atomically, public, public_record
from benchmark.run_folder import Damaged, RunFolder, read_record

SCHEMA_VERSION = 1
"""Version of a bundle's layout; a reader refuses a newer one."""

CONTENTS = "bundle.json"
"""The member that lists all others."""

MEMBER = re.compile(r"run\.json|cells/[0-9a-f]+\.json|predictions/[0-9a-f]+\.parquet|maps/[0-9a-f]+\.npz")
"""What else a bundle may hold: no folder above or beside its own can be named."""

MEMBER_LIMIT = 2**29
"""Bytes of one member, unpacked, and once more when it is read: a table of predictions of millions of rows."""

LIMIT = 2**33
"""Bytes of all members, unpacked."""

RATIO_LIMIT = 200
"""How often larger than itself a bundle may be, unpacked. Cells shrink to a tenth; deflate can reach a thousandth."""

COUNT_LIMIT = 100_000
"""Members of a bundle."""

MESSAGE = "its message stayed with the run, for it may name a picture"
"""Stands in a bundle for what a failure said."""

ODD = "as no bundle does; it may have been tampered with"

WRITTEN_AT = (1980, 1, 1, 0, 0, 0)
"""The time of every member: same run, same bytes."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Part):
    """What is said of one member."""

    size: int = Field(ge=0)
    """Bytes, unpacked."""
    sha256: str


class Contents(_Part):
    """``bundle.json``."""

    schema_version: int = SCHEMA_VERSION
    members: dict[str, Member]
    """Name -> size and digest, ``bundle.json`` itself left out."""


class _Version(BaseModel):
    schema_version: int


# --------------------------------------------------------------------------------------------- writing


def write_bundle(folder: Path, file: Path, *, include_images: bool = False) -> Contents:
    """Write the bundle of a run: same run, same bytes.

    Args:
        folder: of the run, finished or not; cells of other commands in it are left out.
        file: where to.
        include_images: whether similarity maps, which show test pictures and phrases of their reports, go with it
            where the run keeps some of patients. Maps over pictures that a program drew always do.

    Returns:
        What is in it.

    Raises:
        BadInput: where the folder holds no run or a damaged one, or pictures are asked for that the run does not keep.
    """
    files, record = RunFolder(folder), read_record(folder)
    may_show = record.dataset.synthetic or include_images
    if include_images and not (record.dataset.synthetic or record.config.get("include_images")):
        raise BadInput(f"{folder} keeps no pictures; only a run with --include-images has some to put into a bundle")
    record = public_record(record)
    members = {"run.json": record.model_dump_json(indent=1).encode()}
    for result in files.results(record):
        members[f"cells/{result.id}.json"] = _without_names(result).model_dump_json(indent=1).encode()
        if result.status != "done":
            continue
        table = io.BytesIO()
        numbered(files.predictions(result.id)).to_parquet(table, index=False)
        members[f"predictions/{result.id}.parquet"] = table.getvalue()
        if may_show and (maps := files.read_maps(result.id)) is not None:
            members[f"maps/{result.id}.npz"] = maps.to_bytes()
    contents = Contents(members={name: _member(data) for name, data in sorted(members.items())})
    with open_atomically(file) as raw, zipfile.ZipFile(raw, "w") as archive:
        for name, data in [(CONTENTS, contents.model_dump_json(indent=1).encode()), *sorted(members.items())]:
            info = zipfile.ZipInfo(name, WRITTEN_AT)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return contents


def numbered(predictions: pd.DataFrame) -> pd.DataFrame:
    """A table of predictions with places for names; of one that has them already, the same.

    Samples are numbered within their part, patients over all, both in the order of the names or codes they had: the
    order that resamples depend on stays as it was, and so does every figure.
    """
    names, parts = predictions["sample"].to_numpy(object), predictions["split"].to_numpy(object)
    samples = names.copy()
    for part in ("val", "test"):
        mine = parts == part
        samples[mine] = [f"{part}-{place:07d}" for place in np.unique(names[mine], return_inverse=True)[1]]
    return predictions.assign(sample=samples, group=np.unique(predictions["group"], return_inverse=True)[1])


def _without_names(result: CellResult) -> CellResult:
    """What pages show of a result, less the message of a failure: a file it names may be called for a patient."""
    shown = public(result)
    if shown.failure is None:
        return shown
    return shown.model_copy(update={"failure": shown.failure.model_copy(update={"message": MESSAGE})})


def _member(data: bytes) -> Member:
    return Member(size=len(data), sha256=hashlib.sha256(data).hexdigest())


# --------------------------------------------------------------------------------------------- reading


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The run folder behind a path: a folder itself; of a bundle a temporary one, which goes when the block ends.

    Raises:
        BadInput: where the file is no bundle, is damaged, or was written by a newer version.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bundle-") as place:
        _unpack(path, Path(place))
        yield Path(place)


def _unpack(file: Path, into: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive, file)
            contents = _contents(archive, file)
            for name, member in contents.members.items():
                data = archive.read(name)
                if _member(data) != member:
                    raise Damaged(f"{file}: {name} is not what was put in; copy the bundle again")
                if _inside(name, data) > MEMBER_LIMIT:
                    raise BadInput(f"{file}: {name} would fill the memory once it is read; no run writes such a file")
                target = into / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(data)
    # No table: pyarrow's kind of ValueError. Encrypted, or packed in an unknown way: a RuntimeError.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, pyarrow.ArrowInvalid) as error:
        raise Damaged(
            f"{file}: neither a run folder nor a whole bundle ({error}); give what 'run --out' or 'bundle' wrote"
        ) from error


def _inside(name: str, data: bytes) -> int:
    """Bytes of a member in memory: tables and maps are packed once more, and may be packed as thinly as a zip."""
    if name.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(data)) as arrays:
            return sum(info.file_size for info in arrays.infolist())
    if name.endswith(".parquet"):
        table = pyarrow.parquet.read_metadata(io.BytesIO(data))
        return int(8 * table.num_rows * table.num_columns)
    return len(data)


def _check_sizes(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse what would fill memory or disk, before anything is unpacked: ``zipfile`` reads no more than it is told."""
    members = archive.infolist()
    repeated = [name for name, count in Counter(info.filename for info in members).items() if count > 1]
    if repeated:
        raise BadInput(
            f"{file}: holds {repeated[0]!r} more than once, as no bundle does; it may have been tampered with"
        )
    largest = max(members, key=lambda info: info.file_size, default=None)
    total = sum(info.file_size for info in members)
    packed = file.stat().st_size
    if largest is not None and largest.file_size > MEMBER_LIMIT:
        raise BadInput(f"{file}: {largest.filename!r} is larger than {MEMBER_LIMIT >> 20} MiB, as no member should be")
    if total > LIMIT or total > RATIO_LIMIT * packed or len(members) > COUNT_LIMIT:
        raise BadInput(
            f"{file}: {len(members)} members of {total >> 20} MiB in {packed >> 10} KiB are no results; "
            "it may be made to fill the disk"
        )


def _contents(archive: zipfile.ZipFile, file: Path) -> Contents:
    """``bundle.json``, which names all other members, and no others."""
    held = set(archive.namelist()) - {CONTENTS}
    try:
        data = archive.read(CONTENTS)
        version = _Version.model_validate_json(data).schema_version
        if version > SCHEMA_VERSION:
            raise BadInput(f"{file}: written by a newer version (schema {version}); update this program")
        contents = Contents.model_validate_json(data)
    except KeyError as error:
        raise BadInput(f"{file}: a zip without {CONTENTS}, so no bundle; give one that 'bundle' wrote") from error
    except ValidationError as error:
        raise Damaged(
            f"{file}: {CONTENTS} can't be read ({error.errors()[0]['msg']}); copy the bundle again"
        ) from error
    strange = sorted(name for name in held | set(contents.members) if not MEMBER.fullmatch(name))
    if strange:
        raise BadInput(f"{file}: holds {strange[0]!r}, {ODD}")
    differ = sorted(held ^ set(contents.members))
    if differ:
        where = "only in the zip" if differ[0] in held else "only in its list"
        raise Damaged(f"{file}: {differ[0]} is {where}; copy the bundle again")
    return contents
