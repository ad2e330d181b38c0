"""Lines and columns of plain text that fit a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from convsmith.report import wording

__all__ = ["Column", "filled", "printed", "table"]

_GAP = 2
_NARROWEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its heading, its cells, and how they are shown.

    Attributes:
        heading: What stands above it.
        cells: One per line.
        right: Whether they are aligned to the right.
        shrinks: Whether they may be shortened when there is no room.
        style: How they look.
        total: What stands below a line at the end.
    """

    heading: str
    cells: Sequence[str]
    right: bool = True
    shrinks: bool = False
    style: str = ""
    total: str = ""

    @property
    def width(self) -> int:
        """The terminal columns that it takes."""
        return max(map(cell_len, (self.heading, self.total, *self.cells)))


def table(columns: Sequence[Column], width: int, *, styles: Sequence[str] = ()) -> list[Text]:
    """Lays columns out side by side.

    Args:
        columns: The first that ``shrinks`` gives way last.
        width: Terminal columns; exceeded only where nothing more can shrink.
        styles: The style of each line, where the columns have none of their own.
    """
    widths = _widths(columns, width)
    rule = Text("─" * (sum(widths) + _GAP * (len(widths) - 1)), style="dim")
    head = "bold"
    lines = [_line([(c, c.heading, head) for c in columns], widths), rule]
    for index in range(len(columns[0].cells)):
        style = styles[index] if index < len(styles) else ""
        lines.append(_line([(c, c.cells[index], style or c.style) for c in columns], widths))
    if any(column.total for column in columns):
        lines += [rule, _line([(c, c.total, head) for c in columns], widths)]
    return lines


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    widths = [column.width for column in columns]
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    for index in reversed(range(len(columns))):
        if excess > 0 and columns[index].shrinks:
            least = max(_NARROWEST, cell_len(columns[index].heading))
            cut = min(excess, max(widths[index] - least, 0))
            widths[index] -= cut
            excess -= cut
    return widths


def _line(cells: Sequence[tuple[Column, str, str]], widths: Sequence[int]) -> Text:
    line = Text()
    for index, ((column, cell, style), width) in enumerate(zip(cells, widths, strict=True)):
        shown = wording.shorten(cell, width) if column.shrinks else cell
        space = " " * (width - cell_len(shown))
        line.append(" " * _GAP if index else "")
        line.append(space if column.right else "")
        line.append(shown, style=style)
        line.append("" if column.right else space)
    return line


def filled(sentence: str, width: int, *, style: str = "", hanging: int = 0) -> list[Text]:
    """Breaks a sentence between words; a word that is too long stays whole.

    >>> [str(line) for line in filled("one two three", 8, hanging=2)]
    ['one two', '  three']
    """
    lines, line = [], ""
    for word in sentence.split():
        longer = f"{line} {word}" if line.strip() else f"{line}{word}"
        if cell_len(longer) > width and line.strip():
            lines.append(line)
            longer = " " * hanging + word
        line = longer
    return [Text(each, style=style) for each in [*lines, line]]


def printed(lines: Sequence[Text], *, color: bool) -> str:
    """Turns lines into a string, with escape sequences for their styles or without."""
    if not color:
        return "\n".join(line.plain.rstrip() for line in lines)
    longest = max((cell_len(line.plain) for line in lines), default=0)
    console = Console(
        file=io.StringIO(),
        width=longest + 1,
        color_system="standard",
        force_terminal=True,
        legacy_windows=False,
        highlight=False,
    )
    with console.capture() as captured:
        for line in lines:
            console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
