"""How fast the convolutions are, beside every peer that is installed, in one run.

    python benchmarks/convolution.py                          everything (an hour)
    python benchmarks/convolution.py --only 3x3,5x5 --threads 1,4
    python benchmarks/convolution.py --only peak,scaling,start
    python benchmarks/convolution.py --only 31x31 --cold --json 31x31.json
    python benchmarks/convolution.py --only 3x3 --threads 1 --clock processor     a busy machine

The peers (extra ``bench``) are those of ``convsmith bench``: torch in both memory formats and with
prepared weights, ONNX Runtime, OpenVINO, ncnn and MNN, in float32, on as many threads as ours.
Everybody has weights prepared and the input in memory, in the layout that it asks for, before the
clock starts; bias and ReLU are included; outputs are held against float64 first. Turns go round, so
that a busy machine is as unfair to one as to the other.

A ratio is the median of the fastest peer over the median of ours: above 1, ours is faster. Per
group: the table by algorithm and peer (the choice is bold), the geometric mean, the worst, and
whether the target is met.

Besides the groups of layers: ``peak`` (share of the measured peak), ``scaling`` (1 to N threads),
``start`` (tuning ResNet-50 from nothing; the whole life of a process that runs its convolutions).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.convolution_groups import GROUPS, Group
from benchmarks.convolution_machine import scaling, share_of_peak, start

from convsmith.parallel import cores_granted
from convsmith.report import render
from convsmith.runtime.bench_results import Bench
from convsmith.runtime.benching import bench

PARTS = (*GROUPS, "peak", "scaling", "start")


def main() -> None:
    """Runs the parts that are asked for and prints them as they come."""
    options = _options()
    found: dict[str, Any] = {
        "schema": "convsmith.benchmark/1",
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {cores_granted()} granted",
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "parts": {},
    }
    for name in ("command", "machine", "python", "load"):
        print(f"{name:<8} {found[name]}")
    print(flush=True)
    parts: dict[str, Any] = found["parts"]
    for name in options.only:
        for threads in options.threads:
            began = time.perf_counter()
            title = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
            if name in GROUPS:
                made = _group(title, GROUPS[name], threads, options)
            elif name == "peak":
                made = _peak(title, threads, options.rounds)
            elif name == "start":
                made = _start(title, threads)
            elif threads == max(options.threads):
                title = f"scaling, 1 to {threads} threads"
                made = _scaling(title, threads, options.rounds)
            else:
                continue
            parts[title] = made
            print(f"({time.perf_counter() - began:.0f} s)\n", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=1))
    _summary(parts)


def _group(title: str, group: Group, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    specs = tuple(spec for spec in group.specs if spec.layout in options.layouts)
    result = bench(
        specs,
        threads=threads,
        rounds=options.rounds,
        cold=options.cold,
        peers=options.peers,
        clock=options.clock,
    )
    mean, worst = result.geometric_mean, result.worst
    print(f"## {title}: {group.what}\n")
    print(render(result, "markdown"))
    if mean is None or worst is None or worst.ratio is None:
        print("no peer took part: no ratio")
        return {"bench": result.to_dict()}
    met = mean >= group.mean and worst.ratio >= group.least
    fastest = result.fastest_geometric_mean or 0.0
    print(
        f"{title}: geometric mean {mean:.2f} (target {group.mean:g}; {fastest:.2f} of the fastest"
        f" turns), worst {worst.ratio:.2f} (target {group.least:g}): {'met' if met else 'NOT MET'}"
    )
    for line in _below(result, group):
        print(line)
    return {
        "mean": mean,
        "mean_of_fastest": fastest,
        "mean_target": group.mean,
        "worst": worst.ratio,
        "least_target": group.least,
        "met": met,
        "bench": result.to_dict(),
    }


def _below(result: Bench, group: Group) -> list[str]:
    """The layers under the target, worst first."""
    lines = []
    for layer in sorted(result.layers, key=lambda each: each.ratio or 0.0):
        best = layer.best_peer
        if best is None or layer.ratio is None or layer.ratio >= group.mean:
            continue
        ours = layer.chosen
        quiet = f"{layer.fastest_ratio or 0:.2f} of the fastest turns"
        lines.append(
            f"  {layer.ratio:.2f} ({quiet})  {layer.spec}: {ours.name} {ours.tiling}"
            f" {ours.milliseconds or 0:.3f} ms, {best.name} {best.milliseconds or 0:.3f} ms"
        )
    return lines


def _peak(title: str, threads: int, rounds: int) -> dict[str, Any]:
    made: dict[str, Any] = share_of_peak(threads, rounds)
    print(f"## {title}: measured peak {made['peak_gflops']:.0f} GFLOP/s\n")
    print("| what | GFLOP/s | share of peak | target |\n|:--|--:|--:|--:|")
    for row in made["rows"]:
        share = f"{100 * row['share']:.1f} % | {100 * row['target']:.0f} %"
        print(f"| {row['what']} | {row['gflops']:.0f} | {share} |")
    made["met"] = all(row["share"] >= row["target"] for row in made["rows"])
    return made


def _scaling(title: str, most: int, rounds: int) -> dict[str, Any]:
    specs = (*GROUPS["3x3"].specs[:9], *GROUPS["1x1"].specs[:1], *GROUPS["31x31"].specs[:1])
    rows = scaling(specs, most, rounds)
    counts = [str(count) for count in range(1, most + 1)]
    print(f"## {title}: times as fast as one thread\n")
    print(f"| convolution | ms on 1 | {' | '.join(counts)} |\n|:--|{'--:|' * (most + 1)}")
    for row in rows:
        faster = " | ".join(f"{row['speedup'][count]:.2f}" for count in counts)
        print(f"| {row['spec']} | {row['milliseconds']['1']:.3f} | {faster} |")
    return {"rows": rows}


def _start(title: str, threads: int) -> dict[str, Any]:
    made: dict[str, Any] = start(threads)
    print(f"## {title}: {made['convolutions']} distinct convolutions of {made['network']}\n")
    print(
        f"- tuning from an empty cache: {made['tuning_seconds']:.1f} s"
        f" (target {made['tuning_target']:g})\n"
        f"- a new process that runs each once, cache warm, import included:"
        f" {made['warm_start_seconds']:.2f} s (target {made['warm_start_target']:g}),"
        f" {made['warm_start_processor_seconds']:.2f} s of processor time\n"
        f"- the same with an empty cache, not tuned: {made['cold_start_seconds']:.2f} s"
    )
    made["met"] = (
        made["tuning_seconds"] <= made["tuning_target"]
        and made["warm_start_seconds"] <= made["warm_start_target"]
    )
    return made


def _summary(parts: dict[str, Any]) -> None:
    print("## Targets\n")
    for title, made in parts.items():
        if "met" not in made:
            continue
        ratio = ""
        if "mean" in made:
            ratio = f", geometric mean {made['mean']:.2f}, worst {made['worst']:.2f}"
        print(f"- {title}: {'met' if made['met'] else 'NOT MET'}{ratio}")


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _options() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return [word.strip() for word in text.split(",") if word.strip()]

    def parts(text: str) -> list[str]:
        for word in words(text):
            if word not in PARTS:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(PARTS)}")
        return words(text)

    def counts(text: str) -> list[int]:
        return [int(word) for word in words(text)]

    def layouts(text: str) -> list[str]:
        return [f"channels_{word.removeprefix('channels_')}" for word in words(text)]

    def peers(text: str) -> str | list[str]:
        return text if text in ("all", "none") else words(text)

    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--only", type=parts, default=list(PARTS), metavar="PARTS",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--threads", type=counts, default=[cores_granted()], metavar="N,...")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--layouts", type=layouts, default=["channels_first", "channels_last"],
                        metavar="first,last")  # fmt: skip
    parser.add_argument("--peers", type=peers, default="all", metavar="NAMES")
    parser.add_argument("--cold", action="store_true", help="evicted caches as well")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall",
                        help="processor: how long the process computes, for one thread on a busy"
                        " machine")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
