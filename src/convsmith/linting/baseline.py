"""Baselines: findings that are known, so that only new ones count.

A finding is known by its rule and its layer, not by its message: numbers in it may change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from convsmith.errors import UsageError
from convsmith.files import write_atomically
from convsmith.linting.findings import Entry, Finding
from convsmith.linting.suppressing import read_text

__all__ = ["SCHEMA", "apply_baseline", "entries", "read_baseline", "write_baseline"]

SCHEMA = "convsmith.lint-baseline/1"


def entries(findings: Iterable[Finding]) -> tuple[Entry, ...]:
    """Returns the findings as a baseline keeps them, in order."""
    count = Counter((finding.rule, finding.layer) for finding in findings)
    return tuple(sorted(Entry(rule, layer, number) for (rule, layer), number in count.items()))


def write_baseline(
    path: str | PathLike[str], findings: Iterable[Finding], *, overwrite: bool = False
) -> None:
    """Writes a baseline file.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
    """
    data = {
        "schema": SCHEMA,
        "findings": [
            {"rule": entry.rule, "layer": entry.layer, "count": entry.count}
            for entry in entries(findings)
        ],
    }
    write_atomically(Path(path), (json.dumps(data, indent=2) + "\n").encode(), overwrite=overwrite)


def read_baseline(path: str | PathLike[str]) -> tuple[Entry, ...]:
    """Reads a baseline file.

    Raises:
        UsageError: If it cannot be read or is no baseline.
    """
    file = Path(path)
    try:
        data: Any = json.loads(read_text(file))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise UsageError(
            f"it is no baseline of schema {SCHEMA}",
            place=str(file),
            remedy="make one with --write-baseline",
        )
    found = data.get("findings")
    if not isinstance(found, list) or not all(map(_is_entry, found)):
        raise UsageError("its findings must have a rule, a layer and a count", place=str(file))
    return tuple(Entry(item["rule"], item["layer"], item["count"]) for item in found)


def _is_entry(item: object) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("rule"), str)
        and isinstance(item.get("layer"), str)
        and type(item.get("count")) is int
        and item["count"] > 0
    )


def apply_baseline(
    findings: Iterable[Finding], known: Iterable[Entry]
) -> tuple[list[Finding], list[Finding], list[Entry]]:
    """Parts findings into new and known ones, and says which known ones are gone."""
    left: Counter[tuple[str, str]] = Counter()
    for entry in known:
        left[entry.rule, entry.layer] += entry.count
    new, old = [], []
    for finding in findings:
        key = (finding.rule, finding.layer)
        if left[key] > 0:
            left[key] -= 1
            old.append(finding)
        else:
            new.append(finding)
    gone = [Entry(rule, layer, count) for (rule, layer), count in left.items() if count > 0]
    return new, old, sorted(gone)
