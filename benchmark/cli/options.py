"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchmark.registry import Registry


def listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated option."""
    if value is None:
        return None
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise click.BadParameter("needs at least one value")
    return parts


PATH = click.Path(path_type=Path)
PLUGIN = click.option("--plugin", "plugins", multiple=True, type=PATH, help="Python file that defines ENTRIES.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
ALLOW_LEAKAGE = click.option(
    "--allow-leakage", is_flag=True, default=None, help="Run although the split leaks, and mark every row."
)
IGNORE = click.option("--ignore", callback=listed, help="Codes of audit findings to mute, as LB003; never leakage.")

ADJUST = click.option(
    "--adjust",
    "adjustment",
    type=click.Choice(["holm", "benjamini-hochberg"]),
    help="P-values for the number of rows: holm names a winner, benjamini-hochberg explores.",
)


def broken(registry: Registry) -> list[str]:
    """One line for each installed entry that cannot be used."""
    return [f"left out: {problem}" for problem in registry.broken]
