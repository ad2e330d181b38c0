"""Writing files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from convsmith.errors import OutputError
from convsmith.files import check_target, write_atomically


def test_a_new_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", b"one", overwrite=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_a_function_may_write_the_content(tmp_path: Path) -> None:
    def content(file: BinaryIO) -> None:
        file.write(b"one, ")
        file.write(b"two")

    write_atomically(tmp_path / "a.txt", content, overwrite=False)
    assert (tmp_path / "a.txt").read_bytes() == b"one, two"


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(OutputError) as error:
        write_atomically(path, b"new", overwrite=False)
    assert str(error.value) == f"{path}: this file exists; choose another name or pass --force."
    assert error.value.exit_code == 2
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"new"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def content(file: BinaryIO) -> None:
        path.write_bytes(b"theirs")
        file.write(b"ours")

    with pytest.raises(OutputError, match="this file exists"):
        write_atomically(path, content, overwrite=False)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"theirs"]


def test_a_dangling_link_counts_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputError, match="this file exists"):
        write_atomically(path, b"new", overwrite=False)


def test_a_file_system_without_links_works_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "a.txt", b"one", overwrite=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def content(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.txt"
    with pytest.raises(OutputError) as error:
        write_atomically(path, content, overwrite=True)
    assert str(error.value) == (
        f"{path}: it cannot be written: No space left on device; choose another name or folder."
    )
    assert not list(tmp_path.iterdir())


def test_the_folder_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "no" / "a.txt"
    with pytest.raises(OutputError) as error:
        write_atomically(path, b"", overwrite=True)
    assert str(error.value) == (
        f"{path}: the folder {str(tmp_path / 'no')!r} does not exist;"
        " create it or choose another one."
    )


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is not a folder; choose another folder"):
        check_target(tmp_path / "file" / "a.txt", overwrite=True)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="this is a folder; give the name of a file"):
        write_atomically(tmp_path, b"", overwrite=True)


def test_permission_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("convsmith.files.tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match="is not permitted; choose another folder"):
        write_atomically(tmp_path / "a.txt", b"", overwrite=True)


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"", overwrite=False)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode
