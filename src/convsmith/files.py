"""Writes files whole or not at all.

A reader never sees half a file, and a file that exists is replaced only when that was asked for.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from convsmith.errors import OutputError

__all__ = ["check_source", "check_target", "write_atomically"]


def check_target(path: Path, *, overwrite: bool) -> None:
    """Checks that a file can be written, before the work that makes its content.

    Raises:
        OutputError: If the folder is missing, the path is a folder, or the file exists and
            ``overwrite`` is false.
    """
    folder = path.parent
    if not folder.exists():
        raise OutputError(
            f"the folder {str(folder)!r} does not exist",
            place=str(path),
            remedy="create it or choose another one",
        )
    if not folder.is_dir():
        raise OutputError(
            f"{str(folder)!r} is not a folder", place=str(path), remedy="choose another folder"
        )
    if path.is_dir():
        raise OutputError("this is a folder", place=str(path), remedy="give the name of a file")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise _exists(path)


def check_source(path: Path, source: str) -> None:
    """Checks that the file that is read will still be there when another one is written.

    Args:
        path: What will be written.
        source: Where a network was read from; may be no file at all.

    Raises:
        OutputError: If it would be replaced.
    """
    if path.resolve() == Path(source).resolve():
        raise OutputError(
            "this would replace the network that is read",
            place=str(path),
            remedy="choose another name",
        )


def write_atomically(
    path: Path, data: bytes | Callable[[BinaryIO], None], *, overwrite: bool
) -> None:
    """Writes a file through a temporary one beside it, so that it appears whole or not at all.

    Args:
        path: The file.
        data: Its content, or a function that writes the content to an open file.
        overwrite: Whether a file of this name may be replaced.

    Raises:
        OutputError: If the folder is missing, the path is a folder, writing is not permitted,
            the disk is full, or the file exists and ``overwrite`` is false.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "a.txt"), b"whole", overwrite=False)
    ...     Path(folder, "a.txt").read_bytes()
    b'whole'
    """
    check_target(path, overwrite=overwrite)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        _publish(temporary, path, overwrite)
    except FileExistsError:
        raise _exists(path) from None
    except PermissionError:
        raise OutputError(
            f"writing to {str(path.parent)!r} is not permitted",
            place=str(path),
            remedy="choose another folder",
        ) from None
    except OSError as error:
        raise OutputError(
            f"it cannot be written: {error.strerror or error}",
            place=str(path),
            remedy="choose another name or folder",
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(path)
        return
    try:
        path.hardlink_to(temporary)  # fails when the name was taken meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the best that is left
        if path.exists():
            raise FileExistsError from None
        temporary.replace(path)


def _exists(path: Path) -> OutputError:
    return OutputError(
        "this file exists", place=str(path), remedy="choose another name or pass --force"
    )


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it without setting it
    os.umask(mask)
    return mask
