"""Weights are found where the documentation says, identified by content, and fetched only from a hub that answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent
from typing import ClassVar

import huggingface_hub
import pytest
from click.testing import CliRunner

from benchmark import weights as weights_module
from benchmark.cli import main
from benchmark.errors import BadInput, MissingWeights
from benchmark.model import ModelCard, WeightSource
from benchmark.weights import default_folder, fetch, listing, resolve

IMAGE_COMMIT, TEXT_COMMIT = "a" * 40, "b" * 40
IMAGE = WeightSource(
    repo_id="lab/image-tower", revision=IMAGE_COMMIT, files=("model.safetensors",), tower="image tower", licence="MIT"
)
TEXT = WeightSource(
    repo_id="lab/text-tower", revision=TEXT_COMMIT, files=("model.bin", "sub/vocab.txt"), tower="text", licence="MIT"
)

ADDRESS = "https://storage.invalid/release.zip"
RELEASED = WeightSource(
    repo_id="lab/release",
    revision="v1",
    unpinned="it is on no hub",
    files=("both.pth", "words.txt"),
    tower="both towers",
    licence="not stated",
    address=ADDRESS,
)


def make_card(*sources: WeightSource) -> ModelCard:
    return ModelCard(
        name="two-towers",
        title="T",
        summary="S.",
        paper="P",
        licence="L",
        inputs=("image",),
        weights=sources or (IMAGE, TEXT),
    )


CARD = make_card()


def put(folder: Path, source: WeightSource, content: str = "content") -> Path:
    for name in source.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content} of {name}")
    return folder


@pytest.fixture
def plugin(tmp_path) -> str:
    """A plug-in file with a model whose files are on no hub."""
    file = tmp_path / "released.py"
    file.write_text(
        "from benchmark.model import ModelCard, ModelEntry\n"
        f"CARD = ModelCard.model_validate_json({make_card(RELEASED).model_dump_json()!r})\n"
        "ENTRIES = [ModelEntry(card=CARD, build='nowhere:build')]\n"
    )
    return str(file)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test may see the weights or the hub cache of the machine it runs on."""
    monkeypatch.setenv("LUMBARCLIP_BENCHMARK_WEIGHTS", str(tmp_path / "default"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


# --------------------------------------------------------------------------------------------- finding


def test_random_weights_are_identified_by_their_seed_and_need_no_file():
    found = resolve(CARD, "random", None, seed=3)
    assert (found.kind, found.digest, found.files, found.path) == ("random", "random:3", {}, None)


def test_state_dict_is_identified_by_its_content_and_not_by_its_name(tmp_path):
    one, two, three = (tmp_path / name for name in ("one.pt", "two.pt", "three.pt"))
    for path, content in ((one, b"same"), (two, b"same"), (three, b"other")):
        path.write_bytes(content)
    first = resolve(CARD, one, None, seed=0)
    assert (first.kind, first.path) == ("path", one)
    assert first.digest == "file:" + hashlib.blake2b(b"same", digest_size=16).hexdigest()
    assert resolve(CARD, str(two), None, seed=1).digest == first.digest
    assert resolve(CARD, three, None, seed=0).digest != first.digest
    one.write_bytes(b"sane")  # as long as before, and looked at in the same process
    os.utime(one, ns=(0, two.stat().st_mtime_ns + 1))
    assert resolve(CARD, one, None, seed=0).digest == "file:" + hashlib.blake2b(b"sane", digest_size=16).hexdigest()


@pytest.mark.parametrize("named", ["pretraind", "no/such/file.pt", "."])
def test_what_is_neither_word_nor_file_is_refused(named):
    with pytest.raises(BadInput, match=r"no weights file .*'pretrained', 'random', or the path"):
        resolve(CARD, named, None, seed=0)


def test_model_without_published_weights_says_so():
    bare = CARD.model_copy(update={"weights": ()})
    with pytest.raises(BadInput, match="'two-towers' has no published weights; use --weights random"):
        resolve(bare, "pretrained", None, seed=0)
    with pytest.raises(BadInput, match="no published weights"):
        fetch(bare, Path("unused"))


@pytest.mark.parametrize("layout", ["owner/name", "owner/name/revision", "name"])
def test_published_weights_are_found_in_every_layout_of_the_users_folder(tmp_path, layout):
    mine = tmp_path / "mine"
    folders = {}
    for source in (IMAGE, TEXT):
        owner, name = source.repo_id.split("/")
        folder = mine / layout.replace("owner", owner).replace("name", name).replace("revision", source.revision)
        folders[source.repo_id] = put(folder, source)
    found = resolve(CARD, "pretrained", mine, seed=0)
    assert (found.kind, found.files, found.path) == ("pretrained", folders, None)
    assert resolve(CARD, "pretrained", mine, seed=9).digest == found.digest


def test_default_folder_holds_one_folder_per_revision_and_users_folder_goes_first(tmp_path):
    for source in (IMAGE, TEXT):
        put(default_folder() / source.repo_id / ("c" * 40), source)  # another revision is not these weights
    with pytest.raises(MissingWeights):
        resolve(CARD, "pretrained", None, seed=0)
    standard = {s.repo_id: put(default_folder() / s.repo_id / s.revision, s) for s in (IMAGE, TEXT)}
    default = resolve(CARD, "pretrained", None, seed=0)
    assert default.files == standard
    mine = put(tmp_path / "mine" / TEXT.repo_id, TEXT, "retrained")
    mixed = resolve(CARD, "pretrained", tmp_path / "mine", seed=0)
    assert mixed.files == {IMAGE.repo_id: standard[IMAGE.repo_id], TEXT.repo_id: mine}
    assert mixed.digest != default.digest


def test_digest_is_of_content_wherever_the_files_lie(tmp_path):
    digests = []
    for root in (tmp_path / "here", tmp_path / "there"):
        for source in (IMAGE, TEXT):
            put(root / source.repo_id, source)
        digests.append(resolve(CARD, "pretrained", root, seed=0).digest)
    assert digests[0] == digests[1]
    (tmp_path / "there" / TEXT.repo_id / "sub" / "vocab.txt").write_text("one word more")
    assert resolve(CARD, "pretrained", tmp_path / "there", seed=0).digest != digests[0]


def test_snapshot_in_the_hubs_own_cache_is_found_at_the_pinned_revision_only(tmp_path):
    for source in (IMAGE, TEXT):
        put(tmp_path / "hub" / f"models--{source.repo_id.replace('/', '--')}" / "snapshots" / source.revision, source)
    found = resolve(CARD, "pretrained", None, seed=0)
    snapshot = tmp_path / "hub" / "models--lab--text-tower" / "snapshots" / TEXT_COMMIT
    assert found.files[TEXT.repo_id] == snapshot
    with pytest.raises(MissingWeights):
        resolve(make_card(IMAGE.model_copy(update={"revision": "d" * 40})), "pretrained", None, seed=0)


def test_missing_weights_are_one_sentence_with_files_folders_and_command(tmp_path):
    put(tmp_path / IMAGE.repo_id, IMAGE)
    (tmp_path / TEXT.repo_id / "sub").mkdir(parents=True)
    (tmp_path / TEXT.repo_id / "sub" / "vocab.txt").write_text("words")
    with pytest.raises(MissingWeights) as caught:
        resolve(CARD, "pretrained", tmp_path, seed=0)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "put model.bin of lab/text-tower" in sentence  # only what the fullest folder lacks
    assert "image-tower" not in sentence
    for part in (
        "'two-towers'",
        TEXT_COMMIT,
        str(tmp_path / "lab" / "text-tower"),
        str(default_folder() / "lab" / "text-tower" / TEXT_COMMIT),
        "python -m benchmark weights fetch two-towers",
    ):
        assert part in sentence


def test_git_lfs_pointer_is_not_taken_for_weights(tmp_path):
    put(tmp_path / IMAGE.repo_id, IMAGE)
    pointer = tmp_path / IMAGE.repo_id / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440449768\n")
    with pytest.raises(BadInput, match=r"model\.safetensors is a Git LFS pointer .*git lfs pull"):
        resolve(make_card(IMAGE), "pretrained", tmp_path, seed=0)


def test_users_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"--weights-dir .*nowhere is not a folder"):
        resolve(CARD, "pretrained", tmp_path / "nowhere", seed=0)


def test_two_sources_of_one_repository_share_its_folder_and_must_agree_on_the_revision(tmp_path):
    other_file = IMAGE.model_copy(update={"files": ("text.safetensors",)})
    card = make_card(IMAGE, other_file)
    put(tmp_path / IMAGE.repo_id, IMAGE)
    with pytest.raises(MissingWeights, match=r"put text\.safetensors of lab/image-tower"):
        resolve(card, "pretrained", tmp_path, seed=0)
    put(tmp_path / IMAGE.repo_id, other_file)
    assert resolve(card, "pretrained", tmp_path, seed=0).files == {IMAGE.repo_id: tmp_path / IMAGE.repo_id}
    with pytest.raises(BadInput, match="two revisions of lab/image-tower"):
        resolve(make_card(IMAGE, other_file.model_copy(update={"revision": "main"})), "pretrained", tmp_path, seed=0)


def test_listing_says_of_every_source_whether_and_where_it_is(tmp_path):
    put(tmp_path / IMAGE.repo_id, IMAGE)
    first, second = listing([CARD], tmp_path)
    assert first == {
        "model": "two-towers",
        "repo_id": "lab/image-tower",
        "revision": IMAGE_COMMIT,
        "pinned": True,
        "files": ["model.safetensors"],
        "tower": "image tower",
        "licence": "MIT",
        "present": True,
        "where": str(tmp_path / "lab" / "image-tower"),
        "address": "",
    }
    assert (second["repo_id"], second["present"], second["where"]) == ("lab/text-tower", False, "")
    json.dumps([first, second])


def test_files_on_no_hub_are_asked_for_by_address_and_never_promised(tmp_path):
    with pytest.raises(MissingWeights) as caught:
        resolve(make_card(RELEASED), "pretrained", None, seed=0)
    sentence = str(caught.value)
    folder = default_folder() / "lab" / "release" / "v1"
    assert f"put both.pth and words.txt of lab/release, downloaded from {ADDRESS}, into {folder};" in sentence
    assert "fetch" not in sentence
    assert "revision" not in sentence
    with pytest.raises(MissingWeights) as caught:
        resolve(make_card(IMAGE, RELEASED), "pretrained", None, seed=0)
    assert "or fetch those of lab/image-tower with 'python -m benchmark weights fetch two-towers'" in str(caught.value)
    put(folder, RELEASED)
    assert resolve(make_card(RELEASED), "pretrained", None, seed=0).files == {RELEASED.repo_id: folder}


def test_files_on_no_hub_are_not_looked_for_in_the_hubs_own_cache(tmp_path):
    put(tmp_path / "hub" / "models--lab--release" / "snapshots" / "v1", RELEASED)
    (row,) = listing([make_card(RELEASED)], None)
    assert (row["present"], row["pinned"], row["address"]) == (False, False, ADDRESS)


def test_name_that_no_hub_takes_does_not_stop_the_listing():
    odd = IMAGE.model_copy(update={"repo_id": "a lab/with/odd names"})
    assert [row["present"] for row in listing([make_card(odd), CARD], None)] == [False] * 3


def test_files_of_one_folder_come_from_one_address():
    hub_file = WeightSource(
        repo_id=RELEASED.repo_id, revision="v1", unpinned="a test", files=("f",), tower="t", licence="MIT"
    )
    with pytest.raises(BadInput, match="two addresses of lab/release"):
        resolve(make_card(RELEASED, hub_file), "pretrained", None, seed=0)


def test_weights_list_shows_the_address_of_what_is_not_here(plugin):
    shown = CliRunner().invoke(main, ["weights", "list", "--plugin", plugin])
    line = next(line for line in shown.output.splitlines() if line.startswith("two-towers: lab/release"))
    assert line.endswith(f"not here; download from {ADDRESS}")
    folder = put(default_folder() / "lab" / "release" / "v1", RELEASED)
    shown = CliRunner().invoke(main, ["weights", "list", "--plugin", plugin])
    assert f"in {folder}" in shown.output
    assert ADDRESS not in shown.output


def test_refusal_loads_neither_torch_nor_transformers():
    """A whole process up to the refusal: what would take seconds, and what could ask a hub, is never imported."""
    script = """
        import sys
        from benchmark.errors import MissingWeights
        from benchmark.model import ModelCard, WeightSource
        from benchmark.weights import resolve
        source = WeightSource(repo_id="a/b", revision="0" * 40, files=("f",), tower="both", licence="MIT")
        card = ModelCard(name="n", title="T", summary="S", paper="P", licence="L", inputs=("image",), weights=(source,))
        try:
            resolve(card, "pretrained", None, seed=0)
        except MissingWeights:
            print(*sorted({"torch", "transformers", "timm"} & set(sys.modules)), "refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["refused"]


# --------------------------------------------------------------------------------------------- fetching


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as fetching two files asks of one."""

    commits: ClassVar[dict[str, str]] = {IMAGE.repo_id: IMAGE_COMMIT, TEXT.repo_id: TEXT_COMMIT}
    files: ClassVar[dict[str, bytes]] = {}
    seen: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.seen.append(f"{self.command} {self.path}")
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.commits:
            repo = "/".join(parts[2:4])
            self.answer(json.dumps({"id": repo, "sha": self.commits[repo], "siblings": []}).encode(), {})
        elif len(parts) > 4 and parts[2] == "resolve" and "/".join(parts[4:]) in self.files:
            content = self.files["/".join(parts[4:])]
            self.answer(content, {"X-Repo-Commit": parts[3], "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "resolve" in parts else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, content: bytes, headers: dict[str, str]):
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def online(monkeypatch):
    """Lift the offline mode that all tests run under; only 127.0.0.1 is ever asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(online, monkeypatch):
    monkeypatch.setattr(
        Hub, "files", {"model.safetensors": b"i" * 3000, "model.bin": b"t" * 2000, "sub/vocab.txt": b"the\nspine\n"}
    )
    monkeypatch.setattr(Hub, "seen", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetched_weights_are_what_the_hub_has_and_are_found_afterwards(hub, tmp_path):
    lines: list[str] = []
    folders = fetch(CARD, default_folder(), endpoint=hub, progress=lines.append)
    assert folders == [default_folder() / s.repo_id / s.revision for s in (IMAGE, TEXT)]
    assert (folders[0] / "model.safetensors").read_bytes() == b"i" * 3000
    assert (folders[1] / "sub" / "vocab.txt").read_bytes() == b"the\nspine\n"
    record = json.loads((folders[1] / "source.json").read_text())
    assert (record["repo_id"], record["revision"]) == (TEXT.repo_id, TEXT_COMMIT)
    assert record["files"]["model.bin"] == hashlib.blake2b(b"t" * 2000, digest_size=16).hexdigest()
    assert dict(zip((s.repo_id for s in (IMAGE, TEXT)), folders, strict=True)) == (
        resolve(CARD, "pretrained", None, seed=0).files
    )
    assert any("model.safetensors" in line for line in lines)
    asked = [line for line in Hub.seen if "resolve" in line]
    assert {line.split("/")[-1] for line in asked} == {"model.safetensors", "model.bin", "vocab.txt"}
    assert all(IMAGE_COMMIT in line or TEXT_COMMIT in line for line in asked)


def test_what_is_on_no_hub_is_left_to_the_user_after_all_else_is_fetched(hub, tmp_path):
    card = make_card(RELEASED, IMAGE)
    with pytest.raises(BadInput) as caught:
        fetch(card, tmp_path, endpoint=hub)
    folder = tmp_path / "lab" / "release" / "v1"
    assert str(caught.value) == (
        "model 'two-towers' needs files that are on no hub: "
        f"download both.pth and words.txt of lab/release from {ADDRESS} into {folder}"
    )
    assert (tmp_path / IMAGE.repo_id / IMAGE_COMMIT / "source.json").is_file()
    assert not any("release" in line for line in Hub.seen)
    put(folder, RELEASED)
    (folder / "words.txt").unlink()
    with pytest.raises(BadInput, match=r"download words\.txt of lab/release"):
        fetch(card, tmp_path, endpoint=hub)
    put(folder, RELEASED)
    lines: list[str] = []
    assert fetch(card, tmp_path, endpoint=hub, progress=lines.append)[0] == folder
    assert f"lab/release is here already: {folder}" in lines


def test_fetching_what_is_on_no_hub_ends_with_exit_code_2(plugin, tmp_path):
    done = CliRunner().invoke(main, ["weights", "fetch", "two-towers", "--plugin", plugin])
    assert done.exit_code == 2
    folder = default_folder() / "lab" / "release" / "v1"
    what = f"both.pth and words.txt of lab/release from {ADDRESS} into {folder}"
    # Said first, too: where no hub can be reached, the last line is about the hub.
    assert done.output.splitlines() == [
        f"to be downloaded by hand: {what}",
        f"error: model 'two-towers' needs files that are on no hub: download {what}",
    ]


def test_weights_fetched_into_a_users_folder_are_found_with_that_folder(hub, tmp_path):
    fetch(CARD, tmp_path / "mine", endpoint=hub)
    assert set(resolve(CARD, "pretrained", tmp_path / "mine", seed=0).files) == {IMAGE.repo_id, TEXT.repo_id}


def test_what_is_here_is_not_asked_for_again_and_what_was_cut_off_is(hub, tmp_path):
    fetch(CARD, tmp_path, endpoint=hub)
    Hub.seen.clear()
    fetch(CARD, tmp_path, endpoint="http://127.0.0.1:9")  # nobody is asked
    assert not Hub.seen
    (tmp_path / TEXT.repo_id / TEXT_COMMIT / "model.bin").unlink()
    fetch(CARD, tmp_path, endpoint=hub)
    assert [line for line in Hub.seen if line.startswith("GET") and "resolve" in line] == [
        f"GET /{TEXT.repo_id}/resolve/{TEXT_COMMIT}/model.bin"
    ]


def test_file_the_hub_lacks_and_repository_it_lacks_are_refused_in_one_sentence(hub, tmp_path):
    Hub.files.pop("sub/vocab.txt")
    with pytest.raises(BadInput, match=r"cannot fetch lab/text-tower .*Entry") as caught:
        fetch(CARD, tmp_path, endpoint=hub)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / TEXT.repo_id / TEXT_COMMIT / "source.json").exists()
    unknown = make_card(IMAGE.model_copy(update={"repo_id": "lab/unknown"}))
    with pytest.raises(BadInput, match=r"cannot fetch lab/unknown .*RepositoryNotFound"):
        fetch(unknown, tmp_path, endpoint=hub)


def test_hub_that_answers_with_another_commit_is_not_believed(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(Hub.commits, IMAGE.repo_id, "e" * 40)
    with pytest.raises(BadInput, match=f"cannot fetch lab/image-tower .*answers with commit {'e' * 40}"):
        fetch(CARD, tmp_path, endpoint=hub)
    assert not any("resolve" in line for line in Hub.seen)


def test_offline_mode_is_respected_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=r"HF_HUB_OFFLINE is set, .*unset it, or put model\.safetensors into"):
        fetch(CARD, tmp_path, endpoint="http://127.0.0.1:9")


def test_hub_that_accepts_and_never_answers_is_given_up_within_seconds(online, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        with pytest.raises(BadInput, match=r"cannot fetch lab/image-tower .*try again where the hub can be reached"):
            fetch(CARD, tmp_path, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.perf_counter() - start < 8


def test_hub_that_trickles_its_answer_is_given_up_too(online, tmp_path, monkeypatch):
    """Each byte comes well within the client's own timeout, so only a deadline over the whole answer ends it."""
    monkeypatch.setattr(weights_module, "PREFLIGHT_S", 0.5)
    over = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not over.wait(0.1):
                connection.sendall(b"z")

    with socket.create_server(("127.0.0.1", 0)) as slow:
        thread = threading.Thread(target=trickle, args=(slow,))
        thread.start()
        start = time.perf_counter()
        with pytest.raises(BadInput, match="TimeoutError: no answer within"):
            fetch(CARD, tmp_path, endpoint=f"http://127.0.0.1:{slow.getsockname()[1]}")
        assert time.perf_counter() - start < 5
        over.set()
        thread.join()
