import os
import sys

import pytest
import soak


@pytest.fixture(scope="session")
def reader():
    """A process that reads damaged files with a gigabyte of memory; another one if it dies."""
    workers = [soak.Worker()]

    def read(format, seed):
        if workers[-1].process.poll() is not None:
            workers.append(soak.Worker())
        return workers[-1].read(format, seed)

    read.formats = workers[0].formats
    yield read
    workers[-1].stop()


@pytest.fixture(scope="session")
def nursery():
    """A process whose children may be killed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs processes that fork")
    from nursery import Nursery

    one = Nursery()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def long():
    """Whether this is `make soak`, which has time for many more cases than the tests have."""
    return os.environ.get(soak.LONG) == "1"


@pytest.fixture
def cases(request):
    """Count cases of a test, and the seconds and the memory of each, for the table."""
    lives = []
    yield lives.append
    request.node.user_properties += [
        ("cases", len(lives)),
        ("slowest", max((life.seconds for life in lives), default=0.0)),
        ("memory", max((life.memory for life in lives), default=0)),
    ]


@pytest.fixture
def linux():
    if sys.platform != "linux":
        pytest.skip("limits and figures of memory are Linux's")
