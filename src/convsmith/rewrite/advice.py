"""What to mind in a plan: places that limit what training can recover, and what to do there."""

from __future__ import annotations

from collections.abc import Sequence

from convsmith.graph import Graph
from convsmith.rewrite.following import batch_norm_behind
from convsmith.rewrite.plan import Advice, Choice
from convsmith.rewrite.site import Site

__all__ = ["advise"]

NARROW = 0.25
"""A chain whose rank is below this share of the layer's is called a bottleneck."""

DEEP = 3
"""From so many layers on, a chain without anything between them is hard to train."""

LOSSY = 0.1
"""From this error on (of the variance of a layer's outputs) training is advised."""


def advise(net: Graph, choices: Sequence[Choice]) -> tuple[Advice, ...]:
    """Looks at every layer that was replaced.

    The rank bound: the outputs of a chain at one position lie in a space of as many dimensions as
    its narrowest layer has channels, whatever it is trained to.
    """
    found: list[Advice] = []
    for choice in choices:
        if len(choice.chain) < 2:
            if choice.error >= LOSSY and choice.chain:
                found.append(_lossy(choice))
            continue
        site = Site.of(net, net.by_name[choice.layer])
        narrow = min(step.op.channels for step in choice.chain[:-1]) // site.groups
        rank = min(site.outs, site.width)
        if narrow < NARROW * rank:
            found.append(
                Advice(
                    layer=choice.layer,
                    fact=f"its middle has {narrow} channels, so its {site.outs} outputs can have"
                    f" rank {narrow} of {rank} at most",
                    remedy="allow this layer more (exclude=, or a wider width in the plan), or"
                    " train it: no training lifts the bound",
                )
            )
        if len(choice.chain) >= DEEP and batch_norm_behind(net, net.by_name[choice.layer]) is None:
            found.append(
                Advice(
                    layer=choice.layer,
                    fact=f"{len(choice.chain)} layers in a row have no normalization and no"
                    " residual around them",
                    remedy="train with a small learning rate (a tenth of the usual), or put a"
                    " normalization behind the last",
                )
            )
        if choice.error >= LOSSY:
            found.append(_lossy(choice))
    return tuple(found)


def _lossy(choice: Choice) -> Advice:
    return Advice(
        layer=choice.layer,
        fact=f"{choice.error:.0%} of the variance of its outputs is lost",
        remedy="train the network again (convsmith.rewrite.distill needs no labels)",
    )
