"""Killing a real run with SIGKILL, many times, at any moment: nothing finished is lost, and the end is the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DRIVER = '''
import json, os, random, signal, sys, time
from pathlib import Path

from benchmark.cli import main
import benchmark.adapt, benchmark.execute, benchmark.run, leaderboards.build  # the heavy imports, paid once

kills, new_cells, longest = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
arguments = sys.argv[4:]
cells = Path(arguments[-1]) / "cells"
delays = random.Random(0)

def attempt(new_cells, seconds):
    """Run the command in a child, and kill it so long after it has finished so many more cells.

    Gives its exit code, or None where it was killed.
    """
    before = len(finished())
    child = os.fork()
    if child == 0:
        main(arguments)
    start = None
    while start is None or time.monotonic() < start + seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if start is None and len(finished()) >= before + new_cells:
            start = time.monotonic()
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

def finished():
    """Cells that are done, with the time they were written; a failed one may be run again."""
    files = [file for file in cells.glob("*.json") if json.loads(file.read_text())["status"] == "done"]
    return {file.name: file.stat().st_mtime_ns for file in files}

def failures():
    return [text for file in cells.glob("*.json") if '"failed"' in (text := file.read_text())]

killed, kept = 0, {}
for _ in range(kills):
    killed += attempt(new_cells, delays.uniform(0.05, longest)) is None
    assert not failures(), failures()
    assert kept.items() <= finished().items(), "a finished cell was written again, or is gone"
    kept = finished()
code = attempt(0, 300)
assert kept.items() <= finished().items(), "a finished cell was written again, or is gone"
print(json.dumps({"killed": killed, "kept": len(kept)}))
sys.exit(code)
'''
"""Forks the command line after the imports and before any computation, so that each kill costs no new start; and
watches that no cell, once finished, is ever written again.
"""


def cells(folder: Path) -> dict[str, object]:
    found = {}
    for file in (folder / "cells").glob("*.json"):
        cell = json.loads(file.read_text())
        del cell["profile"], cell["provenance"]
        found[file.stem] = cell
    return found


@pytest.mark.parametrize(("workers", "kills", "new_cells", "longest"), [(1, 10, 0, 3.0), (2, 3, 1, 0.5)])
def test_a_run_killed_many_times_ends_as_one_that_was_not(
    tmp_path: Path, toy_file: Path, workers: int, kills: int, new_cells: int, longest: float
) -> None:
    """At any moment, and with two workers (whose start takes longer) shortly after each newly finished cell."""
    config = tmp_path / "config.yaml"
    settings = {
        "phantom_patients": 40,
        "workers": workers,
        "heads_training": {"epochs": 20, "batch_size": 32, "learning_rate": 1e-3},
        "full_training": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
        "evaluation": {"replicates": 200, "paper_epochs": 5},
        "heads": ["linear-8"],
    }
    config.write_text(yaml.safe_dump(settings))

    def run(name: str, kills: int) -> dict[str, int]:
        words = ["run", "--models", "majority,toy", "--config", str(config), "--plugin", str(toy_file)]
        out = tmp_path / name / "run"
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(kills), str(new_cells), str(longest), *words, "--out", str(out)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        told: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        return told

    run("whole", 0)
    told = run("killed", kills)
    assert told["killed"] > 0
    assert told["kept"] >= new_cells * told["killed"], told
    assert cells(tmp_path / "killed" / "run") == cells(tmp_path / "whole" / "run")
    assert len(cells(tmp_path / "whole" / "run")) == 6
    left = [f.name for f in (tmp_path / "killed" / "run" / "cells").iterdir() if f.suffix != ".json"]
    assert all(name.endswith(".part") for name in left)
