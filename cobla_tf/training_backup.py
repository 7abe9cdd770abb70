"""Training that goes on at the last epoch after it was stopped, as if it never had been.

Keras' own BackupAndRestore writes weights and epoch one after the other in place, so that a kill in between leaves what
does not fit together, and it forgets the history and the states of random generators. Here it is one file.
"""

import json
import os
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from absl import logging

from cobla_tf.devices import ONE_DEVICE, Devices
from cobla_tf.errors import first_line
from cobla_tf.files import guarded, replace_with
from cobla_tf.texts import counted
from cobla_tf.unfinished import PREVIOUS, aside

if TYPE_CHECKING:
    from cobla_tf.finetune import BestWeights

Array = np.ndarray


class TrainingBackup(keras.callbacks.Callback):
    """Writes all that training depends on after every epoch, and the epoch before as well.

    It must be the last of the callbacks. After the last epoch, or one in which a callback stopped training, it waits
    for what Keras and the others do to the weights at the end. An epoch in which training diverged is not kept.

    Args:
        path: of the file; None keeps nothing but the history.
        key: what tells this training from all others.

    Attributes:
        history: one record an epoch, those of earlier attempts included.
        restored: epochs of earlier attempts.
        complete: whether one of these has come to the end of training.
        seconds: that these took.
    """

    def __init__(self, path: Path | None = None, key: bytes = b"") -> None:
        """Nothing restored yet."""
        super().__init__()
        self.history: list[dict[str, float]] = []
        self.restored, self.seconds, self.complete = 0, 0.0, False
        self._path, self._key = path, key.hex()

    def restore(self, model: keras.Model, best: "BestWeights", devices: Devices = ONE_DEVICE) -> int:
        """Bring a compiled model, its optimiser and `best` to the state in the file; the number of epochs done.

        The chief's file counts for all workers.
        """
        self._best = best
        with devices.scope():
            model.optimizer.build(model.trainable_variables)
        if self._path is not None:
            self._restore_newest(_variables(model))
        if devices.workers > 1:
            self._share(devices, model)
        return self.restored

    @property
    def best_epoch(self) -> int:
        """The one whose weights are remembered as the best, counted from 1; 0 is before training."""
        return self._best.epoch

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write the state."""
        self.history.append(numbers(logs))
        if epoch + 1 < self.params["epochs"] and not self.model.stop_training:
            self._keep()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Write the state that training ends in."""
        self.complete = self._best.diverged_in is None
        if self.complete:
            self._keep()

    def _keep(self) -> None:
        if self._path is not None:
            replace_with(self._path, self._write)

    def _write(self, path: Path) -> None:
        facts = {
            "key": self._key,
            "history": self.history,
            "seconds": self.seconds + time.perf_counter() - self._began,
            "best": (self._best.epoch, self._best.loss),
            "complete": self.complete,
        }
        arrays = {f"state_{i}": _plain(variable) for i, variable in enumerate(_variables(self.model))}
        arrays |= {f"best_{i}": _plain(weight) for i, weight in enumerate(self._best.weights)}
        with path.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        if self._path.exists():  # no sooner, so that a full disk leaves both files as they were
            self._path.replace(_previous(self._path))

    def _share(self, devices: Devices, model: keras.Model) -> None:
        best = self._best
        state = np.array([self.restored, self.complete, best.epoch, best.loss])
        restored, complete, epoch, best.loss = devices.agreed(state).tolist()
        self.restored, self.complete, best.epoch = int(restored), bool(complete), int(epoch)
        if self.restored:
            devices.share_weights(_variables(model))
            best.weights = [devices.agreed(weight) for weight in best.weights or model.get_weights()]

    def _restore_newest(self, variables: list[Any]) -> None:
        """From the file, or else from the one before; what cannot be used is set aside."""
        unusable, end = [], "there is no older one, and training begins anew"
        for path in filter(Path.exists, (self._path, _previous(self._path))):
            why = self._restore(path, variables)
            if not why:
                kept = counted(self.restored, "epoch of training is", "epochs of training are")
                logging.info("resumed: %s from an earlier attempt (%s)", kept, path)
                end = f"training goes on from {path.name}, {counted(self.restored, 'epoch')} done"
                break
            with guarded(path, "renamed"):
                unusable.append(f"{path} cannot be used ({why}) and is now {path.replace(aside(path)).name}")
        if unusable:
            logging.warning("%s; %s", "; ".join(unusable), end)

    def _restore(self, path: Path, variables: list[Any]) -> str:
        """Take the state from a file; why it cannot be used, empty if it can."""
        try:
            _check_whole(path)
            with np.load(path) as file:
                facts = json.loads(str(file["facts"]))
                if facts["key"] != self._key:
                    raise ValueError("it is of another training")
                state = [file[f"state_{i}"] for i in range(len(variables))]
                best = [file[f"best_{i}"] for i in range(sum(name.startswith("best_") for name in file.files))]
                _check_shapes(state, variables)
        except MemoryError:  # which says nothing of the file
            raise
        except Exception as error:  # zipfile and NumPy raise nearly anything for what is damaged or none of ours
            return first_line(error)
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        self.history, self.restored, self.seconds = facts["history"], len(facts["history"]), facts["seconds"]
        self._best.weights, (self._best.epoch, self._best.loss) = best, facts["best"]
        self.complete = facts["complete"]
        return ""


def _check_whole(path: Path) -> None:
    """Compare all checksums: NumPy believes an array's header before it has come to the array's end, and to its own."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise ValueError(f"{damaged} in it is damaged")


def numbers(logs: dict[str, Any]) -> dict[str, float]:
    """What of an epoch's record is a number: a callback of the user's may add anything."""
    found = {}
    for name, value in logs.items():
        with suppress(TypeError, ValueError):
            found |= {} if isinstance(value, str | bytes) else {name: float(value)}
    return found


def _check_shapes(state: list[Array], variables: list[Any]) -> None:
    """Refuse the state of another model: with one device, outputs without a loss are no part of what is trained."""
    if any(value.shape != tuple(variable.shape) for value, variable in zip(state, variables, strict=True)):
        raise ValueError("it is of another model or another kind of devices")


def _previous(path: Path) -> Path:
    return path.with_suffix(PREVIOUS)


def _variables(model: keras.Model) -> list[Any]:
    """Weights, states of random generators and of the optimiser."""
    return [*model.variables, *model.optimizer.variables]


def _plain(value: Any) -> Array:
    """As an array of a type that NumPy can store; bfloat16 widened, without loss."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "V" else array
