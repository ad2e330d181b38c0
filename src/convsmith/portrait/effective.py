"""Effective fields of a torch module, measured for its page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.portrait.portrait import EffectiveMap
from convsmith.sources.loading import made_by_factory

__all__ = ["measured_maps"]

_IMAGES = 8


def measured_maps(source: str, graph: Graph, layers: Sequence[str]) -> list[EffectiveMap]:
    """Measures what the middle unit of some layers depends on, by its gradient.

    On images of standard normal noise, as Luo et al. (2016, "Understanding the effective receptive
    field in deep convolutional neural networks", section 3) do.

    Args:
        source: ``pkg.module:factory`` of a torch module.
        graph: The network that was read from it, with one input.
        layers: Paths of submodules, or names of layers.

    Raises:
        UsageError: If the source is something else, or has no such layer.
    """
    made = made_by_factory(source) if ":" in source and "zoo:" not in source else None
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(made, torch.nn.Module) or len(graph.inputs) != 1:
        raise UsageError(
            "effective fields are measured by gradients, which only a torch module with one input"
            " has",
            place="--effective",
            remedy="give pkg.module:factory of the module",
        )
    from convsmith.sources.torch.gradients import contributions

    shape = graph.inputs[0].shape
    noise = np.random.default_rng(0).standard_normal((_IMAGES, *shape[1:])).astype(np.float32)
    found = []
    for layer in layers:
        nodes = [node for node in graph.nodes if layer in (node.provenance.path, node.name)]
        if not nodes:
            near = ", ".join(node.name for node in graph.nodes[:5])
            raise UsageError(f"the network has no layer {layer!r}", remedy=f"it has {near}, ...")
        node = nodes[-1]
        path = node.provenance.path or node.name
        sizes = graph.shape(node.name)[2:]
        found.append(
            EffectiveMap(
                layer=node.name,
                position=tuple(size // 2 for size in sizes),
                contributions=contributions(made, [noise], layer=path),
                images=f"{_IMAGES} images of normal noise",
            )
        )
    return found
