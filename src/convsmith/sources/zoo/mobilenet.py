"""MobileNet v1 and v2: depthwise-separable convolutions, then inverted residuals.

Howard et al., 2017, arXiv:1704.04861, table 1; Sandler et al., 2018, arXiv:1801.04381, table 2.
"""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["mobilenet_v1", "mobilenet_v2"]

# Output channels and stride of every depthwise-separable block.
_SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)

# Expansion, output channels, repeats and first stride of every row of inverted residuals.
_INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v1(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """MobileNet-v1 at width 1.0; every block is ``depthwise`` then ``pointwise``.

    4,231,976 parameters; 568,740,352 MACs for a 224 x 224 image (paper, table 4: 4.2e6 and
    569e6). Its last feature sees 315 x 315 pixels (Araujo, Norris & Sim, 2019, table 1).
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.relu(net.conv_bn(x, "conv1", "bn1", 32, 3, stride=2, padding=1), "relu")
    for index, (channels, stride) in enumerate(_SEPARABLE, start=1):
        name, have = f"block{index}", net.channels(x)
        layer, norm = f"{name}.depthwise", f"{name}.bn1"
        x = net.conv_bn(x, layer, norm, have, 3, stride=stride, padding=1, groups=have)
        x = net.relu(x, f"{name}.relu")
        x = net.conv_bn(x, f"{name}.pointwise", f"{name}.bn2", channels, 1)
        x = net.relu(x, f"{name}.relu_1")
    y = net.linear(net.features(x), "fc", 1000)
    return net.build(("y", y), source="zoo:mobilenet_v1")


def mobilenet_v2(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """MobileNet-v2 at width 1.0.

    3,504,872 parameters; 300,774,272 MACs for a 224 x 224 image (paper, table 4: 3.4e6 and
    300e6; torchvision: 0.301e9). Its last feature sees 491 x 491 pixels.
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.unit(x, "features.0", 32, 3, stride=2, kind="relu6")
    index = 1
    for expansion, channels, repeats, first in _INVERTED:
        for repeat in range(repeats):
            stride = 1 if repeat else first
            x = _inverted_residual(net, x, f"features.{index}", channels, stride, expansion)
            index += 1
    x = net.unit(x, f"features.{index}", 1280, 1, kind="relu6")
    x = net.add(Identity(kind="dropout"), net.features(x), name="classifier.0")
    y = net.linear(x, "classifier.1", 1000)
    return net.build(("y", y), source="zoo:mobilenet_v2")


def _inverted_residual(
    net: Layers, x: str, name: str, channels: int, stride: int, expansion: int
) -> str:
    """1x1 up, 3x3 depthwise, 1x1 down without activation, and a shortcut where sizes agree."""
    have, y, path = net.channels(x), x, f"{name}.conv"
    middle, step = have * expansion, 0
    if expansion > 1:
        y = net.unit(y, f"{path}.0", middle, 1, kind="relu6")
        step = 1
    y = net.unit(y, f"{path}.{step}", middle, 3, stride=stride, groups=middle, kind="relu6")
    y = net.unit(y, path, channels, 1, kind="", first=step + 1)
    return net.plus(x, y, f"{name}.add") if stride == 1 and have == channels else y
