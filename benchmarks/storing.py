"""Stores a run for docs/benchmarks.md, which shows it with its machine and its command.

    store(Path("docs/benchmarks/rewrite.json"), "Rewriting", {
        "restorer": table(["MACs", "method", "PSNR"], [["50%", "convsmith", "29.77"]]),
    })

``convolution.py --json FILE`` writes the same schema, with whole results in it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from convsmith.parallel import cores_granted

__all__ = ["SCHEMA", "described", "store", "table"]

SCHEMA = "convsmith.benchmark/1"
PACKAGES = ("convsmith", "numpy", "torch", "onnxruntime", "openvino", "ncnn", "MNN")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, align: str = "", note: str = ""
) -> dict[str, Any]:
    """Returns one part of a run.

    Args:
        columns: What stands above.
        rows: Numbers or text, as they are to be shown.
        align: ``l`` or ``r`` for every column; the first is left, the others are right otherwise.
        note: What stands below.
    """
    made: dict[str, Any] = {
        "columns": list(columns),
        "align": align or "l" + "r" * (len(columns) - 1),
        "rows": [[str(cell) for cell in row] for row in rows],
    }
    return made | ({"note": note} if note else {})


def described(title: str) -> dict[str, Any]:
    """Returns what belongs to every run: the command, the machine and the versions."""
    return {
        "schema": SCHEMA,
        "title": title,
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {cores_granted()} granted",
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def store(path: Path, title: str, parts: Mapping[str, Any]) -> None:
    """Writes a run; one that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**described(title), "parts": dict(parts)}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")


def _processor() -> str:
    """The processor's name, as the system has it."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
