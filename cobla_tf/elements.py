"""What a network of several inputs and outputs takes and gives: a plain array where there is one, else a tuple of them
in the network's own order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cobla_tf.errors import ConfigError, DataError, ModelError, inside, out_of_memory

AT_ONCE = 8
"""Images that a model's first outputs are computed on: outside a graph all layers' outputs are held together."""


def parts_of(given: Any) -> tuple[Any, ...]:
    """The arrays, one or several."""
    return given if isinstance(given, tuple) else (given,)


def joined(parts: tuple[Any, ...] | list[Any]) -> Any:
    """The reverse: one array alone, several as a tuple."""
    return tuple(parts) if len(parts) > 1 else parts[0]


def each(function: Callable[[Any], Any], given: Any) -> Any:
    """A function of every array."""
    return joined([function(part) for part in parts_of(given)])


def forward(model: keras.Model, images: Any, training: bool = False) -> Any:
    """The network's output, a tensor or a tuple of them, for images [n, ...] or a tuple of such."""
    return joined(keras.tree.flatten(model(packed(model, images), training=training)))


def first_outputs(model: keras.Model, images: Any) -> Any:
    """`forward` for images (NumPy) of a user's, by which a model that cannot work shows; a few at a time.

    Raises:
        ModelError: it cannot compute on them, or gives no output that has a row for each.
    """
    count, batch = len(parts_of(images)[0]), model.inputs[0].shape[0]
    step = count if batch else AT_ONCE
    batches = (each(lambda part, i=i: part[i : i + step], images) for i in range(0, count, step))
    parts = [parts_of(_outputs(model, few, batch)) for few in batches]
    return joined([keras.ops.concatenate(some) if some[0].shape else some[0] for some in zip(*parts, strict=True)])


def _outputs(model: keras.Model, images: Any, batch: int | None) -> Any:
    count = len(parts_of(images)[0])
    only = f"it is made for batches of exactly {batch}: rebuild it without batch_size" if batch else ""
    try:
        outputs = forward(model, cast(model, images))
    except Exception as error:  # a layer's own code may raise anything
        if out_of_memory(error):
            raise
        raise ModelError(
            f"the model cannot compute on the first images ({inside(error)}); "
            f"{only or 'give it such values and types as its layers take'}."
        ) from error
    rows = [size for part in parts_of(outputs) for size in part.shape[:1]]
    if count not in rows:
        raise ModelError(
            f"the model gives {rows[0] if rows else 'no'} rows of output for {count} images, expected one for each; "
            f"{only or 'let no fixed size in it stand for the batch'}."
        )
    return outputs


def packed(model: keras.Model, images: Any) -> Any:
    """Inputs in the structure that the model was made with, as list or dict."""
    if isinstance(model, keras.Sequential):
        return images
    return keras.tree.pack_sequence_as(model.input, list(parts_of(images)))


def arrange_images(model: keras.Model, images: Any) -> Any:
    """Images for a model as NumPy in the dtype of its inputs: an array, or a tuple in the order of model.inputs.

    Args:
        model: of any number of inputs.
        images: an array for one input, else a list or tuple in that order, or a dict by the inputs' names.

    Raises:
        DataError: some are missing, of another number, empty, no numbers, or of a shape that is not the input's.
    """
    names = tuple(tensor.name for tensor in model.inputs)
    arrays = each(np.asarray, _arrange(images, names, "images", named=False))
    for part in parts_of(arrays):
        if part.dtype.kind in "OSUMm":
            raise DataError(f"expected images that are arrays of numbers, got {part.dtype} of shape {part.shape}.")
        if not part.size:
            raise DataError(f"expected at least one image, got an array of shape {part.shape}.")
    check_images(model, arrays)
    return cast(model, arrays)


def cast(model: keras.Model, images: Any) -> Any:
    """Images (NumPy) in the dtype of the model's inputs."""
    pairs = zip(parts_of(images), model.inputs, strict=True)
    return joined([part.astype(tensor.dtype, copy=False) for part, tensor in pairs])


