"""GoogLeNet: inception modules (Szegedy et al., 2015, arXiv:1409.4842, table 1)."""

from __future__ import annotations

from typing import NamedTuple

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["googlenet"]


class _Module(NamedTuple):
    """Output channels of the four branches; pairs are (reduction, convolution)."""

    point: int
    three: tuple[int, int]
    five: tuple[int, int]
    pool: int


_MODULES = {
    "inception3a": _Module(64, (96, 128), (16, 32), 32),
    "inception3b": _Module(128, (128, 192), (32, 96), 64),
    "inception4a": _Module(192, (96, 208), (16, 48), 64),
    "inception4b": _Module(160, (112, 224), (24, 64), 64),
    "inception4c": _Module(128, (128, 256), (24, 64), 64),
    "inception4d": _Module(112, (144, 288), (32, 64), 64),
    "inception4e": _Module(256, (160, 320), (32, 128), 128),
    "inception5a": _Module(256, (160, 320), (32, 128), 128),
    "inception5b": _Module(384, (192, 384), (48, 128), 128),
}


def googlenet(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """GoogLeNet as torchvision lays it out, without the auxiliary heads.

    6,624,904 parameters; 1,498,376,192 MACs for a 224 x 224 image (torchvision: 1.498e9). Unlike
    the paper's, its layout has batch normalization, and its "5x5" branch (``branch3``) is a 3x3.
    """
    net = Layers()
    x = net.input("x", shape)
    x = _conv(net, x, "conv1", 64, 7, stride=2, padding=3)
    x = net.max_pool(x, "maxpool1", 3, 2, ceil=True)
    x = _conv(net, x, "conv2", 64, 1)
    x = _conv(net, x, "conv3", 192, 3, padding=1)
    x = net.max_pool(x, "maxpool2", 3, 2, ceil=True)
    for name, module in _MODULES.items():
        x = _inception(net, x, name, module)
        if name == "inception3b":
            x = net.max_pool(x, "maxpool3", 3, 2, ceil=True)
        elif name == "inception4e":
            x = net.max_pool(x, "maxpool4", 2, 2, ceil=True)
    x = net.add(Identity(kind="dropout"), net.features(x), name="dropout")
    return net.build(("y", net.linear(x, "fc", 1000)), source="zoo:googlenet")


def _conv(
    net: Layers, x: str, name: str, channels: int, kernel: int, *, stride: int = 1, padding: int = 0
) -> str:
    x = net.conv_bn(
        x,
        f"{name}.conv",
        f"{name}.bn",
        channels,
        kernel,
        stride=stride,
        padding=padding,
        epsilon=0.001,
    )
    return net.relu(x, f"{name}.relu")


def _inception(net: Layers, x: str, name: str, module: _Module) -> str:
    point = _conv(net, x, f"{name}.branch1", module.point, 1)
    three = _conv(net, x, f"{name}.branch2.0", module.three[0], 1)
    three = _conv(net, three, f"{name}.branch2.1", module.three[1], 3, padding=1)
    five = _conv(net, x, f"{name}.branch3.0", module.five[0], 1)
    five = _conv(net, five, f"{name}.branch3.1", module.five[1], 3, padding=1)
    pool = net.max_pool(x, f"{name}.branch4.0", 3, 1, padding=1, ceil=True)
    pool = _conv(net, pool, f"{name}.branch4.1", module.pool, 1)
    return net.concat(point, three, five, pool, name=f"{name}.concat")
