"""Layers on images in few words, so that a network of the zoo reads like its paper's table."""

from __future__ import annotations

from convsmith.errors import ShapeError
from convsmith.graph import GraphBuilder, Shape
from convsmith.graph.operators import (
    Activation,
    Concat,
    Conv,
    Elementwise,
    Flatten,
    GlobalPool,
    Linear,
    Norm,
    Pool,
)

__all__ = ["Layers"]

_FIXED = {"hardsigmoid": Activation(kind="hardsigmoid", alpha=1 / 6, beta=0.5)}


class Layers(GraphBuilder):
    """A graph builder for networks on images; each method returns the value that it made.

    A kernel or padding that is one number holds for both axes.
    """

    def shape(self, x: str) -> Shape:
        """The shape of a value.

        Raises:
            ShapeError: If it is not known.
        """
        shape = self.shapes[x]
        if shape is None:
            raise ShapeError("its shape is not known", place=x)
        return shape

    def channels(self, x: str) -> int:
        """The number of channels that a value has."""
        return self.shape(x)[1]

    def conv(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        transposed: bool = False,
    ) -> str:
        """Adds a convolution."""
        rows, columns = _pair(padding)
        op = Conv(
            channels=channels,
            kernel=_pair(kernel),
            stride=(stride, stride),
            padding=((rows, rows), (columns, columns)),
            dilation=(1, 1),
            groups=groups,
            bias=bias,
            transposed=transposed,
        )
        return self.add(op, x, name=name)

    def conv_bn(
        self,
        x: str,
        conv: str,
        norm: str,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
        epsilon: float = 1e-5,
    ) -> str:
        """Adds a convolution without bias, then batch normalization; both have a name."""
        x = self.conv(
            x, conv, channels, kernel, stride=stride, padding=padding, groups=groups, bias=False
        )
        return self.batch_norm(x, norm, epsilon=epsilon)

    def unit(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        kind: str = "relu",
        epsilon: float = 1e-5,
        first: int = 0,
    ) -> str:
        """Adds a convolution that keeps sizes (but for its stride), normalized and activated.

        The three are named ``name.0``, ``name.1`` and ``name.2``, or from ``first`` on; without
        a ``kind`` of activation there are two.
        """
        conv, norm, act = (f"{name}.{first + step}" for step in range(3))
        x = self.conv_bn(
            x,
            conv,
            norm,
            channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            epsilon=epsilon,
        )
        return self.act(x, act, kind) if kind else x

    def max_pool(
        self, x: str, name: str, kernel: int, stride: int, *, padding: int = 0, ceil: bool = False
    ) -> str:
        """Adds max pooling; ``ceil`` keeps the last, incomplete window."""
        op = Pool(
            kind="max",
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=((padding, padding),) * 2,
            dilation=(1, 1),
            rounding="ceil" if ceil else "floor",
        )
        return self.add(op, x, name=name)

    def average_pool(self, x: str, name: str, kernel: int, stride: int, *, padding: int = 0) -> str:
        """Adds average pooling, whose averages count the padding."""
        op = Pool(
            kind="average",
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=((padding, padding),) * 2,
            dilation=(1, 1),
        )
        return self.add(op, x, name=name)

    def batch_norm(self, x: str, name: str, *, epsilon: float = 1e-5) -> str:
        """Adds batch normalization."""
        return self.add(Norm(kind="batch", epsilon=epsilon), x, name=name)

    def act(self, x: str, name: str, kind: str) -> str:
        """Adds a nonlinearity of any kind."""
        return self.add(_FIXED.get(kind) or Activation(kind=kind), x, name=name)

    def relu(self, x: str, name: str) -> str:
        """Adds the nonlinearity."""
        return self.act(x, name, "relu")

    def gate(self, x: str, name: str, squeezed: int, *, inner: str, outer: str) -> str:
        """Adds squeeze and excitation: channels weighted by what their averages say.

        Hu et al., 2018, arXiv:1709.01507. ``inner`` and ``outer`` are its nonlinearities.
        """
        channels = self.channels(x)
        y = self.add(GlobalPool(kind="average"), x, name=f"{name}.avgpool")
        y = self.act(self.conv(y, f"{name}.fc1", squeezed, 1), f"{name}.activation", inner)
        y = self.conv(y, f"{name}.fc2", channels, 1)
        y = self.act(y, f"{name}.scale_activation", outer)
        return self.add(Elementwise(kind="mul"), y, x, name=f"{name}.mul")

    def plus(self, x: str, y: str, name: str) -> str:
        """Adds two values element by element."""
        return self.add(Elementwise(kind="add"), x, y, name=name)

    def concat(self, *parts: str, name: str) -> str:
        """Joins values along their channels."""
        return self.add(Concat(), *parts, name=name)

    def features(self, x: str) -> str:
        """Averages every channel over the image, as ``avgpool`` and ``flatten``."""
        x = self.add(GlobalPool(kind="average"), x, name="avgpool")
        return self.add(Flatten(), x, name="flatten")

    def linear(self, x: str, name: str, features: int) -> str:
        """Adds a fully connected layer."""
        return self.add(Linear(features=features), x, name=name)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
