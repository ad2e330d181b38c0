"""RepLKNet: depthwise kernels up to 31x31 (Ding et al., 2022, arXiv:2203.06717, section 4)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.sources.zoo.layers import Layers

__all__ = ["replknet_31b"]

# Kernel, number of blocks and channels of every stage.
_STAGES = ((31, 2, 128), (29, 2, 256), (27, 18, 512), (13, 2, 1024))


def replknet_31b(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """RepLKNet-31B as it runs: each parallel 5x5 is merged into its large kernel.

    79,527,272 parameters; 15,353,525,248 MACs for a 224 x 224 image (paper, table 5: 79e6 and
    15.3e9).
    """
    net = Layers()
    x = net.input("x", shape)
    first = _STAGES[0][2]
    x = _unit(net, x, "stem.0", first, 3, stride=2)
    x = _unit(net, x, "stem.1", first, 3, depthwise=True)
    x = _unit(net, x, "stem.2", first, 1)
    x = _unit(net, x, "stem.3", first, 3, stride=2, depthwise=True)
    for stage, (kernel, depth, width) in enumerate(_STAGES):
        if stage:
            path = f"transitions.{stage - 1}"
            x = _unit(net, x, f"{path}.0", width, 1)
            x = _unit(net, x, f"{path}.1", width, 3, stride=2, depthwise=True)
        for index in range(depth):
            path = f"stages.{stage}.blocks"
            x = _large_block(net, x, f"{path}.{2 * index}", kernel)
            x = _feed_forward(net, x, f"{path}.{2 * index + 1}")
    y = net.linear(net.features(net.batch_norm(x, "norm")), "head", 1000)
    return net.build(("y", y), source="zoo:replknet_31b")


def _unit(
    net: Layers,
    x: str,
    name: str,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    depthwise: bool = False,
    kind: str = "relu",
) -> str:
    groups = channels if depthwise else 1
    conv, norm, padding = f"{name}.conv", f"{name}.bn", kernel // 2
    x = net.conv_bn(x, conv, norm, channels, kernel, stride=stride, padding=padding, groups=groups)
    return net.act(x, f"{name}.nonlinear", kind) if kind else x


def _large_block(net: Layers, x: str, name: str, kernel: int) -> str:
    width = net.channels(x)
    y = _unit(net, net.batch_norm(x, f"{name}.prelkb_bn"), f"{name}.pw1", width, 1)
    large = f"{name}.large_kernel.lkb_reparam"
    y = net.conv(y, large, width, kernel, padding=kernel // 2, groups=width)
    y = net.relu(y, f"{name}.lk_nonlinear")
    return net.plus(x, _unit(net, y, f"{name}.pw2", width, 1, kind=""), f"{name}.add")


def _feed_forward(net: Layers, x: str, name: str) -> str:
    width = net.channels(x)
    y = net.batch_norm(x, f"{name}.preffn_bn")
    y = net.act(_unit(net, y, f"{name}.pw1", 4 * width, 1, kind=""), f"{name}.nonlinear", "gelu")
    return net.plus(x, _unit(net, y, f"{name}.pw2", width, 1, kind=""), f"{name}.add")
