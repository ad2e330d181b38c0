"""Progress of long steps: on stderr, and only where a person is watching."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from convsmith.results import Progress

__all__ = ["progress"]


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress | None]:
    """Shows a bar for every stage while the block runs, then clears them away.

    Yields:
        What long steps call, from any thread; ``None`` when nobody is watching.
    """
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bars:
        yield _Stages(bars)


class _Stages:
    """One bar a stage; a stage ends when another one begins."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._lock = Lock()
        self._stage = ""
        self._task: TaskID | None = None
        self._done = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            if stage != self._stage or self._task is None:
                self._end()
                self._stage, self._done = stage, 0
                self._task = self._bars.add_task(stage, total=total or None, count="")
            self._done = max(self._done, done)  # threads report in any order
            count = f"{self._done}/{total}" if total else str(self._done or "")
            self._bars.update(self._task, completed=self._done, total=total or None, count=count)

    def _end(self) -> None:
        """Stops the clock of the last stage, whose total may never have been known."""
        if self._task is not None:
            self._bars.update(self._task, total=max(self._done, 1), completed=max(self._done, 1))
