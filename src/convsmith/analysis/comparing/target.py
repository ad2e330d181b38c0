"""The convolution that is compared: what every arrangement of it must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest

from convsmith.analysis.comparing.windows import POINT, Chain, InapplicableError, spread
from convsmith.analysis.recursion import Window
from convsmith.errors import ConvsmithError, UsageError
from convsmith.graph import Graph, Node, Shape, operator_text, parse, shape_text
from convsmith.graph.operators import Activation, Conv, Norm
from convsmith.graph.shape import effective_kernel, infer_shapes, resolve_padding

__all__ = ["Part", "Target", "assembled", "convolution", "target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One convolution of an arrangement; its padding follows from those around it.

    Attributes:
        windows: Per axis.
        channels: What it makes.
        groups: Independent groups of channels.
        linear: Whether the next one follows directly: no activation, and no bias, which the
            bias of the next one makes up for.
    """

    windows: Chain
    channels: int
    groups: int = 1
    linear: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One convolution, its input, and the activation that follows it.

    Attributes:
        op: The convolution, its padding in numbers and its output size rounded down.
        given: The same as it was given.
        shape: Of its input.
        activation: In the notation, put between the convolutions of an arrangement; empty: none.
        after: Whether that also follows the layer, and hence every arrangement.
    """

    op: Conv
    given: Conv
    shape: Shape
    activation: str = "relu"
    after: bool = False

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.shape[1]

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.op.channels

    @property
    def groups(self) -> int:
        """Groups of the convolution."""
        return self.op.groups

    @property
    def is_pointwise(self) -> bool:
        """Whether its kernel is 1 along every axis."""
        return set(self.op.kernel) == {1}

    @property
    def windows(self) -> Chain:
        """Its window along every axis."""
        return tuple(map(Window, self.op.kernel, self.op.stride, self.op.dilation))

    @property
    def points(self) -> Chain:
        """The windows of a 1x1 convolution."""
        return (POINT,) * len(self.op.kernel)

    def layers(self, chains: Sequence[Chain]) -> list[Chain]:
        """Puts one chain per axis side by side: the windows of every layer, in running order.

        A transposed convolution runs its chains backwards.
        """
        layers = list(zip_longest(*chains, fillvalue=POINT))
        return layers[::-1] if self.op.transposed else layers

    def text(self, steps: Sequence[Conv], linear: Sequence[bool]) -> str:
        """Writes an arrangement down: ``64@28x28 > conv 64 3 p1 > relu > conv 64 3 p1``.

        Args:
            steps: Its convolutions.
            linear: Which of them the next one follows directly.
        """
        words = []
        for index, (step, direct) in enumerate(zip(steps, linear, strict=True)):
            followed = self.after if index == len(steps) - 1 else not direct
            activated = f" > {self.activation}" if self.activation and followed else ""
            words.append(operator_text(step) + activated)
        return f"{shape_text(self.shape)} > {' > '.join(_repeated(words))}"


def _repeated(words: Sequence[str]) -> list[str]:
    """Writes what comes three times or more in a row as ``( ... ) xN``.

    >>> _repeated(["a", "b", "a", "b", "a", "b", "c", "c"])
    ['( a > b ) x3', 'c', 'c']
    """
    written = []
    at = 0
    while at < len(words):
        runs = [(period * _times(words, at, period), -period) for period in (1, 2, 3)]
        covered, period = max(runs)
        times = covered // -period
        if times > 2:
            written.append(f"( {' > '.join(words[at : at - period])} ) x{times}")
            at += covered
        else:
            written.append(words[at])
            at += 1
    return written


def _times(words: Sequence[str], at: int, period: int) -> int:
    """How often the next ``period`` words come in a row."""
    times = 1
    while words[at : at + period] == words[(place := at + times * period) : place + period]:
        times += 1
    return times


def target(graph: Graph, layer: str | None = None, activation: str | None = None) -> Target:
    """Finds the convolution of a network that is to be compared.

    Args:
        graph: The network.
        layer: The name of the convolution; needed when there are several.
        activation: What stands between the convolutions of an arrangement, in the notation, or
            ``none``; by default what follows the layer (after its batch normalization), else
            ``relu``.

    Raises:
        UsageError: If there is no such layer, it is no convolution, or several could be meant.
        ShapeError: If its size is not known.
    """
    node = _find(graph, layer)
    assert isinstance(node.op, Conv)
    shape = graph.shape(node.inputs[0])
    graph.shape(node.name)  # raises if it does not fit
    if not shape[1]:
        raise UsageError("it has no input channels", place=node.name)
    found = _following(graph, node)
    words = operator_text(found) if found is not None else "relu"
    if activation is not None:
        words = "" if activation == "none" else _activation(activation)
    return convolution(node.op, shape, activation=words, after=found is not None and bool(words))


def convolution(op: Conv, shape: Shape, *, activation: str = "relu", after: bool = False) -> Target:
    """Writes a convolution's padding out in numbers, and rounds its output size down.

    SAME depends on the size of the input. Rounding up is padding behind: the last window may
    read past the end.
    """
    settled = op
    if not op.transposed:
        padding = resolve_padding(op, shape[2:])
        outputs = infer_shapes(op, shape)[0]
        assert outputs is not None
        if op.rounding == "ceil":
            padding = tuple(
                (low, max((count - 1) * stride + effective_kernel(kernel, apart) - size - low, 0))
                for (low, _), count, stride, kernel, apart, size in zip(
                    padding, outputs[2:], op.stride, op.kernel, op.dilation, shape[2:], strict=True
                )
            )
        settled = replace(op, padding=padding, same=None, rounding="floor")
    apart = tuple(d if k > 1 else 1 for k, d in zip(op.kernel, op.dilation, strict=True))
    return Target(
        op=replace(settled, dilation=apart),
        given=op,
        shape=shape,
        activation=activation,
        after=after,
    )


def _find(graph: Graph, layer: str | None) -> Node:
    names = [node.name for node in graph.nodes if isinstance(node.op, Conv)]
    if layer is None:
        if len(names) == 1:
            return graph.by_name[names[0]]
        several = f"the network has {len(names)} convolutions" if names else "it has no convolution"
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise UsageError(
            several,
            place=graph.source if len(graph.source) < 80 else "",
            remedy=f"name the layer to compare: {shown}, or give a second network"
            if names
            else "give one such as '64@28 > conv 64 5 p2', or several networks",
        )
    if layer in names:
        return graph.by_name[layer]
    close = get_close_matches(layer, names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names[:8]) or 'none'}"
    if layer in graph.by_name:
        kind = type(graph.by_name[layer].op).__name__
        raise UsageError(f"it is of type {kind}, not a convolution", place=layer, remedy=hint)
    raise UsageError(f"there is no convolution {layer!r}", remedy=hint)


def _following(graph: Graph, node: Node) -> Activation | None:
    """The activation after a layer, if nothing else reads the layer."""
    published = {output.value for output in graph.outputs}
    for _ in range(2):
        users = graph.consumers.get(node.name, ())
        if len(users) != 1 or node.name in published:
            return None
        (node,) = users
        match node.op:
            case Activation():
                return node.op
            case Norm(kind="batch"):
                continue
        return None
    return None


def _activation(text: str) -> str:
    """Reads an activation.

    Raises:
        UsageError: If it is none.
    """
    try:
        nodes = parse(f"1@9 > {text}").nodes
    except ConvsmithError:
        nodes = ()
    if len(nodes) == 1 and isinstance(nodes[0].op, Activation):
        return operator_text(nodes[0].op)
    raise UsageError(f"{text!r} is no activation", remedy="give relu, silu, ..., or none")


def assembled(found: Target, parts: Sequence[Part]) -> tuple[Conv, ...]:
    """Gives every part of an arrangement its padding, so that together they see what one saw.

    Raises:
        InapplicableError: If an output padding is too large for the parts.
    """
    op = found.op
    order = range(len(parts))[::-1] if op.transposed else range(len(parts))
    sides: dict[int, list[tuple[int, int, int]]] = {index: [] for index in order}
    for axis, (low, high) in enumerate(op.padding):
        chain = [parts[index].windows[axis] for index in order]
        extra = op.output_padding[axis] if op.output_padding else 0
        more, high = max(extra - high, 0), max(high - extra, 0)
        before, behind = spread(low, chain, up=True), spread(high, chain, up=False)
        at = _roomiest(chain, more)
        for place, index in enumerate(order):
            sides[index].append((before[place], behind[place], more if place == at else 0))
    return tuple(
        _conv(found, part, sides[index], last=index == len(parts) - 1)
        for index, part in enumerate(parts)
    )


def _roomiest(chain: Sequence[Window], more: int) -> int:
    """Which window of a mirrored chain takes the output padding."""
    jump = 1
    for place, window in enumerate(chain):
        if jump == 1 and (more < max(window.stride, window.dilation) or not more):
            return place
        jump *= window.stride
    raise InapplicableError("no layer of it has room for the output padding")


def _conv(found: Target, part: Part, sides: Sequence[tuple[int, int, int]], *, last: bool) -> Conv:
    kernel = tuple(window.kernel for window in part.windows)
    stride = tuple(window.stride for window in part.windows)
    padding = tuple((low, high) for low, high, _ in sides)
    extra = tuple(more for _, _, more in sides)
    plain = math.prod(kernel) == math.prod(stride) == 1 and not any(map(any, sides))
    return Conv(
        channels=part.channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=tuple(window.dilation for window in part.windows),
        groups=part.groups,
        bias=found.op.bias and (last or not part.linear),
        transposed=found.op.transposed and not plain,
        output_padding=extra if any(extra) else (),
    )
