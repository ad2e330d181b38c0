"""The program in a real terminal of some width, with and without colors, and in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("convsmith")


def in_terminal(columns: int, *arguments: str, **more: str) -> str:
    """What the program writes to a terminal that wide."""
    leave_out = {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}
    environment = {k: v for k, v in os.environ.items() if k not in leave_out}
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        stdin=inner, stdout=inner, stderr=inner,
        env={**environment, "TERM": "xterm-256color", "PYTHONUTF8": "1", **more},
    )  # fmt: skip
    os.close(inner)
    written = b""
    while True:
        try:
            part = os.read(outer, 1 << 16)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        written += part
    os.close(outer)
    assert process.wait() == 0, written
    return written.decode()


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_are_as_wide_as_the_terminal(columns: int) -> None:
    written = in_terminal(columns, "analyze", "zoo:resnet18")
    assert "\x1b[" in written
    lines = re.sub(r"\x1b\[[0-9;]*m", "", written).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns - 30
    assert "\x1b" not in "".join(lines)


def test_no_color() -> None:
    assert "\x1b" not in in_terminal(80, "analyze", "3@32 > conv 8 3", NO_COLOR="1")
    assert "\x1b" not in in_terminal(80, "analyze", "3@32 > conv 8 3", TERM="dumb")


def test_a_pipe_gets_no_escape_sequences_and_programs_get_whole_names() -> None:
    done = subprocess.run(
        [PROGRAM, "analyze", "zoo:googlenet", "--format", "csv"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "20"},
    )  # fmt: skip
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout
    assert done.stderr == ""
    assert "inception4a.branch2.0.conv," in done.stdout
