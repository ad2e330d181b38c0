"""ShuffleNet-v2: half the channels pass by (Ma et al., 2018, arXiv:1807.11164, table 5)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Reduce, Reshape, Split, Transpose
from convsmith.sources.zoo.layers import Layers

__all__ = ["shufflenet_v2_x1_0"]


def shufflenet_v2_x1_0(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ShuffleNet-v2 at width 1.0.

    2,278,604 parameters; 144,907,992 MACs for a 224 x 224 image (paper: 146e6; torchvision:
    0.145e9).
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.max_pool(net.unit(x, "conv1", 24, 3, stride=2), "maxpool", 3, 2, padding=1)
    for stage, (channels, repeats) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
        x = _halving(net, x, f"stage{stage}.0", channels)
        for index in range(1, repeats):
            x = _passing(net, x, f"stage{stage}.{index}")
    x = net.unit(x, "conv5", 1024, 1)
    x = net.add(Reduce(kind="mean", axes=(2, 3)), x, name="mean")
    return net.build(("y", net.linear(x, "fc", 1000)), source="zoo:shufflenet_v2_x1_0")


def _halving(net: Layers, x: str, name: str, channels: int) -> str:
    """Figure 3d: both branches halve the sizes, so that channels double."""
    have = net.channels(x)
    left = net.unit(x, f"{name}.branch1", have, 3, stride=2, groups=have, kind="")
    left = net.unit(left, f"{name}.branch1", channels // 2, 1, first=2)
    return _shuffle(net, left, _branch(net, x, name, channels // 2, 2), name)


def _passing(net: Layers, x: str, name: str) -> str:
    """Figure 3c: half of the channels pass."""
    half = net.channels(x) // 2
    left, right = net.add_all(Split(sizes=(half, half)), x, name=f"{name}.chunk")
    return _shuffle(net, left, _branch(net, right, name, half, 1), name)


def _branch(net: Layers, x: str, name: str, channels: int, stride: int) -> str:
    path = f"{name}.branch2"
    x = net.unit(x, path, channels, 1)
    x = net.unit(x, path, channels, 3, stride=stride, groups=channels, kind="", first=3)
    return net.unit(x, path, channels, 1, first=5)


def _shuffle(net: Layers, left: str, right: str, name: str) -> str:
    """Joins two halves, their channels in turn."""
    x = net.concat(left, right, name=f"{name}.concat")
    channels, *sizes = net.shape(x)[1:]
    pairs = Reshape(shape=(-1, 2, channels // 2, *sizes))
    x = net.add(pairs, x, name=f"{name}.pairs")
    x = net.add(Transpose(permutation=(0, 2, 1, 3, 4)), x, name=f"{name}.transpose")
    return net.add(Reshape(shape=(-1, channels, *sizes)), x, name=f"{name}.shuffle")
