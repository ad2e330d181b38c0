"""Your own network at several budgets, beside plain weight approximation.

Every row is measured in this run: the task metric on the test images, and the time of the
written file against the original's in ONNX Runtime, in turns, as a ratio. ``weights only`` is
the same form and solver with the calibration left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import convsmith as cs
from convsmith.optimization import Optimization
from convsmith.rewrite import Verification
from convsmith.runtime import timing
from convsmith.sources.data import read_data

__all__ = ["compare"]


def compare(options: argparse.Namespace) -> None:
    """Prints two rows per budget."""
    print("| MACs | method       | before | after | change | times faster | seconds |")
    print("|-----:|--------------|-------:|------:|-------:|-------------:|--------:|")
    with tempfile.TemporaryDirectory() as folder:
        for budget in options.macs:
            begin = time.perf_counter()
            result = cs.optimize(
                options.model,
                data=options.data,
                test=options.test,
                macs=budget,
                mean=options.mean,
                std=options.std,
                out=Path(folder, f"ours-{budget}.onnx"),
            )
            seconds = time.perf_counter() - begin
            _row(budget, "convsmith", result.verification, result.speedup, seconds)
            begin = time.perf_counter()
            verification, speedup = _weights_only(options, budget, result, Path(folder))
            seconds = time.perf_counter() - begin
            _row(budget, "weights only", verification, speedup, seconds)


def _weights_only(
    options: argparse.Namespace, budget: float, ours: Optimization, folder: Path
) -> tuple[Verification, float]:
    net = cs.load(options.model, dict(ours.before.inputs))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no calibration data")
        rewritten = cs.rewrite(net, macs=budget).net
    (shape,) = ours.before.inputs.values()
    spatial = (None,) * (len(shape) - 2)
    tests = read_data(options.test, shape=(shape[1], *spatial), mean=options.mean, std=options.std)
    metric = ours.verification.metric
    verification = cs.verify(
        net,
        rewritten,
        (
            ({net.inputs[0].name: b.images}, b.targets if b.labels is None else b.labels)
            for b in tests
        ),
        metric=None if metric is None else "psnr" if metric.name == "psnr" else "accuracy",
    )
    original, written = folder / "original.onnx", folder / f"weights-{budget}.onnx"
    cs.save(net, original, overwrite=True)
    cs.save(rewritten, written)
    image = next(iter(tests)).images[:1]
    times = timing.compare({"before": original, "after": written}, {net.inputs[0].name: image})
    return verification, times["before"].ratio(times["after"])


def _row(
    budget: float,
    method: str,
    verification: Verification,
    speedup: float | None,
    seconds: float,
) -> None:
    metric = verification.metric
    if metric is None:
        error = verification.outputs[0].relative
        task = f"{'':6} | {error:5.1%} | {'':6}"
    else:
        task = f"{metric.before:6.2f} | {metric.after:5.2f} | {metric.change:+6.2f}"
    faster = "" if speedup is None else f"{speedup:.2f}"
    print(f"| {budget:4.0%} | {method:12} | {task} | {faster:>12} | {seconds:7.1f} |", flush=True)
