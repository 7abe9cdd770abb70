"""Results of one configuration, kept as they come: a run that was stopped goes on, and nothing is mixed."""

import csv
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from filelock import FileLock

from cobla_tf.errors import ConfigError, OutputError, first_line
from cobla_tf.files import check_writable, replace_with

Record = dict[str, Any]

MEASURED = "measured"
"""Key of what in a configuration is a number that another processor computes a little differently."""
WITHIN = 1e-2
"""Relative, up to which such numbers are the same."""


class ResultFile:
    """NAME.jsonl, to which every result is appended, and NAME.csv, the same for spreadsheets.

    Several processes may work on one file, each at cells of its own; a lock is taken around every change.

    The first line of the JSON lines is the configuration, that of the CSV a comment with it. What the CSV leaves out
    are the fields that are lists or mappings.

    Args:
        folder: where both files lie; made if need be.
        name: of the files, without their endings.
        configuration: all that results depend on beside their keys; must serialise as JSON.
        keys: fields that tell one result from another.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError: the file holds results of another configuration, or is none of ours.
    """

    def __init__(self, folder: Path, name: str, configuration: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        """Check what is there before any work."""
        check_writable(folder)
        self.csv_path = folder / f"{name}.csv"
        self._path = folder / f"{name}.jsonl"
        self._configuration = json.loads(json.dumps(configuration))
        self._keys = keys
        self._lock = FileLock(folder / f".{name}.lock")
        try:
            with self._lock:
                self._begin()
            self._check(self._read()[0])
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"{self._path} cannot be read ({first_line(error)}); name another folder, or remove the file."
            ) from error

    def records(self) -> list[Record]:
        """All results so far, those of other processes included, in the order in which they came.

        Of several with the same keys the first.
        """
        found: dict[tuple, Record] = {}
        for record in self._read()[1:]:
            found.setdefault(self._key(record), record)
        return list(found.values())

    def has(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a result with these keys."""
        return self._key(record) in map(self._key, self.records())

    def add(self, record: Record) -> None:
        """Append a result to both files."""
        with self._lock:
            self._repair()
            self._append(record)
            replace_with(self.csv_path, self._write_csv)

    def _key(self, record: Mapping[str, Any]) -> tuple:
        return tuple(record[key] for key in self._keys)

    def _begin(self) -> None:
        """Write the head, unless there is one."""
        if self._path.exists():
            self._repair()
        if not self._path.exists() or not self._path.stat().st_size:
            self._append({"configuration": self._configuration})

    def _append(self, record: Record) -> None:
        line = json.dumps(record, allow_nan=False) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _repair(self) -> None:
        """Cut off a line that was being written when its process was stopped."""
        whole, newline, torn = self._path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            logging.warning("%s: its last line is not complete and is dropped", self._path)
            replace_with(self._path, lambda path: path.write_text(whole + newline, encoding="utf-8"))

    def _read(self) -> list[Record]:
        with self._lock:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        try:
            records = [json.loads(line) for line in lines]
            records[0]["configuration"]
            for record in records[1:]:
                self._key(record)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(
                f"{self._path} holds no results of this experiment; name another folder, or remove the file."
            ) from error
        return records

    def _check(self, head: Record) -> None:
        there, here = _flat(head["configuration"]), _flat(self._configuration)
        different = [name for name in {**there, **here} if not _agree(name, there.get(name), here.get(name))]
        if different:
            parts = [f"{name} {there.get(name)!r} there and {here.get(name)!r} here" for name in different[:3]]
            raise ConfigError(
                f"{self._path} holds results of another configuration ({', '.join(parts)}); name another folder, or "
                "remove the file."
            )

    def _write_csv(self, path: Path) -> None:
        records = self.records()
        plain = {
            name: None for record in records for name, value in record.items() if not isinstance(value, list | dict)
        }
        try:
            with path.open("w", newline="", encoding="utf-8") as file:
                file.write(f"# {json.dumps(self._configuration)}\n")
                writer = csv.DictWriter(file, list(plain), extrasaction="ignore")
                writer.writeheader()
                writer.writerows(records)
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror}); name another folder.") from error


def _agree(name: str, there: Any, here: Any) -> bool:
    if name.startswith(f"{MEASURED}.") and None not in (there, here):
        return math.isclose(there, here, rel_tol=WITHIN)
    return there == here


def _flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one, their names joined by dots."""
    if not isinstance(settings, dict):
        return {name: settings}
    parts = [_flat(value, f"{name}.{key}" if name else key) for key, value in settings.items()]
    return {key: value for part in parts for key, value in part.items()}
