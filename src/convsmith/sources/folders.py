"""The pictures of a folder: which there are, what belongs to them, and what is not read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from convsmith.errors import DataError
from convsmith.sources.pictures import SUFFIXES, UnusableError, decode, listed, printable, shown

__all__ = ["Found", "Item", "Kind", "check_channels", "list_folder", "picture"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]
Kind = Literal["plain", "labels", "targets"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """One image that has not been read yet.

    Attributes:
        name: What it is called in messages.
        read: Gives its pixels, ``(C, *spatial)``, and those of its target.
        label: The index of its class.
    """

    name: str
    read: Callable[[], tuple[Array, Array | None]]
    label: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a folder holds.

    Attributes:
        items: Its images, in the order of their names.
        kind: Which of the three layouts it has.
        class_names: The names of its class folders, sorted; an image's label is an index.
        skipped: What is not read, each as ``NAME: reason``.
    """

    items: tuple[Item, ...]
    kind: Kind
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]


def list_folder(folder: Path, shape: Shape) -> Found:
    """Lists a folder in one of the layouts that open :mod:`convsmith.sources.data`.

    Every visible sub-folder counts as a class, also one without images: a label is an index
    into all of them, as the network was trained.

    Raises:
        DataError: If there are no images in it, or the network takes none.
    """
    place = str(folder)
    root = folder.resolve()
    try:
        pictures, folders = listed(folder)
        empty = not any(folder.iterdir())
    except PermissionError:
        raise DataError(
            "reading it is not permitted", place=place, remedy="change its permissions"
        ) from None
    if empty:
        raise DataError("the folder is empty", place=place, remedy="put images into it")
    inside = {sub.name: sub for sub in folders}
    skipped: list[str] = []
    listing = partial(_list_inside, root=root, skipped=skipped)
    kind: Kind = "plain"
    names: tuple[str, ...] = ()
    if {"input", "target"} <= set(inside):
        kind = "targets"
        items = _pairs(listing(inside["input"]), listing(inside["target"]), root, shape, skipped)
        skipped += [f"{printable(path.name)}: is outside input and target" for path in pictures]
    elif pictures:
        items = [picture(path, root, shape, path.name) for path in pictures]
        skipped += [
            f"{printable(sub.name)}/: is a folder beside images, which is not read"
            for sub in folders
        ]
    else:
        kind = "labels"
        names = tuple(inside)
        items = [
            picture(path, root, shape, f"{name}/{path.name}", label=label)
            for label, (name, sub) in enumerate(inside.items())
            for path in listing(sub)
        ]
    if not items:
        raise _no_images(place, skipped)
    if len(names) == 1:
        raise DataError(
            f"it holds one folder, {printable(names[0])!r}, which makes no classes to tell apart",
            place=place,
            remedy=f"give {str(folder / names[0])!r}, or one folder per class",
        )
    check_channels(shape, place)
    return Found(items=tuple(items), kind=kind, class_names=names, skipped=tuple(skipped))


def _no_images(place: str, skipped: Sequence[str]) -> DataError:
    if skipped:
        shortened = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        return DataError(
            f"the folder holds no images that can be used ({'; '.join(skipped[:3])}{shortened})",
            place=place,
            remedy="give images in it, in input and target, or in one folder per class",
        )
    return DataError(
        "the folder holds no images",
        place=place,
        remedy=f"images end in {', '.join(SUFFIXES)}",
    )


def _list_inside(folder: Path, *, root: Path, skipped: list[str]) -> list[Path]:
    """The pictures of a sub-folder; notes what in it is not followed."""
    name = f"{printable(folder.name)}/"
    if not folder.resolve().is_relative_to(root):
        skipped.append(f"{name}: is a link out of the folder, which is not followed")
        return []
    try:
        pictures, folders = listed(folder)
    except PermissionError:
        skipped.append(f"{name}: reading it is not permitted")
        return []
    skipped += [
        f"{name}{printable(sub.name)}/: is a folder too deep, which is not read" for sub in folders
    ]
    return pictures


def _pairs(
    inputs: Sequence[Path], targets: Sequence[Path], root: Path, shape: Shape, skipped: list[str]
) -> list[Item]:
    """Inputs and targets of one name; the suffix may differ where the stem is unique."""
    by_name = {path.name: path for path in targets}
    by_stem: dict[str, list[Path]] = {}
    for path in targets:
        by_stem.setdefault(path.stem, []).append(path)
    items = []
    used = set()
    for path in inputs:
        same_stem = by_stem.get(path.stem, [])
        target = by_name.get(path.name) or (same_stem[0] if len(same_stem) == 1 else None)
        name = f"input/{printable(path.name)}"
        if target is None:
            skipped.append(f"{name}: has no partner in target")
        else:
            used.add(target)
            items.append(Item(name=name, read=partial(_decode_pair, path, target, root, shape)))
    skipped += [
        f"target/{printable(path.name)}: has no partner in input"
        for path in targets
        if path not in used
    ]
    return items


def _decode_pair(path: Path, target: Path, root: Path, shape: Shape) -> tuple[Array, Array]:
    image = decode(path, shape[0], root)
    try:
        return image, decode(target, len(image), root)
    except UnusableError as reason:
        raise UnusableError(f"its target {reason}") from None


def picture(path: Path, root: Path, shape: Shape, name: str, *, label: int | None = None) -> Item:
    """The item of one picture, read when it is needed."""

    def read() -> tuple[Array, None]:
        return decode(path, shape[0], root), None

    return Item(name=printable(name), read=read, label=label)


def check_channels(shape: Shape, place: str) -> None:
    """Raises a DataError if no picture can be what the network takes."""
    if len(shape) != 3 or shape[0] not in {None, 1, 3}:
        raise DataError(
            f"the network takes {shown(shape)}; pictures have 1 channel (luma) or 3 (RGB)",
            place=place,
            remedy=f"save the inputs as a .npy array (N, {shown(shape).replace('x', ', ')})",
        )
