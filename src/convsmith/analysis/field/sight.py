"""Questions about the receptive fields of one network, answered from one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from convsmith.analysis.field.alignment import Misalignment, misalignments
from convsmith.analysis.field.axis import Axis, Support
from convsmith.analysis.field.borders import Coverage, coverage, unproductive_layers
from convsmith.analysis.field.fields import Field, field_of, image_input, supports
from convsmith.analysis.field.gaussian import Gaussian, gaussians
from convsmith.analysis.field.moves import Moves, Path
from convsmith.analysis.field.propagation import State, propagate, row_of
from convsmith.analysis.field.regions import Region, backwards, forwards
from convsmith.analysis.field.sizes import SmallestInput, smallest_input
from convsmith.analysis.field.taps import Interval
from convsmith.analysis.field.top_down import top_down
from convsmith.errors import GraphError, UnsupportedOperatorError, UsageError
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import Unsupported

__all__ = ["Reach", "Sight", "Unit", "sight"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What one position of a layer sees.

    Attributes:
        layer: The value.
        position: Along its image axes.
        unclipped: Per image axis, the first and last pixel far from the borders: may lie in the
            padding. ``None``: nothing, or not bounded.
        clipped: The first and last pixel that are really seen. ``None``: nothing.
        everywhere: Per image axis: whether it sees all of it besides, through a gate.
        exact: Whether ``clipped`` is the smallest such rectangle, and not only large enough.
        reason: Why it is not exact.
    """

    layer: str
    position: tuple[int, ...]
    unclipped: tuple[Interval | None, ...]
    clipped: tuple[Interval | None, ...]
    everywhere: tuple[bool, ...]
    exact: bool = True
    reason: str = ""

    @property
    def is_clipped(self) -> bool:
        """Whether a border takes away a part of its field."""
        return self.unclipped != self.clipped


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reach:
    """Which units of a layer one pixel reaches.

    Attributes:
        layer: The value.
        pixel: Along the image axes of the input.
        ranges: Per image axis of the layer, the first and last position; ``None``: none.
        mask: Per position of the layer, whether the pixel reaches it.
        exact: Whether every position in the mask is reached, and not only perhaps.
    """

    layer: str
    pixel: tuple[int, ...]
    ranges: tuple[Interval | None, ...]
    mask: Mask
    exact: bool = True


