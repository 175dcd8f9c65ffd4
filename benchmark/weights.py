"""Published weights: where they lie on this machine, what exactly they are, and fetching them when told to.

``resolve`` and ``listing`` only ever look at local folders. ``fetch`` is the one function of the harness that asks a
hub, and it asks first, with a deadline, whether the hub answers at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Literal, TypedDict, TypeVar

from benchmark.errors import BadInput, MissingWeights
from benchmark.model import ModelCard, WeightSource
from benchmark.result import digest, write_atomically

T = TypeVar("T")

PREFLIGHT_S = 3.0
"""Seconds within which a hub must have answered the first question."""

POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS left in place of the real one."""


@dataclass(frozen=True)
class ResolvedWeights:
    """The weights a model starts from, found and identified."""

    kind: Literal["random", "pretrained", "path"]
    digest: str
    """``random:SEED``, or a digest of the content of all files, wherever they lie."""
    files: dict[str, Path] = field(default_factory=dict)
    """Local folder per ``repo_id``; empty unless pretrained."""
    path: Path | None = None
    """The state dict, where one was named."""


class Listed(TypedDict):
    """One row of ``weights list``."""

    model: str
    repo_id: str
    revision: str
    pinned: bool
    files: list[str]
    tower: str
    licence: str
    present: bool
    where: str
    """Folder of the files; empty where they are not present."""
    address: str
    """Where a person downloads them; empty for files that a hub has."""


# --------------------------------------------------------------------------------------------- finding


def resolve(card: ModelCard, weights: str | Path, weights_dir: Path | None, seed: int) -> ResolvedWeights:
    """Find and identify the weights that a run asks for. Never touches the network.

    Args:
        card: the model's card.
        weights: ``random``, ``pretrained``, or the path of a state dict.
        weights_dir: the user's folder of published weights, looked into before the default one.
        seed: seed of random weights.

    Raises:
        MissingWeights: where published files are not on this machine.
        BadInput: where the model has none, or a file or folder cannot be used.
    """
    if weights == "random":
        return ResolvedWeights("random", f"random:{seed}")
    if weights != "pretrained":
        path = Path(weights)
        if not path.is_file():
            raise BadInput(f"no weights file {path}; give 'pretrained', 'random', or the path of a saved state dict")
        return ResolvedWeights("path", f"file:{_digest_of(path)}", path=path)
    if not card.weights:
        raise BadInput(f"model {card.name!r} has no published weights; use --weights random")
    _check_folder(weights_dir)
    found: dict[str, Path] = {}
    missing: list[tuple[WeightSource, list[str]]] = []
    for source in _sources(card):
        folder, lacking = _find(source, weights_dir)
        if folder is None:
            missing.append((source, lacking))
        else:
            found[source.repo_id] = folder
    if missing:
        raise MissingWeights(_sentence(card, missing, weights_dir))
    contents = {s.repo_id: {f: _digest_of(found[s.repo_id] / f) for f in sorted(s.files)} for s in _sources(card)}
    return ResolvedWeights("pretrained", digest(contents), files=found)


def listing(cards: Iterable[ModelCard], weights_dir: Path | None) -> list[Listed]:
    """Say for every published set of files whether it is on this machine, and where."""
    _check_folder(weights_dir)
    rows: list[Listed] = []
    for card in cards:
        for source in card.weights:
            folder, _ = _find(source, weights_dir)
            rows.append(
                {
                    "model": card.name,
                    "repo_id": source.repo_id,
                    "revision": source.revision,
                    "pinned": not source.unpinned,
                    "files": list(source.files),
                    "tower": source.tower,
                    "licence": source.licence,
                    "present": folder is not None,
                    "where": str(folder or ""),
                    "address": source.address,
                }
            )
    return rows


def default_folder() -> Path:
    """Where weights are kept unless told otherwise: ``LUMBARCLIP_BENCHMARK_WEIGHTS``, or the user's cache folder."""
    named = os.environ.get("LUMBARCLIP_BENCHMARK_WEIGHTS")
    return Path(named) if named else Path.home() / ".cache" / "lumbarclip-benchmark" / "weights"


