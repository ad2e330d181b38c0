"""What convsmith finds on this machine, and what is wrong with it: the facts behind ``doctor``."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_info

from convsmith.conv.choice import choice_store
from convsmith.errors import UsageError
from convsmith.kernel.emit import Unit
from convsmith.kernel.machine import compiled
from convsmith.kernel.peak import peak_gflops
from convsmith.kernel.store import Store, code_store
from convsmith.kernel.target import Target, host
from convsmith.kernel.threads import Program, run
from convsmith.parallel import cores_granted, threads
from convsmith.results import Result

__all__ = [
    "Diagnosis",
    "Library",
    "Machine",
    "Package",
    "Pool",
    "Problem",
    "StoreState",
    "clear",
    "diagnose",
]

_CORE: Final = ("jinja2", "llvmlite", "numpy", "onnx", "pillow", "rich", "safetensors", "scipy",
                "threadpoolctl", "typer")  # fmt: skip
_EXTRAS: Final = ("torch", "onnxruntime", "openvino", "ncnn", "MNN", "ray", "optuna")
_VARIABLES: Final = ("CONVSMITH_CACHE", "CONVSMITH_LANES", "CONVSMITH_THREADS", "OMP_NUM_THREADS",
                     "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY",
                     "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PROC_BIND")  # fmt: skip
_FULL: Final = 0.9
_SCALES: Final = 0.6  # of the threads' count: less, and others use the cores
_SLOW_WAKE: Final = 1000.0  # microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that costs speed or correctness, and what to do about it."""

    fact: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What convsmith sees of the machine.

    Attributes:
        cpu: LLVM's name of the processor.
        system: Operating system and architecture.
        lanes: float32 elements of a vector that kernels use.
        registers: Vector registers.
        level1: Bytes of the first-level data cache of a core.
        level2: Bytes of the second-level cache of a core.
        level3: Bytes of the last level, shared; 0: none was found.
        online: Cores of the machine.
        affinity: Cores that this process may run on.
        granted: The same, within the quota of its group.
        threads: How many convsmith uses.
        why: Where that number comes from.
    """

    cpu: str
    system: str
    lanes: int
    registers: int
    level1: int
    level2: int
    level3: int
    online: int
    affinity: int
    granted: int
    threads: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A dependency; ``version`` is ``None`` if it is not installed."""

    name: str
    version: str | None
    needed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library with threads of its own that is loaded in this process."""

    name: str
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """One store on disk.

    Attributes:
        name: ``code`` or ``choices``.
        folder: Where.
        entries: How many.
        bytes: Their size.
        limit: The size from which on the oldest go.
        trusted: Whether it is used.
        reason: Why not.
    """

    name: str
    folder: str
    entries: int
    bytes: int
    limit: int
    trusted: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What threads cost, in microseconds; the medians of many.

    Attributes:
        alone: A program on the calling thread.
        awake: One on all threads, right after another.
        asleep: One on all threads that sleep.
        peak_one: GFLOP/s that one thread reaches.
        peak_all: GFLOP/s that all threads reach.
    """

    alone: float
    awake: float
    asleep: float
    peak_one: float
    peak_all: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Result):
    """What was found, problems first.

    Attributes:
        version: Of convsmith.
        python: Of Python, and where it is.
        problems: What to do something about.
        notes: What is worth knowing, and fine.
        machine: Processor, caches, cores.
        pool: Costs and peak, measured; ``None`` if the kernels do not run here.
        packages: Dependencies and extras.
        libraries: Loaded libraries with threads of their own.
        stores: Compiled code and measured choices.
        variables: Environment variables that matter and are set.
    """

    version: str
    python: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    machine: Machine | None
    pool: Pool | None
    packages: tuple[Package, ...]
    libraries: tuple[Library, ...]
    stores: tuple[StoreState, ...]
    variables: tuple[tuple[str, str], ...]

    @property
    def healthy(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON-ready data."""
        return {
            "schema": "convsmith.doctor/1",
            "version": self.version,
            "python": self.python,
            "healthy": self.healthy,
            "problems": [_data(problem) for problem in self.problems],
            "notes": list(self.notes),
            "machine": None if self.machine is None else _data(self.machine),
            "pool": None if self.pool is None else _data(self.pool),
            "packages": [_data(package) for package in self.packages],
            "libraries": [_data(library) for library in self.libraries],
            "stores": [_data(store) for store in self.stores],
            "variables": dict(self.variables),
        }


def _data(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def diagnose() -> Diagnosis:
    """Looks at the machine, the packages, the stores, and measures threads and peak.

    Takes a second or two. Nothing is changed, but that a missing cache folder is made.

    >>> diagnose().to_dict()["schema"]
    'convsmith.doctor/1'
    """
    problems: list[Problem] = []
    notes: list[str] = []
    stores = tuple(_store(name, store) for name, store in _stores())
    machine = pool = None
    try:
        target = host()
    except UsageError as error:
        problems.append(Problem(fact=error.fact, remedy=error.remedy))
    else:
        machine = _machine(target)
        pool = _pool(machine.threads)
    packages = tuple(_package(name, needed=True) for name in _CORE) + tuple(
        _package(name, needed=False) for name in _EXTRAS
    )
    libraries = tuple(
        Library(
            name=f"{found.get('internal_api', 'unknown')} ({Path(found['filepath']).name})",
            threads=int(found["num_threads"]),
        )
        for found in threadpool_info()
    )
    for check in (
        _store_problems(stores),
        _package_problems(packages),
        _thread_problems(machine, libraries) if machine else (),
    ):
        problems += check
    if machine and pool:
        notes += [*_pool_notes(machine, pool), *_notes(machine, stores)]
    return Diagnosis(
        version=_version("convsmith") or "unknown",
        python=f"{platform.python_version()} ({sys.executable})",
        problems=tuple(problems),
        notes=tuple(notes),
        machine=machine,
        pool=pool,
        packages=packages,
        libraries=libraries,
        stores=stores,
        variables=tuple((n, os.environ[n]) for n in _VARIABLES if n in os.environ),
    )


def clear() -> dict[str, int]:
    """Removes compiled code and measured choices from disk, nothing else.

    Returns:
        How many entries of each store are gone.
    """
    return {name: store.clear() for name, store in _stores()}


def _stores() -> tuple[tuple[str, Store], ...]:
    return ("code", code_store()), ("choices", choice_store())


# The facts ----------------------------------------------------------------------------


def _machine(target: Target) -> Machine:
    online = os.cpu_count() or 1
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        affinity = online
    granted = cores_granted()
    used = threads()
    wanted = os.environ.get("CONVSMITH_THREADS", "")
    if wanted.isascii() and wanted.isdigit() and int(wanted) == used:
        why = "CONVSMITH_THREADS"
    elif used != granted:
        why = "set_threads"
    elif granted < affinity:
        why = "the quota of its control group"
    else:
        why = "the cores that it may run on" if affinity < online else "all cores"
    return Machine(
        cpu=target.cpu,
        system=f"{platform.system()} {platform.machine()}",
        lanes=target.lanes,
        registers=target.registers,
        level1=target.level1,
        level2=target.level2,
        level3=target.level3,
        online=online,
        affinity=affinity,
        granted=granted,
        threads=used,
        why=why,
    )


def _pool(members: int) -> Pool:
    def write(unit: Unit) -> None:
        with unit.kernel("nothing"):
            pass

    code = compiled("doctor nothing", host(), ("nothing",), write)
    arguments = np.zeros(1, np.int64)
    program = Program([(code.address("nothing"), arguments.ctypes.data, members)])

    def once(count: int) -> float:
        began = time.perf_counter()
        run(program, count)
        return 1e6 * (time.perf_counter() - began)

    def rested() -> float:
        time.sleep(0.002)
        return once(members)

    once(members)
    return Pool(
        alone=_median(lambda: once(1), 500),
        awake=_median(lambda: once(members), 500),
        asleep=_median(rested, 50),
        peak_one=peak_gflops(1),
        peak_all=peak_gflops(members),
    )


def _median(measure: Callable[[], float], times: int) -> float:
    return float(np.median([measure() for _ in range(times)]))


def _package(name: str, *, needed: bool) -> Package:
    return Package(name=name, version=_version(name), needed=needed)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _store(name: str, store: Store) -> StoreState:
    reason = _why_not(store.folder)
    return StoreState(
        name=name,
        folder=str(store.folder),
        entries=store.count(),
        bytes=store.bytes_used(),
        limit=store.limit,
        trusted=not reason,
        reason=reason,
    )


def _why_not(folder: Path) -> str:
    """Returns why a store's folder is not used, or nothing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"it cannot be made: {error.strerror or error}"
    if not Store(folder=folder, suffix="").trusted():
        owner = folder.stat().st_uid
        if hasattr(os, "getuid") and owner != os.getuid():
            return f"it belongs to user {owner}, and loading code from it would run theirs"
        return "others may write to it, and loading code from it would run theirs"
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"")
    except OSError as error:
        return f"it cannot be written: {error.strerror or error}"
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""


