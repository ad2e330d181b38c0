"""The main job, end to end: analyze, calibrate, rewrite, verify, time, write.

Source -> graph -> results; the report is made from the result by whoever asked for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convsmith.analysis import Analysis, analyze
from convsmith.errors import (
    MissingDependencyError,
    OutputError,
    SourceError,
    UnsupportedOperatorError,
    UsageError,
)
from convsmith.evidence import Batches, calibrate, metric_of, open_with_images
from convsmith.files import check_source, check_target
from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.portrait.picture import Picture as Photograph
from convsmith.portrait.portrait import file_digest
from convsmith.portrait.through_both import (
    Picture,
    Prediction,
    photograph,
    pictures,
    predictions,
)
from convsmith.results import Progress, Result
from convsmith.rewrite import Rewriting, Sweep, Verification
from convsmith.rewrite.asking import Budget, check_options, runnable
from convsmith.rewrite.merging import rules_of
from convsmith.rewrite.planning import StrategyName
from convsmith.rewrite.rewriting import rewrite, timed
from convsmith.rewrite.sweeping import read_budgets
from convsmith.rewrite.sweeping import sweep as swept
from convsmith.rewrite.task import Merges
from convsmith.rewrite.verifying import verify
from convsmith.runtime import timing
from convsmith.sources import save
from convsmith.sources.data import Dataset, read_data

__all__ = ["Files", "Optimization", "Picture", "Prediction", "Proof", "optimize"]

Array = npt.NDArray[Any]

DISAGREEMENT = 1e-3
"""How far the written file's output may lie from the verified one, relative to the largest."""

