"""Branches that meet although their fields do not have the same middle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from convsmith.analysis.field.fields import Field
from convsmith.graph import Graph
from convsmith.graph.operators import Concat, Elementwise, Where

__all__ = ["Misalignment", "misalignments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Misalignment:
    """Paths that meet in one layer, but look at different places of the input.

    The alignment criterion of Araujo, Norris & Sim (2019), section "Alignment issues": the paths
    have the same stride and the same centre, or the layer mixes what does not belong together.

    Attributes:
        layer: Where they meet.
        axis: The image axis, counted from 0.
        centres: By branch: the middle of the field of output 0, in pixels.
        strides: By branch: how far the field moves from one output to the next, in pixels.
    """

    layer: str
    axis: int
    centres: Mapping[str, Fraction]
    strides: Mapping[str, Fraction]

    @property
    def shift(self) -> Fraction:
        """How far apart the centres are at output 0, in pixels."""
        return max(self.centres.values()) - min(self.centres.values())


def misalignments(graph: Graph, fields: Mapping[str, Field]) -> tuple[Misalignment, ...]:
    """Returns every place where branches meet that do not have the same centres or strides.

    Args:
        graph: The network.
        fields: The field of every value.

    >>> from convsmith.analysis.field import fields
    >>> from convsmith.graph import parse
    >>> graph = parse("1@9 > [ conv 1 2 psame | conv 1 3 p1 ]")
    >>> [str(centre) for centre in misalignments(graph, fields(graph))[0].centres.values()]
    ['1/2', '0']
    """
    found = []
    for node in graph.nodes:
        if len(node.inputs) < 2 or not isinstance(node.op, Elementwise | Concat | Where):
            continue
        output = graph.shapes[node.name]
        branches = [
            (used, fields[used])
            for used in dict.fromkeys(node.inputs)
            if used in fields and output is not None and graph.shapes[used] is not None
            and (graph.shapes[used] or ())[2:] == output[2:]
        ]  # fmt: skip
        for axis in range(max((len(field.axes) for _, field in branches), default=0)):
            moving = {
                used: line
                for used, field in branches
                if axis < len(field.axes)
                and (line := field.axes[axis]) is not None
                and not line.is_constant
            }
            centres = {used: line.centre for used, line in moving.items()}
            strides = {used: line.stride for used, line in moving.items()}
            if len(set(centres.values())) > 1 or len(set(strides.values())) > 1:
                found.append(
                    Misalignment(layer=node.name, axis=axis, centres=centres, strides=strides)
                )
    return tuple(found)
