"""What a compiled network is made of: memory, phases of kernels, steps.

A *storage* is a piece of float32 memory; where it lies is decided when all steps are known. A
*phase* is a kernel with its arguments, of which some are addresses in storages. A *step* is what
one operator (or several, fused) became: phases, or a NumPy function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convsmith.graph import Shape

__all__ = ["Address", "Phase", "Scratch", "Step", "Storage", "Tensor", "Word", "element_strides"]

Kind = Literal["arena", "input", "output", "constant"]


@dataclass(eq=False, slots=True)
class Storage:
    """A piece of memory; two are the same only if they are the same object.

    Attributes:
        elements: float32 elements.
        kind: ``arena``: within the network; ``input`` and ``output``: the caller's; ``constant``.
        index: Which input or output.
        data: The elements of a constant.
        inside: The storage that this one is a part of, and from which element on.
    """

    elements: int
    kind: Kind = "arena"
    index: int = -1
    data: NDArray[np.float32] | None = field(default=None, repr=False)
    inside: tuple[Storage, int] | None = None

    def resolve(self, offset: int = 0) -> tuple[Storage, int]:
        """Returns the storage that this one is a part of in the end, and the place there."""
        if self.inside is None:
            return self, offset
        outer, at = self.inside
        return outer.resolve(at + offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address that is known when storages are.

    Attributes:
        storage: Where.
        offset: Elements from its start.
    """

    storage: Storage
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """An address in the memory that belongs to whatever step runs.

    Attributes:
        offset: Elements from its start.
    """

    offset: int = 0


Word = int | Address | Scratch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Phase:
    """A kernel with its arguments.

    Attributes:
        function: Its address.
        items: Independent pieces of work.
        words: Its arguments; phases may share them.
    """

    function: int
    items: int
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A float32 value of the network.

    Attributes:
        shape: Its sizes, (N, C, *size) whatever the layout.
        last: Whether the channels lie together in memory.
        storage: Where.
        offset: Elements from the start of the storage.
    """

    shape: Shape
    last: bool
    storage: Storage
    offset: int = 0

    @property
    def elements(self) -> int:
        """How many."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one index to the next, per axis of ``shape``."""
        return element_strides(self.shape, self.last)

    @property
    def address(self) -> Address:
        """Its first element."""
        return Address(storage=self.storage, offset=self.offset)


def element_strides(shape: Sequence[int], last: bool) -> tuple[int, ...]:
    """Returns the strides of a dense tensor, in elements.

    >>> element_strides((1, 2, 3), False), element_strides((1, 2, 3), True)
    ((6, 3, 1), (6, 1, 2))
    """
    order = [0, *range(2, len(shape)), 1] if last else list(range(len(shape)))
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


@dataclass(kw_only=True, slots=True, eq=False)
class Step:
    """What one or several operators became.

    Attributes:
        name: The node; of several the last one.
        nodes: All nodes that it computes.
        text: What it computes, for people.
        algorithm: How.
        layout: How its result lies; empty if that makes no difference.
        detail: More about how: the tiling.
        macs: Multiply-accumulate pairs of its definition.
        phases: Its kernels; none for a NumPy step or one without work.
        scratch: Elements of memory of its own.
        keeps: What has to live as long as the step: weights, code.
        call: For a NumPy step: takes the values by name and returns those that it makes.
        uses: For a NumPy step: the tensors that it reads, by name.
        makes: For a NumPy step: the tensors that it fills, by name.
        others: For a NumPy step: the values that it reads or makes that are no float32 tensors.
    """

    name: str
    nodes: tuple[str, ...] = ()
    text: str = ""
    algorithm: str = ""
    layout: str = ""
    detail: str = ""
    macs: int = 0
    phases: tuple[Phase, ...] = ()
    scratch: int = 0
    keeps: tuple[Any, ...] = ()
    call: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]] | None = None
    uses: dict[str, Tensor] = field(default_factory=dict)
    makes: dict[str, Tensor] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def touches(self) -> list[Storage]:
        """Returns every storage that it reads or writes."""
        found = [
            word.storage
            for phase in self.phases
            for word in phase.words
            if isinstance(word, Address)
        ]
        found += [tensor.storage for tensor in (*self.uses.values(), *self.makes.values())]
        return found
