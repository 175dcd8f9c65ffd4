"""The files of one run: cells, predictions, maps, the record of what was planned, and who is working on what.

Every write is atomic; what is read was whole, or is said to be damaged.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
from filelock import FileLock, Timeout
from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.plan import Plan, Unit
from benchmark.result import SCHEMA_VERSION, CellResult, Maps, RunRecord, write_atomically

if TYPE_CHECKING:
    from benchmark.evaluate.analysis import Analysis

Record = TypeVar("Record", CellResult, RunRecord)


class ProcessDied(RuntimeError):
    """A worker died while it worked on a unit."""

    def __init__(self) -> None:
        super().__init__("its process died without a word; the system may have run out of memory")


class Damaged(BadInput):
    """A file of the run folder is not what was written there."""


class RunFolder:
    """The files of one run. Every write is atomic; what is read was whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, record: RunRecord) -> RunRecord:
        """Write ``run.json``; a run that is resumed keeps the time it was first started."""
        before = self._before()
        if before is not None:
            if before.split.fingerprint != record.split.fingerprint:
                raise BadInput(
                    f"{self.path} holds a run on another dataset or split ({before.dataset.name}, "
                    f"{before.split.fingerprint}); choose another folder with --out"
                )
            record = record.model_copy(update={"started": before.started})
        self.write_record(record)
        return record

    def _before(self) -> RunRecord | None:
        try:
            return read_record(self.path) if (self.path / "run.json").exists() else None
        except Damaged:  # it says what was planned, which is known again; the cells are files of their own
            return None

    def write_record(self, record: RunRecord) -> None:
        """Replace ``run.json``."""
        write_atomically(self.path / "run.json", record.model_dump_json(indent=1).encode())

    def write(self, result: CellResult, predictions: pd.DataFrame | None, maps: Maps | None = None) -> None:
        """Write a cell: its predictions and maps first, so that a result is never without them."""
        if maps is not None:
            write_atomically(self._maps(result.id), maps.to_bytes())
        else:  # pictures that an earlier run was allowed to show
            self._maps(result.id).unlink(missing_ok=True)
        if predictions is not None:
            _write_table(self.path / "predictions" / f"{result.id}.parquet", predictions)
        write_atomically(self._cell(result.id), result.model_dump_json(indent=1).encode())

    def read(self, cell: str) -> CellResult | None:
        """The result of a cell, or None where there is none yet.

        Raises:
            Damaged: where the file is not what this version wrote.
            BadInput: where a newer version wrote it.
        """
        file = self._cell(cell)
        if not file.exists():
            return None
        result = _parse(CellResult, file)
        if result.id != cell:
            raise Damaged(f"{file}: it holds the result of cell {result.id}; delete it and run again")
        return result

    def predictions(self, cell: str) -> pd.DataFrame:
        """The predictions behind a finished cell.

        Raises:
            Damaged: where there is none, or it is not what this version wrote.
        """
        file = self.path / "predictions" / f"{cell}.parquet"
        if not file.exists():
            raise Damaged(f"{file}: the predictions of this cell are gone; run with --fresh to have them written anew")
        return _read_table(file, "predictions; run with --fresh")

    def write_samples(self, samples: pd.DataFrame) -> None:
        """Write which subgroups each sample is in (see ``benchmark.data.subgroups``)."""
        _write_table(self._samples, samples)

    def samples(self) -> pd.DataFrame | None:
        """The subgroups of the samples; None where the version that ran this recorded none.

        Raises:
            Damaged: where the file is not what this version wrote.
        """
        known = self._samples.exists()
        return _read_table(self._samples, "subgroups; give the command of the run again") if known else None

    def has_maps(self, cell: str) -> bool:
        """Whether a cell has similarity maps."""
        return self._maps(cell).exists()

    def read_maps(self, cell: str) -> Maps | None:
        """The similarity maps of a cell, or None where it has none.

        Raises:
            Damaged: where the file is not what this version wrote.
        """
        file = self._maps(cell)
        if not file.exists():
            return None
        try:
            return Maps.from_bytes(file.read_bytes())
        except ValueError as error:
            raise Damaged(f"{file}: {error}; delete it, or run with --fresh to have it written anew") from error

    def analysis(self, record: RunRecord, results: Sequence[CellResult]) -> Analysis:
        """What the rows say together: as it was written here for the same rows, or made from their predictions."""
        from benchmark.evaluate.analysis import Analysis, analyse, identity

        file, samples = self.path / "analysis.json", self.samples()
        if file.exists():
            try:
                before = Analysis.model_validate_json(file.read_bytes())
            except ValidationError:  # of another version, or damaged: it is made anew
                before = None
            if before is not None and before.of == identity(record, results, samples):
                return before
        made = analyse(record, results, self.predictions, samples)
        write_atomically(file, made.model_dump_json(indent=1).encode())
        return made

    def has(self, cell: str) -> bool:
        """Whether a cell is done; a failed or damaged one is not, and is run again."""
        try:
            result = self.read(cell)
        except Damaged:
            return False
        return result is not None and result.status == "done"

    def cells(self) -> set[str]:
        """Ids of all cells in the folder, of whatever command."""
        return {file.stem for file in (self.path / "cells").glob("*.json")}

    def finished(self, unit: Unit) -> bool:
        """Whether all cells of a unit are done."""
        return all(self.has(spec.id) for _, spec in unit.cells)

    def results(self, record: RunRecord) -> Iterator[CellResult]:
        """The cells of a run that have a result, in its order."""
        for cell in record.cells:
            result = self.read(cell)
            if result is not None:
                yield result

    def forget(self, planned: Plan) -> None:
        """Delete the results of the planned cells."""
        for spec in planned.specs:
            self._cell(spec.id).unlink(missing_ok=True)
            (self.path / "predictions" / f"{spec.id}.parquet").unlink(missing_ok=True)
            self._maps(spec.id).unlink(missing_ok=True)
        for unit in planned.units:
            self.checkpoint(unit).unlink(missing_ok=True)

    def checkpoint(self, unit: Unit) -> Path:
        """Where the training of a unit is written down after each epoch, until its cell has a result."""
        return self.path / "checkpoints" / f"{unit.id}.pt"

    @contextmanager
    def attempt(self, unit: Unit, session: str) -> Iterator[None]:
        """Mark a unit as begun in this session, and as over when it is, with a result or without.

        Raises:
            ProcessDied: where it was begun in this session already, and is not over.
        """
        died = self._mark(unit) == f"{session} begun"
        write_atomically(self._mark_file(unit), f"{session} begun".encode())
        try:
            if died:
                raise ProcessDied
            yield
        finally:
            write_atomically(self._mark_file(unit), f"{session} over".encode())

    def settled(self, unit: Unit, session: str) -> bool:
        """Whether a unit is finished, or was tried in this session and failed: another session may try again."""
        return self.finished(unit) or self._mark(unit) == f"{session} over"

    def _mark(self, unit: Unit) -> str:
        file = self._mark_file(unit)
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _mark_file(self, unit: Unit) -> Path:
        return self.path / "locks" / f"{unit.id}.attempt"

    @contextmanager
    def claim(self, unit: Unit, *, wait: bool) -> Iterator[bool]:
        """Hold a unit's lock; gives False where another process holds it and ``wait`` is False."""
        (self.path / "locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "locks" / f"{unit.id}.lock", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @property
    def _samples(self) -> Path:
        return self.path / "samples.parquet"

    def _cell(self, cell: str) -> Path:
        return self.path / "cells" / f"{cell}.json"

    def _maps(self, cell: str) -> Path:
        return self.path / "maps" / f"{cell}.npz"


def read_record(folder: Path) -> RunRecord:
    """Read ``run.json`` of a run folder.

    Raises:
        BadInput: where the folder holds no run, or one that a newer version wrote.
    """
    file = folder / "run.json"
    if not file.exists():
        raise BadInput(f"{folder} is not a run folder: it has no run.json; give the folder that 'run --out' wrote")
    return _parse(RunRecord, file)


def _write_table(file: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(file, buffer.getvalue())


def _read_table(file: Path, what: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except ValueError as error:  # what pyarrow raises for bytes that are no Parquet is one
        raise Damaged(f"{file}: not a table of {what} to have it written anew") from error


def _parse(kind: type[Record], file: Path) -> Record:
    try:
        record = kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Damaged(
            f"{file}: not a result of this version ({where or 'file'}: {first['msg']}); "
            "the command that wrote it, given again, writes it anew"
        ) from error
    if record.schema_version > SCHEMA_VERSION:
        raise BadInput(f"{file}: written by a newer version (schema {record.schema_version}); update this program")
    return record
