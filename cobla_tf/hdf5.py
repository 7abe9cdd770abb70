"""Whether an HDF5 file can be read to its end: at a single wrong bit HDF5's own library may go round for ever.

`python -P hdf5.py FILE` reads all that is in a file; a process of its own can be ended.
"""

import subprocess
import sys
from pathlib import Path

SECONDS, BYTES_A_SECOND = 20.0, 10e6
"""What reading may take at least, and how fast it is expected to be: far slower than any disk."""


def why_unreadable(path: str | Path) -> str:
    """What is wrong with a file, as the end of a sentence; empty where all of it can be read."""
    from cobla_tf.fresh_process import last_words, run_python

    seconds = SECONDS + Path(path).stat().st_size / BYTES_A_SECOND
    try:
        done = run_python("-P", __file__, str(path), seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"the file is damaged: HDF5 came to no end of it in {seconds:.0f} s"
    return f"reading it {last_words(done)}" if done.returncode else ""


def _read_all(path: str) -> None:
    import h5py

    def read(_: str, item: h5py.Group | h5py.Dataset) -> None:
        dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            item[()]

    with h5py.File(path) as file:
        dict(file.attrs)
        file.visititems(read)


if __name__ == "__main__":
    _read_all(sys.argv[1])
