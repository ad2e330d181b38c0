"""One node of an ONNX graph, as the tables see it, and what they make of it.

A table row is a function ``Call -> Step``: it looks at the attributes, at the shapes of the inputs
and at those inputs that are known already, and says which operator of ours that is. It has no side
effects; :mod:`convsmith.sources.onnx.reading` puts the steps into the graph. What is made here
lives for one node; it is not frozen, because making something frozen takes more than twice as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import onnx
from onnx import AttributeProto

from convsmith.graph import Shape
from convsmith.graph.operators import Operator
from convsmith.sources.onnx.opening import check_names, types_of_names
from convsmith.sources.onnx.origin import captured_names
from convsmith.sources.onnx.tensors import FLOATING, Array

__all__ = [
    "Call",
    "Entry",
    "Inexpressible",
    "Known",
    "Row",
    "Step",
    "Weight",
    "check_makeable",
    "short_float",
]


class Inexpressible(Exception):  # noqa: N818 - a verdict about a node, not an error of the file
    """This node does something that no operator of ours does: it is kept as unsupported."""


@dataclass(slots=True, kw_only=True, eq=False)
class Known:
    """A tensor whose elements are known while reading.

    Attributes:
        data: The elements; ``None`` for strings.
        dtype: The element type in the file.
        initializer: The initializer that it is, if it is one.
        learnable: Whether it counts as parameters when it is used as a value.
    """

    data: Array | None
    dtype: str
    initializer: str = ""
    learnable: bool = False

    @classmethod
    def stored(cls, data: Array | None, dtype: str, initializer: str = "") -> Known:
        """A tensor of the file; floating ones with more than one element are learnable."""
        learnable = dtype in FLOATING and data is not None and data.size > 1
        return cls(data=data, dtype=dtype, initializer=initializer, learnable=learnable)


@dataclass(slots=True, kw_only=True, eq=False)
class Weight:
    """A parameter of a step.

    Attributes:
        data: The elements, in the layout that the operator wants.
        dtype: The element type in the file.
        tensor: The ONNX tensor that it comes from; empty for one that is made up.
        form: What was done to that tensor; the same tensor in the same form is one constant.
        learnable: Whether it counts as parameters.
    """

    data: Array
    dtype: str
    tensor: str = ""
    form: str = ""
    learnable: bool = True

    def reshaped(self, shape: Shape) -> Weight:
        """The same elements in another shape."""
        if self.data.shape == shape:
            return self
        form = f"{self.form} {shape}"
        return replace(self, data=self.data.reshape(shape), form=form)

    def transposed(self) -> Weight:
        """The matrix with its axes exchanged."""
        return replace(self, data=self.data.T, form=f"{self.form} T")

    def scaled(self, factor: float) -> Weight:
        """The elements times a factor."""
        if factor == 1:
            return self
        data = np.multiply(self.data, self.data.dtype.type(factor), dtype=self.data.dtype)
        return replace(self, data=data, form=f"{self.form} *{factor}")


@dataclass(slots=True, eq=False)
class Step:
    """An operator of ours and what it is applied to.

    Attributes:
        op: The operator.
        inputs: For each input: the index of an input of the ONNX node, an earlier step, or
            numbers.
        weights: Its parameters, in the order of ``roles(op)``.
        shift: What is added to its last output.
    """

    op: Operator
    inputs: tuple[int | Step | Array, ...] = (0,)
    weights: tuple[Weight, ...] = ()
    shift: Array | None = None


@lru_cache(maxsize=1024)
def short_float(value: float) -> float:
    """The shortest decimal that is the same 32-bit number, so that 0.01 reads as 0.01.

    >>> short_float(0.009999999776482582)
    0.01
    """
    return float(str(np.float32(value)))


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One node of the file as Python objects: every look into a message makes new ones.

    (Taking all of a repeated field at once, ``[:]``, takes half as long as going through it.)

    Attributes:
        proto: The message.
        name: Its name, which may be empty.
        kind: The type of its operator.
        domain: The domain of that.
        inputs: The tensors that it takes; empty for one that is left out.
        outputs: The tensors that it makes; empty for one that is left out.
        attributes: By name; of several with one name the first.
        captured: The tensors that the graphs inside it take from around it.
    """

    proto: onnx.NodeProto
    name: str
    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    captured: tuple[str, ...]

    @classmethod
    def of(cls, proto: onnx.NodeProto) -> Entry:
        """Takes a node out of its message; the names inside its graphs must be text."""
        attributes: dict[str, AttributeProto] = {}
        inside = False
        for attribute in proto.attribute[:]:
            attributes.setdefault(attribute.name, attribute)
            if attribute.type in _GRAPHS:
                inside = True
                check_names(types_of_names(attribute.g))
        return cls(
            proto=proto,
            name=proto.name,
            kind=proto.op_type,
            domain=proto.domain,
            inputs=tuple(proto.input[:]),
            outputs=tuple(proto.output[:]),
            attributes=attributes,
            captured=captured_names(proto) if inside else (),
        )


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One ONNX node with what is known about its inputs.

    Attributes:
        entry: The node.
        opset: The version of its operators.
        shapes: The shape of every input; ``None`` when unknown or left out.
        known: The elements of every input, when they are known.
        dtypes: The element type of every input; empty when unknown or left out.
    """

    entry: Entry
    opset: int
    shapes: Sequence[Shape | None]
    known: Sequence[Known | None]
    dtypes: Sequence[str]

    @property
    def proto(self) -> onnx.NodeProto:
        """The message of the node."""
        return self.entry.proto

    # Inputs -----------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Whether this input is given."""
        inputs = self.entry.inputs
        return index < len(inputs) and inputs[index] != ""

    @property
    def count(self) -> int:
        """The number of inputs."""
        return len(self.entry.inputs)

    def shape(self, index: int) -> Shape:
        """The shape of an input, which must be known."""
        shape = self.shapes[index]
        if shape is None:
            raise Inexpressible(f"the shape of input {index} is not known")
        return shape

    def rank(self, index: int = 0) -> int:
        """The number of axes of an input."""
        return len(self.shape(index))

    def data(self, index: int) -> Array:
        """The elements of an input, which must be known."""
        known = self.known[index] if self.has(index) else None
        if known is None or known.data is None:
            raise Inexpressible(f"input {index} is not a constant")
        return known.data

    def data_ints(self, index: int) -> tuple[int, ...]:
        """The elements of an input that holds integers."""
        return tuple(int(item) for item in self.data(index).reshape(-1))

    def data_float(self, index: int) -> float:
        """The only element of an input."""
        return short_float(float(self.data(index).reshape(()).astype(np.float64)))

    def weight(self, index: int, *, learnable: bool = True) -> Weight:
        """An input as a parameter."""
        inputs = self.entry.inputs
        known = self.known[index] if index < len(inputs) and inputs[index] else None
        if known is None or known.data is None:
            raise Inexpressible(f"input {index} is not a constant")
        tensor = known.initializer or inputs[index]  # exporters copy tied weights
        return Weight(data=known.data, dtype=known.dtype, tensor=tensor, learnable=learnable)

    # Attributes -------------------------------------------------------------------

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        attribute = self.entry.attributes.get(name)
        if attribute is not None and attribute.type != kind:
            raise ValueError(f"attribute {name!r} has the wrong type")
        return attribute

    def integer(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        attribute = self._attribute(name, AttributeProto.INT)
        return default if attribute is None else int(attribute.i)

    def number(self, name: str, default: float) -> float:
        """An attribute that is a real number."""
        attribute = self._attribute(name, AttributeProto.FLOAT)
        return default if attribute is None else short_float(attribute.f)

    def text(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        attribute = self._attribute(name, AttributeProto.STRING)
        return default if attribute is None else bytes(attribute.s).decode()

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of integers."""
        attribute = self._attribute(name, AttributeProto.INTS)
        return None if attribute is None else tuple(attribute.ints[:])

    def floats(self, name: str) -> tuple[float, ...] | None:
        """An attribute that is a list of real numbers."""
        attribute = self._attribute(name, AttributeProto.FLOATS)
        return None if attribute is None else tuple(attribute.floats[:])

    def list_or_input(self, name: str, index: int, since: int) -> tuple[int, ...] | None:
        """A list that newer opsets take as an input and older ones as an attribute."""
        if self.opset < since:
            return self.integers(name)
        return self.data_ints(index) if self.has(index) else None

    def cuts(self) -> list[tuple[int, int, int, int]]:
        """What ``Slice`` cuts, as ``(axis, start, stop, step)`` in Python's sense."""
        if self.opset < 10:
            starts, stops = self.integers("starts") or (), self.integers("ends") or ()
            axes, steps = self.integers("axes"), None
        else:
            starts, stops = self.data_ints(1), self.data_ints(2)
            axes = self.data_ints(3) if self.has(3) else None
            steps = self.data_ints(4) if self.has(4) else None
        axes = axes or tuple(range(len(starts)))
        steps = steps or (1,) * len(starts)
        return list(zip(axes, starts, stops, steps, strict=True))

    def target_shape(self) -> Shape:
        """What ``Reshape`` makes, where a 0 can stand for the size that the input has."""
        have, want = self.shape(0), list(self.data_ints(1))
        if not self.integer("allowzero", 0):
            want = [have[i] if size == 0 else size for i, size in enumerate(want)]
        if want.count(-1) > 1 or any(size < -1 for size in want):
            raise ValueError(f"shape {tuple(want)}")
        if -1 in want:
            rest = math.prod(size for size in want if size != -1)
            want[want.index(-1)] = math.prod(have) // rest if rest else 0
        return tuple(want)

    # Axes -------------------------------------------------------------------------

    def axis(self, value: int, rank: int | None = None) -> int:
        """An axis counted from the front."""
        rank = self.rank() if rank is None else rank
        if not -rank <= value < rank:
            raise ValueError(f"axis {value} does not exist in {rank} axes")
        return value % rank


def check_makeable(elements: int) -> None:
    """Checks that a tensor that is not in the file may be made: sizes of a file cost nothing.

    Raises:
        Inexpressible: If it would have more than 2^26 elements.
    """
    if elements > 2**26:
        raise Inexpressible(f"it needs a tensor of {elements} elements that is not in the file")


Row = Callable[[Call], Step]
