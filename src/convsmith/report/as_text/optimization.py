"""An optimization in a terminal."""

from __future__ import annotations

from rich.text import Text

from convsmith.optimization import Optimization
from convsmith.report import measures, wording
from convsmith.report.as_text.rewriting import (
    advice_lines,
    change_lines,
    heading_lines,
    layer_lines,
    loss_lines,
    note_lines,
)
from convsmith.report.as_text.sweep import sweep_lines
from convsmith.report.columns import filled, printed
from convsmith.report.rendering import terminal_width, text

__all__ = ["SHOWN_REASONS"]

SHOWN_REASONS = 5
"""How many of the skipped images are named."""

_LEAST = 20


@text.register
def _(result: Optimization, *, width: int | None = None, color: bool = False) -> str:
    """Renders what changed, layer by layer, what was lost, and where the files are."""
    width = max(width or terminal_width(), _LEAST)
    style = "bold yellow" if result.faster is False else "bold green"
    lines = [
        *heading_lines(result.source, _asked(result), width),
        *filled(measures.headline(result), width, style=style),
        Text(),
        *change_lines(measures.measures(result), width),
    ]
    if result.speedup is not None:
        lines += filled(f"time: {measures.timing_sentence(result)}", width, style="dim", hanging=2)
    lines += [
        Text(),
        *layer_lines(measures.layers(result.rewriting.plan, result.verification.layers), width),
        *advice_lines(result.rewriting.plan, width),
        Text(),
        *loss_lines(result.verification, width),
    ]
    if result.proof is not None:
        lines += filled(measures.proof_sentence(result), width, hanging=2)
    if result.sweep is not None:
        lines += [Text(), *sweep_lines(result.sweep, width)]
    lines += _remarks(result, width)
    files = (("model", result.files.model), ("plan", result.files.plan))
    lines += [Text(), *(Text(f"{what}: {wording.plain(str(path))}") for what, path in files)]
    return printed(lines, color=color)


def _asked(result: Optimization) -> str:
    sizes = ", ".join(
        f"{wording.plain(name)} {'x'.join(map(str, shape))}"
        for name, shape in result.before.inputs.items()
    )
    images = result.calibration_images
    return (
        f"input {sizes}; budget {measures.budget(result.rewriting.plan)};"
        f" {images} calibration image{'s' if images != 1 else ''}"
    )


def _remarks(result: Optimization, width: int) -> list[Text]:
    lines: list[Text] = []
    if result.skipped:
        count = len(result.skipped)
        lines += [Text(), Text(f"skipped {count} image{'s' if count > 1 else ''}", style="yellow")]
        for reason in result.skipped[:SHOWN_REASONS]:
            lines += filled(f"- {wording.plain(reason)}", width, hanging=2)
        if count > SHOWN_REASONS:
            lines.append(Text(f"- and {count - SHOWN_REASONS} more", style="dim"))
    return [*lines, *note_lines(result.notes, width)]
