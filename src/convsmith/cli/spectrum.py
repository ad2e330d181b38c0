"""``convsmith spectrum``: kernels as the filters that they are, images before and after them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convsmith.cli.completing import layers, sources
from convsmith.cli.opening import opened
from convsmith.cli.options import (
    DebugOption,
    ForceOption,
    InputOption,
    JsonOption,
    OutputOption,
    QuietOption,
    target,
)
from convsmith.cli.rewriting_options import MeanOption, StdOption, numbers
from convsmith.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from convsmith.signal import ImageSpectrum, Spectrum

__all__ = ["EXAMPLES", "spectrum"]

EXAMPLES = """
[bold]Examples[/bold]

convsmith spectrum network.onnx

convsmith spectrum network.onnx --layer conv1 -o filters.png

convsmith spectrum kernels.npy --json

convsmith spectrum photograph.jpg --filter gaussian:1.5

convsmith spectrum photograph.jpg --through network.onnx --layer conv1 -o maps.html
"""

LARGEST = 1024
"""Height and width of an image that is looked at: of larger ones the middle."""

LARGEST_THROUGH = 512
"""The same of what goes through a network of open size."""


def spectrum(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A trained network: an .onnx file or pkg.module:factory of a torch module; or"
            " kernels in an .npy file, (h, w), (n, h, w) or (K, C, h, w); or an image.",
            show_default=False,
            autocompletion=sources,
        ),
    ],
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Show its kernels one by one; of --through, its maps.",
            show_default=False,
            autocompletion=layers,
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option("--size", metavar="N", help="Frequencies per axis of what is shown or saved."),
    ] = 32,
    most: Annotated[
        int, typer.Option("--most", metavar="N", help="How many kernels or maps are shown.")
    ] = 256,
    filter: Annotated[  # noqa: A002 - the name of the option
        str | None,
        typer.Option(
            "--filter",
            metavar="NAME",
            help="Send the image through box:N, gaussian:SIGMA, sobel-x, sobel-y, laplacian or"
            " gabor:WAVE[:DEGREES[:SIGMA]], in pixels.",
            show_default=False,
        ),
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            "--through",
            metavar="MODEL",
            help="Send the image through a trained network, up to --layer.",
            show_default=False,
            autocompletion=sources,
        ),
    ] = None,
    mean: MeanOption = None,
    std: StdOption = None,
    input: InputOption = None,  # noqa: A002 - the name of the option
    json: JsonOption = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="text, json, csv, markdown, html, png or svg; by default what the name after -o"
            " ends in, else text.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    force: ForceOption = False,
    debug: DebugOption = False,
) -> None:
    """Show which frequencies the kernels of a network pass, stop and turn.

    Low-pass, high-pass, band-pass, with direction; how separable a kernel is; how much of
    its energy a stride folds (aliasing).

    Of an image: where its power lies, before and after a filter or the layers of a network.
    """
    where = target(
        json=json, form=form, file=output, quiet=quiet, force=force, further=("png", "svg")
    )

    from convsmith.sources.pictures import SUFFIXES

    if size < 2 or most < 1:
        raise UsageError(
            f"size {size} and most {most} show nothing", remedy="give a size of 2 or more"
        )
    if source.lower().endswith(SUFFIXES):
        where.deliver(_of_image(source, filter, through, layer, input, size, most, mean, std))
        return
    if filter is not None or through is not None:
        raise UsageError(
            f"{'--filter' if filter is not None else '--through'} is for images",
            place=source,
            remedy=f"give a file that ends in {', '.join(SUFFIXES)}",
        )
    where.deliver(_of_kernels(source, layer, input, size, most))


def _of_kernels(
    source: str, layer: str | None, sizes: str | None, size: int, most: int
) -> Spectrum:
    from convsmith.signal import spectrum as looked
    from convsmith.sources.arrays import plain_array

    if source.lower().endswith(".npy"):
        return looked(plain_array(Path(source)), layer, size=size, most=most)
    # Kernels do not depend on the size: any that fits will do.
    return looked(opened(source, sizes), layer, size=size, most=most)


def _of_image(
    source: str,
    filter: str | None,  # noqa: A002 - the name of the option
    through: str | None,
    layer: str | None,
    sizes: str | None,
    size: int,
    most: int,
    mean: str | None,
    std: str | None,
) -> ImageSpectrum:
    from convsmith.report.drawings.png import middle
    from convsmith.signal import image_spectrum
    from convsmith.sources.data import read_data

    means, deviations = numbers(mean, "--mean"), numbers(std, "--std")

    def read(channels: int | None, **around: tuple[float, ...]) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = next(iter(
            read_data(source, shape=(channels, None, None), **around)  # type: ignore[arg-type]
        )).images[0]  # fmt: skip
        return found

    if filter is not None and through is not None:
        raise UsageError("--filter and --through contradict each other", remedy="give one")
    if layer is not None and through is None:
        raise UsageError(
            f"there is no network that has a layer {layer!r}", remedy="give it with --through"
        )
    if through is None:
        image = middle(read(None, mean=means, std=deviations), LARGEST, LARGEST)
        return image_spectrum(image, filter=filter, size=size, source=source)
    high, wide = (min(n, LARGEST_THROUGH) for n in read(None).shape[1:])
    net = opened(through, sizes, image=(high, wide))
    wanted = net.inputs[0].shape
    if len(wanted) != 4:
        raise UsageError(
            f"its input has {len(wanted)} axes, an image with its batch has 4",
            place=through,
            remedy="give a network of images",
        )
    image = middle(read(wanted[1], mean=means, std=deviations), wanted[2], wanted[3])
    return image_spectrum(image, through=net, layer=layer, size=size, most=most, source=source)
