"""What the documentation shows works: every command parses, the example model passes, the example card loads."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from benchmark.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "plugin" / "README.md"]
COMMANDS = [
    (page.relative_to(ROOT).as_posix(), line.strip().split("#")[0].split("&&")[-1].strip())
    for page in PAGES
    for line in page.read_text(encoding="utf-8").splitlines()
    if re.match(r"\s*(\S*/)?python -m benchmark ", line.split("&&")[-1])
]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_shown_is_one_the_program_takes(page: str, command: str) -> None:
    words = shlex.split(command.split("python -m benchmark", 1)[1])
    verb: click.Command = main
    context = click.Context(main)
    while isinstance(verb, click.Group):
        name, found, words = verb.resolve_command(context, words)
        assert found is not None
        verb, context = found, click.Context(found, info_name=name)
    verb.make_context(verb.name, words)


def test_the_example_model_passes_its_check_and_runs(tmp_path: Path) -> None:
    file = blocks("docs/add-a-model.md", "python")[0]
    assert len(file.strip().splitlines()) < 60
    plugin = tmp_path / "my_model.py"
    plugin.write_text(file)
    checked = CliRunner().invoke(main, ["check-model", "timm-bow", "--plugin", str(plugin)])
    assert checked.exit_code == 0, checked.output
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"phantom_patients": 20, "regimes": ["frozen"], "evaluation": {"replicates": 20}}))
    words = [
        "run",
        "--models",
        "timm-bow",
        "--plugin",
        str(plugin),
        "--config",
        str(config),
        "--out",
        str(tmp_path / "r"),
    ]
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
