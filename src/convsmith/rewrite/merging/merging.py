"""``cs.merge``: layers that one layer replaces exactly, folded, summed and multiplied out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from convsmith.analysis import analyze
from convsmith.analysis.ledger import Total
from convsmith.errors import PlanError, UsageError
from convsmith.graph import Graph
from convsmith.results import Progress, Result
from convsmith.rewrite.merging.branches import drop_zeros, merge_concatenations, merge_sums
from convsmith.rewrite.merging.chains import merge_chains
from convsmith.rewrite.merging.draft import Draft
from convsmith.rewrite.merging.norms import fold_norms, remove_identities
from convsmith.rewrite.merging.steps import Merge, Step

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_RULES", "RULES", "Merging", "merge", "repeat", "rules_of"]

RULES: Mapping[str, Callable[[Draft], None]] = {
    "identity": remove_identities,
    "norm": fold_norms,
    "serial": merge_chains,
    "zero": drop_zeros,
    "parallel": merge_sums,
    "concat": merge_concatenations,
}
"""What each rule does to a network, in the order in which they are tried."""

DEFAULT_RULES = frozenset(RULES) - {"concat"}
"""All but ``concat``, which saves no arithmetic: it makes fewer and larger kernels of many."""

_Network = TypeVar("_Network", bound="Graph | torch.nn.Module")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging(Result, Generic[_Network]):
    """A network in which layers have become one, and which.

    Attributes:
        source: What the network was read from.
        net: The network: a graph, or a module in evaluation mode; the original if there was
            nothing to merge.
        merges: Every step, in order; the layer that one made may take part in a later one.
        before: Costs of the original.
        after: Costs of the merged network.
        layers_before: Operators of the original.
        layers_after: Operators of the merged network.
        notes: What looked as if it could be merged, and why it was not.
    """

    source: str
    net: _Network = field(compare=False, repr=False)
    merges: tuple[Merge, ...]
    before: Total
    after: Total
    layers_before: int
    layers_after: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the merging as JSON-ready data, schema ``convsmith.merging/1``."""

        def side(total: Total, layers: int) -> dict[str, int]:
            return {
                "layers": layers,
                "params": total.params,
                "macs": total.macs,
                "flops": total.flops,
                "weight_bytes": total.weight_bytes,
                "peak_activation_bytes": total.peak_activation_bytes,
            }

        return {
            "schema": "convsmith.merging/1",
            "source": self.source,
            "before": side(self.before, self.layers_before),
            "after": side(self.after, self.layers_after),
            "merges": [step.to_dict() for step in self.merges],
            "notes": list(self.notes),
        }


def merge(
    net: _Network,
    *,
    rules: str | Collection[str] | None = None,
    input: object = None,  # noqa: A002 - as in convsmith.load
    progress: Progress | None = None,
) -> Merging[_Network]:
    """Merges layers that one layer replaces exactly, as at inference.

    The result computes the same up to rounding, borders included, and sees the same. Weights are
    combined in float64 and rounded once. A step is done only where neither multiply-accumulates
    nor the weights of kernels become more (a bias vector may stand for a scalar or for
    statistics). Values that others read, or that are outputs, and weights that layers share
    stay as they are.

    Rules:
        * ``norm``: batch normalization, and products and sums with constants per channel, into
          the convolution, transposed convolution or linear layer in front of it; or into the one
          behind it, where no border is padded or nothing is added.
        * ``parallel``: summed branches of one input (RepVGG, ACNet), kernels of different
          sizes, dilations and groups, batch normalizations and the input itself among them.
        * ``serial``: two linear layers in a row. Behind a kernel, only where the second pads
          nothing; behind a 1x1 that adds nothing, always.
        * ``identity``: dropout, identities, and layers that do nothing.
        * ``zero``: branches of a sum with all weights 0, and what only they need.
        * ``concat``: neighbours of equal geometry in a concatenation, as one wider layer.
          Not done unless asked for: it saves no arithmetic.

    Args:
        net: A graph with weights, or a module; it stays as it is. In a module, layers get new
            weights and what is folded into them becomes ``nn.Identity``; what its ``forward``
            computes itself stays, and a note says so.
        rules: Names of the rules to use, or one name; all but ``concat`` without it.
        input: For a module: the sizes of its input or example tensors, as in
            :func:`convsmith.load`.
        progress: Called with every step.

    Raises:
        DataError: If a weight is absent or not finite, or statistics make no sense; names the
            layer.
        UsageError: If there is no such rule, ``net`` is neither a graph nor a module, or a module
            has no input sizes.

    >>> import numpy as np
    >>> from dataclasses import replace
    >>> from convsmith.graph import Constant, parse
    >>> net = parse("4@8 > ( conv 4 3 p1 > bn + conv 4 1 > bn + bn )")
    >>> ones = {name: Constant.of(np.ones(c.shape, "f4")) for name, c in net.constants.items()}
    >>> made = merge(replace(net, constants=ones))
    >>> print(made.net)
    x : 4@8x8
    conv1 = conv 4 3 p1 (x)
    return y = conv1
    >>> made.before.macs, made.after.macs
    (10240, 9216)
    """
    return _merged(net, rules_of(rules), input, progress, lambda _: "")


