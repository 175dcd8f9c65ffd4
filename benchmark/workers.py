"""Several processes on one run: each takes the units that nobody holds, and tells the parent when one is over."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue

from benchmark.config import RunConfig
from benchmark.progress import Advance, Listener

Message = tuple[str, str, float]
"""Unit, outcome, seconds."""

HEARTBEAT_S = 0.5
"""How often the parent looks after its workers, and a worker whether its parent is still there."""


def worker_count(config: RunConfig, device: str) -> int:
    """Processes to run: as asked for; else one per core where a process uses one core, and one otherwise."""
    if config.workers != "auto":
        return config.workers
    if config.scale == "paper" or device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(config: RunConfig, count: int, listener: Listener) -> None:
    """Work on a run in ``count`` processes; returns when all of them have ended, however they ended.

    A worker that dies drops the lock of its unit, and another takes the unit up. On an interruption all workers are
    killed: what they had finished is on disk.
    """
    # A fresh interpreter per worker: a fork would copy thread pools and devices in whatever state they are.
    context = multiprocessing.get_context("spawn")
    messages: Queue[Message] = context.Queue()
    workers: list[BaseProcess] = [
        context.Process(target=_worker, args=(config, messages, os.getpid()), daemon=True) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            _pass_on(messages, listener, HEARTBEAT_S)
        _pass_on(messages, listener, 0.0)
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise


def _pass_on(messages: Queue[Message], listener: Listener, wait_s: float) -> None:
    try:
        while True:
            listener.end(*messages.get(timeout=wait_s))
    except queue.Empty:
        return


class _Sender:
    """The listener inside a worker: only the end of a unit is worth a message."""

    def __init__(self, messages: Queue[Message]) -> None:
        self._messages = messages

    def begin(self, unit: str) -> None:
        """Say nothing."""

    def stage(self, name: str) -> Advance:  # noqa: ARG002 - a listener's signature
        """Say nothing."""
        return lambda _done, _total: None

    def end(self, unit: str, outcome: str, seconds: float) -> None:
        """Send the message."""
        self._messages.put((unit, outcome, seconds))


def _worker(config: RunConfig, messages: Queue[Message], parent: int) -> None:
    """Prepare the run anew in this process, and work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    from rich.console import Console

    from benchmark.progress import Reporter
    from benchmark.registry import Registry
    from benchmark.run import prepare, work

    prepared = prepare(config, Registry.load(config.plugins), Reporter(Console(quiet=True)))
    work(prepared, _Sender(messages))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a parent that was killed cannot take its workers with it."""
    while os.getppid() == parent:
        time.sleep(HEARTBEAT_S)
    os._exit(1)
