"""An analysis summed up: by layer, by module, by operator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from convsmith.analysis.ledger import Row, Total, intensity, parameters, weight_bytes
from convsmith.analysis.modules import parts
from convsmith.errors import UsageError
from convsmith.results import Result

__all__ = ["Group", "Grouping", "View", "by_layer", "by_module", "by_operator"]

Grouping = Literal["layer", "module", "operator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some layers of a network together.

    Attributes:
        name: The layer, the whole path of the module, or the operator's word in the notation.
        level: How deep the module lies; 1 for layers, operators and outermost modules.
        layers: How many nodes it has.
        params: Distinct learnable scalars; a tensor that its layers share counts once.
        macs: Multiply-accumulate pairs, bias excluded.
        mults: Multiplications.
        adds: Additions.
        others: Comparisons, divisions, exponentials, roots.
        weight_bytes: Bytes of its constants, each once.
        read_bytes: Bytes of values that its layers read.
        write_bytes: Bytes of values that its layers make.
        arithmetic_intensity: Operations per byte that its layers move, one by one; ``None`` if
            they move none, or if not all are counted.
        unsupported: How many of its layers are not counted.
    """

    name: str
    level: int = 1
    layers: int
    params: int
    macs: int
    mults: int
    adds: int
    others: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int
    arithmetic_intensity: float | None
    unsupported: int

    @property
    def flops(self) -> int:
        """All operations: ``mults + adds + others``."""
        return self.mults + self.adds + self.others

    def to_dict(self) -> dict[str, Any]:
        """Returns the group as JSON-ready data, without its shares."""
        return {
            "name": self.name,
            "level": self.level,
            "layers": self.layers,
            "params": self.params,
            "macs": self.macs,
            "mults": self.mults,
            "adds": self.adds,
            "others": self.others,
            "flops": self.flops,
            "weight_bytes": self.weight_bytes,
            "read_bytes": self.read_bytes,
            "write_bytes": self.write_bytes,
            "arithmetic_intensity": self.arithmetic_intensity,
            "unsupported": self.unsupported,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Result):
    """An analysis summed up; prints as a table with a bar for each share.

    Attributes:
        source: The network.
        convention: How it was counted.
        by: What a group is.
        depth: For modules: groups lie at most so deep; ``None``: any depth.
        groups: Layers and modules in the order in which they run, a module before what is in it;
            operators by their operations, most first.
        total: The sums over the network.
        unsupported: Names of the layers that are not counted.
    """

    source: str
    convention: str
    by: Grouping
    depth: int | None
    groups: tuple[Group, ...]
    total: Total
    unsupported: tuple[str, ...]

    def share(self, group: Group, measure: str = "macs") -> float:
        """What part of the network's total a group has, from 0 to 1; 0 if the total is 0.

        Args:
            group: One of the groups.
            measure: ``macs``, ``params``, ``flops``, ``mults``, ``adds``, ``others`` or
                ``weight_bytes``.
        """
        total: int = getattr(self.total, measure)
        part: int = getattr(group, measure)
        return part / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the view as JSON-ready data, schema ``convsmith.view/1``.

        Every group has, besides its sums, ``share``: of ``macs``, ``params`` and ``flops``.
        """
        measures = ("macs", "params", "flops")
        return {
            "schema": "convsmith.view/1",
            "source": self.source,
            "convention": self.convention,
            "by": self.by,
            "depth": self.depth,
            "groups": [
                group.to_dict() | {"share": {m: self.share(group, m) for m in measures}}
                for group in self.groups
            ],
            "total": self.total.to_dict(),
            "unsupported": list(self.unsupported),
        }


def _group(name: str, rows: Sequence[Row], level: int = 1) -> Group:
    tensors = [tensor for row in rows for tensor in row.tensors]
    # A convention may count parameters otherwise; then its numbers are the ones to add up.
    exact = all(row.params == parameters(row.tensors) for row in rows)
    flops = sum(row.flops for row in rows)
    unsupported = sum(row.status == "unsupported" for row in rows)
    return Group(
        name=name,
        level=level,
        layers=len(rows),
        params=parameters(tensors) if exact else sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        mults=sum(row.mults for row in rows),
        adds=sum(row.adds for row in rows),
        others=sum(row.others for row in rows),
        weight_bytes=weight_bytes(tensors),
        read_bytes=sum(row.read_bytes for row in rows),
        write_bytes=sum(row.write_bytes for row in rows),
        arithmetic_intensity=None
        if unsupported
        else intensity(flops, sum(row.moved_bytes for row in rows)),
        unsupported=unsupported,
    )


def by_layer(rows: Iterable[Row]) -> tuple[Group, ...]:
    """One group for every layer, in the order in which they run."""
    return tuple(_group(row.name, [row]) for row in rows)


def by_operator(rows: Iterable[Row]) -> tuple[Group, ...]:
    """One group for every kind of operator, most operations first.

    A kind is the operator's word in the notation: ``conv``, ``dw`` (a convolution with one group
    a channel), ``deconv``, ``maxpool``; an unsupported operator has its own name.
    """
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    groups = [_group(kind, members) for kind, members in kinds.items()]
    return tuple(sorted(groups, key=lambda group: (-group.flops, -group.params)))


def _kind(row: Row) -> str:
    word, _, rest = row.text.partition(" ")
    if word == "unsupported":
        return rest.partition(" ")[0] or word
    groups = re.search(r" g(\d+)\b", row.text) if word == "conv" else None
    shape = row.inputs[0] if row.inputs else None
    return "dw" if groups and shape and int(groups[1]) == shape[1] else word


@dataclass(slots=True)
class _Module:
    """A module, while the tree is put together."""

    name: str
    level: int
    rows: list[Row] = field(default_factory=list)
    inside: dict[str, _Module] = field(default_factory=dict)


def by_module(rows: Iterable[Row], depth: int | None = None) -> tuple[Group, ...]:
    """One group for every module, each before the modules in it.

    A module that holds nothing but one layer is that layer: it is not divided further.

    Args:
        rows: Those of an analysis.
        depth: How deep groups may lie; the layers below belong to the group that they are in.

    Raises:
        UsageError: If the depth is less than 1.
    """
    if depth is not None and depth < 1:
        raise UsageError(f"a depth of {depth} shows no module", remedy="give 1 or more")
    root = _Module(name="", level=0)
    for row in rows:
        module = root
        for part in parts(row.module):
            if depth is not None and module.level == depth:
                break
            if part not in module.inside:
                name = f"{module.name}.{part}" if module.name else part
                module.inside[part] = _Module(name=name, level=module.level + 1)
            module = module.inside[part]
            module.rows.append(row)
    return tuple(
        _group(module.name, module.rows, module.level)
        for outer in root.inside.values()
        for module in _walk(outer)
    )


def _walk(module: _Module) -> Iterator[_Module]:
    yield module
    if len(module.rows) > 1:
        for inner in module.inside.values():
            yield from _walk(inner)
