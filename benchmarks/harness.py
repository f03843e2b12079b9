"""What all benchmarks share: rows of the table, and works that run in processes of their own.

A *work* is a function that imports and prepares what it needs and gives back another, which is
what is measured. Both stand in a module, so that a fresh process can find them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

Work = Callable[..., Callable[[], Any]]
ROOT = Path(__file__).parents[1]
LIMIT = 900  # seconds for one work


@dataclass(frozen=True)
class Row:
    """A figure beside what it must and should be.

    Parameters
    ----------
    work, peer
        What is measured, and beside what.
    value
        The figure; None if it could not be measured here.
    unit
        ``"×"``, ``"s"``, ``"ms"``, ``"MB"`` or ``""``.
    must, aim
        What it must and what it should be; None if nothing is asked.
    least
        Whether the figure should be at least that, or at most.
    said
        What was measured, in words, or why nothing was.
    floor
        What cannot be undercut, in words, and how far it is.
    """

    work: str
    peer: str
    value: float | None
    unit: str = "×"
    must: float | None = None
    aim: float | None = None
    least: bool = True
    said: str = ""
    floor: str = ""

    @property
    def reached(self) -> str:
        """``"aim"``, ``"must"``, ``"short"``, or nothing where nothing is asked or known."""
        if self.value is None or (self.must is None and self.aim is None):
            return ""
        for goal, word in ((self.aim, "aim"), (self.must, "must")):
            if goal is not None and (self.value >= goal if self.least else self.value <= goal):
                return word
        return "short"

    def goal(self, goal: float | None) -> str:
        """A goal with its sign and unit."""
        return "" if goal is None else f"{'≥' if self.least else '≤'} {number(goal, self.unit)}"


@dataclass
class Measured:
    """What a work took in each round.

    Attributes
    ----------
    seconds
        Of each call.
    grown
        Bytes by which the process grew at the peak of each call, pages of mapped files included.
    answers
        What each call gave.
    """

    seconds: list[float] = field(default_factory=list)
    grown: list[int] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    @property
    def answer(self) -> Any:
        """What the last call gave."""
        return self.answers[-1]

    @property
    def typical(self) -> float:
        """Median of the seconds."""
        return median(self.seconds)

    @property
    def memory(self) -> float:
        """Median of the growth in bytes."""
        return median(self.grown)


def number(value: float, unit: str = "") -> str:
    """Three digits and the unit."""
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits}{unit}" if unit == "×" else f"{digits} {unit}".strip()


def times(seconds: float) -> str:
    """Seconds or milliseconds."""
    return number(1000 * seconds, "ms") if seconds < 1 else number(seconds, "s")


def compare(
    works: Mapping[str, Work],
    *given: Any,
    rounds: int = 3,
    calls: int = 1,
    threads: int = 0,
    limit: float = LIMIT,
) -> dict[str, Measured]:
    """Run works one after another, several rounds of all.

    Parameters
    ----------
    works
        By name.
    *given
        What each is given: numbers, text and lists.
    rounds
        Processes for each.
    calls
        Calls in each process; the first one is left out of the seconds if there are several.
    threads
        Of numerical libraries; 0 for as many as there are cores.
    limit
        Seconds for a process.
    """
    found = {name: Measured() for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            once = apart(work, *given, calls=calls, threads=threads, limit=limit)
            found[name].seconds += once.seconds[calls > 1 :]
            found[name].grown.append(once.grown[0])
            found[name].answers += once.answers
    return found


def ratio(other: Measured, ours: Measured) -> float:
    """How many times as long another takes: the median over pairs of one round."""
    return median(b / a for a, b in zip(ours.seconds, other.seconds, strict=True))


def apart(
    work: Work, *given: Any, calls: int = 1, threads: int = 0, limit: float = LIMIT
) -> Measured:
    """Run a work in a fresh process."""
    task = {"module": work.__module__, "name": work.__name__, "given": given, "calls": calls}
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environment["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        environment["XDG_DATA_HOME"] = folder
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.harness", json.dumps(task), str(result)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        if not result.exists():
            raise RuntimeError(f"{work.__module__}.{work.__name__} failed:\n{done.stdout[-3000:]}")
        return Measured(**json.loads(result.read_text()))


def resident() -> int:
    """Bytes of memory that this process has now."""
    return _status("VmRSS")


def peak() -> int:
    """Highest that it had since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Count the peak of memory from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _measure(module: str, name: str, given: list[Any], calls: int) -> Measured:
    """Run a work in this process."""
    found = Measured()
    call = getattr(import_module(module), name)(*given)
    for _ in range(calls):
        forget_peak()
        before, start = resident(), time.perf_counter()
        found.answers.append(call())
        found.seconds.append(time.perf_counter() - start)
        found.grown.append(peak() - before)
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(vars(_measure(**json.loads(sys.argv[1])))))
    os._exit(0)  # windows need not be taken down
