"""GoogLeNet and Inception-v3 as torch modules, in torchvision's module names.

Szegedy et al., 2015, arXiv:1409.4842; Szegedy et al., 2016, arXiv:1512.00567. Without the
auxiliary heads, which take part in training only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor, nn

__all__ = ["GoogLeNet", "InceptionV3"]


class ConvBn(nn.Module):
    """A convolution without bias, normalized and rectified."""

    def __init__(self, inside: int, outside: int, kernel: int | tuple[int, int], **kw: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, bias=False, **kw)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """GoogLeNet's module, in torchvision's form: the "5x5" branch is a 3x3."""

    def __init__(
        self, inside: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvBn(inside, one, 1)
        self.branch2 = nn.Sequential(
            ConvBn(inside, three[0], 1), ConvBn(three[0], three[1], 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            ConvBn(inside, five[0], 1), ConvBn(five[0], five[1], 3, padding=1)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvBn(inside, pool, 1))
        self.outside = one + three[1] + five[1] + pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet (table 1 of the paper), with batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBn(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvBn(64, 64, 1)
        self.conv3 = ConvBn(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            x = layer(torch.flatten(x, 1) if name == "dropout" else x)
        return x


class InceptionA(nn.Module):
    """35 x 35: 1x1, 5x5, double 3x3, pool."""

    def __init__(self, inside: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBn(inside, 64, 1)
        self.branch5x5_1 = ConvBn(inside, 48, 1)
        self.branch5x5_2 = ConvBn(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvBn(inside, 64, 1)
        self.branch3x3dbl_2 = ConvBn(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBn(96, 96, 3, padding=1)
        self.branch_pool = ConvBn(inside, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([one, five, three, pool], 1)


class InceptionB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBn(inside, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvBn(inside, 64, 1)
        self.branch3x3dbl_2 = ConvBn(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBn(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3(x)
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([three, twice, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """17 x 17: 1x1, 1x7 + 7x1, twice 7x1 + 1x7, pool."""

    def __init__(self, inside: int, middle: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBn(inside, 192, 1)
        self.branch7x7_1 = ConvBn(inside, middle, 1)
        self.branch7x7_2 = ConvBn(middle, middle, (1, 7), padding=(0, 3))
        self.branch7x7_3 = ConvBn(middle, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = ConvBn(inside, middle, 1)
        self.branch7x7dbl_2 = ConvBn(middle, middle, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = ConvBn(middle, middle, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = ConvBn(middle, middle, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = ConvBn(middle, 192, (1, 7), padding=(0, 3))
        self.branch_pool = ConvBn(inside, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([one, seven, twice, pool], 1)


class InceptionD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBn(inside, 192, 1)
        self.branch3x3_2 = ConvBn(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvBn(inside, 192, 1)
        self.branch7x7x3_2 = ConvBn(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvBn(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvBn(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """8 x 8: branches whose last layer is a 1x3 beside a 3x1."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBn(inside, 320, 1)
        self.branch3x3_1 = ConvBn(inside, 384, 1)
        self.branch3x3_2a = ConvBn(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvBn(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvBn(inside, 448, 1)
        self.branch3x3dbl_2 = ConvBn(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvBn(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvBn(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvBn(inside, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        three = self.branch3x3_1(x)
        three = torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        twice = torch.cat([self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)], 1)
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([one, three, twice, pool], 1)


class InceptionV3(nn.Module):
    """Inception-v3 for 299 x 299 images."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBn(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvBn(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBn(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvBn(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBn(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            x = layer(torch.flatten(x, 1) if name == "fc" else x)
        return x
