"""``cs.merge`` on torch modules: what can be merged without changing any ``forward``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from convsmith.analysis import analyze
from convsmith.errors import ConvsmithError
from convsmith.graph import Graph
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear
from convsmith.results import Progress
from convsmith.rewrite.merging.draft import Draft
from convsmith.rewrite.merging.merging import Merging, result, run_rules
from convsmith.rewrite.merging.steps import Step

if TYPE_CHECKING:
    import torch

__all__ = ["merge_module"]


def merge_module(
    module: torch.nn.Module,
    rules: Collection[str],
    given: object,
    progress: Progress | None,
    wanted: Callable[[Step], str],
) -> Merging[torch.nn.Module]:
    """Merges layers of a module; :func:`convsmith.merge` says which.

    Args:
        module: The module; left as it is.
        rules: Names of rules.
        given: The sizes of its inputs, or example tensors.
        progress: Called with every step.
        wanted: Why a step is not wanted; empty if it is.

    Raises:
        DataError: If a weight is absent or not finite, or statistics make no sense.
        SourceError: If the module cannot be read.
        UsageError: If it is not said what the inputs are.
    """
    from convsmith.sources.torch import read_module
    from convsmith.sources.torch.merging import merged_module, why_not_merged

    net = read_module(module, given)
    uses = Counter(node.provenance.path for node in net.nodes)
    known: dict[str, str] = {}

    def allows(step: Step) -> str:
        if why := wanted(step):
            return why
        if step.drop is not None:
            return "the module's forward would have to change (use the graph)"
        for node in (*step.removed, *([step.into] if step.into else [])):
            path = node.provenance.path
            if path not in known:
                known[path] = why_not_merged(module, path)
            if known[path]:
                return known[path]
            if uses[path] > 1:
                return f"{path} is used {uses[path]} times (use the graph)"
        return ""

    draft = run_rules(net, rules, allows, progress)
    merged = draft.build()
    if merged is net:
        return result(net, net, module, draft)
    layers = {}
    for node in merged.nodes:
        if node.name in draft.changed:
            weight, *bias = (merged.constants[name].data for name in node.parameters)
            assert isinstance(node.op, Conv | Linear)
            assert weight is not None
            step = ConvStep(op=node.op, weight=weight, bias=bias[0] if bias else None)
            layers[node.provenance.path] = step
    left = {node.provenance.path for node in merged.nodes}
    gone = [node.provenance.path for node in net.nodes if node.provenance.path not in left]
    made = merged_module(module, layers, gone)
    try:
        again: Graph | None = read_module(made, given)
    except ConvsmithError:
        again = None
    if again is None or _costs(again) != _costs(merged):
        draft = Draft(net, allows, lambda: None)
        draft.blocked = {
            (net.source or type(module).__name__,): "its forward looks into layers that would"
            " change or go (use the graph)"
        }
        return result(net, net, module, draft)
    return result(net, merged, made, draft)


def _costs(net: Graph) -> tuple[int, int]:
    total = analyze(net).total
    return total.macs, total.params
