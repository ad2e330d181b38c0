"""Inverted residuals with gates: MobileNet-v3 and EfficientNet.

Howard et al., 2019, arXiv:1905.02244, tables 1 and 2; Tan & Le, 2019, arXiv:1905.11946, table 1.
"""

from __future__ import annotations

from typing import NamedTuple

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["efficientnet_b0", "mobilenet_v3_large", "mobilenet_v3_small"]


class _Block(NamedTuple):
    """One row of a table; ``squeezed`` channels in the gate, 0 without one."""

    kernel: int
    middle: int
    channels: int
    stride: int
    kind: str
    squeezed: int = 0


_LARGE = (
    _Block(3, 16, 16, 1, "relu"),
    _Block(3, 64, 24, 2, "relu"),
    _Block(3, 72, 24, 1, "relu"),
    _Block(5, 72, 40, 2, "relu", 24),
    _Block(5, 120, 40, 1, "relu", 32),
    _Block(5, 120, 40, 1, "relu", 32),
    _Block(3, 240, 80, 2, "hardswish"),
    _Block(3, 200, 80, 1, "hardswish"),
    _Block(3, 184, 80, 1, "hardswish"),
    _Block(3, 184, 80, 1, "hardswish"),
    _Block(3, 480, 112, 1, "hardswish", 120),
    _Block(3, 672, 112, 1, "hardswish", 168),
    _Block(5, 672, 160, 2, "hardswish", 168),
    _Block(5, 960, 160, 1, "hardswish", 240),
    _Block(5, 960, 160, 1, "hardswish", 240),
)
_SMALL = (
    _Block(3, 16, 16, 2, "relu", 8),
    _Block(3, 72, 24, 2, "relu"),
    _Block(3, 88, 24, 1, "relu"),
    _Block(5, 96, 40, 2, "hardswish", 24),
    _Block(5, 240, 40, 1, "hardswish", 64),
    _Block(5, 240, 40, 1, "hardswish", 64),
    _Block(5, 120, 48, 1, "hardswish", 32),
    _Block(5, 144, 48, 1, "hardswish", 40),
    _Block(5, 288, 96, 2, "hardswish", 72),
    _Block(5, 576, 96, 1, "hardswish", 144),
    _Block(5, 576, 96, 1, "hardswish", 144),
)

# EfficientNet-B0: expansion, output channels, repeats, first stride and kernel of every stage.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def mobilenet_v3_large(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """MobileNet-v3, large.

    5,483,032 parameters; 216,589,760 MACs for a 224 x 224 image (paper, table 3: 5.4e6 and
    219e6; torchvision: 0.217e9).
    """
    return _mobilenet_v3(_LARGE, 1280, shape, "zoo:mobilenet_v3_large")


def mobilenet_v3_small(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """MobileNet-v3, small.

    2,542,856 parameters; 56,510,400 MACs for a 224 x 224 image (paper, table 3: 2.5e6 and
    56e6; torchvision: 0.057e9).
    """
    return _mobilenet_v3(_SMALL, 1024, shape, "zoo:mobilenet_v3_small")


def efficientnet_b0(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """EfficientNet-B0.

    5,288,548 parameters; 385,814,752 MACs for a 224 x 224 image (paper, table 2: 5.3e6 and
    0.39e9; torchvision: 0.386e9). Beside the whole image through its gates, its last feature sees
    851 x 851 pixels.
    """
    net = Layers()
    x = net.input("x", shape)
    x = net.unit(x, "features.0", 32, 3, stride=2, kind="silu")
    for stage, (expansion, channels, repeats, first, kernel) in enumerate(_STAGES, start=1):
        for index in range(repeats):
            have = net.channels(x)
            stride = 1 if index else first
            sizes = (kernel, have * expansion, channels, stride)
            block = _Block(*sizes, kind="silu", squeezed=have // 4)
            x = _gated_residual(net, x, f"features.{stage}.{index}", block, "silu", "sigmoid")
    x = net.unit(x, "features.8", 1280, 1, kind="silu")
    x = net.add(Identity(kind="dropout"), net.features(x), name="classifier.0")
    y = net.linear(x, "classifier.1", 1000)
    return net.build(("y", y), source="zoo:efficientnet_b0")


def _mobilenet_v3(blocks: tuple[_Block, ...], hidden: int, shape: Shape, source: str) -> Graph:
    net, epsilon = Layers(), 0.001
    x = net.input("x", shape)
    x = net.unit(x, "features.0", 16, 3, stride=2, kind="hardswish", epsilon=epsilon)
    for index, block in enumerate(blocks, start=1):
        x = _gated_residual(
            net, x, f"features.{index}", block, "relu", "hardsigmoid", epsilon=epsilon
        )
    last = f"features.{len(blocks) + 1}"
    x = net.unit(x, last, 6 * net.channels(x), 1, kind="hardswish", epsilon=epsilon)
    x = net.linear(net.features(x), "classifier.0", hidden)
    x = net.act(x, "classifier.1", "hardswish")
    x = net.add(Identity(kind="dropout"), x, name="classifier.2")
    return net.build(("y", net.linear(x, "classifier.3", 1000)), source=source)


def _gated_residual(
    net: Layers, x: str, name: str, block: _Block, inner: str, outer: str, *, epsilon: float = 1e-5
) -> str:
    """1x1 up, depthwise, gate, 1x1 down without activation; a shortcut where sizes agree."""
    have, y, step = net.channels(x), x, 0
    kernel, middle, channels, stride, kind, squeezed = block
    path = f"{name}.block"
    if middle != have:
        y = net.unit(y, f"{path}.{step}", middle, 1, kind=kind, epsilon=epsilon)
        step += 1
    depthwise = f"{path}.{step}"
    y = net.unit(
        y, depthwise, middle, kernel, stride=stride, groups=middle, kind=kind, epsilon=epsilon
    )
    step += 1
    if squeezed:
        y = net.gate(y, f"{path}.{step}", squeezed, inner=inner, outer=outer)
        step += 1
    y = net.unit(y, f"{path}.{step}", channels, 1, kind="", epsilon=epsilon)
    return net.plus(y, x, f"{name}.add") if stride == 1 and have == channels else y
