"""Whether runs that are killed end as one that never was: `kill -9` at random moments of every phase of real runs.

One run is left alone and timed. Then the same command is killed at a random moment of a phase, given again, killed
again, and so on. A run that has been killed in every phase comes to its end and is compared, and another one begins,
until each phase has had its kills.
"""

import io
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import h5py
from absl import flags
from tabulate import tabulate

from cobla_tf.digest import digest
from cobla_tf.errors import ConfigError
from cobla_tf.terminal import run_with_flags
from cobla_tf.unfinished import FOLDER

START = "start"
SIGNS = {
    "training": r"training \S+ for",
    "checks": r"the trained network lies in",
    "solve": r"original: loss",
    "rounding": r"rounding begins",
    "refining": r"refining begins",
    "evaluation": r"heuristic start: loss",
    "fine-tuning": r"compressed: loss",
    "last evaluation": r"fine-tuned: loss",
    "export": r"writing ",
}
"""What a run does after its start, in this order, and the message of the log that each begins with."""
PHASES = ("training", "solve", "rounding", "refining", "fine-tuning", "export")
ORDER = (START, *SIGNS)
SAME = {"ranks": ("sites", "budgets", "status"), "losses and accuracies": ("evaluations", "fine_tuning")}
"""What must not differ, by fields of the report."""
EACH, MOST_RUNS = 3, 2
"""Most kills in one phase of one run, so that several come to their end; most runs for each kill wanted in a phase."""
LOOK_EVERY = 0.005
"""Seconds between two looks at a log."""
COMMAND = (sys.executable, "-m", "cobla_tf.main")

_KILLS = flags.DEFINE_integer("kills", 20, "How often to kill in each phase.", 1)
_PHASES = flags.DEFINE_list("phases", list(PHASES), f"To kill in: any of {', '.join(SIGNS)}.")
_FLAGS = flags.DEFINE_string("flags", "", "Flags of the run, separated by blanks; the digits if unset.")
_CHANCE = flags.DEFINE_integer("chance", 0, "Seed of the moments.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; none by default.")


@dataclass(frozen=True)
class Kill:
    """One `kill -9`.

    Attributes:
        run: number of the run.
        phase: that it was in.
        seconds: since this phase had begun, in this attempt.
        lost: since anything was kept last, or since the phase had begun: seconds of work to be done again.
        resumed: whether the next attempt said that it goes on from all that was kept; None where nothing was yet.
    """

    run: int
    phase: str
    seconds: float
    lost: float
    resumed: bool | None


class Attempt:
    """The command at work in a folder, and how far its log says that it is.

    Args:
        folder: of the output.
        kept: parts of what it will say that it goes on from.

    Attributes:
        began: when each phase began so far, the present one last.
    """

    def __init__(self, folder: Path, kept: Sequence[str] = ()) -> None:
        """Start it."""
        self._kept = kept
        command = [*COMMAND, *_FLAGS.value.split(), f"--output_dir={folder}"]
        self._log, self._text = folder.with_suffix(".log"), ""
        self.began = {START: time.time()}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)

    @property
    def phase(self) -> str:
        """The present one."""
        return next(reversed(self.began))

    @property
    def resumed(self) -> bool:
        """Whether it has said that it goes on from all that was kept."""
        return all(part in self._text for part in self._kept)

    def until(self, reached: Callable[[], bool]) -> bool:
        """Wait; whether what is waited for came before the end.

        Raises:
            RuntimeError: it ended with an error.
        """
        while True:
            code = self._process.poll()
            self._read()
            if code:
                raise RuntimeError(self._text)
            if code == 0 or reached():
                return code is None
            time.sleep(LOOK_EVERY)

    def killed_in(self, phase: str, seconds: float) -> bool:
        """Kill it so long after a phase has begun, which may be over by then, and once it has resumed.

        Returns:
            False if it came to its end before.
        """
        if not self.until(lambda: ORDER.index(self.phase) >= ORDER.index(phase)):
            return False
        moment = time.time() + seconds
        if not self.until(lambda: time.time() >= moment and self.resumed):
            return False
        self._process.kill()
        self._process.wait()
        self._read()
        return True

    def _read(self) -> None:
        self._text = self._log.read_text(encoding="utf-8")
        for line in self._text.splitlines():
            for phase, sign in SIGNS.items():
                if phase not in self.began and re.match(sign, line.partition(" ")[2]):
                    self.began[phase] = time.time()


def killed_run(folder: Path, run: int, counts: Counter[str], spans: dict[str, float]) -> list[Kill]:
    """A run that is killed in every phase that is short of kills, and then comes to its end.

    Args:
        folder: its own.
        run: its number.
        counts: kills so far, by phase; these are added.
        spans: seconds of each phase to kill in.
    """
    kills: list[Kill] = []
    while True:
        kept = _kept(folder, kills)
        attempt = Attempt(folder, kept)
        killed = attempt.killed_in(*_aim(run, kills, counts, spans))
        if kills and kept:
            kills[-1] = replace(kills[-1], resumed=attempt.resumed)
        if not killed or _complete(folder):
            return kills
        kills.append(_kill(folder, run, attempt))
        counts[attempt.phase] += 1
        print(f"run {run}, kill {len(kills)}: {kills[-1].seconds:.1f} s into {attempt.phase}", flush=True)


