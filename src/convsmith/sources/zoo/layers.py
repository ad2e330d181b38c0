"""Square two-dimensional layers, so that a network of the zoo reads like its paper's table."""

from __future__ import annotations

from convsmith.graph import GraphBuilder
from convsmith.graph.operators import Activation, Conv, Linear, Norm, Pool

__all__ = ["Layers"]


class Layers(GraphBuilder):
    """A graph builder whose layers have square windows; each method returns the value made."""

    def conv(
        self,
        x: str,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        transposed: bool = False,
    ) -> str:
        """Adds a convolution."""
        op = Conv(
            channels=channels,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=((padding, padding),) * 2,
            dilation=(1, 1),
            groups=groups,
            bias=bias,
            transposed=transposed,
        )
        return self.add(op, x, name=name)

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

    def batch_norm(self, x: str, name: str, *, epsilon: float = 1e-5) -> str:
        """Adds batch normalization."""
        return self.add(Norm(kind="batch", epsilon=epsilon), x, name=name)

    def relu(self, x: str, name: str) -> str:
        """Adds the nonlinearity."""
        return self.add(Activation(kind="relu"), x, name=name)

    def linear(self, x: str, name: str, features: int) -> str:
        """Adds a fully connected layer."""
        return self.add(Linear(features=features), x, name=name)
