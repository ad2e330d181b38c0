"""ResNet and ResNeXt: residual blocks.

He et al., 2016, arXiv:1512.03385, table 1; Xie et al., 2017, arXiv:1611.05431, table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from convsmith.graph import Graph, Shape
from convsmith.sources.zoo.layers import Layers

__all__ = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet50_v1",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
]

_Block = Callable[[Layers, str, str, int, int], str]


def resnet18(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-18: two basic blocks a stage.

    11,689,512 parameters; 1,814,073,344 MACs for a 224 x 224 image (paper: 1.8e9; torchvision:
    1.814e9). Its last feature sees 435 x 435 pixels.
    """
    return _resnet(_basic, (2, 2, 2, 2), shape, "zoo:resnet18")


def resnet34(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-34: 3, 4, 6 and 3 basic blocks.

    21,797,672 parameters; 3,663,761,408 MACs for a 224 x 224 image (paper: 3.6e9; torchvision:
    3.664e9). Its last feature sees 899 x 899 pixels.
    """
    return _resnet(_basic, (3, 4, 6, 3), shape, "zoo:resnet34")


def resnet50(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-50 version 1.5, with the stride in the 3x3 (torchvision), not in the 1x1 (the paper).

    25,557,032 parameters; 4,089,184,256 MACs for a 224 x 224 image (torchvision: 4.089e9). Its
    last feature sees 427 x 427 pixels; in the paper's network, ``resnet50_v1``, 483 x 483.
    """
    return _resnet(_bottleneck, (3, 4, 6, 3), shape, "zoo:resnet50")


def resnet50_v1(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-50 as in the paper, with the stride in the first 1x1 of a stage.

    25,557,032 parameters; 3,857,973,248 MACs for a 224 x 224 image (paper: 3.8e9). Its last
    feature sees 483 x 483 pixels (Araujo, Norris & Sim, 2019, table 1).
    """
    return _resnet(partial(_bottleneck, early=True), (3, 4, 6, 3), shape, "zoo:resnet50_v1")


def resnet101(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-101 version 1.5: 3, 4, 23 and 3 bottlenecks.

    44,549,160 parameters; 7,801,405,440 MACs for a 224 x 224 image (torchvision: 7.801e9).
    """
    return _resnet(_bottleneck, (3, 4, 23, 3), shape, "zoo:resnet101")


def resnet152(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNet-152 version 1.5: 3, 8, 36 and 3 bottlenecks.

    60,192,808 parameters; 11,513,626,624 MACs for a 224 x 224 image (torchvision: 11.514e9).
    """
    return _resnet(_bottleneck, (3, 8, 36, 3), shape, "zoo:resnet152")


def resnext50_32x4d(shape: Shape = (1, 3, 224, 224)) -> Graph:
    """ResNeXt-50 (32x4d): ResNet-50 whose 3x3 have 32 groups of 4 channels in the first stage.

    25,028,904 parameters; 4,230,479,872 MACs for a 224 x 224 image (paper: 25.0e6 and 4.2e9;
    torchvision: 4.23e9).
    """
    block = partial(_bottleneck, groups=32, width_per_group=4)
    return _resnet(block, (3, 4, 6, 3), shape, "zoo:resnext50_32x4d")


def _resnet(block: _Block, depths: tuple[int, ...], shape: Shape, source: str) -> Graph:
    net = Layers()
    x = net.input("x", shape)
    x = net.relu(net.conv_bn(x, "conv1", "bn1", 64, 7, stride=2, padding=3), "relu")
    x = net.max_pool(x, "maxpool", 3, 2, padding=1)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            x = block(net, x, f"layer{stage + 1}.{index}", 64 * 2**stage, stride)
    return net.build(("y", net.linear(net.features(x), "fc", 1000)), source=source)


def _basic(net: Layers, x: str, name: str, width: int, stride: int) -> str:
    y = net.conv_bn(x, f"{name}.conv1", f"{name}.bn1", width, 3, stride=stride, padding=1)
    y = net.relu(y, f"{name}.relu")
    y = net.conv_bn(y, f"{name}.conv2", f"{name}.bn2", width, 3, padding=1)
    return _join(net, x, y, name, width, stride)


def _bottleneck(
    net: Layers,
    x: str,
    name: str,
    width: int,
    stride: int,
    *,
    groups: int = 1,
    width_per_group: int = 64,
    early: bool = False,
) -> str:
    """1x1, 3x3, 1x1; ``early`` puts the stride in the first of them."""
    middle = width * width_per_group // 64 * groups
    first, second = (stride, 1) if early else (1, stride)
    y = net.conv_bn(x, f"{name}.conv1", f"{name}.bn1", middle, 1, stride=first)
    y = net.relu(y, f"{name}.relu")
    y = net.conv_bn(
        y, f"{name}.conv2", f"{name}.bn2", middle, 3, stride=second, padding=1, groups=groups
    )
    y = net.relu(y, f"{name}.relu_1")
    y = net.conv_bn(y, f"{name}.conv3", f"{name}.bn3", 4 * width, 1)
    return _join(net, x, y, name, 4 * width, stride)


def _join(net: Layers, x: str, y: str, name: str, channels: int, stride: int) -> str:
    """Adds the shortcut, projected where the sizes change, and the last nonlinearity."""
    if stride > 1 or net.channels(x) != channels:
        path = f"{name}.downsample"
        x = net.conv_bn(x, f"{path}.0", f"{path}.1", channels, 1, stride=stride)
    return net.relu(net.plus(y, x, f"{name}.add"), f"{name}.relu_out")
