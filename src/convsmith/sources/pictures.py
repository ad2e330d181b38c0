"""Reads one picture file into an array, or says why it cannot be used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

__all__ = ["SUFFIXES", "UnusableError", "decode", "listed", "printable", "shown"]

Array = npt.NDArray[Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""What the names of pictures end in, in either case."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")

_ORIENTATION = 0x0112

# EXIF 2.32, table 6: how a camera was held, and what turns the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers let through when a file is damaged: they check formats, not every index.
_DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


class UnusableError(Exception):
    """One image that is skipped; the message is the reason. Never leaves this room."""


def decode(path: Path, channels: int | None, root: Path) -> Array:
    """Decodes a picture.

    Args:
        path: A PNG, JPEG, BMP, WebP, TIFF, PPM or PGM file; of several pages the first is read.
        channels: 1 for luma (ITU-R 601, as Pillow converts), 3 for RGB, ``None`` for whichever
            the file holds. An alpha channel is dropped.
        root: The folder that links may not lead out of.

    Returns:
        ``(channels, height, width)``, upright: turned as the EXIF orientation says. uint8,
        uint16 (a gray picture of 16 bits) or float32 (a TIFF of floats).

    Raises:
        UnusableError: If it cannot be used, with the reason.
    """
    _check_file(path, root)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            width, height = picture.size
            _check_limit(width, height)
            picture.load()
            turned = _upright(picture)
            pixels = _pixels(turned, channels)
    except UnusableError:
        raise
    except Image.DecompressionBombError:
        raise UnusableError(
            f"has more pixels than Pillow's limit of {Image.MAX_IMAGE_PIXELS}"
        ) from None
    except UnidentifiedImageError:
        raise UnusableError("cannot be read as an image") from None
    except PermissionError:
        raise UnusableError("reading it is not permitted") from None
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableError(f"is damaged or truncated ({printable(reason)})") from None
    if 0 in pixels.shape:
        raise UnusableError("has no pixels")
    return pixels


def _check_file(path: Path, root: Path) -> None:
    try:
        if not path.resolve(strict=True).is_relative_to(root):
            raise UnusableError("is a link out of the folder, which is not followed")
        if not path.is_file():
            raise UnusableError("is not a regular file")
        if path.stat().st_size == 0:
            raise UnusableError("is empty")
    except PermissionError:
        raise UnusableError("reading it is not permitted") from None
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        raise UnusableError("is a link to nowhere" if path.is_symlink() else "is gone") from None


def _check_limit(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise UnusableError(f"has {height}x{width} pixels, more than Pillow's limit of {limit}")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:  # the notes are damaged, the picture is not
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _pixels(picture: Image.Image, channels: int | None) -> Array:
    if picture.mode.startswith("I") or picture.mode == "F":
        gray = _deep(picture)[None]
        return np.repeat(gray, 3, axis=0) if channels == 3 else gray
    if channels is None:
        channels = 1 if picture.mode in {"1", "L", "LA", "La"} else 3
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if channels == 1:
        if picture.mode not in {"1", "L", "LA", "RGB", "RGBA", "P"}:
            picture = picture.convert("RGB")
        return np.asarray(picture.convert("L"))[None]
    return np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def _deep(picture: Image.Image) -> Array:
    """The one channel of a picture with more than 8 bits, which Pillow's ``convert`` would clip."""
    pixels = np.asarray(picture)
    if picture.mode == "F":
        return pixels.astype(np.float32)
    # Mode I has 32 bits; from a PGM file Pillow fills 16 of them.
    if picture.mode == "I" and picture.format != "PPM" and picture.format != "PNG":
        raise UnusableError("holds 32-bit integers; save it with 8 or 16 bits")
    return pixels.astype(np.uint16)


def listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the pictures and the sub-folders of a folder, both sorted by name.

    A picture is what has the suffix of one. Hidden folders and what macOS leaves behind in
    archives are not listed.
    """
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    folders = [
        path
        for path in entries
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    ]
    pictures = [path for path in entries if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    return pictures, folders


def shown(shape: tuple[int | None, ...]) -> str:
    """Sizes as text: ``32x32``, or ``32x?`` where one is open.

    >>> shown((32, None))
    '32x?'
    """
    return "x".join("?" if size is None else str(size) for size in shape)


def printable(text: str) -> str:
    r"""A name as it can be printed: what would move a cursor or has no glyph is escaped.

    >>> printable("a\x1bb.png")
    'a\\x1bb.png'
    """
    return text if text.isprintable() else ascii(text)[1:-1]
