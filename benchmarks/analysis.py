"""How long an analysis takes, beside the tools that count, in one run.

    python benchmarks/analysis.py                            everything
    python benchmarks/analysis.py --networks resnet50 --runs 9
    python benchmarks/analysis.py --parts modules,files,growth

Needs the extras ``torch`` and ``bench``; a peer that is not installed, or does not accept a
network, is left out and named. Three parts:

``modules``: from a ``torch.nn.Module``, on the meta device and with real weights. Ours reads the
module, counts every operation and finds every receptive field; the peers count. ``forward`` is one
call of the module, for scale.

``files``: from an ONNX file, beside onnx-tool.

``growth``: time and memory per layer for plain chains of 100 to 10,000 layers.

The tools take turns, so that a busy machine is as unfair to one as to the other; medians of all
rounds but the first are compared. What one leaves behind is collected before the next one begins.
A ratio says how many times faster ours is: 1 is as fast. With ``--clock cpu`` the time of the
processor is taken instead, which a busy machine makes longer, but less so (with several threads
it is the sum over them).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.metadata
import io
import os
import platform
import statistics
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import convsmith as cs

sys.path.insert(0, str(Path(__file__).parents[1]))  # the networks are those of the tests

from tests.torch_zoo import build, input_shape

NETWORKS = ("resnet50", "inception_v3", "efficientnet_b0", "densenet121")
PEERS = ("torch", "torchinfo", "fvcore", "ultralytics-thop", "torchlens", "onnx-tool")
OURS, FORWARD, SLOW = "convsmith", "forward", "TorchLens"
LENGTHS = (100, 300, 1000, 3000, 10_000)

Tool = Callable[[torch.nn.Module, torch.Tensor], object]
Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Prints one table per part, and what it was measured on."""
    options = _options()
    warnings.simplefilter("ignore")
    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    print(f"command  {' '.join(['python', *sys.argv])}")
    print(f"machine  {_processor()}, {os.cpu_count()} CPUs; {options.threads} threads for torch")
    print(f"clock    {options.clock}")
    versions = ", ".join(f"{name} {_version(name)}" for name in PEERS)
    print(f"versions Python {platform.python_version()}, {versions}\n")
    if "modules" in options.parts:
        _modules(options.networks, options.runs, clock)
    if "files" in options.parts:
        _files(options.networks, options.runs, clock)
    if "growth" in options.parts:
        _growth(clock)


# The tools ----------------------------------------------------------------------------


def _convsmith(module: torch.nn.Module, example: torch.Tensor) -> object:
    return cs.analyze(cs.load(module, tuple(example.shape)))


def _forward(module: torch.nn.Module, example: torch.Tensor) -> object:
    with torch.no_grad():
        return module(example)


def _flop_counter(module: torch.nn.Module, example: torch.Tensor) -> object:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(example)
    return counter.get_total_flops()


def _torchinfo(module: torch.nn.Module, example: torch.Tensor) -> object:
    torchinfo = importlib.import_module("torchinfo")
    return torchinfo.summary(module, input_data=example, verbose=0, device=example.device)


def _fvcore(module: torch.nn.Module, example: torch.Tensor) -> object:
    counter = importlib.import_module("fvcore.nn").FlopCountAnalysis(module, example)
    counter.unsupported_ops_warnings(False)
    counter.uncalled_modules_warnings(False)
    counter.tracer_warnings("none")
    return counter.total()


def _thop(module: torch.nn.Module, example: torch.Tensor) -> object:
    return importlib.import_module("thop").profile(module, (example,), verbose=False)


def _torchlens(module: torch.nn.Module, example: torch.Tensor) -> object:
    torchlens = importlib.import_module("torchlens")
    trace = getattr(torchlens, "trace", None) or torchlens.log_forward_pass
    return trace(module, example)


TOOLS: Mapping[str, Tool] = {
    OURS: _convsmith,
    FORWARD: _forward,
    "FlopCounterMode": _flop_counter,
    "torchinfo": _torchinfo,
    "fvcore": _fvcore,
    "thop": _thop,
    SLOW: _torchlens,
}
COUNTERS = tuple(name for name in TOOLS if name not in (OURS, FORWARD, SLOW))


# The parts ----------------------------------------------------------------------------


