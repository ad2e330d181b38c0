"""MNASNet: searched inverted residuals (Tan et al., 2019, arXiv:1807.11626)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Identity, Reduce
from convsmith.sources.zoo.layers import Layers

__all__ = ["mnasnet1_0"]

# Output channels, kernel, first stride, expansion and repeats of every stack.
_STACKS = (
    (24, 3, 2, 3, 3),
    (40, 5, 2, 3, 3),
    (80, 5, 2, 6, 3),
    (96, 3, 1, 6, 2),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)


def mnasnet1_0(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """MNASNet-B1, without gates, at width 1.0 as torchvision lays it out.

    4,383,312 parameters; 314,415,872 MACs for a 224 x 224 image (torchvision: 0.314e9).
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.unit(x, "layers", 32, 3, stride=2)
    x = net.unit(x, "layers", 32, 3, groups=32, first=3)
    x = net.unit(x, "layers", 16, 1, kind="", first=6)
    for stack, (channels, kernel, first, expansion, repeats) in enumerate(_STACKS, start=8):
        for index in range(repeats):
            path, have = f"layers.{stack}.{index}", net.channels(x)
            stride, middle = 1 if index else first, have * expansion
            y = net.unit(x, f"{path}.layers", middle, 1)
            y = net.unit(y, f"{path}.layers", middle, kernel, stride=stride, groups=middle, first=3)
            y = net.unit(y, f"{path}.layers", channels, 1, kind="", first=6)
            same = stride == 1 and have == channels
            x = net.plus(y, x, f"{path}.add") if same else y
    x = net.unit(x, "layers", 1280, 1, first=14)
    x = net.add(Reduce(kind="mean", axes=(2, 3)), x, name="mean")
    x = net.add(Identity(kind="dropout"), x, name="classifier.0")
    return net.build(("y", net.linear(x, "classifier.1", 1000)), source="zoo:mnasnet1_0")
