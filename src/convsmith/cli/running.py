"""Runs the command line and turns whatever happens into one message and an exit code.

0: done; 1: findings, or a budget exceeded; 2: bad usage or bad input; 3: an internal error.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from typer.exceptions import Abort, Exit, TyperException
from typer.main import get_command

from convsmith.errors import ConvsmithError

__all__ = ["main", "run"]

INTERNAL_ERROR = 3
INTERRUPTED = 130  # what a shell reports for Ctrl-C


def main() -> None:
    """The entry point of the program ``convsmith``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; no exception leaves."""
    from convsmith.cli.app import app
    from convsmith.cli.completing import VARIABLE, complete

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?"
    debug = "--debug" in arguments
    try:
        # Not app(): it would exit by itself when the reader of a pipe leaves.
        command = get_command(app)
        if asked := os.environ.get(VARIABLE):
            return complete(command, asked)
        with command.make_context("convsmith", list(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except Exit as wanted:
        return wanted.exit_code
    except SystemExit as wanted:  # Typer's own options for completion end that way
        return wanted.code if isinstance(wanted.code, int) else 0
    except BrokenPipeError:
        return _reader_left()
    except (KeyboardInterrupt, Abort):
        return _fail("interrupted", INTERRUPTED, debug)
    except TyperException as error:
        return _fail(_usage(error), error.exit_code, debug)
    except ConvsmithError as error:
        return _fail(str(error), error.exit_code, debug)
    except MemoryError:
        return _fail("not enough memory; use a smaller network or input.", 2, debug)
    except Exception as error:  # noqa: BLE001 - the outermost frame: nothing may leave it
        hint = "" if debug else " Run it again with --debug to see where, and please report it."
        name = type(error).__name__
        return _fail(f"internal error: {name}: {error}.{hint}", INTERNAL_ERROR, debug)
    return 0


def _usage(error: TyperException) -> str:
    message = error.format_message().rstrip(".")
    end = "" if message.endswith("?") else "."
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "convsmith"
    return f"{message}{end}\nSee '{command} --help'."


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    try:
        sys.stderr.write(f"convsmith: {message}\n")
        sys.stderr.flush()
    except OSError:  # nobody listens to messages either
        pass
    return code


def _reader_left() -> int:
    """Whoever read the output has seen enough, as ``head`` does: no error."""
    # What is still buffered would fail again at exit: it goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
