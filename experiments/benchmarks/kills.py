"""Whether runs that are killed end as one that never was: `kill -9` at random moments of real runs.

One run is left alone and timed. Then the same command is killed after a random time, given again, killed again, and so
on; whenever it comes to its end in spite of that, its report is compared, and another one begins.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from absl import flags

from cobla_tf.terminal import run_with_flags

_KILLS = flags.DEFINE_integer("kills", 20, "How often to kill.", 1)
_FLAGS = flags.DEFINE_string("flags", "", "Flags of the run, separated by blanks; the digits if unset.")
_CHANCE = flags.DEFINE_integer("chance", 0, "Seed of the moments.")
SAME = ("sites", "budgets", "evaluations", "fine_tuning", "status")
"""Fields of the report that must not differ."""
STAGES = ("training", "the trained network", "original", "solve", "rounding", "refine", "compressed", "fine-tuned")
"""How messages of the log begin that tell how far a run is."""


def run(folder: Path, seconds: float | None = None) -> str | None:
    """Run in a folder, killed after some seconds; the stage that it was killed in, None where it came to its end.

    Raises:
        RuntimeError: it ended with an error.
    """
    command = [sys.executable, "-m", "cobla_tf.main", *_FLAGS.value.split(), f"--output_dir={folder}"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        log.seek(0)
        lines = log.read().splitlines()
    if code > 0:
        raise RuntimeError("\n".join(lines))
    messages = [line.partition(" ")[2] for line in lines]
    told = [name for message in messages for name in STAGES if message.startswith(name)]
    return (f"after '{told[-1]}'" if told else "start") if code else None


def report(folder: Path) -> dict:
    """What must be the same."""
    whole = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {name: whole[name] for name in SAME}


def killed_runs(folder: Path, longest: float) -> tuple[Counter[str], list[dict]]:
    """Stages that _KILLS kills came in, and the reports of the runs that ended in spite of them."""
    chance, stages, reports = random.Random(_CHANCE.value), Counter(), []
    while True:
        own = folder / f"run{len(reports)}"
        enough = stages.total() == _KILLS.value
        stage = run(own, None if enough else chance.uniform(0.2, 1.0) * longest)
        if stage is None:
            reports.append(report(own))
            if enough:
                return stages, reports
            continue
        stages[stage] += 1
        print(f"kill {stages.total()}: {stage}", flush=True)


def main(argv: list[str]) -> int:
    """Run, kill, compare; 1 if a report differs."""
    with tempfile.TemporaryDirectory() as work:
        began = time.monotonic()
        run(Path(work, "whole"))
        longest = time.monotonic() - began
        stages, reports = killed_runs(Path(work), longest)
        same = sum(one == report(Path(work, "whole")) for one in reports)
    print(f"{stages.total()} kills: " + ", ".join(f"{stage} {count}" for stage, count in stages.items()))
    print(f"{same} of {len(reports)} runs ended as the one that was never killed ({longest:.0f} s)")
    return 0 if same == len(reports) else 1


if __name__ == "__main__":
    run_with_flags("kills", main, sys.argv, stopped="nothing is kept")
