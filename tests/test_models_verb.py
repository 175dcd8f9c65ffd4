"""``models`` shows what each model is, how large, what of it can be trained, and where its weights are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.cli import main

ADDRESS = "https://storage.invalid/a/long/way/to/the/files/of/this/release/which/must/stay/whole/in/a/terminal.zip"

SOURCE = f"""
from benchmark.model import ModelCard, ModelEntry, Size, WeightSource

PINNED = WeightSource(
    repo_id="lab/tower",
    revision="0123456789abcdef" * 2 + "01234567",
    files=("f.bin",),
    tower="image tower",
    licence="MIT",
)
RELEASED = WeightSource(
    repo_id="lab/release",
    revision="v1",
    unpinned="it is on no hub",
    files=("both.pth",),
    tower="both towers",
    licence="not stated",
    address="{ADDRESS}",
)


def entry(name, kind="encoder", trainable=True, **fields):
    card = ModelCard(
        name=name, title=name.title(), summary="S. " * 60, paper="P", licence="L", inputs=("image",), **fields
    )
    return ModelEntry(card=card, build="nowhere:build", kind=kind, trainable=trainable)


ENTRIES = [
    entry(
        "my-pair",
        weights=(PINNED, RELEASED),
        sizes={{
            "paper": Size(parameters=131_227_712, image_dim=2048, text_dim=768, input_size=224),
            "tiny": Size(parameters=832, image_dim=6, text_dim=4, input_size=16),
        }},
    ),
    entry("my-session", trainable=False),
    entry("my-pictures", encodes=("image",)),
    entry("my-row", kind="naive", trainable=False),
]
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Run the verb with a plug-in of four models, away from the weights of this machine."""
    monkeypatch.setenv("LUMBARCLIP_BENCHMARK_WEIGHTS", str(tmp_path / "default"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    plugin = tmp_path / "mine.py"
    plugin.write_text(SOURCE)

    def run(*words: str) -> str:
        done = CliRunner().invoke(main, ["models", "--plugin", str(plugin), *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def put(weights: Path) -> Path:
    folder = weights / "lab" / "tower"
    folder.mkdir(parents=True)
    (folder / "f.bin").write_bytes(b"w")
    return folder


def test_json_holds_everything_as_fields(models, tmp_path):
    folder = put(tmp_path / "mine")
    rows = {row["name"]: row for row in json.loads(models("--json", "--weights-dir", str(tmp_path / "mine")))["models"]}
    row = rows["my-pair"]
    assert row["provider"].startswith("mine.py")
    assert (row["title"], row["inputs"], row["encodes"]) == ("My-Pair", ["image"], ["image", "text"])
    assert row["sizes"] == {
        "paper": {"parameters": 131_227_712, "image_dim": 2048, "text_dim": 768, "input_size": 224},
        "tiny": {"parameters": 832, "image_dim": 6, "text_dim": 4, "input_size": 16},
    }
    pinned, released = row["weights"]
    assert pinned == {
        "repo_id": "lab/tower",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "pinned": True,
        "files": ["f.bin"],
        "tower": "image tower",
        "licence": "MIT",
        "present": True,
        "where": str(folder),
        "address": "",
    }
    assert (released["pinned"], released["present"], released["address"]) == (False, False, ADDRESS)
    assert {name: rows[name]["regimes"] for name in rows if name.startswith("my-")} == {
        "my-pair": ["frozen", "heads", "full"],
        "my-session": ["frozen", "heads"],
        "my-pictures": ["frozen"],
        "my-row": ["frozen"],
    }
    assert (rows["my-row"]["kind"], rows["my-row"]["sizes"], rows["my-row"]["weights"]) == ("naive", {}, [])


def test_text_is_compact_and_keeps_to_100_columns(models, tmp_path):
    folder = put(tmp_path / "mine")
    shown = models("--weights-dir", str(tmp_path / "mine"))
    assert [line for line in shown.splitlines() if len(line) > 100 and ADDRESS not in line and "/" not in line] == []
    blocks = {block.split(":")[0].strip(): " ".join(block.split()) for block in shown.split("\n\n")}
    pair = blocks["my-pair"]
    for part in (
        "my-pair: My-Pair [mine.py",
        "scored from image; can be trained: heads and towers",
        "paper 131.2 M parameters; features 2048 image, 768 text; input 224 x 224",
        "tiny 832 parameters; features 6 image, 4 text; input 16 x 16",
        f"weights lab/tower (image tower, MIT, 0123456789ab): in {folder}",
        f"lab/release (both towers, licence not stated, not pinned): not here; download from {ADDRESS}",
    ):
        assert part in pair
    assert "can be trained: heads only" in blocks["my-session"]
    assert "cannot be trained: frozen only" in blocks["my-pictures"]
    assert "naive row" in blocks["my-row"]
    assert "148.2 M parameters" in blocks["convirt"]


def test_folder_of_weights_that_is_not_there_is_refused(tmp_path):
    done = CliRunner().invoke(main, ["models", "--weights-dir", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "is not a folder" in done.output
