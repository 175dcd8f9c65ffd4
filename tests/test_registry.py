"""The registry finds what is installed and what is named, and says plainly what is broken."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from benchmark.errors import BadInput
from benchmark.registry import Registry

HEADER = """\
from benchmark.model import AugmentationEntry, ModelCard, ModelEntry

def card(name):
    return ModelCard(name=name, title="T", summary="S.", paper="P", licence="L", inputs=("image",))

def build(request):
    return ("built", request.seed)

def entry(name, **more):
    return ModelEntry(card=card(name), build=build, **more)

"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with entry points and one module on the path."""

    def _install(distribution: str, module: str, source: str, points: dict[str, str], group: str = "models") -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution}-2.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text(f"[lumbarclip_benchmark.{group}]\n" + "\n".join(lines) + "\n")
        (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))

    return _install


@pytest.fixture
def plugin(tmp_path):
    """Write a plug-in file."""

    def _plugin(body: str, name: str = "mine.py", header: str = HEADER) -> Path:
        path = tmp_path / name
        path.write_text(header + dedent(body))
        return path

    return _plugin


# --------------------------------------------------------------------------------------------- installed


def test_installed_distribution_is_found_with_its_version(install):
    install("thirdparty", "tp_found", HEADER + "A = entry('tp-a')\n", {"tp-a": "tp_found:A"})
    registered = Registry.load().model("tp-a")
    assert (registered.name, registered.provider) == ("tp-a", "thirdparty 2.5")
    assert registered.entry.card.name == "tp-a"


def test_installed_augmentation_is_found_beside_the_built_in_word_none(install):
    source = HEADER + "E = AugmentationEntry(name='tp-swap', summary='S', build=list)\n"
    install("swapper", "tp_swap", source, {"tp-swap": "tp_swap:E"}, group="augmentations")
    registry = Registry.load()
    assert registry.augmentation("tp-swap").provider == "swapper 2.5"
    assert "tp-swap" in registry.augmentations()
    with pytest.raises(BadInput, match="unknown augmentation 'none'"):
        registry.augmentation("none")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import a_library_nobody_has\n", "ModuleNotFoundError: No module named 'a_library_nobody_has'"),
        ("raise RuntimeError('first line\\nsecond line')\n", "RuntimeError: first line second line"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("", "AttributeError"),
        ("B = 42\n", "is a int, not a ModelEntry"),
        (HEADER + "B = entry('another')\n", "registered as 'tp-broken' but calls itself 'another'"),
        (HEADER + "B = ModelEntry(card={}, build=build)\n", "its card is a dict, not a ModelCard"),
        (HEADER + "B = ModelEntry(card=card('tp-broken'), build='no colon')\n", "'module:function'"),
        (HEADER + "B = ModelEntry(card=card('tp-broken'), build=7)\n", "its build is not a function"),
        (HEADER + "B = entry('tp-broken', kind='decoder')\n", "its kind is 'decoder'"),
    ],
    ids=["import", "raises", "exits", "absent", "type", "name", "card", "build-text", "build-type", "kind"],
)
def test_broken_distribution_is_kept_named_and_takes_no_other_down(install, request, source, said):
    module = f"tp_broken_{request.node.callspec.id.replace('-', '_')}"
    install("brokenone", module, source, {"tp-broken": f"{module}:B"})
    install("sound", "tp_sound", HEADER + "A = entry('tp-sound')\n", {"tp-sound": "tp_sound:A"})
    registry = Registry.load()
    (sentence,) = [line for line in registry.broken if "tp-broken" in line]
    assert "model 'tp-broken' of brokenone 2.5" in sentence
    assert said in sentence
    assert "\n" not in sentence
    names = [r.name for r in registry.select_models(["all"])]
    assert "tp-sound" in names
    assert "tp-broken" not in names
    with pytest.raises(BadInput, match=re.escape(sentence)):
        registry.select_models(["tp-sound", "tp-broken"])


def test_a_name_registered_by_two_distributions_belongs_to_neither(install):
    install("first", "tp_first", HEADER + "A = entry('tp-twice')\n", {"tp-twice": "tp_first:A"})
    install("second", "tp_second", HEADER + "A = entry('tp-twice')\n", {"tp-twice": "tp_second:A"})
    with pytest.raises(BadInput, match=r"first 2\.5 and second 2\.5 .*more than once"):
        Registry.load().model("tp-twice")


# --------------------------------------------------------------------------------------------- names


def test_unknown_name_gets_the_nearest_known_one_and_the_whole_list(plugin):
    registry = Registry.load([plugin("ENTRIES = [entry('radiology-clip'), entry('other')]")])
    with pytest.raises(
        BadInput, match=r"^unknown model 'radiology-cilp'\. Did you mean 'radiology-clip'\? Known: .*other"
    ):
        registry.model("radiology-cilp")
    with pytest.raises(BadInput, match=r"^unknown model 'zzzzzz'\. Known: "):
        registry.model("zzzzzz")


