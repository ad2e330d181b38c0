"""``convsmith rewrite``: a cheaper network and its plan, without the report of ``optimize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    JsonOption,
    QuietOption,
    target,
)
from convsmith.cli.progress import progress
from convsmith.cli.rewriting_options import (
    ExcludeOption,
    FormsOption,
    LatencyOption,
    LimitOption,
    MacsOption,
    MaxLossOption,
    MeanOption,
    MeasureOption,
    MergeOption,
    ModelArgument,
    NonlinearityOption,
    OnlyOption,
    ParamsOption,
    StdOption,
    StrategyOption,
    SummaryOption,
    SweepOption,
    names,
    numbers,
    said,
)
from convsmith.errors import UsageError

if TYPE_CHECKING:
    from convsmith.graph import Graph
    from convsmith.results import Progress, Result
    from convsmith.rewrite import Calibration, Plan, Rewriting, Sweep

__all__ = ["EXAMPLES", "rewrite"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith rewrite network.onnx --data photographs --macs 0.5 -o smaller.onnx

convsmith rewrite network.onnx --calibration network.calibration --latency 0.6 \\
  --measure convsmith,onnxruntime -o faster.onnx

convsmith rewrite network.onnx --calibration network.calibration --plan smaller.plan.json \\
  -o again.onnx

convsmith rewrite network.onnx --data photographs --macs 0.7 --merge --forms stack,spatial \
  --nonlinearity relu -o to_train.onnx

convsmith rewrite network.onnx --calibration network.calibration --sweep 0.3:0.9 \\
  --format html > budgets.html
"""


