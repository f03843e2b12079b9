"""A process whose children do what a test asks and may be killed, starved or thrown out for it.

``Nursery().do(function, **arguments)`` calls a function of a test module in a fork of a process
that has imported all it needs, so that a child costs milliseconds.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

LONGEST = 120  # seconds of the processor that a child may work


@dataclass(frozen=True)
class Life:
    """What became of a child.

    Parameters
    ----------
    signal
        That ended it, or 0.
    answer
        What the function returned.
    refused
        The sentence of a `Vox3dError`.
    error
        Any other exception.
    seconds
        Of the processor.
    memory
        Bytes that it took at its peak beyond what it was born with.
    """

    signal: int
    answer: Any = None
    refused: str = ""
    error: str = ""
    seconds: float = 0.0
    memory: int = 0

    @property
    def ended_well(self):
        return not self.signal and not self.error


class Nursery:
    """The process, from outside."""

    def __init__(self):
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-u", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, **one_thread},
        )  # fmt: skip

    def do(self, function, *arguments):
        """Call a module-level function in a child; arguments and result are what JSON can hold."""
        asked = {"module": function.__module__, "name": function.__name__}
        told = json.dumps({**asked, "arguments": arguments}, default=str)
        self.process.stdin.write(told + "\n")
        self.process.stdin.flush()
        return Life(**json.loads(self.process.stdout.readline()))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    # What libraries print must not get between the lines.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warmed = set()
    for line in sys.stdin:
        asked = json.loads(line)
        module = import_module(asked["module"])
        if module not in warmed and hasattr(module, "warm"):
            module.warm()
        warmed.add(module)
        print(json.dumps(live(getattr(module, asked["name"]), asked["arguments"])), file=answers,
              flush=True)  # fmt: skip


def live(function, arguments):
    """Let a child call a function, and tell what became of it."""
    import resource

    born_with = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, resource.RLIM_INFINITY))
        with os.fdopen(sending, "w") as file:
            json.dump(told(function, arguments), file)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as file:
        said = file.read()
    _, status, used = os.wait4(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {
        "signal": ended_by, "seconds": used.ru_utime + used.ru_stime,
        "memory": max(0, 1024 * used.ru_maxrss - born_with), **(json.loads(said) if said else {}),
    }  # fmt: skip


def told(function, arguments):
    from napari_vox3d.errors import Vox3dError

    try:
        return {"answer": function(*arguments)}
    except Vox3dError as error:
        return {"refused": str(error)}
    except BaseException:
        return {"error": traceback.format_exc()[-3000:]}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(lines):
    """Be killed before one more line of Python than this runs."""
    left = lines

    def trace(_frame, event, _argument):
        nonlocal left
        if event == "line":
            left -= 1
            if left < 0:
                die()
        return trace

    sys.settrace(trace)


def lines_of(function, *arguments):
    """How many lines of Python a call runs."""
    count = 0

    def trace(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(None)
    return count


if __name__ == "__main__":
    main()
