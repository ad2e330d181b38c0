"""A network of one convolution, as the ONNX file that several peers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.spec import ConvSpec
from convsmith.graph import Constant, Graph, Input, Node, Output
from convsmith.graph.operators import Activation, Conv
from convsmith.sources import save

__all__ = ["INPUT", "OUTPUT", "one_convolution", "write_model"]

INPUT, OUTPUT = "x", "y"


def one_convolution(spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None) -> Graph:
    """Returns the graph of a convolution and its activation, channels first.

    >>> spec = ConvSpec(size=(4, 4), channels=2, filters=3, kernel=(3, 3), bias=False)
    >>> print(one_convolution(spec, np.zeros(spec.weight_shape, np.float32), None))
    x : 2@4x4
    conv = conv 3 3 nobias (x)
    return y = conv
    """
    convolution = Conv(
        channels=spec.filters,
        kernel=spec.kernel,
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=spec.groups,
        bias=spec.bias,
    )
    constants = {"conv.weight": Constant.of(np.asarray(weights, np.float32))}
    if bias is not None:
        constants["conv.bias"] = Constant.of(np.asarray(bias, np.float32))
    nodes = [Node(name="conv", op=convolution, inputs=(INPUT,), parameters=tuple(constants))]
    if spec.activation != "none":
        nodes.append(Node(name="act", op=Activation(kind=spec.activation), inputs=("conv",)))
    return Graph(
        inputs=(Input(name=INPUT, shape=(spec.batch, spec.channels, *spec.size)),),
        nodes=tuple(nodes),
        outputs=(Output(name=OUTPUT, value=nodes[-1].name),),
        constants=constants,
    )


def write_model(
    spec: ConvSpec, weights: NDArray[Any], bias: NDArray[Any] | None, folder: str
) -> Path:
    """Writes the graph into a folder and returns the file."""
    path = Path(folder, "convolution.onnx")
    save(one_convolution(spec, weights, bias), path, overwrite=True)
    return path
