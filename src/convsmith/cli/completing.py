"""What a shell may offer while a command is typed: networks of the zoo, and names of layers.

Pressing a key must be quick, must not say anything, and must not run anybody's code: a network is
read only from the zoo, from notation or from an ``.onnx`` file that is not too large, never from a
Python factory. Names come from files that others wrote: none is offered that a shell would read as
more than a word.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import typer

__all__ = ["VARIABLE", "complete", "convolutions", "layers", "sources"]

VARIABLE = "_CONVSMITH_COMPLETE"
"""Set by the shell when it asks."""

_LARGEST = 256 << 20  # bytes of a file that is read for its names
_MOST = 2000  # names
_WORD = re.compile(r"[A-Za-z0-9_./:@%+,][A-Za-z0-9_./:@%+,=-]*\Z")
_ZOO = "zoo:"


def sources(incomplete: str) -> list[str]:
    """Networks of the zoo, once ``z`` is typed; else nothing, and the shell offers files."""
    if not incomplete or not (incomplete.startswith(_ZOO) or _ZOO.startswith(incomplete)):
        return []

    def names() -> Iterable[str]:
        from convsmith.sources.zoo import NETWORKS

        return (f"{_ZOO}{name}" for name in NETWORKS)

    return _offered(names, incomplete)


def layers(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the layers of the network that stands in the command."""
    return _offered(lambda: _names(context, convolutions_only=False), incomplete)


def convolutions(context: typer.Context, incomplete: str) -> list[str]:
    """Names of its convolutions."""
    return _offered(lambda: _names(context, convolutions_only=True), incomplete)


def _offered(names: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    """The safe names that begin with what is typed; none, whatever goes wrong."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            found = [n for n in names() if n.startswith(incomplete) and _WORD.match(n)]
    except Exception:  # noqa: BLE001 - there is nobody to tell
        return []
    return found[:_MOST]


def _names(context: typer.Context, *, convolutions_only: bool) -> list[str]:
    from convsmith.cli.opening import opened

    given = context.params
    source = given.get("through") or given.get("source") or given.get("sources")
    if not source:  # an option that waits for its value keeps Click from placing arguments
        source = next((word for word in context.args if not word.startswith("-")), None)
    if isinstance(source, list | tuple):
        source = source[0] if source else None
    if not isinstance(source, str) or not _is_quick(source):
        return []
    nodes = opened(source, given.get("input"), weights=False).nodes
    return [
        node.name for node in nodes if not convolutions_only or type(node.op).__name__ == "Conv"
    ]


def _is_quick(source: str) -> bool:
    text = source.strip()
    if text.startswith(_ZOO):
        return True
    if text.lower().endswith(".onnx"):
        path = Path(text)
        return path.is_file() and path.stat().st_size <= _LARGEST
    return ">" in text or "@" in text  # notation


def complete(command: Any, instruction: str) -> int:
    """Answers a shell, as Typer's scripts ask; prints nothing else and raises nothing.

    Args:
        command: The program.
        instruction: What :data:`VARIABLE` says, such as ``complete_bash``.

    Returns:
        The exit code. Fish first asks by it whether there is anything to offer; if there is not,
        it offers files.
    """
    from typer.completion import shell_complete

    cut = 0
    if instruction == "complete_bash":
        cut = _joined()
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(io.StringIO()):
            shell_complete(command, {}, "convsmith", VARIABLE, instruction)
    except SystemExit as answer:
        return 1 if answer.code else 0
    except Exception:  # noqa: BLE001 - a key was pressed: nobody reads errors
        return 1
    lines = said.getvalue().splitlines(keepends=True)
    sys.stdout.write("".join(line[cut:] for line in lines))
    return 0


def _joined() -> int:
    """Undoes what Bash does to ``zoo:vgg16``: three words, of which it replaces the last.

    Returns:
        How many characters of every answer it has already.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    try:
        cursor = int(os.environ.get("COMP_CWORD", ""))
    except ValueError:
        return 0
    made: list[str] = []
    at = cut = 0
    glued = False
    for index, word in enumerate(words):
        if made and (word in (":", "=") or glued) and (word or index == cursor):
            if index <= cursor:
                cut = len(made[-1]) + (len(word) if word in (":", "=") else 0)
            made[-1] += word
        else:
            made.append(word)
            cut = cut if index > cursor else 0
        glued = word in (":", "=")
        if index == cursor:
            at = len(made) - 1
    if cursor >= len(words):
        made.append("")
        at, cut = len(made) - 1, 0
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(made), str(at)
    return cut
