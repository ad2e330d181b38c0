"""Images from .npy and .npz files: layouts, labels, and files that are not to be trusted."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from convsmith.errors import ConvsmithError, DataError
from convsmith.sources import arrays
from convsmith.sources.data import Dataset, read_data

Array = npt.NDArray[Any]
ANY_RGB = (3, None, None)


def everything(dataset: Dataset) -> Array:
    return np.concatenate([batch.images for batch in dataset])


def names(dataset: Dataset) -> list[str]:
    return [name for batch in dataset for name in batch.names]


def message(where: Path | str, **options: Any) -> str:
    with pytest.raises(ConvsmithError) as error:
        read_data(where, **{"shape": ANY_RGB, **options})
    return str(error.value)


def test_uint8_arrays_are_pictures_and_floats_are_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "u8.npy", pictures)
    dataset = read_data(tmp_path / "u8.npy", shape=ANY_RGB, batch=2)
    np.testing.assert_array_equal(
        everything(dataset), pictures.transpose(0, 3, 1, 2) / np.float32(255)
    )
    assert names(dataset)[:2] == ["u8.npy[0]", "u8.npy[1]"]
    assert dataset.sizes == ((4, 6),)
    floats = random.normal(size=(3, 3, 4, 6)) * 10
    for order in ("C", "F"):
        np.save(tmp_path / "f8.npy", np.asarray(floats, order=order))
        images = everything(read_data(str(tmp_path / "f8.npy"), shape=(3, 4, 6)))
        np.testing.assert_array_equal(images, floats.astype(np.float32))


@pytest.mark.parametrize(
    ("stored", "dtype", "shape"),
    [
        ((2, 3, 8, 8), "uint8", (3, 8, 8)),  # channels first, as no other reading fits
        ((2, 8, 8), "uint8", (1, 8, 8)),
        ((2, 8, 8), "float32", (1, 8, 8)),
        ((2, 8, 8, 3), "float16", (3, 8, 8)),
        ((2, 8, 8, 5), "uint16", (5, 8, 8)),
        ((2, 4, 100), "float32", (4, 100)),
        ((2, 1, 4, 4, 4), ">f4", (1, 4, 4, 4)),
        ((2, 7), "float32", (7,)),
    ],
)
def test_layouts_of_arrays(
    tmp_path: Path, stored: tuple[int, ...], dtype: str, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", np.ones(stored, dtype=dtype))
    assert everything(read_data(tmp_path / "a.npy", shape=shape)).shape == (2, *shape)


def test_npz_by_key(tmp_path: Path) -> None:
    images = np.zeros((6, 4, 4, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 2, 1, 0], dtype=np.uint8)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=images, labels=labels)
    assert read_data(path, shape=ANY_RGB).kind == "plain"
    assert read_data(f"{path}:images", shape=ANY_RGB).kind == "plain"
    dataset = read_data(f"{path}:images,labels", shape=ANY_RGB, limit=3)
    (batch,) = dataset
    assert dataset.kind == "labels"
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 2, 1]


def test_npz_errors_list_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    many = np.zeros((6, 4, 4, 3), dtype=np.uint8)
    np.savez(path, train=many, test=many, labels=np.zeros(5, dtype=int), loss=np.zeros(6))
    has = "it has labels, loss, test, train"
    assert message(path) == (
        f"{path}: it holds 2 arrays of images for a network that takes 3x?x?; {has};"
        " name one, for example a.npz:test."
    )
    assert message(f"{path}:x") == f"{path}: it holds no array 'x'; {has}."
    assert has in message(f"{path}:a,b,c")
    assert "6 images and 5 labels" in message(f"{path}:train,labels")
    assert "labels are whole numbers, one per image" in message(f"{path}:train,loss")
    assert "no array of images" in message(path, shape=(5, None, None))
    np.savez(path, images=many, labels=np.full(6, -1))
    assert "classes count from 0" in message(f"{path}:images,labels")


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 8, 8, 4), dtype=np.uint8))
    assert "do not fit a network that takes 3x?x?" in message(path)
    np.save(path, np.zeros((2, 3, 8, 8)))
    assert "images are 8x8, the network takes 9x9" in message(path, shape=(3, 9, 9))
    np.save(path, np.zeros((2, 3, 8, 8), dtype=np.int64))
    assert "its elements are int64; save images as uint8" in message(path)
    np.save(path, np.zeros((0, 3, 8, 8)))
    assert "it holds no images" in message(path)


def test_images_with_nan_are_skipped(tmp_path: Path) -> None:
    images = np.zeros((3, 3, 2, 2), dtype=np.float32)
    images[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", images)
    dataset = read_data(tmp_path / "a.npy", shape=ANY_RGB)
    assert dataset.skipped == ("a.npy[1]: holds NaN or infinity",)
    assert dataset.count == 2


class Trap:
    """What a pickle would run when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        raise_in = os.environ["CONVSMITH_TRAP"]
        return (Path.touch, (Path(raise_in),))  # type: ignore[return-value]


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sprung = tmp_path / "sprung"
    monkeypatch.setenv("CONVSMITH_TRAP", str(sprung))
    trap = np.array([Trap()], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=trap)
    for name in ("a.npy", "a.npz", "a.npz:images"):
        assert "its elements are object, not numbers" in message(tmp_path / name)
    (tmp_path / "b.npy").write_bytes(b"\x80\x04K\x01.")
    assert "cannot be read" in message(tmp_path / "b.npy")
    assert not sprung.exists()


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def test_a_header_cannot_make_us_allocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = header((10**6, 10**5, 10**5, 3)) + b"1234"
    (tmp_path / "a.npy").write_bytes(huge)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", huge)
    for name in ("a.npy", "a.npz"):
        assert "its header declares 30000000000000000 bytes, 4 are there" in message(
            tmp_path / name
        )
    (tmp_path / "a.npy").write_bytes(header((2, -1, 3, 3)))
    assert "it declares the shape (2, -1, 3, 3)" in message(tmp_path / "a.npy")
    monkeypatch.setattr(arrays, "MOST_COMPRESSED_BYTES", 1000)
    np.savez_compressed(tmp_path / "b.npz", images=np.zeros((9, 9, 9, 3), dtype=np.uint8))
    assert "more than the limit of 1000; save it as a .npy file" in message(tmp_path / "b.npz")


def test_damaged_array_files_never_crash(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "whole.npy", images)
    np.savez(tmp_path / "whole.npz", images=images)
    np.savez_compressed(tmp_path / "small.npz", images=images)
    for name in ("whole.npy", "whole.npz", "small.npz"):
        whole = (tmp_path / name).read_bytes()
        path = tmp_path / f"changed{Path(name).suffix}"
        for index in range(60):
            changed = bytearray(whole[: random.integers(0, len(whole))] if index % 2 else whole)
            for place in random.integers(0, max(len(changed), 1), 3 if changed else 0):
                changed[place] = random.integers(256)
            path.write_bytes(changed)
            try:
                read_data(path, shape=ANY_RGB)
            except DataError as error:
                assert str(error).startswith(str(path))  # noqa: PT017 - most do, some do not