def folders_for(repo_id: str, weights_dir: Path | None) -> list[Path]:
    """Folders in which a repository that is on no model's card may lie, first choice first.

    Raises:
        BadInput: where ``weights_dir`` is no folder.
    """
    _check_folder(weights_dir)
    own = [] if weights_dir is None else [weights_dir / repo_id, weights_dir / PurePosixPath(repo_id).name]
    return [*own, default_folder() / repo_id]


def folder_digest(folder: Path) -> str:
    """Digest of the content of all files that lie in a folder, those in its subfolders left out."""
    return digest({file.name: _digest_of(file) for file in sorted(folder.iterdir()) if file.is_file()})


def _check_folder(weights_dir: Path | None) -> None:
    if weights_dir is not None and not weights_dir.is_dir():
        raise BadInput(f"--weights-dir {weights_dir} is not a folder; give one with a subfolder per hub repository")


def _sources(card: ModelCard) -> list[WeightSource]:
    """The card's sources, those of one repository joined, since a repository has one folder.

    Raises:
        BadInput: where a card wants two revisions of one repository, or has its files from two places.
    """
    joined: dict[str, WeightSource] = {}
    for source in card.weights:
        before = joined.get(source.repo_id)
        if before is not None and before.revision != source.revision:
            raise BadInput(f"model {card.name!r}: its card names two revisions of {source.repo_id}; it may use one")
        if before is not None and before.address != source.address:
            raise BadInput(f"model {card.name!r}: its card names two addresses of {source.repo_id}; it may use one")
        files = (*before.files, *source.files) if before else source.files
        joined[source.repo_id] = source.model_copy(update={"files": tuple(dict.fromkeys(files))})
    return list(joined.values())


def _places(source: WeightSource, weights_dir: Path | None) -> Iterator[Path]:
    """Folders in which the files of a source may lie, first choice first."""
    if weights_dir is not None:
        yield weights_dir / source.repo_id
        yield weights_dir / source.repo_id / source.revision
        yield weights_dir / PurePosixPath(source.repo_id).name
    yield default_folder() / source.repo_id / source.revision


def _find(source: WeightSource, weights_dir: Path | None) -> tuple[Path | None, list[str]]:
    """The first folder that holds all files of a source, or None and what the fullest one lacks."""
    fewest = list(source.files)
    for folder in _places(source, weights_dir):
        lacking = [name for name in source.files if not (folder / name).is_file()]
        if not lacking:
            return folder, []
        fewest = min(fewest, lacking, key=len)
    return (None if source.address else _in_hub_cache(source)), fewest


