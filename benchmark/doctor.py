"""Whether this machine can run the benchmark: versions, weights, folders, memory, GPU. Asks no network.

Each check is one small function that gives lines; a line that is not PASS says what to do about it. FAIL means that a
run would break, WARN that something is left out, slower or other than one may think.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from benchmark.registry import Registry
from benchmark.weights import listing

OURS = "lumbarclip-benchmark"

STACK = ("torch", "torchvision", "timm", "transformers")
"""Distributions that are built against each other."""

DISK_GIB = (1.0, 10.0)
"""Free space below which a run would break, and below which a large one may."""

MEMORY_GIB = (1.0, 4.0)
"""Free memory below which a run would break, and below which models at paper scale may."""

YES = ("1", "ON", "YES", "TRUE")
"""What ``huggingface_hub`` takes for a set switch."""


@dataclass(frozen=True)
class Line:
    """What was looked at, how it is, and how to mend it."""

    name: str
    status: Literal["PASS", "WARN", "FAIL"]
    message: str
    fix: str = ""


@dataclass(frozen=True)
class Places:
    """Folders and files that a run would be told of."""

    out: Path = Path("runs")
    cache: Path = Path("runs/.cache")
    weights_dir: Path | None = None
    plugins: tuple[Path, ...] = ()


def examine(places: Places) -> Iterator[Line]:
    """Look at everything, quick things first.

    Raises:
        BadInput: where a plug-in file, or the folder of weights, cannot be used as given.
    """
    registry = Registry.load(places.plugins)
    yield python(platform.python_version())
    yield from packages(metadata.requires(OURS) or [])
    yield from together(STACK)
    yield from importable(STACK)
    yield from plug_ins(registry)
    yield from weights(registry, places.weights_dir)
    yield folder("run folder", places.out)
    yield folder("cache", places.cache)
    yield processor(_cores(), os.environ.get("OMP_NUM_THREADS"))
    yield load(_cores())
    yield memory()
    yield gpu()
    yield hub(os.environ.get("HF_HUB_OFFLINE"))


# --------------------------------------------------------------------------------------------- software


def python(version: str) -> Line:
    """Whether this Python is one that the project supports."""
    wanted = metadata.metadata(OURS)["Requires-Python"]
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Line("python", "PASS", version)
    return Line(
        "python", "FAIL", f"{version}, and the project needs {wanted}", f"make an environment of Python {wanted}"
    )


def packages(required: Iterable[str]) -> Iterator[Line]:
    """Whether everything that the project requires is installed in a version that it wants."""
    wanted = list(_that_apply(required))
    wrong = [(requirement, problem) for requirement in wanted if (problem := _problem(requirement))]
    for requirement, problem in wrong:
        yield Line("packages", "FAIL", problem, f"pip install '{requirement}'")
    if not wrong:
        yield Line("packages", "PASS", f"all {len(wanted)} required ones are here, in versions that do")


def together(names: Sequence[str]) -> Iterator[Line]:
    """Whether distributions that are built against each other want each other's installed versions."""
    wrong = False
    for name in names:
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # the check before has said so
            continue
        for requirement in _that_apply(required):
            if requirement.name in names and (problem := _problem(requirement)):
                wrong = True
                yield Line(
                    "versions",
                    "FAIL",
                    f"{name} {metadata.version(name)} does not go with it: {problem}",
                    f"pip install --upgrade {' '.join(names)}, all in one command, so that they are chosen together",
                )
    if not wrong:
        said = ", ".join(f"{name} {metadata.version(name)}" for name in names if not _problem(Requirement(name)))
        yield Line("versions", "PASS", f"{said} go together")


