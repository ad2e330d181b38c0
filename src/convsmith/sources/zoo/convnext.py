"""ConvNeXt: residual, in the manner of transformers (Liu et al., 2022, arXiv:2201.03545)."""

from __future__ import annotations

from convsmith.graph import Constant, Graph, Shape
from convsmith.graph.operators import Elementwise, Flatten, GlobalPool, Norm, Transpose
from convsmith.sources.zoo.layers import Layers

__all__ = ["convnext_tiny"]

_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def convnext_tiny(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ConvNeXt-T as torchvision lays it out: linear layers on channels, a learned scale.

    28,589,128 parameters; 4,455,531,264 MACs for a 224 x 224 image (paper, table 1: 29e6 and
    4.5e9; torchvision: 4.456e9). Its last feature sees 1688 x 1688 pixels.
    """
    net = Layers()
    x = net.input("x", shape)
    x = _norm(net, net.conv(x, "features.0.0", 96, 4, stride=4), "features.0.1")
    for stage, (depth, width) in enumerate(((3, 96), (3, 192), (9, 384), (3, 768))):
        if stage:
            path = f"features.{2 * stage}"
            x = net.conv(_norm(net, x, f"{path}.0"), f"{path}.1", width, 2, stride=2)
        for index in range(depth):
            x = _block(net, x, f"features.{2 * stage + 1}.{index}")
    x = net.add(GlobalPool(kind="average"), x, name="avgpool")
    x = net.add(Flatten(), _norm(net, x, "classifier.0"), name="classifier.1")
    return net.build(("y", net.linear(x, "classifier.2", 1000)), source="zoo:convnext_tiny")


def _norm(net: Layers, x: str, name: str) -> str:
    """Layer normalization over channels."""
    x = net.add(Transpose(permutation=_CHANNELS_LAST), x, name=f"{name}.last")
    x = net.add(Norm(kind="layer", epsilon=1e-6), x, name=name)
    return net.add(Transpose(permutation=_CHANNELS_FIRST), x, name=f"{name}.first")


def _block(net: Layers, x: str, name: str) -> str:
    width, path = net.channels(x), f"{name}.block"
    y = net.conv(x, f"{path}.0", width, 7, padding=3, groups=width)
    y = net.add(Transpose(permutation=_CHANNELS_LAST), y, name=f"{path}.1")
    y = net.add(Norm(kind="layer", epsilon=1e-6), y, name=f"{path}.2")
    y = net.act(net.linear(y, f"{path}.3", 4 * width), f"{path}.4", "gelu")
    y = net.linear(y, f"{path}.5", width)
    y = net.add(Transpose(permutation=_CHANNELS_FIRST), y, name=f"{path}.6")
    scale = net.constant(f"{name}.layer_scale", Constant(shape=(width, 1, 1)))
    y = net.add(Elementwise(kind="mul"), scale, y, name=f"{name}.scale")
    return net.plus(x, y, f"{name}.add")
