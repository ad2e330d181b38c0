"""Two networks side by side: which layers changed, and whether the new one keeps to its budgets.

Layers belong together when they have one name. Names that only count (``conv3``, ``Conv_12``,
``features.3``) say nothing once a layer was put in between, and files of one network may use
different names: such layers belong together when they do the same with values of the same shapes,
in the same order.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from convsmith.analysis.analysis import Analysis, analyze
from convsmith.analysis.baseline import COUNTS, TOTALS, Baseline, Layer, Seen, read_baseline
from convsmith.analysis.budgets import Verdict, judge
from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.results import Result

__all__ = ["Change", "Difference", "OutputChange", "compare_baselines", "diff"]

Comparable = Graph | Analysis | Baseline | str | PathLike[str]
"""What can be compared; a string or a path is the name of a saved analysis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One layer that is not the same in both networks.

    Attributes:
        status: ``changed``, ``renamed`` (all else is the same), ``added`` or ``removed``.
        old: The layer in the old network; ``None`` if it was added.
        new: The layer in the new network; ``None`` if it was removed.
    """

    status: Literal["changed", "renamed", "added", "removed"]
    old: Layer | None
    new: Layer | None

    @property
    def name(self) -> str:
        """What it is called in the new network, or was called."""
        layer = self.new or self.old
        return layer.name if layer else ""

    def difference(self, key: str) -> int:
        """How much more the new layer has of one of ``COUNTS``."""
        new, old = (0 if layer is None else layer.counts[key] for layer in (self.new, self.old))
        return new - old

    def to_dict(self) -> dict[str, Any]:
        """Returns the change as JSON-ready data."""
        return {
            "name": self.name,
            "status": self.status,
            "old_name": self.old and self.old.name,
            "old": self.old and self.old.to_dict(),
            "new": self.new and self.new.to_dict(),
            "difference": {key: self.difference(key) for key in COUNTS},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChange:
    """What one output is in both networks; ``None`` where it is missing."""

    name: str
    old: Seen | None
    new: Seen | None

    @property
    def same_field(self) -> bool:
        """Whether it sees the same of the input as before, and that is known."""
        return self.old is not None and self.new is not None and self.old.sees_the_same(self.new)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data."""
        return {
            "name": self.name,
            "old": self.old and self.old.to_dict(),
            "new": self.new and self.new.to_dict(),
            "same_field": self.same_field,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Result):
    """What changed from one network to another; prints as a table.

    Attributes:
        old: The network before.
        new: The network after.
        changes: The layers that are not the same, in the order in which they run.
        same: How many layers are the same.
        outputs: What the caller receives, before and after.
        verdicts: What became of the budgets.
        same_field: Whether outputs had to see the same as before.
    """

    old: Baseline
    new: Baseline
    changes: tuple[Change, ...]
    same: int
    outputs: tuple[OutputChange, ...]
    verdicts: tuple[Verdict, ...] = ()
    same_field: bool = False

    @property
    def violations(self) -> tuple[str, ...]:
        """One line for every budget that was not met."""
        lines = [str(verdict) for verdict in self.verdicts if not verdict.met]
        if self.same_field:
            lines += [
                f"output {output.name} does not see the same of the input as before"
                for output in self.outputs
                if not output.same_field
            ]
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the difference as JSON-ready data, schema ``convsmith.diff/1``."""
        return {
            "schema": "convsmith.diff/1",
            "old": {"source": self.old.source, "unsupported": list(self.old.unsupported)},
            "new": {"source": self.new.source, "unsupported": list(self.new.unsupported)},
            "convention": self.new.convention,
            "total": {key: _total(self.old.total[key], self.new.total[key]) for key in TOTALS},
            "rows": [change.to_dict() for change in self.changes],
            "same": self.same,
            "outputs": [output.to_dict() for output in self.outputs],
            "budgets": [verdict.to_dict() for verdict in self.verdicts],
            "violations": list(self.violations),
        }


def _total(old: int, new: int) -> dict[str, Any]:
    return {
        "old": old,
        "new": new,
        "difference": new - old,
        "ratio": new / old if old else None,
    }


def diff(
    old: Comparable,
    new: Comparable,
    *,
    macs: str | int | None = None,
    params: str | int | None = None,
    flops: str | int | None = None,
    weight_bytes: str | int | None = None,
    peak_memory: str | int | None = None,
    same_field: bool = False,
) -> Difference:
    """Compares two networks layer by layer, and the new one with its budgets.

    A budget says the most that the new network may have: ``+2%`` or ``+1M`` more than the old
    one, ``-10%`` (at least that much less), or ``4.1G`` in all.

    Args:
        old: A network, its analysis, or the name of an analysis saved as JSON.
        new: The same.
        macs: Budget of multiply-accumulates.
        params: Budget of parameters.
        flops: Budget of operations.
        weight_bytes: Budget of bytes of weights.
        peak_memory: Budget of bytes of activations that are alive at one time.
        same_field: Whether every output has to see the same of the input as before.

    Raises:
        UsageError: If an argument is none of these, a budget cannot be read, or the two were not
            counted in the same way.
        SourceError: If a saved analysis cannot be read.

    >>> from convsmith.graph import parse
    >>> result = diff(parse("64@28 > conv 64 5 p2"), parse("64@28 > conv 64 3 p1"), macs="-50%")
    >>> [(change.status, change.name, change.difference("macs")) for change in result.changes]
    [('changed', 'conv1', -51380224)]
    >>> result.violations
    ()
    """
    given = (macs, params, flops, weight_bytes, peak_memory)
    names = ("macs", "params", "flops", "weight_bytes", "peak_memory")
    budgets = {name: limit for name, limit in zip(names, given, strict=True) if limit is not None}
    return compare_baselines(_read(old), _read(new), budgets, same_field=same_field)


def _read(network: object) -> Baseline:
    match network:
        case Baseline():
            return network
        case Analysis():
            return Baseline.of(network)
        case Graph():
            return Baseline.of(analyze(network))
        case PathLike():
            return read_baseline(network)
        case str() if network.lower().endswith(".json"):
            return read_baseline(network)
    shown = repr(network) if isinstance(network, str) else type(network).__name__
    raise UsageError(
        f"diff needs two networks, not {shown}",
        remedy="read it first: convsmith.diff(convsmith.load(old), convsmith.load(new)), or give"
        " the name of an analysis saved as .json",
    )


def compare_baselines(
    old: Baseline, new: Baseline, budgets: Mapping[str, str | int], *, same_field: bool = False
) -> Difference:
    """Like :func:`diff`, for what was read already.

    Raises:
        UsageError: If a budget cannot be read, or the two were not counted in the same way.
    """
    if old.convention != new.convention:
        raise UsageError(
            f"the old network was counted as {old.convention!r}, the new one as {new.convention!r}",
            remedy="analyze both with the same --convention",
        )
    pairs = _pairs(old.layers, new.layers)
    changes = [change for pair in pairs if (change := _change(*pair)) is not None]
    return Difference(
        old=old,
        new=new,
        changes=tuple(changes),
        same=len(pairs) - len(changes),
        outputs=tuple(_outputs(old.outputs, new.outputs)),
        verdicts=judge(budgets, new, old),
        same_field=same_field,
    )


def _change(old: Layer | None, new: Layer | None) -> Change | None:
    if old is None:
        return Change(status="added", old=None, new=new)
    if new is None:
        return Change(status="removed", old=old, new=None)
    if (_key(old), old.status, old.counts) != (_key(new), new.status, new.counts):
        return Change(status="changed", old=old, new=new)
    return None if old.name == new.name else Change(status="renamed", old=old, new=new)


def _outputs(old: Mapping[str, Seen], new: Mapping[str, Seen]) -> Iterator[OutputChange]:
    """Outputs of one name, then the others in their order."""
    left = deque(name for name in old if name not in new)
    for name, seen in new.items():
        before = old.get(name) if name in old else old[left.popleft()] if left else None
        yield OutputChange(name=name, old=before, new=seen)
    for name in left:
        yield OutputChange(name=name, old=old[name], new=None)


# Which layers belong together -----------------------------------------------------


def _key(layer: Layer) -> tuple[object, ...]:
    return (layer.text, layer.inputs, layer.outputs)


def _only_counts(layer: Layer) -> bool:
    """Whether a name is a place in a row: the operator's word and a number, or ``features.3``."""
    if layer.name.rpartition(".")[2].isdecimal():
        return True
    word = layer.text.partition(" ")[0]
    found = re.fullmatch(r"([A-Za-z]\w*?)_?\d*", layer.name)
    return found is not None and found[1].lower() in (word.lower(), layer.op.lower())


