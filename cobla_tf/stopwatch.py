"""Times runs in turn; as a process of its own, with a number of threads that TensorFlow takes only at its start.

python -m cobla_tf.stopwatch FOLDER reads FOLDER/job.json: threads, seconds, names in the files' signatures, and batches
of FOLDER/images.npz for files [[runtime, path of a network, path of another, ...]], as many in every runtime. It writes
FOLDER/times.json: a list of [runtime, batch, seconds of the first network in every round, seconds of the second, ...],
and sentences on failures.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cobla_tf import runtimes

Array = np.ndarray
LEAST_ROUNDS = 5


def interleave(
    runs: Sequence[Callable[[], Any]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Array:
    """Seconds of every run by a clock, float64 [rounds, runs], after one that does not count.

    All are run in turn, to and fro, until the time is up: what else the machine does falls on all of them alike.
    """
    if not runs:
        return np.empty((0, 0))
    for run in runs:
        run()
    rounds: list[Array] = []
    end = time.perf_counter() + seconds
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        spent = np.empty(len(runs))
        for i in range(len(runs))[:: -1 if len(rounds) % 2 else 1]:
            began = clock()
            runs[i]()
            spent[i] = clock() - began
        rounds.append(spent)
    return np.array(rounds)


def main(folder: Path) -> None:
    """Do one job."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    _set_threads(job["threads"])
    images = runtimes.read_arrays(folder / "images.npz")
    batches = [(size, runtimes.repeated(images, size)) for size in job["batches"]]
    cells, runs, failures = [], [], {}
    for runtime, *paths in job["files"]:
        try:
            for size, batch in batches:  # a LiteRT file of its own for each size: resizing takes time
                options = {"threads": job["threads"], "names": job["names"]}
                loaded = [runtimes.load(runtime, path, **options) for path in paths]
                for run in loaded:
                    run(batch)
                runs += [lambda run=run, batch=batch: run(batch) for run in loaded]
                cells.append((runtime, size))
        except Exception as error:  # a runtime may raise nearly anything, and must cost no other
            failures[runtime] = f"{type(error).__name__}: {error}"
    times = interleave(runs, job["seconds"]).T.tolist()
    each = len(times) // max(len(cells), 1)
    rows = [(*cell, *times[i * each : (i + 1) * each]) for i, cell in enumerate(cells)]
    (folder / "times.json").write_text(json.dumps({"times": rows, "failures": failures}), encoding="utf-8")


def _set_threads(count: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
