"""What stands behind a layer, as far as it says how errors in the layer count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

from convsmith.graph import Graph, Node
from convsmith.graph.affine import Affine, affine_of
from convsmith.graph.operators import Norm, roles
from convsmith.rewrite.site import Site

__all__ = [
    "Weighting",
    "batch_norm_behind",
    "norm_map",
    "only_reader",
    "output_scale",
    "weighting_of",
]

Array = npt.NDArray[Any]

DAMPING = 0.01
"""Of its mean, added to the curvature in all directions."""


def only_reader(net: Graph, value: str) -> Node | None:
    """The node that alone reads a value, if there is just one and it is no output."""
    users = net.consumers.get(value, ())
    if len(users) != 1 or value in {output.value for output in net.outputs}:
        return None
    return users[0]


def batch_norm_behind(net: Graph, node: Node) -> Node | None:
    """The batch norm that is the only reader of a layer's output, if there is one."""
    only = only_reader(net, node.name)
    if only is None or not isinstance(only.op, Norm) or only.op.kind != "batch":
        return None
    return only


def norm_map(net: Graph, norm: Node) -> Affine:
    """What a batch norm does to each channel; nothing at all where its statistics are broken."""
    assert isinstance(norm.op, Norm)
    stored = [np.asarray(net.parameter(norm, role).data) for role in roles(norm.op)]
    found = affine_of(norm.op, stored)
    usable = np.isfinite(found.scale) & np.isfinite(found.shift)
    return Affine(scale=np.where(usable, found.scale, 0), shift=np.where(usable, found.shift, 0))


def output_scale(net: Graph, node: Node, channels: int) -> Array:
    """How much the batch norm right behind a layer magnifies each channel; ones without it.

    Errors count as they are after it.
    """
    norm = batch_norm_behind(net, node)
    if norm is None:
        return np.ones(channels)
    scale = np.abs(norm_map(net, norm).scale)
    if not scale.any():
        return np.ones(channels)
    return np.asarray(np.maximum(scale, 1e-3 * scale.max()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighting:
    """How errors in the output channels of a layer count: ``|L e|^2``, per group.

    Attributes:
        root: ``L``, ``(groups, o, o)``; any with the right ``L^T L``.
        inverse: Its inverse.
    """

    root: Array
    inverse: Array

    @classmethod
    def of_scale(cls, scale: Array, groups: int) -> Weighting:
        """Every channel on its own.

        >>> Weighting.of_scale(np.array([1.0, 2.0]), 1).inverse[0]
        array([[1. , 0. ],
               [0. , 0.5]])
        """
        rows = scale.reshape(groups, -1)
        return cls(
            root=np.stack([np.diag(row) for row in rows]),
            inverse=np.stack([np.diag(1 / row) for row in rows]),
        )

    @classmethod
    def of_curvature(cls, curvature: Array) -> Weighting:
        """From what errors do to the loss, ``(groups, o, o)``: half the second derivative.

        Directions that were hardly seen count a little too.
        """
        roots, inverses = [], []
        for block in curvature:
            size = max(float(np.trace(block)) / len(block), 1e-30)
            damped = block + DAMPING * size * np.eye(len(block))
            root = linalg.cholesky(damped, check_finite=False)
            roots.append(root)
            inverses.append(linalg.lapack.dtrtri(root)[0])
        return cls(root=np.stack(roots), inverse=np.stack(inverses))

    def applied(self, weight: Array, group: int) -> Array:
        """``L W`` for weights ``(o, ...)`` of a group."""
        return np.tensordot(self.root[group], weight, axes=1)

    def undone(self, weight: Array, group: int) -> Array:
        """``L^-1 W`` for weights ``(o, ...)`` of a group."""
        return np.tensordot(self.inverse[group], weight, axes=1)


def weighting_of(
    net: Graph, node: Node, site: Site, curvature: Array | None, *, jointly: bool = True
) -> Weighting:
    """How errors in a layer count: by their curvature, or else by the batch norm behind.

    Args:
        net: The network.
        node: The layer.
        site: The same.
        curvature: From :func:`curvatures`, if it is known.
        jointly: Whether errors in different channels count together; otherwise each by itself.
    """
    if curvature is None or not np.isfinite(curvature).all() or not curvature.any():
        return Weighting.of_scale(output_scale(net, node, site.groups * site.outs), site.groups)
    if not jointly:
        curvature = curvature * np.eye(site.outs)
    return Weighting.of_curvature(curvature)
