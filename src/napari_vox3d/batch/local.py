"""Tasks on this machine: in this process, or in several that may die without the others."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from napari_vox3d.batch.tally import Tally
from napari_vox3d.batch.tasks import Outcome, Report, Task, attempt, failed
from napari_vox3d.formats.aside import remove_leftovers
from napari_vox3d.progress import Progress

WORKER = [sys.executable, "-P", "-m", "napari_vox3d.batch.worker"]
ATTEMPTS = 2  # a process that dies costs its file one more attempt
_PATIENCE = 0.7  # seconds for a process to tidy up after itself
_BEAT = 0.2  # seconds


def run_here(tasks: Sequence[Task], tally: Tally) -> None:
    """Carry out tasks one after the other in this process."""
    for index, task in enumerate(tasks):
        tally.ended(index, attempt(task, partial(tally.moved, index)))


def run_in_processes(tasks: Sequence[Task], tally: Tally, jobs: int) -> None:
    """Carry out tasks in `jobs` processes, which share the processor's cores.

    Each process loads the model once. If one is killed, its file gets another one, once. Whatever
    ends this function early ends the processes within a second.
    """
    waiting: queue.SimpleQueue[tuple[int, Task]] = queue.SimpleQueue()
    for numbered in enumerate(tasks):
        waiting.put(numbered)
    events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    lanes = [_Lane(waiting, events, tally, max(1, _cores() // jobs)) for _ in range(jobs)]
    try:
        for lane in lanes:
            lane.start()
        while not tally.complete:
            with suppress(queue.Empty):
                events.get(timeout=_BEAT)()
            tally.beat()
    finally:
        deadline = time.monotonic() + _PATIENCE
        for lane in lanes:
            lane.stop()
        for lane in lanes:
            lane.close(max(0, deadline - time.monotonic()))


class _Lane(threading.Thread):
    """One process at a time, and the thread that feeds it."""

    def __init__(
        self,
        waiting: queue.SimpleQueue[tuple[int, Task]],
        events: queue.SimpleQueue[Callable[[], None]],
        tally: Tally,
        threads: int,
    ):
        super().__init__(daemon=True)
        self._waiting, self._events, self._tally = waiting, events, tally
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            try:
                index, task = self._waiting.get_nowait()
            except queue.Empty:
                return
            report = self._carry_out(task, partial(self._say, self._tally.moved, index))
            self._say(self._tally.ended, index, report)

    def stop(self) -> None:
        """Ask the process to end; it gives its task up."""
        with self._starting:
            self._stopped = True
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError):
                    self._process.stdin.close()

    def close(self, seconds: float) -> None:
        """Wait until the process has ended, and kill it if that takes longer."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self.is_alive():
            self.join()

    def _say(self, what: Callable[..., None], *about: object) -> None:
        self._events.put(partial(what, *about))

    def _carry_out(self, task: Task, progress: Progress) -> Report:
        started = time.monotonic()
        for _ in range(ATTEMPTS):
            report = self._ask(task, progress)
            if report is not None:
                return report
            remove_leftovers(task.target)
            if self._stopped:
                break
        problem = f"{task.source}: {_how_it_ended(self._process)}, {ATTEMPTS} times."
        return Report(failed(task, problem, time.monotonic() - started))

    def _ask(self, task: Task, progress: Progress) -> Report | None:
        """Have the process carry out a task; None if it dies of it."""
        process = self._running()
        if process is None:
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(vars(task)) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer = json.loads(line)
                if "progress" not in answer:
                    return _report(answer)
                progress(*answer["progress"])
        except (OSError, ValueError):  # a closed pipe, half a line
            pass
        process.wait()
        return None

    def _running(self) -> subprocess.Popen[str] | None:
        with self._starting:
            if self._stopped:
                return None
            if self._process is None or self._process.poll() is not None:
                self._process = _start(self._threads)
            return self._process


def _start(threads: int) -> subprocess.Popen[str]:
    """Start a process of its own group, so that Ctrl-C reaches this one alone."""
    own = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(threads, int(own)) if own.isdigit() and int(own) else threads
    names = ("CREATE_NEW_PROCESS_GROUP", "CREATE_NO_WINDOW")
    return subprocess.Popen(
        WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        start_new_session=True,
        creationflags=sum(getattr(subprocess, name, 0) for name in names),
    )


def _report(answer: dict) -> Report:
    told = answer["outcome"]
    outcome = Outcome(**{**told, "targets": tuple(told["targets"])})
    return Report(outcome, tuple(answer["warnings"]))


def _how_it_ended(process: subprocess.Popen[str] | None) -> str:
    code = None if process is None else process.returncode
    if code is not None and code < 0:
        because = " (is there enough memory?)" if code == -9 else ""
        return f"the process at work was killed by signal {-code}{because}"
    return f"the process at work ended with status {code}"


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
