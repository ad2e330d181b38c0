"""What distilling recovered, in a terminal."""

from __future__ import annotations

import math

from rich.text import Text

from convsmith.report import wording
from convsmith.report.columns import Column, filled, printed, table
from convsmith.report.rendering import terminal_width, text
from convsmith.rewrite.distilling.result import Distillation, Phase

__all__: list[str] = []

_LEAST = 40
_PHASES = {"blocks": "layer by layer", "whole": "whole network"}


@text.register
def _(result: Distillation, *, width: int | None = None, color: bool = False) -> str:  # type: ignore[type-arg]
    """Renders the outcome in a sentence, then one line a phase."""
    width = max(width or terminal_width(), _LEAST)
    lines = filled(_outcome(result), width, style="green" if result.improved else "yellow")
    if result.stopped:
        lines += filled(f"stopped early: {wording.plain(result.stopped)}", width, style="bold red")
    lines += [Text(), *table(_columns(result.phases), width), Text()]
    lines += filled(_circumstances(result), width, style="dim")
    return printed(lines, color=color)


def _outcome(result: Distillation) -> str:  # type: ignore[type-arg]
    before, after = _number(result.before), _number(result.after)
    name = wording.plain(result.loss)
    if not result.improved:
        return (
            f"held-out loss ({name}) {before}: nothing better was found,"
            " and the network is as it was given"
        )
    lower = ""
    if math.isfinite(result.before) and result.before > 0:
        lower = f", {100 * (1 - result.after / result.before):.1f} % lower"
    return f"held-out loss ({name}) {before} before, {after} after{lower}"


def _columns(phases: tuple[Phase, ...]) -> list[Column]:
    looks = [phase.points for phase in phases]
    return [
        Column(heading="phase", cells=[_PHASES[phase.name] for phase in phases], right=False),
        Column(
            heading="steps",
            cells=[
                f"{phase.steps:,}"
                + (f" of {phase.planned:,}" if phase.steps < phase.planned else "")
                for phase in phases
            ],
        ),
        Column(heading="first loss", cells=[_number(p[0].loss) if p else "" for p in looks]),
        Column(heading="last loss", cells=[_number(p[-1].loss) if p else "" for p in looks]),
        Column(
            heading="best held-out",
            cells=[_number(min(point.held_out for point in p)) if p else "" for p in looks],
            style="bold",
        ),
    ]


def _circumstances(result: Distillation) -> str:  # type: ignore[type-arg]
    layers = len(result.places)
    said = (
        f"{wording.short(result.trained)} parameters trained on {result.images:,} images,"
        f" judged by {result.held_out:,} others; {layers:,} layer{'s' * (layers != 1)} compared;"
        f" {result.seconds:.1f} s"
    )
    return f"{said}; taken up at step {result.resumed:,}" if result.resumed else said


def _number(value: float) -> str:
    """Four digits.

    >>> _number(0.123456), _number(float("inf")), _number(0.0)
    ('0.1235', 'not finite', '0')
    """
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
