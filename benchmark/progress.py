"""How a run tells its user where it is: bars with time left on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


class Reporter(AbstractContextManager["Reporter"]):
    """Progress over units, and over the stages inside the unit under way."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._units: TaskID | None = None
        self._stage: TaskID | None = None
        self._unit = ""
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        if not self.quiet:
            self.console.print(escape(text), highlight=False, soft_wrap=True)

    def plan(self, total: int) -> None:
        """Say how many units there are."""
        self._units = self._live.add_task("units", total=total)

    def unit(self, number: int, total: int, name: str) -> None:
        """Begin a unit."""
        self._unit = f"[{number}/{total}] {name}"
        self._started = time.monotonic()

    def unit_done(self, outcome: str) -> None:
        """End the unit with a word on how it went."""
        if self._stage is not None:
            self._live.remove_task(self._stage)
            self._stage = None
        if self._units is not None:
            self._live.advance(self._units)
        self.say(f"{self._unit}: {outcome} ({time.monotonic() - self._started:.1f} s)")

    def stage(self, name: str) -> Advance:
        """Begin a stage of the unit; the returned callback moves its bar."""
        if self._stage is not None:
            self._live.remove_task(self._stage)
        stage = self._stage = self._live.add_task(f"  {escape(self._unit)}: {name}", total=None)

        def advance(done: int, total: int) -> None:
            self._live.update(stage, completed=done, total=total)

        return advance
