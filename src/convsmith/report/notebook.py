"""What a notebook shows of anything: its Markdown form, cut to a size that a cell can hold.

The HTML is made from the same Markdown by a parser that knows tables, lists and emphasis but no
HTML, no links and no pictures: a name that slips through is text. There are no scripts, and nothing
is loaded.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape

from markdown_it import MarkdownIt

from convsmith.analysis.explaining import Explanation
from convsmith.errors import ConvsmithError
from convsmith.report import wording
from convsmith.report.rendering import markdown, text
from convsmith.results import Displayed

__all__ = ["notebook_html", "notebook_markdown"]

_MOST_ROWS = 120
"""Rows of one table, and lines of code: of longer ones the first and the last half are shown."""

_MOST_LINES = 600
_LONGEST_CELL = 160
_LONGEST_LINE = 4000
_WIDTH = 110
_CELLS = re.compile(r"(?<!\\)\|")
_STYLE = "overflow:auto;max-height:40em"


def notebook_markdown(shown: Displayed) -> str:
    """Returns anything that has a text form as Markdown, at most some hundred lines.

    Args:
        shown: A result, a network, a plan, a program; whatever else as code.
    """
    try:
        return _bounded(markdown(shown))
    except ConvsmithError:
        return _code(_plain_text(shown))


def notebook_html(shown: Displayed) -> str:
    """Returns anything that has a text form as an HTML element without scripts.

    Args:
        shown: A result, a network, a plan, a program; whatever else as code.
    """
    if isinstance(shown, Explanation):  # what typesets formulas is not there in every notebook
        kept = "\n".join(_cut(_plain_text(shown).splitlines(), _MOST_ROWS * 2))
        return f'<div style="{_STYLE}"><pre>{escape(kept)}</pre></div>'
    return f'<div style="{_STYLE}">\n{_parser().render(notebook_markdown(shown))}</div>'


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    return parser.disable(
        ["link", "image", "autolink", "html_inline", "html_block", "entity", "reference"]
    )


def _plain_text(shown: Displayed) -> str:
    try:
        made = text(shown, width=_WIDTH)  # type: ignore[arg-type]
    except ConvsmithError:  # a plan of a convolution: it prints itself
        made = str(shown)
    return "\n".join(wording.plain(line) for line in made.splitlines())


def _code(lines: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *_cut(lines.splitlines(), _MOST_ROWS), fence])


def _cut(lines: list[str], most: int) -> list[str]:
    """The first and the last lines, none of them endless."""
    if len(lines) > most:
        more = f"... {len(lines) - most:,} more lines"
        lines = [*lines[: most // 2], more, *lines[-(most // 2) :]]
    return [wording.shorten(line, _LONGEST_LINE) for line in lines]


def _bounded(made: str) -> str:
    """Markdown with fewer rows, shorter cells and no endless lines."""
    kept: list[str] = []
    rows: list[str] = []
    for line in [*made.splitlines(), ""]:
        if line.startswith(("| ", "|:", "|-")):
            rows.append(line)
            continue
        kept += _rows(rows)
        rows = []
        kept.append(wording.shorten(line, _LONGEST_LINE))
    if len(kept) > _MOST_LINES:
        more = len(kept) - _MOST_LINES
        fences = sum(line.startswith("```") for line in kept[:_MOST_LINES])
        kept = [*kept[:_MOST_LINES], *["```"] * (fences % 2), "", f"... {more:,} more lines"]
    return "\n".join(kept).rstrip()


def _rows(rows: list[str]) -> list[str]:
    if len(rows) > _MOST_ROWS + 2:
        more = len(rows) - 2 - _MOST_ROWS
        half = _MOST_ROWS // 2
        rows = [*rows[: half + 2], f"| ... {more:,} more rows |", *rows[-half:]]
    return [_row(row) for row in rows]


def _row(row: str) -> str:
    if len(row) <= _LONGEST_CELL:
        return row
    return "|".join(_cell(cell) for cell in _CELLS.split(row))


def _cell(cell: str) -> str:
    if len(cell) <= _LONGEST_CELL:
        return cell
    head, tail = cell[: _LONGEST_CELL - 40], cell[-39:]
    # A backslash belongs to what follows it: at a cut it would take the ellipsis or lose its sign.
    head = head[: len(head) - (len(head) - len(head.rstrip("\\"))) % 2]
    cut = cell[: len(cell) - len(tail)]
    tail = tail[1:] if (len(cut) - len(cut.rstrip("\\"))) % 2 else tail
    return f"{head}…{tail}"
