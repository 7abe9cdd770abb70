"""Whether several devices and several workers end as one device does, and what becomes of a run when one is killed.

Devices are logical ones of this machine's processor, workers are processes on loopback. All run the same small network,
trained once, on the digits; their reports are compared. Then one of several workers is killed in the middle of the
solve, and the run resumed with another number of them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from cobla_tf.experiments.benchmarks.ports import free_ports
from tabulate import tabulate

from cobla_tf.terminal import run_with_flags

_DEVICES = flags.DEFINE_list("devices", ["2", "4"], "Numbers of logical devices to compare with one.")
_WORKERS = flags.DEFINE_list("workers", ["2", "3"], "Numbers of workers to compare with one device.")
_KILLED = flags.DEFINE_list("killed", ["1", "0"], "Which worker of the most to kill, a run each; 0 is the chief.")
_FLAGS = flags.DEFINE_string("flags", "", "Further flags of every run, separated by blanks.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; none by default.")

RUN = (
    "--dataset=digits", "--macs=0.5", "--params=0.5", "--iterations=6", "--refine_iterations=2", "--epochs=2",
    "--optimizer=yellowfin", "--batch_size=100", "--precision=float32", "--exports=keras",
)  # fmt: skip
DEVICES = """
import sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1]))
from cobla_tf.main import run
run(["cobla_tf", *sys.argv[2:]])
"""
SIGN = "solve 1, iteration 1"
"""What the chief's log says when it is time to kill."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        codes: exit codes of its processes.
        last: what each said last, on standard error.
        seconds: until the last one had ended; after the kill, if there was one.
    """

    codes: list[int]
    last: list[str]
    seconds: float


def alone(folder: Path, given: Sequence[str], devices: int = 1) -> Outcome:
    """One process with one or several logical devices."""
    begin = ["-m", "cobla_tf.main"] if devices == 1 else ["-c", DEVICES, str(devices), "--strategy=mirrored"]
    return _ended([_start([*begin, *given, f"--output_dir={folder}"], folder, 0)], folder)


def together(folder: Path, given: Sequence[str], count: int, killed: int | None = None) -> Outcome:
    """Several workers; one of them killed in the middle of the solve, if wanted."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    processes = []
    for index in range(count):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        arguments = ["-m", "cobla_tf.main", "--strategy=multi_worker", *given, f"--output_dir={folder}"]
        processes.append(_start(arguments, folder, index, {"TF_CONFIG": config}))
    if killed is not None:
        while SIGN not in _log(folder, 0).read_text() and processes[0].poll() is None:
            time.sleep(0.1)
        processes[killed].kill()
    return _ended(processes, folder)


def _start(arguments: list[str], folder: Path, index: int, more: dict[str, str] | None = None) -> subprocess.Popen:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **(more or {})}
    folder.mkdir(exist_ok=True)
    with _log(folder, index).open("w") as log:
        return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=log)


def _log(folder: Path, index: int) -> Path:
    return folder / f"worker{index}.log"


def _ended(processes: list[subprocess.Popen], folder: Path) -> Outcome:
    began = time.monotonic()
    codes = [process.wait() for process in processes]
    seconds = time.monotonic() - began
    logs = [_log(folder, index).read_text().splitlines() for index in range(len(codes))]
    return Outcome(codes, [lines[-1] if lines else "" for lines in logs], seconds)


def differences(folder: Path, reference: Path) -> dict[str, Any]:
    """How two runs' reports differ: sites of other rank, and the largest differences of what are real numbers."""
    one, other = (json.loads((each / "report.json").read_text(encoding="utf-8")) for each in (reference, folder))
    return {
        "ranks that differ": sum(a["rank"] != b["rank"] for a, b in zip(one["sites"], other["sites"], strict=True)),
        "masks": _largest(one["sites"], other["sites"], "masks"),
        "loss of an iteration": _largest(one["iterations"], other["iterations"], "loss"),
        "held-out loss": _largest(list(one["evaluations"].values()), list(other["evaluations"].values()), "loss"),
        "loss of an epoch": _largest(one["fine_tuning"], other["fine_tuning"], "loss"),
    }


def _largest(some: list[dict], others: list[dict], name: str) -> float:
    pairs = [(np.asarray(a[name]), np.asarray(b[name])) for a, b in zip(some, others, strict=True)]
    return max((float(np.abs(a - b).max()) for a, b in pairs if a.size), default=0.0)


def _table(rows: list[dict[str, Any]]) -> str:
    names = max(rows, key=len)
    return tabulate(rows, headers="keys", floatfmt=tuple(".1f" if name.endswith(", s") else ".1e" for name in names))


def _compare(work: Path, given: Sequence[str]) -> list[dict[str, Any]]:
    runs = [(f"{count} devices", alone, int(count)) for count in _DEVICES.value]
    runs += [(f"{count} workers", together, int(count)) for count in _WORKERS.value]
    rows = []
    for name, run, count in runs:
        outcome = run(work / name, given, count)
        if any(outcome.codes):
            raise RuntimeError(f"{name}: {outcome}")
        rows.append({"run": name, **differences(work / name, work / "one"), "takes, s": outcome.seconds})
    return rows


def _kill(work: Path, given: Sequence[str], killed: int) -> dict[str, Any]:
    count = max(map(int, _WORKERS.value))
    name = f"{count} workers, number {killed} killed"
    stopped = together(work / name, given, count, killed)
    left = [i for i in range(count) if i != killed]
    for i in left:
        print(f"{name}: worker {i} ended with {stopped.codes[i]} within {stopped.seconds:.1f} s: {stopped.last[i]}")
    resumed = together(work / name, given, count - 1)
    print(*(line for line in _log(work / name, 0).read_text().splitlines() if "resumed" in line), sep="\n")
    if any(resumed.codes):
        raise RuntimeError(f"{name}, resumed: {resumed}")
    row = {**differences(work / name, work / "one"), "takes, s": resumed.seconds}
    said = {
        "killed": killed,
        "the others ended after, s": stopped.seconds,
        "with code": [stopped.codes[i] for i in left],
    }
    return {"run": f"{count} workers, resumed with {count - 1}", **row, **said}


def main(argv: list[str]) -> int:
    """Run all of them and print a table; 1 if ranks differ."""
    with tempfile.TemporaryDirectory() as folder:
        work, more = Path(folder), _FLAGS.value.split()
        made = alone(work / "made", ["--model=digits_cnn", "--pretrain_epochs=4", *RUN, "--iterations=1", "--epochs=0"])
        given = [f"--model={work / 'made' / 'pretrained.keras'}", *RUN, *more]
        one = alone(work / "one", given)
        if any(made.codes + one.codes):
            raise RuntimeError(f"{made} {one}")
        print(f"one device: {one.seconds:.0f} s", flush=True)
        rows = _compare(work, given)
        print(_table(rows), flush=True)
        rows += [_kill(work, given, int(killed)) for killed in _KILLED.value]
        print(_table(rows))
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 1 if any(row["ranks that differ"] for row in rows) else 0


if __name__ == "__main__":
    run_with_flags("workers", main, sys.argv, stopped="nothing is kept")
