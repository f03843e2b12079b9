"""Long functions in a thread: a Run button that becomes Cancel, progress, and the time left.

The functions are the plain ones of the core: they take ``progress(done, total)`` and stop when it
raises `Cancelled`. They run in napari's function worker, because its generator workers lose every
`RuntimeError`, and most errors of torch are one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from napari.qt.threading import create_worker
from napari.utils import cancelable_progress
from napari.utils.notifications import notification_manager, show_error
from qtpy.compat import isalive
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_vox3d.errors import Cancelled, Vox3dError, as_sentence
from napari_vox3d.gui.torch_loading import open_torch_libraries

REFRESH = 100  # ms between two looks at a running job
PACE = 50  # reports that the time left is estimated from


class UnexpectedError(Exception):
    """Stands in a notification for an error that is not the user's."""


class BackgroundJob:
    """One run of a function in a thread.

    The thread only runs the function and leaves marks in the attributes below; whoever wants to
    see the progress looks at them from the main thread.

    Parameters
    ----------
    title
        What the job does, for napari's list of running tasks.
    function
        Called with ``progress=`` in addition to its arguments. It must not touch the viewer.
    *args, **kwargs
        Arguments of `function`.

    Attributes
    ----------
    done, total
        Last progress that the function reported; 0, 0 before the first report.
    networks
        Whether the function runs networks: PyTorch is then loaded first, and one processor core
        left to the window.
    loading
        Whether that is being done, which takes a while the first time.
    result
        What the function returned.
    error
        What the function raised, or None.
    """

    def __init__(self, title: str, function: Callable[..., Any], *args: Any, **kwargs: Any):
        self.title = title
        self.done = self.total = 0
        self.networks = self.loading = False
        self.result: Any = None
        self.error: Exception | None = None
        self._call = partial(function, *args, progress=self._report, **kwargs)
        self._reports: tuple[tuple[float, int], ...] = ()  # the last ones: when, done
        self._worker = create_worker(self, _start_thread=False, _ignore_errors=True)

    def __repr__(self) -> str:
        return self.title  # napari names the job so when it asks whether to close the window

    def start(self, finished: Callable[[BackgroundJob], None]) -> None:
        """Start the thread; `finished` is called on the main thread at the end, come what may."""

        def settle() -> None:
            # Worker and job hold each other where Python cannot see it, and napari remembers every
            # worker that there was; arguments and results may be large, or keep files open.
            self._worker.finished.disconnect(settle)
            del self._call
            try:
                finished(self)
            finally:
                self.result = self.error = None

        self._worker.finished.connect(settle)
        self._worker.start()

    def cancel(self) -> None:
        """Stop the function at its next report of progress."""
        self._worker.quit()

    @property
    def cancelled(self) -> bool:
        """True once the job was asked to stop, here or by napari when its window closes."""
        return self._worker.abort_requested

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time still needed, or None while there is nothing to go by."""
        if len(self._reports) < 2 or self.done >= self.total:
            return None
        (start, done_at_start), *_, (last, done) = self._reports
        if done == done_at_start:
            return None
        pace = (last - start) / (done - done_at_start)
        waited = time.monotonic() - last
        return max(0.0, pace * (self.total - done) - waited)

    def __call__(self) -> None:
        """Run the function; called in the thread."""
        # Errors are kept and not raised: napari would show a raised one in its own words.
        try:
            with self._core_for_the_window():
                self.result = self._call()
        except Cancelled:
            self.cancel()
        except Exception as error:
            self.error = error

    def _core_for_the_window(self) -> AbstractContextManager[None]:
        if not self.networks:
            return nullcontext()
        self.loading = True
        try:
            open_torch_libraries()
            from napari_vox3d.inference.device import leave_a_core_free
        finally:
            self.loading = False
        return leave_a_core_free()

    def _report(self, done: int, total: int) -> None:
        if self.cancelled:
            raise Cancelled("Cancelled.")
        # Preparing is no measure of the pace, and less done than before is a new start.
        earlier = self._reports[1 - PACE :] if done and done >= self.done else ()
        self._reports = (*earlier, (time.monotonic(), done))
        self.done, self.total = done, total


class RunControl(QWidget):
    """A Run button that becomes Cancel, with a progress bar below; one job at a time.

    Parameters
    ----------
    text
        Text of the button.
    prepare
        Called when the button is pressed: reads layers and settings and calls `run`. A
        `Vox3dError` it raises is shown.
    tooltip
        Tooltip of the button.
    networks
        Whether networks run, see `BackgroundJob`.

    Attributes
    ----------
    ended
        Qt signal, emitted after each run, come what may.
    """

    ended = Signal()

    def __init__(
        self, text: str, prepare: Callable[[], None], tooltip: str = "", *, networks: bool = False
    ):
        super().__init__()
        self.button = QPushButton(text, toolTip=tooltip)
        self.bar = QProgressBar(visible=False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        layout.addWidget(self.bar)
        self._text, self._prepare, self._networks = text, prepare, networks
        self._job: BackgroundJob | None = None
        self._showing = False
        self._activity: cancelable_progress | None = None
        self._timer = QTimer(self, interval=REFRESH)
        self._timer.timeout.connect(self._refresh)
        self.button.clicked.connect(self.press)

    @property
    def running(self) -> bool:
        """True while a job runs, and between the steps of showing its result."""
        return self._job is not None or self._showing

    @property
    def showing(self) -> bool:
        """True between the steps of showing a result."""
        return self._showing

    @property
    def cancelling(self) -> bool:
        """True while a job was asked to stop and has not yet."""
        return self._job is not None and self._job.cancelled

    @property
    def finishing(self) -> bool:
        """True while a job runs on though all it reports on is done."""
        return self._job is not None and self._job.done >= self._job.total > 0

    def run(self, function: Callable[..., Any], *args: Any,
            then: Callable[[Any], Iterator[None] | None], **kwargs: Any) -> None:  # fmt: skip
        """Run `function` in a thread and hand its result to `then` on the main thread.

        Parameters
        ----------
        function
            Called as ``function(*args, progress=..., **kwargs)``.
        *args, **kwargs
            Arguments of `function`.
        then
            Called with the result, unless the job failed or was cancelled. If it is a generator,
            the window answers and paints wherever it yields.
        """
        if self.running:
            return
        self._job = BackgroundJob(self._text, function, *args, **kwargs)
        self._job.networks = self._networks
        self._show(self._job)  # first, because napari paints its list of tasks for a second
        self._activity = cancelable_progress(total=0, desc=self._text)
        self._job.start(partial(self._settle, then=then))
        self._timer.start()
        self._refresh()

    def cancel(self) -> None:
        """Ask the running job, if any, to stop."""
        if self._job is not None:
            self._job.cancel()
            self._refresh()

    def press(self) -> None:
        """Do what the button says: run, or cancel."""
        if self.running:
            self.cancel()
            return
        try:
            self._prepare()
        except (Vox3dError, MemoryError) as error:
            show_problem(error)

    def _refresh(self) -> None:
        """Show where the job is; called again and again while it runs."""
        job, activity = self._job, self._activity
        if job is None:
            return
        if activity.is_canceled:
            job.cancel()
        text = self._show(job)
        # Last, because napari processes events here, and the job may end among them.
        activity.total = job.total
        activity.update(job.done - activity.n)
        activity.set_description(f"{self._text}: {text}")

    def _show(self, job: BackgroundJob) -> str:
        """Show in the window where a job is, and say it."""
        self.button.setText("Cancelling…" if job.cancelled else "Cancel")
        self.button.setEnabled(not job.cancelled)
        text = describe_progress(job)
        self.bar.setMaximum(max(1, job.total))  # a bar of unknown length shows no text
        self.bar.setValue(job.done)
        self.bar.setFormat(text)
        self.bar.show()
        return text

    def _settle(self, job: BackgroundJob, then: Callable[[Any], Iterator[None] | None]) -> None:
        self._job = None
        activity, self._activity = self._activity, None
        activity.close()
        if isalive(self):
            self._timer.stop()
            self.bar.hide()
            self.button.setText(self._text)
            self.button.setEnabled(False)
        if job.error is not None:
            show_problem(job.error)
        shown = job.error is None and not job.cancelled
        self._show_result(_steps(then, job.result) if shown else iter(()))

    def _show_result(self, steps: Iterator[bool]) -> None:
        """Take the next of the steps that show a result, the others when the window has painted."""
        if not isalive(self):
            return
        self._showing = next(steps, False)
        if self._showing:
            QTimer.singleShot(0, partial(self._show_result, steps))
        else:
            self.button.setEnabled(True)
            self.ended.emit()


def _steps(then: Callable[[Any], Iterator[None] | None], result: Any) -> Iterator[bool]:
    """Show a result; gives True wherever that pauses."""
    try:
        for _ in then(result) or ():
            yield True
    except (Vox3dError, MemoryError) as error:
        show_problem(error)


def describe_progress(job: BackgroundJob) -> str:
    """Progress in words, such as ``"30 % · 35 s left"``."""
    if job.loading:
        return "Loading PyTorch…"
    if job.done == 0:
        return "Starting…"
    left = job.seconds_left
    done = f"{100 * job.done / job.total:.0f} %"
    return done if left is None else f"{done} · {duration(left)} left"


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate deserves: ``"35 s"``, ``"4 min"``, ``"1.5 h"``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def show_problem(error: Exception) -> None:
    """Show an error once, as a napari notification.

    A `Vox3dError` says all itself, and too little memory is nobody's fault. Any other comes with
    its type, its traceback behind a button, and the request to report it.
    """
    if (told := as_sentence(error)) is not None:
        show_error(str(told))
        return
    said = f"{type(error).__name__}: {error}".rstrip(".")
    unexpected = UnexpectedError(f"{said}. This was not foreseen; please report it.")
    unexpected.__cause__ = error
    notification_manager.receive_error(UnexpectedError, unexpected, error.__traceback__)
