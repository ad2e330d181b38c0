"""Sums by module or operator for other programs and for documents: CSV and Markdown."""

from __future__ import annotations

from convsmith.analysis import Group, View
from convsmith.report import wording
from convsmith.report.as_data.analysis import escaped
from convsmith.report.rendering import comma_separated, csv, markdown

__all__ = ["COLUMNS"]

COLUMNS = (
    *("name", "level", "layers", "params", "macs", "mults", "adds", "others", "flops"),
    *("weight_bytes", "read_bytes", "write_bytes", "arithmetic_intensity", "unsupported"),
    *("share_macs", "share_params", "share_flops"),
)


@csv.register
def _(result: View) -> str:
    """One line a group."""
    groups = result.to_dict()["groups"]
    for group in groups:
        group.update({f"share_{key}": value for key, value in group.pop("share").items()})
    return comma_separated(COLUMNS, ([group[key] for key in COLUMNS] for group in groups))


@markdown.register
def _(result: View) -> str:
    """A table, and the totals as its last line."""
    total = result.total
    lines = [
        f"| {result.by} | layers | params | MACs | of MACs | operations | of operations |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {' | '.join(_cells(result, group))} |" for group in result.groups]
    sums = ("", f"{total.params:,}", f"{total.macs:,}", "", f"{total.flops:,}", "")
    lines.append(f"| **total** | {' | '.join(f'**{cell}**' if cell else '' for cell in sums)} |")
    if result.unsupported:
        lines.append(f"\nNot counted: {', '.join(map(escaped, result.unsupported))}")
    return "\n".join(lines)


def _cells(view: View, group: Group) -> tuple[str, ...]:
    def counted(value: str) -> str:
        return "?" if group.unsupported == group.layers else value

    return (
        escaped(group.name),
        str(group.layers),
        wording.exact(group.params),
        counted(wording.exact(group.macs)),
        counted(f"{view.share(group):.1%}"),
        counted(wording.exact(group.flops)),
        counted(f"{view.share(group, 'flops'):.1%}"),
    )
