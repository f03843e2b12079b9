import gc
import sys
import threading
import time
import weakref

import pytest
from napari.utils.progress import progress as napari_progress
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QApplication

import napari_vox3d.inference
from napari_vox3d.errors import FormatError, InferenceError
from napari_vox3d.gui.workers import BackgroundJob, RunControl, describe_progress, duration


@pytest.fixture
def control(qtbot):
    def make(function, networks=False, then=None, **kwargs):
        results = []

        def start():
            run.run(function, then=then or results.append, **kwargs)

        run = RunControl("Run it", start, networks=networks)
        run.results = results
        qtbot.addWidget(run)
        return run

    return make


def ended(qtbot, control):
    qtbot.waitUntil(lambda: not control.running, timeout=20000)


def until_stopped(progress):
    while True:
        progress(1, 10)
        time.sleep(0.01)


def test_result_arrives_on_the_main_thread(qtbot, control):
    threads = []

    def work(progress, factor):
        threads.append(threading.current_thread())
        progress(0, 3)
        progress(3, 3)
        return 2 * factor

    run = control(work, factor=21)
    run.press()
    assert run.running
    assert run.button.text() == "Cancel"
    ended(qtbot, run)
    assert run.results == [42]
    assert threads[0] is not threading.main_thread()
    assert run.button.text() == "Run it"
    assert run.button.isEnabled()
    assert not run.bar.isVisible()


def test_a_job_that_has_ended_holds_nothing(qtbot):
    """For napari remembers it: a mapped file would stay open."""

    class Tomogram:
        pass

    tomogram, ends = Tomogram(), []
    gone = weakref.ref(tomogram)
    job = BackgroundJob("Run it", lambda volume, progress: volume, tomogram)
    del tomogram
    job.start(lambda job: ends.append(job.result is gone()))
    qtbot.waitUntil(lambda: bool(ends), timeout=20000)
    assert ends == [True]
    gc.collect()
    assert gone() is None


def test_cancel_stops_the_function(qtbot, control, errors):
    stopped = []

    def work(progress):
        try:
            until_stopped(progress)
        finally:
            stopped.append(True)

    run = control(work)
    run.press()
    qtbot.waitUntil(lambda: run.bar.text() == "10 %")
    run.press()
    assert run.button.text() == "Cancelling…"
    assert not run.button.isEnabled()
    ended(qtbot, run)
    assert stopped
    assert run.results == []
    assert errors == []
    assert run.button.text() == "Run it"
    assert run.button.isEnabled()


def test_activity_dock_shows_and_cancels(qtbot, control):
    run = control(until_stopped)
    run.press()
    (activity,) = [bar for bar in napari_progress._all_instances if bar.desc.startswith("Run it")]
    qtbot.waitUntil(lambda: activity.n == 1)
    assert activity.total == 10
    activity.cancel()
    ended(qtbot, run)
    assert activity not in napari_progress._all_instances
    assert run.results == []


def _out_of_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("make_error", "message"),
    [
        (lambda: InferenceError("Too large for cpu."), "Too large for cpu."),
        (lambda: FormatError("a.mrc", "is empty"), "a.mrc: is empty."),
        (lambda: RuntimeError("shapes differ"), "RuntimeError: shapes differ. "),
        (
            _out_of_memory,
            "Memory ran out (CUDA out of memory). Close other programs, or take a "
            "smaller part, a coarser grid or a smaller network.",
        ),
        (lambda: ValueError("no such value"), "ValueError: no such value. "),
    ],
)
def test_an_error_is_shown_once_and_run_comes_back(qtbot, control, errors, make_error, message):
    error = make_error()

    def work(progress):
        raise error

    run = control(work)
    with qtbot.capture_exceptions() as raised:
        run.press()
        ended(qtbot, run)
        qtbot.wait(50)
    assert raised == []
    (shown,) = errors
    assert shown.message.startswith(message)
    assert shown.message == message or "please report it" in shown.message
    assert run.button.text() == "Run it"
    assert run.button.isEnabled()
    assert run.results == []


