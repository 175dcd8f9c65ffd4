"""How a run tells its user where it is: bars with time left on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


class Listener(Protocol):
    """What the work on units reports to."""

    def begin(self, unit: str) -> None:
        """A unit is taken up."""

    def stage(self, name: str) -> Advance:
        """A stage of that unit begins; the returned callback says how far it is."""

    def end(self, unit: str, outcome: str, seconds: float) -> None:
        """The unit is over, and how it went."""


class Reporter(AbstractContextManager["Reporter"]):
    """A listener that shows units, and the stage of the unit under way, on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._units: TaskID | None = None
        self._stage: TaskID | None = None
        self._unit = ""
        self._total = 0
        self._done = 0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def expect(self, units: int) -> None:
        """Say how many units there are to do."""
        self._end_stage()
        self._total = units
        self._units = self._live.add_task("units", total=units)

    def begin(self, unit: str) -> None:
        """Name the unit under way."""
        self._unit = unit

    def stage(self, name: str) -> Advance:
        """Show a bar for a stage."""
        self._end_stage()
        label = f"{self._unit}: {name}" if self._unit else name
        stage = self._stage = self._live.add_task(f"  {escape(label)}", total=None)

        def advance(done: int, total: int) -> None:
            self._live.update(stage, completed=done, total=total)

        return advance

    def end(self, unit: str, outcome: str, seconds: float) -> None:
        """Print a line for a unit that is over."""
        self._end_stage()
        self._done += 1
        if self._units is not None:
            self._live.advance(self._units)
        self.say(f"[{self._done}/{self._total}] {unit}: {outcome} ({seconds:.1f} s)")

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._live.remove_task(self._stage)
            self._stage = None
