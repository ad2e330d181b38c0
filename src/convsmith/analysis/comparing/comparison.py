"""A convolution against every cheaper arrangement of it, and whole networks side by side.

Every row is a line of notation, and every number in it comes from the analysis of that line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from convsmith.analysis.analysis import Analysis, analyze
from convsmith.analysis.comparing.forms import FORMS, Form
from convsmith.analysis.comparing.target import Target, assembled, convolution, target
from convsmith.analysis.comparing.windows import InapplicableError, sigma, support
from convsmith.analysis.field import Field
from convsmith.analysis.recursion import Window
from convsmith.errors import ShapeError, UsageError
from convsmith.graph import Graph, Shape, parse
from convsmith.graph.operators import Activation, Conv
from convsmith.results import Result

__all__ = [
    "KERNELS",
    "ORIGINAL",
    "Comparison",
    "ComparisonRow",
    "Curve",
    "Refusal",
    "Width",
    "arrangements",
    "side_by_side",
]

ORIGINAL = "original"
"""The form of the first row: the convolution as it was given."""

KERNELS = range(2, 16)
"""The kernel sizes that a curve goes through."""

Width = Literal["keep", "equal-cost"] | int
"""How wide the middle of an arrangement is: see :func:`arrangements`."""

_MOST_WIDTH = 2**40
_NETWORKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One arrangement, or one network.

    Attributes:
        form: Its name; of a network a letter.
        text: The arrangement in the notation; of a network its source.
        params: Learnable scalars, biases included.
        macs: Multiply-accumulates, biases excluded.
        ratio_macs: They by those of the first row; ``None`` if that has none.
        mults: Multiplications.
        adds: Additions.
        others: Comparisons, divisions, exponentials, roots.
        weight_bytes: Bytes of its constants.
        peak_activation_bytes: The most that values alive at one time take.
        inputs: Shapes of its inputs.
        shape: Of its (first) output.
        rf: What that sees of the input.
        support: How many pixels of its field an output really sees; ``None``: not counted.
        sigma: Per axis, the standard deviation in pixels of the effective field of uniform
            weights; ``None`` where it is no chain of windows.
        nonlinearities: Activations in it.
        milliseconds: Measured time; ``None``: not measured.
        ratio_milliseconds: It by that of the first row.
        note: What else there is to say.
        unsupported: Nodes that the numbers leave out.
    """

    form: str
    text: str
    params: int
    macs: int
    ratio_macs: float | None
    mults: int
    adds: int
    others: int
    weight_bytes: int
    peak_activation_bytes: int
    inputs: tuple[Shape, ...]
    shape: Shape | None
    rf: Field
    support: int | None = None
    sigma: tuple[float, ...] | None = None
    nonlinearities: int
    milliseconds: float | None = None
    ratio_milliseconds: float | None = None
    note: str = ""
    unsupported: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """All operations: ``mults + adds + others``."""
        return self.mults + self.adds + self.others

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON-ready data."""
        return {
            "form": self.form,
            "text": self.text,
            "params": self.params,
            "macs": self.macs,
            "ratio_macs": self.ratio_macs,
            "mults": self.mults,
            "adds": self.adds,
            "others": self.others,
            "flops": self.flops,
            "weight_bytes": self.weight_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "inputs": [list(shape) for shape in self.inputs],
            "output": self.shape and list(self.shape),
            "rf": self.rf.to_dict(),
            "support": self.support,
            "sigma": None if self.sigma is None else list(self.sigma),
            "nonlinearities": self.nonlinearities,
            "milliseconds": self.milliseconds,
            "ratio_milliseconds": self.ratio_milliseconds,
            "note": self.note,
            "unsupported": list(self.unsupported),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A form that has no row, and why; with its ratio of MACs where that is the reason."""

    form: str
    reason: str
    ratio_macs: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How the MACs of one form, by those of the convolution, depend on the kernel size.

    ``points`` are pairs of kernel size and ratio; sizes that the form does not take are left out.
    """

    form: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Result):
    """What a convolution could be replaced by, or networks side by side; prints as a table.

    Attributes:
        kind: ``arrangements`` of one convolution, or ``networks``.
        source: Where the convolution came from.
        layer: Its name there; empty for networks.
        width: The rule for the middle widths.
        rows: The first is what the others are compared with.
        refused: Forms without a row.
        curves: Of the rows' forms and others, for kernels of other sizes.
        kernel: Of the convolution.
        clock: What measured the milliseconds; empty: nothing did.
        runtime: What ran the rows for that: ``convsmith``, ``onnxruntime``, or empty.
    """

    kind: Literal["arrangements", "networks"]
    source: str
    layer: str = ""
    width: Width = "keep"
    rows: tuple[ComparisonRow, ...]
    refused: tuple[Refusal, ...] = ()
    curves: tuple[Curve, ...] = ()
    kernel: tuple[int, ...] = ()
    clock: str = ""
    runtime: str = ""

    @property
    def by_form(self) -> Mapping[str, ComparisonRow]:
        """The rows by their form."""
        return {row.form: row for row in self.rows}

    def timed(self, milliseconds: Mapping[str, float], clock: str, runtime: str = "") -> Comparison:
        """The same comparison with measured times.

        Args:
            milliseconds: By form; a form without a time has none.
            clock: What measured them, in words.
            runtime: What ran the rows.
        """
        base = milliseconds.get(self.rows[0].form)
        rows = [
            replace(row, milliseconds=taken, ratio_milliseconds=taken / base if base else None)
            if (taken := milliseconds.get(row.form)) is not None
            else row
            for row in self.rows
        ]
        return replace(self, rows=tuple(rows), clock=clock, runtime=runtime)

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as JSON-ready data, schema ``convsmith.comparison/1``."""
        return {
            "schema": "convsmith.comparison/1",
            "kind": self.kind,
            "source": self.source,
            "layer": self.layer,
            "width": self.width,
            "clock": self.clock,
            "runtime": self.runtime,
            "rows": [row.to_dict() for row in self.rows],
            "refused": [
                {"form": item.form, "reason": item.reason, "ratio_macs": item.ratio_macs}
                for item in self.refused
            ],
            "curves": {
                curve.form: [{"kernel": size, "ratio_macs": ratio} for size, ratio in curve.points]
                for curve in self.curves
            },
        }