def test_an_error_while_preparing_is_shown(qtbot, errors):
    def prepare():
        raise FormatError("POSCAR", "does not exist")

    run = RunControl("Run it", prepare)
    qtbot.addWidget(run)
    run.press()
    assert [shown.message for shown in errors] == ["POSCAR: does not exist."]
    assert not run.running


def test_an_error_while_showing_leaves_the_button_usable(qtbot, errors):
    def show(result):
        raise InferenceError("Nothing to show.")

    run = RunControl("Run it", lambda: run.run(lambda progress: None, then=show))
    qtbot.addWidget(run)
    run.press()
    ended(qtbot, run)
    assert [shown.message for shown in errors] == ["Nothing to show."]
    assert run.button.isEnabled()


def test_the_window_answers_between_the_steps_of_showing(qtbot, control):
    happened = []

    def show(result):
        QTimer.singleShot(0, lambda: happened.append("window"))
        happened.append(result)
        yield
        happened.append("rest")

    run = control(lambda progress: "result", then=show)
    run.ended.connect(lambda: happened.append("ended"))
    with qtbot.waitSignal(run.ended):
        run.press()
    assert happened == ["result", "window", "rest", "ended"]
    assert run.button.isEnabled()


def test_an_error_between_the_steps_of_showing_ends_it(qtbot, control, errors):
    def show(result):
        yield
        raise InferenceError("Nothing more to show.")

    run = control(lambda progress: None, then=show)
    with qtbot.waitSignal(run.ended):
        run.press()
    assert [shown.message for shown in errors] == ["Nothing more to show."]
    assert run.button.isEnabled()


def test_there_is_one_job_at_a_time(qtbot, control):
    started = []

    def work(progress):
        started.append(True)
        until_stopped(progress)

    run = control(work)
    run.press()
    run.run(work, then=run.results.append)
    qtbot.waitUntil(lambda: bool(started))
    run.cancel()
    ended(qtbot, run)
    assert started == [True]


def test_a_widget_destroyed_while_running_does_no_harm(qtbot, errors):
    release, results = threading.Event(), []

    def work(progress):
        release.wait(10)
        return 1

    run = RunControl("Run it", lambda: run.run(work, then=results.append))
    run.press()
    run.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    release.set()
    with qtbot.capture_exceptions() as raised:
        ended(qtbot, run)
    assert raised == []
    assert errors == []
    assert results == []


def test_loading_torch_is_said_at_once(qtbot, control, monkeypatch):
    release = threading.Event()

    class Slowly:
        def find_spec(self, name, *_):
            if name == "napari_vox3d.inference.device":
                release.wait(10)

    monkeypatch.setattr(napari_vox3d.inference, "device", None, raising=False)
    monkeypatch.delitem(sys.modules, "napari_vox3d.inference.device", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Slowly(), *sys.meta_path])
    run = control(lambda progress: "done", networks=True)
    run.press()
    qtbot.waitUntil(lambda: run.bar.text() == "Loading PyTorch…")
    release.set()
    ended(qtbot, run)
    assert run.results == ["done"]


def test_what_needs_no_network_does_not_wait_for_torch(qtbot, control, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari_vox3d.inference.device", None)  # cannot be imported
    run = control(lambda progress: "done")
    run.press()
    ended(qtbot, run)
    assert run.results == ["done"]


def test_progress_in_words(qtbot, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    job = BackgroundJob("Count", lambda progress: None)
    assert describe_progress(job) == "Starting…"
    job._report(0, 40)
    assert job.seconds_left is None
    now[0] = 112.0
    job._report(12, 40)
    assert describe_progress(job) == "30 % · 28 s left"
    now[0] = 115.0  # the estimate counts down between two reports
    assert describe_progress(job) == "30 % · 25 s left"
    job._report(2, 80)  # smaller tiles: a new start
    assert describe_progress(job) == "2 %"
    now[0] = 117.0
    job._report(4, 80)
    assert describe_progress(job) == "5 % · 76 s left"
    job._report(80, 80)
    assert describe_progress(job) == "100 %"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (5400, "1.5 h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