def _pairs(old: Sequence[Layer], new: Sequence[Layer]) -> list[tuple[Layer | None, Layer | None]]:
    """Puts the layers of two networks side by side, in order; takes time linear in their number."""
    partner = _partners(old, new)
    met = set(partner.values())
    pairs: list[tuple[Layer | None, Layer | None]] = []
    passed = 0
    for index, layer in enumerate(new):
        before = partner.get(index)
        if before is not None:
            pairs += [(old[i], None) for i in range(passed, before) if i not in met]
            passed = max(passed, before)
        pairs.append((None if before is None else old[before], layer))
    pairs += [(old[i], None) for i in range(passed, len(old)) if i not in met]
    return pairs


def _partners(old: Sequence[Layer], new: Sequence[Layer]) -> dict[int, int]:
    """For every layer of the new network that the old one has: its place there."""
    named = {layer.name: i for i, layer in enumerate(old)}
    kept = {layer.name for layer in new}

    def may_be_one(a: Layer, b: Layer) -> bool:
        """Whether two layers that do the same may be one, as far as their names say."""
        if a.name == b.name or (_only_counts(a) and _only_counts(b)):
            return True
        return a.name not in kept and b.name not in named

    def alike(i: int, j: int) -> bool:
        return _key(old[i]) == _key(new[j]) and may_be_one(old[i], new[j])

    start, shorter = 0, min(len(old), len(new))
    while start < shorter and alike(start, start):
        start += 1
    end = 0
    while end < shorter - start and alike(len(old) - 1 - end, len(new) - 1 - end):
        end += 1
    partner = {i: i for i in range(start)}
    partner.update({len(new) - 1 - i: len(old) - 1 - i for i in range(end)})

    old_left = dict.fromkeys(range(start, len(old) - end))
    new_left = dict.fromkeys(range(start, len(new) - end))

    def pair(j: int, i: int) -> None:
        partner[j] = i
        del old_left[i], new_left[j]

    def pair_names(*, counted: bool) -> None:
        for j in list(new_left):
            i = named.get(new[j].name, -1)
            if i not in old_left:
                continue
            if old[i].op == new[j].op if counted else not _only_counts(new[j]):
                pair(j, i)

    pair_names(counted=False)
    same: dict[tuple[object, ...], deque[int]] = defaultdict(deque)
    for i in old_left:
        same[_key(old[i])].append(i)
    for j in list(new_left):
        if same[_key(new[j])]:
            pair(j, same[_key(new[j])].popleft())
    pair_names(counted=True)
    return partner