def _modules(networks: Sequence[str], runs: int, clock: Clock) -> None:
    print("From a module, milliseconds (ours: costs and fields; the others: costs)\n")
    heads = (*TOOLS, "fastest counter / ours", f"{SLOW} / ours")
    print(f"| network | weights | {' | '.join(heads)} |")
    print(f"|:--|:--|{'--:|' * len(heads)}")
    for name in networks:
        for device in ("meta", "cpu"):
            with torch.device(device):
                module = build(name)
            example = torch.zeros(input_shape(name), device=device)
            calls = {tool: partial(run, module, example) for tool, run in TOOLS.items()}
            seconds = _in_turns(calls, runs, clock)
            ours = seconds[OURS]
            assert ours is not None
            fastest = min((s for t in COUNTERS if (s := seconds[t]) is not None), default=None)
            cells = [_cell(s, 1000) for s in seconds.values()]
            cells += [_cell(other and other / ours) for other in (fastest, seconds[SLOW])]
            print(f"| {name} | {device} | {' | '.join(cells)} |", flush=True)
    print()


def _files(networks: Sequence[str], runs: int, clock: Clock) -> None:
    print("From an ONNX file, milliseconds\n")
    print("| network | MB | convsmith | with weights | onnx-tool | onnx-tool / ours |")
    print("|:--|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in networks:
            path = Path(folder, f"{name}.onnx")
            cs.save(cs.load(build(name), input_shape(name)), path)
            seconds = _in_turns(
                {
                    "ours": partial(_read_and_analyze, path, weights=False),
                    "whole": partial(_read_and_analyze, path),
                    "peer": partial(_onnx_tool, path),
                },
                runs,
                clock,
            )
            ours, peer = seconds["ours"], seconds["peer"]
            assert ours is not None
            cells = [
                f"{path.stat().st_size / 1e6:.0f}",
                *(_cell(s, 1000) for s in seconds.values()),
            ]
            print(f"| {name} | {' | '.join(cells)} | {_cell(peer and peer / ours)} |", flush=True)
    print()


def _read_and_analyze(source: object, size: object = None, *, weights: bool = True) -> object:
    return cs.analyze(cs.load(source, size, weights=weights))


def _onnx_tool(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module("onnx_tool").model_profile(str(path))


def _growth(clock: Clock) -> None:
    print("A chain of layers: microseconds and bytes per layer\n")
    print("| layers | from a module | from notation | analysis alone | memory of the analysis |")
    print("|--:|--:|--:|--:|--:|")
    for length in LENGTHS:
        with torch.device("meta"):
            pairs = range(length // 2)
            layers = [(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU()) for _ in pairs]
            module = torch.nn.Sequential(*(layer for pair in layers for layer in pair))
        text = f"8@32 > ( conv 8 3 p1 > relu ) x{length // 2}"
        graph = cs.load(text)
        seconds = _in_turns(
            {
                "module": partial(_read_and_analyze, module, (1, 8, 32, 32)),
                "notation": partial(_read_and_analyze, text),
                "analysis": partial(cs.analyze, graph),
            },
            3,
            clock,
        )
        tracemalloc.start()
        analysis = cs.analyze(graph)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(analysis.rows) == length
        cells = [_cell(s, 1e6 / length) for s in seconds.values()]
        print(f"| {length} | {' | '.join(cells)} | {held / length:.0f} |", flush=True)
    print()


# Measuring ----------------------------------------------------------------------------


def _in_turns(
    calls: Mapping[str, Callable[[], object]], runs: int, clock: Clock
) -> dict[str, float | None]:
    """Median seconds of every call; ``None`` for what raises. The slowest get fewer turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    refused: dict[str, str] = {}
    for turn in range(runs + 1):
        for name, call in calls.items():
            if name in refused or (turn > 2 and seconds[name][-1] > 1):
                continue
            gc.collect()
            begin = clock()
            try:
                with _silence():
                    call()
            except Exception as error:  # noqa: BLE001 - whatever a peer raises, it is left out
                lines = str(error).splitlines() or [""]
                refused[name] = f"{type(error).__name__}: {lines[0][:90]}"
                continue
            seconds[name].append(clock() - begin)
    for name, reason in refused.items():
        print(f"{name} left out: {reason}", file=sys.stderr)
    return {
        name: None if name in refused else statistics.median(times[1:] or times)
        for name, times in seconds.items()
    }


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _cell(number: float | None, scale: float = 1) -> str:
    return "-" if number is None else f"{number * scale:.1f}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _options() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", type=words, default=list(NETWORKS))
    parser.add_argument("--parts", type=words, default=["modules", "files", "growth"])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    arguments: Any = parser.parse_args()
    assert isinstance(arguments, argparse.Namespace)
    return arguments


if __name__ == "__main__":
    main()
