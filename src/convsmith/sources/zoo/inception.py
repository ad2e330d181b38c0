"""Inception-v3: factorized inception modules (Szegedy et al., 2016, arXiv:1512.00567, table 1)."""

from __future__ import annotations

from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Identity
from convsmith.sources.zoo.layers import Layers

__all__ = ["inception_v3"]


def inception_v3(shape: Shape = (1, 3, 299, 299)) -> Graph:
    """Inception-v3 as torchvision and TensorFlow lay it out, without the auxiliary head.

    23,834,568 parameters; 5,713,216,096 MACs for a 299 x 299 image (paper: under 25e6 and 5e9;
    torchvision: 5.713e9, and 27,161,264 parameters with the head's 3,326,696). No padding where
    sizes shrink, symmetric padding that keeps sizes elsewhere: TensorFlow's VALID and SAME give
    the same. Its last feature sees 1311 x 1311 pixels (Araujo, Norris & Sim, 2019, table 1).
    """
    net = _Inception()
    x = net.input("x", shape)
    x = net.unit_bn(x, "Conv2d_1a_3x3", 32, 3, stride=2)
    x = net.unit_bn(x, "Conv2d_2a_3x3", 32, 3)
    x = net.unit_bn(x, "Conv2d_2b_3x3", 64, 3, padding=1)
    x = net.max_pool(x, "maxpool1", 3, 2)
    x = net.unit_bn(x, "Conv2d_3b_1x1", 80, 1)
    x = net.unit_bn(x, "Conv2d_4a_3x3", 192, 3)
    x = net.max_pool(x, "maxpool2", 3, 2)
    for letter, pooled in (("b", 32), ("c", 64), ("d", 64)):
        x = _small(net, x, f"Mixed_5{letter}", pooled)
    x = _reduce_small(net, x, "Mixed_6a")
    for letter, middle in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        x = _factorized(net, x, f"Mixed_6{letter}", middle)
    x = _reduce_factorized(net, x, "Mixed_7a")
    for letter in ("b", "c"):
        x = _wide(net, x, f"Mixed_7{letter}")
    x = net.add(Identity(kind="dropout"), net.features(x), name="dropout")
    return net.build(("y", net.linear(x, "fc", 1000)), source="zoo:inception_v3")


class _Inception(Layers):
    """Layers, and the unit that Inception-v3 is made of."""

    def unit_bn(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> str:
        """Adds a convolution, normalized and rectified."""
        conv, norm = f"{name}.conv", f"{name}.bn"
        sizes = (channels, kernel)
        x = self.conv_bn(x, conv, norm, *sizes, stride=stride, padding=padding, epsilon=0.001)
        return self.relu(x, f"{name}.relu")

    def same(self, x: str, name: str, channels: int, *kernels: int | tuple[int, int]) -> str:
        """Adds one unit that keeps sizes for every kernel, all with as many channels.

        Several units are named ``name_1``, ``name_2``, ...
        """
        for number, kernel in enumerate(kernels, start=1):
            rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
            unit = f"{name}_{number}" if len(kernels) > 1 else name
            x = self.unit_bn(x, unit, channels, kernel, padding=(rows // 2, columns // 2))
        return x

    def pooled(self, x: str, name: str, channels: int) -> str:
        """Adds the branch that averages 3x3 and projects."""
        y = self.average_pool(x, f"{name}.pool", 3, 1, padding=1)
        return self.same(y, f"{name}.branch_pool", channels, 1)


def _small(net: _Inception, x: str, name: str, pooled: int) -> str:
    """Figure 5, on 35 x 35: a 5x5 and two 3x3 behind each other."""
    one = net.same(x, f"{name}.branch1x1", 64, 1)
    five = net.same(x, f"{name}.branch5x5_1", 48, 1)
    five = net.same(five, f"{name}.branch5x5_2", 64, 5)
    three = net.same(x, f"{name}.branch3x3dbl_1", 64, 1)
    three = net.same(three, f"{name}.branch3x3dbl_2", 96, 3)
    three = net.same(three, f"{name}.branch3x3dbl_3", 96, 3)
    pool = net.pooled(x, name, pooled)
    return net.concat(one, five, three, pool, name=f"{name}.concat")


def _reduce_small(net: _Inception, x: str, name: str) -> str:
    """Figure 10: 35 x 35 become 17 x 17."""
    three = net.unit_bn(x, f"{name}.branch3x3", 384, 3, stride=2)
    twice = net.same(x, f"{name}.branch3x3dbl_1", 64, 1)
    twice = net.same(twice, f"{name}.branch3x3dbl_2", 96, 3)
    twice = net.unit_bn(twice, f"{name}.branch3x3dbl_3", 96, 3, stride=2)
    pool = net.max_pool(x, f"{name}.pool", 3, 2)
    return net.concat(three, twice, pool, name=f"{name}.concat")


def _factorized(net: _Inception, x: str, name: str, middle: int) -> str:
    """Figure 6, on 17 x 17: 7x7 as 1x7 and 7x1."""
    row, column = (1, 7), (7, 1)
    one = net.same(x, f"{name}.branch1x1", 192, 1)
    seven = net.same(x, f"{name}.branch7x7_1", middle, 1)
    seven = net.same(seven, f"{name}.branch7x7_2", middle, row)
    seven = net.same(seven, f"{name}.branch7x7_3", 192, column)
    twice = net.same(x, f"{name}.branch7x7dbl", middle, 1, column, row, column)
    twice = net.same(twice, f"{name}.branch7x7dbl_5", 192, row)
    pool = net.pooled(x, name, 192)
    return net.concat(one, seven, twice, pool, name=f"{name}.concat")


def _reduce_factorized(net: _Inception, x: str, name: str) -> str:
    """17 x 17 become 8 x 8."""
    three = net.same(x, f"{name}.branch3x3_1", 192, 1)
    three = net.unit_bn(three, f"{name}.branch3x3_2", 320, 3, stride=2)
    seven = net.same(x, f"{name}.branch7x7x3", 192, 1, (1, 7), (7, 1))
    seven = net.unit_bn(seven, f"{name}.branch7x7x3_4", 192, 3, stride=2)
    pool = net.max_pool(x, f"{name}.pool", 3, 2)
    return net.concat(three, seven, pool, name=f"{name}.concat")


def _wide(net: _Inception, x: str, name: str) -> str:
    """Figure 7, on 8 x 8: branches that end in a 1x3 beside a 3x1."""
    one = net.same(x, f"{name}.branch1x1", 320, 1)
    three = net.same(x, f"{name}.branch3x3_1", 384, 1)
    three = _beside(net, three, f"{name}.branch3x3_2")
    twice = net.same(x, f"{name}.branch3x3dbl_1", 448, 1)
    twice = net.same(twice, f"{name}.branch3x3dbl_2", 384, 3)
    twice = _beside(net, twice, f"{name}.branch3x3dbl_3")
    pool = net.pooled(x, name, 192)
    return net.concat(one, three, twice, pool, name=f"{name}.concat")


def _beside(net: _Inception, x: str, name: str) -> str:
    parts = (net.same(x, f"{name}a", 384, (1, 3)), net.same(x, f"{name}b", 384, (3, 1)))
    return net.concat(*parts, name=f"{name}.concat")
