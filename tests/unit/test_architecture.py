"""Who may import whom, checked on the source of every file.

A *room* is a direct child of ``src/convsmith``: a folder or a file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "src" / "convsmith"

# The room on the left may import the rooms on the right, and itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "parallel": {"errors"},
    "results": {"errors"},
    "graph": {"errors", "parallel", "results"},
    "sources": {"errors", "files", "graph", "parallel"},
    "analysis": {"errors", "results", "graph"},
    "linting": {"errors", "files", "results", "graph", "analysis", "signal"},
    "signal": {"errors", "results", "graph"},
    "kernel": {"errors", "files", "parallel"},
    "conv": {"errors", "files", "parallel", "results", "graph", "kernel"},
    "acceleration": {"errors", "graph", "sources", "conv"},
    "runtime": {"errors", "parallel", "results", "graph", "sources", "kernel", "conv"},
    "rewrite": {
        *("errors", "files", "parallel", "results", "graph", "analysis"),
        "runtime",
        "conv",
    },
    "report": {
        *("errors", "files", "results", "graph"),
        *(
            "analysis",
            "linting",
            "signal",
            "conv",
            "runtime",
            "rewrite",
            "optimization",
            "diagnosis",
            "portrait",
        ),
    },
}
MAY_IMPORT["comparison"] = {"errors", "results", "graph", "sources", "analysis", "runtime"}
MAY_IMPORT["diagnosis"] = {"errors", "parallel", "results", "kernel", "conv"}
MAY_IMPORT["evidence"] = {"errors", "results", "graph", "sources", "rewrite"}
MAY_IMPORT["portrait"] = set(MAY_IMPORT) - {"report", "comparison", "linting"}
MAY_IMPORT["optimization"] = set(MAY_IMPORT) - {"report"}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "__init__"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"cli"}
MAY_IMPORT["testing"] = {"errors", "files", "results", "graph", "sources", "analysis"}

# Rooms whose imports of convsmith all wait until a name is used.
LAZY = {"__init__"}

# Only these rooms, or folders in one, load the package; naming its types for a type checker
# loads nothing.
FOREIGN: dict[str, set[str]] = {
    "torch": {"sources", "acceleration", "runtime", "rewrite/distilling"},
    "onnx": {"sources"},
    "onnxruntime": {"runtime", "conv"},
    "openvino": {"runtime", "conv"},
    "ncnn": {"runtime", "conv"},
    "MNN": {"runtime", "conv"},
    "llvmlite": {"kernel"},
}

NO_SUBJECT = {"utils", "util", "helpers", "helper", "common", "misc"}
LONGEST_FILE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """One file that may import one more room."""

    file: str
    room: str
    lazily: bool
    reason: str


LEAVES = (
    Leave(
        file="results.py",
        room="report",
        lazily=True,
        reason="a result renders itself: analysis.to_html(path)",
    ),
    Leave(
        file="rewrite/applying.py",
        room="sources",
        lazily=False,
        reason="writes a plan back into the torch module that the network came from",
    ),
    Leave(
        file="rewrite/distilling/networks.py",
        room="sources",
        lazily=False,
        reason="trains copies of torch modules without their hooks, as the reader of modules does",
    ),
    Leave(
        file="rewrite/merging/modules.py",
        room="sources",
        lazily=True,
        reason="reads the layers of a torch module, and merges them in a copy of it",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One module that a file imports, and when."""

    module: str
    line: int
    lazy: bool
    for_types: bool


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[Import]:
    """Yields every import in a syntax tree, of a file in the given package."""

    def visit(node: ast.AST, lazy: bool, for_types: bool) -> Iterator[Import]:
        for module in imported_modules(node, package):
            line = getattr(node, "lineno", 0)
            yield Import(module=module, line=line, lazy=lazy, for_types=for_types)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from visit(statement, lazy, True)
            for statement in node.orelse:
                yield from visit(statement, lazy, for_types)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or inside, for_types)

    return visit(tree, lazy=False, for_types=False)


