"""One call of an aten operator, as the mapping table sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from convsmith.graph import Constant, Provenance, Shape
from convsmith.graph.operators import Operator, roles

if TYPE_CHECKING:
    from convsmith.sources.torch.recorder import Recorder

__all__ = ["LATER", "MAPPINGS", "Call", "Mapper", "Unmapped", "later", "maps"]


class Unmapped(Exception):  # noqa: N818 - not an error, but an answer
    """This call has no operator of ours; it becomes ``Unsupported``."""


Mapper = Callable[["Call"], "str | tuple[str, ...]"]
"""Adds the nodes of a call to the graph and returns the names of its outputs' values.

It may return fewer names than there are outputs, when the others (indices) are rarely used.
"""

MAPPINGS: dict[str, Mapper] = {}
"""The table: the name of an aten operator, without overload and in-place mark."""

LATER: dict[str, Callable[[Call], str]] = {}
"""What the last output of a call is, for calls whose last output is rarely used."""


def later(*names: str) -> Callable[[Callable[[Call], str]], Callable[[Call], str]]:
    """Puts a function into the table of last outputs, which are mapped when they are used."""

    def register(function: Callable[[Call], str]) -> Callable[[Call], str]:
        for name in names:
            LATER[name] = function
        return function

    return register


def maps(*names: str) -> Callable[[Mapper], Mapper]:
    """Puts a function into the table under the names of the operators that it maps."""

    def register(function: Mapper) -> Mapper:
        for name in names:
            MAPPINGS[name] = function
        return function

    return register


@dataclass(slots=True, kw_only=True)
class Call:
    """One call of an aten operator that depends on an input of the network.

    Attributes:
        name: The operator's name, without overload and in-place mark.
        overload: The name of its overload.
        arguments: By their names in its schema.
        outputs: What it returned on the meta device.
        recorder: Where the nodes go.
    """

    name: str
    overload: str
    arguments: Mapping[str, Any]
    outputs: tuple[torch.Tensor, ...]
    recorder: Recorder

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def first(self) -> torch.Tensor:
        """The first tensor among the arguments."""
        for value in self.arguments.values():
            if isinstance(value, torch.Tensor):
                return value
            break
        return next(self.tensors())

    @property
    def shape(self) -> Shape:
        """The shape of the first output."""
        return tuple(self.outputs[0].shape)

    def tensors(self) -> Iterator[torch.Tensor]:
        """All tensors among the arguments, those in lists included."""
        for value in self.arguments.values():
            match value:
                case torch.Tensor():
                    yield value
                case list() | tuple():
                    yield from (item for item in value if isinstance(item, torch.Tensor))

    def value(self, operand: torch.Tensor | complex | bool, role: str = "operand") -> str:
        """The name of the value of a tensor or of a Python number."""
        recorder = self.recorder
        if not isinstance(operand, torch.Tensor):
            dtype = self.first.dtype if self.first.is_floating_point() else self.outputs[0].dtype
            if isinstance(operand, complex):
                raise Unmapped
            number = torch.tensor(operand, dtype=dtype, device="cpu")
            return recorder.constant(number, recorder.names.next_name(self.name) + f".{role}")
        known = recorder.value_of(operand) or recorder.derived(operand)
        if known is not None:
            return known
        return recorder.constant(operand, recorder.names.next_name(self.name) + f".{role}")

    def add(
        self,
        op: Operator,
        *inputs: str | torch.Tensor,
        parameters: Sequence[torch.Tensor | Constant] = (),
        step: str | None = None,
    ) -> str:
        """Adds a node and returns the name of its first output.

        Args:
            op: What it does.
            *inputs: Values, or tensors whose values are meant; without any, the first tensor
                among the arguments.
            parameters: Its weights, in the order of ``roles(op)``.
            step: Its own name, when the call becomes several nodes and this is not the main one.

        Raises:
            Unmapped: If a weight is computed from the input of the network.
        """
        return self.add_all(op, *inputs, parameters=parameters, step=step)[0]

    def add_all(
        self,
        op: Operator,
        *inputs: str | torch.Tensor,
        parameters: Sequence[torch.Tensor | Constant] = (),
        step: str | None = None,
    ) -> tuple[str, ...]:
        """Like :meth:`add`, for operators with several outputs."""
        recorder = self.recorder
        weights = [p for p in parameters if isinstance(p, torch.Tensor)]
        if not recorder.are_constants(weights):
            raise Unmapped
        values = [
            value if isinstance(value, str) else self.value(value)
            for value in (inputs or (self.first,))
        ]
        base = (
            recorder.names.base_name(self.name, weights)
            if step is None
            else recorder.names.below(step)
        )
        name = recorder.names.unique(base)
        constants = [
            recorder.constant(parameter, f"{name}.{role}")
            for parameter, role in zip(parameters, roles(op), strict=True)
        ]
        return recorder.builder.add_all(
            op,
            *values,
            name=name,
            parameters=constants,
            provenance=Provenance(path=recorder.names.path, origin=f"aten.{self.name}"),
        )
