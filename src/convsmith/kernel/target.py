"""What this machine is: its vector width and its caches."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from convsmith.errors import UsageError

__all__ = ["WIDTHS", "Target", "host"]

WIDTHS = (16, 8, 4)
"""Lanes of float32 that kernels are written for: AVX-512; AVX2; NEON and SSE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What kernels are generated for.

    Attributes:
        cpu: LLVM's name of the processor.
        features: Its features in LLVM's notation, ``+avx2,-sse4a,...``.
        lanes: float32 elements of one vector.
        registers: Vector registers.
        level1: Bytes of the first-level data cache of one core.
        level2: Bytes of the second-level cache of one core.
        level3: Bytes of the last level, shared; 0 if there is none.
    """

    cpu: str
    features: str
    lanes: int
    registers: int
    level1: int
    level2: int
    level3: int

    def with_lanes(self, lanes: int) -> Target:
        """Returns the same machine used with another vector width.

        Any width runs on any machine: the compiler splits vectors that are too wide.

        Raises:
            UsageError: If kernels are not written for it.
        """
        if lanes not in WIDTHS:
            raise UsageError(
                f"there are no kernels of {lanes} lanes",
                remedy=f"choose one of {', '.join(map(str, WIDTHS))}",
            )
        return Target(
            cpu=self.cpu,
            features=self.features,
            lanes=lanes,
            registers=_registers(lanes, self.features),
            level1=self.level1,
            level2=self.level2,
            level3=self.level3,
        )


@cache
def host() -> Target:
    """Returns this machine, with the widest vectors that it has.

    The environment variable ``CONVSMITH_LANES`` (16, 8 or 4) chooses another width.

    Raises:
        UsageError: If the variable names no width.
    """
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    wide = features.get("avx512f") and features.get("avx512vl") and features.get("avx512dq")
    lanes = 16 if wide else 8 if features.get("avx2") and features.get("fma") else 4
    text = features.flatten()
    found = Target(
        cpu=llvm.get_host_cpu_name(),
        features=text,
        lanes=lanes,
        registers=_registers(lanes, text),
        level1=_cache_bytes(1) or 32 << 10,
        level2=_cache_bytes(2) or 512 << 10,
        level3=_cache_bytes(3) or 0,
    )
    wanted = os.environ.get("CONVSMITH_LANES")
    if not wanted:
        return found
    if not wanted.isdecimal():
        raise UsageError(
            f"CONVSMITH_LANES is {wanted!r}, not a number of lanes",
            remedy=f"choose one of {', '.join(map(str, WIDTHS))}",
        )
    return found.with_lanes(int(wanted))


def _registers(lanes: int, features: str) -> int:
    if "+avx512vl" in features or "+neon" in features:
        return 32
    return 32 if lanes == 16 else 16


def _cache_bytes(level: int) -> int | None:
    """Bytes of the data or unified cache of the first core, as Linux tells."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            found = int((folder / "level").read_text())
            size = re.fullmatch(r"(\d+)([KMG]?)", (folder / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if found == level and kind != "Instruction" and size:
            return int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    return None
