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
