"""The arrows of the house point one way, and what must be light imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("benchmark", "baselines", "lumbarclip", "leaderboards")
HEAVY = ("torch", "torchvision", "timm", "transformers", "sklearn", "seaborn", "matplotlib", "ray", "open_clip")
LIGHT = ("model", "errors", "result", "registry", "config", "plan", "weights")
FILES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@dataclass(frozen=True)
class Import:
    name: str
    """Dotted name of what is imported, the imported attribute included."""
    late: bool
    """Inside a function body."""
    typing_only: bool
    """Under ``if TYPE_CHECKING``."""


def imports(source: str) -> Iterator[Import]:
    """Every import of a module, wherever it stands."""

    def walk(node: ast.AST, late: bool, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, late, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            yield from (Import(f"{node.module}.{alias.name}", late, typing_only) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, late, True)
            for child in node.orelse:
                yield from walk(child, late, typing_only)
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inside, typing_only)

    return walk(ast.parse(source), False, False)


def within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def wrong_arrows(file: str, source: str) -> list[str]:
    """Imports of our own packages that a file may not have."""
    return [i.name for i in imports(source) if within(i.name, *PACKAGES) and not allowed(file, i)]


def allowed(file: str, what: Import) -> bool:
    package = file.split("/")[0]
    if package == "benchmark":
        if within(what.name, "leaderboards"):
            return (file.startswith("benchmark/cli/") or file == "benchmark/run.py") and (what.late or what.typing_only)
        later = ("benchmark.evaluate", "benchmark.run", "benchmark.adapt", "benchmark.embed", "benchmark.execute")
        if file.startswith("benchmark/data/") and within(what.name, *later):
            return False
        return within(what.name, "benchmark")
    if package == "baselines":
        return within(what.name, "benchmark", "baselines")
    if package == "lumbarclip":
        return within(
            what.name,
            *("benchmark", "lumbarclip"),
            *(f"baselines.{shared}" for shared in ("cards", "towers", "checkpoint", "wordpiece")),
        )
    records = ("benchmark.result", "benchmark.experiment", "benchmark.errors", "benchmark.evaluate")
    return within(what.name, "leaderboards", *records)


# --------------------------------------------------------------------------------------------- arrows


def test_all_packages_are_looked_at():
    assert {file.split("/")[0] for file in FILES} == set(PACKAGES)
    assert "benchmark/registry.py" in FILES


@pytest.mark.parametrize("file", FILES)
def test_arrows_point_one_way(file):
    assert wrong_arrows(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("benchmark/plan.py", "import lumbarclip", ["lumbarclip"]),
        ("benchmark/plan.py", "def f():\n    from baselines.cards import CONVIRT", ["baselines.cards.CONVIRT"]),
        ("benchmark/plan.py", "def f():\n    import leaderboards.build", ["leaderboards.build"]),
        ("benchmark/cli/runs.py", "def f():\n    from leaderboards import build", []),
        ("benchmark/cli/runs.py", "from leaderboards import build", ["leaderboards.build"]),
        ("benchmark/data/split.py", "from benchmark import embed", ["benchmark.embed"]),
        ("benchmark/data/split.py", "from benchmark.evaluate.metrics import f", ["benchmark.evaluate.metrics.f"]),
        ("benchmark/data/split.py", "from benchmark.result import digest", []),
        ("baselines/convirt.py", "import lumbarclip.loss", ["lumbarclip.loss"]),
        ("lumbarclip/model.py", "from baselines.towers import TextTower", []),
        ("lumbarclip/model.py", "from baselines import towers, convirt", ["baselines.convirt"]),
        ("lumbarclip/model.py", "if TYPE_CHECKING:\n    import leaderboards", ["leaderboards"]),
        ("leaderboards/build.py", "from benchmark.run import Outcome", ["benchmark.run.Outcome"]),
        ("leaderboards/build.py", "from benchmark.result import tidy\nimport benchmark_like", []),
    ],
)
def test_wrong_arrow_would_be_noticed(file, source, wrong):
    assert wrong_arrows(file, source) == wrong


# --------------------------------------------------------------------------------------------- weight


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_names_nothing_heavy_at_its_top(module):
    source = (ROOT / "benchmark" / f"{module}.py").read_text(encoding="utf-8")
    assert [i.name for i in imports(source) if within(i.name, *HEAVY) and not (i.late or i.typing_only)] == []


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    script = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_light_modules_load_nothing_heavy_through_others_either():
    loaded = loaded_after("\n".join(f"import benchmark.{module}" for module in LIGHT))
    assert "pydantic" in loaded  # the question was put
    assert loaded & set(HEAVY) == set()


def test_registry_with_our_own_cards_loads_neither_torch_nor_pandas():
    loaded = loaded_after("from benchmark.registry import Registry; assert Registry.load().models()")
    assert "baselines" in loaded  # entry points were read
    assert loaded & {*HEAVY, "pandas", "scipy"} == set()


def test_listing_models_with_sizes_and_weights_does_not_load_torch():
    loaded = loaded_after("from benchmark.cli import main; main(['models', '--json'], standalone_mode=False)")
    assert "baselines" in loaded
    assert loaded & set(HEAVY) == set()


def test_help_loads_neither_torch_nor_pandas():
    """What keeps ``--help`` under half a second: a time would measure the machine."""
    loaded = loaded_after("from benchmark.cli import main; main(['--help'], standalone_mode=False)")
    assert "click" in loaded
    assert loaded & {*HEAVY, "pandas", "numpy", "scipy", "pydantic", "huggingface_hub"} == set()