# One convolution ------------------------------------------------------------------


def arrangements(
    graph: Graph,
    layer: str | None = None,
    *,
    width: Width = "keep",
    activation: str | None = None,
    curves: bool = True,
) -> Comparison:
    """Compares a convolution with every cheaper arrangement that sees the same field.

    Args:
        graph: The network it is in.
        layer: Its name; needed when there are several.
        width: Channels in the middle of an arrangement. ``keep``: those of the output; of a
            bottleneck half the narrower of input and output, a quarter when it expands again.
            ``equal-cost``: the most with which it costs no more MACs than the convolution. Or
            a number of channels.
        activation: What stands between two convolutions, in the notation, or ``none``; by
            default what follows the layer, else ``relu``.
        curves: Whether to compute how the ratios depend on the kernel size.

    Raises:
        UsageError: If no convolution is meant, or the width makes no sense.
        ShapeError: If the size of its input is not known.

    >>> found = arrangements(parse("1@28 > conv 1 5 nobias"))
    >>> found.rows[0].macs, found.by_form["stack-3"].macs
    (14400, 11268)
    >>> found.by_form["stack-3"].text
    '1@28x28 > conv 1 3 nobias > relu > conv 1 3 nobias'
    """
    checked = _width(width)
    found = target(graph, layer, activation)
    rows, refused = _compared(found, checked)
    return Comparison(
        kind="arrangements",
        source=graph.source,
        layer=layer or next(n.name for n in graph.nodes if isinstance(n.op, Conv)),
        width=checked,
        rows=rows,
        refused=refused,
        curves=_curves(found, checked) if curves and checked != "equal-cost" else (),
        kernel=found.op.kernel,
    )


