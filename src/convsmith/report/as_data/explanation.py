"""An explanation for documents and programs: Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator

from convsmith.analysis.conventions import Account
from convsmith.analysis.explaining import (
    Explanation,
    LayerExplanation,
    Symbol,
    latex_of,
    number_text,
    quantity,
    word,
)
from convsmith.errors import UsageError
from convsmith.report import wording
from convsmith.report.as_text.explanation import heading, part_text, shapes
from convsmith.report.rendering import comma_separated, csv, markdown
from convsmith.results import Result

__all__ = ["latex"]


# Markdown -------------------------------------------------------------------------


@markdown.register
def _(result: Explanation) -> str:
    """A section a layer, with formulas between dollar signs."""
    lines = [f"# {word('explanation', result.lang)}: {_plain(result.source)}", ""]
    if result.account is not None:
        lines += [*_account_table(result.account, result.lang), ""]
    for layer in result.layers:
        lines += [*_section(layer, result), ""]
    legend = list(result.legend())
    if legend:
        lines += [f"## {word('symbols', result.lang)}", ""]
        lines += [f"- ${Symbol(name, 0).latex()}$: {stands}" for name, stands in legend]
    return "\n".join(lines).rstrip()


def _section(layer: LayerExplanation, result: Explanation) -> Iterator[str]:
    name, title, notation = heading(layer, result.lang)
    yield f"## {_plain(name)}: {title}"
    yield ""
    yield f"{_code(notation)}, {shapes(layer)}"
    yield ""
    for line in layer.lines:
        yield f"- {quantity(line.quantity, result.lang)}: ${latex_of(line)}$"
    for note in layer.notes:
        yield f"- {_plain(layer.note(note, result.lang))}"
    if layer.counted is not None:
        said = ", ".join(
            f"{number_text(p.amount)} {part_text(p.reason, p.per, result.lang)}"
            for p in layer.counted
        )
        head = word("counts", result.lang, tool=result.convention)
        yield f"- {head}: {said or word('nothing', result.lang)}"


def _account_table(account: Account, lang: str) -> Iterator[str]:
    yield f"## {word('difference', lang, tool=account.tool)}"
    yield ""
    yield f"| {word('term', lang)} | {word('amount', lang)} |"
    yield "|:--|--:|"
    yield f"| {word('exact', lang)} | {number_text(account.exact)} |"
    for term in account.terms:
        yield f"| {_plain(term.text(lang))} | {number_text(term.amount)} |"
    said = word(f"counted.{account.reports}", lang, tool=account.tool)
    yield f"| **{said}** | **{number_text(account.counted)}** |"


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]$#])", r"\\\1", wording.plain(text))


def _code(text: str) -> str:
    """Text between as many backticks as it takes."""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    inner = f" {text} " if text.startswith("`") or text.endswith("`") else text
    return f"{fence}{inner}{fence}"


# LaTeX ----------------------------------------------------------------------------


def latex(result: Result) -> str:
    """Returns an explanation as a LaTeX document.

    Raises:
        UsageError: If it is another kind of result.
    """
    if not isinstance(result, Explanation):
        raise UsageError(
            f"there is no LaTeX form of {type(result).__name__}", remedy="choose json or text"
        )
    chinese = result.lang == "zh"
    lines = [
        rf"\documentclass{{{'ctexart' if chinese else 'article'}}}",
        r"\usepackage{amsmath}",
        r"\allowdisplaybreaks",
        r"\begin{document}",
    ]
    if result.account is not None:
        lines += _account_latex(result.account, result.lang)
    for layer in result.layers:
        lines += _layer_latex(layer, result)
    legend = list(result.legend())
    if legend:
        lines += [rf"\section*{{{_tex(word('symbols', result.lang))}}}", r"\begin{description}"]
        lines += [rf"\item[${Symbol(name, 0).latex()}$] {_tex(stands)}" for name, stands in legend]
        lines += [r"\end{description}"]
    return "\n".join([*lines, r"\end{document}"])


def _layer_latex(layer: LayerExplanation, result: Explanation) -> Iterator[str]:
    name, title, notation = heading(layer, result.lang)
    yield rf"\section*{{\texttt{{{_tex(name)}}}: {_tex(title)}}}"
    yield rf"\texttt{{{_tex(notation)}}}"
    for line in layer.lines:
        yield rf"\paragraph{{{_tex(quantity(line.quantity, result.lang))}}}"
        yield rf"\[ {latex_of(line)} \]"
    for note in layer.notes:
        yield rf"\par {_tex(layer.note(note, result.lang))}"
    for part in layer.counted or ():
        said = _tex(part_text(part.reason, part.per, result.lang))
        yield rf"\par {_tex(result.convention)}: ${_amount(part.amount)}$ {said}"


def _account_latex(account: Account, lang: str) -> Iterator[str]:
    yield rf"\section*{{{_tex(word('difference', lang, tool=account.tool))}}}"
    yield r"\begin{tabular}{rl}"
    rows = [(account.exact, word("exact", lang))]
    rows += [(term.amount, term.text(lang)) for term in account.terms]
    for amount, said in rows:
        yield rf"${_amount(amount)}$ & {_tex(said)} \\"
    yield r"\hline"
    said = word(f"counted.{account.reports}", lang, tool=account.tool)
    yield rf"${_amount(account.counted)}$ & {_tex(said)} \\"
    yield r"\end{tabular}"


def _amount(amount: int) -> str:
    return f"{amount:,}".replace(",", "{,}")


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "²": r"$^2$",
    "×": r"$\times$",
    "−": "$-$",
    "⌊": r"$\lfloor$",
    "⌋": r"$\rfloor$",
    "⌈": r"$\lceil$",
    "⌉": r"$\rceil$",
    "…": r"\ldots{}",
    "ᵀ": r"$^T$",
}


def _tex(text: str) -> str:
    """Text with everything spelled out that LaTeX would take for a command."""
    return "".join(_TEX.get(sign, sign) for sign in wording.plain(text))


# CSV ------------------------------------------------------------------------------


@csv.register
def _(result: Explanation) -> str:
    """One line a formula; of an account, one line a term."""
    rows: list[tuple[object, ...]] = []
    if result.account is not None and not result.layers:
        rows.append((word("exact", result.lang), result.account.exact))
        rows += [(term.text(result.lang), term.amount) for term in result.account.terms]
        rows.append((result.account.tool, result.account.counted))
        return comma_separated(("term", "amount"), rows)
    for layer in result.layers:
        for line in layer.lines:
            names = " ".join(subject.name for subject in line.subjects)
            formula, numbers = line.formula.text(), line.formula.text(numbers=True)
            value = line.formula.value
            rows.append((layer.row.name, line.quantity, names, formula, numbers, value))
    return comma_separated(("layer", "quantity", "symbols", "formula", "numbers", "value"), rows)