def imported_modules(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    """Returns the absolute names that one statement or call imports."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            parts = [*package[: len(package) - level + 1]] if level else []
            parts += module.split(".") if module else []
            # `from convsmith import graph` imports the room, not the package around it.
            return (
                [".".join([*parts, alias.name]) for alias in names]
                if parts == ["convsmith"]
                else [".".join(parts)]
            )
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [module]
    return []


def room_of(module: str) -> str:
    """Returns the room that a module of convsmith stands in; a public name stands in __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "__init__"


def wrong_imports(file: str, source: str) -> list[str]:
    """Returns what a file, named from ``src/convsmith``, imports against the tables."""
    path = PurePosixPath(file)
    room = path.parts[0].removesuffix(".py")
    if room not in MAY_IMPORT:
        return [f"{file}: the room {room} has no row in MAY_IMPORT"]
    found = []
    for item in imports(ast.parse(source), ("convsmith", *path.parts[:-1])):
        top = item.module.split(".")[0]
        if top == "convsmith":
            target = room_of(item.module)
            allowed = target == room or target in MAY_IMPORT[room]
            if room in LAZY:
                allowed = allowed and (item.lazy or item.for_types)
            allowed = allowed or any(
                (leave.file, leave.room) == (file, target) and (item.lazy or not leave.lazily)
                for leave in LEAVES
            )
        else:
            rooms = {room, "/".join(path.parts[:2])}
            allowed = item.for_types or not rooms.isdisjoint(FOREIGN.get(top, {room}))
        if not allowed:
            found.append(f"{file}:{item.line}: {room} may not import {item.module} here")
    return found


def wrong_shape(file: str, source: str) -> list[str]:
    """Returns what is wrong with the name and the length of a file."""
    found = []
    if PurePosixPath(file).stem in NO_SUBJECT:
        found.append(f"{file}: name the file after its subject")
    lines = len(source.splitlines())
    if lines > LONGEST_FILE:
        found.append(f"{file}: {lines} lines; find its second subject")
    return found


def test_every_import_goes_in_an_allowed_direction() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert PACKAGE / "__init__.py" in files
    found = [
        message
        for file in files
        for message in wrong_imports(
            file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        )
    ]
    assert not found, "\n".join(found)


def test_every_file_has_one_subject() -> None:
    files = [
        file
        for folder in ("src", "tests", "benchmarks", "examples")
        for file in sorted((REPOSITORY / folder).rglob("*.py"))
    ]
    assert Path(__file__) in files
    found = [
        message
        for file in files
        for message in wrong_shape(
            file.relative_to(REPOSITORY).as_posix(), file.read_text(encoding="utf-8")
        )
    ]
    assert not found, "\n".join(found)


def test_the_table_has_no_cycle_and_names_only_rooms() -> None:
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert set(order) == set(MAY_IMPORT)
    assert order[0] == "errors"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("errors.py", "from convsmith.graph import Graph"),
        ("graph/shape.py", "import convsmith.analysis.cost"),
        ("graph/shape.py", "from convsmith import analysis"),
        ("graph/shape.py", "from convsmith import load"),
        ("graph/shape.py", "import convsmith as cs"),
        ("graph/shape.py", "from ..analysis import cost"),
        ("graph/shape.py", "from .. import analysis"),
        ("graph/shape.py", "def late():\n    from convsmith.analysis import cost"),
        ("graph/shape.py", "if TYPE_CHECKING:\n    from convsmith.analysis import Analysis"),
        ("graph/shape.py", "importlib.import_module('convsmith.analysis')"),
        ("sources/notation.py", "from convsmith.cli import main"),
        ("optimization.py", "from convsmith.report import html"),
        ("optimization.py", "from convsmith.cli import main"),
        ("results.py", "from convsmith.report import html"),
        ("results.py", "def late():\n    from convsmith.analysis import analyze"),
        ("rewrite/planning.py", "from convsmith.sources import save"),
        ("rewrite/applying.py", "import torch"),
        ("rewrite/applying.py", "def late():\n    import torch.nn"),
        ("rewrite/applying.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        ("analysis/cost.py", "from onnx import helper"),
        ("sources/onnx.py", "import onnxruntime"),
        ("__init__.py", "from convsmith.graph import Graph"),
        ("__init__.py", "def late():\n    from convsmith.cli import main"),
        ("attic/old.py", ""),
    ],
)
def test_a_wrong_import_is_reported(file: str, source: str) -> None:
    assert len(wrong_imports(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("graph/shape.py", "from convsmith.errors import ShapeError"),
        ("graph/shape.py", "from convsmith.graph.operators import Conv"),
        ("graph/shape.py", "from .operators import Conv"),
        ("graph/shape.py", "import numpy as np"),
        ("results.py", "def to_html(path):\n    from convsmith.report import html"),
        ("rewrite/applying.py", "from convsmith.sources import torch_modules"),
        ("rewrite/applying.py", "if TYPE_CHECKING:\n    from torch import nn"),
        ("rewrite/distilling/training.py", "import torch"),
        ("sources/onnx.py", "import onnx"),
        ("runtime/onnx.py", "import onnxruntime"),
        ("cli/analyze.py", "import convsmith as cs"),
        ("cli/analyze.py", "from convsmith.report import html"),
        ("__init__.py", "if TYPE_CHECKING:\n    from convsmith.graph import Graph"),
        ("__init__.py", "def __getattr__(name):\n    return import_module('convsmith.graph')"),
    ],
)
def test_a_right_import_is_not_reported(file: str, source: str) -> None:
    assert wrong_imports(file, source) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("src/convsmith/graph/utils.py", ""),
        ("src/convsmith/graph/shape.py", "x = 1\n" * (LONGEST_FILE + 1)),
    ],
)
def test_a_wrong_shape_is_reported(file: str, source: str) -> None:
    assert len(wrong_shape(file, source)) == 1
    assert wrong_shape("src/convsmith/graph/shape.py", "x = 1\n" * LONGEST_FILE) == []