def rewrite(
    model: ModelArgument,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="What convsmith calibrate wrote. Without it and --data the weights alone are"
            " approximated, which loses much more.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Images to calibrate with instead: pictures, a .npy or .npz file.",
            show_default=False,
        ),
    ] = None,
    macs: MacsOption = None,
    params: ParamsOption = None,
    latency: LatencyOption = None,
    max_loss: MaxLossOption = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Instead of a budget: a plan, perhaps edited. With a calibration its layers are"
            " fitted anew; without one the weights beside it are used.",
            show_default=False,
        ),
    ] = None,
    sweep: SweepOption = None,
    strategy: StrategyOption = "thorough",
    forms: FormsOption = None,
    only: OnlyOption = None,
    exclude: ExcludeOption = None,
    nonlinearity: NonlinearityOption = None,
    merge: MergeOption = False,
    measure: MeasureOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="The .onnx file to write, the plan beside it; or a folder for both.",
            show_default=False,
        ),
    ] = None,
    input: InputOption = None,  # noqa: A002 - the name of the option
    mean: MeanOption = None,
    std: StdOption = None,
    limit: LimitOption = 500,
    json: JsonOption = False,
    form: SummaryOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Replace expensive layers of a trained network by cheaper ones.

    Writes the network and the plan: what stands for which layer, as a file to
    read, edit, compare and use again. Prints what changed, layer by layer, and
    what was lost on the calibration images.

    With --sweep it tries a range of budgets and prints what each of them costs,
    loses and gains; with a budget besides, that network is written.
    """
    where = target(json=json, form=form, file=None, quiet=quiet, force=force)
    means, deviations = numbers(mean, "--mean"), numbers(std, "--std")
    budgets = {"macs": macs, "params": params, "latency": latency, "max_loss": max_loss}
    asked = {name: value for name, value in budgets.items() if value is not None}
    _check(asked, plan, sweep, out, calibration, data)

    from convsmith.optimization import Files
    from convsmith.rewrite import Calibration, Plan, asking
    from convsmith.sources import load, save

    for name, value in asked.items():
        asking.Budget(**{name: value}).given  # noqa: B018 - it raises if that is none
    files = None if out is None else Files.at(out)
    if files is not None:
        files.check(overwrite=force, report=False)
    decided = None if plan is None else Plan.load(plan)
    options: dict[str, Any] = {
        "strategy": strategy,
        "forms": names(forms),
        "only": names(only),
        "exclude": names(exclude) or (),
        "nonlinearity": nonlinearity,
        "merge": merge,
    }
    default = "" if sweep is None else "convsmith"
    runtimes = names(default if measure is None else measure) or ()
    asking.check_options(strategy, options["forms"], runtimes, nonlinearity)
    notes: list[str] = []
    runtimes = asking.runnable(runtimes, notes)
    for note in notes:
        where.warn(f"note: {note}")

    with progress(quiet=quiet) as shown, said(where):
        seen: Calibration | None
        if data is not None:
            from convsmith.evidence import calibrate, open_with_images

            net, images, _ = open_with_images(
                model, data, input, mean=means, std=deviations, limit=limit
            )
            if images.skipped:
                where.warn(f"skipped {len(images.skipped)} images: {images.skipped[0]}, ...")
            seen = calibrate(net, images, progress=shown)
        else:
            seen = None if calibration is None else Calibration.load(calibration)
            net = load(model, input)
        if files is not None:
            files.check_source(net.source)
        result: Result
        made: Rewriting | None
        if sweep is not None:
            result, made = _swept(net, seen, sweep, asked, runtimes, options, shown)
        else:
            result = made = _made(net, seen, asked, decided, runtimes, options, shown)
    if files is not None and made is not None:
        files.model.parent.mkdir(parents=True, exist_ok=True)
        made.plan.save(files.plan, overwrite=force)
        save(made.net, files.model, overwrite=force)
        where.note(f"wrote {files.model}")
        where.note(f"wrote {files.plan}")
    where.deliver(result)


def _check(
    asked: dict[str, float],
    plan: Path | None,
    sweep: str | None,
    out: Path | None,
    calibration: Path | None,
    data: str | None,
) -> None:
    """Checks what goes together, before anything is read.

    Raises:
        UsageError: If options contradict each other or one is missing.
    """
    given = [f"--{name.replace('_', '-')}" for name in asked]
    given += [] if plan is None else ["--plan"]
    if len(given) > 1 or not (given or sweep):
        raise UsageError(
            "exactly one of --macs, --params, --latency, --max-loss and --plan is needed"
            + (f", not {' and '.join(given)}" if given else ""),
            remedy="such as --macs 0.5",
        )
    if sweep is not None:
        from convsmith.rewrite.sweeping import read_budgets

        read_budgets(sweep)
        if given and given[0] in ("--max-loss", "--plan"):
            raise UsageError(
                f"--sweep goes over costs, {given[0]} is none",
                remedy="give --macs, --params or --latency with it",
            )
    if given and out is None:
        raise UsageError("-o is missing", remedy="say where the network goes: -o smaller.onnx")
    if out is not None and not given:
        raise UsageError(
            "-o is where a network goes, and --sweep alone writes none",
            remedy="give a budget such as --macs 0.5, too, or redirect the output",
        )
    if calibration is not None and data is not None:
        raise UsageError("--calibration and --data contradict each other", remedy="give one")


def _made(
    net: Graph,
    calibration: Calibration | None,
    asked: dict[str, float],
    plan: Plan | None,
    runtimes: tuple[str, ...],
    options: dict[str, Any],
    shown: Progress | None,
) -> Rewriting:
    """One network: of a budget, or of a plan."""
    from convsmith.rewrite.reapplying import has_weights, reapply
    from convsmith.rewrite.rewriting import rewrite as rewritten

    if plan is None:
        options = {**options, **asked}
        return rewritten(net, calibration=calibration, measure=runtimes, progress=shown, **options)
    chosen = any(options[name] for name in ("forms", "only", "exclude", "merge", "nonlinearity"))
    if calibration is None and has_weights(plan) and not chosen:
        return reapply(plan, net, runtimes)
    return rewritten(
        net, plan=plan, calibration=calibration, measure=runtimes, progress=shown, **options
    )


def _swept(
    net: Graph,
    calibration: Calibration | None,
    sweep: str,
    asked: dict[str, float],
    runtimes: tuple[str, ...],
    options: dict[str, Any],
    shown: Progress | None,
) -> tuple[Sweep, Rewriting | None]:
    """Many budgets: what they come to, and the network that is written, if one is."""
    from convsmith.rewrite.sweeping import read_budgets
    from convsmith.rewrite.sweeping import sweep as swept

    currency: Any = next(iter(asked), "macs")
    found = swept(
        net,
        sorted({*read_budgets(sweep), *asked.values()}),
        currency=currency,
        calibration=calibration,
        measure=runtimes,
        progress=shown,
        **options,
    )
    return found, found.at(asked[currency]).rewriting if asked else None
