"""What a run says: bars that come and go on a terminal, lines every now and then elsewhere."""

import io

import pytest
from rich.console import Console

from benchmark import progress
from benchmark.progress import Reporter


def test_without_a_terminal_a_long_stage_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 25.0, 26.0, 50.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    said = io.StringIO()
    with Reporter(Console(file=said, width=120)) as reporter:
        lane = reporter.lane()
        lane.begin("toy: full")
        advance = lane.stage("training")
        for done in (1, 25, 26, 50, 100):
            advance(done, 100)
    assert said.getvalue().splitlines() == [
        "  toy: full: training 25/100, about 0:01:15 left",
        "  toy: full: training 50/100, about 0:00:50 left",
    ]


def test_bars_of_two_lanes_stand_side_by_side_and_go_when_their_units_are_over() -> None:
    said = io.StringIO()
    with Reporter(Console(file=said, width=120, force_terminal=True)) as reporter:
        reporter.lane().stage("decoding pictures")
        reporter.expect(2)
        first, second = reporter.lane(11), reporter.lane(12)
        for lane, unit in ((first, "a"), (second, "b")):
            lane.begin(unit)
            lane.stage("training")(1, 3)
        assert [task.description for task in reporter.live.tasks] == ["units", "  a: training", "  b: training"]
        first.end("a", "done", 1.0)
        second.clear()
        assert [task.description for task in reporter.live.tasks] == ["units"]
    assert "[1/2] a: done (1.0 s)" in said.getvalue()
