"""How a run tells its user where it is: bars with time left on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]
"""Called with (done, total)."""

LINE_EVERY_S = 20.0
"""Without a terminal, how often a long stage says how far it is."""


class Listener(Protocol):
    """What the work on units reports to."""

    def begin(self, unit: str) -> None:
        """A unit is taken up."""

    def stage(self, name: str) -> Advance:
        """A stage of that unit begins; the returned callback says how far it is."""

    def end(self, unit: str, outcome: str, seconds: float) -> None:
        """The unit is over, and how it went."""


class Reporter(AbstractContextManager["Reporter"]):
    """The console of a run: a bar for all units, and a lane for each unit under way."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._units: TaskID | None = None
        self._lanes: dict[int, Lane] = {}
        self._total = 0
        self._done = 0

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def expect(self, units: int) -> None:
        """Say how many units there are to do; what came before them is over."""
        self.lane().clear()
        self._total = units
        self._units = self.live.add_task("units", total=units)

    def lane(self, number: int = 0) -> Lane:
        """The listener for one process's units; processes that work side by side have a lane each."""
        return self._lanes.setdefault(number, Lane(self))

    def count(self, unit: str, outcome: str, seconds: float) -> None:
        """Print a line for a unit that is over."""
        self._done += 1
        if self._units is not None:
            self.live.advance(self._units)
        self.say(f"[{self._done}/{self._total}] {unit}: {outcome} ({seconds:.1f} s)")


class Lane:
    """A listener that shows the stage of one unit at a time."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._unit = ""
        self._bar: TaskID | None = None

    def begin(self, unit: str) -> None:
        """Name the unit under way."""
        self._unit = unit

    def stage(self, name: str) -> Advance:
        """Show a bar for a stage; without a terminal, a line every now and then."""
        self.clear()
        label = f"{self._unit}: {name}" if self._unit else name
        live = self._reporter.live
        bar = self._bar = live.add_task(f"  {escape(label)}", total=None)
        start = said = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal said
            live.update(bar, completed=done, total=total)
            now = time.monotonic()
            if live.disable and now - said >= LINE_EVERY_S and 0 < done < total:
                said = now
                left = timedelta(seconds=round((now - start) * (total - done) / done))
                self._reporter.say(f"  {label} {done}/{total}, about {left} left")

        return advance

    def end(self, unit: str, outcome: str, seconds: float) -> None:
        """Count the unit."""
        self.clear()
        self._unit = ""
        self._reporter.count(unit, outcome, seconds)

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._reporter.live.remove_task(self._bar)
            self._bar = None
