"""Trained networks made cheaper without fine-tuning, by convsmith and by its peers, in one run.

    python benchmarks/rewrite.py                                  every network that is there
    python benchmarks/rewrite.py --only resnet20 --seeds 0,1,2 --json rewrite.json
    python benchmarks/rewrite.py --methods convsmith,spatial --times ""
    python benchmarks/rewrite.py --layers                         5x5 and 7x7: which form wins
    python benchmarks/rewrite.py MODEL --data D --test T [--mean ... --std ...]

The networks: the shipped restorer; with the environment variable ``CONVSMITH_DATA`` also
ResNet-20 on CIFAR-10 and VDSR. All methods get the same weights and the same calibration images,
a random part of all for every seed; what they tune, they tune on another random part; test images
are looked at once, when a network is finished. Every network is counted by convsmith, scored and
timed as the ONNX file that would be shipped, whatever format its method keeps factors in: times
are ratios to the original's in ONNX Runtime, taken in turns. First at a share of the
multiply-accumulates, then at a share of the measured time, where every method is searched for its
most expensive network that is as fast.

The methods: convsmith; AIMET's spatial SVD with greedy selection, its own code; tensorly-torch's
Tucker-2 with VBMF ranks scaled to the budget; BALF, re-implemented (whitened channel SVD with
Lagrangian ranks); spatial and channel SVD of the weights alone at one ratio for all layers. AIMET
selects by the labelled tuning images, at its default settings, and gets the best of the four of
its networks that are closest to the budget; the peers after it are also tried with batch
normalization folded and with the first convolution kept, and get the best of these on the tuning
images. ``--layers`` fits every form to single layers of the restorer instead.

A peer that is not installed is left out with a line. What they need::

    pip install tensorly==0.10.0 tensorly-torch==0.5.0
    python -m venv aimet && aimet/bin/pip install torch==2.13.0 aimet-torch==2.42.0
    export AIMET_PYTHON=aimet/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))  # the networks are those of the tests

from benchmarks.rewriting import by_layer, own
from benchmarks.rewriting.by_layer import LayerRow
from benchmarks.rewriting.comparing import Row, compare
from benchmarks.rewriting.methods import METHODS, Method
from benchmarks.rewriting.tables import markdown, parts
from benchmarks.rewriting.tasks import RESTORER, TASKS, Task, task
from benchmarks.storing import described

import convsmith
from convsmith.parallel import limited_threads


def main() -> None:
    """Prints the tables, and stores the rows where asked to."""
    options = _options()
    if options.model is not None:
        own.compare(options)
        return
    if options.layers:
        _layers(options)
        return
    methods = _present(options.methods)
    rows: list[Row] = []
    tasks: list[Task] = []
    with _threads(options.threads):
        for name in options.only:
            try:
                made = task(name, options.folder)
            except FileNotFoundError as reason:
                print(f"left out: {reason}\n", flush=True)
                continue
            found = []
            tasks.append(made)
            for row in compare(
                made,
                methods,
                options.seeds,
                budgets=made.budgets if options.macs is None else options.macs,
                times=made.budgets if options.times is None else options.times,
                threads=options.threads,
                seconds=options.seconds,
            ):
                found.append(row)
                if options.json is not None:  # a run takes hours: what it has is kept
                    _write(options.json, [*rows, *found], tasks)
            for title, part in parts(found, made).items():
                print(markdown(title, part) + "\n", flush=True)
            rows += found
    print(f"{_versions(rows)}; {options.threads} thread{'s' if options.threads > 1 else ''}")


def _write(path: Path, rows: Sequence[Row], tasks: Sequence[Task]) -> None:
    """Stores the tables, as docs/benchmarks.md shows them, and the rows that they come from."""
    made: dict[str, Any] = {}
    for one in tasks:
        made |= parts([row for row in rows if row.task == one.name], one)
    record = described("Rewriting trained networks, without fine-tuning")
    record |= {"versions": _versions(rows), "parts": made, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _versions(rows: Sequence[Row]) -> str:
    return ", ".join(sorted({row.version for row in rows if row.version})) or "no peer's package"


def _layers(options: argparse.Namespace) -> None:
    """The layers of the restorer with large windows, form by form."""
    made = task("restorer", None)
    rows: list[LayerRow] = []
    with _threads(options.threads):
        for row in by_layer.compare(
            made,
            options.macs or made.budgets,
            seed=options.seeds[0],
            seconds=options.seconds,
            threads=options.threads,
        ):
            rows.append(row)
            if options.json is not None:
                record = described("Large windows, one layer at a time: which form loses least")
                record |= {"versions": f"convsmith {convsmith.__version__}"}
                record |= {"parts": by_layer.parts(rows)}
                options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for title, part in by_layer.parts(rows).items():
        print(markdown(title, part) + "\n")


def _present(names: Sequence[str]) -> dict[str, Method]:
    """The methods that can run here; a line for each that cannot."""
    found = {}
    for name in names:
        missing = METHODS[name].missing()
        if missing:
            print(f"left out: {METHODS[name].name}: {missing}\n", flush=True)
        else:
            found[name] = METHODS[name]
    return found


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Bounds the threads of everything: convsmith, torch and the BLAS libraries."""
    torch.set_num_threads(count)
    with limited_threads(count), threadpool_limits(count):
        yield


def _options() -> argparse.Namespace:
    def numbers(text: str) -> tuple[float, ...]:
        return tuple(float(part) for part in text.split(",") if part)

    def named(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
        def names(text: str) -> tuple[str, ...]:
            given = tuple(part for part in text.split(",") if part)
            wrong = [name for name in given if name not in known]
            if wrong:
                raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
            return given

        return names

    described = __doc__ or ""
    parser = argparse.ArgumentParser(
        description=described, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = os.environ.get("CONVSMITH_DATA")
    parser.set_defaults(folder=Path(folder) if folder else None)
    parser.add_argument("model", nargs="?", help="your own network")
    parser.add_argument("--data", default=str(RESTORER / "photographs" / "calibration"))
    parser.add_argument("--test", default=str(RESTORER / "photographs" / "test"))
    parser.add_argument("--mean", type=numbers, default=())
    parser.add_argument("--std", type=numbers, default=())
    parser.add_argument("--only", type=named(TASKS), default=TASKS, help="networks")
    parser.add_argument("--methods", type=named(tuple(METHODS)), default=tuple(METHODS))
    parser.add_argument("--layers", action="store_true", help="the restorer's, form by form")
    parser.add_argument("--macs", type=numbers, help="shares; each network's own by default")
    parser.add_argument("--times", type=numbers, help="shares; each network's own by default")
    parser.add_argument(
        "--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0, 1, 2)
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, per network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the run there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
