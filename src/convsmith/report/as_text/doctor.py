"""What ``doctor`` found, in a terminal and for a bug report."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from convsmith.diagnosis import Diagnosis
from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.columns import filled, printed
from convsmith.report.rendering import markdown, terminal_width, text

__all__: list[str] = []

_LEAST = 40
_NAMES = 13


@text.register
def _(result: Diagnosis, *, width: int | None = None, color: bool = False) -> str:
    """Renders problems first, then the facts."""
    width = max(width or terminal_width(), _LEAST)
    lines: list[Text] = []
    for problem in result.problems:
        said = f"problem: {wording.plain(problem.fact)}."
        lines += filled(said, width, style="bold red", hanging=2)
        lines += filled(f"remedy: {wording.plain(problem.remedy)}.", width, hanging=2)
    if result.healthy:
        lines.append(Text("no problems found", style="bold green"))
    for note in result.notes:
        lines += filled(f"note: {wording.plain(note)}.", width, style="yellow", hanging=2)
    lines.append(Text())
    for name, said in _facts(result):
        first, *rest = filled(wording.plain(said), width - _NAMES)
        lines.append(Text(name.ljust(_NAMES), style="dim").append(first.plain, style="default"))
        lines += [Text(" " * _NAMES + line.plain) for line in rest]
    return printed(lines, color=color)


@markdown.register
def _(result: Diagnosis) -> str:
    """Renders two lists, to paste into a report."""
    lines = [
        f"- **problem** {escaped(problem.fact)}; {escaped(problem.remedy)}"
        for problem in result.problems
    ]
    lines += [f"- note: {escaped(note)}" for note in result.notes]
    lines += [""] if lines else []
    lines += [f"- {name}: {escaped(said)}" for name, said in _facts(result)]
    return "\n".join(lines)


def _facts(result: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "convsmith", f"{result.version}, Python {result.python}"
    machine, pool = result.machine, result.pool
    if machine is not None:
        yield "processor", f"{machine.cpu}, {machine.system}"
        yield "vectors", f"{machine.lanes} lanes of float32, {machine.registers} registers"
        caches = ((1, machine.level1), (2, machine.level2), (3, machine.level3))
        yield "caches", ", ".join(f"L{n} {wording.binary(size)}" for n, size in caches if size)
        yield (
            "cores",
            f"{machine.granted} granted, {machine.affinity} allowed, {machine.online} in all",
        )
        yield "threads", f"{machine.threads} ({machine.why})"
    if pool is not None:
        count = machine.threads if machine else 1
        awake = f"{pool.alone:.1f} us on one thread, {pool.awake:.1f} us on {count} awake"
        yield "dispatch", f"{awake}, {pool.asleep:.0f} us from sleep"
        yield (
            "peak",
            f"{pool.peak_one:.0f} GFLOP/s on one thread, {pool.peak_all:.0f} on {count}, measured",
        )
    for store in result.stores:
        state = f"not used: {store.reason}" if store.reason else "trusted"
        entries = f"{store.entries:,} entr{'ies' if store.entries != 1 else 'y'}"
        size = f"{wording.binary(store.bytes)} of {wording.binary(store.limit)}"
        yield store.name, f"{entries}, {size}, {state}, in {store.folder}"
    needed = [p for p in result.packages if p.needed]
    extras = [p for p in result.packages if not p.needed]
    yield "packages", ", ".join(f"{p.name} {p.version or 'MISSING'}" for p in needed)
    there = [f"{p.name} {p.version}" for p in extras if p.version]
    absent = [p.name for p in extras if not p.version]
    yield "extras", ", ".join(there) or "none"
    if absent:
        yield "not there", ", ".join(absent)
    if result.libraries:
        yield "libraries", ", ".join(f"{e.name} {e.threads} threads" for e in result.libraries)
    if result.variables:
        yield "variables", ", ".join(f"{name}={value}" for name, value in result.variables)
