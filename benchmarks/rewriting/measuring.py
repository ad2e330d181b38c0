"""How every network is counted, scored and timed: as the ONNX file that would be shipped."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from benchmarks.rewriting.tasks import Images, Task, batches, score
from torch import nn

import convsmith as cs
from convsmith.graph import Graph
from convsmith.runtime import timing

__all__ = ["as_graph", "macs", "metric", "module_times", "time_shares"]

Array = npt.NDArray[Any]
_ORIGINAL = "the original"


def as_graph(module: nn.Module, task: Task) -> Graph:
    """A torch module as convsmith reads it, for the shape that networks are timed at."""
    return cs.load(module, task.timed)


def macs(net: Graph) -> int:
    """Exact multiply-accumulates of everything in the network."""
    return cs.analyze(net).total.macs


def _written(net: Graph, shape: Sequence[int], path: Path) -> Path:
    cs.save(net.with_inputs({net.inputs[0].name: tuple(shape)}), path, overwrite=True)
    return path


def metric(net: Graph, task: Task, images: Images, threads: int) -> float:
    """The task's metric, computed by ONNX Runtime from the written file."""
    sessions: dict[tuple[int, ...], onnxruntime.InferenceSession] = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    made, wanted = [], []
    with tempfile.TemporaryDirectory() as folder:
        for x, y in batches(images):
            if x.shape not in sessions:
                path = _written(net, x.shape, Path(folder, "net.onnx"))
                sessions[x.shape] = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            made.append(sessions[x.shape].run(None, {net.inputs[0].name: x})[0])
            wanted.append(y)
    return score(task.metric, task.border, made, wanted)


def time_shares(
    original: Graph, nets: Mapping[str, Graph], task: Task, seconds: float, threads: int
) -> dict[str, float]:
    """Time of each network over the original's in ONNX Runtime, all in turns."""
    return _in_turns(original, nets, task.timed, seconds, threads)


def module_times(
    original: nn.Module,
    modules: Mapping[str, nn.Module],
    shape: Sequence[int],
    seconds: float,
    threads: int,
) -> dict[str, float]:
    """The same for torch modules with one input of this shape."""
    nets = {key: cs.load(module, tuple(shape)) for key, module in modules.items()}
    return _in_turns(cs.load(original, tuple(shape)), nets, tuple(shape), seconds, threads)


def _in_turns(
    original: Graph,
    nets: Mapping[str, Graph],
    shape: tuple[int, ...],
    seconds: float,
    threads: int,
) -> dict[str, float]:
    name = original.inputs[0].name
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = {_ORIGINAL: _written(original, shape, Path(folder, "original.onnx"))}
        for index, (key, net) in enumerate(nets.items()):
            files[key] = _written(net, shape, Path(folder, f"{index}.onnx"))
        times = timing.compare(
            files, {name: x}, repeats=2000, threads=threads, seconds=seconds * len(files)
        )
    return {key: times[key].ratio(times[_ORIGINAL]) for key in nets}
