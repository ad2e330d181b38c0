"""DenseNet: every layer sees all before it (Huang et al., 2017, arXiv:1608.06993, table 1)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.sources.zoo.layers import Layers

__all__ = ["densenet121"]

_GROWTH = 32


def densenet121(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """DenseNet-121: blocks of 6, 12, 24 and 16 layers that each add 32 channels.

    7,978,856 parameters; 2,834,161,664 MACs for a 224 x 224 image (torchvision: 2.834e9). Its last
    feature sees 2071 x 2071 pixels.
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.conv_bn(x, "features.conv0", "features.norm0", 64, 7, stride=2, padding=3)
    x = net.max_pool(net.relu(x, "features.relu0"), "features.pool0", 3, 2, padding=1)
    depths = (6, 12, 24, 16)
    for number, depth in enumerate(depths, start=1):
        x = _block(net, x, f"features.denseblock{number}", depth)
        if number < len(depths):
            x = _transition(net, x, f"features.transition{number}")
    x = net.relu(net.batch_norm(x, "features.norm5"), "relu")
    y = net.linear(net.features(x), "classifier", 1000)
    return net.build(("y", y), source="zoo:densenet121")


def _block(net: Layers, x: str, name: str, depth: int) -> str:
    parts = [x]
    for number in range(1, depth + 1):
        path = f"{name}.denselayer{number}"
        y = net.concat(*parts, name=f"{path}.concat") if len(parts) > 1 else x
        y = net.relu(net.batch_norm(y, f"{path}.norm1"), f"{path}.relu1")
        y = net.conv_bn(y, f"{path}.conv1", f"{path}.norm2", 4 * _GROWTH, 1)
        y = net.relu(y, f"{path}.relu2")
        parts.append(net.conv(y, f"{path}.conv2", _GROWTH, 3, padding=1, bias=False))
    return net.concat(*parts, name=f"{name}.concat")


def _transition(net: Layers, x: str, name: str) -> str:
    """Halves the channels, then the sizes."""
    half = net.channels(x) // 2
    x = net.relu(net.batch_norm(x, f"{name}.norm"), f"{name}.relu")
    x = net.conv(x, f"{name}.conv", half, 1, bias=False)
    return net.average_pool(x, f"{name}.pool", 2, 2)
