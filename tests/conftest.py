"""Settings every test runs under: no network, few threads, and where the real data sets lie."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import yaml

REAL_DATA = Path(os.environ.get("REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets, one per subfolder; tests that need it skip where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the folder of real data sets is absent (set REAL_DATA)")
    return REAL_DATA


@pytest.fixture(scope="session")
def real_cards() -> dict[str, dict[str, Any]]:
    """Of each real data set the fields of a card, its name and manifest left out."""
    cards: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "real_cards.yaml").read_text())
    return cards


def _plugin() -> ModuleType:
    path = Path(__file__).parent / "plugins" / "toy.py"
    spec = importlib.util.spec_from_file_location("toy_plugin", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_plugin"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy() -> ModuleType:
    """The plug-in module of ``plugins/toy.py``, its counters at zero."""
    return _plugin()


@pytest.fixture(scope="session")
def toy_file() -> Path:
    """Path of the toy plug-in, for ``--plugin``."""
    return Path(__file__).parent / "plugins" / "toy.py"