def test_models_are_ordered_encoders_first_and_all_expands_without_repeats(plugin):
    body = "ENTRIES = [entry('zz-naive-row', kind='naive'), entry('zy-encoder'), entry('aa-encoder')]"
    registry = Registry.load([plugin(body)])
    names = list(registry.models())
    assert [n for n in names if n in ("zz-naive-row", "zy-encoder", "aa-encoder")] == [
        "aa-encoder",
        "zy-encoder",
        "zz-naive-row",
    ]
    kinds = [r.entry.kind for r in registry.models().values()]
    assert kinds == sorted(kinds)
    chosen = [r.name for r in registry.select_models(["zy-encoder", "all", "zy-encoder"])]
    assert chosen == ["zy-encoder", *(n for n in names if n != "zy-encoder")]
    assert [r.name for r in registry.select_models(["zz-naive-row"])] == ["zz-naive-row"]


# --------------------------------------------------------------------------------------------- plug-in files


def test_plugin_file_gives_models_and_augmentations_under_its_name_and_digest(plugin):
    path = plugin("ENTRIES = (entry('mine'), AugmentationEntry(name='my-words', summary='S', build=list))")
    registry = Registry.load([path, path])
    provider = registry.model("mine").provider
    assert re.fullmatch(r"mine\.py [0-9a-f]{16}", provider)
    assert registry.augmentation("my-words").provider == provider
    path.write_text(path.read_text() + "\n# changed\n")
    assert Registry.load([path]).model("mine").provider != provider


def test_edited_plugin_runs_its_new_content_even_within_the_clock_tick_of_cached_bytecode(plugin, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = plugin("SEEN = 1\nENTRIES = [entry('mine', trainable=True)]")
    stamp = path.stat().st_mtime_ns
    assert Registry.load([path]).model("mine").entry.trainable
    path.write_text(path.read_text().replace("trainable=True", "trainable=0   "))
    os.utime(path, ns=(stamp, stamp))
    assert not Registry.load([path]).model("mine").entry.trainable
    assert not list(path.parent.glob("__pycache__"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", r"mine\.py: it must define ENTRIES"),
        ("ENTRIES = entry('mine')", r"mine\.py: it must define ENTRIES"),
        ("ENTRIES = []", r"mine\.py: it must define ENTRIES"),
        ("ENTRIES = [entry('mine'), build]", r"mine\.py, ENTRIES\[1\]: it is a function, not a ModelEntry"),
        (
            "ENTRIES = [entry('mine'), entry('mine')]",
            r"ENTRIES\[1\]: the model name 'mine' is already taken by mine\.py",
        ),
        ("ENTRIES = [entry('all')]", r"'all' cannot be a name"),
        ("ENTRIES = [entry('a,b')]", r"'a,b' cannot be a name"),
        ("ENTRIES = [AugmentationEntry(name='none', summary='', build=list)]", r"'none' cannot be a name"),
        ("ENTRIES = [AugmentationEntry(name='x', summary='', build=7)]", r"its build is not a function"),
        ("ENTRIES = [AugmentationEntry(name='x', summary='', build='m.f')]", r"not of the form 'module:function'"),
        ("ENTRIES = [AugmentationEntry(name='file', summary='', build=dict)]", r"not the word 'none' or 'file'"),
        ("x = 1\n\ndef f():\n    return 1 / 0\nf()\n", r"mine\.py, line 15: ZeroDivisionError"),
        ("x = 1\ny = = 2\n", r"mine\.py, line 13: SyntaxError: invalid syntax"),
        ("import a_library_nobody_has", r"mine\.py, line 12: ModuleNotFoundError"),
        ("import sys; sys.exit('stop')", r"mine\.py, line 12: SystemExit: stop"),
    ],
)
def test_broken_plugin_file_is_refused_with_file_and_place(plugin, body, said):
    path = plugin(body)
    with pytest.raises(BadInput, match=said) as caught:
        Registry.load([path])
    assert str(path.resolve()) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plugin_name_taken_by_an_installed_distribution_names_that_distribution(plugin, install):
    install("thirdparty", "tp_taken", HEADER + "A = entry('tp-taken')\n", {"tp-taken": "tp_taken:A"})
    with pytest.raises(BadInput, match=r"already taken by thirdparty 2\.5"):
        Registry.load([plugin("ENTRIES = [entry('tp-taken')]")])


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_plugin_path_that_is_no_python_file_is_refused(tmp_path, what):
    path = tmp_path / "thing.py"
    if what == "folder":
        path.mkdir()
    elif what == "binary":
        path.write_bytes(bytes(range(256)))
    with pytest.raises(BadInput, match=r"thing\.py"):
        Registry.load([path])


def test_plugin_entry_pickles_into_a_fresh_process_that_loads_the_same_plugins(plugin, tmp_path):
    path = plugin("ENTRIES = [entry('mine')]")
    entry = Registry.load([path]).model("mine").entry
    (tmp_path / "entry.pickle").write_bytes(pickle.dumps(entry))
    assert pickle.loads(pickle.dumps(Registry.load([path]).model("mine").entry)).build is entry.build
    script = """
        import pickle, sys
        from pathlib import Path
        from benchmark.model import BuildRequest
        from benchmark.registry import Registry
        Registry.load([Path(sys.argv[1])])
        entry = pickle.loads(Path(sys.argv[2]).read_bytes())
        assert entry.make(BuildRequest(seed=7)) == ("built", 7)
    """
    command = [sys.executable, "-c", dedent(script), str(path), str(tmp_path / "entry.pickle")]
    subprocess.run(command, check=True, timeout=60)