def _that_apply(required: Iterable[str]) -> Iterator[Requirement]:
    # what an extra asks for is not required
    for requirement in map(Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _problem(requirement: Requirement) -> str:
    """What is wrong with an installed distribution; nothing where it is as wanted."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    # A build such as 2.6.0+cu124 is the version 2.6.0.
    if requirement.specifier.contains(version.partition("+")[0], prereleases=True):
        return ""
    return f"{requirement.name} {version} is installed, and {requirement.specifier} is wanted"


def importable(names: Iterable[str]) -> Iterator[Line]:
    """Whether modules can be imported: a library that was compiled against another version fails only there."""
    failed = False
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - compiled code raises anything; it is shown, and the doctor goes on
            failed = True
            said = " ".join(str(error).split())
            yield Line(
                "imports",
                "FAIL",
                f"{name} raises {type(error).__name__}: {said}",
                f"pip install --force-reinstall {name}, in the version that goes with the others",
            )
    if not failed:
        yield Line("imports", "PASS", f"{', '.join(names)} can be imported")


def plug_ins(registry: Registry) -> Iterator[Line]:
    """Whether every registered model and augmentation can be used."""
    for problem in registry.broken:
        yield Line("plug-ins", "WARN", f"left out: {problem}", "see the message; all others can be used")
    if not registry.broken:
        yield Line("plug-ins", "PASS", f"{len(registry.models())} models, none of them broken")


def weights(registry: Registry, weights_dir: Path | None) -> Iterator[Line]:
    """For each model with published weights, whether they are on this machine."""
    lacking: dict[str, list[str]] = {}
    for row in listing([registered.entry.card for registered in registry.models().values()], weights_dir):
        missing = lacking.setdefault(row["model"], [])
        if not row["present"]:
            missing.append(row["repo_id"] + (f" (by hand, from {row['address']})" if row["address"] else ""))

    def or_random(model: str) -> str:
        only = registry.models()[model].entry.card.published_only
        return "" if only else ", or run it with --weights random"

    for model, missing in lacking.items():
        if missing:
            yield Line(
                "weights",
                "WARN",
                f"{model}: not here: {', '.join(missing)}",
                f"python -m benchmark weights fetch {model}{or_random(model)}",
            )
        else:
            yield Line("weights", "PASS", f"{model}: here")


# --------------------------------------------------------------------------------------------- machine


def folder(name: str, path: Path) -> Line:
    """Whether a folder, or the one that it would be made in, can be written to and has room."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free / 2**30
    except OSError as error:
        option = "--cache" if name == "cache" else "--out"
        return Line(name, "FAIL", f"{path} cannot be written to: {error.strerror}", f"give another with {option}")
    return _enough(name, free, DISK_GIB, f"free at {path}", "make room, or give a folder on another disk")


def _enough(name: str, gib: float, limits: tuple[float, float], what: str, fix: str) -> Line:
    if gib >= limits[1]:
        return Line(name, "PASS", f"{gib:.0f} GiB {what}")
    return Line(name, "WARN" if gib >= limits[0] else "FAIL", f"only {gib:.1f} GiB {what}", fix)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(cores: int, threads: str | None) -> Line:
    """Whether as many threads are asked for as there are cores, or fewer."""
    said = f"{cores} {'core' if cores == 1 else 'cores'} for this process, OMP_NUM_THREADS "
    if threads is None:
        return Line("processor", "PASS", said + "not set: each library takes all of them")
    if not threads.isdecimal() or not 0 < int(threads) <= cores:
        return Line("processor", "WARN", said + f"is {threads!r}", f"set it to a number from 1 to {cores}, or unset it")
    return Line("processor", "PASS", said + f"is {threads}")


def load(cores: int) -> Line:
    """Whether something else keeps the cores busy: rates of a run are of a machine that is shared."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    said = f"{busy:.1f} processes on average in the last minute, for {cores} {'core' if cores == 1 else 'cores'}"
    if busy <= cores:
        return Line("load", "PASS", said)
    return Line("load", "WARN", said, "wait for what else runs here, or do not compare speeds and training times")


def memory() -> Line:
    """Whether there is memory for a run."""
    import psutil

    free = psutil.virtual_memory().available / 2**30
    return _enough("memory", free, MEMORY_GIB, "of memory free", "end other programs, or stay with --preset quick")


def gpu() -> Line:
    """Whether there is a GPU, whether it computes, and whether bf16, what ``--precision auto`` takes, is fast on it."""
    try:
        import torch
    except Exception:  # noqa: BLE001 - the line about imports has said so, whatever it was
        return Line("gpu", "WARN", "cannot be asked, as torch cannot be imported", "mend torch first")
    if not torch.cuda.is_available():
        if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
            return Line(
                "gpu",
                "WARN",
                f"there seems to be one that torch {torch.__version__} cannot use",
                "install a CUDA build of torch that fits the driver which nvidia-smi shows",
            )
        return Line("gpu", "PASS", "none: --device auto takes the processor, which does for --preset quick")
    name = torch.cuda.get_device_name()
    try:
        ones = torch.ones(64, 64, device="cuda")
        if float((ones @ ones).sum()) != 64.0**3:
            return Line("gpu", "FAIL", f"{name} multiplies wrongly", "have it looked at; --device cpu until then")
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        return Line("gpu", "FAIL", f"{name} does not compute: {said}", "end what else uses it, or give --device cpu")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Line("gpu", "WARN", f"{name} has no bf16 of its own, only slow emulation", "give --precision fp32")
    return Line("gpu", "PASS", f"{name} computes, and has bf16")


def hub(offline: str | None) -> Line:
    """Whether ``weights fetch`` may ask a hub; no other command ever does."""
    if (offline or "").upper() in YES:
        return Line("hub", "WARN", "HF_HUB_OFFLINE is set: 'weights fetch' will refuse", "unset it to fetch weights")
    return Line("hub", "PASS", "HF_HUB_OFFLINE is not set: 'weights fetch' may ask a hub; no other command does")
