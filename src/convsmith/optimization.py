"""The main job, end to end: analyze, calibrate, rewrite, verify, time, write.

Source -> graph -> results; the report is made from the result by whoever asked for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.analysis import Analysis, analyze
from convsmith.errors import DynamicSizeError, MissingDependencyError, OutputError, UsageError
from convsmith.files import check_target
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.results import Progress, Result
from convsmith.rewrite import Rewriting, Verification, calibrate, verify
from convsmith.rewrite.rewriting import budget_of, rewrite
from convsmith.rewrite.statistics import POSITIONS
from convsmith.rewrite.verifying import MetricName
from convsmith.runtime import timing
from convsmith.sources import load, save
from convsmith.sources.data import Batch, Dataset, read_data

__all__ = ["Files", "Optimization", "Picture", "Proof", "optimize"]

Array = npt.NDArray[Any]

FEW_IMAGES_POSITIONS = 24576
"""Output positions per layer to see in all, when there are few images."""

DISAGREEMENT = 1e-3
"""How far the written file's output may lie from the verified one, relative to the largest."""

PICTURES = 3
"""How many test images a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where the outcome goes: a folder, or files beside the named ``.onnx`` file."""

    model: Path
    plan: Path
    report: Path

    @classmethod
    def at(cls, out: str | PathLike[str]) -> Files:
        """Names the files for ``-o OUT``.

        >>> Files.at("small.onnx").report.name, Files.at("build/demo").model.name
        ('small.report.html', 'model.onnx')
        """
        out = Path(out)
        if out.suffix.lower() == ".onnx":
            return cls(
                model=out,
                plan=out.with_suffix(".plan.json"),
                report=out.with_suffix(".report.html"),
            )
        return cls(model=out / "model.onnx", plan=out / "plan.json", report=out / "report.html")

    def check(self, *, overwrite: bool) -> None:
        """Checks all names before the long work begins; makes nothing.

        Raises:
            OutputError: If a file exists and ``overwrite`` is false, or cannot be written.
        """
        folder = self.model.parent
        if not folder.exists():
            there = next(parent for parent in folder.parents if parent.exists())
            if not there.is_dir() or not os.access(there, os.W_OK):
                raise OutputError(
                    f"the folder {str(folder)!r} cannot be made in {str(there)!r}",
                    remedy="choose another one",
                )
            return
        for path in (self.model, self.plan, self.plan.with_suffix(".safetensors"), self.report):
            check_target(path, overwrite=overwrite)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One test image through both networks, every array ``(C, H, W)`` between 0 and 1."""

    name: str
    given: Array
    wanted: Array
    before: Array
    after: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the written file computes, in ONNX Runtime, against what was verified.

    Attributes:
        original: Largest difference of the original file from the evaluated graph, relative to
            the largest output.
        rewritten: The same of the file that was written.
    """

    original: float
    rewritten: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Optimization(Result):
    """What the main job made, and what became of the network.

    Attributes:
        source: The network it began with.
        before: Analysis of the original.
        after: Analysis of the rewritten network.
        rewriting: Plan, costs, and what was lost on the calibration samples.
        verification: What was lost on the test images, or on the calibration samples when there
            are none.
        calibration_images: How many images the statistics come from.
        skipped: Images that could not be used, with the reason.
        timings: ``before`` and ``after``; empty when nothing could run them.
        speedup: Time before over time after, the median over interleaved pairs.
        proof: What the written file computes.
        pictures: Test images through both networks, for image restoration.
        files: What was written.
        notes: What else the reader should know.
        command: The command line that does the same.
    """

    source: str
    before: Analysis
    after: Analysis
    rewriting: Rewriting
    verification: Verification
    calibration_images: int
    skipped: tuple[str, ...]
    timings: Mapping[str, timing.Timing]
    speedup: float | None
    proof: Proof | None
    pictures: tuple[Picture, ...]
    files: Files
    notes: tuple[str, ...]
    command: tuple[str, ...] = ()

    @property
    def faster(self) -> bool | None:
        """Whether the rewritten network is really faster; ``None`` when that was not measured."""
        return None if self.speedup is None else self.speedup > 1

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome as JSON-ready data, schema ``convsmith.rewrite/1`` and more."""
        content = self.rewriting.to_dict()
        metric = self.verification.metric
        for side in ("before", "after"):
            measured = self.timings.get(side)
            content[side]["milliseconds"] = measured.median if measured else None
            content[side]["metric"] = getattr(metric, side) if metric else None
        return content | {
            "source": self.source,
            "verification": self.verification.to_dict(),
            "calibration": {
                "images": self.calibration_images,
                "skipped": list(self.skipped),
            },
            "speedup": self.speedup,
            "proof": self.proof
            and {"original": self.proof.original, "rewritten": self.proof.rewritten},
            "files": {
                "model": str(self.files.model),
                "plan": str(self.files.plan),
                "report": str(self.files.report),
            },
            "notes": list(self.notes),
        }


def optimize(
    source: object,
    *,
    data: str | PathLike[str],
    out: str | PathLike[str],
    test: str | PathLike[str] | None = None,
    macs: float = 0.5,
    input: object = None,  # noqa: A002 - the published name
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    limit: int | None = 500,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Optimization:
    """Makes a trained network cheaper, proves what was lost, and writes it.

    Writes the model and the plan; the report is ``result.to_html(result.files.report)``.

    Args:
        source: Whatever ``convsmith.load`` reads.
        data: Calibration images; see :func:`convsmith.sources.data.read_data`.
        out: A folder, or the name of an ``.onnx`` file.
        test: Test images, with labels (a folder per class) or targets (``input/`` and
            ``target/``) for the task metric. Without it, ``data`` verifies too.
        macs: The budget; see :func:`convsmith.rewrite`.
        input: Sizes of the input, where the network leaves them open; by default those of the
            first image.
        mean: Subtracted from the images, per channel.
        std: What they are then divided by.
        limit: The most calibration images to use.
        overwrite: Whether existing files may be replaced.
        progress: Called during long steps.

    Raises:
        ConvsmithError: Whatever is wrong with the network, the data, the budget or the files.
    """
    files = Files.at(out)
    files.check(overwrite=overwrite)
    budget_of(macs, 1, "macs")  # before the long work
    net, images, shape = _open(source, data, input, mean=mean, std=std, limit=limit)
    if files.model.resolve() == Path(net.source).resolve():
        raise OutputError(
            "this would replace the network that is read",
            place=str(files.model),
            remedy="choose another name",
        )
    tests = None if test is None else read_data(str(test), shape=shape, mean=mean, std=std)
    notes = [] if tests is not None else ["Verified on the calibration images: give --test."]

    calibration = calibrate(
        net,
        (batch.images for batch in images),
        positions=max(POSITIONS, FEW_IMAGES_POSITIONS // images.count),
        progress=progress,
    )
    rewriting = rewrite(net, macs=macs, calibration=calibration, progress=progress)
    verification = _verify(net, rewriting, tests, images, progress)

    files.model.parent.mkdir(parents=True, exist_ok=True)
    save(rewriting.net, files.model, overwrite=overwrite)
    rewriting.plan.save(files.plan, overwrite=overwrite)
    shown = next(iter(tests if tests is not None else images)).images[:1]
    timings, speedup, proof = _run(net, rewriting.net, files.model, shown, notes, progress)
    after = analyze(rewriting.net)
    if proof is not None and proof.rewritten > DISAGREEMENT:
        notes.append(
            f"The written file disagrees with what was verified by {proof.rewritten:.1e} of the"
            " largest output: do not use it before you know why."
        )
    if speedup is not None and speedup <= 1:
        notes.append("The rewritten network is not faster here: this is no improvement in speed.")
    return Optimization(
        source=net.source,
        before=analyze(net),
        after=after,
        rewriting=rewriting,
        verification=verification,
        calibration_images=calibration.images,
        skipped=images.skipped + (tests.skipped if tests is not None else ()),
        timings=timings,
        speedup=speedup,
        proof=proof,
        pictures=_pictures(net, rewriting.net, tests),
        files=files,
        notes=tuple(notes),
        command=_command(
            net.source,
            data=data,
            test=test,
            macs=macs,
            input=",".join(map(str, input)) if isinstance(input, tuple | list) else input,
            mean=",".join(map(str, mean)),
            std=",".join(map(str, std)),
            limit=limit,
            output=out,
        ),
    )


def _command(source: str, **options: object) -> tuple[str, ...]:
    """The command line that does what :func:`optimize` was asked to do."""
    given = {name: value for name, value in options.items() if value not in (None, "")}
    return (
        *("convsmith", "optimize", source),
        *(word for name, value in given.items() for word in (f"--{name}", str(value))),
    )


def _open(
    source: object,
    data: str | PathLike[str],
    size: object,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    limit: int | None,
) -> tuple[Graph, Dataset, tuple[int | None, ...]]:
    """Reads network and images; where the network leaves its size open, the images decide.

    Returns:
        The network, the images, and the shape that an image may have.
    """

    def read(shape: tuple[int | None, ...]) -> Dataset:
        return read_data(str(data), shape=shape, mean=mean, std=std, limit=limit)

    try:
        net = load(source, size)
    except DynamicSizeError as error:
        sizes = next(iter(error.shapes.values()))
        if size is not None or len(sizes) < 3 or sizes[1] is None:
            raise
        images = read(sizes[1:])
        shape = (sizes[0] or 1, *next(iter(images)).images.shape[1:])
        return load(source, shape), images, sizes[1:]
    if len(net.inputs) != 1:
        raise UsageError(
            f"the network has {len(net.inputs)} inputs, images give one",
            place=net.source,
            remedy="use convsmith.calibrate and convsmith.rewrite with batches of your own",
        )
    shape = net.inputs[0].shape[1:]
    return net, read(shape), shape


def _verify(
    net: Graph,
    rewriting: Rewriting,
    tests: Dataset | None,
    images: Dataset,
    progress: Progress | None,
) -> Verification:
    """Verifies on the test images, else on labelled calibration images, else on samples."""
    seen = images if tests is None else tests
    if tests is None and images.kind == "plain":
        assert rewriting.verification is not None  # there were calibration samples
        return rewriting.verification
    metrics: dict[str, MetricName | None] = {"labels": "accuracy", "targets": "psnr"}
    return verify(
        net,
        rewriting.net,
        (({net.inputs[0].name: batch.images}, _wanted(batch)) for batch in seen),
        metric=metrics.get(seen.kind),
        data="calibration images" if tests is None else "test images",
        progress=progress,
    )


def _wanted(batch: Batch) -> Array | None:
    return batch.targets if batch.labels is None else batch.labels


def _run(
    net: Graph,
    rewritten: Graph,
    written: Path,
    image: Array,
    notes: list[str],
    progress: Progress | None,
) -> tuple[Mapping[str, timing.Timing], float | None, Proof | None]:
    """Times both files side by side and checks what they compute."""
    inputs = {net.inputs[0].name: image}
    if progress is not None:
        progress("timing", 0, 0)
    with tempfile.TemporaryDirectory(prefix="convsmith-") as folder:
        original = Path(net.source)
        if original.suffix.lower() != ".onnx" or not original.is_file():
            original = Path(folder, "original.onnx")
            save(net, original)
        try:
            timings = timing.compare({"before": original, "after": written}, inputs)
            proof = Proof(
                original=_distance(net, original, inputs),
                rewritten=_distance(rewritten, written, inputs),
            )
        except MissingDependencyError as error:
            notes.append(f"Not timed: {error}")
            return {}, None, None
    return timings, timings["before"].ratio(timings["after"]), proof


def _distance(net: Graph, file: Path, inputs: Mapping[str, Array]) -> float:
    """How far a file's outputs lie from the graph's, relative to the largest of them."""
    values = evaluate(net, inputs)
    made = timing.outputs(file, inputs)
    largest = 0.0
    for output in net.outputs:
        expected = values[output.value]
        scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
        apart = float(np.abs(made[output.name] - expected).max(initial=0))
        largest = max(largest, apart / scale)
    return largest


def _pictures(net: Graph, rewritten: Graph, tests: Dataset | None) -> tuple[Picture, ...]:
    """The first test images through both networks, when there are targets to compare with."""
    if tests is None or tests.kind != "targets":
        return ()
    pictures: list[Picture] = []
    value = net.outputs[0].value
    for batch in tests:
        assert batch.targets is not None
        for image, target, name in zip(batch.images, batch.targets, batch.names, strict=True):
            inputs = {net.inputs[0].name: image[None]}
            before, after = (evaluate(graph, inputs)[value][0] for graph in (net, rewritten))
            if before.shape != target.shape:
                return ()
            clipped = (np.clip(array, 0, 1) for array in (image, target, before, after))
            given, wanted, one, two = clipped
            pictures.append(Picture(name=name, given=given, wanted=wanted, before=one, after=two))
            if len(pictures) == PICTURES:
                return tuple(pictures)
    return tuple(pictures)