def _width(width: object) -> Width:
    match width:
        case "keep" | "equal-cost":
            return width
        case bool():
            pass
        case int() if 1 <= width <= _MOST_WIDTH:
            return width
    raise UsageError(
        f"{width!r} is no width", remedy="give keep, equal-cost or a number of channels"
    )


def _compared(found: Target, width: Width) -> tuple[tuple[ComparisonRow, ...], tuple[Refusal, ...]]:
    text = found.text([found.given], [False])
    first = _row(ORIGINAL, text, analyze(parse(text)), None)
    rows = [replace(first, **_seen(found, [found.op]))]
    refused = []
    for form in FORMS:
        if not form.concerns(found):
            continue
        try:
            row = _arranged(form, found, width, rows[0])
        except InapplicableError as refusal:
            refused.append(Refusal(form=form.name, reason=str(refusal)))
        except ShapeError as error:
            refused.append(Refusal(form=form.name, reason=f"{error.fact} on the way"))
        else:
            ratio = row.ratio_macs
            if ratio is not None and (ratio > 1 or (ratio == 1 and width != "equal-cost")):
                reason = f"it costs {ratio:.4g} times as many MACs"
                refused.append(Refusal(form=form.name, reason=reason, ratio_macs=ratio))
            else:
                rows.append(row)
    return tuple(rows), tuple(refused)


def _steps(form: Form, found: Target, width: int) -> tuple[tuple[Conv, ...], str]:
    """The convolutions of a form, and its notation."""
    parts = form.lay(found, width)
    steps = assembled(found, parts)
    return steps, found.text(steps, [part.linear for part in parts])


def _arranged(form: Form, found: Target, width: Width, original: ComparisonRow) -> ComparisonRow:
    """The row of a form.

    Raises:
        InapplicableError: If the convolution cannot have it.
    """
    steps, text = _steps(form, found, _middle(form, found, width, original.macs))
    row = _row(form.name, text, analyze(parse(text)), original)
    if (row.shape, row.rf) != (original.shape, original.rf):
        raise InapplicableError("its field or its output would differ")
    notes = [form.note] if form.note else []
    seen = _seen(found, steps)
    pixels = seen["support"]
    if pixels is not None and original.support is not None and pixels < original.support:
        notes.append(f"sees {pixels} of the {original.support} pixels")
    return replace(row, note="; ".join(notes), **seen)


def _middle(form: Form, found: Target, width: Width, macs: int) -> int:
    """The middle width of a form under a rule."""
    if form.width == "none" or width == "keep":
        return form.middle(found)
    groups = found.groups
    if isinstance(width, int):
        if width % groups:
            raise InapplicableError(f"a width of {width} is no multiple of its {groups} groups")
        return width

    def costs(times: int) -> int:
        return analyze(parse(_steps(form, found, times * groups)[1])).total.macs

    if not macs:
        return form.middle(found)
    if costs(1) > macs:
        raise InapplicableError(f"even a width of {groups} costs more")
    high = 2
    while costs(high) <= macs and high * groups < _MOST_WIDTH:
        high *= 2
    low = high // 2
    while high - low > 1:
        half = (low + high) // 2
        low, high = (half, high) if costs(half) <= macs else (low, half)
    return low * groups


def _seen(found: Target, steps: Sequence[Conv]) -> dict[str, Any]:
    """Support and effective field of a chain; neither is defined for phases of an output."""
    if found.op.transposed:
        return {"support": None, "sigma": None}
    chains = [
        [Window(step.kernel[axis], step.stride[axis], step.dilation[axis]) for step in steps]
        for axis in range(len(found.op.kernel))
    ]
    counts = [support(chain) for chain in chains]
    return {
        "support": None if None in counts else math.prod(count or 0 for count in counts),
        "sigma": tuple(sigma(chain) for chain in chains),
    }


