"""Batches as tensors: whatever a caller's loader yields, checked and brought into one form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convsmith.errors import DataError
from convsmith.graph import Graph
from convsmith.rewrite.batches import check_batch

__all__ = ["Batch", "Inputs", "flat", "read_item"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What a network is called with.

    Attributes:
        positional: Tensors in the order of the arguments.
        named: Tensors by the name of the argument, or of the graph's input.
    """

    positional: tuple[Tensor, ...] = ()
    named: Mapping[str, Tensor]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (*self.positional, *self.named.values())

    def to(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """A copy on a device, which may be overwritten; real numbers take the network's type."""

        def moved(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device, kind, copy=True)

        return Inputs(
            positional=tuple(map(moved, self.positional)),
            named={name: moved(tensor) for name, tensor in self.named.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some images, and their labels or targets if there are any."""

    inputs: Inputs
    wanted: Tensor | None = None

    @property
    def images(self) -> int:
        """How many; what cannot be taken apart counts as one."""
        return self._rows or 1

    @property
    def _rows(self) -> int:
        together = self.inputs.tensors + (() if self.wanted is None else (self.wanted,))
        sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in together}
        return sizes.pop() if len(sizes) == 1 else 0

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.inputs.tensors)

    def fingerprints(self) -> list[bytes]:
        """A fingerprint of every image."""
        parts = range(self._rows) if self._rows else (slice(None),)
        return [_digest(tensor[part] for tensor in self.inputs.tensors) for part in parts]

    def pick(self, rows: list[int]) -> Batch:
        """Some of its images."""
        if len(rows) == self.images:
            return self
        index = torch.tensor(rows)

        def picked(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, index.to(tensor.device))

        return Batch(
            inputs=Inputs(
                positional=tuple(map(picked, self.inputs.positional)),
                named={name: picked(tensor) for name, tensor in self.inputs.named.items()},
            ),
            wanted=None if self.wanted is None else picked(self.wanted),
        )


def _digest(tensors: Iterator[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        held = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(held.view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return digest.digest()


def read_item(item: object, graph: Graph | None, place: str) -> Batch:
    """Returns what a loader yielded as a batch.

    Args:
        item: Inputs, or a pair of inputs and labels or targets, as a tuple or a list. Inputs are
            an array or a tensor, a tuple of such, or a mapping from names to such.
        graph: The network, if it is a graph; a module takes what it takes.
        place: What to call it in messages.

    Raises:
        DataError: If it is nothing of the kind, is empty, or holds NaN or infinity.
    """
    wanted: object = None
    if isinstance(item, tuple | list):
        if not 1 <= len(item) <= 2:
            raise DataError(
                f"it is a {type(item).__name__} of {len(item)}",
                place=place,
                remedy="give inputs, or a pair of inputs and labels or None;"
                " several inputs are a tuple of their own: ((a, b), None)",
            )
        item, wanted = item if len(item) == 2 else (item[0], None)
    inputs = _module_inputs(item, place) if graph is None else _graph_inputs(item, graph, place)
    for tensor in inputs.tensors:
        if not tensor.numel():
            raise DataError("it is empty", place=place, remedy="give at least one image")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError("it holds NaN or infinity", place=place, remedy="leave it out")
    return Batch(inputs=inputs, wanted=None if wanted is None else _tensor(wanted, place))


def _graph_inputs(item: object, graph: Graph, place: str) -> Inputs:
    def array(value: object) -> object:
        return value.detach().cpu().numpy() if isinstance(value, Tensor) else value

    given: object
    if isinstance(item, Mapping):
        given = {name: array(value) for name, value in item.items()}
    elif isinstance(item, tuple):
        given = dict(zip((i.name for i in graph.inputs), map(array, item), strict=False))
    else:
        given = array(item)
    try:
        arrays = check_batch(graph, given, place)
    except (TypeError, ValueError):
        raise _no_batch(item, place) from None
    return Inputs(named={name: _tensor(value, place) for name, value in arrays.items()})


def _module_inputs(item: object, place: str) -> Inputs:
    if isinstance(item, Mapping):
        return Inputs(named={str(name): _tensor(value, place) for name, value in item.items()})
    parts = item if isinstance(item, tuple) else (item,)
    return Inputs(positional=tuple(_tensor(part, place) for part in parts), named={})


def _tensor(value: object, place: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise _no_batch(value, place)
        return torch.from_numpy(np.ascontiguousarray(array)).clone()
    except (TypeError, ValueError):
        raise _no_batch(value, place) from None


def _no_batch(value: object, place: str) -> DataError:
    return DataError(
        f"an object of type {type(value).__name__} is no batch of images",
        place=place,
        remedy="give arrays or tensors of numbers",
    )


def flat(value: Any) -> tuple[Tensor, ...]:
    """The tensors of real numbers in what a network returns, in order.

    >>> [tensor.tolist() for tensor in flat({"a": torch.ones(1), "b": [torch.zeros(2), None]})]
    [[1.0], [0.0, 0.0]]
    """
    if isinstance(value, Tensor):
        return (value,) if value.is_floating_point() else ()
    if isinstance(value, Mapping):
        return tuple(tensor for item in value.values() for tensor in flat(item))
    if isinstance(value, tuple | list):
        return tuple(tensor for item in value for tensor in flat(item))
    fields = getattr(value, "__dataclass_fields__", None)
    if fields:
        return tuple(tensor for name in fields for tensor in flat(getattr(value, name)))
    return ()
