"""A process of a local batch: tasks come in as lines of JSON, what becomes of them goes out.

Started as ``python -m napari_vox3d.batch.worker``. It ends when its input ends, even in the midst
of a task: so it never outlives the process that started it.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any, TextIO

from napari_vox3d.batch.gpus import own_device
from napari_vox3d.batch.tasks import Task, attempt
from napari_vox3d.errors import Cancelled


def main() -> None:
    """Carry out tasks until there are no more."""
    # Libraries may print; what they print must not get between the lines.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGTERM, _cancel)
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
    try:
        while (task := tasks.get()) is not None:
            _answer(task, answers)
    except Cancelled:
        pass
    os._exit(0)  # nothing is left to tidy up, and a late signal has nobody to interrupt


def _answer(task: Task, answers: TextIO) -> None:
    def say(**message: Any) -> None:
        try:
            print(json.dumps(message), file=answers, flush=True)
        except BrokenPipeError:
            raise Cancelled("Nobody waits for the result any more.") from None

    task = task.on(own_device(task.options.get("device", "auto")))
    say(**asdict(attempt(task, lambda done, total: say(progress=[done, total]))))


def _receive(tasks: queue.SimpleQueue[Task | None]) -> None:
    for line in sys.stdin:
        tasks.put(Task(**json.loads(line)))
    tasks.put(None)
    _thread.interrupt_main(signal.SIGTERM)


def _cancel(*_signal: object) -> None:
    raise Cancelled("The batch was cancelled.")


if __name__ == "__main__":
    main()
