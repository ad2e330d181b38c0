"""The picture that fields are shown on, as the network would take it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from convsmith.errors import DataError
from convsmith.graph import Shape
from convsmith.sources.pictures import UnusableError, decode

__all__ = ["Picture", "picture_of", "read_picture"]

MOST_PIXELS = 448
"""Height and width of a picture in a page, at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A picture.

    Attributes:
        name: The name of its file.
        pixels: ``(height, width, 3)`` or ``(height, width)``, uint8.
        cropped: Whether something was cut off to fit the network's input.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    cropped: bool


def read_picture(path: str | PathLike[str], image: Shape) -> Picture:
    """Reads a picture, cuts its middle to the shape of an input, and makes it small enough.

    Args:
        path: A PNG, JPEG, BMP, WebP, TIFF, PPM or PGM file.
        image: The image axes of the input; with other than two, nothing is cut.

    Raises:
        DataError: If it cannot be read as a picture.
    """
    file = Path(path)
    try:
        decoded: npt.NDArray[Any] = decode(file, None, file.resolve().parent)
    except UnusableError as reason:
        raise DataError(
            f"the picture {reason}", place=str(path), remedy="give a PNG or JPEG file"
        ) from None
    if decoded.dtype.kind == "f":
        pixels = np.rint(np.clip(np.nan_to_num(decoded), 0, 1) * 255)
    else:
        pixels = decoded / (np.iinfo(decoded.dtype).max / 255)
    small = pixels.round().astype(np.uint8)
    picture = Image.fromarray(small.transpose(1, 2, 0) if len(small) == 3 else small[0])
    height, width = small.shape[1:]
    cut = (width, height)
    if len(image) == 2:
        scale = min(height / image[0], width / image[1])
        cut = (max(round(image[1] * scale), 1), max(round(image[0] * scale), 1))
    left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
    picture = picture.crop((left, top, left + cut[0], top + cut[1]))
    return Picture(name=file.name, pixels=_small(picture), cropped=cut != (width, height))


def picture_of(values: npt.NDArray[Any], name: str, image: Shape = ()) -> Picture | None:
    """Makes a picture of values as a network takes them; ``None`` if they are no picture.

    Args:
        values: ``(C, H, W)`` between 0 and 1; one or three channels are a picture.
        name: What to call it.
        image: The image axes of the input; of larger values the middle is shown.

    >>> picture_of(np.ones((1, 2, 3)), "white").pixels.tolist()
    [[255, 255, 255], [255, 255, 255]]
    """
    if values.ndim != 3 or len(values) not in (1, 3) or 0 in values.shape:
        return None
    whole = values.shape
    if len(image) == 2:
        top, left = (max(size - room, 0) // 2 for size, room in zip(whole[1:], image, strict=True))
        values = values[:, top : top + image[0], left : left + image[1]]
    pixels = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    made = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    return Picture(name=name, pixels=_small(made), cropped=values.shape != whole)


def _small(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Makes a picture small enough for a page."""
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(picture)
