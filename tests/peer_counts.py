"""What the counting tools themselves say about a torch module, one function a tool.

The tools are those of the ``bench`` extra; a test that asks one which is not installed skips.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

__all__ = ["COUNTERS", "onnx_tool_count", "peer_count"]


def _package(name: str) -> Any:
    """A tool; none of them is typed."""
    return importlib.import_module(name)


def _torchinfo(module: nn.Module, x: Tensor) -> tuple[int, int]:
    torchinfo = _package("torchinfo")

    found = torchinfo.summary(module, input_data=[x], verbose=0, device="cpu")
    return int(found.total_mult_adds), int(found.total_params)


def _fvcore(module: nn.Module, x: Tensor) -> tuple[int, None]:
    analysis = _package("fvcore.nn").FlopCountAnalysis(module, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total()), None


def _thop(module: nn.Module, x: Tensor) -> tuple[int, int]:
    thop = _package("thop")

    macs, params = thop.profile(module, inputs=(x,), verbose=False)
    return int(macs), int(params)


def _ptflops(module: nn.Module, x: Tensor, backend: str = "pytorch") -> tuple[int, int]:
    ptflops = _package("ptflops")

    macs, params = ptflops.get_model_complexity_info(
        module,
        tuple(x.shape[1:]),
        print_per_layer_stat=False,
        as_strings=False,
        backend=backend,
        input_constructor=lambda _: x,
    )
    return int(macs), int(params)


def _ptflops_aten(module: nn.Module, x: Tensor) -> tuple[int, int]:
    return _ptflops(module, x, "aten")


def _torchprofile(module: nn.Module, x: Tensor) -> tuple[int, None]:
    torchprofile = _package("torchprofile")

    return int(torchprofile.profile_macs(module, (x,))), None


def _torchscan(module: nn.Module, x: Tensor) -> tuple[int, None]:
    torchscan = _package("torchscan")

    found = torchscan.crawl_module(module, args=(x,))
    known = (layer["metrics"].get("macs", {}).get("known_value") for layer in found["layers"])
    return sum(int(value) for value in known if value), None


def _calflops(module: nn.Module, x: Tensor, *, macs: bool = False) -> tuple[int, int]:
    calflops = _package("calflops")

    with _functions_kept():
        found = calflops.calculate_flops(
            module, args=[x], print_results=False, output_as_string=False
        )
    return int(found[macs]), int(found[2])


@contextlib.contextmanager
def _functions_kept() -> Iterator[None]:
    """Puts torch's functions back: calflops leaves its own in their place when it fails."""
    places = (torch, torch.nn.functional, torch.Tensor)
    names = ("matmul", "addmm", "mul", "add", "einsum", "baddbmm", *vars(torch.nn.functional))
    before = [(place, n, vars(place)[n]) for place in places for n in names if n in vars(place)]
    inherited = [n for n in names if n not in vars(torch.Tensor) and hasattr(torch.Tensor, n)]
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)
        for name in inherited:
            if name in vars(torch.Tensor):
                delattr(torch.Tensor, name)


def _calflops_macs(module: nn.Module, x: Tensor) -> tuple[int, int]:
    return _calflops(module, x, macs=True)


def _flop_counter(module: nn.Module, x: Tensor) -> tuple[int, None]:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        module(x)
    return int(counter.get_total_flops()), None


COUNTERS: Mapping[str, Callable[[nn.Module, Tensor], tuple[int, int | None]]] = MappingProxyType(
    {
        "torchinfo": _torchinfo,
        "fvcore": _fvcore,
        "thop": _thop,
        "ptflops": _ptflops,
        "ptflops-aten": _ptflops_aten,
        "torchprofile": _torchprofile,
        "torchscan": _torchscan,
        "calflops": _calflops,
        "calflops-macs": _calflops_macs,
        "flopcounter": _flop_counter,
    }
)
PACKAGES = {
    "ptflops-aten": "ptflops",
    "calflops-macs": "calflops",
    "flopcounter": "torch",
    "onnx-tool": "onnx_tool",
}


def _needs(tool: str) -> None:
    package = PACKAGES.get(tool, tool)
    try:
        importlib.import_module(package)
    except ImportError as error:
        pytest.skip(f"{tool} cannot be asked: {error}; install convsmith[bench]")


def peer_count(tool: str, module: nn.Module, x: Tensor) -> tuple[int, int | None]:
    """What a tool counts, and its number of parameters (``None`` if it gives none)."""
    _needs(tool)
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        said, params = COUNTERS[tool](module, x)
    return said, params


def onnx_tool_count(file: Path) -> int:
    """What onnx-tool counts in an ONNX file."""
    _needs("onnx-tool")
    onnx_tool = _package("onnx_tool")

    with contextlib.redirect_stdout(io.StringIO()):
        graph = onnx_tool.loadmodel(str(file), {"verbose": False}).graph
        graph.graph_reorder_nodes()
        graph.shape_infer(None)
        graph.profile(exclude_ops=onnx_tool.NoMacsOps)
    return int(graph.macs[0])
