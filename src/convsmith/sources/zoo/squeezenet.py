"""SqueezeNet: fire modules (Iandola et al., 2016, arXiv:1602.07360, table 1).

Version 1.1 is its authors' later release: "2.4x less computation than v1.0".
"""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Flatten, GlobalPool, Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["squeezenet1_0", "squeezenet1_1"]

# What the eight fires squeeze to; each half of what they expand to has four times as many.
_SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)


def squeezenet1_0(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """SqueezeNet 1.0 as torchvision lays it out.

    1,248,424 parameters; 818,924,576 MACs for a 224 x 224 image (paper: 1,248,424; torchvision:
    0.819e9).
    """
    return _squeezenet(96, 7, (4, 8), shape, "zoo:squeezenet1_0")


def squeezenet1_1(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """SqueezeNet 1.1 as torchvision lays it out.

    1,235,496 parameters; 349,151,936 MACs for a 224 x 224 image (torchvision: 0.349e9).
    """
    return _squeezenet(64, 3, (3, 5), shape, "zoo:squeezenet1_1")


def _squeezenet(
    width: int, kernel: int, pools: tuple[int, int], shape: Shape, source: str
) -> Graph:
    """Makes a version from its first convolution and the fires, from 2 on, that pools follow."""
    net = Layers()
    x = net.input("x", shape)
    x = net.relu(net.conv(x, "features.0", width, kernel, stride=2), "features.1")
    x = net.max_pool(x, "features.2", 3, 2, ceil=True)
    index = 3
    for number, squeezed in enumerate(_SQUEEZED, start=2):
        x = _fire(net, x, f"features.{index}", squeezed, 4 * squeezed)
        index += 1
        if number in pools:
            x = net.max_pool(x, f"features.{index}", 3, 2, ceil=True)
            index += 1
    x = net.add(Identity(kind="dropout"), x, name="classifier.0")
    x = net.relu(net.conv(x, "classifier.1", 1000, 1), "classifier.2")
    x = net.add(GlobalPool(kind="average"), x, name="classifier.3")
    return net.build(("y", net.add(Flatten(), x, name="flatten")), source=source)


def _fire(net: Layers, x: str, name: str, squeezed: int, expanded: int) -> str:
    x = net.relu(net.conv(x, f"{name}.squeeze", squeezed, 1), f"{name}.squeeze_activation")
    one = net.conv(x, f"{name}.expand1x1", expanded, 1)
    one = net.relu(one, f"{name}.expand1x1_activation")
    three = net.conv(x, f"{name}.expand3x3", expanded, 3, padding=1)
    three = net.relu(three, f"{name}.expand3x3_activation")
    return net.concat(one, three, name=f"{name}.concat")