def _aim(run: int, kills: list[Kill], counts: Counter[str], spans: dict[str, float]) -> tuple[str, float]:
    """The next phase to kill in that is not over, and after how many seconds of it; never if none is short of kills."""
    own = Counter(kill.phase for kill in kills)
    for phase, span in spans.items():
        if counts[phase] < _KILLS.value and own[phase] < EACH and ORDER.index(phase) >= _furthest(kills):
            return phase, span * random.Random(f"{_CHANCE.value} {run} {len(kills)}").random()
    return START, math.inf


def _furthest(kills: list[Kill]) -> int:
    return max((ORDER.index(kill.phase) for kill in kills), default=0)


def _kept(folder: Path, kills: list[Kill]) -> list[str]:
    """What the next attempt will name where it says that it goes on."""
    answers = ["losses, gradients and evaluations"] if _furthest(kills) >= ORDER.index("solve") else []
    return answers + [path.name for path in (folder / FOLDER).glob("*.npz")]


def _complete(folder: Path) -> bool:
    """Whether all is written: what a run goes on from has gone, and there is nothing left to kill but its exit."""
    return (folder / "report.json").exists() and not any((folder / FOLDER).glob("*.journal"))


def _kill(folder: Path, run: int, attempt: Attempt) -> Kill:
    now, began = time.time(), attempt.began[attempt.phase]
    kept = (path.stat().st_mtime for path in (folder / FOLDER).glob("*"))
    return Kill(run, attempt.phase, now - began, now - max([began, *kept]), None)


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same; of the weights a digest."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    found = {name: [report[field] for field in fields] for name, fields in SAME.items()}
    path = folder / "compressed.keras"
    return found | ({"weights": _weights(path)} if path.exists() else {})


def _weights(path: Path) -> dict[str, bytes]:
    found = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = digest(item[()])

    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(add)
    return found


def table(kills: list[Kill], spans: dict[str, float]) -> str:
    """One line a phase."""
    rows = []
    for phase in ORDER:
        own = [kill for kill in kills if kill.phase == phase]
        if own:
            lost, known = [kill.lost for kill in own], [kill.resumed for kill in own if kill.resumed is not None]
            resumed = f"{sum(known)} of {len(known)}" if known else "-"
            rows.append([phase, spans.get(phase), len(own), resumed, median(lost), max(lost)])
    heads = ["phase", "takes, s", "kills", "went on", "done again, s: median", "most"]
    return tabulate(rows, heads, floatfmt=".1f", missingval="-", disable_numparse=[3])


def main(argv: list[str]) -> int:
    """Run, kill, compare; 1 if anything differs, or a phase had too few kills."""
    del argv
    kills, ends = [], []
    with tempfile.TemporaryDirectory() as work:
        expected, spans = _undisturbed(Path(work, "whole"))
        counts, began = Counter(), time.time()
        while any(counts[phase] < _KILLS.value for phase in spans) and len(ends) < MOST_RUNS * _KILLS.value:
            folder = Path(work, f"run{len(ends)}")
            kills += killed_run(folder, len(ends), counts, spans)
            ended = outcome(folder)
            ends.append({name: ended[name] == expected[name] for name in expected})
        seconds = time.time() - began
    print(f"\n{table(kills, spans)}\n")
    same = [f"{name} {sum(end[name] for end in ends)}" for name in expected]
    print(f"{len(ends)} runs, killed {len(kills)} times; as the one never killed: {', '.join(same)}")
    if _OUTPUT.value:
        found = {"flags": _FLAGS.value.split(), "seed": _CHANCE.value, "spans": spans, "seconds": seconds, "same": ends}
        text = json.dumps(found | {"kills": [asdict(kill) for kill in kills]}, indent=1)
        Path(_OUTPUT.value).write_text(text, encoding="utf-8")
    met = all(counts[phase] >= _KILLS.value for phase in spans)
    went_on = all(kill.resumed is not False for kill in kills)
    return 0 if met and went_on and all(all(end.values()) for end in ends) else 1


def _undisturbed(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """What a run that nobody kills ends with, and the seconds of its phases to kill in.

    Raises:
        ConfigError: --phases has one that it does not have.
    """
    phases = _PHASES.value
    attempt = Attempt(folder)
    attempt.killed_in(START, math.inf)
    times = [*attempt.began.values(), time.time()]
    spans = {phase: end - begin for phase, (begin, end) in zip(attempt.began, pairwise(times), strict=True)}
    print("undisturbed: " + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in spans.items()), flush=True)
    if unknown := [phase for phase in phases if phase not in spans]:
        raise ConfigError(f"--phases must be of the run, which has {', '.join(spans)}, got {', '.join(unknown)}.")
    return outcome(folder), {phase: spans[phase] for phase in spans if phase in phases}


if __name__ == "__main__":
    run_with_flags("kills", main, sys.argv, stopped="nothing is kept")
