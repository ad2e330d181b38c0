"""How near the kernels come to the machine's peak, how they scale, how a process starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

import convsmith as cs
from convsmith.conv.choice import plan
from convsmith.conv.layers import convolutions
from convsmith.conv.plan import Prepared
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.emit import Unit
from convsmith.kernel.machine import compiled
from convsmith.kernel.peak import peak_gflops
from convsmith.kernel.target import host
from convsmith.kernel.threads import Program, run
from convsmith.kernel.tile import Tile, tile_shapes
from convsmith.parallel import limited_threads
from convsmith.runtime.interleaving import in_turns

__all__ = ["scaling", "share_of_peak", "start"]

_DEPTH = 256  # terms: both operands of a register tile stay in the first-level cache
_REPEATS = 400
_DIRECT = ConvSpec(
    size=(56, 56), channels=256, filters=256, kernel=(3, 3), padding=((1, 1), (1, 1)),
    activation="relu",
)  # fmt: skip
_NETWORK = "zoo:resnet50"


def share_of_peak(threads: int, rounds: int) -> dict[str, Any]:
    """Times the matrix product's register tile and direct 3x3 at 256@56 beside the peak.

    The peak is measured again before and after, and the larger one counts.
    """
    target = host()
    rows, vectors = tile_shapes(target)[0]
    lanes = target.lanes

    def write(unit: Unit) -> None:
        with unit.kernel("tiles") as code:
            left, right, out = code.pointer(0), code.pointer(1), code.pointer(2)
            tile = Tile(code, rows, vectors, lanes)
            for _ in code.range(_REPEATS):
                tile.accumulate(left, range(rows), right, _DEPTH, left_step=rows)
            size = rows * vectors * lanes
            tile.finish(
                lambda r, v, value: out.store(value, code.item * size + (r * vectors + v) * lanes)
            )

    code = compiled(f"bench tiles {rows} {vectors} {lanes}", target, ("tiles",), write)
    operands = (
        np.full(rows * _DEPTH, 1e-3, np.float32),
        np.full(vectors * lanes * _DEPTH, 1e-3, np.float32),
        np.zeros(threads * rows * vectors * lanes, np.float32),
    )
    arguments = np.array([array.ctypes.data for array in operands], np.int64)
    program = Program([(code.address("tiles"), arguments.ctypes.data, threads)])
    flops = 2.0 * rows * vectors * lanes * _DEPTH * _REPEATS * threads
    with limited_threads(threads):
        x, w, b = _operands(_DIRECT)
        direct = plan(_DIRECT, algorithm="direct", tune=True).prepare(w, b)
        out = np.empty(_DIRECT.output_shape, np.float32)
        before = peak_gflops(threads)
        taken = in_turns(
            {
                "tile": lambda: run(program, threads),
                "direct": lambda: _void(direct(x, out, members=threads)),
            },
            rounds,
        )
        peak = max(before, peak_gflops(threads))
    # The fastest turn: the peak is the fastest of many, too.
    tile = flops / (1e6 * min(taken["tile"].milliseconds))
    convolved = 2e-6 * _DIRECT.macs / min(taken["direct"].milliseconds)
    return {
        "threads": threads,
        "peak_gflops": peak,
        "rows": [
            {"what": f"register tile {rows}x{vectors}", "gflops": tile, "share": tile / peak,
             "target": 0.95},
            {"what": f"direct, {_DIRECT}", "gflops": convolved, "share": convolved / peak,
             "target": 0.85},
        ],
    }  # fmt: skip


def scaling(specs: tuple[ConvSpec, ...], most: int, rounds: int) -> list[dict[str, Any]]:
    """Times the choice for each layer on 1 to ``most`` threads, in turns."""
    rows = []
    for spec in specs:
        x, w, b = _operands(spec)
        calls = {}
        for count in range(1, most + 1):
            with limited_threads(count):
                prepared = plan(spec, tune=True).prepare(w, b)
            out = np.empty(spec.output_shape, np.float32)

            def call(
                prepared: Prepared = prepared, out: Any = out, x: Any = x, count: int = count
            ) -> None:
                prepared(x, out, members=count)

            calls[str(count)] = call
        taken = in_turns(calls, rounds)
        alone = taken["1"].median
        rows.append(
            {
                "spec": str(spec),
                "milliseconds": {name: samples.median for name, samples in taken.items()},
                "speedup": {name: alone / samples.median for name, samples in taken.items()},
            }
        )
    return rows


def start(threads: int) -> dict[str, Any]:
    """Tunes ResNet-50's distinct convolutions from nothing, then runs them in new processes.

    Seconds: of tuning, compiling included, in a process with an empty cache; of the whole life of
    a process, its start and imports included, that runs each of them once, with a warm cache; and
    with an empty one, where the prediction chooses and everything is compiled.
    """
    with tempfile.TemporaryDirectory(prefix="convsmith-") as folder:
        tuned = _child("tune", folder, threads)
        warm = [_child("run", folder, threads) for _ in range(3)]
    with tempfile.TemporaryDirectory(prefix="convsmith-") as folder:
        cold = _child("run", folder, threads)["life"]
    return {
        "network": _NETWORK,
        "threads": threads,
        "convolutions": int(tuned["count"]),
        "tuning_seconds": tuned["work"],
        "tuning_target": 60.0,
        "warm_start_seconds": min(child["life"] for child in warm),
        "warm_start_processor_seconds": min(child["processor"] for child in warm),
        "warm_start_target": 2.0,
        "cold_start_seconds": cold,
    }


def _child(job: str, folder: str, threads: int) -> dict[str, float]:
    settings = {"CONVSMITH_CACHE": folder, "CONVSMITH_THREADS": str(threads)}
    began, used = time.perf_counter(), os.times()
    ran = subprocess.run(
        [sys.executable, __file__, job],
        env={**os.environ, **settings}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    life, now = time.perf_counter() - began, os.times()
    processor = now.children_user + now.children_system
    processor -= used.children_user + used.children_system
    count, work = ran.stdout.split()
    return {"life": life, "processor": processor, "count": float(count), "work": float(work)}


def _work(job: str) -> None:
    """What the new process does: tunes or runs every distinct convolution once."""
    began = time.perf_counter()
    specs = list(dict.fromkeys(layer.spec for layer in convolutions(cs.load(_NETWORK))))
    for spec in specs:
        if job == "tune":
            plan(spec, tune=True)
        else:
            x, w, b = _zeros(spec)
            plan(spec).prepare(w, b)(x)
    print(len(specs), time.perf_counter() - began)


def _operands(spec: ConvSpec) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(0)
    return (
        random.standard_normal(spec.input_shape, np.float32),
        random.standard_normal(spec.weight_shape, np.float32),
        random.standard_normal(spec.filters, np.float32) if spec.bias else None,
    )


def _zeros(spec: ConvSpec) -> tuple[Any, Any, Any]:
    bias = np.zeros(spec.filters, np.float32) if spec.bias else None
    return np.zeros(spec.input_shape, np.float32), np.zeros(spec.weight_shape, np.float32), bias


def _void(value: object) -> None:
    """Takes what a call returns."""


if __name__ == "__main__":
    _work(sys.argv[1])
