"""Runs the examples of a page, in order, and compares what they print with what stands there.

* ``python``: with ``>>>`` as a doctest, else as a script. All blocks of a page share their names.
* ``console``: lines that begin with ``$ ``, then what a terminal shows. ``convsmith`` runs in this
  process; ``cat > FILE`` writes what follows up to ``EOF``; ``echo $?`` shows the last exit code,
  which has to be 0 where it is not shown.

``...`` stands for anything, as in a doctest.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import shlex
from pathlib import Path
from typing import Any

from tests.markdown import Block, blocks

from convsmith.cli.running import run

__all__ = ["run_page"]

FLAGS = doctest.ELLIPSIS
_CHECKER = doctest.OutputChecker()


def run_page(page: Path) -> int:
    """Runs every example of a page.

    Returns:
        How many there are.

    Raises:
        AssertionError: If one prints something else; names the page and the line.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for block in blocks(page.read_text("utf-8"), "python", "console"):
        place = f"{page.name}:{block.line}"
        if block.language == "console":
            count += _console(block, place)
        elif ">>> " in block.text:
            count += _doctest(block, place, names)
        else:
            exec(compile(block.text, place, "exec"), names)
            count += 1
    return count


def _doctest(block: Block, place: str, names: dict[str, Any]) -> int:
    test = doctest.DocTestParser().get_doctest(block.text, names, place, place, block.line - 1)
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    failed, tried = runner.run(test, out=said.write, clear_globs=False)
    names.update(test.globs)
    assert not failed, f"{place}\n{said.getvalue()}"
    return tried


def _console(block: Block, place: str) -> int:
    count, code = 0, 0
    lines = block.text.splitlines(keepends=True)
    assert lines[0].startswith("$ "), f"{place}: a console block begins with a command"
    while lines:
        command = lines.pop(0)[2:]
        while command.endswith("\\\n"):
            command = command[:-2] + lines.pop(0)
        want = []
        while lines and not lines[0].startswith("$ "):
            want.append(lines.pop(0))
        shown = "".join(want)
        if command.startswith("echo $?"):
            got = f"{code}\n"
            code = 0
        else:
            assert code == 0, f"{place}: exit code {code} is not shown"
            code, got = _run(command.strip(), shown)
        got = "".join(f"{line.rstrip()}\n" for line in got.splitlines())
        agree = not want or _CHECKER.check_output(shown, got, FLAGS)
        assert agree, f"{place}: $ {command}{got}\ninstead of\n{shown}"
        count += 1
    assert code == 0, f"{place}: exit code {code} is not shown"
    return count


def _run(command: str, shown: str) -> tuple[int, str]:
    """Returns the exit code and everything that is printed, or what is shown if nothing runs."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "cat":
        assert arguments[0] == ">", command
        Path(arguments[1]).write_text(shown.removesuffix("EOF\n"))
        return 0, shown
    assert program == "convsmith", command
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as a terminal: it can show rules
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run(arguments)
    said.seek(0)
    return code, said.read()
