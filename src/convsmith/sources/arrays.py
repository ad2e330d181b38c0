"""Images and labels from ``.npy`` and ``.npz`` files, opened without trusting them.

Nothing is unpickled. What a header declares is compared with what the file holds before
anything is allocated. Format: NumPy Enhancement Proposal 1, with versions 1.0 and 2.0.
"""

from __future__ import annotations

import lzma
import math
import tokenize
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError
from convsmith.sources.pictures import printable, shown

__all__ = ["MOST_COMPRESSED_BYTES", "images_and_labels", "plain_array"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

MOST_COMPRESSED_BYTES = 4 << 30
"""How large an array may become that a file holds compressed."""

_DAMAGE = (
    BadZipFile,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    tokenize.TokenError,
    zlib.error,
)

_FLOATS = ("float16", "float32", "float64")
_INTEGERS = ("uint8", "uint16")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What an array file says about itself; ``offset`` is where its elements start."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def images_and_labels(path: Path, keys: str, shape: Shape) -> tuple[Array, Array | None]:
    """Opens the images of a file, and its labels when a key names them.

    Args:
        path: A ``.npy`` or ``.npz`` file.
        keys: For ``.npz``: ``""``, ``"images"`` or ``"images,labels"``.
        shape: What the network takes per image, ``(C, *spatial)``.

    Returns:
        The images as ``(N, C, *spatial)``, in the type that the file holds (a ``.npy`` file
        is mapped, not read), and the labels, ``(N,)``.

    Raises:
        DataError: If there is no such array or it cannot be used.
    """
    with _damage(path):
        if path.suffix.lower() == ".npy":
            if keys:
                raise DataError("a .npy file has no keys", remedy="give its name alone")
            images, labels = _open_npy(path), None
        else:
            images, labels = _open_npz(path, keys, shape)
        images = _channels_first(images, shape)
        if labels is not None and len(labels) != len(images):
            raise DataError(f"it holds {len(images)} images and {len(labels)} labels")
        return images, labels


def plain_array(path: Path) -> Array:
    """Opens the one array of a ``.npy`` file, mapped, not read.

    Raises:
        DataError: If it cannot be used.
    """
    if not path.is_file():
        raise DataError("there is no such file", place=str(path), remedy="check the name")
    with _damage(path):
        return _open_npy(path)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Names the file in errors, and turns what a damaged one raises into them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other versions of NumPy
            yield
    except DataError as error:
        raise error.at(str(path)) from None
    except PermissionError:
        raise DataError("reading it is not permitted", place=str(path)) from None
    except _DAMAGE as error:
        raise DataError(
            f"it cannot be read ({printable(str(error) or type(error).__name__)})",
            place=str(path),
            remedy="save it again with numpy.save or numpy.savez",
        ) from None


def _header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"array format {version} is not one of images")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise ValueError(f"its elements are {dtype}, not numbers")
    if any(size < 0 for size in shape):
        raise ValueError(f"it declares the shape {shape}")
    return _Header(shape=shape, fortran=fortran, dtype=dtype, offset=file.tell())


def _check_length(header: _Header, held: int) -> None:
    if header.bytes != held - header.offset:
        raise ValueError(
            f"its header declares {header.bytes} bytes, {held - header.offset} are there"
        )


def _open_npy(path: Path) -> Array:
    with path.open("rb") as file:
        header = _header(file)
        _check_length(header, path.stat().st_size)
    if header.bytes == 0:
        return np.zeros(header.shape, header.dtype)
    return np.memmap(
        path,
        dtype=header.dtype,
        mode="r",
        offset=header.offset,
        shape=header.shape,
        order="F" if header.fortran else "C",
    )


def _open_npz(path: Path, keys: str, shape: Shape) -> tuple[Array, Array | None]:
    with ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        if not members:
            raise DataError("it holds no arrays", remedy="save it again with numpy.savez")
        names = [key.strip() for key in keys.split(",")] if keys else []
        if len(names) > 2 or "" in names:
            raise DataError(
                f"{printable(keys)!r} does not name its arrays",
                remedy=f"write {path.name}:IMAGES or {path.name}:IMAGES,LABELS; {_have(members)}",
            )
        for name in names:
            if name not in members:
                raise DataError(f"it holds no array {printable(name)!r}", remedy=_have(members))
        if not names:
            names = [_only_images(archive, path, members, shape)]
        images = _read_member(archive, path, members[names[0]])
        labels = None
        if len(names) == 2:
            labels = _labels(_read_member(archive, path, members[names[1]]), names[1])
        return images, labels


