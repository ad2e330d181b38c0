"""What Markdown pages hold: fenced blocks, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Block", "blocks", "commands", "headings", "links", "prose", "slug"]

_FENCE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence) *$", re.M | re.S
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; ``line`` is that of its first line of text."""

    language: str
    text: str
    line: int


def blocks(page: str, *languages: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page, or those of some languages."""
    for found in _FENCE.finditer(page):
        language = found["info"].strip()
        if not languages or language in languages:
            line = page.count("\n", 0, found.start("body")) + 1
            yield Block(language=language, text=found["body"], line=line)


def prose(page: str) -> str:
    """Returns a page without its fenced blocks and its comments."""
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", page), flags=re.DOTALL)


def headings(page: str) -> list[tuple[int, str]]:
    """Returns the depth and the text of every heading."""
    found = re.findall(r"^(#+) +(.*?) *$", prose(page), re.MULTILINE)
    return [(len(marks), text) for marks, text in found]


def slug(heading: str) -> str:
    """Returns the anchor that GitHub and MyST give a heading.

    >>> slug("Why two 3x3, *not* one 5x5?")
    'why-two-3x3-not-one-5x5'
    """
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"[`*_]", "", heading.lower()))
    return plain.strip().replace(" ", "-")


def links(page: str) -> list[str]:
    """Returns the targets of all links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def commands(page: str) -> list[str]:
    """Returns the command lines of a page's indented blocks."""
    return re.findall(r"^    ((?:convsmith|make) .*)$", page, re.MULTILINE)
