"""Networks in the notation with random weights: small enough to compare with brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Constant, Graph, parse

__all__ = ["data_of", "random_network", "with_data"]

Array = npt.NDArray[Any]


def random_network(notation: str, *, seed: int = 0, dtype: str = "float32") -> Graph:
    """A network whose weights look trained: their filters are smooth, and channels correlate."""
    net = parse(notation)
    random = np.random.default_rng(seed)
    constants = {}
    for name, constant in net.constants.items():
        if name.endswith(".variance"):
            data = random.uniform(0.5, 2, constant.shape)
        elif len(constant.shape) == 4:
            data = random.normal(size=constant.shape)
            data += 2 * random.normal(size=(*constant.shape[:2], 1, 1))
            data /= np.sqrt(data[0].size)
        else:
            data = random.normal(size=constant.shape) / 2 + name.endswith(".weight")
        constants[name] = replace(constant, dtype=dtype, data=data.astype(dtype))
    return replace(net, constants=constants)


def data_of(net: Graph, name: str) -> Array:
    """The numbers of a constant."""
    data = net.constants[name].data
    assert data is not None
    return data


def with_data(net: Graph, **arrays: Array) -> Graph:
    """The network with other numbers in some constants; ``__`` stands for the dot in names."""
    changed = {name.replace("__", "."): Constant.of(array) for name, array in arrays.items()}
    assert set(changed) <= set(net.constants)
    return replace(net, constants={**net.constants, **changed})
