"""Turns LLVM assembly into functions that can be called, and remembers them.

:func:`compiled` is the one way in: it is given what decides the code (a name and parameters) and a
function that writes it; the code is written and compiled only when neither this process nor the
disk has it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from convsmith.errors import ConvsmithError
from convsmith.kernel.emit import Unit
from convsmith.kernel.store import code_store, digest
from convsmith.kernel.target import Target

__all__ = ["Compiled", "assembly", "compiled", "object_code", "sources_digest"]


class Compiled:
    """Machine code in memory: the addresses of its functions."""

    __slots__ = ("_addresses", "_tracker")

    def __init__(self, addresses: Mapping[str, int], tracker: object) -> None:
        self._addresses = dict(addresses)
        self._tracker = tracker  # the code lives as long as this

    def address(self, name: str) -> int:
        """Returns the address of a function."""
        return self._addresses[name]


_lock = threading.RLock()
_loaded: dict[str, Compiled] = {}
_libraries = itertools.count()


def compiled(
    key: str, target: Target, functions: tuple[str, ...], write: Callable[[Unit], None]
) -> Compiled:
    """Returns compiled code, from memory, from disk, or by writing and compiling it now.

    Args:
        key: What decides the code besides the sources and the target: a name and all parameters.
        target: The machine to compile for.
        functions: The names of the functions that ``write`` writes.
        write: Writes the functions into a unit.
    """
    name = digest(
        key, target.cpu, target.features, str(target.lanes), sources_digest(), _compiler()
    )
    with _lock:
        found = _loaded.get(name)
        if found is None:
            found = _loaded[name] = _obtain(name, target, functions, write)
        return found


def _obtain(
    name: str, target: Target, functions: tuple[str, ...], write: Callable[[Unit], None]
) -> Compiled:
    blob = code_store().read(name)
    if blob is not None:
        try:
            return _link(name, blob, functions)
        except RuntimeError:
            pass  # compiled by something that this process cannot link: make it again
    unit = Unit()
    write(unit)
    blob = object_code(unit.text(), target)
    made = _link(name, blob, functions)
    code_store().write(name, blob)
    return made


def _link(name: str, blob: bytes, functions: tuple[str, ...]) -> Compiled:
    builder = llvm.JITLibraryBuilder()
    builder.add_object_img(blob)
    builder.add_current_process()
    for function in functions:
        builder.export_symbol(function)
    tracker = builder.link(_linker(), f"{name}-{next(_libraries)}")  # a name is used once
    return Compiled({function: tracker[function] for function in functions}, tracker)


@cache
def _initialized() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@cache
def _linker() -> llvm.LLJIT:
    _initialized()
    return llvm.create_lljit_compiler(use_jit_link=False)


def _machine(target: Target) -> llvm.TargetMachine:
    _initialized()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )


def _optimized(text: str, target: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parses and optimizes; loops and vectors stay as they were written."""
    machine = _machine(target)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise ConvsmithError(
            f"generated code is not valid: {error}",
            remedy="this is a defect of convsmith; please report it with the layer's shape",
        ) from None
    # Level 2 moves loads of weights out of loops until registers spill: 1.3 times the time where a
    # sum has few channels, no gain elsewhere, and a third more to compile.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


def object_code(text: str, target: Target) -> bytes:
    """Compiles LLVM assembly to an object file, in memory."""
    module, machine = _optimized(text, target)
    return bytes(machine.emit_object(module))


def assembly(text: str, target: Target) -> str:
    """Returns the machine's assembly for LLVM assembly: to look at."""
    module, machine = _optimized(text, target)
    return str(machine.emit_assembly(module))


@cache
def _compiler() -> str:
    return f"llvmlite {llvmlite.__version__}, LLVM {llvm.llvm_version_info}"


@cache
def sources_digest() -> str:
    """Returns the digest of every file that can write code."""
    package = Path(__file__).parents[1]
    files = sorted([*(package / "kernel").rglob("*.py"), *(package / "conv").rglob("*.py")])
    return digest(*(path.read_bytes() for path in files))
