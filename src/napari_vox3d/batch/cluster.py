"""Tasks on the workers of a dask scheduler, or on workers that a cluster's queue starts."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from napari_vox3d.batch.tally import Tally
from napari_vox3d.batch.tasks import Report, Task, attempt, failed, what_went_wrong
from napari_vox3d.errors import Cancelled, Vox3dError
from napari_vox3d.formats.aside import remove_leftovers

ATTEMPTS = 2  # a worker that is lost costs its file one more attempt
_QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}
_ANSWER = 15  # seconds for a scheduler to answer
_PATIENCE = 0.7  # seconds for workers to tidy up after themselves
_BEAT = 0.2  # seconds

_cancelled: set[str] = set()  # topics of batches, on a worker
_one_at_a_time = threading.Lock()  # a worker's threads are for one file together


def run_on_dask(
    tasks: Sequence[Task],
    tally: Tally,
    scheduler: str,
    jobs: int,
    config: str | Path | None = None,
) -> None:
    """Carry out tasks on dask workers, one file at a time on each.

    Parameters
    ----------
    tasks
        Their paths must be the same on all machines.
    tally
        Told what happens.
    scheduler
        Address, or ``"slurm"``, ``"pbs"``, ``"lsf"``.
    jobs
        Workers to start by the queue; a scheduler with an address has its own.
    config
        YAML file with settings of dask-jobqueue.

    Raises
    ------
    Vox3dError
        If a package is missing, nobody answers at the address, or the queue is not there.
    """
    with _client(scheduler, jobs, config) as client:
        _Feeder(client, tasks, tally).run()


class _Feeder:
    """Hands out as many tasks as there are workers, so that a lost one takes one file with it.

    Which worker gets a task is left to the scheduler: one that is bound to a worker, even loosely,
    is never started once there was a moment without any worker.
    """

    def __init__(self, client: Any, tasks: Sequence[Task], tally: Tally):
        self._client, self._tasks, self._tally = client, tasks, tally
        self._topic = f"napari-vox3d-{token_hex(8)}"
        self._waiting = deque(range(len(tasks)))
        self._at_work: dict[int, Any] = {}  # futures
        self._starts: Counter[int] = Counter()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        self._client.subscribe_topic(self._topic, self._hear)
        try:
            while not self._tally.complete:
                if self._waiting:
                    self._feed()
                with suppress(queue.Empty):
                    self._events.get(timeout=_BEAT)()
                    while True:
                        self._events.get_nowait()()
                self._tally.beat()
        finally:
            self._stop()

    def _feed(self) -> None:
        if self._client.status == "closed":
            for index in self._waiting:
                self._fail(index, "the dask scheduler went away before it was done")
            self._waiting.clear()
            return
        try:
            workers = len(self._client.nthreads())
        except OSError:  # the client tries to connect again, and closes if it cannot
            return
        while self._waiting and len(self._at_work) < workers:
            self._submit(self._waiting.popleft())

    def _submit(self, index: int) -> None:
        task = self._tasks[index]
        source, target = (str(Path(path).absolute()) for path in (task.source, task.target))
        future = self._client.submit(
            _carry_out_on_worker,
            index,
            replace(task, source=source, target=target),
            self._topic,
            key=f"{self._topic}-{index}",
            pure=False,
        )
        self._at_work[index] = future
        future.add_done_callback(lambda done: self._events.put(partial(self._ended, index, done)))

    def _hear(self, event: tuple[Any, tuple[Any, ...]]) -> None:
        kind, *about = event[1]
        self._events.put(partial(self._started if kind == "start" else self._tally.moved, *about))

    def _started(self, index: int) -> None:
        if index not in self._at_work:
            return
        future = self._at_work[index]
        self._starts[index] += 1
        if self._starts[index] > ATTEMPTS:  # the scheduler would try more often
            self._lost(index)
            self._client.cancel([future], force=True)

    def _ended(self, index: int, future: Any) -> None:
        from distributed.scheduler import KilledWorker

        if index not in self._at_work:
            return
        if future.status == "finished":
            report = future.result()
            del self._at_work[index]
            outcome = replace(report.outcome, source=self._tasks[index].source)
            self._tally.ended(index, replace(report, outcome=outcome))
        elif future.status != "error":
            self._fail(index, "it was cancelled, or the dask scheduler went away")
        elif isinstance(error := future.exception(), KilledWorker):
            self._lost(index)
        else:
            self._fail(index, what_went_wrong(error))

    def _lost(self, index: int) -> None:
        self._fail(index, "each worker that was at it was lost (is there enough memory?)")

    def _fail(self, index: int, reason: str) -> None:
        task = self._tasks[index]
        self._at_work.pop(index, None)
        remove_leftovers(task.target)
        self._tally.ended(index, Report(failed(task, f"{task.source}: {reason}.")))

    def _stop(self) -> None:
        """Have the workers give up what they are at, if anything."""
        if self._client.status == "closed":
            return
        self._client.unsubscribe_topic(self._topic)
        futures = list(self._at_work.values())
        if not futures:
            return
        threading.Thread(target=self._tell_workers, daemon=True).start()
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not all(future.done() for future in futures):
            time.sleep(0.02)
        with suppress(TimeoutError, OSError):
            self._client.cancel(futures, force=True)
        for index in self._at_work:
            remove_leftovers(self._tasks[index].target)

    def _tell_workers(self) -> None:
        with suppress(Exception):  # a worker that is gone, or too busy to listen
            self._client.run(_cancel, self._topic)


def _cancel(topic: str) -> None:
    _cancelled.add(topic)


def _carry_out_on_worker(index: int, task: Task, topic: str) -> Report:
    """Carry out a task in a dask worker, with all of its threads."""
    import torch
    from distributed import get_worker

    from napari_vox3d.batch.gpus import own_device

    worker: Any = get_worker()

    def tell(done: int, total: int) -> None:
        if topic in _cancelled:
            raise Cancelled("The batch was cancelled.")
        worker.log_event(topic, ("moved", index, done, total))

    with _one_at_a_time:
        worker.log_event(topic, ("start", index))
        torch.set_num_threads(worker.state.nthreads)
        return attempt(task.on(own_device(task.options.get("device", "auto"))), tell)


@contextmanager
def _client(scheduler: str, jobs: int, config: str | Path | None) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise Vox3dError(
            "Batches on other machines need dask: pip install 'napari-vox3d[cluster]'."
        ) from None
    if scheduler in _QUEUES:
        with queue_cluster(scheduler, config) as cluster:
            cluster.adapt(minimum=jobs, maximum=jobs)  # starts lost ones again, unlike scale
            with Client(cluster) as client:
                yield client
        return
    if "://" not in scheduler:
        known = ", ".join(_QUEUES)
        raise Vox3dError(
            f"{scheduler!r} is no scheduler; give {known}, or an address like tcp://host:8786."
        )
    try:
        client = Client(scheduler, timeout=_ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise Vox3dError(
            f"No dask scheduler answers at {scheduler} ({what_went_wrong(error)})."
        ) from None
    with client:
        yield client


@contextmanager
def queue_cluster(kind: str, config: str | Path | None = None) -> Iterator[Any]:
    """Dask cluster whose workers are jobs of a queue; it has none at first.

    Parameters
    ----------
    kind
        ``"slurm"``, ``"pbs"`` or ``"lsf"``.
    config
        YAML file with the settings of dask-jobqueue: those of one kind, or under ``jobqueue`` and
        the kind as in dask's own files, which hold for what it leaves out.

    Yields
    ------
    dask_jobqueue.JobQueueCluster
        Closed, with its jobs, at the end.

    Raises
    ------
    Vox3dError
        If dask-jobqueue or the queue's own commands are missing, or the settings will not do.
    """
    import dask

    try:
        import dask_jobqueue
    except ImportError:
        raise Vox3dError(
            f"Batches on {kind} need dask-jobqueue: pip install 'napari-vox3d[cluster]'."
        ) from None
    cluster = getattr(dask_jobqueue, _QUEUES[kind])
    command = cluster.job_cls.submit_command
    if shutil.which(command) is None:
        raise Vox3dError(
            f"There is no {command} on this machine; start the batch where jobs are sent from."
        )
    settings = {} if config is None else _settings(Path(config), kind)
    with dask.config.set(settings):  # read again with each job
        try:
            jobs = cluster()
        except (TypeError, ValueError) as error:
            place = "dask's settings" if config is None else config
            raise Vox3dError(
                f"Jobs of {kind} cannot be described by {place}: {what_went_wrong(error)}"
            ) from None
        with jobs:
            yield jobs


def _settings(path: Path, kind: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise Vox3dError(f"{path}: cannot be read ({what_went_wrong(error)}).") from None
    if isinstance(content, dict) and "jobqueue" in content:
        content = content["jobqueue"]
    if isinstance(content, dict) and kind in content:
        content = content[kind]
    if not isinstance(content, dict):
        raise Vox3dError(f"{path}: has no settings of dask-jobqueue for {kind}.")
    return {f"jobqueue.{kind}.{name}": value for name, value in content.items()}
