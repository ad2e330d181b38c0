"""VGG: stacks of 3x3 (Simonyan & Zisserman, 2015, arXiv:1409.1556, tables 1 and 2)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import AdaptivePool, Flatten, Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["vgg11", "vgg13", "vgg16", "vgg19"]

_WIDTHS = (64, 128, 256, 512, 512)


def vgg11(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """VGG-11 (configuration A) as torchvision lays it out.

    132,863,336 parameters; 7,609,090,048 MACs for a 224 x 224 image (paper: 133e6 parameters;
    torchvision: 7.609e9).
    """
    return _vgg((1, 1, 2, 2, 2), shape, "zoo:vgg11")


def vgg13(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """VGG-13 (configuration B) as torchvision lays it out.

    133,047,848 parameters; 11,308,466,176 MACs for a 224 x 224 image (paper: 133e6 parameters;
    torchvision: 11.308e9).
    """
    return _vgg((2, 2, 2, 2, 2), shape, "zoo:vgg13")


def vgg16(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """VGG-16 (configuration D) as torchvision lays it out.

    138,357,544 parameters; 15,470,264,320 MACs for a 224 x 224 image (paper: 138e6 parameters;
    torchvision: 15.47e9). Its last feature sees 212 x 212 pixels.
    """
    return _vgg((2, 2, 3, 3, 3), shape, "zoo:vgg16")


def vgg19(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """VGG-19 (configuration E) as torchvision lays it out.

    143,667,240 parameters; 19,632,062,464 MACs for a 224 x 224 image (paper: 144e6 parameters;
    torchvision: 19.632e9).
    """
    return _vgg((2, 2, 4, 4, 4), shape, "zoo:vgg19")


def _vgg(depths: tuple[int, ...], shape: Shape, source: str) -> Graph:
    net = Layers()
    x = net.input("x", shape)
    index = 0
    for depth, channels in zip(depths, _WIDTHS, strict=True):
        for _ in range(depth):
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
    return net.build(("y", net.linear(x, "classifier.6", 1000)), source=source)
