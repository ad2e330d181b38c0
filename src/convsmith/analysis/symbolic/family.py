"""One network at every size of its images: what is measured, and how it repeats.

All costs of a network whose layers slide over their input are polynomials in the size of the
image, as long as no window is cut off or left over in a new way: that is, along one *residue
class*, the sizes that leave the same remainder modulo the *period*. The period is the least
common multiple of all strides with respect to the image. Nothing is derived here a second time:
the exact analysis is asked at as many sizes of a class as there are coefficients, and at a few
more that must agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import product

from convsmith.analysis.field import Field, fields
from convsmith.analysis.ledger import Row, ledger
from convsmith.analysis.memory import memory, value_bytes
from convsmith.analysis.symbolic.polynomial import Polynomial, interpolate
from convsmith.errors import ConvsmithError, GraphError, UsageError
from convsmith.graph import Graph, Input, Node, Output, Shape
from convsmith.graph.operators import AdaptivePool

__all__ = ["COSTS", "Family", "Sizes"]

Sizes = Mapping[str, int]
Again = Callable[[Mapping[str, Shape]], Graph]

COSTS = ("macs", "mults", "adds", "others", "read_bytes", "write_bytes", "alive_bytes")
"""What is measured of a row, before the sizes of its outputs."""

_SPATIAL = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
_HIGHEST_DEGREE = 4
_CHECKS = ((2, 3, 5, 7), (3, 5, 2, 4), (7, 2, 3, 5), (13, 17, 11, 6))
"""How many periods beyond its own size every variable is when polynomials are checked."""


_BATCHES = tuple(check[0] for check in _CHECKS)


class Family:
    """A network for all sizes of its images.

    Args:
        graph: The network at its own size.
        again: Reads it again for other sizes; without it, the same nodes are applied to them.

    Attributes:
        graph: The network at its own size.
        free: What of it works at other sizes.
        fixed: The nodes that do not, in order; what follows them is also left out of ``free``.
        own: Its own size, by variable: ``N``, then those of the image.
        periods: By variable; 1 for ``N``.
        sight: The receptive field of every value.

    Raises:
        UsageError: If the network has no input with image axes, or its own size does not work.
    """

    def __init__(self, graph: Graph, again: Again | None = None) -> None:
        images = [value for value in graph.inputs if len(value.shape) - 2 in _SPATIAL]
        if not images:
            raise UsageError(
                "no input of the network has image axes, so it has no size to leave open",
                remedy="analyze it as it is",
            )
        image = images[0].shape
        self._tied = {v.name for v in images if v.shape[0] == image[0] and v.shape[2:] == image[2:]}
        self.graph = graph
        self.sight = fields(graph)
        self._again = again
        self._axes = _SPATIAL[len(image) - 2]
        self.own = {"N": image[0], **dict(zip(self._axes, image[2:], strict=True))}
        self.periods = {"N": 1, **self._strides()}
        self.free = graph
        self.fixed: tuple[str, ...] = ()
        if again is not None and not self._reads_again():
            self._again = None
        self.free, self.fixed = self._split()
        if not all(self._works({"N": self.own["N"] + k}) is True for k in (1, *_BATCHES)):
            del self.own["N"], self.periods["N"]
        self._measured: dict[tuple[int, ...], tuple[int, ...]] = {}

    # The network at other sizes --------------------------------------------------------------

    def at(self, sizes: Sizes) -> Graph:
        """The free part of the network at a size.

        Raises:
            ConvsmithError: If it does not work at this size.
        """
        shapes: dict[str, Shape] = {}
        for value in self.graph.inputs:
            if value.name in self._tied:
                spatial = (sizes.get(name, self.own[name]) for name in self._axes)
                batch = sizes.get("N", value.shape[0])
                shapes[value.name] = (batch, value.shape[1], *spatial)
        if self._again is not None:
            made = self._again(shapes)
            return _part(made, {node.name for node in self.free.nodes})
        return self.free.with_inputs(shapes)

    def _reads_again(self) -> bool:
        """Whether reading it again for other sizes makes the same nodes."""
        larger = {name: size + self.periods[name] for name, size in self.own.items() if name != "N"}
        try:
            made = self.at(larger)
        except ConvsmithError:
            return False
        return [n.name for n in made.nodes] == [n.name for n in self.graph.nodes]

    def _works(self, changes: Sizes) -> str | bool:
        """Whether the free part works at other sizes; else the node that does not."""
        try:
            _ = self.at({**self.own, **changes}).shapes
        except GraphError as error:
            place = error.place.partition(": ")[0]
            return place if place in self.graph.by_name else False
        except ConvsmithError:
            return False
        return True

    def _split(self) -> tuple[Graph, tuple[str, ...]]:
        """Takes away the nodes that only work at the network's own size, and all behind them."""
        fixed: list[str] = []
        alone = [(name, k) for name in self._axes for k in (1, 2)]
        steps = [{name: self.own[name] + k * self.periods[name]} for name, k in alone]
        steps += [
            {
                n: self.own[n] + k * self.periods[n]
                for n, k in zip(self._axes, check[1:], strict=False)
            }
            for check in _CHECKS
        ]
        for change in steps:
            while (works := self._works(change)) is not True:
                place = works if isinstance(works, str) else ""
                if place not in self.free.by_name:
                    raise UsageError(
                        "it cannot be told which of its layers need its own size",
                        remedy="analyze it as it is, at the sizes that matter",
                    )
                fixed.append(place)
                self.free = _part(self.free, _not_behind(self.free, place))
        return self.free, tuple(fixed)

    def _strides(self) -> dict[str, int]:
        """The least common multiple of the strides of all values, by variable."""
        periods = dict.fromkeys(self._axes, 1)
        for field in self.sight.values():
            for name, stride in zip(self._axes, field.stride, strict=False):
                if stride:
                    periods[name] = math.lcm(periods[name], stride.numerator)
        return periods

    # Measuring -------------------------------------------------------------------------------

    def rows(self, sizes: Sizes) -> tuple[Row, ...]:
        """The exact rows of the free part at one size; fields are those of its own size."""
        graph = self.at(sizes)
        values = value_bytes(graph)
        return ledger(graph, self.sight, values, memory(graph, values).curve)

    def measure(self, sizes: Sizes) -> tuple[int, ...]:
        """All numbers of the free part at one size: per row ``COSTS``, then its output sizes."""
        key = tuple(sizes.get(name, own) for name, own in self.own.items())
        if key not in self._measured:
            rows = self.rows(dict(zip(self.own, key, strict=True)))
            self._measured[key] = tuple(number for row in rows for number in _numbers(row))
        return self._measured[key]

    def places(self) -> Iterator[tuple[Row, int, int]]:
        """The rows at the network's own size, with where their numbers begin and end."""
        start = 0
        for row in self.rows({}):
            stop = start + sum(1 for _ in _numbers(row))
            yield row, start, stop
            start = stop

    def extra_period(self, node: Node) -> dict[str, int]:
        """By variable: how many periods it takes until a node's cost repeats.

        The windows of adaptive pooling depend on what its size has in common with its input.
        """
        match node.op:
            case AdaptivePool(size=size) if len(size) == len(self._axes):
                return dict(zip(self._axes, (max(count, 1) for count in size), strict=True))
        return {}

    def seen(self) -> list[tuple[int, ...]]:
        """All that was measured so far."""
        return list(self._measured.values())

    def output_sizes(self, sizes: Sizes) -> tuple[int, ...] | None:
        """The sizes of all outputs of all rows; ``None`` if the network does not work there."""
        try:
            graph = self.at(sizes)
            shapes = graph.shapes
        except ConvsmithError:
            return None
        return tuple(
            size for node in graph.nodes for made in node.outputs for size in shapes[made] or ()
        )

    def symbols(self, value: Input) -> tuple[str, ...]:
        """The shape of an input, with variables for what is open."""
        shape = tuple(map(str, value.shape))
        if value.name not in self._tied:
            return shape
        return ("N" if "N" in self.own else shape[0], shape[1], *self._axes)

    def macs_of(self, names: Set[str]) -> int:
        """The multiply-accumulates of some nodes at the network's own size."""
        if not names:
            return 0
        values = value_bytes(self.graph)
        rows = ledger(self.graph, self.sight, values, memory(self.graph, values).curve)
        return sum(row.macs for row in rows if row.name in names)

    # Polynomials -----------------------------------------------------------------------------

    def fit(self, times: Sizes, wanted: Sequence[int]) -> dict[int, Polynomial]:
        """The polynomials of some numbers along the class of the network's own size.

        Args:
            times: By variable, how many periods the class repeats after; 1 where nothing stands.
            wanted: Which numbers, by their places in what :meth:`measure` returns.

        Returns:
            Those that were found, and agree with the analysis at all sizes that were tried.
        """
        names = tuple(self.own)
        steps = {name: self.periods[name] * times.get(name, 1) for name in names}
        checks = [
            {name: self.own[name] + k * steps[name] for name, k in zip(names, check, strict=False)}
            for check in _CHECKS
        ]
        expected = [self.measure(check) for check in checks]
        found: dict[int, Polynomial] = {}
        for degree in range(1, _HIGHEST_DEGREE + 1):
            missing = [place for place in wanted if place not in found]
            if not missing:
                break
            grid = {
                name: [self.own[name] + k * steps[name] for k in range(_order(name, degree) + 1)]
                for name in names
            }
            points = [dict(zip(names, point, strict=True)) for point in product(*grid.values())]
            samples = [self.measure(point) for point in points]
            known: dict[tuple[int, ...], Polynomial] = {}
            for place in missing:
                values = tuple(sample[place] for sample in samples)
                if values not in known:
                    known[values] = interpolate(grid, values)
                polynomial = known[values]
                if all(
                    polynomial.at(check) == numbers[place]
                    for check, numbers in zip(checks, expected, strict=True)
                ):
                    found[place] = polynomial
        return found

    def smallest(self, polynomials: Mapping[int, Polynomial], times: Sizes) -> dict[str, int]:
        """By variable: the smallest size of the class down to which the polynomials agree."""
        result = {}
        for name, own in self.own.items():
            step = self.periods[name] * times.get(name, 1)

            def agrees(count: int, name: str = name, own: int = own, step: int = step) -> bool:
                sizes = {**self.own, name: own - count * step}
                try:
                    numbers = self.measure(sizes)
                except ConvsmithError:
                    return False
                return all(p.at(sizes) == numbers[place] for place, p in polynomials.items())

            low, high = 0, (own - 1) // step + 1  # it agrees at low, not at high
            reach = 1
            while reach < high and agrees(reach):
                low, reach = reach, 2 * reach
            high = min(high, reach)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if agrees(middle) else (low, middle)
            result[name] = own - low * step
        return result