class Sight:
    """The receptive fields of one network, seen from one of its inputs; see :func:`sight`.

    Attributes:
        graph: The network.
        input: The name of the input that is looked at.
        offsets: By deformable convolution: by how many pixels it moves its taps at most.
    """

    def __init__(
        self,
        graph: Graph,
        input: str | None = None,  # noqa: A002
        *,
        offsets: Mapping[str, int] | None = None,
    ) -> None:
        self.graph = graph
        self.input = image_input(graph, input)
        self.offsets = dict(offsets or {})
        self._supports: dict[str, tuple[Support, ...]] = {}

    @property
    def image(self) -> Shape:
        """The sizes of the image axes of the input."""
        return self.graph.shape(self.input)[2:]

    @cached_property
    def _states(self) -> dict[str, State[Axis]]:
        return propagate(self.graph, self.input, [Axis()] * len(self.image), offsets=self.offsets)

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """The field of every value that depends on the input."""
        rank = len(self.image)
        return {value: field_of(state, rank) for value, state in self._states.items()}

    def field(self, layer: str) -> Field:
        """The field of one value.

        Raises:
            GraphError: If there is no such value, or it does not depend on the input.
        """
        self._state(layer)
        return self.fields[layer]

    def support(self, layer: str) -> tuple[Support, ...]:
        """Per image axis, which pixels its outputs really see, holes left out, far from borders.

        >>> from convsmith.graph import parse
        >>> sight(parse("1@32 > conv 1 3 d4")).support("conv1")[0].at(0)
        (0, 4, 8)
        """
        self._state(layer)
        if layer not in self._supports:
            self._supports[layer] = supports(self.graph, layer, self.input, offsets=self.offsets)
        return self._supports[layer]

    def top_down(self, layer: str) -> Mapping[str, Field]:
        """What one layer sees of every value before it; see :func:`top_down`."""
        self._state(layer)
        return top_down(self.graph, layer, offsets=self.offsets)

    # One unit, one pixel --------------------------------------------------------------

    def at(self, layer: str, position: Sequence[int]) -> Unit:
        """The rectangle of the input that one position of a layer sees.

        Through gates (squeeze-and-excite, normalization over positions) a unit sees everything;
        the rectangle is that of the direct path, as in ``rf``, where there is one.

        Args:
            layer: The name of a value.
            position: One index per axis of it after batch and channels.

        Raises:
            GraphError: If there is no such value, or it does not depend on the input.
            UsageError: If there is no such position.
            UnsupportedOperatorError: If an operator on the way is not known.

        >>> from convsmith.graph import parse
        >>> graph = parse("3@32 > conv 8 3 p1 > maxpool 2/2 > conv 8 3 p1")
        >>> unit = sight(graph).at("conv2", (0, 5))
        >>> unit.unclipped, unit.clipped
        (((-3, 4), (7, 14)), ((0, 4), (7, 14)))
        """
        place = self._position(layer, position)
        state = self._known(layer)
        unclipped = []
        shape = self.graph.shape(layer)
        for track, extent in zip(state.tracks, self.image, strict=True):
            where, axis = track.where, track.axis
            if axis is not None and axis < 2:  # its positions are channels: any of them
                where, axis = where.whole(shape[axis], extent), None
            index = 0 if axis is None else place[axis - 2]
            unclipped.append(None if track.unbounded else where.part(index))
        region, reasons = self._seen_by(layer, place, channel=None, local=True)
        clipped = (None,) * len(self.image) if region is None else region.rectangle()
        return Unit(
            layer=layer,
            position=place,
            unclipped=tuple(unclipped),
            clipped=clipped,
            everywhere=self.fields[layer].everywhere,
            exact=not reasons,
            reason="; ".join(reasons),
        )

    def mask(
        self,
        layer: str,
        position: Sequence[int],
        *,
        channel: int | None = None,
        local: bool = False,
    ) -> Mask:
        """Which pixels one unit really depends on: holes, borders and branches, pixel by pixel.

        Args:
            layer: The name of a value.
            position: One index per axis of it after batch and channels.
            channel: One channel of it; ``None``: any.
            local: Whether to leave out what is only seen through gates that see everything.

        Returns:
            ``(*image)``, true where a change of the pixel (in any channel) can change the unit.

        Raises:
            GraphError: If there is no such value, or it does not depend on the input.
            UsageError: If there is no such position, or the answer would be too large to list.
            UnsupportedOperatorError: If an operator on the way is not known.

        >>> from convsmith.graph import parse
        >>> sight(parse("1@5 > conv 1 3 p2 d2")).mask("conv1", (1, 2)).astype(int)
        array([[0, 0, 0, 0, 0],
               [1, 0, 1, 0, 1],
               [0, 0, 0, 0, 0],
               [1, 0, 1, 0, 1],
               [0, 0, 0, 0, 0]])
        """
        place = self._position(layer, position)
        shape = self.graph.shape(layer)
        if channel is not None and not (len(shape) > 1 and 0 <= channel < shape[1]):
            raise UsageError(f"{layer} has no channel {channel}", place=layer)
        self._known(layer)
        region, _ = self._seen_by(layer, place, channel=channel, local=local)
        return np.zeros(self.image, bool) if region is None else region.image()

    def reaches(self, layer: str, pixel: Sequence[int], *, local: bool = False) -> Reach:
        """Which units of a layer one pixel of the input reaches: the other way round.

        Args:
            layer: The name of a value.
            pixel: One index per image axis of the input.
            local: Whether to leave out what only passes through gates that see everything.

        Raises:
            GraphError: If there is no such value, or it does not depend on the input.
            UsageError: If there is no such pixel, or the answer would be too large to list.
            UnsupportedOperatorError: If an operator on the way is not known.

        >>> from convsmith.graph import parse
        >>> sight(parse("1@32 > conv 1 3/2 p1 > conv 1 3 p1")).reaches("conv2", (0, 9)).ranges
        ((0, 1), (3, 6))
        """
        self._known(layer)
        place = _checked(pixel, self.image, self.input)
        start = Region.unit(self.graph.shape(self.input), (None, None, *place))
        region, reasons = self._reached_from(layer, start, local)
        shape = self.graph.shape(layer)
        if region is None or len(shape) < 2:
            mask: Mask = np.full(shape[2:], region is not None)
        else:
            mask = region.image()
        return Reach(
            layer=layer, pixel=place, ranges=_rectangle(mask), mask=mask, exact=not reasons
        )

    # The whole network ----------------------------------------------------------------

    @property
    def misaligned(self) -> tuple[Misalignment, ...]:
        """Where branches meet whose fields have different centres; see :class:`Misalignment`."""
        return misalignments(self.graph, self.fields)

    @property
    def coverage(self) -> Coverage:
        """Which layers are the first to see the whole input; see :class:`Coverage`."""
        return coverage(self.graph, self.fields, self.image)

    @property
    def unproductive(self) -> tuple[str, ...]:
        """Layers whose windows add nothing: their input has seen everything already.

        See :func:`unproductive_layers`.
        """
        return unproductive_layers(self.graph, self.input)

    def smallest_input(self, layer: str | None = None, *, unclipped: bool = False) -> SmallestInput:
        """The smallest input for which a layer exists; see :func:`smallest_input`."""
        return smallest_input(self.graph, layer, self.input, unclipped=unclipped)

    def gaussian(self, layer: str) -> tuple[Gaussian, ...]:
        """The effective field that theory expects, per image axis; see :func:`gaussians`."""
        self._known(layer)
        return gaussians(self.graph, self.input)[layer]

    # Inside ---------------------------------------------------------------------------

    def _state(self, layer: str) -> State[Axis]:
        if layer not in self.graph.shapes:
            raise GraphError(f"the network has no value {layer!r}")
        state = self._states.get(layer)
        if state is None:
            raise GraphError(f"{layer!r} does not depend on input {self.input!r}")
        return state

    def _known(self, layer: str) -> State[Axis]:
        state = self._state(layer)
        if state.unknown:
            raise UnsupportedOperatorError(state.reason, place=layer)
        return state

    def _position(self, layer: str, position: Sequence[int]) -> tuple[int, ...]:
        self._state(layer)
        return _checked(position, self.graph.shape(layer)[2:], layer)

    def _seen_by(
        self, layer: str, position: tuple[int, ...], *, channel: int | None, local: bool
    ) -> tuple[Region | None, list[str]]:
        """The elements of the input that a unit sees, and why these may be too many."""
        shape = self.graph.shape(layer)
        start = (None, channel, *position)[: len(shape)]
        waiting = {layer: Region.unit(shape, start)}
        reasons: dict[str, None] = {}
        for node in reversed(self.graph.nodes):
            for index, made in reversed(list(enumerate(node.outputs))):
                region = waiting.pop(made, None)
                if region is None or region.is_empty or made not in self._states:
                    continue
                for used, path in self._paths(node, index, local, reasons):
                    part = backwards(path, self.graph.shape(used), region, local=local)
                    if not part.is_empty:
                        known = waiting.get(used)
                        waiting[used] = part if known is None else known.union(part)
        return waiting.get(self.input), list(reasons)

    def _reached_from(
        self, layer: str, start: Region, local: bool
    ) -> tuple[Region | None, list[str]]:
        """The elements of a layer that see some elements of the input."""
        needed = self._before(layer)
        reached = {self.input: start}
        reasons: dict[str, None] = {}
        last = {used: at for at, node in enumerate(self.graph.nodes) for used in node.inputs}
        for at, node in enumerate(self.graph.nodes):
            for index, made in enumerate(node.outputs):
                if made not in needed:
                    continue
                for used, path in self._paths(node, index, local, reasons):
                    if used in reached:
                        part = forwards(path, self.graph.shape(made), reached[used], local=local)
                        part = part.tightened()
                        if not part.is_empty:
                            known = reached.get(made)
                            reached[made] = part if known is None else known.union(part)
            for used in node.inputs:
                if last[used] == at and used != layer:
                    reached.pop(used, None)
        return reached.get(layer), list(reasons)

    def _before(self, layer: str) -> set[str]:
        needed = {layer}
        for node in reversed(self.graph.nodes):
            if not needed.isdisjoint(node.outputs):
                needed.update(node.inputs)
        return needed

    def _paths(
        self, node: Node, index: int, local: bool, reasons: dict[str, None]
    ) -> list[tuple[str, Moves | Path]]:
        """What an output of a node sees of each input that depends on the image."""
        row = row_of(self.graph, node, index, self.offsets)
        if row is None:
            kind = node.op.kind if isinstance(node.op, Unsupported) else type(node.op).__name__
            raise UnsupportedOperatorError(f"{kind} is not supported", place=node.name)
        found = [
            (used, path)
            for used, path in zip(node.inputs, row, strict=True)
            if used in self._states
        ]
        if local:
            direct = [(u, p) for u, p in found if self.fields[u].status != "global"]
            found = direct or found
        for _, path in found:
            for move in () if isinstance(path, Path) else path:
                if move.reason or move.how == "scatter":
                    reasons[f"{node.name} {move.reason or 'mixes positions'}"] = None
        return found


