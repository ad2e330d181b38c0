"""How long a rewrite takes and how much memory, on a network as large as ResNet-50.

    python benchmarks/rewrite_speed.py                              every method that is there
    python benchmarks/rewrite_speed.py --methods convsmith,balf --threads 4 --json speed.json

The network has random weights and the images random pixels, so nothing is said about what was
lost: ``rewrite.py`` says that. Every method makes one network of 70 % of the multiply-accumulates,
in a process of its own: statistics, fit and choice, all on as many threads. convsmith works with
the strategy ``fast``. The others get the network as it is, once, without the variants that help
them to lose less; AIMET's greedy selection evaluates the tuning images for every candidate. Memory
is the largest resident set of the process, or of one that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))  # the networks are those of the tests

from benchmarks.rewriting.chains import Unreachable
from benchmarks.rewriting.measuring import as_graph, macs
from benchmarks.rewriting.methods import METHODS, Setting
from benchmarks.rewriting.tasks import large
from benchmarks.storing import store, table

from convsmith.parallel import cores_granted, limited_threads

COLUMNS = ("method", "MACs left", "seconds", "of them preparing", "GiB")


def main() -> None:
    """Prints a row per method."""
    options = _options()
    if options.one is not None:
        print(json.dumps(_alone(options)))
        return
    rows = []
    print("| " + " | ".join(COLUMNS) + " |\n|:--" + "|--:" * (len(COLUMNS) - 1) + "|")
    for key in options.methods:
        missing = METHODS[key].missing()
        if missing:
            print(f"left out: {METHODS[key].name}: {missing}", flush=True)
            continue
        row = _row(METHODS[key].name, _spawned(key, options))
        rows.append(row)
        print("| " + " | ".join(row) + " |", flush=True)
    if options.json is not None:
        title = "Rewriting a network as large as ResNet-50: seconds and memory"
        threads = f"{options.threads} thread" + "s" * (options.threads > 1)
        name = f"{options.images} images of 224 x 224, {threads}"
        store(options.json, title, {name: table(COLUMNS, rows)})


def _spawned(key: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one method says of itself, in a process of its own."""
    arguments = ["--one", key, "--images", str(options.images), "--macs", str(options.macs)]
    arguments += ["--threads", str(options.threads)]
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=options.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started in turn
            return {"seconds": time.perf_counter() - begin, "ended": False}
    if process.returncode:
        raise SystemExit(f"{key} failed with exit code {process.returncode}")
    said: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return said


def _row(name: str, said: dict[str, Any]) -> list[str]:
    if not said.get("ended", True):
        return [name, "", f"over {said['seconds']:.0f}, stopped", "", ""]
    left = "not reached" if said["share"] is None else f"{said['share']:.1%}"
    return [
        name, left, f"{said['seconds']:.0f}", f"{said['preparing']:.0f}", f"{said['gib']:.1f}",
    ]  # fmt: skip


def _alone(options: argparse.Namespace) -> dict[str, Any]:
    """Rewrites the network by one method."""
    torch.set_num_threads(options.threads)
    with limited_threads(options.threads), threadpool_limits(options.threads):
        task = large(options.images)
        original = as_graph(task.module, task)
        fit, tune = task.split(0)
        setting = Setting(
            task=task, fit=fit, tune=tune, threads=options.threads, strategy="fast", variants=False
        )
        begin = time.perf_counter()
        ready = METHODS[options.one].prepare(setting)
        preparing = time.perf_counter() - begin
        try:
            share = macs(ready.at(options.macs)) / macs(original)
        except Unreachable:
            share = None
        seconds = time.perf_counter() - begin
    most = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"share": share, "seconds": seconds, "preparing": preparing, "gib": most / 2**20}


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(METHODS)}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", type=_methods, default=tuple(METHODS), metavar="NAMES")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--macs", type=float, default=0.7, help="share that is left")
    parser.add_argument("--threads", type=int, default=cores_granted())
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one method")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the run there")
    parser.add_argument("--one", choices=tuple(METHODS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
