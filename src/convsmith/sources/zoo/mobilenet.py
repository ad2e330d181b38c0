"""MobileNet: depthwise-separable convolutions (Howard et al., 2017, arXiv:1704.04861, table 1)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Flatten, GlobalPool
from convsmith.sources.zoo.layers import Layers

__all__ = ["mobilenet_v1"]

# Output channels and stride of every depthwise-separable block.
_BLOCKS = (
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


def mobilenet_v1(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """MobileNet-v1 at width 1.0; every block is ``depthwise`` then ``pointwise``.

    4,231,976 parameters; 568,740,352 MACs for a 224 x 224 image.
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.conv(x, "conv1", 32, 3, stride=2, padding=1, bias=False)
    x = net.relu(net.batch_norm(x, "conv1.bn"), "conv1.relu")
    have = 32
    for index, (channels, stride) in enumerate(_BLOCKS, start=1):
        name = f"block{index}.depthwise"
        x = net.conv(x, name, have, 3, stride=stride, padding=1, groups=have, bias=False)
        x = net.relu(net.batch_norm(x, f"{name}.bn"), f"{name}.relu")
        name = f"block{index}.pointwise"
        x = net.conv(x, name, channels, 1, bias=False)
        x = net.relu(net.batch_norm(x, f"{name}.bn"), f"{name}.relu")
        have = channels
    x = net.add(GlobalPool(kind="average"), x, name="avgpool")
    x = net.add(Flatten(), x, name="flatten")
    return net.build(("y", net.linear(x, "fc", 1000)), source="zoo:mobilenet_v1")
