"""Another Python process: one that knows nothing of what this one has loaded, and computes on the processor."""

import os
import subprocess
import sys
import textwrap


def run_python(*arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess:
    """Run Python with these arguments, without GPUs and without TensorFlow's own lines, to its end.

    Raises:
        subprocess.TimeoutExpired: it was ended, having taken longer than this.
    """
    plain = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=plain, capture_output=True, text=True, errors="replace", check=False, timeout=seconds
    )


def last_words(done: subprocess.CompletedProcess) -> str:
    """How a process ended that failed: its exit code, and the last line that it wrote."""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return one_line(f"ended with {done.returncode}: {last}")


def one_line(text: str) -> str:
    """A foreign message, to stand inside one sentence of ours."""
    return textwrap.shorten(text, 300, placeholder=" ...")
