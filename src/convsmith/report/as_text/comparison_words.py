"""What a comparison says: the same words and numbers in every form of a report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from convsmith.analysis.comparing import KERNELS, ORIGINAL, Comparison, ComparisonRow, Curve
from convsmith.report import wording

__all__ = [
    "MEASURES",
    "Standing",
    "heading",
    "measured",
    "percent",
    "saved",
    "shown_curves",
    "sparkline",
    "standing",
    "subtitle",
    "width_rule",
]

_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One line of networks side by side: what it counts, and how it is written.

    Attributes:
        name: What it is.
        value: Of a row; ``None``: not known.
        write: Turns the value into text.
        relative: Whether the ratio to the first network means something.
    """

    name: str
    value: Callable[[ComparisonRow], float | None]
    write: Callable[[float], str]
    relative: bool = True

    def says(self, row: ComparisonRow, first: ComparisonRow) -> str:
        """The value of a row, with its ratio to that of the first."""
        value, base = self.value(row), self.value(first)
        if value is None:
            return ""
        text = self.write(value)
        if not self.relative or row is first or not base:
            return text
        ratio = value / base
        return f"{text} ({100 * ratio:.2f} %)" if ratio < 2 else f"{text} ({ratio:,.3g}x)"


def _exact(count: float) -> str:
    return wording.exact(int(count))


def _binary(count: float) -> str:
    return wording.binary(int(count))


MEASURES = (
    Standing(name="parameters", value=lambda row: row.params, write=_exact),
    Standing(name="MACs", value=lambda row: row.macs, write=_exact),
    Standing(name="operations", value=lambda row: row.flops, write=_exact),
    Standing(name="multiplications", value=lambda row: row.mults, write=_exact),
    Standing(name="additions", value=lambda row: row.adds, write=_exact),
    Standing(name="others", value=lambda row: row.others, write=_exact),
    Standing(name="weights", value=lambda row: row.weight_bytes, write=_binary),
    Standing(
        name="peak of activations", value=lambda row: row.peak_activation_bytes, write=_binary
    ),
    Standing(
        name="nonlinearities", value=lambda row: row.nonlinearities, write=_exact, relative=False
    ),
    Standing(
        name="milliseconds", value=lambda row: row.milliseconds, write=lambda ms: measured(ms)
    ),
)
"""What networks side by side are compared by."""


def heading(result: Comparison) -> str:
    """What is compared."""
    if result.kind == "networks":
        return f"{len(result.rows)} networks side by side"
    return _brief(result.rows[0].text)


def subtitle(result: Comparison) -> str:
    """Where it is from, and by which rule the middle widths were chosen."""
    known = _brief(result.source) in ("", heading(result))
    where = "" if known else f"{result.layer} of {_brief(result.source)}; "
    return f"{where}{width_rule(result)}"


def _brief(text: str) -> str:
    """Notation in one line, square images with one number."""
    return re.sub(r"@(\d+)x\1(?=\s|$)", r"@\1", " ".join(text.split()))


def width_rule(result: Comparison) -> str:
    """How the middle widths were chosen."""
    if result.width == "keep":
        return "middle widths: the output's; of bottlenecks half or a quarter of the narrower side"
    if result.width == "equal-cost":
        return "middle widths: the most that costs no more MACs"
    return f"middle width: {result.width}"


def saved(row: ComparisonRow) -> str:
    """How many percent fewer MACs.

    >>> from convsmith.analysis.comparing import arrangements
    >>> from convsmith.graph import parse
    >>> saved(arrangements(parse("1@28 > conv 1 5")).by_form["stack-3"])
    '21.75 %'
    """
    if row.ratio_macs is None or row.form == ORIGINAL:
        return ""
    return f"{100 * (1 - row.ratio_macs):.2f} %"


def measured(milliseconds: float) -> str:
    """Milliseconds in three digits.

    >>> measured(0.123456), measured(12.3456), measured(1234.5)
    ('0.123', '12.3', '1,234')
    """
    return f"{milliseconds:,.0f}" if milliseconds >= 99.95 else f"{milliseconds:.3g}"


def percent(row: ComparisonRow) -> str:
    """Measured time, in percent of that of the first row."""
    return "" if row.ratio_milliseconds is None else f"{100 * row.ratio_milliseconds:.0f} %"


def standing(result: Comparison) -> list[tuple[str, list[str]]]:
    """Forms without a row by reason: those that cost more first, with their ratios."""
    dearer = [f"{r.form} {r.ratio_macs:.3g}x" for r in result.refused if r.ratio_macs is not None]
    reasons: dict[str, list[str]] = {}
    for item in result.refused:
        if item.ratio_macs is None:
            reasons.setdefault(item.reason, []).append(item.form)
    groups = [("not cheaper, at these widths", dearer)] if dearer else []
    return groups + sorted(reasons.items(), key=lambda pair: -len(pair[1]))


def shown_curves(result: Comparison) -> list[Curve]:
    """The curves that say something: of forms that are cheaper for some kernel."""
    return [c for c in result.curves if any(ratio < 1 for _, ratio in c.points)]


def sparkline(curve: Curve) -> str:
    """One cell per kernel size, as high as the ratio; a dot where the form does not apply.

    >>> sparkline(Curve(form="dilated", points=((3, 4 / 9), (4, 0.25), (15, 0.04))))
    '·▄▂··········▁'
    """
    ratios = dict(curve.points)
    return "".join(
        _LEVELS[min(max(round(ratios[size] * 8) - 1, 0), 7)] if size in ratios else "·"
        for size in KERNELS
    )
