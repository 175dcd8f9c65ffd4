"""Killing a real run with SIGKILL, many times, at any moment: nothing finished is lost, and the end is the same."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

DRIVER = '''
import os, random, signal, sys, time

from benchmark.cli import main
import benchmark.adapt, benchmark.execute, benchmark.run, leaderboards.build  # the heavy imports, paid once

arguments, kills = sys.argv[2:], int(sys.argv[1])
delays = random.Random(0)

def attempt(seconds):
    """Run the command in a child and kill it after so long; gives its exit code, or None where it was killed."""
    child = os.fork()
    if child == 0:
        main(arguments)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

killed = 0
for _ in range(kills):
    killed += attempt(delays.uniform(0.05, 4.0)) is None
print("killed", killed)
sys.exit(attempt(300))
'''
"""Forks the command line after the imports and before any computation, so that each kill costs no new start."""


def cells(folder: Path) -> dict[str, object]:
    found = {}
    for file in (folder / "cells").glob("*.json"):
        cell = json.loads(file.read_text())
        del cell["profile"], cell["provenance"]
        found[file.stem] = cell
    return found


def test_a_run_killed_many_times_ends_as_one_that_was_not(tmp_path: Path, toy_file: Path) -> None:
    config = tmp_path / "config.yaml"
    settings = {
        "phantom_patients": 40,
        "workers": 1,
        "heads_training": {"epochs": 20, "batch_size": 32, "learning_rate": 1e-3},
        "full_training": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-3},
        "evaluation": {"replicates": 200, "paper_epochs": 5},
        "heads": ["linear-8"],
    }
    config.write_text(yaml.safe_dump(settings))

    def run(name: str, kills: int) -> str:
        words = ["run", "--models", "majority,toy", "--config", str(config), "--plugin", str(toy_file)]
        out = tmp_path / name / "run"
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(kills), *words, "--out", str(out)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run("whole", 0)
    output = run("killed", 12)
    assert "killed 0" not in output
    assert cells(tmp_path / "killed" / "run") == cells(tmp_path / "whole" / "run")
    assert len(cells(tmp_path / "whole" / "run")) == 6
    left = [f.name for f in (tmp_path / "killed" / "run" / "cells").iterdir() if f.suffix != ".json"]
    assert all(name.endswith(".part") for name in left)
