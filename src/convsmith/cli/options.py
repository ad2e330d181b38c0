"""What the verbs have in common: options, and where results and messages go."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convsmith.cli.completing import sources
from convsmith.errors import UsageError

if TYPE_CHECKING:
    from convsmith.results import Result

__all__ = [
    "ConventionOption",
    "DebugOption",
    "ForceOption",
    "FormatOption",
    "InputOption",
    "JsonOption",
    "OutputOption",
    "QuietOption",
    "SourceArgument",
    "StrictOption",
    "Target",
    "target",
]

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="An .onnx file, notation such as '3@32 > conv 8 3 > relu', zoo:NAME, or"
        " pkg.module:factory of a torch module.",
        show_default=False,
        autocompletion=sources,
    ),
]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="SIZES",
        help="Sizes of the input, such as 1,3,224,224; of several: image=1,3,8,8;mask=1,1,8,8.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="text, json, csv, markdown or html; by default what the name after -o ends in,"
        " else text.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to a file.", show_default=False),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, no notes: only results.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
ConventionOption = Annotated[
    str,
    typer.Option(
        "--convention", metavar="NAME", help="Count as a tool or a paper does: thop, fvcore, ..."
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit with 1 if the costs of a layer are not known.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]

_NAMED = 10
"""So many layers are named in a warning."""

_ENDINGS = {
    ".txt": "text",
    ".json": "json",
    ".csv": "csv",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".sarif": "sarif",
    ".png": "png",
    ".svg": "svg",
}


class Target:
    """Where one result goes, and in which form."""

    def __init__(self, form: str, file: Path | None, *, quiet: bool, force: bool) -> None:
        self.form = form
        self.file = file
        self.quiet = quiet
        self.force = force

    def deliver(self, result: Result) -> None:
        """Prints the result, or writes it to the file.

        Raises:
            OutputError: If the file exists and ``--force`` was not given, or cannot be written.
        """
        from convsmith.files import write_atomically
        from convsmith.report import PICTURES, picture, render
        from convsmith.report.wording import encodable

        if self.form in PICTURES:
            made = picture(result, self.form)
            if self.file is None:
                sys.stdout.buffer.write(made)
            else:
                write_atomically(self.file, made, overwrite=self.force)
                self.note(f"wrote {self.file}")
            return
        if self.file is None:
            rendered = render(result, self.form, color=_wants_color())
            sys.stdout.write(encodable(rendered, sys.stdout.encoding or "ascii"))
            return
        write_atomically(self.file, render(result, self.form).encode(), overwrite=self.force)
        self.note(f"wrote {self.file}")

    def report_uncounted(self, layers: Sequence[tuple[str, str]], *, strict: bool) -> None:
        """Warns of layers whose costs are not known, also with ``--quiet``.

        Args:
            layers: Their names and operators.
            strict: Whether that is a finding.

        Raises:
            Exit: With code 1, if it is.
        """
        if not layers:
            return
        named = ", ".join(f"{name} ({op})" for name, op in layers[:_NAMED])
        more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
        kind = "error" if strict else "warning"
        self.warn(f"{kind}: not counted, and left out of the totals: {named}{more}.")
        if strict:
            raise typer.Exit(1)

    def warn(self, message: str) -> None:
        """Says something that must not be missed, on stderr, also with ``--quiet``."""
        from convsmith.report.wording import plain

        sys.stderr.write(f"convsmith: {plain(message)}\n")

    def note(self, message: str) -> None:
        """Says something on the side, on stderr, unless ``--quiet``."""
        if not self.quiet:
            sys.stderr.write(f"convsmith: {message}\n")


def target(
    *,
    json: bool,
    form: str | None,
    file: Path | None,
    quiet: bool,
    force: bool,
    further: Sequence[str] = (),
) -> Target:
    """Makes sense of the options that all verbs share, before the work begins.

    Args:
        json: Whether ``--json`` was given.
        form: What ``--format`` says.
        file: What ``-o`` says.
        quiet: Whether to say nothing on the side.
        force: Whether a file may be replaced.
        further: Formats that this verb has besides those of all.

    Raises:
        UsageError: If they contradict each other.
        OutputError: If the file exists and ``force`` was not given, or its folder does not.
    """
    from convsmith.files import check_target
    from convsmith.report import FORMATS

    if json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other", remedy="give one")
    formats = (*FORMATS, *further)
    if form is not None and form not in formats:
        raise UsageError(
            f"there is no format {form!r}", place="--format", remedy=f"use {', '.join(formats)}"
        )
    if json:
        form = "json"
    if file is not None:
        check_target(file, overwrite=force)
        ending = _ENDINGS.get(file.suffix.lower())
        if form is None and ending is not None and ending not in formats:
            raise UsageError(
                f"this verb makes no {file.suffix.lower()} files",
                place=str(file),
                remedy=f"choose a name of {', '.join(formats)}, or give --format",
            )
        form = form or ending
    if form == "png" and file is None and sys.stdout.isatty():
        raise UsageError("a PNG is nothing for a terminal", remedy="write it to a file with -o")
    return Target(form or "text", file, quiet=quiet, force=force)


def _wants_color() -> bool:
    """Colors are for people: a terminal, and no wish to the contrary (https://no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
