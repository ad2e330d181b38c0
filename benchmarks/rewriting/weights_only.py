"""What needs no data: truncated singular value decompositions, one ratio for all layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from benchmarks.rewriting.chains import (
    Chain,
    Layer,
    Step,
    channel_costs,
    largest,
    spatial_costs,
    uniform_ranks,
)

__all__ = ["chains_at", "channel", "spatial"]


def spatial(layer: Layer, rank: int) -> Chain:
    """``k_h x 1`` then ``1 x k_w`` by one SVD (Jaderberg, Vedaldi & Zisserman 2014, scheme 2)."""
    outside, inside, height, width = layer.weight.shape
    lifted = layer.weight.transpose(1, 2, 0, 3).reshape(inside * height, outside * width)
    left, values, right = np.linalg.svd(lifted, full_matrices=False)
    roots = np.sqrt(values[:rank])
    vertical = (left[:, :rank] * roots).T.reshape(rank, inside, height, 1)
    horizontal = (roots[:, None] * right[:rank]).reshape(rank, outside, 1, width).swapaxes(0, 1)
    return (
        Step(weight=vertical, stride=(layer.stride[0], 1), padding=(layer.padding[0], 0)),
        Step(
            weight=np.ascontiguousarray(horizontal),
            bias=layer.bias,
            stride=(1, layer.stride[1]),
            padding=(0, layer.padding[1]),
        ),
    )


def channel(layer: Layer, rank: int) -> Chain:
    """``k x k`` to ``rank`` channels, then ``1 x 1``, by one SVD (Denton et al. 2014)."""
    flat = layer.weight.reshape(len(layer.weight), -1)
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    first = right[:rank].reshape(rank, *layer.weight.shape[1:])
    return (
        Step(weight=first, stride=layer.stride, padding=layer.padding),
        Step(weight=(left[:, :rank] * values[:rank])[:, :, None, None], bias=layer.bias),
    )


FORMS: dict[Callable[[Layer, int], Chain], Callable[[Layer], int]] = {
    spatial: spatial_costs,
    channel: channel_costs,
}


def chains_at(
    form: Callable[[Layer, int], Chain], found: tuple[Layer, ...], budget: float
) -> dict[str, Chain]:
    """Every layer at the largest common ratio whose multiplications fit the budget.

    Raises:
        Unreachable: If none does.
    """
    per_rank = FORMS[form]

    def cost(share: float) -> float:
        ranks = uniform_ranks(found, per_rank, share)
        return sum(
            per_rank(layer) * ranks[layer.name] if layer.name in ranks else layer.macs
            for layer in found
        )

    ranks = uniform_ranks(found, per_rank, largest(cost, budget))
    return {layer.name: form(layer, ranks[layer.name]) for layer in found if layer.name in ranks}
