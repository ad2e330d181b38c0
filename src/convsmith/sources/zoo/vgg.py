"""VGG: stacks of 3x3 (Simonyan & Zisserman, 2015, arXiv:1409.1556, table 1)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import AdaptivePool, Flatten, Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["vgg16"]

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """VGG-16 (configuration D) as torchvision lays it out.

    138,357,544 parameters; 15,470,264,320 MACs for a 224 x 224 image.
    """
    net = Layers()
    x = net.input("x", shape)
    index = 0
    for stage in _STAGES:
        for channels in stage:
            x = net.conv(x, f"features.{index}", channels, 3, padding=1)
            x = net.relu(x, f"features.{index + 1}")
            index += 2
        x = net.max_pool(x, f"features.{index}", 2, 2)
        index += 1
    x = net.add(AdaptivePool(kind="average", size=(7, 7)), x, name="avgpool")
    x = net.add(Flatten(), x, name="flatten")
    for index in (0, 3):
        x = net.linear(x, f"classifier.{index}", 4096)
        x = net.relu(x, f"classifier.{index + 1}")
        x = net.add(Identity(kind="dropout"), x, name=f"classifier.{index + 2}")
    return net.build(("y", net.linear(x, "classifier.6", 1000)), source="zoo:vgg16")
