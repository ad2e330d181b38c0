"""What the library knows about itself, put into the pages when they are built.

A line ``<!-- library: NAME -->`` of a page is replaced by the Markdown that ``building.tables`` or
``building.figures`` makes of that name. On GitHub the line is a comment and shows nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

from building import figures, tables

_log = logging.getLogger(__name__)
MARK = re.compile(r"^<!-- library: ([a-z-]+) -->$", re.MULTILINE)
_LITERAL = re.compile(r"(``.*?``|:[a-z]+:`.*?`)")
_PATH = re.compile(r"(?:~|\b(?=convsmith\.))(?:\w+\.)*(\w+)")
_PERCENT = re.compile(r"(?<=\d) %")
_SIGN = re.compile(r"(?<![\\*\w])\*(?=\w+[\s,)\]])|(?<!\\)\|")
MAKERS = {**tables.MAKERS, **figures.MAKERS}


def filled(text: str) -> str:
    """Returns a page with everything that the library has to say in it.

    Raises:
        KeyError: If it asks for something that there is not.
    """
    return MARK.sub(lambda mark: MAKERS[mark[1]](), text)


def _fill(app: Sphinx, name: str, source: list[str]) -> None:
    try:
        source[0] = filled(source[0])
    except KeyError as error:
        _log.warning("nothing makes %s", error, location=name)


def _plain(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Shows stars and bars of docstrings as they are: ``(N, *size)``, sum |w|."""
    for number, line in enumerate(lines):
        if line.startswith(":vartype"):
            lines[number] = _PATH.sub(r"\1", line)
        elif not line.lstrip().startswith((">>>", "...")):
            parts = _LITERAL.split(line)
            parts[::2] = [_SIGN.sub(r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def _asking(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Names the pages that are made anew every time: the library may say something else."""
    pages = {name: Path(env.doc2path(name)) for name in env.found_docs - added - changed}
    return [name for name, path in pages.items() if MARK.search(path.read_text("utf-8"))]


def _short(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:  # fmt: skip
    """Leaves the module out of the types in a signature."""
    return signature and _PATH.sub(r"\1", signature), returns


def _together(app: Sphinx, doctree: nodes.document) -> None:
    """Keeps a number and its % on one line."""
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.raw):
            said = _PERCENT.sub("\u00a0%", text)
            if said != text:
                text.parent.replace(text, nodes.Text(said))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Fills pages before they are read."""
    app.connect("env-get-outdated", _asking)
    app.connect("source-read", _fill)
    app.connect("doctree-read", _together)
    app.connect("autodoc-process-signature", _short)
    app.connect("autodoc-process-docstring", _plain, priority=600)  # behind napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
