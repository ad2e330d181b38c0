"""What distillation recovers of a rewrite: ResNet-20 on CIFAR-10, minutes on a CPU, no labels.

    CONVSMITH_DATA=DIR python benchmarks/recover.py [--macs 0.5,0.35] [--epochs 10] [--seeds 0]

Every network is rewritten with statistics of a quarter of the calibration images, and trained on
all of them without their labels: nine tenths, flipped and shifted, to train on, and one tenth, as
they are, to choose the best state by. The test images are looked at once per network, at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import networks

import convsmith as cs
from convsmith.rewrite import distill

Array = npt.NDArray[Any]

BATCH = 50
SHIFT = 4


def main() -> None:
    """Prints one row per budget and seed."""
    options = _options()
    folder = Path(os.environ["CONVSMITH_DATA"])
    torch.set_num_threads(options.threads)
    cs.set_threads(options.threads)
    module = networks.resnet20(folder)
    images, _ = networks.cifar10(folder, "calib")
    test = networks.cifar10(folder, "test")
    net = cs.load(module, (1, *images.shape[1:]))
    print(f"original: {_accuracy(module, *test):.1f} % of {len(test[1]):,} test images")
    print("| MACs | seed | rewritten | distilled | recovered | held-out loss    | rewrite s | s |")
    print("|-----:|-----:|----------:|----------:|----------:|-----------------:|----------:|--:|")
    for seed in options.seeds:
        order = np.random.default_rng(seed).permutation(len(images))  # they are sorted by class
        mixed = images[order]
        held = len(mixed) // 10
        few = np.split(mixed[held:][: len(mixed) // 4], 5)
        calibration = cs.calibrate(net, few)
        for macs in options.macs:
            begin = time.perf_counter()
            plan = cs.rewrite(net, macs=macs, calibration=calibration).plan
            seconds = time.perf_counter() - begin
            rewritten = cs.apply(plan, module)
            found = distill(
                module,
                rewritten,
                _augmented(mixed[held:], seed),
                held_out=np.split(mixed[:held], max(1, held // BATCH)),
                epochs=options.epochs,
                seed=seed,
                **options.options,
            )
            before, after = (_accuracy(m, *test) for m in (rewritten, found.module))
            print(
                f"| {macs:4.0%} | {seed:4} | {before:7.1f} % | {after:7.1f} % |"
                f" {after - before:+9.1f} | {found.before:6.4f} > {found.after:6.4f} |"
                f" {seconds:9.0f} | {found.seconds:.0f} |",
                flush=True,
            )


def _augmented(images: Array, seed: int) -> Callable[[int], Iterator[Array]]:
    """Batches of an epoch in an order of its own, flipped and shifted at random."""

    def batches(epoch: int) -> Iterator[Array]:
        random = np.random.default_rng((seed, epoch))
        sides = ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT))
        height, width = images.shape[2:]
        for rows in np.array_split(random.permutation(len(images)), len(images) // BATCH):
            padded = np.pad(images[rows], sides, mode="reflect")
            made = np.empty_like(images[rows])
            for image, source in zip(made, padded, strict=True):
                top, left = random.integers(0, 2 * SHIFT + 1, 2)
                cut = source[:, top : top + height, left : left + width]
                image[...] = cut[..., ::-1] if random.random() < 0.5 else cut
            yield made

    return batches


def _accuracy(module: torch.nn.Module, images: Array, labels: Array) -> float:
    scores = networks.run(module, images)
    return float(100 * np.mean(scores.argmax(axis=1) == labels))


def _options() -> argparse.Namespace:
    def numbers(text: str) -> tuple[float, ...]:
        return tuple(float(part) for part in text.split(",") if part)

    def option(text: str) -> tuple[str, float]:
        name, _, value = text.partition("=")
        return name, float(value)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--macs", type=numbers, default=(0.5, 0.35))
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in numbers(text)], default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--option", type=option, action="append", default=[], help="lr=0.001")
    made = parser.parse_args()
    made.options = dict(made.option)
    return made


if __name__ == "__main__":
    main()
