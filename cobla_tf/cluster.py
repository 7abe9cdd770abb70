"""Which processes work on one run, as TF_CONFIG tells it; known before TensorFlow is imported."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from cobla_tf.config import MULTI_WORKER, Config
from cobla_tf.errors import ConfigError

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
JOBS = ("chief", "worker")
ADDRESS = re.compile(r"\S+:\d{1,5}")
LARGEST_PORT = 65535


@dataclass(frozen=True)
class Task:
    """This process among those that work on one run.

    Attributes:
        index: from 0 on; 0 is the chief, who writes all files.
        count: of processes.
        chief: host:port of the chief; "" where there is one process only.
    """

    index: int = 0
    count: int = 1
    chief: str = ""

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and reports."""
        return self.index == 0


def this_task(strategy: str) -> Task:
    """This process's place.

    Args:
        strategy: one of config.STRATEGIES.

    Raises:
        ConfigError: several processes are asked for, and TF_CONFIG does not say which.
    """
    if strategy != MULTI_WORKER:
        return Task()
    text = os.environ.get(VARIABLE)
    if not text:
        raise ConfigError(
            f"strategy multi_worker needs the environment variable {VARIABLE} in every process, which is not set; give "
            f"the first of two processes {VARIABLE}='{EXAMPLE}', and the second one index 1."
        )
    try:
        return _read(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{VARIABLE} must be of the form {EXAMPLE}, got {text!r}.") from error


def _read(content: Any) -> Task:
    cluster, task = content["cluster"], content["task"]
    if any(isinstance(addresses, str) for addresses in cluster.values()):
        raise ValueError("one address without brackets")
    listed = {
        job: [of[i] for i in sorted(of, key=int)] if isinstance(of, dict) else list(of) for job, of in cluster.items()
    }
    sizes = {job: len(listed[job]) for job in JOBS if job in listed}
    addresses = [address for job in sizes for address in listed[job]]  # the chief's first
    if len(set(addresses)) < len(addresses) or not all(map(_is_address, addresses)):
        raise ValueError("addresses that are no host:port, or one twice")
    kind, index = task["type"], task["index"]
    if isinstance(index, bool) or float(index) % 1:
        raise ValueError("an index that is no whole number")
    index = int(index)
    if set(cluster) - set(JOBS) or not 0 <= index < sizes[kind] or sizes.get("chief", 1) != 1:
        raise ValueError("not a cluster of one chief and workers")
    before = sizes.get("chief", 0) if kind == "worker" else 0
    return Task(before + index, len(addresses), addresses[0])


def _is_address(text: str) -> bool:
    return ADDRESS.fullmatch(text) is not None and int(text.rsplit(":", 1)[1]) <= LARGEST_PORT


def own_config(config: Config) -> Config:
    """A user's settings as they are for this process: files and timings are the chief's alone.

    Raises:
        ConfigError: as `this_task`.
    """
    if this_task(config.strategy).is_chief:
        return config
    return dataclasses.replace(config, output_dir=None, benchmark=False)
