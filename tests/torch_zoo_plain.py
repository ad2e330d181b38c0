"""AlexNet, VGG, SqueezeNet, U-Net, SRCNN, VDSR, ConvNeXt and RepLKNet as torch modules.

Classifiers have torchvision's module names. Krizhevsky, 2014, arXiv:1404.5997; Simonyan &
Zisserman, 2015, 1409.1556; Iandola et al., 2016, 1602.07360; Ronneberger et al., 2015,
1505.04597; Dong et al., 2016, 1501.00092; Kim et al., 2016, 1511.04587; Liu et al., 2022,
2201.03545; Ding et al., 2022, 2203.06717.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["SRCNN", "VDSR", "VGG", "AlexNet", "ConvNeXt", "RepLKNet", "SqueezeNet", "UNet"]


class AlexNet(nn.Module):
    """AlexNet in one column."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return y


class VGG(nn.Module):
    """VGG with so many 3x3 in each of its five stages."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU(inplace=True)]
                inside = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return y


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3."""

    def __init__(self, inside: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inside, squeezed, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        one = self.expand1x1_activation(self.expand1x1(x))
        return torch.cat([one, self.expand3x3_activation(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 (7x7 stem, late pools) or 1.1 (3x3 stem, early pools)."""

    def __init__(self, version: str) -> None:
        super().__init__()
        early = version == "1_1"
        stem = nn.Conv2d(3, 64, 3, 2) if early else nn.Conv2d(3, 96, 7, 2)
        layers: list[nn.Module] = [stem, nn.ReLU(inplace=True), pool()]
        inside = 64 if early else 96
        for number, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
            layers.append(Fire(inside, squeezed, 4 * squeezed))
            inside = 8 * squeezed
            if number in ((3, 5) if early else (4, 8)):
                layers.append(pool())
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(512, 1000, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


def pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class Double(nn.Module):
    """Two 3x3 without padding; behind an up-sampling and a skip if it has ``up``."""

    def __init__(self, inside: int, width: int, *, up: bool = False) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inside, width, 2, 2) if up else None
        self.conv1 = nn.Conv2d(inside, width, 3)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.up is not None and skip is not None:
            x = self.up(x)
            top, left = ((skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3))
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            x = torch.cat([skip, x], 1)
        y: Tensor = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return y


class UNet(nn.Module):
    """U-Net as in the paper: no padding, skips cropped."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, 2)
        self.down1, self.down2 = Double(1, 64), Double(64, 128)
        self.down3, self.down4 = Double(128, 256), Double(256, 512)
        self.bottom = Double(512, 1024)
        self.up4, self.up3 = Double(1024, 512, up=True), Double(512, 256, up=True)
        self.up2, self.up1 = Double(256, 128, up=True), Double(128, 64, up=True)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in (self.down1, self.down2, self.down3, self.down4):
            skips.append(down(x))
            x = self.pool(skips[-1])
        x = self.bottom(x)
        for up in (self.up4, self.up3, self.up2, self.up1):
            x = up(x, skips.pop())
        y: Tensor = self.head(x)
        return y


class SRCNN(nn.Module):
    """SRCNN 9-5-5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 1, 5, padding=2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))
        return y


class VDSR(nn.Module):
    """VDSR: twenty 3x3 predict what is added to the input."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(1, 21):
            inside, outside = 1 if number == 1 else 64, 1 if number == 20 else 64
            conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
            self.add_module(f"conv{number}", conv)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name, layer in self.named_children():
            if name != "relu":
                y = layer(y)
                y = y if name == "conv20" else self.relu(y)
        return x + y


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Permute(nn.Module):
    """Axes in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, an MLP on channels, a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer_scale * self.block(x)
        return x + y


class ConvNeXt(nn.Module):
    """ConvNeXt, without stochastic depth: nothing at inference."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], eps=1e-6))
        ]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                inside = widths[stage - 1]
                down = [ChannelNorm(inside, eps=1e-6), nn.Conv2d(inside, width, 2, 2)]
                layers.append(nn.Sequential(*down))
            layers.append(nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth))))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            ChannelNorm(widths[-1], eps=1e-6), nn.Flatten(1), nn.Linear(widths[-1], 1000)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.avgpool(self.features(x)))
        return y


def conv_bn(
    inside: int, outside: int, kernel: int, stride: int = 1, *, depthwise: bool = False
) -> OrderedDict[str, nn.Module]:
    """A convolution that keeps sizes (but for the stride), normalized."""
    groups, padding = inside if depthwise else 1, kernel // 2
    conv = nn.Conv2d(inside, outside, kernel, stride, padding, groups=groups, bias=False)
    return OrderedDict(conv=conv, bn=nn.BatchNorm2d(outside))


def conv_bn_relu(
    inside: int, outside: int, kernel: int, stride: int = 1, *, depthwise: bool = False
) -> nn.Sequential:
    layers = conv_bn(inside, outside, kernel, stride, depthwise=depthwise)
    return nn.Sequential(OrderedDict(**layers, nonlinear=nn.ReLU()))


class RepLKBlock(nn.Module):
    """1x1, large depthwise, 1x1 and a shortcut; its small parallel kernel is merged already."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.prelkb_bn = nn.BatchNorm2d(width)
        self.pw1 = conv_bn_relu(width, width, 1)
        large = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.large_kernel = nn.Sequential(OrderedDict(lkb_reparam=large))
        self.lk_nonlinear = nn.ReLU()
        self.pw2 = nn.Sequential(conv_bn(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.large_kernel(self.pw1(self.prelkb_bn(x)))
        y = self.pw2(self.lk_nonlinear(y))
        return x + y


class ConvFFN(nn.Module):
    """Two 1x1 with a GELU between and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(width)
        self.pw1 = nn.Sequential(conv_bn(width, 4 * width, 1))
        self.nonlinear = nn.GELU()
        self.pw2 = nn.Sequential(conv_bn(4 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pw2(self.nonlinear(self.pw1(self.preffn_bn(x))))
        return x + y


class RepLKNet(nn.Module):
    """RepLKNet with merged kernels, as it runs at inference, in its authors' module names."""

    def __init__(
        self, kernels: Sequence[int], depths: Sequence[int], widths: Sequence[int]
    ) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            conv_bn_relu(3, first, 3, 2),
            conv_bn_relu(first, first, 3, depthwise=True),
            conv_bn_relu(first, first, 1),
            conv_bn_relu(first, first, 3, 2, depthwise=True),
        )
        self.stages = nn.ModuleList()
        for kernel, depth, width in zip(kernels, depths, widths, strict=True):
            pairs = ((RepLKBlock(width, kernel), ConvFFN(width)) for _ in range(depth))
            blocks = nn.Sequential(*(block for pair in pairs for block in pair))
            self.stages.append(nn.Sequential(OrderedDict(blocks=blocks)))
        self.transitions = nn.ModuleList(
            nn.Sequential(
                conv_bn_relu(inside, width, 1), conv_bn_relu(width, width, 3, 2, depthwise=True)
            )
            for inside, width in pairwise(widths)
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](self.stem(x))
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = stage(transition(x))
        y: Tensor = self.head(torch.flatten(self.avgpool(self.norm(x)), 1))
        return y
