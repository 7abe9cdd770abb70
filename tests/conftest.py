"""Settings of all tests."""

import os
from contextlib import contextmanager

import pytest
from absl.testing import flagsaver

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core each; small networks gain nothing from more threads
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


@pytest.fixture
def full_disk():
    """A context in which the system lets no file grow beyond some bytes: writing fails half way, as on a full disk."""
    import resource

    @contextmanager
    def full(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command line from an empty folder, in this process, since TensorFlow takes longer to start than most.

    It returns the exit code, and what was printed on stdout and stderr.
    """
    from cobla_tf import main

    def run(*flags):
        monkeypatch.chdir(tmp_path)
        for what in ("cobla_tf.terminal.signal.signal", "absl.logging.use_absl_handler"):  # they would outlast the test
            monkeypatch.setattr(what, lambda *_: None)
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
            main.run(["main", *flags])
        return end.value.code, *capsys.readouterr()

    return run
