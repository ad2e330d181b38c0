"""AlexNet in one column (Krizhevsky, 2014, arXiv:1404.5997)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import AdaptivePool, Flatten, Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["alexnet"]


def alexnet(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """AlexNet as torchvision lays it out.

    61,100,840 parameters; 714,188,480 MACs for a 224 x 224 image (torchvision: 0.714e9).
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.relu(net.conv(x, "features.0", 64, 11, stride=4, padding=2), "features.1")
    x = net.max_pool(x, "features.2", 3, 2)
    x = net.relu(net.conv(x, "features.3", 192, 5, padding=2), "features.4")
    x = net.max_pool(x, "features.5", 3, 2)
    x = net.relu(net.conv(x, "features.6", 384, 3, padding=1), "features.7")
    x = net.relu(net.conv(x, "features.8", 256, 3, padding=1), "features.9")
    x = net.relu(net.conv(x, "features.10", 256, 3, padding=1), "features.11")
    x = net.max_pool(x, "features.12", 3, 2)
    x = net.add(AdaptivePool(kind="average", size=(6, 6)), x, name="avgpool")
    x = net.add(Flatten(), x, name="flatten")
    for index in (0, 3):
        x = net.add(Identity(kind="dropout"), x, name=f"classifier.{index}")
        x = net.relu(net.linear(x, f"classifier.{index + 1}", 4096), f"classifier.{index + 2}")
    return net.build(("y", net.linear(x, "classifier.6", 1000)), source="zoo:alexnet")
