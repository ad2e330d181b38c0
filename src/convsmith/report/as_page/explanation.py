"""An explanation as a page: formulas layer by layer, and the account of a convention."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from convsmith.analysis.conventions import Account
from convsmith.analysis.explaining import (
    Explanation,
    LayerExplanation,
    Line,
    number_text,
    quantity,
    word,
)
from convsmith.report import wording
from convsmith.report.as_text.explanation import heading, part_text, shapes, steps
from convsmith.report.pages import Cell, Heading, number, page
from convsmith.report.pages import Line as Row
from convsmith.report.rendering import html

__all__ = ["typeset_formula"]

OPEN_LAYERS = 12
"""With at most so many layers, all of them are unfolded."""

_LAYERS_NAMED = 3


@html.register
def _(result: Explanation) -> str:
    """Renders the page."""
    content: dict[str, Any] = {
        "name": result.source or "network",
        "lang": result.lang,
        "title": word("explanation", result.lang),
        "account": result.account and _account(result.account, result.lang),
        "open": len(result.layers) <= OPEN_LAYERS,
        "layers": [_layer(layer, result) for layer in result.layers],
        "symbols": word("symbols", result.lang),
        "legend": [(typeset_formula(name), stands) for name, stands in result.legend()],
    }
    return page("explanation.html", content)


def typeset_formula(text: str) -> Markup:
    """A formula in HTML: letters slanted, indices below.

    >>> typeset_formula("C_in · k² < 2")
    Markup('<i>C</i><sub>in</sub> · <i>k</i>² &lt; 2')
    """
    safe = str(escape(text))
    safe = re.sub(
        r"(?<![\w&;])([A-Za-z])(?:_([a-z0-9]+))?(?![A-Za-z0-9;])",
        lambda found: f"<i>{found[1]}</i>" + (f"<sub>{found[2]}</sub>" if found[2] else ""),
        safe,
    )
    return Markup(safe)  # every sign of the network's was escaped, and formulas hold none


def _line(line: Line, lang: str) -> dict[str, Any]:
    return {
        "label": quantity(line.quantity, lang),
        "steps": [typeset_formula(step) for step in steps(line)],
    }


def _layer(layer: LayerExplanation, result: Explanation) -> dict[str, Any]:
    name, title, notation = heading(layer, result.lang)
    counted = None
    if layer.counted is not None:
        said = [
            f"{number_text(p.amount)} {part_text(p.reason, p.per, result.lang)}"
            for p in layer.counted
        ]
        head = word("counts", result.lang, tool=result.convention)
        counted = f"{head}: {' + '.join(said) or word('nothing', result.lang)}"
    return {
        "name": name,
        "title": title,
        "notation": notation,
        "shapes": shapes(layer),
        "lines": [_line(line, result.lang) for line in layer.lines],
        "notes": [layer.note(note, result.lang) for note in layer.notes],
        "counted": counted,
    }


def _account(account: Account, lang: str) -> dict[str, Any]:
    def row(said: str, amount: int, where: str = "") -> Row:
        return Row(cells=(Cell(text=said), number(number_text(amount), amount), Cell(text=where)))

    rows = [row(word("exact", lang), account.exact)]
    for term in account.terms:
        named = ", ".join(
            f"{wording.shorten(name, 40)} {number_text(amount)}"
            for name, amount in term.layers[:_LAYERS_NAMED]
        )
        more = len(term.layers) - _LAYERS_NAMED
        rest = f", +{more}" if more > 0 else ""
        rows.append(row(term.text(lang), term.amount, named + rest))
    same = account.params == account.exact_params
    return {
        "heading": word("difference", lang, tool=account.tool),
        "columns": (
            Heading(heading=word("term", lang)),
            Heading(heading=word("amount", lang), numeric=True),
            Heading(heading=word("layers", lang)),
        ),
        "rows": rows,
        "total": row(word(f"counted.{account.reports}", lang, tool=account.tool), account.counted),
        "params": word(
            "params-same" if same else "params",
            lang,
            exact=number_text(account.exact_params),
            counted=number_text(account.params),
        ),
    }
