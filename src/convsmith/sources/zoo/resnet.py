"""ResNet: residual blocks (He et al., 2016, arXiv:1512.03385, table 1)."""

from __future__ import annotations

from collections.abc import Callable

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Elementwise, Flatten, GlobalPool
from convsmith.sources.zoo.layers import Layers

__all__ = ["resnet18", "resnet50"]

_Block = Callable[[Layers, str, str, int, int], str]


def resnet18(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-18: two basic blocks a stage.

    11,689,512 parameters; 1,814,073,344 MACs for a 224 x 224 image.
    """
    return _resnet(_basic, (2, 2, 2, 2), shape, "zoo:resnet18")


def resnet50(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-50 version 1.5, with the stride in the 3x3 (torchvision), not in the 1x1 (the paper).

    25,557,032 parameters; 4,089,184,256 MACs for a 224 x 224 image. Its last feature sees
    427 x 427 pixels; the paper's stride placement would see 483 x 483.
    """
    return _resnet(_bottleneck, (3, 4, 6, 3), shape, "zoo:resnet50")


def _resnet(block: _Block, depths: tuple[int, ...], shape: Shape, source: str) -> Graph:
    net = Layers()
    x = net.input("x", shape)
    x = _conv_bn(net, x, "conv1", "bn1", 64, 7, stride=2, padding=3)
    x = net.relu(x, "relu")
    x = net.max_pool(x, "maxpool", 3, 2, padding=1)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            x = block(net, x, f"layer{stage + 1}.{index}", 64 * 2**stage, stride)
    x = net.add(GlobalPool(kind="average"), x, name="avgpool")
    x = net.add(Flatten(), x, name="flatten")
    return net.build(("y", net.linear(x, "fc", 1000)), source=source)


def _conv_bn(
    net: Layers,
    x: str,
    conv: str,
    norm: str,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
) -> str:
    x = net.conv(x, conv, channels, kernel, stride=stride, padding=padding, bias=False)
    return net.batch_norm(x, norm)


def _basic(net: Layers, x: str, name: str, width: int, stride: int) -> str:
    y = _conv_bn(net, x, f"{name}.conv1", f"{name}.bn1", width, 3, stride=stride, padding=1)
    y = net.relu(y, f"{name}.relu")
    y = _conv_bn(net, y, f"{name}.conv2", f"{name}.bn2", width, 3, padding=1)
    return _join(net, x, y, name, width, stride)


def _bottleneck(net: Layers, x: str, name: str, width: int, stride: int) -> str:
    y = _conv_bn(net, x, f"{name}.conv1", f"{name}.bn1", width, 1)
    y = net.relu(y, f"{name}.relu")
    y = _conv_bn(net, y, f"{name}.conv2", f"{name}.bn2", width, 3, stride=stride, padding=1)
    y = net.relu(y, f"{name}.relu_1")
    y = _conv_bn(net, y, f"{name}.conv3", f"{name}.bn3", 4 * width, 1)
    return _join(net, x, y, name, 4 * width, stride)


def _join(net: Layers, x: str, y: str, name: str, channels: int, stride: int) -> str:
    """Adds the shortcut, projected where the sizes change, and the last nonlinearity."""
    have = net.shapes[x]
    if stride > 1 or (have is not None and have[1] != channels):
        path = f"{name}.downsample"
        x = _conv_bn(net, x, f"{path}.0", f"{path}.1", channels, 1, stride=stride)
    y = net.add(Elementwise(kind="add"), y, x, name=f"{name}.add")
    return net.relu(y, f"{name}.relu_out")
