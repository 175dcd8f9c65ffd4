"""The example plug-in, installed as a user would install it, is listed, checked, run and ranked."""

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin"
MODEL, TITLE, AUGMENTATION = "timm-tfidf", "ResNet-18 + TF-IDF", "sentence-order"
CLI = ("-m", "benchmark")

CONFIG = {
    "phantom_patients": 20,
    "models": [MODEL, "majority"],
    "regimes": ["frozen", "heads"],
    "augmentations": ["none", AUGMENTATION],
    "heads_training": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
    "evaluation": {"replicates": 20, "paper_epochs": 2},
    "workers": 1,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of a fresh environment with the example installed, over the packages of this one."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    build = f"import setuptools.build_meta as backend; print(backend.build_wheel({str(folder)!r}))"
    wheel = call(Path(sys.executable), "-c", build, cwd=source).splitlines()[-1]
    venv.create(folder / "venv", with_pip=True)  # this pip comes with Python, not from a network
    paths = sysconfig.get_paths("venv", {"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    # A .pth file and not PYTHONPATH: the project's own editable install is itself a .pth file over there.
    outer = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(paths["purelib"]) / "outer.pth").write_text(outer, encoding="utf-8")
    python = Path(paths["scripts"]) / "python"
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", str(folder / wheel), cwd=folder)
    return python


def call(python: Path, *words: str, cwd: Path) -> str:
    """What a command prints; the project comes from this checkout, the example only from where it is installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, *words], capture_output=True, text=True, timeout=300, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_is_listed_with_its_distribution(installed: Path, tmp_path: Path) -> None:
    assert f"{MODEL}: {TITLE}  [timm-tfidf 0.1.0]" in call(installed, *CLI, "models", cwd=tmp_path)
    listed = json.loads(call(installed, *CLI, "models", "--json", cwd=tmp_path))
    assert not [sentence for sentence in listed["broken"] if "timm-tfidf" in sentence]
    assert {row["name"]: row["provider"] for row in listed["models"]}[MODEL] == "timm-tfidf 0.1.0"


def test_its_model_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    assert "state round trip" in call(installed, *CLI, "check-model", MODEL, cwd=tmp_path)


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    call(installed, "-m", "pytest", "tests", "-k", "not contract", cwd=tmp_path)  # that one is the test above


def test_a_run_ranks_its_model_and_trains_on_its_rewordings(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    call(installed, *CLI, "run", "--config", str(config), "--out", "run", cwd=tmp_path)
    page = tmp_path / "run" / "leaderboard"
    assert TITLE in (page / "index.html").read_text(encoding="utf-8")
    with (page / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if TITLE in row.values()]
    assert {(row["regime"], row["augmentation"]) for row in rows} == {
        ("frozen", "none"),
        ("heads", "none"),
        ("heads", AUGMENTATION),
    }


def test_its_code_is_short() -> None:
    files = [EXAMPLE / "src" / "timm_tfidf" / name for name in ("__init__.py", "cards.py", "model.py")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) < 60