# The problems -------------------------------------------------------------------------


def _store_problems(stores: tuple[StoreState, ...]) -> Iterator[Problem]:
    for store in stores:
        if store.reason:
            remedy = "make it yours and writable, or set CONVSMITH_CACHE to a folder that is"
            if store.reason.startswith("others"):
                remedy = f"chmod go-w {store.folder}"
            yield Problem(
                fact=f"the store of {store.name} in {store.folder} is not used: {store.reason};"
                " every process compiles and chooses anew",
                remedy=remedy,
            )


def _package_problems(packages: tuple[Package, ...]) -> Iterator[Problem]:
    for package in packages:
        if package.needed and package.version is None:
            yield Problem(fact=f"{package.name} is missing", remedy=f"pip install {package.name}")
    if any(package.name == "onnx" and package.version for package in packages):
        # Some peers pull protobuf down, and then onnx is there but cannot be imported.
        ran = subprocess.run(
            [sys.executable, "-c", "import onnx"],
            capture_output=True, text=True, errors="replace", timeout=60, check=False,
        )  # fmt: skip
        if ran.returncode:
            said = (ran.stderr.strip().splitlines() or ["it says nothing"])[-1]
            yield Problem(
                fact=f"onnx is installed but cannot be imported ({said[:200]})",
                remedy="pip install -U onnx protobuf, after everything else",
            )


