import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import replicas_job
from cobla_tf.experiments.benchmarks.ports import free_ports

from cobla_tf import Config
from cobla_tf.cluster import Task, own_config, this_task
from cobla_tf.devices import ONE_DEVICE, bounds
from cobla_tf.digest import digest
from cobla_tf.errors import ConfigError, WorkerError
from cobla_tf.journal import Journal
from cobla_tf.shared_journal import SharedJournal
from cobla_tf.strategy import await_chief, find_devices

JOB = replicas_job.__file__
TWO = {"worker": ["a:1", "b:1"]}
TOLERANCE = 1e-4  # float32, over some steps of training


def told(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def start(*arguments, **environment):
    path = os.pathsep.join([str(Path(JOB).parents[1]), str(Path(JOB).parent)])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, JOB, *map(str, arguments)], env=environment, text=True, **pipes)


def together(folder, count, killed=None, at=()):
    """Exit codes of several workers, their standard errors, and when each ended; one of them is killed somewhere."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}

    def ended(process):
        error = process.communicate(timeout=1200)[1]
        return process.returncode, error, time.monotonic()

    kills = [at if i == killed else () for i in range(count)]
    started = [start("worker", folder, *kill, TF_CONFIG=told(cluster, index=i)) for i, kill in enumerate(kills)]
    with ThreadPoolExecutor(count) as pool:
        return list(zip(*pool.map(ended, started), strict=True))


def same_reports(folder, other):
    """Ranks equal, all real numbers within the tolerance."""
    one, two = (json.loads((each / "report.json").read_text()) for each in (folder, other))
    assert [site["rank"] for site in one["sites"]] == [site["rank"] for site in two["sites"]]
    for name, key in (("sites", "masks"), ("sites", "scales"), ("iterations", "loss"), ("fine_tuning", "loss")):
        for a, b in zip(one[name], two[name], strict=True):
            np.testing.assert_allclose(a[key], b[key], rtol=TOLERANCE, atol=TOLERANCE)
    for stage, evaluation in one["evaluations"].items():
        assert evaluation["loss"] == pytest.approx(two["evaluations"][stage]["loss"], rel=TOLERANCE)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    replicas_job.whole(folder, "one_device")
    return folder


@pytest.fixture(scope="module")
def pieces_of_one():
    return replicas_job.pieces(ONE_DEVICE)


@pytest.mark.parametrize("count", [2, 4])
def test_several_devices_give_what_one_gives(tmp_path, one_device, pieces_of_one, count):
    process = start("logical_devices", count, tmp_path)
    output, error = process.communicate(timeout=1200)
    assert process.returncode == 0, error[-2000:]
    pieces = json.loads(output.splitlines()[0])
    assert pieces["seen"] == pieces_of_one["seen"]
    for name, expected in pieces_of_one.items():
        if name != "history":
            np.testing.assert_allclose(pieces[name], expected, rtol=TOLERANCE, atol=1e-5, err_msg=name)
    for epoch, expected in zip(pieces["history"], pieces_of_one["history"], strict=True):
        assert [name for name, _ in epoch] == [name for name, _ in expected]
        np.testing.assert_allclose([v for _, v in epoch], [v for _, v in expected], rtol=TOLERANCE)
    same_reports(tmp_path, one_device)


def test_workers_are_killed_and_others_go_on_to_what_one_device_gives(tmp_path, one_device):
    """A worker of three in the solve, then the chief of two in the second epoch (of four batches), then three."""
    kept = b""
    for count, killed, at in ((3, 2, ("gradient", 3)), (2, 0, ("batch", 6))):
        codes, errors, times = together(tmp_path, count, killed, at)
        (journal,) = (tmp_path / "unfinished").glob("solve-*.journal")
        content = journal.read_bytes()
        assert content.startswith(kept)  # with the seconds that answers took, which none computed again would have
        kept = content
        assert codes == tuple(-9 if i == killed else 3 for i in range(count)), errors
        for i in set(range(count)) - {killed}:
            assert "another worker has stopped" in errors[i].splitlines()[-1], errors[i][-1500:]
            assert times[i] - times[killed] < 60
    codes, errors, _ = together(tmp_path, 3)
    assert codes == (0, 0, 0), errors
    same_reports(tmp_path, one_device)
    text = (tmp_path / "report.md").read_text()
    for earlier in ("evaluations are of an earlier attempt", "1 epoch of fine-tuning is of an earlier attempt"):
        assert earlier in text


def test_a_worker_waits_for_its_chief_but_not_for_ever():
    (port,) = free_ports(1)
    task = Task(1, 2, f"127.0.0.1:{port}")
    with pytest.raises(WorkerError, match=rf"^worker 1 has waited \d+ s for the chief at 127\.0\.0\.1:{port} \("):
        await_chief(task, most=0.2)
    chief = []
    late = Timer(0.5, lambda: chief.append(socket.create_server(("127.0.0.1", port))))
    late.start()
    await_chief(task, most=30)
    late.join()
    chief[0].close()


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_parts_cover_all_once_and_are_never_empty(size, parts):
    cut = [bounds(size, place, parts) for place in range(parts)]
    assert all(0 <= begin < end <= size for begin, end, _ in cut)
    assert [i for begin, end, owned in cut if owned for i in range(begin, end)] == list(range(size))


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (told(TWO), Task(0, 2, "a:1")),
        (told(TWO, index=1), Task(1, 2, "a:1")),
        (told({"worker": {"0": "a:1", "1": "b:1"}}, index=1.0), Task(1, 2, "a:1")),
        (told({"worker": {"1": "b:1", "0": "a:1"}}, index=1), Task(1, 2, "a:1")),
        (told({"chief": ["c:1"], **TWO}, "chief"), Task(0, 3, "c:1")),
        (told({"chief": ["c:1"], **TWO}, index=1), Task(2, 3, "c:1")),
    ],
)
def test_place_among_the_workers(monkeypatch, config, task):
    monkeypatch.setenv("TF_CONFIG", config)
    assert this_task("multi_worker") == task
    assert this_task("mirrored") == Task()
    assert (own_config(Config(output_dir="out", strategy="multi_worker")).output_dir is None) == (task.index > 0)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "{}",
        told(TWO, index=2),
        told(TWO, "chief"),
        told({"ps": ["a:1"], **TWO}),
        told({}),
        told({"worker": "a:1"}),
        told({"worker": ["a:1", "a:1"]}),
        told({"worker": ["a", "b:1"]}),
        told({"worker": ["a:1", "b:70000"]}),
        told({"worker": [5, None]}),
        told(TWO, index=0.9),
        told(TWO, index=True),
        told(TWO).replace(": 0}", ": 1e999}"),
        "[" * 100_000,
    ],
)
def test_a_bad_tf_config_is_refused(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        find_devices("multi_worker")


def test_unknown_strategies_and_late_workers_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="strategy must be one of"):
        Config(strategy="tpu")
    with pytest.raises(ConfigError, match=r"strategy must be one of one_device, .*got 'tpu'"):
        find_devices("tpu")
    np.asarray(replicas_job.small_cnn().get_weights()[0])  # TensorFlow is at work
    monkeypatch.setenv("TF_CONFIG", told(TWO))
    with pytest.raises(ConfigError, match="before TensorFlow computes"):
        find_devices("multi_worker")


def test_batches_smaller_than_the_number_of_replicas_are_refused(monkeypatch):
    monkeypatch.setattr(ONE_DEVICE, "count", 8)
    with pytest.raises(ConfigError, match="at least that, got 7"):
        ONE_DEVICE.check_batch(7)
    ONE_DEVICE.check_batch(8)


def test_mirrored_with_one_device_is_one_device():
    devices = find_devices("mirrored")
    assert devices.count == 1
    assert devices.copied("model") == "model"


class Chief:
    """What another worker sees of a chief that asks one question."""

    index = 1

    def __init__(self, question, answer):
        size = -1 if answer is None else len(answer)
        self.answers = [np.array([size, *digest(*question)], float), answer]

    def agreed(self, values):
        return self.answers.pop(0)


def test_workers_take_the_chiefs_answers_and_notice_other_questions():
    def shared(answer):
        return SharedJournal(Journal(None, {}), Chief(("value", 1.5), answer))

    def never():
        pytest.fail("the chief knows the answer")

    assert shared(np.ones(3)).answer(("value", 1.5), never).tolist() == [1, 1, 1]
    assert shared(None).answer(("value", 1.5), lambda: [2.0]).tolist() == [2]
    with pytest.raises(WorkerError, match="worker 1 has come to another value than the chief"):
        shared(None).answer(("value", 2.5), never)
