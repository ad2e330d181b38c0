"""The rows as Markdown tables: mean and spread over the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.rewriting.comparing import Row

__all__ = ["table"]

KINDS = {"macs": "the multiply-accumulates", "time": "the measured time"}


def table(rows: Sequence[Row], title: str, unit: str) -> str:
    """One table for one network and one kind of budget; a row per method and budget.

    ``change`` is the mean over the seeds, ± their standard deviation; ``worst`` the lowest.
    """
    kind = rows[0].kind
    seeds = len({row.seed for row in rows})
    head = (
        f"**{title}: {rows[0].before:.2f} {'%' if unit == 'points' else unit} before,"
        f" at a share of {KINDS[kind]}, {seeds} seed{'s' if seeds > 1 else ''}**"
    )
    lines = [
        head,
        "",
        f"| budget | method | change, {unit} | worst | MACs left | time left | seconds |",
        "|---:|:---|---:|---:|---:|---:|---:|",
    ]
    for budget in sorted({row.budget for row in rows}, reverse=True):
        at = [row for row in rows if row.budget == budget]
        ranked = sorted(
            {row.method for row in at}, key=lambda m: -_mean([r for r in at if r.method == m])
        )
        lines.extend(
            _line(budget, method, [row for row in at if row.method == method]) for method in ranked
        )
    return "\n".join(lines)


def _changes(rows: Sequence[Row]) -> list[float]:
    return [row.after - row.before for row in rows if row.after is not None]


def _mean(rows: Sequence[Row]) -> float:
    changes = _changes(rows)
    return statistics.mean(changes) if len(changes) == len(rows) else float("-inf")


def _line(budget: float, method: str, rows: Sequence[Row]) -> str:
    changes = _changes(rows)
    if not changes:
        return f"| {budget:.0%} | {method} | not reached | | | | |"
    spread = f" ± {statistics.stdev(changes):.2f}" if len(changes) > 1 else ""
    missed = f" ({len(rows) - len(changes)} not reached)" if len(changes) < len(rows) else ""
    share = statistics.mean(row.share for row in rows if row.share is not None)
    times = statistics.median(row.time for row in rows if row.time is not None)
    seconds = statistics.mean(row.seconds for row in rows)
    return (
        f"| {budget:.0%} | {method} | {statistics.mean(changes):+.2f}{spread}{missed} |"
        f" {min(changes):+.2f} | {share:.1%} | {times:.0%} | {seconds:.0f} |"
    )
