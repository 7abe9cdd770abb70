"""The compressed model as files that load without cobla_tf, each compared with it before it is announced."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from cobla_tf.config import DEFAULT_EXPORTS, EXPORTS, check_export_names, is_count
from cobla_tf.errors import ConfigError, ExportError
from cobla_tf.export_check import check_files
from cobla_tf.export_comparison import ExportCheck
from cobla_tf.export_formats import FILE_NAMES, WRITERS, Source, plain
from cobla_tf.files import check_writable, replace_with
from cobla_tf.fresh_process import one_line
from cobla_tf.progress import bar
from cobla_tf.quiet import quiet

if TYPE_CHECKING:
    import keras

REJECTED = "rejected"
"""Folder of the files that did not do what the network does."""
PACKAGES = {"onnx": ("tf2onnx", "onnxruntime")}
"""What an export needs beside the package's own requirements; its extra has its name."""
CHECKED = 16
"""Images that a file is compared on."""


@dataclass(frozen=True)
class Exports:
    """The formats that were written and proved, with their paths, and those that failed, each with a sentence.

    `notes` has a sentence for each of the former that does less than the others.
    """

    files: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    checks: tuple[ExportCheck, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


class FailedExportError(ExportError):
    """Some formats failed; `exports` has them and those that did not."""

    def __init__(self, exports: Exports) -> None:
        """Put all failures into one sentence."""
        super().__init__("; ".join(f"export {name} failed: {why}" for name, why in exports.failures.items()))
        self.exports = exports

    def __reduce__(self) -> tuple[type, tuple[Exports]]:
        """Another process makes it from its exports, too, rather than from its sentence."""
        return type(self), (self.exports,)


def check_exports(formats: Sequence[str]) -> None:
    """Check that each format is one and that what it needs is installed, before any work.

    Raises:
        ConfigError: for a name that is not in `cobla_tf.config.EXPORTS`.
        ExportError: a package is missing.
    """
    check_export_names(formats)
    for name in formats:
        missing = [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
        if missing:
            raise ExportError(
                f"the export {name} needs {' and '.join(missing)}, not installed here: "
                f"pip install 'cobla-tf[{name}]', or leave {name} out of the exports."
            )


def export_model(
    model: "keras.Model",
    folder: Path | str,
    formats: Sequence[str] = DEFAULT_EXPORTS,
    *,
    images: Any,
    calibration: Any = None,
    batch: int | None = None,
) -> Exports:
    """Write the model in each format and compare each file with it; one that fails stops no other.

    The .keras file comes first, whatever the order of `formats`, and holds neither loss nor optimiser: these may be
    classes that only this program knows, and the slots of an optimiser would outweigh what compression saved.
    All files take a batch of any size; LiteRT's input has to be resized for that, and where LiteRT cannot have it, as
    with recurrent layers, a note says that its file takes one image at a time. Inputs and outputs are the model's in
    each, also where weights and arithmetic are 8 bits. LiteRT and ONNX compute in float32 where the model does in less.
    `model` is left as it was.

    Args:
        model: functional or Sequential.
        folder: made where it does not exist.
        formats: names in `cobla_tf.config.EXPORTS`.
        images: real inputs [N, ...], of which the first 16 are compared, in a fresh process and on the CPU; for several
            inputs a tuple or list in the order of model.inputs, or a dict by their names.
        calibration: real inputs in the same form that 8-bit ranges are taken from; `images` by default.
        batch: gives the SavedModel a second endpoint, serve_batch_N, for batches of just this size.

    Raises:
        ConfigError, ExportError: before any work: as `check_exports`, and a batch that is none.
        ModelError: likewise, a model that is neither functional nor Sequential.
        DataError: images that are not one array for each input, or do not fit it.
        OutputError: if the folder cannot be written.
        FailedExportError: at the end: a format could not be written, or its outputs differ from the network's by more
            than its tolerance (`cobla_tf.export_comparison.TOLERANCES`); such a file is kept in `folder`/rejected.
    """
    from cobla_tf.elements import arrange_images, each
    from cobla_tf.graph import check_model

    check_exports(formats)
    if batch is not None and not is_count(batch, 1):
        raise ConfigError(f"batch must be a whole number of images, at least 1, or None, got {batch!r}.")
    check_model(model)
    images = arrange_images(model, images)
    calibration = images if calibration is None else arrange_images(model, calibration)
    folder = Path(folder)
    check_writable(folder)
    source = Source(plain(model), calibration, batch)
    exports = _write_all(source, folder, formats)
    checks, failures = check_files(source, each(lambda part: part[:CHECKED], images), exports.files)
    files, failures = _rejected(exports, failures)
    exports = Exports(files, failures, checks, {name: note for name, note in exports.notes.items() if name in files})
    for name, note in exports.notes.items():
        logging.warning("export %s: %s", name, note)
    for name, why in exports.failures.items():
        logging.error("export %s failed: %s", name, why)
    if exports.failures:
        raise FailedExportError(exports)
    return exports


def _write_all(source: Source, folder: Path, formats: Sequence[str]) -> Exports:
    exports = Exports()
    wanted = [name for name in EXPORTS if name in formats]
    for name in bar(wanted, len(wanted), "formats"):
        try:
            exports.files[name], note = _write(source, folder, name)
            if note:
                exports.notes[name] = note
        except Exception as error:  # converters raise nearly anything, and no format may cost the others
            exports.failures[name] = one_line(f"{type(error).__name__}: {error}")
    return exports


def _write(source: Source, folder: Path, name: str) -> tuple[Path, str | None]:
    """The file of one format, and what its writer has to say of it."""
    notes: list[str | None] = []
    with quiet():
        path = replace_with(folder / FILE_NAMES[name], lambda path: notes.append(WRITERS[name](source, path)))
    return path, notes[-1]


def _rejected(exports: Exports, failures: dict[str, str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Files and failures once those that failed their check have moved to the folder of the rejected."""
    files, reasons = dict(exports.files), dict(exports.failures)
    for name, why in failures.items():
        path = files.pop(name)
        (path.parent / REJECTED).mkdir(exist_ok=True)
        kept = replace_with(path.parent / REJECTED / path.name, path.replace)
        reasons[name] = f"{why}; kept for inspection: {kept}"
    return files, reasons
