"""Random weights for networks that are shapes alone, so that they can be run and timed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.graph import Constant, Graph
from convsmith.graph.operators import Conv, roles

__all__ = ["random_weights"]


def random_weights(graph: Graph, *, seed: int = 0) -> Graph:
    """Returns the network with random numbers wherever it has no data.

    Weights are normal with variance 2 / fan-in (He et al. 2015, "Delving deep into rectifiers",
    equation 10), so that values neither vanish nor overflow on their way; variances lie between 0.5
    and 1.5, other factors around 1, summands around 0.

    >>> from convsmith.graph import parse
    >>> net = random_weights(parse("1@4 > conv 2 3"))
    >>> net.constants["conv1.weight"].data.dtype
    dtype('float32')
    """
    random = np.random.default_rng(seed)
    part: dict[str, str] = {}
    transposed: set[str] = set()
    for node in graph.nodes:
        part.update(zip(node.parameters, roles(node.op), strict=True))
        if isinstance(node.op, Conv) and node.op.transposed:
            transposed.update(node.parameters[:1])
    made: dict[str, Constant] = {}
    for name, constant in graph.constants.items():
        if constant.data is not None or "float" not in constant.dtype:
            made[name] = constant
            continue
        shape = constant.shape
        role = part.get(name, "")
        data: NDArray[Any]
        if role == "variance":
            data = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            fan = math.prod(shape[2:]) * shape[0 if name in transposed else 1]
            data = random.standard_normal(shape, np.float32) * math.sqrt(2 / max(fan, 1))
        else:
            centre = 1.0 if role in ("weight", "scale") else 0.0
            data = centre + 0.1 * random.standard_normal(shape)
        made[name] = replace(constant, data=data.astype(constant.dtype))
    return replace(graph, constants=made)
