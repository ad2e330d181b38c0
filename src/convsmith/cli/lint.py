"""``convsmith lint``: what is wrong, wasteful or fragile in a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    JsonOption,
    OutputOption,
    QuietOption,
    SourceArgument,
    target,
)
from convsmith.errors import UsageError

__all__ = ["EXAMPLES", "lint"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith lint network.onnx

convsmith lint zoo:vgg16 --select default,performance --ignore P103

convsmith lint network.onnx --ignore "S301@features.* # trained that way"

convsmith lint network.onnx --write-baseline known.json

convsmith lint network.onnx --baseline known.json --format github
"""

_FORMATS = ("sarif", "github")

_SelectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="RULES",
        help="Names, codes, beginnings of codes or categories, separated by commas; all;"
        " default: correctness, suspicious, numerics.",
        show_default=False,
    ),
]
_IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="RULES",
        help="Rules not to check, as in --select; or 'RULE@LAYER # REASON', one at a time.",
        show_default=False,
    ),
]
_ObjectOption = Annotated[
    str | None,
    typer.Option(
        "--object",
        metavar="SIZE",
        help="The size of the objects to be seen, in pixels: 96 or 96x64.",
        show_default=False,
    ),
]
_AnchorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--anchor",
        metavar="LAYER=SIZE",
        help="The anchor of a layer that predicts boxes, in pixels; may be repeated.",
        show_default=False,
    ),
]
_SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings and suppressions; by default convsmith-lint.toml, if there is one.",
        show_default=False,
    ),
]
_BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline", metavar="FILE", help="Known findings, which do not count.", show_default=False
    ),
]
_WriteOption = Annotated[
    Path | None,
    typer.Option(
        "--write-baseline",
        metavar="FILE",
        help="Write all findings to a baseline instead of showing them.",
        show_default=False,
    ),
]
_FormOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="text, json, csv, markdown, html, sarif or github; by default what the name after"
        " -o ends in, else text.",
        show_default=False,
    ),
]


def lint(
    source: SourceArgument,
    input: InputOption = None,  # noqa: A002 - the name of the option
    select: _SelectOption = None,
    ignore: _IgnoreOption = None,
    object: _ObjectOption = None,  # noqa: A002 - the name of the option
    anchor: _AnchorOption = None,
    config: _SettingsOption = None,
    baseline: _BaselineOption = None,
    write_baseline: _WriteOption = None,
    json: JsonOption = False,
    form: _FormOption = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Find what is wrong, wasteful or fragile in a network.

    Each finding has a rule; convsmith rule NAME explains it.

    The exit code is 1 if there are findings, 0 if there are none.
    """
    where = target(json=json, form=form, file=output, quiet=quiet, force=force, further=_FORMATS)
    if write_baseline is not None:
        from convsmith.files import check_target

        check_target(write_baseline, overwrite=force)

    from convsmith.linting import Settings, read_settings
    from convsmith.linting import lint as linted
    from convsmith.linting.suppressing import SETTINGS_FILE

    if config is None and Path(SETTINGS_FILE).is_file():
        config = Path(SETTINGS_FILE)
        where.note(f"settings of {config}")
    settings = read_settings(config) if config is not None else Settings()
    size, anchors = _size(object), _anchors(anchor or [])

    from convsmith.sources import load

    result = linted(
        load(source, input),
        select=_words(select or []) or settings.select or "default",
        ignore=[*settings.ignore, *_words(ignore or [])],
        suppressions=settings.suppressions,
        object_size=size or settings.object_size,
        anchors={**settings.anchors, **anchors},
        baseline=baseline,
    )
    if write_baseline is not None:
        from convsmith.linting.baseline import write_baseline as write

        known = (*result.findings, *result.baselined)
        write(write_baseline, known, overwrite=force)
        where.note(f"wrote {write_baseline}, {len(known)} finding{'s' * (len(known) != 1)}")
        return
    where.deliver(result)
    if result:
        raise typer.Exit(1)


def _words(given: list[str]) -> list[str]:
    """The rules of options that may name several; a suppression is one, commas and all."""
    words = []
    for text in given:
        parts = [text] if "@" in text else text.split(",")
        words += [part.strip() for part in parts if part.strip()]
    return words


def _positive(text: str, option: str, example: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise UsageError(
            f"{text!r} is no size in pixels", place=option, remedy=f"such as {example}"
        )
    return int(text)


def _size(given: str | None) -> tuple[int, ...]:
    return tuple(_positive(part, "--object", "96x64") for part in (given or "").split("x") if given)


def _anchors(given: list[str]) -> dict[str, int]:
    anchors = {}
    for text in given:
        layer, _, size = text.rpartition("=")
        if not layer:
            raise UsageError(
                f"{text!r} names no layer", place="--anchor", remedy="such as conv4=32"
            )
        anchors[layer] = _positive(size, "--anchor", "conv4=32")
    return anchors
