"""The long form of the tests of this folder, and a table of all that was tried.

First thousands of damaged files are read in a process that may not hang, crash or take much memory;
then the tests run with many more cases than they have elsewhere: killed writes and trainings, full
disks, too little memory, volumes of 20 GB, hundreds of rounds.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from worker import peak, reset_peak

HANGS = 20.0  # seconds of the processor without an answer
STARTS = 120.0  # seconds of the processor to import all and to make the files
SILENT = 600.0  # seconds of the clock, be the machine ever so busy
WORKER = Path(__file__).with_name("worker.py")
LONG = "VOX3D_SOAK"  # in the environment: tests take their time
READ, REFUSED, GENERAL = "read", "refused", "refused in general words"


class Worker:
    """The process that reads, and what it says."""

    def __init__(self, formats=()):
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        # Arenas of threads count as memory that a process may address.
        environment = {**os.environ, **one_thread, "MALLOC_ARENA_MAX": "2"}
        self.process = subprocess.Popen(
            [sys.executable, "-u", WORKER, *formats], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._answers = queue.Queue()
        self._complaints = []
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._overhear, daemon=True).start()
        self.formats = self.answer(STARTS)["ready"]

    def _listen(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _overhear(self):
        for line in self.process.stderr:
            self._complaints = [*self._complaints[-40:], line]

    def answer(self, most=HANGS):
        """Give the next thing it says; None if it has ended.

        Raises
        ------
        TimeoutError
            If it works for more than `most` seconds, or waits for too long.
        """
        began, worked = time.monotonic(), self._work()
        while True:
            with suppress(queue.Empty):
                answer = self._answers.get(timeout=5)
                break
            if self._work() - worked > most or time.monotonic() - began > SILENT:
                raise TimeoutError
        if answer is None and not hasattr(self, "formats"):
            raise RuntimeError("".join(self._complaints))
        return answer

    def _work(self):
        """Seconds that it kept the processor busy."""
        try:
            return sum(psutil.Process(self.process.pid).cpu_times()[:2])
        except psutil.NoSuchProcess:
            return 0.0

    def read(self, format, seed):
        """Read a damaged or hostile file; the outcome of a process that did not answer is wrong."""
        result = {"format": format, "seed": seed, "outcome": "wrong", "seconds": 0.0, "memory": 0}
        self.process.stdin.write(f"{format}\t{seed}\n")
        self.process.stdin.flush()
        try:
            if (answer := self.answer()) is not None:
                return answer
            ended = f"crash: it ended with {self.process.wait()} {self._complaints[-1:]}"
            return result | {"said": ended}
        except TimeoutError:
            self.stop()
            return result | {"said": f"hang: no answer in {HANGS:g} s of work"}

    def stop(self):
        self.process.kill()
        self.process.wait()


def soak(count, formats=None, first=0):
    """Read `count` damaged files, as many of each format.

    Yields
    ------
    dict
        ``format``, ``seed``, ``outcome``, ``said``, ``seconds`` and ``memory`` (bytes) of each.
    """
    worker = Worker(formats or ())
    formats = worker.formats
    try:
        for number in range(count):
            format, seed = formats[number % len(formats)], first + number // len(formats)
            yield worker.read(format, seed)
            if worker.process.poll() is not None:
                worker.stop()
                worker = Worker(formats)
    finally:
        worker.stop()


def table(results):
    """Markdown table of what became of the files of each format."""
    by_format = defaultdict(list)
    for result in results:
        by_format[result["format"]].append(result)
    lines = [
        "| format | damaged files | read | refused in a sentence | wrong | slowest | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for format, own in [*sorted(by_format.items()), ("all", results)]:
        count = Counter(one["outcome"] for one in own)
        refused = count[REFUSED] + count[GENERAL]
        wrong = len(own) - count[READ] - refused
        slowest = max(one["seconds"] for one in own)
        memory = max(one["memory"] for one in own) / 2**20
        lines.append(f"| {format} | {len(own)} | {count[READ]} | {refused} | {wrong} | "
                     f"{slowest:.2f} s | {memory:.0f} MB |")  # fmt: skip
    return "\n".join(lines)


class Record:
    """Plugin of pytest that notes what each test function tried."""

    def __init__(self):
        self.rows = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        """Measure a test that has no cases of its own."""
        before, start = reset_peak(), time.process_time()
        try:
            return (yield)
        finally:
            self._row(item.nodeid).took(time.process_time() - start, peak() - before)

    def pytest_runtest_logreport(self, report):
        """Note how a test ended; its cases are known when it is torn down."""
        row = self._row(report.nodeid)
        if report.failed:
            row.failures += 1
            print(f"{report.nodeid}\n{report.longreprtext[-3000:]}", file=sys.stderr, flush=True)
        elif report.skipped:
            row.skipped += 1
        elif report.when == "teardown":
            row.ended(dict(report.user_properties))

    def _row(self, nodeid):
        name = nodeid.split("::")[1].split("[")[0].removeprefix("test_").replace("_", " ")
        return self.rows.setdefault(name, Row())


@dataclass
class Row:
    """What a test function tried: cases, failures, and the slowest and the largest of them."""

    cases: int = 0
    failures: int = 0
    skipped: int = 0
    slowest: float = 0.0
    memory: int = 0
    _last: tuple[float, int] = (0.0, 0)

    def took(self, seconds, memory):
        self._last = seconds, memory

    def ended(self, counted):
        self.cases += counted.get("cases", 1) or 1
        seconds, memory = self._last
        self.slowest = max(self.slowest, counted.get("slowest") or seconds)
        self.memory = max(self.memory, counted.get("memory") or memory)
        self._last = 0.0, 0


def run_tests(more=()):
    """Run the tests of this folder in their long form.

    Returns
    -------
    dict of str to Row
        By what they try.
    """
    os.environ[LONG] = "1"
    record = Record()
    folder = str(Path(__file__).parent)
    pytest.main([folder, "-q", "-p", "no:cacheprovider", "--timeout=3600", *more], [record])
    return record.rows


def table_of_all(rows):
    """Markdown table of what each test function tried."""
    lines = ["| what | cases | failures | slowest | peak memory |", "|---|---:|---:|---:|---:|"]
    for name, row in sorted(rows.items()):
        if row.cases or row.failures:
            lines.append(f"| {name} | {row.cases} | {row.failures} | {row.slowest:.1f} s | "
                         f"{row.memory / 2**20:.0f} MB |")  # fmt: skip
        else:
            lines.append(f"| {name} | not tried here | | | |")
    cases, failures = (sum(getattr(row, name) for row in rows.values())
                       for name in ("cases", "failures"))  # fmt: skip
    slowest, memory = (max(getattr(row, name) for row in rows.values())
                       for name in ("slowest", "memory"))  # fmt: skip
    total = f"| all | {cases} | {failures} | {slowest:.1f} s | {memory / 2**20:.0f} MB |"
    return "\n".join([*lines, total])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--format", action="append", help="read files of this format alone")
    parser.add_argument("--general", action="store_true", help="show refusals in general words")
    parser.add_argument("--tests", help="run only tests whose names hold this, and read no files")
    options = parser.parse_args()
    results = []
    for result in () if options.tests else soak(options.files, options.format, options.first):
        results.append(result)
        shown = ("wrong", GENERAL) if options.general else ("wrong",)
        if result["outcome"] in shown:
            print(f"{result['format']} {result['seed']} {result['outcome']}: {result['said']}",
                  file=sys.stderr, flush=True)  # fmt: skip
    rows = {}
    if not options.format:
        rows = run_tests(["-k", options.tests] if options.tests else [])
    wrong = sum(result["outcome"] == "wrong" for result in results)
    if results:
        print(table(results))
        rows["damaged files are read or refused"] = Row(
            len(results), wrong, 0, max(one["seconds"] for one in results),
            max(one["memory"] for one in results),
        )  # fmt: skip
    print(table_of_all(rows))
    sys.exit(any(row.failures for row in rows.values()))


if __name__ == "__main__":
    main()