def _have(members: dict[str, ZipInfo]) -> str:
    return f"it has {', '.join(map(printable, sorted(members)))}"


def _only_images(archive: ZipFile, path: Path, members: dict[str, ZipInfo], shape: Shape) -> str:
    found = []
    for name, info in members.items():
        with archive.open(info) as file:
            header = _header(file)
        if _layout(header.shape, header.dtype, shape) is not None:
            found.append(name)
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} arrays of images" if found else "no array of images"
    example = sorted(found or members)[0]
    raise DataError(
        f"it holds {what} for a network that takes {shown(shape)}",
        remedy=f"{_have(members)}; name one, for example {path.name}:{printable(example)}",
    )


def _read_member(archive: ZipFile, path: Path, info: ZipInfo) -> Array:
    if info.compress_type == ZIP_STORED and info.file_size > path.stat().st_size:
        raise ValueError("it declares more than it holds")
    if info.file_size > MOST_COMPRESSED_BYTES:
        raise DataError(
            f"its array {printable(info.filename)!r} unpacks to {info.file_size} bytes,"
            f" more than the limit of {MOST_COMPRESSED_BYTES}",
            remedy="save it as a .npy file",
        )
    with archive.open(info) as file:
        header = _header(file)
        _check_length(header, info.file_size)
        data = file.read(header.bytes + 1)
    if len(data) != header.bytes:
        raise ValueError(f"its header declares {header.bytes} bytes, {len(data)} are there")
    array = np.frombuffer(data, header.dtype)
    if header.fortran:
        return array.reshape(header.shape[::-1]).transpose()
    return array.reshape(header.shape)


def _labels(labels: Array, key: str) -> Array:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"labels {printable(key)!r} have shape {shown(labels.shape)} and type {labels.dtype}",
            remedy="labels are whole numbers, one per image",
        )
    if labels.size and int(labels.min()) < 0:
        raise DataError(
            f"labels {printable(key)!r} go down to {labels.min()}", remedy="classes count from 0"
        )
    return labels.astype(np.int64)


def _channels_first(images: Array, shape: Shape) -> Array:
    """A view as ``(N, C, *spatial)``."""
    if images.dtype.name not in (*_FLOATS, *_INTEGERS):
        raise DataError(
            f"its elements are {images.dtype}", remedy="save images as uint8 (0 to 255) or float32"
        )
    arrange = _layout(images.shape, images.dtype, shape)
    if arrange is None:
        raise DataError(
            f"images of shape {shown(images.shape)} do not fit a network that takes {shown(shape)}",
            remedy=f"save them as (N, {shown(shape).replace('x', ', ')})",
        )
    images = arrange(images)
    wrong = any(
        want not in (None, have) for want, have in zip(shape[1:], images.shape[2:], strict=True)
    )
    if wrong:
        raise DataError(
            f"images are {shown(images.shape[2:])}, the network takes {shown(shape[1:])}",
            remedy="resize them, or load the network for this size with --input",
        )
    if 0 in images.shape:
        raise DataError("it holds no images", remedy="give at least one")
    return images


def _layout(
    have: tuple[int, ...], dtype: np.dtype[Any], shape: Shape
) -> Callable[[Array], Array] | None:
    """How an array becomes ``(N, C, *spatial)``; ``None`` when it is not one of images.

    Integers are looked at as ``(N, *spatial, C)`` first, as pictures are stored; floats as
    ``(N, C, *spatial)`` first, as networks take them.
    """
    channels = shape[0]
    if dtype.name not in (*_FLOATS, *_INTEGERS):
        return None
    if len(have) == len(shape) and channels == 1 and len(shape) > 1:
        return lambda images: images[:, None]
    if len(have) != len(shape) + 1:
        return None
    first = (1, lambda images: images)
    last = (-1, lambda images: np.moveaxis(images, -1, 1))
    for axis, arrange in (last, first) if dtype.name in _INTEGERS else (first, last):
        if channels is None or have[axis] == channels:
            return arrange
    return None