def is_of(shape: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one, in which sizes that are None are open."""
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def check_images(model: keras.Model, images: Any) -> None:
    """Refuse images that do not fit the model's inputs."""
    several = len(model.inputs) > 1
    for tensor, part in zip(model.inputs, parts_of(images), strict=True):
        where = f" for {tensor.name!r}" if several else ""
        expected, got = tuple(tensor.shape[1:]), part.shape[1:]
        if not is_of(got, expected):
            only_gray = expected[-1:] == (1,) and is_of(got, expected[:-1])
            hint = "; a last axis of one channel is made by images[..., None]" if only_gray else ""
            raise DataError(f"expected images of shape {expected}{where}, as the model's input, got {got}{hint}.")
        dtype = np.dtype(tensor.dtype) if tensor.dtype != "bfloat16" else np.dtype("float32")
        if np.issubdtype(dtype, np.integer) and not np.array_equal(part.astype(dtype), part):
            raise DataError(
                f"expected images{where} that are whole numbers, as the model's input is {dtype}, got fractions."
            )


def rows_not_finite(part: Any) -> Any:
    """Places along the first axis that hold NaN or infinity, int64 [k]; none where numbers are whole."""
    if not (np.issubdtype(part.dtype, np.floating) or part.dtype.name == "bfloat16"):
        return np.zeros(0, np.int64)
    return np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(axis=1))


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Of every output: its key where the model gives a dict, else the name of its layer, as Keras has it."""
    if not isinstance(model, keras.Sequential) and isinstance(model.output, dict):
        places = keras.tree.pack_sequence_as(model.output, list(range(len(model.outputs))))
        if all(isinstance(place, int) for place in places.values()):  # none holds several
            return tuple(sorted(places, key=places.get))
    return tuple(model.output_names) if hasattr(model, "output_names") else tuple(t.name for t in model.outputs)


def losses_by_output(loss: Any, model: keras.Model) -> dict[int, Any]:
    """Which loss is given to which output, as Keras' compile takes it.

    Args:
        loss: one for all outputs, or a list or dict (by name) with one for each; None in these: no loss there.
        model: of any number of outputs.

    Raises:
        ConfigError: outputs that do not exist or are left out, or none that has a loss.
    """
    names = output_names(model)
    if isinstance(loss, Mapping):
        if set(loss) != set(names):
            raise ConfigError(f"loss: expected one for each output {_listed(names)}, got them for {_listed(loss)}.")
        loss = [loss[name] for name in names]
    elif isinstance(loss, list | tuple) and not isinstance(model, keras.Sequential) and isinstance(model.output, dict):
        raise ConfigError(f"loss: expected a dict of {_listed(names)}, as the model's output is one, got a list.")
    if not isinstance(loss, list | tuple):
        return dict.fromkeys(range(len(names)), loss)
    if len(loss) != len(names):
        raise ConfigError(f"loss: expected a list of {len(names)}, one for each output, got {len(loss)}.")
    chosen = {place: one for place, one in enumerate(loss) if one is not None}
    if not chosen:
        raise ConfigError("loss: expected one for at least one output, got None for all; leave loss= out instead.")
    return chosen


@dataclass(frozen=True)
class Form:
    """What a dataset's elements stand for.

    Attributes:
        inputs: names of the model's inputs.
        outputs: names of the model's outputs.
        judged: places of the outputs that have a loss, and so labels.
        named: whether the model takes a dict, and whether it gives one: the order of a tuple would then mean nothing.
        shapes: of one image for each input, where they are known.
    """

    inputs: tuple[str, ...] = ("images",)
    outputs: tuple[str, ...] = ("labels",)
    judged: tuple[int, ...] = (0,)
    named: tuple[bool, bool] = (False, False)
    shapes: tuple[Sequence[int | None], ...] = ()

    def arrange(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """Arrays, or tuples, lists or dicts of them as Keras' fit takes them, in the network's order.

        Raises:
            DataError: some are missing, or of another number.
        """
        chosen = tuple(self.outputs[place] for place in self.judged)
        whole = isinstance(labels, tuple | list) and len(labels) == len(self.outputs) > 1
        if whole and not self.named[1]:
            labels = dict(zip(self.outputs, labels, strict=True))
        return _arrange(images, self.inputs, "images", self.named[0]), _arrange(labels, chosen, "labels", self.named[1])


def form_of(model: keras.Model, loss: Any) -> Form:
    """The form of a model's data where its outputs are judged by a loss, see `losses_by_output`."""
    named = (
        (False, False)
        if isinstance(model, keras.Sequential)
        else tuple(isinstance(given, dict) for given in (model.input, model.output))
    )
    inputs, shapes = (tuple(t.name for t in model.inputs), tuple(t.shape[1:] for t in model.inputs))
    return Form(inputs, output_names(model), tuple(losses_by_output(loss, model)), named, shapes)


def _arrange(given: Any, names: tuple[str, ...], what: str, named: bool) -> Any:
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing and len(names) == len(given) == 1:
            return next(iter(given.values()))
        if missing:
            raise DataError(f"expected {what} by the names {_listed(names)}, got {_listed(given)}.")
        return joined([given[name] for name in names])
    several = isinstance(given, tuple) or (isinstance(given, list) and len(names) > 1)
    if not several and len(names) == 1:
        return given
    if not several or len(given) != len(names) or (named and len(names) > 1):
        got = f"a {type(given).__name__}" + (f" of {len(given)}" if several else "")
        form = "dict" if named else "tuple or dict"
        raise DataError(f"expected {what} as a {form}, one array for each of {_listed(names)}, got {got}.")
    return joined(list(given))


def _listed(names: Any) -> str:
    return ", ".join(repr(str(name)) for name in names)


def shape_of(given: Any) -> tuple[Any, ...]:
    """Shape of one example, without the batch axis, or a tuple of such."""
    return each(lambda part: tuple(np.shape(part)[1:]), given)