def _order(name: str, degree: int) -> int:
    """Costs grow with the batch at most in proportion."""
    return 1 if name == "N" else degree


def _numbers(row: Row) -> Iterator[int]:
    for name in COSTS:
        yield getattr(row, name)
    for shape in row.outputs:
        yield from shape or ()


def _not_behind(graph: Graph, name: str) -> set[str]:
    """The nodes that neither are the named one nor use what it makes."""
    behind = {name, *graph.by_name[name].outputs}
    kept = set()
    for node in graph.nodes:
        if node.name != name and behind.isdisjoint(node.inputs):
            kept.add(node.name)
        else:
            behind.update(node.outputs)
    return kept


def _part(graph: Graph, names: set[str]) -> Graph:
    """The nodes with the given names; what others used of theirs is an output too."""
    nodes = tuple(node for node in graph.nodes if node.name in names)
    if len(nodes) == len(graph.nodes):
        return graph
    made = {value for node in nodes for value in node.outputs}
    made.update(value.name for value in graph.inputs)
    used = {v for node in graph.nodes if node.name not in names for v in node.inputs if v in made}
    kept = [output for output in graph.outputs if output.value in made]
    public = {output.name for output in kept}
    kept += [
        Output(name=value, value=value)
        for value in sorted(used - {output.value for output in kept})
        if value not in public
    ]
    return replace(graph, nodes=nodes, outputs=tuple(kept))


def same_everywhere(field: Field, other: Field) -> bool:
    """Whether a value sees the same at two sizes of the image."""
    return (field.size, field.stride, field.offset) == (other.size, other.stride, other.offset)