RUNTIMES_TIMED = ("convsmith", "onnxruntime")
"""Where both networks are timed unless others are asked for."""


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

    def check(self, *, overwrite: bool, report: bool = True) -> None:
        """Checks all names before the long work begins; makes nothing.

        Args:
            overwrite: Whether existing files may be replaced.
            report: Whether a report will be written, too.

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
        paths = (self.model, self.plan, self.plan.with_suffix(".safetensors"))
        for path in (*paths, self.report) if report else paths:
            check_target(path, overwrite=overwrite)

    def check_source(self, source: str) -> None:
        """Checks that the network that is read will still be there.

        Raises:
            OutputError: If the model would replace it.
        """
        check_source(self.model, source)


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
        timings: ``before`` and ``after`` in ONNX Runtime, or, without it, in the first runtime
            that was asked for; those of all runtimes are in ``rewriting``. Empty when nothing
            could run them.
        speedup: Time before over time after, the median over interleaved pairs.
        proof: What the written file computes.
        pictures: Test images through both networks, for image restoration.
        predictions: What both networks take test images for, for classification.
        photograph: A test image to see receptive fields on.
        digests: SHA-256 of the files, by what they are; those there are.
        files: What was written.
        notes: What else the reader should know.
        command: The command line that does the same.
        sweep: The same under other budgets, where that was asked for.
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
    sweep: Sweep | None = None
    predictions: tuple[Prediction, ...] = ()
    photograph: Photograph | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def faster(self) -> bool | None:
        """Whether the rewritten network is faster wherever it was timed; ``None``: nowhere."""
        if self.speedup is None:
            return None
        return all(gained > 1 for gained in (self.speedup, *self.rewriting.speedups.values()))

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
            "sweep": self.sweep and self.sweep.to_dict(),
        }


def optimize(
    source: object,
    *,
    data: str | PathLike[str],
    out: str | PathLike[str],
    test: str | PathLike[str] | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    max_loss: float | None = None,
    strategy: StrategyName = "thorough",
    forms: Iterable[str] | None = None,
    only: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    nonlinearity: Literal["relu"] | None = None,
    merge: Merges = False,
    sweep: str | Iterable[float] | None = None,
    measure: Sequence[str] = RUNTIMES_TIMED,
    tune: bool = False,
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
        macs: The budget; see :func:`convsmith.rewrite`. Half of the multiply-accumulates, if no
            other one is given.
        params: The same for parameters.
        latency: The same for time.
        max_loss: Instead of a budget: how far the outputs may move.
        strategy: ``fast`` or ``thorough``.
        forms: Names of the forms to try.
        only: Names of the only layers that may be replaced.
        exclude: Names of layers that stay as they are.
        nonlinearity: ``relu`` puts a ReLU between the layers of stacks, for training to use.
        merge: Whether layers that one layer replaces exactly are merged first, or the names of
            the rules to merge by; see :func:`convsmith.rewrite`.
        sweep: Budgets to try besides, in what the budget is in (a list or a range such as
            ``"0.3:0.9"``): the report draws what each of them costs and loses.
        measure: Runtimes that both networks are timed in.
        tune: Whether convsmith measures its algorithms first, where this machine has not:
            seconds for every convolution that is new to it. Without it predictions choose.
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
    if (macs, params, latency, max_loss) == (None,) * 4:
        macs = 0.5
    asked = Budget(macs=macs, params=params, latency=latency, max_loss=max_loss)
    currency, budget = asked.given  # before the long work, as all that follows
    forms = None if forms is None else tuple(forms)
    only = None if only is None else tuple(only)
    exclude = tuple(exclude)
    check_options(strategy, forms, measure, nonlinearity)
    rules_of(None if isinstance(merge, bool) else merge)
    budgets = None if sweep is None else _budgets_with(sweep, currency, budget)
    net, images, shape = open_with_images(source, data, input, mean=mean, std=std, limit=limit)
    files.check_source(net.source)
    tests = None if test is None else read_data(str(test), shape=shape, mean=mean, std=std)
    notes = [] if tests is not None else ["verified on the calibration images: give --test"]
    runtimes = runnable(measure, notes)

    calibration = calibrate(net, images, progress=progress)
    options: Any = {
        "calibration": calibration,
        "strategy": strategy,
        "forms": forms,
        "only": only,
        "exclude": exclude,
        "nonlinearity": nonlinearity,
        "merge": merge,
        "progress": progress,
    }
    curve: Sweep | None = None
    if budgets is None:
        rewriting = rewrite(net, **{**options, currency: budget})
        verification = _verify(net, rewriting, tests, images, progress)
    else:
        curve, rewriting, verification = _swept(
            net, budgets, currency, budget, tests, images, runtimes, {**options, "tune": tune}
        )

    files.model.parent.mkdir(parents=True, exist_ok=True)
    save(rewriting.net, files.model, overwrite=overwrite)
    rewriting.plan.save(files.plan, overwrite=overwrite)
    if progress is not None:
        progress("timing", 0, 0)
    rewriting = _timed(rewriting, runtimes, notes, tune)
    first = next(iter(tests if tests is not None else images))
    proof = _proven(net, rewriting.net, files.model, first.images[:1], notes)
    if proof is not None and proof.rewritten > DISAGREEMENT:
        notes.append(
            f"The written file disagrees with what was verified by {proof.rewritten:.1e} of the"
            " largest output: do not use it before you know why."
        )
    ran = rewriting.timings
    chief = "onnxruntime" if "onnxruntime" in ran else next(iter(ran), None)
    return Optimization(
        source=net.source,
        before=analyze(net),
        after=analyze(rewriting.net),
        rewriting=rewriting,
        verification=verification,
        calibration_images=calibration.images,
        skipped=images.skipped + (tests.skipped if tests is not None else ()),
        timings={} if chief is None else rewriting.timings[chief],
        speedup=None if chief is None else rewriting.speedups[chief],
        proof=proof,
        pictures=pictures(net, rewriting.net, tests),
        predictions=predictions(net, rewriting.net, tests or images, mean, std),
        photograph=photograph(first.images[0], first.names[0], mean, std, net.inputs[0].shape[2:]),
        digests={
            name: digest
            for name, file in (("original file", net.source), ("written file", str(files.model)))
            if (digest := file_digest(file))
        },
        files=files,
        notes=(*notes, *rewriting.notes),
        command=()
        if not isinstance(merge, bool)  # no option has names of rules
        else _command(
            net.source,
            data=data,
            test=test,
            **{currency: budget},
            strategy=None if strategy == "thorough" else strategy,
            forms=None if forms is None else ",".join(forms),
            only=None if only is None else ",".join(only),
            exclude=",".join(exclude),
            nonlinearity=nonlinearity,
            merge=merge,
            tune=tune,
            sweep=sweep if isinstance(sweep, str | None) else ",".join(map(str, sweep)),
            input=",".join(map(str, input)) if isinstance(input, tuple | list) else input,
            mean=",".join(map(str, mean)),
            std=",".join(map(str, std)),
            limit=limit,
            output=out,
        ),
        sweep=curve,
    )


def _budgets_with(
    budgets: str | Iterable[float], currency: str, budget: float
) -> tuple[float, ...]:
    """The budgets of a sweep, the one that is asked for among them."""
    if currency == "max_loss":
        raise UsageError(
            "a sweep goes over costs, and max_loss= is a loss",
            remedy="give macs=, params= or latency= with it",
        )
    return tuple(sorted({*read_budgets(budgets), float(budget)}))


def _swept(
    net: Graph,
    budgets: Sequence[float],
    currency: str,
    budget: float,
    tests: Dataset | None,
    images: Dataset,
    runtimes: Sequence[str],
    options: Any,
) -> tuple[Sweep, Rewriting, Verification]:
    """The networks of all budgets, and the one that was asked for."""
    seen = images if tests is None else tests
    kind: Any = currency
    curve = swept(
        net,
        budgets,
        currency=kind,
        batches=None if tests is None and images.kind == "plain" else Batches(net, seen),
        metric=metric_of(seen),
        data="calibration images" if tests is None else "test images",
        measure=runtimes,
        **options,
    )
    point = curve.at(budget)
    assert point.rewriting is not None
    assert point.verification is not None
    return curve, point.rewriting, point.verification


def _timed(
    rewriting: Rewriting, runtimes: Sequence[str], notes: list[str], tune: bool
) -> Rewriting:
    """Times both networks where that was not done; what cannot run them is left out."""
    done = rewriting.timings
    missing = [name for name in runtimes if name not in done]
    if not missing:
        return rewriting
    try:
        made = timed(rewriting, missing, tune=tune)
    except (SourceError, UnsupportedOperatorError) as error:
        notes.append(f"Not timed in {' and '.join(missing)}: {error}")
        return rewriting
    return replace(made, timings={**done, **made.timings})


def _command(source: str, **options: Any) -> tuple[str, ...]:
    """The command line that does what :func:`optimize` was asked to do."""
    words = ["convsmith", "optimize", source]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value not in (None, False, ""):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return tuple(words)


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
    return verify(
        net,
        rewriting.net,
        Batches(net, seen),
        metric=metric_of(seen),
        data="calibration images" if tests is None else "test images",
        progress=progress,
    )


def _proven(
    net: Graph, rewritten: Graph, written: Path, image: Array, notes: list[str]
) -> Proof | None:
    """Checks what the original file and the written one compute in ONNX Runtime."""
    inputs = {net.inputs[0].name: image}
    with tempfile.TemporaryDirectory(prefix="convsmith-") as folder:
        original = Path(net.source)
        if original.suffix.lower() != ".onnx" or not original.is_file():
            original = Path(folder, "original.onnx")
            save(net, original)
        try:
            return Proof(
                original=_distance(net, original, inputs),
                rewritten=_distance(rewritten, written, inputs),
            )
        except (MissingDependencyError, SourceError) as error:
            notes.append(f"The written file was not run: {error}")
            return None


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