def _thread_problems(machine: Machine, libraries: tuple[Library, ...]) -> Iterator[Problem]:
    wanted = os.environ.get("CONVSMITH_THREADS")
    if wanted is not None and not (wanted.isascii() and wanted.isdigit() and int(wanted) > 0):
        yield Problem(
            fact=f"CONVSMITH_THREADS is {wanted!r}, no number of threads, and is not used",
            remedy="set it to 1 or more, or unset it",
        )
    if machine.threads > machine.granted:
        yield Problem(
            fact=f"{machine.threads} threads share {machine.granted} cores ({machine.why})",
            remedy=f"use {machine.granted} or fewer",
        )
    for library in libraries:
        if library.threads > machine.granted:
            yield Problem(
                fact=f"{library.name} would use {library.threads} threads on"
                f" {machine.granted} granted cores",
                remedy=f"set OMP_NUM_THREADS={machine.granted} before Python starts",
            )
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        yield Problem(
            fact="OMP_WAIT_POLICY is active: threads of other libraries never sleep and take the"
            " cores from ours",
            remedy="unset it, or set it to passive",
        )
    if machine.affinity == 1 and machine.online > 1:
        yield Problem(
            fact=f"this process may run on one core of {machine.online}",
            remedy="check taskset, and whether a library (OMP_PROC_BIND, GOMP_CPU_AFFINITY) has"
            " bound the process",
        )


def _pool_notes(machine: Machine, pool: Pool) -> Iterator[str]:
    if machine.threads <= 1:
        return
    scales = pool.peak_all / max(pool.peak_one, 1e-9)
    if scales < _SCALES * min(machine.threads, machine.granted):
        yield (
            f"{machine.threads} threads reach {scales:.1f} times the peak of one: something else"
            " uses the cores, and what is measured meanwhile is noisy"
        )
    if pool.asleep > _SLOW_WAKE:
        yield (
            f"waking the threads takes {pool.asleep:,.0f} us: the machine is busy or saves power,"
            " and fewer threads are faster for small networks"
        )


def _notes(machine: Machine, stores: tuple[StoreState, ...]) -> Iterator[str]:
    if machine.granted < machine.online:
        yield f"{machine.granted} of {machine.online} cores are granted ({machine.why})"
    for store in stores:
        if store.bytes > _FULL * store.limit:
            yield f"the store of {store.name} is full: what was unused for longest goes"
    if not machine.level3:
        yield "no third-level cache was found: tilings assume that there is none"
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return
    if load > 1.5 * machine.online:
        yield f"the machine is busy: load {load:.1f} on {machine.online} cores"
