"""Compiled code on disk, so that a second process starts warm.

One file per compiled unit, named by the digest of everything that can change it: the sources that
write the code, the parameters they were given, the processor, the compiler. A file is written whole
or not at all (:mod:`convsmith.files`), so processes that compile the same thing at once do each
other no harm; its first line carries the digest of the rest, so damage is found, the file dropped
and the code compiled again. The oldest files go when the folder outgrows its limit.

The folder is ``CONVSMITH_CACHE``, else ``convsmith`` in the user's cache folder. A folder that
cannot be written costs the warm start and nothing else. Loading machine code is running it: the
folder is made for its owner alone, and one that others may write to, or that is not the user's
own, is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from convsmith.errors import ConvsmithError
from convsmith.files import write_atomically

__all__ = ["Store", "cache_folder", "code_store", "digest"]

_MAGIC = b"convsmith-store-1 "


def digest(*parts: str | bytes) -> str:
    """Returns a name for some content; the parts cannot run into each other.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    made = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "little"))
        made.update(data)
    return made.hexdigest()


def cache_folder() -> Path:
    """Returns the folder for everything that can be made again."""
    named = os.environ.get("CONVSMITH_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "convsmith"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "convsmith" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convsmith"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Blobs by name in one folder.

    Attributes:
        folder: Where; made when the first blob is kept.
        suffix: How file names end.
        limit: Bytes that the folder may take; the blobs unused for longest go first.
    """

    folder: Path
    suffix: str
    limit: int = 256 << 20

    def read(self, name: str) -> bytes | None:
        """Returns a blob, or ``None`` if there is none or it was damaged."""
        if not self.trusted():
            return None
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        head, _, blob = data.partition(b"\n")
        if head != _MAGIC + digest(name, blob).encode():
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # a use, for the order in which blobs go
        return blob

    def write(self, name: str, blob: bytes) -> bool:
        """Keeps a blob; returns whether that was possible."""
        data = _MAGIC + digest(name, blob).encode() + b"\n" + blob
        if len(data) > self.limit:
            return False
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.trusted():
                return False
            write_atomically(self._path(name), data, overwrite=True)
            self._trim()
        except (OSError, ConvsmithError):
            return False
        return True

    def trusted(self) -> bool:
        """Returns whether the folder exists and nobody but its owner, us, can write to it."""
        try:
            found = self.folder.stat()
        except OSError:
            return False
        if not hasattr(os, "getuid"):
            return True
        return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def bytes_used(self) -> int:
        """Returns the size of all blobs."""
        return sum(found.st_size for _, found in self._files())

    def count(self) -> int:
        """Returns how many blobs there are."""
        return sum(1 for _ in self._files())

    def clear(self) -> int:
        """Removes every blob, nothing else, and returns how many there were."""
        removed = 0
        for path, _ in list(self._files()):
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
        return removed

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f"*{self.suffix}"):
                with contextlib.suppress(OSError):
                    yield path, path.stat()

    def _trim(self) -> None:
        files = sorted(self._files(), key=lambda item: item[1].st_mtime)
        total = sum(found.st_size for _, found in files)
        for path, found in files:
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= found.st_size


@cache
def _code_store(folder: Path) -> Store:
    return Store(folder=folder / "code", suffix=".o")


def code_store() -> Store:
    """Returns the store of compiled code."""
    return _code_store(cache_folder())
