"""The registry: which models and augmentations there are, who provides them, and which of them are broken.

They come from the entry points of installed distributions (ours by the same road as anybody's) and from plug-in
files named on the command line. Only cards are read here; a model is built, and its libraries are imported, when it
is first needed. A broken distribution must not take the others down, so it is kept as a broken record; a broken file
was asked for by name, so it is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import SourceLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from pydantic import ValidationError

from benchmark.errors import BadInput
from benchmark.model import AugmentationEntry, ModelCard, ModelEntry

Entry = TypeVar("Entry", bound=ModelEntry | AugmentationEntry)

MODELS = "lumbarclip_benchmark.models"
AUGMENTATIONS = "lumbarclip_benchmark.augmentations"
"""Entry-point groups."""


@dataclass(frozen=True)
class Registered(Generic[Entry]):
    """A usable entry, and who provides it."""

    name: str
    entry: Entry
    provider: str
    """Distribution and version, or plug-in file and the digest of its content: part of every cell's id."""


class _Shelf(Generic[Entry]):
    """All entries of one kind, usable and broken."""

    def __init__(self, kind: type[Entry], word: str, *reserved: str) -> None:
        self.kind = kind
        self.word = word
        self.reserved = reserved
        """Names that no entry may take, as the command line means something else by them."""
        self.usable: dict[str, Registered[Entry]] = {}
        self.broken: dict[str, str] = {}

    def add_installed(self, points: Iterable[EntryPoint]) -> None:
        """Load entry points; what fails, or stands under one name twice, is kept as broken."""
        by_name: dict[str, list[EntryPoint]] = {}
        for point in points:
            by_name.setdefault(point.name, []).append(point)
        for name, same in sorted(by_name.items()):
            providers = " and ".join(sorted(_provider(point) for point in same))
            entry = self._judge(name, same)
            if isinstance(entry, str):
                self.broken[name] = f"{self.word} {name!r} of {providers} cannot be used: {entry}"
            else:
                self.usable[name] = Registered(name, entry, providers)

    def _judge(self, name: str, points: Sequence[EntryPoint]) -> Entry | str:
        """Give the entry under a name, or say what is wrong and how to mend it."""
        if len(points) > 1:
            return "the name is registered more than once; uninstall all but one"
        try:
            entry = points[0].load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything; it is kept and shown
            said = f"{points[0].value} raises {type(error).__name__}: {' '.join(str(error).split())}"
            return f"{said}; install what it needs, or update or uninstall the distribution"
        if not isinstance(entry, self.kind):
            problem = f"{points[0].value} is a {type(entry).__name__}, not a {self.kind.__name__}"
        else:
            problem = _wrong_type(entry) or self.problem(entry, name)
        return f"{problem}; update or uninstall the distribution" if problem else entry

    def add_from_file(self, entry: Entry, provider: str, where: str) -> None:
        """Add an entry of a plug-in file.

        Raises:
            BadInput: where the entry is malformed or its name is taken.
        """
        problem = _wrong_type(entry)
        if problem:
            raise BadInput(f"{where}: {problem}")
        name = _name(entry)
        problem = self.problem(entry, name)
        if not problem and (name in self.usable or name in self.broken):
            taken = self.usable[name].provider if name in self.usable else "an installed distribution"
            problem = f"the {self.word} name {name!r} is already taken by {taken}; choose another"
        if problem:
            raise BadInput(f"{where}: {problem}")
        self.usable[name] = Registered(name, entry, provider)

    def problem(self, entry: Entry, name: str) -> str:
        """What is wrong with an entry, in words; nothing where it is sound."""
        if isinstance(entry.build, str) and not re.fullmatch(r"[\w.]+:\w+", entry.build):
            return f"its build {entry.build!r} is not of the form 'module:function'"
        if isinstance(entry, ModelEntry) and entry.kind not in ("encoder", "naive"):
            return f"its kind is {entry.kind!r}; it must be 'encoder' or 'naive'"
        if not callable(entry.build) and not isinstance(entry.build, str):
            return "its build is not a function"
        own = _name(entry)
        if own != name:
            return f"it is registered as {name!r} but calls itself {own!r}"
        if own in self.reserved or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", own):
            words = " or ".join(map(repr, self.reserved))
            return f"{own!r} cannot be a name: use letters, digits, '.', '_' and '-', and not the word {words}"
        return ""

    def get(self, name: str) -> Registered[Entry]:
        """Find an entry by name.

        Raises:
            BadInput: where it is broken, or unknown, with the nearest name that is known.
        """
        if name in self.usable:
            return self.usable[name]
        if name in self.broken:
            raise BadInput(self.broken[name])
        near = difflib.get_close_matches(name, self.usable, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(self.usable) or f"none; install a distribution with {self.word}s, or give one by --plugin"
        raise BadInput(f"unknown {self.word} {name!r}.{guess} Known: {known}")


class Registry:
    """Models and augmentations by name."""

    def __init__(self) -> None:
        self._models = _Shelf(ModelEntry, "model", "all")
        self._augmentations = _Shelf(AugmentationEntry, "augmentation", "none", "file")

    @classmethod
    def load(cls, plugins: Sequence[Path] = ()) -> Registry:
        """Read the entry points of installed distributions and the given plug-in files.

        Raises:
            BadInput: where a plug-in file cannot be used.
        """
        registry = cls()
        registry._models.add_installed(entry_points(group=MODELS))
        registry._augmentations.add_installed(entry_points(group=AUGMENTATIONS))
        for path in dict.fromkeys(plugin.resolve() for plugin in plugins):
            registry._add_file(path)
        return registry

    def models(self) -> Mapping[str, Registered[ModelEntry]]:
        """Usable models by name: encoders, then those that are naive rows, then rows without one, each by name."""
        entries = self._models.usable.values()
        return {r.name: r for r in sorted(entries, key=lambda r: (r.entry.kind == "naive", r.entry.naive, r.name))}

    def augmentations(self) -> Mapping[str, Registered[AugmentationEntry]]:
        """Usable augmentations by name, in alphabetical order; ``none`` and ``file`` are built in."""
        return dict(sorted(self._augmentations.usable.items()))

    @property
    def broken(self) -> tuple[str, ...]:
        """One sentence for each installed entry that cannot be used."""
        return (*self._models.broken.values(), *self._augmentations.broken.values())

    def model(self, name: str) -> Registered[ModelEntry]:
        """Find a model.

        Raises:
            BadInput: where it is unknown or broken.
        """
        return self._models.get(name)

    def augmentation(self, name: str) -> Registered[AugmentationEntry]:
        """Find an augmentation.

        Raises:
            BadInput: where it is unknown or broken.
        """
        return self._augmentations.get(name)

    def select_models(self, names: Sequence[str]) -> list[Registered[ModelEntry]]:
        """Find models in the order asked for, each once; ``all`` stands for every usable one.

        Raises:
            BadInput: where one that is asked for by its name is unknown or broken.
        """
        everything = self.models()
        chosen = dict.fromkeys(each for name in names for each in (everything if name == "all" else (name,)))
        return [self.model(name) for name in chosen]

    def _add_file(self, path: Path) -> None:
        module, digest = _import_file(path)
        entries = getattr(module, "ENTRIES", None)
        if not isinstance(entries, list | tuple) or not entries:
            raise BadInput(f"plug-in {path}: it must define ENTRIES, a list of ModelEntry or AugmentationEntry")
        for position, entry in enumerate(entries):
            where, provider = f"plug-in {path}, ENTRIES[{position}]", f"{path.name} {digest}"
            if isinstance(entry, ModelEntry):
                self._models.add_from_file(entry, provider, where)
            elif isinstance(entry, AugmentationEntry):
                self._augmentations.add_from_file(entry, provider, where)
            else:
                raise BadInput(f"{where}: it is a {type(entry).__name__}, not a ModelEntry or AugmentationEntry")


def _name(entry: ModelEntry | AugmentationEntry) -> str:
    return entry.card.name if isinstance(entry, ModelEntry) else entry.name


def _wrong_type(entry: ModelEntry | AugmentationEntry) -> str:
    """What in an entry is of another type than it must be to be called by name; nothing where all is well."""
    if isinstance(entry, ModelEntry) and not isinstance(entry.card, ModelCard):
        return f"its card is a {type(entry.card).__name__}, not a ModelCard"
    if isinstance(entry, AugmentationEntry) and not isinstance(entry.name, str):
        return f"its name is a {type(entry.name).__name__}, not a string"
    return ""


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"


class _Source(SourceLoader):
    """Runs the very bytes that were digested: neither a later state of the file nor bytecode cached beside it."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._content = content

    def get_filename(self, _name: str) -> str:
        return str(self._path)

    def get_data(self, _path: object) -> bytes:
        return self._content


def _import_file(path: Path) -> tuple[ModuleType, str]:
    """Import a plug-in file once per content, under a name that depends on its place and content alone.

    What it defines pickles by that name, so a worker process that loads the same plug-ins can unpickle it.

    Raises:
        BadInput: naming the line, where the file cannot be imported.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"plug-in {path} cannot be read ({error.strerror}); give a Python file to --plugin") from error
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    place = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    name = f"_lumbarclip_benchmark_plugin_{place}_{digest}"
    if name in sys.modules:
        return sys.modules[name], digest
    loader = _Source(path, content)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None, "a spec is always made where a loader is given"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look a class up by its module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        said = " ".join(str(error).split())
        if isinstance(error, SyntaxError):
            said = error.msg
        elif isinstance(error, ValidationError):  # pydantic's own text ends in an address and repeats the input
            said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise BadInput(f"plug-in {path}, line {_line(error, path)}: {type(error).__name__}: {said}") from error
    return module, digest


def _line(error: BaseException, path: Path) -> int:
    """The last line of the file that an error passed through; 1 where it passed through none."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    return next(
        (f.lineno or 1 for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), 1
    )