def _checked(position: Sequence[int], sizes: Shape, place: str) -> tuple[int, ...]:
    given = tuple(int(index) for index in position)
    if len(given) != len(sizes) or not all(
        0 <= index < size for index, size in zip(given, sizes, strict=False)
    ):
        raise UsageError(
            f"there is no position {given} in {'x'.join(map(str, sizes)) or 'a single one'}",
            place=place,
            remedy=f"give {len(sizes)} indices, each at least 0 and below the size of its axis",
        )
    return given


def _rectangle(mask: Mask) -> tuple[Interval | None, ...]:
    found: list[Interval | None] = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        found.append((int(used[0]), int(used[-1])) if len(used) else None)
    return tuple(found)


def sight(
    graph: Graph,
    input: str | None = None,  # noqa: A002
    *,
    offsets: Mapping[str, int] | None = None,
) -> Sight:
    """Returns everything there is to ask about what a network sees of one input.

    Args:
        graph: The network; it needs no weights.
        input: The input that is looked at; without it, the first with image axes.
        offsets: For deformable convolutions, by name: by how many pixels their offsets move a
            tap at most. Without it their field has no bound.

    Raises:
        GraphError: If there is no such input.

    >>> from convsmith.graph import parse
    >>> seen = sight(parse("3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3/1 p1"))
    >>> seen.field("conv2").size
    (13, 13)
    >>> seen.at("conv2", (0, 10)).clipped
    ((0, 9), (17, 29))
    """
    return Sight(graph, input, offsets=offsets)
