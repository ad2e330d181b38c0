from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convsmith.kernel import machine
from convsmith.kernel.emit import Unit
from convsmith.kernel.store import Store, cache_folder, digest
from convsmith.kernel.target import host


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(folder=tmp_path / "code", suffix=".o", limit=10_000)


def test_what_was_written_is_read(store: Store) -> None:
    assert store.read("a") is None
    assert store.write("a", b"code")
    assert store.read("a") == b"code"
    assert (store.count(), store.bytes_used() > 4) == (1, True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:70] + bytes([data[70] ^ 1]) + data[71:],
        lambda data: b"",
        lambda data: b"something else",
    ],
    ids=["cut", "longer", "one bit", "empty", "foreign"],
)
def test_a_damaged_blob_is_not_returned_and_goes(store: Store, damage: object) -> None:
    assert callable(damage)
    store.write("a", b"machine code " * 10)
    path = store.folder / "a.o"
    path.write_bytes(damage(path.read_bytes()))
    assert store.read("a") is None
    assert not path.exists()


def test_a_blob_under_another_name_is_not_returned(store: Store) -> None:
    store.write("a", b"code of a")
    (store.folder / "a.o").rename(store.folder / "b.o")
    assert store.read("b") is None


def test_the_blobs_unused_for_longest_go_first(store: Store) -> None:
    for number, name in enumerate("abc"):
        store.write(name, bytes(3_000))
        os.utime(store.folder / f"{name}.o", (1000 + number, 1000 + number))
    assert store.read("a") is not None  # a use: now b is the oldest
    store.write("d", bytes(3_000))
    assert [name for name in "abcd" if store.read(name) is not None] == ["a", "c", "d"]
    assert store.bytes_used() <= store.limit


def test_a_blob_larger_than_the_limit_is_not_kept(store: Store) -> None:
    assert not store.write("a", bytes(20_000))
    assert store.count() == 0


def test_clearing_leaves_other_files_alone(store: Store) -> None:
    store.write("a", b"1")
    store.write("b", b"2")
    mine = store.folder / "notes.txt"
    mine.write_text("keep")
    assert store.clear() == 2
    assert [path.name for path in store.folder.iterdir()] == ["notes.txt"]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of POSIX")
def test_a_folder_that_others_may_write_to_is_not_used(store: Store) -> None:
    store.write("a", b"code")
    store.folder.chmod(0o777)
    assert not store.trusted()
    assert store.read("a") is None
    assert not store.write("b", b"code")


def test_a_folder_that_cannot_be_made_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = Store(folder=tmp_path / "file" / "code", suffix=".o")
    assert not store.write("a", b"code")
    assert store.read("a") is None
    assert store.clear() == 0


def test_the_folder_is_private(store: Store) -> None:
    store.write("a", b"code")
    assert store.folder.stat().st_mode & 0o077 == 0


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONVSMITH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CONVSMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "xdg" / "convsmith"


def test_a_digest_separates_its_parts() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("a") == digest(b"a")


# Compiling through the store -------------------------------------------------------


def _writes(value: float, log: list[float]) -> object:
    def write(unit: Unit) -> None:
        log.append(value)
        with unit.kernel("set") as code:
            code.pointer(0).store(code.scalar(value))

    return write


def test_code_is_written_once_per_key_and_found_on_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONVSMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "_loaded", {})
    log: list[float] = []
    write = _writes(1.0, log)
    machine.compiled("test set", host(), ("set",), write)  # type: ignore[arg-type]
    machine.compiled("test set", host(), ("set",), write)  # type: ignore[arg-type]
    assert log == [1.0]
    monkeypatch.setattr(machine, "_loaded", {})  # as in another process
    machine.compiled("test set", host(), ("set",), write)  # type: ignore[arg-type]
    assert log == [1.0]
    (blob,) = (tmp_path / "code").iterdir()
    blob.write_bytes(blob.read_bytes()[:-9])
    monkeypatch.setattr(machine, "_loaded", {})
    machine.compiled("test set", host(), ("set",), write)  # type: ignore[arg-type]
    assert log == [1.0, 1.0]
    machine.compiled("test set", host().with_lanes(4), ("set",), write)  # type: ignore[arg-type]
    assert log == [1.0, 1.0, 1.0]


def test_processes_that_compile_the_same_do_each_other_no_harm(tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "from convsmith import conv2d\n"
        "x = np.ones((1, 2, 6, 6), 'f4')\n"
        "print(conv2d(x, np.ones((3, 2, 3, 3), 'f4'), algorithm='direct').sum())"
    )
    environment = {**os.environ, "CONVSMITH_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [process.communicate(timeout=300)[0].strip() for process in running] == ["864.0"] * 3
    store = Store(folder=tmp_path / "code", suffix=".o")
    assert store.count() > 0
    assert all(
        store.read(path.name.removesuffix(".o")) is not None for path in store.folder.iterdir()
    )
