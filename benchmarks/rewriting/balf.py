"""BALF, re-implemented: activation-aware low-rank factors, ranks by a Lagrangian, no tuning.

After *BALF: Budgeted Activation-Aware Low-Rank Factorization for Fine-Tuning-Free Model
Compression* (2025), not its authors' code. The inputs of a layer are whitened by their (uncentred)
second moments, the whitened weights get one SVD (``k x k`` to R, then ``1 x 1``), and ranks
maximize the sum of the layers' retained energy, each relative to its own, under the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from benchmarks.rewriting.chains import Chain, Layer, Step, Unreachable, channel_costs
from benchmarks.rewriting.tasks import Images, batches
from torch import nn

__all__ = ["Whitened", "chain", "chains_at", "second_moments", "whiten"]

Array = npt.NDArray[Any]


def second_moments(
    module: nn.Module, found: Sequence[Layer], images: Images, positions: int
) -> dict[str, Array]:
    """``E[x x^T]`` of the unfolded inputs of every layer, over so many positions of each image."""
    random = torch.Generator().manual_seed(0)
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    hooks = []
    for layer in found:
        conv = module.get_submodule(layer.name)
        assert isinstance(conv, nn.Conv2d)

        def note(conv: nn.Module, given: tuple[torch.Tensor, ...], name: str = layer.name) -> None:
            assert isinstance(conv, nn.Conv2d)
            assert not isinstance(conv.padding, str)
            columns = F.unfold(given[0], conv.kernel_size, padding=conv.padding, stride=conv.stride)
            if columns.shape[2] > positions:
                columns = columns[:, :, torch.randperm(columns.shape[2], generator=random)]
            for one in columns[:, :, :positions]:
                product = (one @ one.T).double()
                sums[name] = sums[name] + product if name in sums else product
                counts[name] = counts.get(name, 0) + one.shape[1]

        hooks.append(conv.register_forward_pre_hook(note))
    with torch.no_grad():
        for x, _ in batches(images, 1 if images.inputs[0].shape[-1] > 64 else 20):
            module(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return {name: (total / counts[name]).numpy() for name, total in sums.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whitened:
    """One SVD of a layer: ``left`` is scaled by the singular values, ``right`` unwhitened."""

    left: Array
    right: Array
    energy: Array
    """Retained at rank 0, 1, 2, ..., relative to all of it."""


def whiten(layer: Layer, moments: Array) -> Whitened:
    """The decomposition that is optimal for the layer's outputs at every rank."""
    values, vectors = np.linalg.eigh(moments)
    values = np.maximum(values, 1e-9 * values[-1])
    roots = np.sqrt(values)
    flat = layer.weight.reshape(len(layer.weight), -1)
    left, singular, right = np.linalg.svd((flat @ vectors) * roots, full_matrices=False)
    energy = np.concatenate([[0.0], np.cumsum(singular**2)])
    return Whitened(
        left=left * singular,
        right=(right / roots) @ vectors.T,
        energy=energy / energy[-1],
    )


def chains_at(
    found: Sequence[Layer], whitened: Mapping[str, Whitened], budget: float
) -> dict[str, Chain]:
    """The ranks of the smallest multiplier whose multiplications fit the budget.

    Raises:
        Unreachable: If none does.
    """

    def pick(multiplier: float) -> dict[str, int]:
        """Per layer the rank of the best energy less price; 0 stands for the layer as it is."""
        ranks = {}
        for layer in found:
            energy = whitened[layer.name].energy[1:]
            costs = channel_costs(layer) * np.arange(1, len(energy) + 1) / layer.macs
            price = multiplier * layer.macs / total
            gains = energy - price * costs
            best = int(np.argmax(gains))
            ranks[layer.name] = 0 if 1 - price >= gains[best] else best + 1
        return ranks

    def cost(ranks: Mapping[str, int]) -> int:
        return sum(
            channel_costs(layer) * ranks[layer.name] if ranks[layer.name] else layer.macs
            for layer in found
        )

    total = sum(layer.macs for layer in found)
    low, high = -12.0, 6.0  # powers of ten
    if cost(pick(10**high)) > budget:
        raise Unreachable(f"even rank 1 everywhere costs more than {budget:.3g}")
    for _ in range(60):
        middle = (low + high) / 2
        if cost(pick(10**middle)) <= budget:
            high = middle
        else:
            low = middle
    ranks = pick(10**high)
    return {
        layer.name: chain(layer, whitened[layer.name], ranks[layer.name])
        for layer in found
        if ranks[layer.name]
    }


def chain(layer: Layer, parts: Whitened, rank: int) -> Chain:
    """``k x k`` to ``rank`` channels, then ``1 x 1``."""
    first = parts.right[:rank].reshape(rank, *layer.weight.shape[1:])
    return (
        Step(weight=first, stride=layer.stride, padding=layer.padding),
        Step(weight=parts.left[:, :rank, None, None], bias=layer.bias),
    )
