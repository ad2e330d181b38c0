"""Additions behind planned convolutions, fused where ``torch.fx`` can follow the code.

A block's ``forward`` is traced on its own, its modules left closed. In the trace

    conv > (what became of a normalization) > + other > (activation)

becomes one call of the convolution with ``other`` as its residual.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import fx, nn

from convsmith.acceleration.planned import PlannedConv
from convsmith.conv.spec import Activation

__all__ = ["fuse_residuals"]

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_FUNCTIONS: dict[Any, Activation] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hardswish",
}
_MODULES: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}
_METHODS: dict[str, Activation] = {"relu": "relu", "relu_": "relu"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Closed(fx.Tracer):
    """Follows one ``forward``, not those of the modules that it calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Every module is a leaf."""
        return True


def fuse_residuals(module: nn.Module) -> int:
    """Fuses additions in all blocks of a module, in place; returns how many.

    A block whose ``forward`` cannot be traced, has hooks, or stands at several places stays.
    """
    places = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    count = 0
    for parent in reversed(list(module.modules())):  # blocks inside blocks first
        for name, block in list(parent.named_children()):
            if places[id(block)] == 1 and _may_hold(block):
                made, fused = _rewritten(block, places)
                if fused:
                    setattr(parent, name, made)
                    count += fused
    return count


def _may_hold(block: nn.Module) -> bool:
    if isinstance(block, fx.GraphModule | nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    if any(getattr(block, table, None) for table in _HOOKS):
        return False
    return any(isinstance(part, PlannedConv) for _, part in block.named_modules())


def _rewritten(block: nn.Module, places: Counter[int]) -> tuple[nn.Module, int]:
    try:
        graph = _Closed().trace(block)
    except Exception:  # noqa: BLE001 - code that depends on values, or that fx does not know
        return block, 0
    modules = dict(block.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    count = 0
    for node in list(graph.nodes):
        if not _is_addition(node):
            continue
        for mine, other in (node.args, node.args[::-1]):
            conv = _planned(mine, modules, calls, places)
            if conv is None or mine is other:
                continue
            count += 1
            _fuse(graph, node, mine, conv, other, modules)
            break
    if not count:
        return block, 0
    for node in graph.nodes:
        node.type = None  # an annotation may be a name that only its own file knows
    graph.lint()
    made = fx.GraphModule(block, graph, class_name=type(block).__name__)
    return made.eval(), count


def _is_addition(node: fx.Node) -> bool:
    sums = (node.op == "call_function" and node.target in _ADDITIONS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )
    return (
        sums
        and len(node.args) == 2
        and not node.kwargs
        and all(isinstance(argument, fx.Node) for argument in node.args)
    )


def _planned(
    node: Any, modules: dict[str, nn.Module], calls: Counter[Any], places: Counter[int]
) -> fx.Node | None:
    """The call of a planned convolution whose result nobody else reads, or nothing."""
    while isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1:
        found = modules[str(node.target)]
        if isinstance(found, PlannedConv):
            fits = (
                calls[node.target] == 1
                and places[id(found)] == 1
                and found.activation == "none"
                and len(node.args) == 1
                and not node.kwargs
            )
            return node if fits else None
        if type(found) is not nn.Identity or len(node.args) != 1:
            return None
        node = node.args[0]
    return None


def _fuse(
    graph: fx.Graph,
    addition: fx.Node,
    mine: Any,
    conv: fx.Node,
    other: Any,
    modules: dict[str, nn.Module],
) -> None:
    """Puts one call in the place of the convolution, what follows it, and the addition."""
    planned = modules[str(conv.target)]
    assert isinstance(planned, PlannedConv)
    last = addition
    if len(addition.users) == 1:
        (user,) = addition.users
        kind = _activation(user, modules)
        if kind != "none":
            planned.residual_activation, last = kind, user
    with graph.inserting_before(addition):
        made = graph.call_module(str(conv.target), (conv.args[0], other))
    last.replace_all_uses_with(made)
    for node in dict.fromkeys((last, addition)):
        graph.erase_node(node)
    while mine is not conv:
        mine, before = mine.args[0], mine
        graph.erase_node(before)
    graph.erase_node(conv)


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> Activation:
    if len(node.args) != 1 or set(node.kwargs) - {"inplace"}:
        return "none"
    match node.op:
        case "call_module":
            found = modules[str(node.target)]
            if any(getattr(found, table, None) for table in _HOOKS):
                return "none"
            return _MODULES.get(type(found), "none")
        case "call_function":
            return _FUNCTIONS.get(node.target, "none")
        case "call_method":
            return _METHODS.get(str(node.target), "none")
    return "none"
