"""U-Net: an encoder, a decoder and skips (Ronneberger et al., 2015, arXiv:1505.04597, figure 1)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Slice
from convsmith.sources.zoo.layers import Layers

__all__ = ["unet"]


def unet(shape: Shape = (1, 1, 572, 572)) -> Graph:
    """U-Net as in the paper: no padding, so 572 x 572 pixels become 388 x 388 labels.

    31,030,658 parameters; 150,428,424,448 MACs for a 572 x 572 image with one channel, counted from
    the figure: the paper states none.
    """
    net = Layers()
    x = net.input("x", shape)
    skips: list[str] = []
    for level in range(4):
        x = _double(net, x, f"down{level + 1}", 64 * 2**level)
        skips.append(x)
        x = net.max_pool(x, f"pool{level + 1}", 2, 2)
    x = _double(net, x, "bottom", 1024)
    for level in reversed(range(4)):
        width = 64 * 2**level
        name = f"up{level + 1}"
        x = net.conv(x, f"{name}.up", width, 2, stride=2, transposed=True)
        cropped = _crop(net, skips[level], x, f"{name}.crop")
        x = net.concat(cropped, x, name=f"{name}.concat")
        x = _double(net, x, name, width)
    return net.build(("y", net.conv(x, "head", 2, 1)), source="zoo:unet")


def _double(net: Layers, x: str, name: str, channels: int) -> str:
    for index in (1, 2):
        x = net.conv(x, f"{name}.conv{index}", channels, 3)
        x = net.relu(x, f"{name}.relu{index}")
    return x


def _crop(net: Layers, x: str, like: str, name: str) -> str:
    """Cuts the middle out, to the size of another value."""
    have, want = net.shape(x), net.shape(like)
    ranges = tuple(
        (axis, (have[axis] - want[axis]) // 2, (have[axis] + want[axis]) // 2, 1) for axis in (2, 3)
    )
    return net.add(Slice(ranges=ranges), x, name=name)
