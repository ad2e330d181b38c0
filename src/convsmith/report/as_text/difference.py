"""What changed from one network to another, in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from convsmith.analysis import Change, Difference
from convsmith.analysis.baseline import Baseline, Layer, Seen
from convsmith.report import wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import terminal_width, text

__all__ = [
    "TOTAL_NAMES",
    "Before",
    "field_text",
    "listed",
    "output_sentences",
    "renamed_sentence",
    "same_sentence",
    "totals",
    "what",
]

WIDE = 120
"""From this many columns on, parameters are shown of every layer."""

_LEAST = 20
_NAMED = 3

TOTAL_NAMES = {
    "macs": "multiply-accumulates",
    "params": "parameters",
    "flops": "operations",
    "weight_bytes": "bytes of weights",
    "peak_activation_bytes": "bytes of activations",
}

SIGNS = {"changed": "~", "added": "+", "removed": "-", "renamed": ">"}
STYLES = {"changed": "yellow", "added": "green", "removed": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """One quantity before and after, in words."""

    name: str
    old: int
    new: int

    @property
    def label(self) -> str:
        """What a short number with its unit is a number of."""
        return self.name.removeprefix("bytes of ")

    def show(self, count: int) -> str:
        """The number in few digits, with its unit."""
        return (wording.binary if self.name.startswith("bytes") else wording.short)(count)

    @property
    def change(self) -> str:
        """By how much it changed, in percent."""
        return wording.change(self.old, self.new)

    @property
    def better(self) -> bool | None:
        """Whether there is less of it; ``None``: the same."""
        return None if self.old == self.new else self.new < self.old


def totals(result: Difference) -> list[Before]:
    """The sums of both networks."""
    return [
        Before(name=name, old=result.old.total[key], new=result.new.total[key])
        for key, name in TOTAL_NAMES.items()
    ]


def listed(result: Difference) -> list[Change]:
    """The changes that are more than a name."""
    return [change for change in result.changes if change.status != "renamed"]


def what(change: Change) -> str:
    """What a layer did and does."""
    old, new = change.old, change.new
    if old is None or new is None:
        return next(layer.text for layer in (new, old) if layer is not None)
    if old.text != new.text:
        return f"{old.text} -> {new.text}"
    if (old.inputs, old.outputs) != (new.inputs, new.outputs):
        before, after = _shapes(old), _shapes(new)
        return f"{new.text}: {before} -> {after}" if before != after else f"{new.text}: other input"
    return f"{new.text}: {'other costs' if old.status == new.status else new.status}"


def _shapes(layer: Layer) -> str:
    return ", ".join(map(wording.shape, layer.outputs))


def renamed_sentence(result: Difference) -> str:
    """Which layers have another name, and are the same but for that."""
    renamed = [c for c in result.changes if c.status == "renamed" and c.old is not None]
    if not renamed:
        return ""
    shown = [f"{c.old.name} -> {c.name}" for c in renamed[:_NAMED] if c.old is not None]
    more = f" and {len(renamed) - _NAMED} more" if len(renamed) > _NAMED else ""
    return f"renamed: {', '.join(shown)}{more}"


def same_sentence(result: Difference) -> str:
    """How many layers are the same."""
    if not result.changes:
        return f"all {result.same} layers are the same" if result.same else "there are no layers"
    return f"{result.same} {'layer is' if result.same == 1 else 'layers are'} the same"


def field_text(seen: Seen | None) -> str:
    """The shape of an output, and what it sees, for example ``1x1000 sees 212 (stride 32)``."""
    if seen is None:
        return "missing"
    shape, size = wording.shape(seen.shape), _axes(seen.size)
    if seen.status == "unknown":
        return f"{shape} sees ?"
    if seen.is_global and set(seen.stride) <= {"0"}:
        return f"{shape} sees everything"
    bound = "≤ " if seen.status == "upper-bound" else ""
    shown = f"{bound}{size}{' + all' if seen.is_global else ''}"
    moves = f"stride {_axes(seen.stride)}, offset {_axes(seen.offset, ', ')}"
    return f"{shape} sees {shown} ({moves})"


def _axes(values: Sequence[object], between: str = "x") -> str:
    shown = ["?" if value is None else str(value) for value in values]
    return (shown[0] if len(set(shown)) == 1 else between.join(shown)) if shown else "?"


def output_sentences(result: Difference) -> list[str]:
    """What every output is and sees, before and after."""
    sentences = []
    for output in result.outputs:
        before, after = field_text(output.old), field_text(output.new)
        same = before == after and output.same_field
        shown = f"{after}, as before" if same else f"{before} -> {after}"
        sentences.append(f"output {output.name} {shown}")
    return sentences


@text.register
def _(result: Difference, *, width: int | None = None, color: bool = False) -> str:
    """Renders the sums, the layers that changed, the outputs and the budgets."""
    width = max(width or terminal_width(), _LEAST)
    lines = [_source("old", result.old, width), _source("new", result.new, width), Text()]
    lines += _total_lines(result, width)
    changes = listed(result)
    if changes:
        lines += [Text(), *_layer_lines(changes, width)]
    lines.append(Text())
    for sentence in (renamed_sentence(result), same_sentence(result), *output_sentences(result)):
        if sentence:
            lines += filled(wording.plain(sentence), width, hanging=2)
    for side, network in (("old", result.old), ("new", result.new)):
        if network.unsupported:
            named = ", ".join(map(wording.plain, network.unsupported))
            lines.append(Text(f"not counted in the {side} network (?): {named}", style="bold red"))
    if result.verdicts or result.same_field:
        lines.append(Text())
    for verdict in result.verdicts:
        if verdict.met:
            lines += filled(str(verdict), width, style="green", hanging=2)
    for violation in result.violations:
        lines += filled(wording.plain(violation), width, style="bold red", hanging=2)
    return printed(lines, color=color)


def _source(side: str, network: Baseline, width: int) -> Text:
    name = wording.plain(" ".join(network.source.split()))
    return Text(f"{side}  ", style="dim") + Text(wording.shorten(name, width - 5), style="bold")


def _total_lines(result: Difference, width: int) -> list[Text]:
    rows = totals(result)
    lines = table(
        [
            Column(heading="", cells=[row.name for row in rows], right=False, shrinks=True),
            Column(heading="old", cells=[wording.exact(row.old) for row in rows]),
            Column(heading="new", cells=[wording.exact(row.new) for row in rows], style="bold"),
            Column(heading="change", cells=[row.change for row in rows]),
        ],
        width,
    )
    styles = {True: "green", False: "yellow", None: ""}
    for line, row in zip(lines[2:], rows, strict=True):
        line.highlight_words([row.change] if row.change else [], styles[row.better])
    return lines


def _layer_lines(changes: Sequence[Change], width: int) -> list[Text]:
    def counts(key: str, layers: Sequence[Layer | None]) -> list[str]:
        return ["-" if x is None else wording.short(x.counts[key]) for x in layers]

    old, new = [c.old for c in changes], [c.new for c in changes]
    columns = [
        Column(heading="", cells=[SIGNS[c.status] for c in changes], right=False),
        Column(
            heading="layer",
            cells=[wording.plain(c.name) for c in changes],
            right=False,
            shrinks=True,
        ),
        Column(
            heading="operator",
            cells=[wording.plain(what(c)) for c in changes],
            right=False,
            shrinks=True,
        ),
    ]
    if width >= WIDE:
        columns += [
            Column(heading="params old", cells=counts("params", old)),
            Column(heading="new", cells=counts("params", new)),
        ]
    columns += [
        Column(heading="MACs old", cells=counts("macs", old)),
        Column(heading="new", cells=counts("macs", new)),
        Column(heading="change", cells=[_change(c) for c in changes]),
    ]
    return table(columns, width, styles=[STYLES[c.status] for c in changes])


def _change(change: Change) -> str:
    if change.old is None or change.new is None:
        return change.status
    return wording.change(change.old.counts["macs"], change.new.counts["macs"])
