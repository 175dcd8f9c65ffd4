"""Each line of the doctor: what passes, what warns, what fails, and that the last two say how to mend it."""

import json
import os
import shutil
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner

from benchmark import doctor
from benchmark.cli import main
from benchmark.doctor import Line
from benchmark.registry import Registry

GIB = 2**30


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these distributions are installed, with what they require, and no others."""

    def pretend(versions: dict[str, str], requires: dict[str, list[str]] | None = None) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        def required(name: str) -> list[str]:
            version(name)
            return (requires or {}).get(name, [])

        monkeypatch.setattr(doctor.metadata, "version", version)
        monkeypatch.setattr(doctor.metadata, "requires", required)

    return pretend


def states(lines) -> list[tuple[str, str]]:
    lines = list(lines)
    assert all(bool(line.fix) == (line.status != "PASS") for line in lines)
    return [(line.name, line.status) for line in lines]


def one(lines) -> Line:
    (line,) = lines
    assert bool(line.fix) == (line.status != "PASS")
    return line


@pytest.mark.parametrize(("version", "status"), [("3.10.14", "FAIL"), ("3.11.0", "PASS"), ("3.99.0rc1", "PASS")])
def test_python(version, status):
    assert doctor.python(version).status == status


def test_packages(installed):
    installed({"torch": "2.7.0+cu128", "numpy": "1.26.4"})
    assert one(doctor.packages(["torch>=2.6", "pytest>=8; extra == 'test'"])).status == "PASS"
    wrong = list(doctor.packages(["torch>=2.6", "numpy>=2.0", "timm>=1.0"]))
    assert states(wrong) == [("packages", "FAIL")] * 2
    assert wrong[0].message == "numpy 1.26.4 is installed, and >=2.0 is wanted"
    assert wrong[0].fix == "pip install 'numpy>=2.0'"
    assert wrong[1].message == "timm is not installed"


def test_what_the_project_requires_is_here():
    assert one(doctor.packages(metadata.requires(doctor.OURS) or [])).status == "PASS"
    assert one(doctor.together(doctor.STACK)).status == "PASS"


def test_versions_that_go_together(installed):
    wants = {"torchvision": ["torch==2.7.0", "numpy"]}
    installed({"torch": "2.7.0+cu128", "torchvision": "0.22.0"}, wants)
    assert one(doctor.together(["torch", "torchvision", "timm"])).message == (
        "torch 2.7.0+cu128, torchvision 0.22.0 go together"
    )
    installed({"torch": "2.8.0", "torchvision": "0.22.0"}, wants)
    wrong = one(doctor.together(["torch", "torchvision"]))
    assert wrong.status == "FAIL"
    assert "torchvision 0.22.0 does not go with it: torch 2.8.0 is installed, and ==2.7.0 is wanted" in wrong.message


def test_imports(tmp_path, monkeypatch):
    (tmp_path / "compiled_for_another.py").write_text(
        "raise RuntimeError('operator torchvision::nms\\ndoes not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert one(doctor.importable(["json"])).status == "PASS"
    wrong = one(doctor.importable(["json", "compiled_for_another"]))
    assert wrong.status == "FAIL"
    assert "RuntimeError: operator torchvision::nms does not exist" in wrong.message


def test_plug_ins(monkeypatch):
    registry = Registry.load()
    assert one(doctor.plug_ins(registry)).status == "PASS"
    monkeypatch.setattr(Registry, "broken", ("model 'x' of y 1 cannot be used: z",))
    wrong = one(doctor.plug_ins(registry))
    assert (wrong.status, wrong.message) == ("WARN", "left out: model 'x' of y 1 cannot be used: z")


def test_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMBARCLIP_BENCHMARK_WEIGHTS", str(tmp_path / "none"))
    registry = Registry.load()
    clip = registry.model("clip").entry.card.weights
    for source in clip:
        for file in source.files:
            path = tmp_path / "weights" / source.repo_id / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    lines = {line.message.partition(":")[0]: line for line in doctor.weights(registry, tmp_path / "weights")}
    assert lines["clip"] == Line("weights", "PASS", "clip: here")
    assert lines["gloria"].status == "WARN"
    assert "by hand, from https://" in lines["gloria"].message
    assert "weights fetch gloria" in lines["gloria"].fix


def test_a_folder_is_tried_and_nothing_is_left_in_it(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    for free, status in ((20, "PASS"), (5, "WARN"), (0.5, "FAIL")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free * GIB))
        line = doctor.folder("run folder", tmp_path / "not" / "yet")
        assert states([line]) == [("run folder", status)]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    line = doctor.folder("cache", tmp_path / "file" / "below")
    assert line.status == "FAIL"
    assert "--cache" in line.fix


@pytest.mark.parametrize(
    ("threads", "status"), [(None, "PASS"), ("1", "PASS"), ("4", "PASS"), ("5", "WARN"), ("0", "WARN"), ("4,1", "WARN")]
)
def test_processor(threads, status):
    assert states([doctor.processor(4, threads)]) == [("processor", status)]


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="this system has no load average")
def test_load(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 0.0, 0.0))
    assert states([doctor.load(4), doctor.load(2)]) == [("load", "PASS"), ("load", "WARN")]


@pytest.mark.parametrize(("gib", "status"), [(16, "PASS"), (2, "WARN"), (0.3, "FAIL")])
def test_memory(monkeypatch, gib, status):
    free = namedtuple("free", "available")(int(gib * GIB))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert states([doctor.memory()]) == [("memory", status)]


class Gpu:
    """A GPU that this machine need not have: products of ones are as long as it says."""

    def __init__(self, monkeypatch, *, product: float = 64.0, broken: str = "", bf16: bool = True) -> None:
        def ones(*shape: int, device: str) -> torch.Tensor:
            assert device == "cuda"
            if broken:
                raise RuntimeError(broken)
            return torch.full(shape, (product / 64) ** 0.5)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
        monkeypatch.setattr(torch, "ones", ones)


def test_gpu(monkeypatch):
    with monkeypatch.context() as patch:
        Gpu(patch)
        assert doctor.gpu() == Line("gpu", "PASS", "Some GPU computes, and has bf16")
    with monkeypatch.context() as patch:
        Gpu(patch, bf16=False)
        assert "--precision fp32" in one([doctor.gpu()]).fix
    with monkeypatch.context() as patch:
        Gpu(patch, product=63.0)
        assert one([doctor.gpu()]).status == "FAIL"
    with monkeypatch.context() as patch:
        Gpu(patch, broken="out of memory\nat ...")
        assert doctor.gpu().message == "Some GPU does not compute: out of memory"


def test_no_gpu_and_one_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert one([doctor.gpu()]).status == "PASS"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert one([doctor.gpu()]).status == "WARN"


def test_a_torch_that_cannot_be_imported_leaves_the_other_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert states(doctor.importable(["torch"])) == [("imports", "FAIL")]
    assert states([doctor.gpu()]) == [("gpu", "WARN")]


@pytest.mark.parametrize(("value", "status"), [(None, "PASS"), ("0", "PASS"), ("1", "WARN"), ("true", "WARN")])
def test_hub(value, status):
    assert states([doctor.hub(value)]) == [("hub", status)]


# --------------------------------------------------------------------------------------------- the verb


def test_the_verb_prints_a_fix_under_each_line_that_needs_one_and_ends_with_1_on_a_failure(tmp_path, monkeypatch):
    lines = [Line("a", "PASS", "good"), Line("b", "WARN", "so so", "do this")]
    monkeypatch.setattr(doctor, "examine", lambda _: iter(lines))
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert done.stdout == "PASS  a: good\nWARN  b: so so\n      -> do this\n"
    lines.append(Line("c", "FAIL", "bad", "do that"))
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)[2] == {"name": "c", "status": "FAIL", "message": "bad", "fix": "do that"}


def test_the_verb_looks_at_everything_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["doctor", "--json"])
    names = [line["name"] for line in json.loads(done.stdout)]
    assert list(dict.fromkeys(names)) == [
        *("python", "packages", "versions", "imports", "plug-ins", "weights", "run folder", "cache"),
        *("processor", "load", "memory", "gpu", "hub"),
    ]
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in done.stdout


def test_a_plug_in_file_that_cannot_be_used_is_bad_input(tmp_path):
    done = CliRunner().invoke(main, ["doctor", "--plugin", str(tmp_path / "none.py")])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
