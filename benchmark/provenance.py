"""What produced a result: code version, packages, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = ("lumbarclip-benchmark", "torch", "torchvision", "timm", "transformers", "scikit-learn", "numpy", "pillow")
"""Distributions whose versions can change numbers."""


def provenance(device: torch.device, at_a_time: int = 1) -> dict[str, Any]:
    """Versions, commit and hardware as they are now; holds no host name, user name or path.

    Args:
        device: where the models compute.
        at_a_time: units that run side by side and share the machine, which every rate depends on.
    """
    return {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": _commit(),
        "hardware": hardware(device) + (f"; {at_a_time} units at a time" if at_a_time > 1 else ""),
    }


def hardware(device: torch.device) -> str:
    """One line for readers: the processor, its cores and memory, and the accelerator where one is used."""
    memory = psutil.virtual_memory().total / 2**30
    cpu = f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores for a unit, {memory:.0f} GiB memory"
    if device.type != "cuda":
        return cpu
    gpu = torch.cuda.get_device_properties(device)
    return f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB), {cpu}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Commit of the source tree, with ``+changes`` where files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):  # git is not installed, or the checkout has no commit yet
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