def rules_of(rules: str | Collection[str] | None) -> frozenset[str]:
    """The rules that are asked for; all but ``concat`` where none is named.

    Raises:
        UsageError: If there is no such rule.

    >>> sorted(rules_of(["norm", "serial"]))
    ['norm', 'serial']
    """
    names = [rules] if isinstance(rules, str) else rules
    chosen = DEFAULT_RULES if names is None else frozenset(names)
    unknown = sorted(map(repr, chosen - set(RULES)))
    if unknown:
        remedy = f"choose among {', '.join(RULES)}"
        raise UsageError(f"there is no rule {unknown[0]}", place="merge", remedy=remedy)
    return chosen


def repeat(
    merges: Sequence[Merge],
    net: _Network,
    *,
    input: object = None,  # noqa: A002 - as in convsmith.load
    progress: Progress | None = None,
) -> _Network:
    """Does merges once more that were done before: all of them, and no others.

    Args:
        merges: What was done.
        net: The network that it was done to, as a graph, or the module that it was read from.
        input: For a module: the sizes of its input or example tensors.
        progress: Called with every step.

    Raises:
        DataError: If a weight is absent or not finite, or statistics make no sense.
        PlanError: If one of the merges cannot be done; names the layer and says why.

    >>> import numpy as np
    >>> from dataclasses import replace
    >>> from convsmith.graph import Constant, parse
    >>> net = parse("4@8 > conv 4 3 p1 > bn")
    >>> ones = {name: Constant.of(np.ones(c.shape, "f4")) for name, c in net.constants.items()}
    >>> net = replace(net, constants=ones)
    >>> made = merge(net)
    >>> len(repeat(made.merges, net).nodes), repeat([], net) is net
    (1, True)
    """
    wanted = {(step.kind, step.layers): step for step in merges}
    unknown = next((step for step in merges if step.kind not in RULES), None)
    if unknown is not None:
        raise PlanError(
            f"there is no rule {unknown.kind!r} to merge {_sum(unknown.layers)} by",
            place=unknown.into,
            remedy=f"choose among {', '.join(RULES)}",
        )

    def allows(step: Step) -> str:
        known = (step.kind, tuple(node.name for node in step.layers)) in wanted
        return "" if known else "this was not asked for"

    made = _merged(net, {step.kind for step in merges}, input, progress, allows)
    done = {(step.kind, step.layers): step.into for step in made.merges}
    for key, step in wanted.items():
        if done.get(key) != step.into:
            layers = _sum(step.layers)
            note = f"{layers}: not merged: "
            why = next((n.removeprefix(note) for n in made.notes if n.startswith(note)), "")
            raise PlanError(
                f"{layers} cannot be merged here{f': {why}' if why else ''}",
                place=step.into,
                remedy="use the network that this was planned for"
                if isinstance(net, Graph)
                else "use the graph, or plan again with less to merge, such as merge='norm'",
            )
    return made.net


def _sum(names: Sequence[str]) -> str:
    return " + ".join(names)


def _merged(
    net: _Network,
    chosen: Collection[str],
    input: object,  # noqa: A002 - as above
    progress: Progress | None,
    allows: Callable[[Step], str],
) -> Merging[_Network]:
    if isinstance(net, Graph):
        if input is not None:
            raise UsageError(
                "a graph has sizes of its own",
                place="merge",
                remedy="change them with convsmith.load(graph, input)",
            )
        draft = run_rules(net, chosen, allows, progress)
        made = draft.build()
        return cast("Merging[_Network]", result(net, made, made, draft))
    if not hasattr(net, "named_modules"):
        raise UsageError(
            f"an object of type {type(net).__name__} is neither a graph nor a module",
            place="merge",
            remedy="read it with convsmith.load first",
        )
    from convsmith.rewrite.merging.modules import merge_module

    return cast("Merging[_Network]", merge_module(net, chosen, input, progress, allows))


def run_rules(
    net: Graph,
    rules: Collection[str],
    allows: Callable[[Step], str],
    progress: Progress | None,
) -> Draft:
    """Applies rules until none finds anything.

    Args:
        net: The network.
        rules: Names.
        allows: Why a step must not be done; empty if it may.
        progress: Called with every step.
    """

    def follow() -> None:
        if progress is not None:
            progress("merging layers", len(draft.merges), 0)

    draft = Draft(net, allows, follow)
    while True:
        done = len(draft.merges)
        draft.blocked.clear()
        for name, rule in RULES.items():
            if name in rules:
                rule(draft)
        if len(draft.merges) == done:
            return draft


def result(before: Graph, after: Graph, net: _Network, draft: Draft) -> Merging[_Network]:
    """Puts a result together from both networks as graphs."""
    return Merging(
        source=before.source,
        net=net,
        merges=tuple(draft.merges),
        before=analyze(before).total,
        after=analyze(after).total,
        layers_before=len(before.nodes),
        layers_after=len(after.nodes),
        notes=tuple(
            f"{_sum(names)}: not merged: {reason}" for names, reason in draft.blocked.items()
        ),
    )
