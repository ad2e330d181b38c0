"""The modules of a network as boxes inside boxes that can be drawn closed.

A box that stands for several layers must not be left and entered again, or a drawing in which it
is closed would go round in a circle: modules of which that is true (one whose layers are called
here and there) are opened for good. Networks without modules get stages of layers that run one
after the other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convsmith.analysis.modules import parts

__all__ = ["Module", "Modules", "modules"]

ROOT = -1
"""The parent of what lies in no module."""

_MOST_CHILDREN = 40
"""More than so many in one box are put into stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One box.

    Attributes:
        name: The dotted path; of a stage, which layers it holds.
        parent: The place of the box that it lies in; -1: none.
        is_stage: Whether no module of the network's is behind it.
    """

    name: str
    parent: int
    is_stage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """All boxes.

    Attributes:
        modules: The boxes, each after the one that it lies in.
        parents: Per layer, the place of the box that it lies in; -1: none.
    """

    modules: tuple[Module, ...]
    parents: tuple[int, ...]


@dataclass(eq=False)
class _Box:
    name: str
    children: list[_Box | int] = field(default_factory=list)
    is_stage: bool = False


def modules(
    names: Sequence[str],
    paths: Sequence[str],
    edges: Iterable[tuple[int, int]],
    sizes: Sequence[object] = (),
) -> Modules:
    """Puts layers into the boxes of their modules.

    Args:
        names: Of the layers, in an order in which each follows what it uses.
        paths: The dotted path of the module that each layer is (``Row.module``).
        edges: Which layer uses what which layer makes, by their places.
        sizes: What a stage should not mix if it need not, such as the sizes of feature maps.

    >>> found = modules("abcd", ["m.x", "m.y", "z", "m.w"], [(0, 1), (1, 2)])
    >>> [module.name for module in found.modules], found.parents
    (['m'], (0, 0, -1, 0))
    >>> modules("abcd", ["m.x", "m.y", "z", "m.w"], [(0, 1), (1, 2), (2, 3)]).modules  # m, z, m
    ()
    """
    edges = list(dict.fromkeys(edges))
    root = _Box("")
    boxes: dict[tuple[str, ...], _Box] = {(): root}
    for layer, path in enumerate(paths):
        *outer, _ = parts(path)
        box = root
        for depth in range(1, len(outer) + 1):
            key = tuple(outer[:depth])
            if key not in boxes:
                boxes[key] = _Box(".".join(key))
                box.children.append(boxes[key])
            box = boxes[key]
        box.children.append(layer)
    while _open_cycles(root, edges):
        pass
    _open_single(root)
    _make_stages(root, names, edges, sizes)
    found: list[Module] = []
    parents = [ROOT] * len(names)
    _number(root, ROOT, found, parents)
    return Modules(modules=tuple(found), parents=tuple(parents))


def _ancestors(root: _Box) -> dict[int, tuple[tuple[_Box, int], ...]]:
    """Per layer, from the outside in: every box around it, and the place of what leads to it."""
    found: dict[int, tuple[tuple[_Box, int], ...]] = {}
    waiting: list[tuple[_Box, tuple[tuple[_Box, int], ...]]] = [(root, ())]
    while waiting:
        box, above = waiting.pop()
        for place, child in enumerate(box.children):
            way = (*above, (box, place))
            if isinstance(child, _Box):
                waiting.append((child, way))
            else:
                found[child] = way
    return found


def _lifted(root: _Box, edges: Iterable[tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """Per box (by identity): edges between its children, by their places."""
    ways = _ancestors(root)
    found: dict[int, dict[tuple[int, int], None]] = {}
    for source, target in edges:
        for (box, one), (other, two) in zip(ways[source], ways[target], strict=False):
            if box is not other:
                break
            if one != two:
                found.setdefault(id(box), {})[one, two] = None
                break
    return {box: list(pairs) for box, pairs in found.items()}


def _all(root: _Box) -> list[_Box]:
    found = [root]
    for box in found:
        found.extend(child for child in box.children if isinstance(child, _Box))
    return found


def _open_cycles(root: _Box, edges: Sequence[tuple[int, int]]) -> bool:
    """Opens boxes that would be left and entered again; whether there were any."""
    lifted = _lifted(root, edges)
    changed = False
    for box in _all(root):
        stuck = _circular(len(box.children), lifted.get(id(box), ()))
        opened = {p for p in stuck if isinstance(box.children[p], _Box)}
        if opened:
            _open(box, opened)
            changed = True
    return changed


def _open(box: _Box, places: Iterable[int]) -> None:
    """Puts what lies in some of its boxes into the box itself."""
    opened = set(places)
    children: list[_Box | int] = []
    for place, child in enumerate(box.children):
        if place in opened and isinstance(child, _Box):
            children.extend(child.children)
        else:
            children.append(child)
    box.children = children


def _circular(count: int, edges: Iterable[tuple[int, int]]) -> set[int]:
    """The places on, before or between circles that can not be put into an order."""
    edges = list(edges)
    left = set(range(count))
    for one, two in ((0, 1), (1, 0)):  # what is left from both ends lies on or between circles
        users: dict[int, list[int]] = {}
        waiting = [0] * count
        for edge in edges:
            if edge[0] in left and edge[1] in left:
                users.setdefault(edge[one], []).append(edge[two])
                waiting[edge[two]] += 1
        ready = [place for place in left if not waiting[place]]
        while ready:
            place = ready.pop()
            left.discard(place)
            for user in users.get(place, ()):
                waiting[user] -= 1
                if not waiting[user]:
                    ready.append(user)
    return left


def _open_single(root: _Box) -> None:
    """Opens boxes that hold only one thing: they hide nothing."""
    for box in reversed(_all(root)):
        single = [
            place
            for place, child in enumerate(box.children)
            if isinstance(child, _Box) and len(child.children) == 1
        ]
        if single:
            _open(box, single)


def _make_stages(
    root: _Box, names: Sequence[str], edges: Sequence[tuple[int, int]], sizes: Sequence[object]
) -> None:
    """Puts what follows one another into stages, in boxes that hold too much to look at."""
    lifted: Mapping[int, list[tuple[int, int]]] = _lifted(root, edges)
    for box in _all(root):
        if len(box.children) <= _MOST_CHILDREN:
            continue
        order = _ordered([_first(c) for c in box.children], lifted.get(id(box), ()))
        length = max(round(len(order) ** 0.5), 12)
        stages: list[list[_Box | int]] = [[]]
        before: object = None
        for place in order:
            child = box.children[place]
            size = sizes[_first(child)] if sizes else None
            held = len(stages[-1])
            if held >= 1.5 * length or (held >= length / 2 and size != before):
                stages.append([])
            stages[-1].append(child)
            before = size
        box.children = [
            stage[0] if len(stage) == 1 else _Box(_range(stage, names), stage, is_stage=True)
            for stage in stages
        ]


def _first(child: _Box | int) -> int:
    """The first layer in a box."""
    while isinstance(child, _Box):
        child = child.children[0]
    return child


def _range(stage: Sequence[_Box | int], names: Sequence[str]) -> str:
    ends = [c.name if isinstance(c, _Box) else names[c] for c in (stage[0], stage[-1])]
    return " … ".join(ends)


def _ordered(firsts: Sequence[int], edges: Iterable[tuple[int, int]]) -> list[int]:
    """The places in an order in which each follows what it uses, otherwise as they run."""
    users: dict[int, list[int]] = {}
    waiting = [0] * len(firsts)
    for source, target in edges:
        users.setdefault(source, []).append(target)
        waiting[target] += 1
    ready = [(first, place) for place, first in enumerate(firsts) if not waiting[place]]
    heapq.heapify(ready)
    order = []
    while ready:
        _, place = heapq.heappop(ready)
        order.append(place)
        for user in users.get(place, ()):
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (firsts[user], user))
    return order


def _number(box: _Box, place: int, found: list[Module], parents: list[int]) -> None:
    waiting = [(box, place)]
    while waiting:
        box, place = waiting.pop()
        for child in box.children:
            if isinstance(child, _Box):
                found.append(Module(name=child.name, parent=place, is_stage=child.is_stage))
                waiting.append((child, len(found) - 1))
            else:
                parents[child] = place
