"""The rows as tables: mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rewriting.comparing import Row
from benchmarks.rewriting.tasks import Task
from benchmarks.storing import table

__all__ = ["markdown", "parts"]

KINDS = {"macs": "the multiply-accumulates", "time": "the measured time"}


def parts(rows: Sequence[Row], task: Task) -> dict[str, Any]:
    """The rows of one network, a table per kind of budget, by what stands above it."""
    made = {}
    for kind, of in KINDS.items():
        some = [row for row in rows if row.kind == kind]
        if some:
            made[f"{task.title}, at a share of {of}"] = _table(some, task.unit)
    return made


def markdown(title: str, part: Mapping[str, Any]) -> str:
    """A table with what stands above and below it."""
    align = "|".join(":---" if side == "l" else "---:" for side in part["align"])
    lines = ["| " + " | ".join(cells) + " |" for cells in (part["columns"], *part["rows"])]
    return "\n".join([f"**{title}**", "", lines[0], f"|{align}|", *lines[1:], "", part["note"]])


def _table(rows: Sequence[Row], unit: str) -> dict[str, Any]:
    """A row per budget and method.

    ``change`` is the mean over the seeds, ± their standard deviation; ``worst`` the lowest.
    """
    seeds = len({row.seed for row in rows})
    lines = []
    for budget in sorted({row.budget for row in rows}, reverse=True):
        at = [row for row in rows if row.budget == budget]
        ranked = sorted(
            {row.method for row in at}, key=lambda m: -_mean([r for r in at if r.method == m])
        )
        lines += [
            _line(budget, method, [row for row in at if row.method == method]) for method in ranked
        ]
    return table(
        ["budget", "method", f"change, {unit}", "worst", "MACs left", "time left", "seconds"],
        lines,
        align="rlrrrrr",
        note=f"{rows[0].before:.2f} {'%' if unit == 'points' else unit} before;"
        f" {seeds} seed{'s' if seeds > 1 else ''}, mean ± standard deviation.",
    )


def _changes(rows: Sequence[Row]) -> list[float]:
    return [row.after - row.before for row in rows if row.after is not None]


def _mean(rows: Sequence[Row]) -> float:
    changes = _changes(rows)
    return statistics.mean(changes) if len(changes) == len(rows) else float("-inf")


def _line(budget: float, method: str, rows: Sequence[Row]) -> list[str]:
    changes = _changes(rows)
    if not changes:
        return [f"{budget:.0%}", method, "not reached", "", "", "", ""]
    spread = f" ± {statistics.stdev(changes):.2f}" if len(changes) > 1 else ""
    missed = f" ({len(rows) - len(changes)} not reached)" if len(changes) < len(rows) else ""
    share = statistics.mean(row.share for row in rows if row.share is not None)
    times = statistics.median(row.time for row in rows if row.time is not None)
    seconds = statistics.mean(row.seconds for row in rows)
    return [
        f"{budget:.0%}",
        method,
        f"{statistics.mean(changes):+.2f}{spread}{missed}",
        f"{min(changes):+.2f}",
        f"{share:.1%}",
        f"{times:.0%}",
        f"{seconds:.0f}",
    ]
