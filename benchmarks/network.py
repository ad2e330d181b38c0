"""How fast whole networks are, beside every other runtime that is installed, in one run.

    python benchmarks/network.py                                  ResNet-50, MobileNet-v2, VGG-16
    python benchmarks/network.py --networks resnet18,googlenet --threads 1,4 --batch 8
    python benchmarks/network.py --threads 1 --clock processor    a busy machine
    python benchmarks/network.py --json network.json

The networks have random weights: time does not depend on them. Everybody computes in float32, on
as many threads, and takes a NumPy array in channels_first (torch in channels_last has its input in
that layout already) and gives its output; the weights are prepared before. Outputs are held
against torch's first. Turns go round, so that a busy machine is as unfair to one as to the other.

A ratio is the median over the rounds of another runtime's time over ours: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from tests.torch_zoo import build, input_shape

import convsmith as cs
from convsmith.parallel import cores_granted, limited_threads
from convsmith.runtime.runtimes import RUNTIMES
from convsmith.runtime.timing import Timing, networks

NETWORKS = ("resnet50", "mobilenet_v2", "vgg16")
_MODULES = {
    "convsmith": "convsmith",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "torch channels_last": "torch",
}
_ALLOWED = 1e-3  # of the output's root mean square


def main() -> None:
    """Times the networks that are asked for and prints them as they come."""
    options = _options()
    found: dict[str, Any] = {
        "schema": "convsmith.benchmark/1",
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{os.cpu_count()} CPUs, {cores_granted()} granted",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "networks": [],
    }
    print("\n".join(f"{name:<8} {found[name]}" for name in ("command", "machine", "load")))
    runtimes = [name for name in RUNTIMES if find_spec(_MODULES[name]) is not None]
    if options.runtimes:
        runtimes = [name for name in runtimes if name in ("convsmith", *options.runtimes)]
    for name in options.networks:
        for threads in options.threads:
            row = _network(name, threads, runtimes, options)
            found["networks"].append(row)
            _print(row)
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    for threads in options.threads:
        ratios = [row["ratio"] for row in found["networks"] if row["threads"] == threads]
        mean = float(np.exp(np.mean(np.log(ratios))))
        print(f"{threads} threads: geometric mean over the best other runtime {mean:.2f}")


def _network(
    name: str, threads: int, runtimes: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    torch.manual_seed(0)
    module = build(name).eval()
    shape = (options.batch, *input_shape(name)[1:])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    net = cs.load(module, input=shape)
    inputs = {net.inputs[0].name: x}
    began = time.perf_counter()
    with limited_threads(threads):
        program = cs.compile(net, threads=threads)
    compiled = time.perf_counter() - began
    with torch.inference_mode():
        wanted = module(torch.from_numpy(x)).numpy()
    made = next(iter(program.run(inputs).values()))
    made, wanted = made.astype(np.float64), wanted.astype(np.float64)
    error = float(np.sqrt(np.mean((made - wanted) ** 2) / np.mean(wanted**2)))
    if not error < _ALLOWED:
        raise SystemExit(f"{name}: our output differs from torch's by {error:.1e}")
    timings = networks(
        {name: net}, inputs, runtimes=runtimes, modules={name: module}, threads=threads,
        seconds=options.seconds, clock=options.clock,
    )[name]  # fmt: skip
    ours = timings["convsmith"]
    others = {key: value for key, value in timings.items() if key != "convsmith"}
    best = min(others, key=lambda key: others[key].median, default=None)
    return {
        "network": name,
        "shape": list(shape),
        "threads": threads,
        "clock": options.clock,
        "layout": program.layout,
        "error": error,
        "compile_seconds": compiled,
        "milliseconds": {key: _rounded(value) for key, value in timings.items()},
        "fastest": {key: value.minimum for key, value in timings.items()},
        "ratios": {key: value.ratio(ours) for key, value in others.items()},
        "best": best,
        "ratio": 1.0 if best is None else others[best].ratio(ours),
    }


def _rounded(timing: Timing) -> float:
    return round(timing.median, 4)


def _print(row: dict[str, Any]) -> None:
    shape = "x".join(map(str, row["shape"]))
    print(
        f"\n{row['network']} {shape}, {row['threads']} threads, {row['clock']} clock; ours in"
        f" {row['layout']}, error {row['error']:.1e}, compiled in {row['compile_seconds']:.1f} s"
    )
    print(f"  {'runtime':<22}{'median ms':>10}{'fastest':>10}{'/ours':>8}")
    for name, milliseconds in row["milliseconds"].items():
        ratio = row["ratios"].get(name)
        shown = "" if ratio is None else f"{ratio:.2f}"
        print(f"  {name:<22}{milliseconds:>10.2f}{row['fastest'][name]:>10.2f}{shown:>8}")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def words(text: str) -> list[str]:
        return [word.strip() for word in text.split(",") if word.strip()]

    def numbers(text: str) -> list[int]:
        return [int(word) for word in words(text)]

    parser.add_argument("--networks", type=words, default=list(NETWORKS), help="of the zoo")
    parser.add_argument("--threads", type=numbers, default=[cores_granted()])
    parser.add_argument("--runtimes", type=words, default=[], help="all that are installed")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing, per network")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--json", type=Path, help="write the results to a file as they come")
    return parser.parse_args()


if __name__ == "__main__":
    main()
