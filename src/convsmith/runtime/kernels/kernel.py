"""What every kernel of this room is: something that writes itself, under a name that says all."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Protocol

from convsmith.kernel.emit import Code, Unit
from convsmith.kernel.machine import compiled
from convsmith.kernel.store import digest
from convsmith.kernel.target import Target, host

__all__ = ["GRAIN", "Kernel", "address"]

GRAIN: Final = 8192
"""Elements that are worth a thread's attention: about a microsecond."""


class Kernel(Protocol):
    """A frozen dataclass whose ``repr`` decides the code."""

    @property
    def items(self) -> int:
        """Independent pieces of work."""

    def write(self, code: Code, target: Target) -> None:
        """Writes the work of one item. The first argument is the output, the others inputs."""


@cache
def _sources() -> str:
    """The digest of every file that decides code here; the languages' own are counted elsewhere."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return digest(*(path.read_bytes() for path in files))


def address(kernel: Kernel) -> int:
    """Returns where the compiled kernel lies, compiling it where that is needed."""
    target = host()

    def write(unit: Unit) -> None:
        with unit.kernel("compute") as code:
            kernel.write(code, target)

    made = compiled(f"network {_sources()} {kernel!r} {target.lanes}", target, ("compute",), write)
    return made.address("compute")
