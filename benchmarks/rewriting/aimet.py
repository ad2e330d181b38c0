"""AIMET's spatial SVD with greedy selection, run by AIMET itself in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.rewriting.chains import Chain, Layer, Step, Unreachable, spatial_costs
from benchmarks.rewriting.tasks import Images, Task
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

__all__ = ["Compressed", "compressed", "fitting", "python"]

ROOT = Path(__file__).parents[2]
CANDIDATES = 10
"""Cost ratios that AIMET tries per layer: its default."""

CLOSEST = 4
"""Its ratios are coarse: the tuning images choose among so many networks below a budget."""


def python() -> Path | None:
    """The interpreter that has ``aimet-torch``, from the environment variable ``AIMET_PYTHON``."""
    named = os.environ.get("AIMET_PYTHON", "")
    return Path(named) if named and Path(named).is_file() else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compressed:
    """One network that AIMET made, and the exact multiply-accumulates of its convolutions."""

    chains: dict[str, Chain]
    macs: int


def compressed(
    task: Task, module: nn.Module, found: tuple[Layer, ...], images: Images, threads: int
) -> tuple[list[Compressed], str]:
    """All networks that AIMET makes between 10 and 99 % of the cost, and its version.

    Args:
        task: The network's.
        module: The network.
        found: Its convolutions.
        images: With labels or targets, for AIMET's evaluation.
        threads: For torch, there.

    Raises:
        RuntimeError: If AIMET fails; the end of what it printed is in the message.
    """
    interpreter = python()
    assert interpreter is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, folder / "weights.safetensors")
        arrays: dict[str, Any] = {}
        for index, (x, wanted) in enumerate(zip(images.inputs, images.wanted, strict=True)):
            arrays |= {f"x{index}": x, f"y{index}": wanted}
        np.savez(folder / "images.npz", **arrays)
        job = {
            "root": str(ROOT),
            "network": type(module).__name__,
            "weights": str(folder / "weights.safetensors"),
            "images": str(folder / "images.npz"),
            "batches": len(images.inputs),
            "shape": task.timed,
            "metric": task.metric,
            "border": task.border,
            "candidates": CANDIDATES,
            "targets": [round(percent / 100, 2) for percent in range(10, 100)],
            "threads": threads,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        worker = Path(__file__).with_name("aimet_worker.py")
        ran = subprocess.run(
            [interpreter, worker, folder / "job.json"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise RuntimeError(f"AIMET failed: {ran.stderr[-2000:]}")
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        made = [_read(folder, entry, found) for entry in result["results"]]
    return made, str(result["version"])


def _read(folder: Path, entry: dict[str, Any], found: tuple[Layer, ...]) -> Compressed:
    tensors = load_file(folder / f"{entry['file']}.safetensors")
    chains = {
        name: tuple(
            Step(
                weight=tensors[f"{name}/{index}/weight"],
                bias=tensors.get(f"{name}/{index}/bias"),
                stride=(step["stride"][0], step["stride"][1]),
                padding=(step["padding"][0], step["padding"][1]),
            )
            for index, step in enumerate(steps)
        )
        for name, steps in entry["layers"].items()
    }
    macs = sum(
        spatial_costs(layer) * len(chains[layer.name][0].weight)
        if layer.name in chains
        else layer.macs
        for layer in found
    )
    return Compressed(chains=chains, macs=macs)


def fitting(made: list[Compressed], budget: float) -> list[dict[str, Chain]]:
    """The networks closest to the budget that fit it, the closest first.

    Raises:
        Unreachable: If none does.
    """
    some = sorted((one for one in made if one.macs <= budget), key=lambda one: -one.macs)
    if not some:
        raise Unreachable("AIMET made no network that cheap")
    return [one.chains for one in some[:CLOSEST]]
