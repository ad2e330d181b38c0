"""SqueezeNet: fire modules (Iandola et al., 2016, arXiv:1602.07360; version 1.1 of its authors)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Concat, Flatten, GlobalPool, Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["squeezenet"]

# Index in torchvision's ``features``: squeezed channels, expanded channels of each half.
_FIRES = {
    3: (16, 64),
    4: (16, 64),
    6: (32, 128),
    7: (32, 128),
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}


def squeezenet(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """SqueezeNet 1.1 as torchvision lays it out.

    1,235,496 parameters; 349,151,936 MACs for a 224 x 224 image.
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.relu(net.conv(x, "features.0", 64, 3, stride=2), "features.1")
    x = net.max_pool(x, "features.2", 3, 2, ceil=True)
    for index, (squeezed, expanded) in _FIRES.items():
        x = _fire(net, x, f"features.{index}", squeezed, expanded)
        if index + 1 in (5, 8):
            x = net.max_pool(x, f"features.{index + 1}", 3, 2, ceil=True)
    x = net.add(Identity(kind="dropout"), x, name="classifier.0")
    x = net.relu(net.conv(x, "classifier.1", 1000, 1), "classifier.2")
    x = net.add(GlobalPool(kind="average"), x, name="classifier.3")
    return net.build(("y", net.add(Flatten(), x, name="flatten")), source="zoo:squeezenet")


def _fire(net: Layers, x: str, name: str, squeezed: int, expanded: int) -> str:
    x = net.relu(net.conv(x, f"{name}.squeeze", squeezed, 1), f"{name}.squeeze_activation")
    one = net.conv(x, f"{name}.expand1x1", expanded, 1)
    one = net.relu(one, f"{name}.expand1x1_activation")
    three = net.conv(x, f"{name}.expand3x3", expanded, 3, padding=1)
    three = net.relu(three, f"{name}.expand3x3_activation")
    return net.add(Concat(), one, three, name=f"{name}.concat")
