"""Which places of a rewritten network correspond to places of the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from convsmith.errors import UsageError
from convsmith.graph import Graph, Node

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_paths", "groups_of", "rewritten_modules", "rewritten_values"]


def groups_of(original: Graph, rewritten: Graph) -> Mapping[str, tuple[str, ...]]:
    """The nodes that stand for every layer that was rewritten, by the layer's name.

    A layer was rewritten if its operator or the shapes of its parameters differ; the nodes that
    stand for it are itself and everything before it that the original does not have.

    >>> from convsmith.graph import parse
    >>> groups_of(parse("1@4 > conv 1 3 > relu"), parse("1@4 > conv 1 3 nobias > relu"))
    {'conv1': ('conv1',)}
    """
    groups = {}
    for node in rewritten.nodes:
        before = original.by_name.get(node.name)
        if before is None or _same(original, before, rewritten, node):
            continue
        members = [node.name]
        for name in members:  # grows while it is gone through
            for used in rewritten.by_name[name].inputs:
                maker = rewritten.producers.get(used)
                if maker is not None and maker.name not in (*members, *original.by_name):
                    members.append(maker.name)
        groups[node.name] = tuple(members)
    return groups


def _same(original: Graph, before: Node, rewritten: Graph, after: Node) -> bool:
    if before.op != after.op:
        return False
    one = [original.constants[name].shape for name in before.parameters]
    return one == [rewritten.constants[name].shape for name in after.parameters] and (
        len(before.inputs) == len(after.inputs)
    )


def rewritten_values(original: Graph, rewritten: Graph) -> tuple[str, ...]:
    """The values at which a rewritten layer ends, in the order in which they are made.

    One whose users differ is left out: it is not the same place (a merged batch norm).
    """
    groups = groups_of(original, rewritten)
    owner = {member: place for place, members in groups.items() for member in members}

    def users(net: Graph, value: str, names: Mapping[str, str]) -> set[str]:
        found = {names.get(node.name, node.name) for node in net.consumers.get(value, ())}
        return found | {f"output {o.name}" for o in net.outputs if o.value == value}

    return tuple(
        node.name
        for node in original.nodes
        if node.name in groups
        and users(original, node.name, {}) == users(rewritten, node.name, owner)
    )


def rewritten_modules(original: nn.Module, rewritten: nn.Module) -> tuple[str, ...]:
    """The paths at which a module was rewritten, in the order in which they are registered.

    >>> from torch import nn
    >>> conv = nn.Conv2d(1, 1, 3)
    >>> rewritten_modules(nn.Sequential(conv), nn.Sequential(nn.Sequential(conv)))
    ('0',)
    """
    found: list[str] = []

    def visit(path: str, one: nn.Module, two: nn.Module) -> None:
        if _signature(one) == _signature(two):
            return
        below, others = dict(one.named_children()), dict(two.named_children())
        if type(one) is type(two) and below and set(below) <= set(others):
            for name, child in below.items():
                visit(f"{path}.{name}" if path else name, child, others[name])
        else:
            found.append(path)

    visit("", original, rewritten)
    return tuple(found)


def _signature(module: nn.Module) -> list[object]:
    kinds: list[object] = [(name, type(child)) for name, child in module.named_modules()]
    kinds += [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
    return kinds


def check_paths(places: Sequence[str], *known: Mapping[str, object]) -> None:
    """Checks that both networks have the places that a caller names.

    Raises:
        UsageError: If one has not.
    """
    for place in places:
        if any(place not in names for names in known):
            raise UsageError(
                "only one of the networks has a layer of this name, or none",
                place=place,
                remedy="name layers that both have, or leave blocks=True",
            )
