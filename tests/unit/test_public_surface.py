"""The names that convsmith exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import convsmith

PUBLIC = [
    "ConvsmithError",
    "Graph",
    "__version__",
    "accelerate",
    "analyze",
    "apply",
    "bench",
    "calibrate",
    "compare",
    "compile",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "diff",
    "explain",
    "lint",
    "load",
    "merge",
    "optimize",
    "rewrite",
    "save",
    "set_threads",
    "spectrum",
    "verify",
]


def python(code: str) -> str:
    """Runs code in an interpreter that has imported nothing yet, and returns what it prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_all_is_the_published_list() -> None:
    assert sorted(convsmith.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(convsmith, name) is not None
    assert name in dir(convsmith)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'convsmith' has no attribute 'optimise'"):
        getattr(convsmith, "optimise")  # noqa: B009 - type checkers know that it does not exist


def test_the_version_is_that_of_the_installed_package() -> None:
    assert convsmith.__version__ == version("convsmith")


@pytest.mark.parametrize("before", ["", "import convsmith.rewrite.statistics", "cs.apply"])
def test_rewrite_can_be_called_whatever_was_imported_before(before: str) -> None:
    assert python(f"import convsmith as cs\n{before}\nprint(callable(cs.rewrite))") == "True"


def test_importing_convsmith_loads_no_heavy_package() -> None:
    heavy = {"numba", "numpy", "onnx", "onnxruntime", "scipy", "torch"}
    loaded = set(python("import sys, convsmith\nprint(*sys.modules)").split())
    assert "convsmith" in loaded
    assert not heavy & loaded


def test_importing_convsmith_costs_less_than_a_tenth_of_a_second_more_than_numpy() -> None:
    # Part of the contract, so it is the one test that looks at a clock; the best of several runs
    # is what the import costs, and all the rest is what else the machine was doing.
    code = (
        "import time, numpy\n"
        "start = time.perf_counter()\n"
        "import convsmith\n"
        "print(time.perf_counter() - start)"
    )
    assert min(float(python(code)) for _ in range(5)) < 0.1
