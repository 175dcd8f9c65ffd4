"""Settings every test runs under: no network, few threads, and where the real data sets lie."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

REAL_DATA = Path(os.environ.get("REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets, one per subfolder; tests that need it skip where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the folder of real data sets is absent (set REAL_DATA)")
    return REAL_DATA
