"""Batches of a network's inputs: checked once, then cut to pieces that memory has room for.

What a batch may be: an array or a tensor, for a network with one input; a mapping from input names
to those; or, as loaders of training data give it, a tuple or list whose first element is one of
these and whose second one the labels or targets. Tensors are read without importing torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError
from convsmith.graph import Graph

__all__ = ["as_array", "check_batch", "first_of", "images_in", "live_bytes", "pieces", "unpack"]

Array = npt.NDArray[Any]

PIECE_BYTES = 512 << 20
"""How many bytes the values that are alive at one time may take in one network."""


def as_array(value: object) -> Array:
    """Returns an array or a tensor (on any device, of any type, part of a graph) as an array.

    >>> as_array([1, 2]).tolist()
    [1, 2]
    """
    tensor: Any = value
    if not (hasattr(tensor, "detach") and hasattr(tensor, "cpu")):
        return np.asarray(value)
    held = tensor.detach().cpu()
    try:
        return np.asarray(held.numpy())
    except TypeError:  # bfloat16, which NumPy does not have
        return np.asarray(held.float().numpy())


def unpack(net: Graph, item: object, place: str) -> tuple[dict[str, Array], Array | None]:
    """Returns the inputs of a batch by name, and the labels or targets that come with it.

    Raises:
        DataError: If the inputs do not fit the network; see :func:`check_batch`.

    >>> from convsmith.graph import parse
    >>> inputs, labels = unpack(parse("1@2 > relu"), (np.zeros((3, 1, 2, 2)), [0, 1, 0]), "batch 1")
    >>> inputs["x"].shape, labels.tolist()
    ((3, 1, 2, 2), [0, 1, 0])
    """
    wanted: object = None
    if isinstance(item, tuple) or _is_loaded(net, item):
        parts: Any = item
        if not 1 <= len(parts) <= 2:
            raise DataError(
                f"it is a {type(item).__name__} of {len(parts)}",
                place=place,
                remedy="give inputs, or a pair of inputs and labels or targets",
            )
        item, wanted = parts if len(parts) == 2 else (parts[0], None)
    return check_batch(net, item, place), None if wanted is None else as_array(wanted)


def first_of(net: Graph, item: object) -> object:
    """The inputs of a batch, whatever comes with them: labels, names, weights."""
    parts: Any = item
    if (isinstance(item, tuple) and item) or _is_loaded(net, item):
        return parts[0]
    return item


def _is_loaded(net: Graph, item: object) -> bool:
    """Whether a list is what a loader made of a tuple, and not an array written as a list."""
    if not isinstance(item, list) or not item:
        return False
    first = item[0]
    if isinstance(first, Mapping):
        return True
    shape = getattr(first, "shape", None)
    return shape is not None and len(shape) == len(net.inputs[0].shape)


def check_batch(net: Graph, batch: object, place: str) -> dict[str, Array]:
    """Returns a batch by input name, in single precision or better.

    Args:
        net: The network.
        batch: An array or a tensor, for a network with one input, or a mapping from input names
            to those.
        place: What to call the batch in messages.

    Raises:
        DataError: If an input is missing, has another size, is empty, or holds NaN or infinity.

    >>> from convsmith.graph import parse
    >>> check_batch(parse("1@2 > relu"), [[[[1, 2], [3, 4]]]], "batch 1")["x"].dtype
    dtype('float32')
    """
    if not isinstance(batch, Mapping):
        if len(net.inputs) != 1:
            raise DataError(
                f"the network has {len(net.inputs)} inputs",
                place=place,
                remedy="give a mapping from input names to arrays",
            )
        batch = {net.inputs[0].name: batch}
    arrays: dict[str, Array] = {}
    for wanted in net.inputs:
        if wanted.name not in batch:
            raise DataError(
                f"input {wanted.name!r} is missing", place=place, remedy="give an array for it"
            )
        array = as_array(batch[wanted.name])
        if array.ndim != len(wanted.shape) or array.shape[1:2] != wanted.shape[1:2]:
            raise DataError(
                f"input {wanted.name!r} has shape {array.shape}, the network takes {wanted.shape}",
                place=place,
                remedy="only the number of images and their size may differ",
            )
        if not array.size:
            raise DataError(
                f"input {wanted.name!r} is empty", place=place, remedy="give at least one image"
            )
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"input {wanted.name!r} holds {array.dtype.name}",
                place=place,
                remedy="give numbers",
            )
        if not np.isfinite(array).all():
            raise DataError(
                f"input {wanted.name!r} holds NaN or infinity", place=place, remedy="leave it out"
            )
        if "float" in wanted.dtype and not (array.dtype.kind == "f" and array.itemsize >= 4):
            array = array.astype(np.float32)
        arrays[wanted.name] = array
    return arrays


def images_in(inputs: Mapping[str, Array]) -> int:
    """How many images a batch has."""
    return len(next(iter(inputs.values())))


def live_bytes(net: Graph) -> list[int]:
    """Bytes of the values that are alive while each node runs, in single precision, per image.

    >>> from convsmith.graph import parse
    >>> live_bytes(parse("1@4 > relu > maxpool 2/2"))
    [128, 80]
    """
    sizes = {
        value: math.prod(shape) * 4 // max(net.inputs[0].shape[0], 1)
        for value, shape in net.shapes.items()
        if shape is not None and value not in net.constants
    }
    last = {used: index for index, node in enumerate(net.nodes) for used in node.inputs}
    last.update((output.value, len(net.nodes)) for output in net.outputs)
    alive = sum(sizes.get(value.name, 0) for value in net.inputs)
    found = []
    for index, node in enumerate(net.nodes):
        alive += sum(sizes.get(made, 0) for made in node.outputs)
        found.append(alive)
        done = {*node.inputs, *node.outputs}
        alive -= sum(sizes.get(value, 0) for value in done if last.get(value, index) == index)
    return found


def bytes_per_image(net: Graph, inputs: Mapping[str, Array]) -> float:
    """The most bytes alive at one time for one image of this size."""
    first = net.inputs[0]
    elements = math.prod(first.shape[1:])
    larger = math.prod(inputs[first.name].shape[1:]) / max(elements, 1)
    return max(live_bytes(net), default=0) * larger


def pieces(
    net: Graph, inputs: Mapping[str, Array], *, room: float = PIECE_BYTES
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Cuts a batch along its images, so that running a piece stays within ``room`` bytes.

    Inputs with different numbers of images are left in one piece.

    Yields:
        The index of the first image of each piece, and the piece.
    """
    count = images_in(inputs)
    size = count
    if all(len(array) == count for array in inputs.values()):
        size = max(1, int(room // max(bytes_per_image(net, inputs), 1)))
    for start in range(0, count, size):
        yield start, {name: array[start : start + size] for name, array in inputs.items()}
