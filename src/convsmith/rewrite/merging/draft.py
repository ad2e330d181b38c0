"""A network while its layers are being merged: the one place where a graph is changed in steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.analysis.cost import cost
from convsmith.errors import DataError
from convsmith.graph import Constant, Graph, Node, Output, Provenance, Shape
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear, Operator, roles
from convsmith.rewrite.merging.kernels import shift_of
from convsmith.rewrite.merging.steps import Merge, Step

__all__ = ["Draft"]

Array = npt.NDArray[Any]


class Draft:
    """A mutable copy of a graph's structure; arrays are shared until they are merged.

    Attributes:
        nodes: The nodes by name, in execution order.
        shapes: The shape of every value as it is now.
        merges: What has been done.
        blocked: What could not be done in this pass, and why, by the layers' names.
        merged: The numbers of merged layers in float64, by name.
        changed: Which layers have other numbers; known in the end.
    """

    def __init__(
        self, net: Graph, allows: Callable[[Step], str], follow: Callable[[], None]
    ) -> None:
        self.net = net
        self.nodes = {node.name: node for node in net.nodes}
        self.shapes: dict[str, Shape | None] = dict(net.shapes)
        self.merges: list[Merge] = []
        self.blocked: dict[tuple[str, ...], str] = {}
        self.merged: dict[str, ConvStep] = {}
        self.changed: set[str] = set()
        self._allows, self._follow = allows, follow
        self._constants = dict(net.constants)
        self._inputs = {value.name for value in net.inputs}
        self._outputs = list(net.outputs)
        self._public = Counter(output.value for output in net.outputs)
        self._uses: dict[str, list[str]] = {}
        self._producers: dict[str, str] = {}
        self._owners = Counter(name for node in net.nodes for name in {*node.parameters})
        for node in net.nodes:
            self._producers.update(dict.fromkeys(node.outputs, node.name))
            for used in node.inputs:
                self._uses.setdefault(used, []).append(node.name)

    # Questions --------------------------------------------------------------------------

    def producer(self, value: str) -> Node | None:
        """The node that makes a value; ``None`` for inputs and constants."""
        return self.nodes.get(self._producers.get(value, ""))

    def only_user(self, value: str) -> Node | None:
        """The node that alone reads a value, once; ``None`` if others do or the caller sees it."""
        users = self._uses.get(value, [])
        if len(users) != 1 or self._public[value]:
            return None
        return self.nodes[users[0]]

    def is_public(self, value: str) -> bool:
        """Whether the caller receives a value."""
        return self._public[value] > 0

    def is_given(self, value: str) -> bool:
        """Whether a value is an input or a constant of the network."""
        return value in self._inputs or value in self._constants

    def why_not_alone(self, value: str) -> str:
        """Why a value has no only user."""
        if self._public[value]:
            return f"{value} is an output of the network"
        users = list(dict.fromkeys(self._uses.get(value, ())))
        return f"{value} is also read by {', '.join(users[1:3])}{', ...' if users[3:] else ''}"

    def is_shared(self, node: Node) -> bool:
        """Whether a learnable tensor of a node belongs to another node, too."""
        operands = [name for name in node.inputs if name in self._constants]
        return any(
            self._constants[name].learnable
            and self._owners[name] + len(self._uses.get(name, ())) > 1
            for name in (*node.parameters, *operands)
        )

    def spatial(self, value: str) -> Shape | None:
        """The spatial sizes of an image, if they are known."""
        shape = self.shapes[value]
        return None if shape is None else shape[2:]

    def array(self, name: str, node: Node) -> Array:
        """A constant's elements in float64.

        Raises:
            DataError: If they are absent.
        """
        return np.asarray(self._present(self._constants[name].data, name, node), np.float64)

    def _present(self, data: Array | None, name: str, node: Node) -> Array:
        if data is None:
            raise DataError(
                f"its tensor {name!r} has no weights, only a shape",
                place=node.name,
                remedy="load a trained network",
            )
        return data

    def constant(self, name: str) -> Constant | None:
        """The constant of this name, if there is one."""
        return self._constants.get(name)

    def layer(self, node: Node) -> ConvStep:
        """A linear layer with its numbers in float64.

        Raises:
            DataError: If they are absent or not finite.
        """
        if node.name in self.merged:
            return self.merged[node.name]
        assert isinstance(node.op, Conv | Linear)
        arrays = [self.array(name, node) for name in node.parameters]
        for role, array in zip(roles(node.op), arrays, strict=True):
            wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
            if wrong:
                raise DataError(
                    f"{wrong} of the {array.size} elements of its {role} are not finite",
                    place=node.name,
                    remedy="load the weights again",
                )
        return ConvStep(op=node.op, weight=arrays[0], bias=arrays[1] if node.op.bias else None)

    def is_zero(self, node: Node) -> bool:
        """Whether a layer's weight and bias have nothing but zeros."""
        return not self.nonzeros(node) and not self.is_shifted(node)

    def nonzeros(self, node: Node) -> int:
        """How many elements of a layer's weight are not 0.

        Raises:
            DataError: If they are absent.
        """
        if node.name in self.merged:
            return int(np.count_nonzero(self.merged[node.name].weight))
        data = self._constants[node.parameters[0]].data
        return int(np.count_nonzero(self._present(data, node.parameters[0], node)))

    def served_only(self, node: Node) -> tuple[Node, ...]:
        """A node and all those before it that nothing else needs, in execution order."""
        gone, waiting = {node.name}, [node]
        while waiting:
            for value in waiting.pop().inputs:
                before = self.producer(value)
                if before is not None and all(
                    not self._public[made] and gone.issuperset(self._uses.get(made, ()))
                    for made in before.outputs
                ):
                    gone.add(before.name)
                    waiting.append(before)
        return tuple(each for each in self.nodes.values() if each.name in gone)

    def dtype(self, node: Node) -> str:
        """The element type of a layer's weight."""
        return self._constants[node.parameters[0]].dtype

    def is_shifted(self, node: Node) -> bool:
        """Whether a layer adds a bias other than 0."""
        assert isinstance(node.op, Conv | Linear)
        if node.name in self.merged:
            return bool(shift_of(self.merged[node.name]).any())
        return node.op.bias and bool(self.array(node.parameters[1], node).any())

    # Changes ----------------------------------------------------------------------------

    def block(self, layers: Sequence[Node], reason: str) -> None:
        """Notes that layers look as if they could be merged, and why they are not."""
        self.blocked[tuple(node.name for node in layers)] = reason

    def spent(self, nodes: Sequence[Node]) -> int:
        """Multiply-accumulates of some nodes."""
        return sum(self._macs(node.op, node.inputs, self.shapes[node.name]) for node in nodes)

    def _macs(self, op: Operator, inputs: Sequence[str], made: Shape | None) -> int:
        shapes = [self.shapes[name] for name in inputs]
        if made is None or None in shapes:
            return 0
        return cost(op, tuple(shape for shape in shapes if shape is not None), made).macs

    def pays(self, step: Step) -> str:
        """Why a step would make the network dearer; empty if it does not."""
        if step.op is None:
            return ""
        before = self.spent(step.layers)
        after = self._macs(step.op, (step.source,), step.shape or self.shapes[step.value])
        if after > before:
            return f"one layer would take {after:,} multiply-accumulates, they take {before:,}"
        names = {name for node in step.layers for name in node.parameters}
        names |= {n for node in step.layers for n in node.inputs if n in self._constants}
        stored = sum(self._constants[name].size for name in names)
        assert step.into is not None
        size = self._weight_size(step.op, step.source)
        if size > stored:
            return f"one layer would have {size:,} weights, they have {stored:,}"
        return ""

    def _weight_size(self, op: Conv | Linear, source: str) -> int:
        shape = self.shapes[source]
        assert shape is not None
        if isinstance(op, Linear):
            return op.features * shape[-1]
        return op.channels * shape[1] // op.groups * int(np.prod(op.kernel))

    def attempt(self, step: Step, make: Callable[[], ConvStep] | None = None) -> bool:
        """Does a step if it is allowed and pays; otherwise notes why not.

        Args:
            step: What to do.
            make: Computes the merged layer.
        """
        reason = self.pays(step) or self._allows(step)
        if reason:
            self.block(step.layers, reason)
            return False
        layer = None
        if make is not None and step.into is not None:
            dtype = self.dtype(step.into)
            if dtype not in ("float16", "float32", "float64"):
                self.block(step.layers, f"its weights are of type {dtype}")
                return False
            layer = make()
            for array in (layer.weight, shift_of(layer)):
                with np.errstate(over="ignore"):
                    fits = np.isfinite(array.astype(dtype)).all()
                if not fits:
                    self.block(step.layers, f"the merged weights are too large for {dtype}")
                    return False
        self._do(step, layer)
        return True

    def _do(self, step: Step, layer: ConvStep | None) -> None:
        before = self.spent(step.layers), self._params(step.layers)
        last = self.producer(step.value)
        shape = step.shape or self.shapes[step.value]
        if step.drop is not None:
            total, place = step.drop
            left = tuple(used for i, used in enumerate(total.inputs) if i != place)
            total = self._set_inputs(total, left)
        for node in step.removed:
            self._remove(node)
        into, after = step.source, (0, 0)
        if layer is not None and step.into is not None:
            node = self._put(step.into, layer, step.source, last or step.into)
            into = node.name
            self.shapes[into] = shape
            after = self.spent([node]), self._params([node])
        if step.value != into:
            self._redirect(step.value, into)
        if last is not None:
            self._inherit(into, last)
        if step.drop is not None and len(total.inputs) == 1:
            self._dissolve(self.nodes[total.name])
        note = step.note
        if after[1] > before[1]:
            more = "the bias stands for numbers that do not count as parameters"
            note = f"{note}; {more}" if note else more
        self.merges.append(
            Merge(
                kind=step.kind,
                layers=tuple(node.name for node in step.layers),
                into=into,
                macs_before=before[0],
                macs_after=after[0],
                params_before=before[1],
                params_after=after[1],
                note=note,
            )
        )
        self._follow()

    def goes_with(self, total: Node, place: int) -> Node | None:
        """The node that a sum of two, or a concatenation, takes along when it loses an operand.

        That is the sum itself, unless its other operand is a sum for it alone: then the sum
        takes that one's place, so that its readers need not change.
        """
        left = [value for i, value in enumerate(total.inputs) if i != place]
        if len(left) != 1:
            return None
        inner = self.producer(left[0])
        if inner is None or type(inner.op) is not type(total.op):
            return total
        alone = self.only_user(left[0])
        return inner if alone is not None and alone.name == total.name else total

    def _dissolve(self, total: Node) -> None:
        """Removes a sum of one operand."""
        (left,) = total.inputs
        inner = self.goes_with(total, -1)
        if inner is not None and inner is not total:
            self._remove(inner)
            self._set_inputs(replace(total, op=inner.op), inner.inputs)
            return
        self._remove(total)
        self._redirect(total.name, left)
        self._inherit(left, total)

    def _inherit(self, value: str, last: Node) -> None:
        """Lets a merged node say which layer's output it now makes."""
        node = self.nodes.get(value)
        if node is not None and node.name in self.merged and node.name != last.name:
            replaces = last.provenance.replaces or last.name
            provenance = replace(node.provenance, replaces=replaces)
            self.nodes[value] = replace(node, provenance=provenance)

    def _params(self, nodes: Sequence[Node]) -> int:
        names = {name for node in nodes for name in (*node.parameters, *node.inputs)}
        known = [self._constants[name] for name in names if name in self._constants]
        return sum(constant.size for constant in known if constant.learnable)

    def _remove(self, node: Node) -> None:
        del self.nodes[node.name]
        self.merged.pop(node.name, None)
        for used in node.inputs:
            self._uses[used].remove(node.name)
        self._release(node.parameters)

    def _release(self, names: Sequence[str]) -> None:
        for name in set(names):
            self._owners[name] -= 1

    def _put(self, node: Node, layer: ConvStep, source: str, last: Node) -> Node:
        weight = self._constants[node.parameters[0]]
        if len(node.parameters) < 2 and layer.bias is not None:
            taken = {*self._constants, *self.nodes, *self._producers}
            bias, count = f"{node.name}.bias", 1
            while bias in taken:
                count += 1
                bias = f"{node.name}.bias_{count}"
            parameters: tuple[str, ...] = (node.parameters[0], bias)
            self._owners[bias] = 1
        else:
            parameters = node.parameters[: 1 if layer.bias is None else 2]
            self._release(node.parameters[len(parameters) :])
        for name, array in zip(parameters, (layer.weight, layer.bias), strict=False):
            assert array is not None
            self._constants[name] = Constant(
                shape=array.shape, dtype=weight.dtype, learnable=weight.learnable, data=array
            )
        if node.inputs[0] != source:
            self._uses[node.inputs[0]].remove(node.name)
            self._uses.setdefault(source, []).append(node.name)
        made = replace(
            node,
            op=layer.op,
            inputs=(source,),
            parameters=parameters,
            provenance=Provenance(
                path=node.provenance.path,
                origin=node.provenance.origin,
                replaces=last.provenance.replaces or last.name,
            ),
        )
        self.nodes[node.name] = made
        self.merged[node.name] = layer
        return made

    def _redirect(self, old: str, new: str) -> None:
        for name in dict.fromkeys(self._uses.pop(old, ())):
            node = self.nodes[name]
            inputs = tuple(new if used == old else used for used in node.inputs)
            self.nodes[name] = replace(node, inputs=inputs)
            self._uses.setdefault(new, []).extend([name] * node.inputs.count(old))
        self._outputs = [
            Output(name=output.name, value=new) if output.value == old else output
            for output in self._outputs
        ]
        self._public[new] += self._public.pop(old, 0)

    def _set_inputs(self, node: Node, inputs: tuple[str, ...]) -> Node:
        """Lets a node read other values."""
        for used in node.inputs:
            self._uses[used].remove(node.name)
        for used in inputs:
            self._uses.setdefault(used, []).append(node.name)
        made = replace(node, inputs=inputs)
        self.nodes[node.name] = made
        return made

    # The end ----------------------------------------------------------------------------

    def build(self) -> Graph:
        """The graph, its merged weights rounded once; ``self.net`` if nothing was merged.

        Ends the draft.
        """
        if not self.merges:
            return self.net
        used = {name for node in self.nodes.values() for name in (*node.parameters, *node.inputs)}
        used |= {output.value for output in self._outputs}
        before = {name for node in self.net.nodes for name in (*node.parameters, *node.inputs)}
        constants = {
            name: constant
            for name, constant in self._constants.items()
            if name in used or (name in self.net.constants and name not in before)
        }
        for node in self.nodes.values():
            if self.merged.pop(node.name, None) is not None:  # lets go of what is wide
                self.changed.add(node.name)
                for name in node.parameters:
                    constants[name] = self._constants[name] = _rounded(constants[name])
        return replace(
            self.net,
            nodes=tuple(self.nodes.values()),
            outputs=tuple(self._outputs),
            constants=constants,
        )


def _rounded(constant: Constant) -> Constant:
    """A constant in its own type; what would be denormal, and slow, is 0."""
    assert constant.data is not None
    data = constant.data.astype(constant.dtype)
    tiny = np.abs(data) < np.finfo(data.dtype).tiny
    data[tiny] = 0
    return Constant.of(data, learnable=constant.learnable)
