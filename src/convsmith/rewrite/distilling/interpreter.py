"""A graph as a torch module whose parameters are the graph's own constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

from convsmith.errors import ConvsmithError, DataError
from convsmith.graph import Constant, Graph, Node
from convsmith.graph.operators import Norm, roles
from convsmith.rewrite.distilling.tensors import calculate, check_supported

__all__ = ["Interpreter"]

Watch = Callable[[str, Tensor], None]
"""Gets the name of every value, and the value."""

Cut = Callable[[str, str], bool]
"""Whether no gradient may pass from a value into a node, by their names."""


_MOMENTUM = 0.1
"""How fast running statistics follow, torch's default."""


class Interpreter(nn.Module):
    """Runs a graph in torch, so that its weights can be trained.

    In training mode, batch norms use the statistics of the batch and follow them.

    Args:
        graph: The network; its weights must be present.

    Attributes:
        graph: The network.
        dtype: The type that it computes in: float64 if a weight has it, else float32.

    Raises:
        DataError: If a weight is absent.
        UnsupportedOperatorError: If an operator cannot be trained; names the node.

    >>> from convsmith.graph import parse
    >>> network = Interpreter(parse("1@2 > relu"))
    >>> network({"x": torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]])})["y"].ravel()
    tensor([0., 2., 3., 0.])
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for node in graph.nodes:
            try:
                check_supported(node.op)
            except ConvsmithError as error:
                raise error.at(node.name) from None
        arrays = {name: _data(name, constant) for name, constant in graph.constants.items()}
        wide = any(array.dtype == np.float64 for array in arrays.values())
        self.dtype = torch.float64 if wide else torch.float32
        self.keys = {name: f"constant{index}" for index, name in enumerate(arrays)}
        statistics = _statistics(graph)
        for name, array in arrays.items():
            floating = np.issubdtype(array.dtype, np.floating)
            tensor = torch.from_numpy(np.array(array))
            tensor = tensor.to(self.dtype) if floating else tensor
            if floating and graph.constants[name].learnable and name not in statistics:
                self.register_parameter(self.keys[name], nn.Parameter(tensor))
            else:
                self.register_buffer(self.keys[name], tensor)

    def constant(self, name: str) -> Tensor:
        """The tensor that stands for a constant of the graph."""
        tensor: Tensor = getattr(self, self.keys[name])
        return tensor

    def forward(
        self, inputs: Mapping[str, Tensor], watch: Watch | None = None, cut: Cut | None = None
    ) -> dict[str, Tensor]:
        """Runs the network.

        Args:
            inputs: One tensor per input.
            watch: Called with every value as it is made.
            cut: Where no gradient may pass.

        Returns:
            The outputs by their public names.
        """
        graph = self.graph
        values = dict(inputs)
        pending = Counter(used for node in graph.nodes for used in node.inputs)
        pending.update(output.value for output in graph.outputs)
        for node in graph.nodes:
            arguments = [
                self._argument(used, node, values, cut) for used in (*node.inputs, *node.parameters)
            ]
            try:
                made = self._calculate(node, arguments)
            except ConvsmithError as error:
                raise error.at(node.name) from None
            except (RuntimeError, IndexError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise DataError(
                    first.rstrip("."), place=node.name, remedy="check the sizes of the batches"
                ) from error
            results = made if isinstance(made, tuple) else (made,)
            for name, value in zip(node.outputs, results, strict=True):
                values[name] = value
                if watch is not None:
                    watch(name, value)
            for used in node.inputs:
                pending[used] -= 1
                if not pending[used]:
                    values.pop(used, None)
        return {
            output.name: values[output.value]
            if output.value in values
            else self.constant(output.value)
            for output in graph.outputs
        }

    def _calculate(self, node: Node, arguments: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
        op = node.op
        if not (self.training and isinstance(op, Norm) and op.kind == "batch"):
            return calculate(op, *arguments)
        x, *parameters = arguments
        scale, shift = parameters[:2] if op.affine else (None, None)
        mean, variance = parameters[-2:]
        return F.batch_norm(x, mean, variance, scale, shift, True, _MOMENTUM, op.epsilon)

    def _argument(
        self, name: str, node: Node, values: Mapping[str, Tensor], cut: Cut | None
    ) -> Tensor:
        if name not in values:
            return self.constant(name)
        value = values[name]
        return value.detach() if cut is not None and cut(name, node.name) else value

    def written(self, state: Mapping[str, Tensor]) -> Graph:
        """The graph with other values in its parameters; everything else is shared.

        Args:
            state: A tensor for every parameter, by its key.
        """
        constants = dict(self.graph.constants)
        for name, key in self.keys.items():
            if key in state:
                old = constants[name]
                array: npt.NDArray[Any] = state[key].detach().cpu().numpy().astype(old.dtype)
                if not np.array_equal(array, np.asarray(old.data)):
                    constants[name] = Constant.of(array, learnable=old.learnable)
        return replace(self.graph, constants=constants)


def _data(name: str, constant: Constant) -> npt.NDArray[Any]:
    if constant.data is None:
        raise DataError(
            f"its tensor {name!r} has no weights, only a shape", remedy="load a trained network"
        )
    return np.asarray(constant.data)


def _statistics(graph: Graph) -> frozenset[str]:
    """The running means and variances, which are no parameters whatever a file says."""
    return frozenset(
        name
        for node in graph.nodes
        if isinstance(node.op, Norm)
        for name, role in zip(node.parameters, roles(node.op), strict=True)
        if role in ("mean", "variance")
    )
