"""ResNet, ResNeXt and DenseNet as torch modules, in torchvision's module names.

He et al., 2016, arXiv:1512.03385; Xie et al., 2017, arXiv:1611.05431; Huang et al., 2017,
arXiv:1608.06993.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BasicBlock", "Bottleneck", "DenseNet", "ResNet"]


class Block(nn.Module):
    """What both kinds of block end with."""

    downsample: nn.Module | None
    relu: nn.Module

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds the shortcut, in place, and rectifies."""
        y += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(y)
        return result


class BasicBlock(Block):
    """Two 3x3 and a shortcut."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int, **_: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(inside, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.join(x, y)


class Bottleneck(Block):
    """1x1, 3x3, 1x1 and a shortcut; ``first`` puts the stride in the first 1x1 (the paper)."""

    expansion = 4

    def __init__(
        self,
        inside: int,
        width: int,
        stride: int,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        first: bool = False,
    ) -> None:
        super().__init__()
        middle = width * width_per_group // 64 * groups
        outside = width * self.expansion
        self.conv1 = nn.Conv2d(inside, middle, 1, stride if first else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(
            middle, middle, 3, 1 if first else stride, 1, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(inside, outside, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.join(x, y)


def projection(inside: int, outside: int, stride: int) -> nn.Sequential | None:
    """The shortcut where sizes change; elsewhere there is none."""
    if stride == 1 and inside == outside:
        return None
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


class ResNet(nn.Module):
    """A stem, four stages of blocks, a classifier."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], **options: Any
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(block(inside, width, stride, **options))
                inside = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inside, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{stage}")(x)
        y: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return y


class DenseLayer(nn.Module):
    """Normalize, 1x1, normalize, 3x3 on all that came before in the block."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inside, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, parts: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu1(self.norm1(torch.cat(parts, 1))))
        y: Tensor = self.conv2(self.relu2(self.norm2(x)))
        return y


class DenseBlock(nn.Module):
    """Dense layers, each of which sees the results of all before."""

    def __init__(self, inside: int, growth: int, depth: int) -> None:
        super().__init__()
        for index in range(depth):
            layer = DenseLayer(inside + index * growth, growth)
            self.add_module(f"denselayer{index + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for layer in self.children():
            parts.append(layer(parts))
        return torch.cat(parts, 1)


class DenseNet(nn.Module):
    """DenseNet: dense blocks with transitions that halve channels and sizes."""

    def __init__(self, depths: tuple[int, ...], *, growth: int = 32, width: int = 64) -> None:
        super().__init__()
        features: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, width, 7, 2, 3, bias=False),
            norm0=nn.BatchNorm2d(width),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(3, 2, 1),
        )
        for number, depth in enumerate(depths, start=1):
            features[f"denseblock{number}"] = DenseBlock(width, growth, depth)
            width += depth * growth
            if number < len(depths):
                transition = OrderedDict(
                    norm=nn.BatchNorm2d(width),
                    relu=nn.ReLU(inplace=True),
                    conv=nn.Conv2d(width, width // 2, 1, bias=False),
                    pool=nn.AvgPool2d(2, 2),
                )
                features[f"transition{number}"] = nn.Sequential(transition)
                width //= 2
        features["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential(features)
        self.classifier = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.features(x), inplace=True)
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1)
        y: Tensor = self.classifier(x)
        return y
