"""Several processes on one run: each takes the units that nobody holds, and tells the parent when one is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from benchmark.config import RunConfig
from benchmark.plan import Unit
from benchmark.progress import Advance, Reporter

HEARTBEAT_S = 0.5
"""How often a worker looks whether its parent is still there."""

ADVANCE_EVERY_S = 0.2
"""How often a worker says how far a stage is."""


def worker_count(config: RunConfig, device: str) -> int:
    """Processes to run: as asked for; else one per core where a process uses one core, and one otherwise.

    One, too, in each of several processes that train together.
    """
    from benchmark.distributed import started_together

    if started_together() > 1:  # they share every training already
        return 1
    if config.workers != "auto":
        return config.workers
    if config.scale == "paper" or device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(config: RunConfig, count: int, units: Sequence[Unit], session: str, reporter: Reporter) -> None:
    """Work on a run in ``count`` processes; returns when all of them have ended, however they ended.

    A worker that dies drops the lock of its unit; whoever takes the unit up next finds that this session tried it
    already, and records the failure. A new worker takes the dead one's place, at most once a unit. On an interruption
    all workers are killed: what they had finished is on disk.
    """
    # A fork of this process would copy thread pools and devices in whatever state they are. A server that has
    # imported the heavy stack, and done nothing with it, can be forked: the imports are paid once.
    if sys.platform == "win32":
        context = multiprocessing.get_context("spawn")
    else:
        context = multiprocessing.get_context("forkserver")
    builders = [unit.candidate.registered.entry.build for unit in units]
    modules = {build.partition(":")[0] for build in builders if isinstance(build, str)}
    context.set_forkserver_preload(["benchmark.execute", *sorted(modules)])

    def start() -> None:
        # A pipe each: a worker that dies while it writes breaks its own, and no lock that others wait for.
        receiving, sending = context.Pipe(duplex=False)
        worker = context.Process(target=_worker, args=(config, session, sending), daemon=True)
        worker.start()
        sending.close()  # the worker holds the only one now, so that its end, however it comes, ends the pipe
        workers[receiving] = worker

    workers: dict[Connection, BaseProcess] = {}
    advances: dict[Connection, Advance] = {}
    for _ in range(count):
        start()
    replaced = 0
    try:
        while workers:
            ready = wait(list(workers))
            for pipe in [pipe for pipe in workers if pipe in ready]:
                lane = reporter.lane(workers[pipe].pid or 0)
                try:
                    report, arguments = pipe.recv()
                except (EOFError, OSError):  # the worker is over
                    worker = workers.pop(pipe)
                    worker.join()
                    lane.clear()
                    if worker.exitcode != 0 and replaced < len(units):
                        replaced += 1
                        start()
                    continue
                if report == "advance":
                    advances[pipe](*arguments)
                elif report == "stage":
                    advances[pipe] = lane.stage(*arguments)
                else:
                    getattr(lane, report)(*arguments)
    except KeyboardInterrupt:
        for worker in workers.values():
            worker.kill()
        raise


class _Sender:
    """The listener inside a worker: passes every call on to the parent's lane, how far a stage is only so often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def begin(self, unit: str) -> None:
        """Send the unit's name."""
        self._send("begin", unit)

    def stage(self, name: str) -> Advance:
        """Send the stage's name."""
        self._send("stage", name)
        sent = 0.0

        def advance(done: int, total: int) -> None:
            nonlocal sent
            if time.monotonic() - sent >= ADVANCE_EVERY_S or done == total:
                sent = time.monotonic()
                self._send("advance", done, total)

        return advance

    def end(self, unit: str, outcome: str, seconds: float) -> None:
        """Send the outcome."""
        self._send("end", unit, outcome, seconds)

    def _send(self, report: str, *arguments: Any) -> None:  # noqa: ANN401 - the arguments of a listener's methods
        try:
            self._pipe.send((report, arguments))
        except OSError:  # nobody is left to tell; what is finished is on disk
            os._exit(1)


def _worker(config: RunConfig, session: str, pipe: Connection) -> None:
    """Prepare the run anew in this process, and work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    from rich.console import Console

    from benchmark.registry import Registry
    from benchmark.run import prepare, work

    prepared = prepare(config, Registry.load(config.plugins), Reporter(Console(quiet=True)), audited=False)
    work(prepared, session, _Sender(pipe), longest_first=True)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a command that was killed cannot take its workers with it.

    The parent may be the server that forked this process, which ends with the command.
    """
    while os.getppid() == parent:
        time.sleep(HEARTBEAT_S)
    os._exit(1)