def _row(form: str, text: str, analysis: Analysis, first: ComparisonRow | None) -> ComparisonRow:
    """The numbers of an analysis; ``first`` is the row to compare with, ``None`` for itself."""
    total = analysis.total
    output = next(iter(analysis.outputs.values()), None)
    base = total.macs if first is None else first.macs
    return ComparisonRow(
        form=form,
        text=text,
        params=total.params,
        macs=total.macs,
        ratio_macs=float(Fraction(total.macs, base)) if base else None,
        mults=total.mults,
        adds=total.adds,
        others=total.others,
        weight_bytes=total.weight_bytes,
        peak_activation_bytes=total.peak_activation_bytes,
        inputs=tuple(analysis.inputs.values()),
        shape=output.shape if output else None,
        rf=output.rf if output else Field(axes=(), status="unknown", reason="it has no output"),
        nonlinearities=sum(row.op == Activation.__name__ for row in analysis.rows),
        note=f"the first of {len(analysis.outputs)} outputs" if len(analysis.outputs) > 1 else "",
        unsupported=tuple(f"{item.name} ({item.op})" for item in analysis.unsupported),
    )


# Other kernel sizes ---------------------------------------------------------------


def _curves(found: Target, width: Width) -> tuple[Curve, ...]:
    """The ratios of every form for kernels of other sizes, at the same channels and sizes."""
    points: dict[str, list[tuple[int, float]]] = {}
    for size in KERNELS:
        for form, ratio in _ratios(_resized(found, size), width):
            points.setdefault(form, []).append((size, ratio))
    return tuple(
        Curve(form=form.name, points=tuple(points[form.name]))
        for form in FORMS
        if form.name in points
    )


def _resized(found: Target, size: int) -> Target:
    """The same convolution with another kernel size, padded to keep the size of its image."""
    op = found.op
    wide = [k > 1 or found.is_pointwise for k in op.kernel]
    reach = [d * (size - 1) for d in op.dilation]
    return convolution(
        replace(
            op,
            kernel=tuple(size if w else k for w, k in zip(wide, op.kernel, strict=True)),
            padding=tuple(
                (r // 2, r - r // 2) if w else p
                for w, r, p in zip(wide, reach, op.padding, strict=True)
            ),
        ),
        found.shape,
        activation=found.activation,
        after=found.after,
    )


def _ratios(found: Target, width: Width) -> Iterator[tuple[str, float]]:
    try:
        base = analyze(parse(found.text([found.op], [False]))).total.macs
    except ShapeError:
        return
    for form in FORMS:
        if not base or not form.concerns(found):
            continue
        try:
            text = _steps(form, found, _middle(form, found, width, base))[1]
            yield form.name, float(Fraction(analyze(parse(text)).total.macs, base))
        except (InapplicableError, ShapeError):
            continue


# Whole networks -------------------------------------------------------------------


def side_by_side(graphs: Sequence[Graph]) -> Comparison:
    """Compares whole networks, or modules, with the first of them.

    Args:
        graphs: Two or more.

    Raises:
        UsageError: If there are fewer, or more than letters.

    >>> pair = side_by_side([parse("8@9 > conv 8 3 nobias"), parse("8@9 > dw 3 > conv 8 1")])
    >>> [(row.form, row.params) for row in pair.rows]
    [('A', 576), ('B', 152)]
    """
    if not 2 <= len(graphs) <= len(_NETWORKS):
        raise UsageError(
            f"{len(graphs)} network{'s' * (len(graphs) != 1)} to compare",
            remedy=f"give 2 to {len(_NETWORKS)}",
        )
    rows: list[ComparisonRow] = []
    for name, graph in zip(_NETWORKS, graphs, strict=False):
        first = rows[0] if rows else None
        rows.append(_row(name, graph.source or str(graph), analyze(graph), first))
    return Comparison(kind="networks", source=graphs[0].source, rows=tuple(rows))
