"""The trained networks, their images, and how well a network does its task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tests import networks
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convsmith.rewrite.moments import POSITIONS

__all__ = ["TASKS", "Images", "Task", "batches", "folded", "large", "score", "task"]

Array = npt.NDArray[Any]
Metric = Literal["accuracy", "psnr"]

RESTORER = Path(__file__).parents[2] / "examples" / "restorer"
TASKS = ("resnet20", "vdsr", "restorer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Inputs ``(N, C, H, W)``, one batch per size, and labels ``(N,)`` or targets for each."""

    inputs: tuple[Array, ...]
    wanted: tuple[Array, ...]

    def __len__(self) -> int:
        return sum(map(len, self.inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A trained network and everything that it is judged by.

    Attributes:
        name: For the command line.
        title: For the tables.
        module: The trained network.
        metric: ``accuracy`` in percent, or ``psnr`` in dB.
        border: Pixels that the metric leaves out at every side.
        budgets: Shares of the multiply-accumulates.
        pool: All calibration images, with their labels or targets.
        fitting: How many of the pool a seed draws for statistics.
        tuning: How many others it draws to tune on.
        positions: Output positions per image and layer that enter convsmith's statistics.
        test: Looked at once.
        timed: The shape that networks are timed at.
        crop: Tuning images are cut to this size, so that a search over many networks ends.
    """

    name: str
    title: str
    module: nn.Module
    metric: Metric
    border: int
    budgets: tuple[float, ...]
    pool: Images
    fitting: int
    tuning: int
    positions: int
    test: Images
    timed: tuple[int, ...]
    crop: int | None = None

    @property
    def unit(self) -> str:
        """Of a change of the metric."""
        return "points" if self.metric == "accuracy" else "dB"

    def split(self, seed: int) -> tuple[Images, Images]:
        """Calibration images for statistics, and others to tune on, drawn without overlap."""
        places = [
            (batch, index) for batch, x in enumerate(self.pool.inputs) for index in range(len(x))
        ]
        drawn = np.random.default_rng(seed).permutation(len(places))[: self.fitting + self.tuning]
        fit, tune = drawn[: self.fitting], drawn[self.fitting :]
        chosen = _chosen(self.pool, [places[i] for i in tune])
        return (
            _chosen(self.pool, [places[i] for i in fit]),
            chosen if self.crop is None else _cropped(chosen, self.crop),
        )


def _chosen(pool: Images, places: list[tuple[int, int]]) -> Images:
    inputs, wanted = [], []
    for batch in sorted({batch for batch, _ in places}):
        rows = [index for other, index in places if other == batch]
        inputs.append(np.ascontiguousarray(pool.inputs[batch][rows]))
        wanted.append(np.ascontiguousarray(pool.wanted[batch][rows]))
    return Images(inputs=tuple(inputs), wanted=tuple(wanted))


def _cropped(images: Images, size: int) -> Images:
    """The middle of every image, all in one batch."""

    def middle(x: Array) -> Array:
        top, left = ((side - size) // 2 for side in x.shape[2:])
        return x[:, :, top : top + size, left : left + size]

    return Images(
        inputs=(np.concatenate([middle(x) for x in images.inputs]),),
        wanted=(np.concatenate([middle(x) for x in images.wanted]),),
    )


def batches(images: Images, size: int = 100) -> Iterator[tuple[Array, Array]]:
    """Inputs and what is wanted, at most ``size`` images at a time."""
    for x, wanted in zip(images.inputs, images.wanted, strict=True):
        for first in range(0, len(x), size):
            yield x[first : first + size], wanted[first : first + size]


def score(metric: Metric, border: int, outputs: list[Array], wanted: list[Array]) -> float:
    """Accuracy in percent; or PSNR in dB, the mean over the images, for a peak of 1."""
    if metric == "accuracy":
        right = sum(
            int((y.argmax(axis=1) == labels).sum())
            for y, labels in zip(outputs, wanted, strict=True)
        )
        return 100 * right / sum(map(len, wanted))
    inner = slice(border, -border or None)
    found = [
        -10 * np.log10(np.square(np.clip(one.astype(np.float64), 0, 1) - two).mean())
        for y, target in zip(outputs, wanted, strict=True)
        for one, two in zip(y[..., inner, inner], target[..., inner, inner], strict=True)
    ]
    return float(np.mean(found))


def folded(module: nn.Module) -> nn.Module | None:
    """A copy with every ``bnN`` folded into the ``convN`` beside it; ``None`` without any."""
    made = deepcopy(module)
    pairs = [
        (parent, f"conv{name[2:]}", name)
        for parent in made.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm2d)
    ]
    for parent, conv, norm in pairs:
        setattr(parent, conv, fuse_conv_bn_eval(getattr(parent, conv), getattr(parent, norm)))
        setattr(parent, norm, nn.Identity())
    return made if pairs else None


def task(name: str, data: Path | None) -> Task:
    """One of :data:`TASKS`; all but ``restorer`` need the folder of trained networks."""
    if name == "restorer":
        return _restorer()
    if data is None:
        raise FileNotFoundError(f"{name}: set CONVSMITH_DATA to the folder of its weights")
    return _resnet20(data) if name == "resnet20" else _vdsr(data)


def _resnet20(data: Path) -> Task:
    pool, test = (networks.cifar10(data, part) for part in ("calib", "test"))
    return Task(
        name="resnet20",
        title="ResNet-20, CIFAR-10",
        module=networks.resnet20(data),
        metric="accuracy",
        border=0,
        budgets=(0.7, 0.5, 0.35),
        pool=Images(inputs=(pool[0],), wanted=(pool[1],)),
        fitting=500,
        tuning=500,
        positions=2048,
        test=Images(inputs=(test[0],), wanted=(test[1],)),
        timed=(1, 3, 32, 32),
    )


def _vdsr(data: Path) -> Task:
    """Calibrated on photographs and the bird, judged by the butterfly, at twice the size."""
    shrunk = [_shrunk(image) for image in _photographs("calibration", "target").values()]
    pairs = {
        "photographs": (np.concatenate([x for x, _ in shrunk]), _stacked(y for _, y in shrunk)),
        "bird": (
            np.concatenate([networks.luma(data, f"bird_GT_scale_{scale}") for scale in (2, 3)]),
            np.concatenate([networks.luma(data, "bird_GT")] * 2),
        ),
    }
    return Task(
        name="vdsr",
        title="VDSR, butterfly x2",
        module=networks.vdsr(data),
        metric="psnr",
        border=2,
        budgets=(0.5, 0.3),
        pool=Images(
            inputs=tuple(x for x, _ in pairs.values()), wanted=tuple(y for _, y in pairs.values())
        ),
        fitting=8,
        tuning=4,
        positions=4096,
        test=Images(
            inputs=(networks.luma(data, "butterfly_GT_scale_2"),),
            wanted=(networks.luma(data, "butterfly_GT"),),
        ),
        timed=(1, 1, 96, 96),
        crop=96,
    )


def large(images: int) -> Task:
    """A network as large as ResNet-50, of random weights: for how long a tool takes, no more.

    Args:
        images: How many, of 224 x 224 random pixels and with random labels, there are for
            statistics, and as many more to tune on.
    """
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    some = [min(16, 2 * images - first) for first in range(0, 2 * images, 16)]
    pool = Images(
        inputs=tuple(random.standard_normal((n, 3, 224, 224), np.float32) for n in some),
        wanted=tuple(random.integers(1000, size=n) for n in some),
    )
    return Task(
        name="resnet50",
        title="ResNet-50, random weights",
        module=networks.ResNet50().eval(),
        metric="accuracy",
        border=0,
        budgets=(0.7,),
        pool=pool,
        fitting=images,
        tuning=images,
        positions=POSITIONS,
        test=pool,
        timed=(1, 3, 224, 224),
    )


def _restorer() -> Task:
    def pairs(part: str) -> list[tuple[Array, Array]]:
        given, clean = (_photographs(part, side) for side in ("input", "target"))
        return [(given[name], clean[name]) for name in sorted(given)]

    calibration, test = pairs("calibration"), pairs("test")
    return Task(
        name="restorer",
        title="restorer, three photographs",
        module=networks.restorer(RESTORER),
        metric="psnr",
        border=0,
        budgets=(0.7, 0.5, 0.35),
        pool=Images(
            inputs=(_stacked(x for x, _ in calibration),),
            wanted=(_stacked(y for _, y in calibration),),
        ),
        fitting=7,
        tuning=3,
        positions=4096,
        test=Images(
            inputs=tuple(x[None, None] for x, _ in test),
            wanted=tuple(y[None, None] for _, y in test),
        ),
        timed=(1, 1, 192, 192),
    )


def _stacked(images: Iterator[Array]) -> Array:
    """Images ``(H, W)`` or ``(1, 1, H, W)`` of one size as ``(N, 1, H, W)``."""
    stacked: Array = np.stack([image.reshape(1, *image.shape[-2:]) for image in images])
    return stacked


@cache
def _photographs(part: str, side: str) -> Mapping[str, Array]:
    """Shipped grey photographs ``(H, W)`` between 0 and 1, by name."""
    found = {}
    for path in sorted((RESTORER / "photographs" / part / side).glob("*.png")):
        with Image.open(path) as image:
            found[path.stem] = np.asarray(image.convert("L"), dtype=np.float32) / 255
    return found


def _shrunk(image: Array) -> tuple[Array, Array]:
    """An image halved and doubled again, bicubically and in 8 bits, and the image itself."""
    height, width = image.shape
    whole = Image.fromarray(np.round(image * 255).astype(np.uint8))
    small = whole.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    blurred = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return (blurred.astype(np.float32) / 255)[None, None], image[None, None]
