"""Runs AIMET's spatial SVD with greedy selection, inside an environment that has ``aimet-torch``.

    python aimet_worker.py JOB.json

The job names a network of ``tests/networks.py``, its weights (``.safetensors``), labelled images
(``.npz``) and the wanted cost ratios. AIMET scores every layer at every candidate ratio once;
then every wanted ratio gives one compressed network, written as ``.safetensors``, and
``result.json`` says what the layers became. Beside it nothing of convsmith is needed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Compresses as the job says."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.insert(0, job["root"])
    torch.set_num_threads(job["threads"])
    _import_torchvision()
    module = getattr(importlib.import_module("tests.networks"), job["network"])()
    module.load_state_dict(load_file(job["weights"]))
    module.eval()
    with np.load(job["images"]) as stored:
        images = [(stored[f"x{i}"], stored[f"y{i}"]) for i in range(job["batches"])]

    begin = time.perf_counter()
    compress(module, job, lambda model, *_, **__: score(job, model, images), None)
    seconds = time.perf_counter() - begin
    scores = "data/greedy_selection_eval_scores_dict.pkl"
    seen: dict[str, int] = {}
    results = []
    for index, target in enumerate(job["targets"]):
        # Its report scores the network once more; the harness does that itself, alike for all.
        made, ratio = compress(module, {**job, "target": target}, lambda *_, **__: 0.0, scores)
        tensors, layers = described(made)
        key = json.dumps({name: steps[0]["shape"][0] for name, steps in layers.items()})
        if key not in seen:
            seen[key] = index
            save_file(tensors, f"{index}.safetensors")
            results.append({"target": target, "ratio": ratio, "file": index, "layers": layers})
    version = importlib.import_module("importlib.metadata").version("aimet-torch")
    Path("result.json").write_text(
        json.dumps({"version": version, "seconds": seconds, "results": results}), encoding="utf-8"
    )


def _import_torchvision() -> None:
    """Imports torchvision also where its compiled operators do not load beside a CPU torch.

    AIMET imports it but this job uses none of its operators; two that torchvision describes
    to torch at import must be there to be described.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_kept"] = library  # what is defined goes with it
        importlib.import_module("torchvision")


def compress(
    module: Any, job: dict[str, Any], evaluate: Any, scores: str | None
) -> tuple[Any, float]:
    """AIMET's documented call, in auto mode, at its default settings."""
    compressor = importlib.import_module("aimet_torch.compress").ModelCompressor
    common = importlib.import_module("aimet_torch.common.defs")
    parameters = importlib.import_module("aimet_torch.defs").SpatialSvdParameters
    greedy = common.GreedySelectionParameters(
        target_comp_ratio=job.get("target", 0.5),
        num_comp_ratio_candidates=job["candidates"],
        saved_eval_scores_dict=scores,
    )
    made, stats = compressor.compress_model(
        module,
        eval_callback=evaluate,
        eval_iterations=None,
        input_shape=tuple(job["shape"]),
        compress_scheme=common.CompressionScheme.spatial_svd,
        cost_metric=common.CostMetric.mac,
        parameters=parameters(
            mode=parameters.Mode.auto,
            params=parameters.AutoModeParams(greedy_select_params=greedy),
        ),
    )
    return made, float(stats.mac_compression_ratio)


def score(job: dict[str, Any], model: Any, images: list[tuple[Any, Any]]) -> float:
    """Accuracy in percent or PSNR in dB, as the harness measures them."""
    found: list[float] = []
    with torch.no_grad():
        for x, wanted in images:
            for first in range(0, len(x), 100):
                y = model(torch.from_numpy(x[first : first + 100])).numpy()
                part = wanted[first : first + 100]
                if job["metric"] == "accuracy":
                    found.extend(100.0 * (y.argmax(axis=1) == part))
                else:
                    inner = slice(job["border"], -job["border"] or None)
                    apart = np.clip(y, 0, 1) - part.astype(np.float64)
                    errors = np.square(apart[..., inner, inner]).mean(axis=(1, 2, 3))
                    found.extend(-10 * np.log10(errors))
    return float(np.mean(found))


def described(model: Any) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The pairs that AIMET put in the place of convolutions: weights, and how they step."""
    tensors: dict[str, Any] = {}
    layers: dict[str, list[dict[str, Any]]] = {}
    for name, child in model.named_modules():
        steps = list(child) if isinstance(child, torch.nn.Sequential) else []
        pair = [step for step in steps if isinstance(step, torch.nn.Conv2d)]
        if len(pair) != 2 or len(steps) != 2:
            continue
        layers[name] = []
        for index, step in enumerate(pair):
            tensors[f"{name}/{index}/weight"] = step.weight.detach().contiguous()
            if step.bias is not None:
                tensors[f"{name}/{index}/bias"] = step.bias.detach().contiguous()
            layers[name].append(
                {
                    "shape": list(step.weight.shape),
                    "stride": list(step.stride),
                    "padding": list(step.padding),
                    "bias": step.bias is not None,
                }
            )
    return tensors, layers


if __name__ == "__main__":
    main()
