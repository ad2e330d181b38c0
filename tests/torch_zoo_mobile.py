"""Depthwise-separable networks as torch modules, in torchvision's module names.

MobileNet v1, v2, v3 (arXiv:1704.04861, 1801.04381, 1905.02244), ShuffleNet v2 (1807.11164),
MNASNet (1807.11626), EfficientNet (1905.11946).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = [
    "EfficientNetB0",
    "MNASNet",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "ShuffleNetV2",
]

Act = Callable[[], nn.Module]


def relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def relu6() -> nn.Module:
    return nn.ReLU6(inplace=True)


def hardswish() -> nn.Module:
    return nn.Hardswish(inplace=True)


def silu() -> nn.Module:
    return nn.SiLU(inplace=True)


def conv_bn(
    inside: int,
    outside: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    act: Act | None = relu,
    eps: float = 1e-5,
) -> nn.Sequential:
    """A convolution that keeps sizes (but for the stride), normalized, with a nonlinearity."""
    padding = (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(inside, outside, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outside, eps=eps),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


def divisible(value: float) -> int:
    """The nearest multiple of 8, at most a tenth less (the papers' rule for channels)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class Separable(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, each normalized and rectified; MobileNet-v1's block."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.pointwise = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.depthwise(x)))
        y: Tensor = self.relu(self.bn2(self.pointwise(x)))
        return y


class MobileNetV1(nn.Module):
    """MobileNet-v1 at width 1.0."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace=True)
        for number, (inside, outside) in enumerate(pairwise(widths), start=1):
            stride = 2 if number in (2, 4, 6, 12) else 1
            self.add_module(f"block{number}", Separable(inside, outside, stride))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            x = layer(torch.flatten(x, 1) if name == "fc" else x)
        return x


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise, project by 1x1; MobileNet-v2's block."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inside * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn(inside, middle, 1, act=relu6))
        layers += [
            conv_bn(middle, middle, 3, stride, groups=middle, act=relu6),
            nn.Conv2d(middle, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNet-v2 at width 1.0 (table 2 of the paper)."""

    def __init__(self) -> None:
        super().__init__()
        table = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=relu6)]
        inside = 32
        for expansion, outside, repeats, stride in table:
            for index in range(repeats):
                step = stride if not index else 1
                layers.append(InvertedResidual(inside, outside, step, expansion))
                inside = outside
        layers.append(conv_bn(inside, 1280, 1, act=relu6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        y: Tensor = self.classifier(torch.flatten(x, 1))
        return y


class SqueezeExcitation(nn.Module):
    """A gate per channel, from the average over the image."""

    def __init__(self, inside: int, squeezed: int, act: Act, gate: Act) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(inside, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, inside, 1)
        self.activation = act()
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        y: Tensor = self.scale_activation(gate) * x
        return y


class GatedResidual(nn.Module):
    """An inverted residual with an optional gate: MobileNet-v3 and EfficientNet."""

    def __init__(
        self,
        inside: int,
        middle: int,
        outside: int,
        kernel: int,
        stride: int,
        act: Act,
        gate: SqueezeExcitation | None,
        eps: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if middle != inside:
            layers.append(conv_bn(inside, middle, 1, act=act, eps=eps))
        layers.append(conv_bn(middle, middle, kernel, stride, groups=middle, act=act, eps=eps))
        if gate is not None:
            layers.append(gate)
        layers.append(conv_bn(middle, outside, 1, act=None, eps=eps))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        if self.residual:
            y += x
        return y


# Kernel, expanded channels, output channels, gate, hard swish, stride (tables 1 and 2).
LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class MobileNetV3(nn.Module):
    """MobileNet-v3, large or small."""

    def __init__(self, *, large: bool) -> None:
        super().__init__()
        eps = 0.001
        layers: list[nn.Module] = [conv_bn(3, 16, 3, 2, act=hardswish, eps=eps)]
        inside = 16
        for kernel, middle, outside, gated, swish, stride in LARGE if large else SMALL:
            gate = None
            if gated:
                gate = SqueezeExcitation(middle, divisible(middle / 4), relu, nn.Hardsigmoid)
            act = hardswish if swish else relu
            layers.append(GatedResidual(inside, middle, outside, kernel, stride, act, gate, eps))
            inside = outside
        layers.append(conv_bn(inside, 6 * inside, 1, act=hardswish, eps=eps))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        hidden = 1280 if large else 1024
        self.classifier = nn.Sequential(
            nn.Linear(6 * inside, hidden),
            nn.Hardswish(inplace=True),
            nn.Dropout(0.2, inplace=True),
            nn.Linear(hidden, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return y


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 (table 1 of the paper), without stochastic depth: nothing at inference."""

    def __init__(self) -> None:
        super().__init__()
        table = (
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        )
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=silu)]
        inside = 32
        for expansion, outside, repeats, stride, kernel in table:
            stage = []
            for index in range(repeats):
                middle, step = inside * expansion, stride if not index else 1
                gate = SqueezeExcitation(middle, max(1, inside // 4), silu, nn.Sigmoid)
                block = GatedResidual(inside, middle, outside, kernel, step, silu, gate, 1e-5)
                stage.append(block)
                inside = outside
            layers.append(nn.Sequential(*stage))
        layers.append(conv_bn(inside, 1280, 1, act=silu))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return y


class ShuffleUnit(nn.Module):
    """ShuffleNet-v2's unit: half the channels pass, then channels are shuffled in two groups."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        half = outside // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
                nn.BatchNorm2d(inside),
                nn.Conv2d(inside, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(inside if stride > 1 else half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            y = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        else:
            left, right = x.chunk(2, dim=1)
            y = torch.cat((left, self.branch2(right)), dim=1)
        batch, channels, height, width = y.size()
        y = y.view(batch, 2, channels // 2, height, width)
        return torch.transpose(y, 1, 2).contiguous().view(batch, channels, height, width)


class ShuffleNetV2(nn.Module):
    """ShuffleNet-v2 at width 1.0 (table 5 of the paper)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 24, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = 24
        for stage, (outside, repeats) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
            units = [ShuffleUnit(inside, outside, 2)]
            units += [ShuffleUnit(outside, outside, 1) for _ in range(repeats - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*units))
            inside = outside
        self.conv5 = conv_bn(inside, 1024, 1)
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            x = layer(x.mean([2, 3]) if name == "fc" else x)
        return x


class MNASUnit(nn.Module):
    """MNASNet's inverted residual, named ``layers``."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.layers = nn.Sequential(
            *conv_bn(inside, middle, 1),
            *conv_bn(middle, middle, kernel, stride, groups=middle),
            *conv_bn(middle, outside, 1, act=None),
        )
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y + x if self.residual else y


class MNASNet(nn.Module):
    """MNASNet-B1 at width 1.0."""

    def __init__(self) -> None:
        super().__init__()
        table = (
            (24, 3, 2, 3, 3),
            (40, 5, 2, 3, 3),
            (80, 5, 2, 6, 3),
            (96, 3, 1, 6, 2),
            (192, 5, 2, 6, 4),
            (320, 3, 1, 6, 1),
        )
        layers: list[nn.Module] = [
            *conv_bn(3, 32, 3, 2),
            *conv_bn(32, 32, 3, groups=32),
            *conv_bn(32, 16, 1, act=None),
        ]
        inside = 16
        for outside, kernel, stride, expansion, repeats in table:
            units = [MNASUnit(inside, outside, kernel, stride, expansion)]
            again = (MNASUnit(outside, outside, kernel, 1, expansion) for _ in range(1, repeats))
            units.extend(again)
            layers.append(nn.Sequential(*units))
            inside = outside
        self.layers = nn.Sequential(*layers, *conv_bn(inside, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.layers(x).mean([2, 3]))
        return y
