"""HTML pages: one file each, offline, with nothing that a name in a network could break out of.

A policy in the page forbids every request; only the style and the script that are in it may act,
known by their hashes. All values are escaped, and characters that would not show are spelled out.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convsmith.report import wording

__all__ = [
    "Bar",
    "Card",
    "Cell",
    "Facts",
    "Heading",
    "Line",
    "facts",
    "file_name",
    "number",
    "page",
    "sentence",
    "sizes",
    "typeset",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One number that matters; ``kind``: ``good``, ``bad`` or neither."""

    value: str
    label: str
    detail: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """The heading of a column, and what it stands for."""

    heading: str
    numeric: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: what it says, its CSS class, and the value it is sorted by."""

    text: str
    kind: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a table; the first cell is its heading."""

    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One or two bars of a chart, in percent of its width."""

    name: str
    before: float
    after: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where and with what a page was made."""

    version: str
    python: str
    packages: tuple[tuple[str, str], ...]
    cpu: str
    system: str
    date: str


SCRIPTS = ("theme.js", "wipe.js", "sort.js", "ready.js")
"""The scripts of every page; those of a page of its own come before the last."""


def page(
    template: str,
    content: Mapping[str, Any],
    *,
    packages: Sequence[str] = (),
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
) -> str:
    """Renders a page.

    Args:
        template: The name of a file in ``templates``.
        content: What it shows.
        packages: Those whose versions belong to the result.
        scripts: Names of scripts in ``templates`` that only this page has, in their order.
        styles: Names of style sheets that only this page has.
    """
    style, style_hash = _asset(("page.css", *styles))
    script, script_hash = _asset((*SCRIPTS[:-1], *scripts, SCRIPTS[-1]))
    return (
        _environment()
        .get_template(template)
        .render(
            content,
            facts=facts(packages),
            style=style,
            style_hash=style_hash,
            script=script,
            script_hash=script_hash,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("convsmith.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
    )
    environment.filters["plain"] = wording.plain
    return environment


@cache
def _asset(files: tuple[str, ...]) -> tuple[Markup, str]:
    """Files of ours behind one another, and the hash that lets the result act in a page."""
    environment = _environment()
    assert environment.loader is not None
    parts = [environment.loader.get_source(environment, file)[0] for file in files]
    source = "\n".join(part.strip() for part in parts)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Markup(source), f"sha256-{digest}"


def _visible(value: object) -> object:
    if isinstance(value, str) and not isinstance(value, Markup):
        return wording.plain(value)
    return value


def number(text: str, value: float, kind: str = "") -> Cell:
    """A cell that is sorted by a number."""
    return Cell(text=text, kind=f"number {kind}".rstrip(), value=value)


def typeset(text: str) -> str:
    """Signs that a terminal does without; for numbers only, names are left alone.

    >>> typeset("-0.31 dB, 1.26x faster, 31 x 31, 30 dB -> 29 dB")
    '−0.31 dB, 1.26× faster, 31 × 31, 30 dB → 29 dB'
    """
    text = re.sub(r"(?<=\d) x (?=\d)", " × ", text.replace(" -> ", " → "))
    text = re.sub(r"(?<=\d)x(?=\d| |$)", "×", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def sentence(words: str) -> str:
    """Words as a sentence begins; names at their beginning are left alone.

    >>> sentence("it is slower"), sentence("conv1.bn is free"), sentence("")
    ('It is slower', 'conv1.bn is free', '')
    """
    first = words.split(" ", 1)[0]
    return words[:1].upper() + words[1:] if first.isalpha() else words


def sizes(inputs: Mapping[str, tuple[int, ...]]) -> str:
    """The shapes of a network's inputs."""
    return ", ".join(
        f"{name} {'×'.join(map(str, shape))}" if len(inputs) > 1 else "×".join(map(str, shape))
        for name, shape in inputs.items()
    )


def file_name(source: str) -> str:
    """What to call a network: the last part of a path, else the source itself.

    >>> file_name("models/restorer.onnx"), file_name("3@32 > conv 8 3")
    ('restorer.onnx', '3@32 > conv 8 3')
    """
    return Path(source).name if source.lower().endswith(".onnx") else source


def facts(packages: Sequence[str] = ()) -> Facts:
    """Says where this is running."""
    return Facts(
        version=_version("convsmith"),
        python=platform.python_version(),
        packages=tuple((name, _version(name)) for name in ("numpy", *packages)),
        cpu=f"{_cpu()}, {os.cpu_count()} cores",
        system=f"{platform.system()} {platform.machine()}",
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text("utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "an unknown CPU"