def _in_hub_cache(source: WeightSource) -> Path | None:
    """The snapshot folder of the hub's own cache, where it holds all files of the pinned revision."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = None
    for name in source.files:
        try:
            file = try_to_load_from_cache(source.repo_id, name, revision=source.revision)
        except HFValidationError:  # no hub repository has such a name; one card must not stop a listing of all
            return None
        if not isinstance(file, str):
            return None
        folder = Path(file).parents[len(PurePosixPath(name).parts) - 1]
    return folder


def _sentence(card: ModelCard, missing: Sequence[tuple[WeightSource, list[str]]], weights_dir: Path | None) -> str:
    wanted = []
    for source, lacking in missing:
        *others, last = dict.fromkeys(str(place) for place in _places(source, weights_dir))
        places = f"{', '.join(others)} or {last}" if others else last
        origin = f", downloaded from {source.address}," if source.address else f" (revision {source.revision})"
        wanted.append(f"{' and '.join(lacking)} of {source.repo_id}{origin} into {places}")
    on_hub = [source.repo_id for source, _ in missing if not source.address]
    what = "them" if len(on_hub) == len(missing) else f"those of {' and '.join(on_hub)}"
    fetching = f"fetch {what} with 'python -m benchmark weights fetch {card.name}', or " if on_hub else ""
    return (
        f"model {card.name!r} needs published weights that are not on this machine: put {'; and '.join(wanted)}; "
        f"or {fetching}{'leave it out' if card.published_only else 'use --weights random'}"
    )


def _digest_of(path: Path) -> str:
    """Digest of a file's content.

    Raises:
        BadInput: where the file is only the pointer that Git LFS leaves in its place.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise BadInput(f"{path} is a Git LFS pointer and not the file itself; run 'git lfs pull' in its folder")
    state = path.stat()
    return _digest_of_state(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _digest_of_state(path: Path, _size: int, _mtime_ns: int) -> str:
    # Gigabytes are read once per process; a file that was written to has another size or time.
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# --------------------------------------------------------------------------------------------- fetching


def fetch(
    card: ModelCard, target: Path, *, endpoint: str | None = None, progress: Callable[[str], None] | None = None
) -> list[Path]:
    """Download the listed files of a card into ``target/owner/name/REVISION`` and give those folders.

    Each file appears by a rename when it is whole, and a download that was cut off goes on where it stopped. When all
    files of a folder are there, ``source.json`` says where they came from and what they are. Files that are on no hub
    are left to the user, who is told what to put where when all others are fetched.

    Raises:
        BadInput: where there is nothing to fetch, the hub does not answer within seconds, or refuses, or where files
            that are on no hub are not here.
    """
    from huggingface_hub import constants

    if not card.weights:
        raise BadInput(f"model {card.name!r} has no published weights to fetch")
    say = progress or (lambda _: None)
    folders, by_hand = [], []
    for source in sorted(_sources(card), key=lambda each: not each.address):  # said also where no hub can be reached
        folder = target / source.repo_id / source.revision
        if source.address:
            found, _ = _find(source, None if target == default_folder() else target)
            if found is None:
                lacking = [name for name in source.files if not (folder / name).is_file()]
                by_hand.append(f"{' and '.join(lacking)} of {source.repo_id} from {source.address} into {folder}")
                say(f"to be downloaded by hand: {by_hand[-1]}")
            else:
                say(f"{source.repo_id} is here already: {found}")
                folders.append(found)
            continue
        folders.append(folder)
        if (folder / "source.json").is_file() and all((folder / name).is_file() for name in source.files):
            say(f"{source.repo_id} is here already: {folder}")
            continue
        if constants.HF_HUB_OFFLINE:
            raise BadInput(
                f"cannot fetch {source.repo_id}: HF_HUB_OFFLINE is set, which forbids asking a hub; unset it, or put "
                f"{' and '.join(source.files)} into {folder}"
            )
        _download(source, folder, endpoint or constants.ENDPOINT, say)
    if by_hand:
        raise BadInput(f"model {card.name!r} needs files that are on no hub: download {'; and '.join(by_hand)}")
    return folders


def _download(source: WeightSource, folder: Path, endpoint: str, say: Callable[[str], None]) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    repo, revision, files = source.repo_id, source.revision, source.files

    def ask() -> str | None:
        commit: str | None = HfApi(endpoint).model_info(repo, revision=revision, timeout=PREFLIGHT_S).sha
        return commit

    say(f"asking {endpoint} for {repo}")
    try:
        commit = _within(PREFLIGHT_S + 1, ask) or revision
        if commit != revision and re.fullmatch("[0-9a-f]{40}", revision):
            raise BadInput(f"it answers with commit {commit}")  # a mirror that does not keep revisions
        for name in files:
            say(f"fetching {name} of {repo}")
            hf_hub_download(repo, name, revision=commit, local_dir=folder, endpoint=endpoint)
    except Exception as error:  # broad: the hub client raises its transport's errors, and its versions change transport
        said = textwrap.shorten(" ".join(str(error).split()), 300) or f"no answer within {PREFLIGHT_S:g} s"
        raise BadInput(
            f"cannot fetch {repo} (revision {revision}) from {endpoint}: {type(error).__name__}: {said}; "
            f"try again where the hub can be reached, or put {' and '.join(files)} into {folder}"
        ) from error
    if commit != revision:
        say(f"{revision} of {repo} is commit {commit} today")
    record = {"repo_id": repo, "revision": commit, "files": {n: _digest_of(folder / n) for n in files}}
    write_atomically(folder / "source.json", json.dumps(record, indent=1).encode())


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Give the result of ``work``, or stop waiting for it.

    A client's own timeout bounds each address tried and each packet waited for, not their sum, and a firewall that
    drops packets, or a hub that trickles, makes the sum long.

    Raises:
        TimeoutError: when the time is over.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the waiting thread, which raises it
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    return outcome.result(timeout=seconds)
