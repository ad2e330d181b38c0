"""Reading images from disk: what is read, what is skipped, and what is said about it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from convsmith.errors import ConvsmithError, UsageError
from convsmith.sources import data
from convsmith.sources.data import Dataset, read_data

Array = npt.NDArray[Any]
ANY_RGB = (3, None, None)
ANY_GRAY = (1, None, None)


def save(path: Path, *, size: tuple[int, int] = (6, 8), seed: int = 0, **options: Any) -> Array:
    """Writes a random RGB picture of (height, width) and returns its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def everything(dataset: Dataset) -> Array:
    return np.concatenate([batch.images for batch in dataset])


def names(dataset: Dataset) -> list[str]:
    return [name for batch in dataset for name in batch.names]


def message(where: Path | str, **options: Any) -> str:
    with pytest.raises(ConvsmithError) as error:
        read_data(where, **{"shape": ANY_RGB, **options})
    return str(error.value)


# Pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".PNG"])
def test_pixels_become_floats_between_0_and_1(tmp_path: Path, suffix: str) -> None:
    pixels = save(tmp_path / f"a{suffix}")
    (batch,) = read_data(tmp_path, shape=ANY_RGB)
    assert batch.images.dtype == np.float32
    assert batch.labels is None
    assert batch.targets is None
    np.testing.assert_array_equal(batch.images[0], pixels.transpose(2, 0, 1) / np.float32(255))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_read(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / f"a{suffix}")
    image = everything(read_data(tmp_path, shape=(3, 16, 16)))[0]
    np.testing.assert_allclose(image[:, 8, 8] * 255, (200, 100, 50), atol=4)


def test_mean_and_std_normalize_per_channel_or_all_alike(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    plain = everything(read_data(tmp_path, shape=ANY_RGB))
    mean, std = (0.1, 0.2, 0.3), (2, 4, 8)
    column = (1, 3, 1, 1)
    np.testing.assert_allclose(
        everything(read_data(tmp_path, shape=ANY_RGB, mean=mean, std=std)),
        (plain - np.reshape(mean, column)) / np.reshape(std, column),
        atol=1e-6,
    )
    half = everything(read_data(tmp_path, shape=ANY_RGB, mean=[0.5]))
    np.testing.assert_allclose(half, plain - 0.5, atol=1e-6)
    assert half.dtype == np.float32


def test_one_channel_is_pillows_luma(tmp_path: Path) -> None:
    pixels = save(tmp_path / "a.png")
    luma = np.asarray(Image.fromarray(pixels).convert("L"))
    image = everything(read_data(tmp_path, shape=ANY_GRAY))
    np.testing.assert_array_equal(image[0, 0], luma / np.float32(255))


def test_an_open_number_of_channels_takes_what_the_file_holds(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 7).save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(4, 4))
    shapes = [b.images.shape for b in read_data(tmp_path, shape=(None, None, None))]
    assert shapes == [(1, 1, 4, 4), (1, 3, 4, 4)]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_not_clipped_to_8(tmp_path: Path, name: str) -> None:
    pixels = np.array([[0, 255, 256], [1000, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / name)
    expected = pixels / np.float32(65535)
    np.testing.assert_array_equal(everything(read_data(tmp_path, shape=ANY_GRAY))[0, 0], expected)
    colour = everything(read_data(tmp_path, shape=ANY_RGB))
    np.testing.assert_array_equal(colour[0], np.stack([expected] * 3))


def test_floats_in_a_tiff_are_taken_as_they_are(tmp_path: Path) -> None:
    pixels = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(everything(read_data(tmp_path, shape=ANY_GRAY))[0, 0], pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_and_luma(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(
        tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    )
    for shape in (ANY_RGB, ANY_GRAY):
        image = everything(read_data(tmp_path, shape=shape))
        np.testing.assert_array_equal(image, np.ones((1, shape[0] or 0, 4, 4)))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.save(tmp_path / "a.png", transparency=b"\x00\x80")
    image = everything(read_data(tmp_path, shape=ANY_RGB))
    np.testing.assert_array_equal(image[0, :, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = save(tmp_path / "a.png", exif=exif)
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    image = everything(read_data(tmp_path, shape=ANY_RGB))[0]
    np.testing.assert_array_equal(image, expected.transpose(2, 0, 1) / np.float32(255))


def test_one_picture_can_be_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    assert names(read_data(tmp_path / "a.png", shape=ANY_RGB)) == ["a.png"]


# Batches -----------------------------------------------------------------------------------


def test_neighbours_of_one_size_are_batched(tmp_path: Path) -> None:
    for index, side in enumerate((8, 8, 8, 8, 9, 8)):
        save(tmp_path / f"{index}.png", size=(side, 8))
    dataset = read_data(tmp_path, shape=ANY_RGB, batch=3)
    for _ in range(2):  # iterable many times
        assert [batch.images.shape[0] for batch in dataset] == [3, 1, 1, 1]
    assert (len(dataset), dataset.count) == (6, 6)
    assert dataset.sizes == ((8, 8), (9, 8))
    assert (dataset.kind, dataset.class_names, dataset.skipped) == ("plain", (), ())


def test_large_images_make_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        save(tmp_path / f"{index}.png", size=(8, 8))
    monkeypatch.setattr(data, "BATCH_BYTES", 2 * 3 * 8 * 8 * 4)
    sizes = [len(batch.images) for batch in read_data(tmp_path, shape=ANY_RGB)]
    assert sizes == [2, 2, 1]


def test_what_does_not_fit_into_memory_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        save(tmp_path / f"{index}.png", seed=index)
    kept = everything(read_data(tmp_path, shape=ANY_RGB))
    monkeypatch.setattr(data, "KEPT_BYTES", 0)
    dataset = read_data(tmp_path, shape=ANY_RGB)
    np.testing.assert_array_equal(everything(dataset), kept)
    (tmp_path / "1.png").unlink()
    for _ in range(2):  # counted once
        assert names(dataset) == ["0.png", "2.png"]
        assert dataset.skipped == ("1.png: is gone",)
        assert dataset.count == 2


@pytest.mark.parametrize(
    ("many", "limit", "expected"), [(6, 3, "024"), (5, 2, "02"), (3, 9, "012")]
)
def test_a_limit_keeps_an_even_spread(tmp_path: Path, many: int, limit: int, expected: str) -> None:
    for index in range(many):
        save(tmp_path / f"{index}.png")
    found = names(read_data(tmp_path, shape=ANY_RGB, limit=limit))
    assert found == [f"{index}.png" for index in expected]


def test_a_limit_passes_over_what_cannot_be_used(tmp_path: Path) -> None:
    for index in range(6):
        save(tmp_path / f"{index}.png", size=(8, 8) if index % 2 else (9, 9))
    dataset = read_data(tmp_path, shape=(3, 8, 8), limit=3)
    assert names(dataset) == ["1.png", "3.png", "5.png"]
    assert len(dataset.skipped) == 3


# Layouts -----------------------------------------------------------------------------------


def test_one_folder_per_class_gives_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/2.png", "owl/1.png"):
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "readme.txt").write_text("not an image", encoding="utf-8")
    dataset = read_data(tmp_path, shape=ANY_RGB)
    (batch,) = dataset
    assert dataset.kind == "labels"
    assert dataset.class_names == ("cat", "dog", "empty", "owl")
    assert batch.names == ("cat/1.png", "cat/2.png", "dog/1.png", "owl/1.png")
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0, 1, 3]
    assert dataset.skipped == ()


def test_a_limit_keeps_classes_balanced(tmp_path: Path) -> None:
    for label in "abc":
        for index in range(4):
            save(tmp_path / label / f"{index}.png")
    (batch,) = read_data(tmp_path, shape=ANY_RGB, limit=6)
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_lone_class_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png")
    assert message(tmp_path) == (
        f"{tmp_path}: it holds one folder, 'images', which makes no classes to tell apart;"
        f" give '{tmp_path / 'images'}', or one folder per class."
    )


def test_input_and_target_give_pairs(tmp_path: Path) -> None:
    noisy = save(tmp_path / "input" / "a.png", seed=1)
    clean = save(tmp_path / "target" / "a.png", seed=2)
    save(tmp_path / "input" / "b.jpg")
    save(tmp_path / "target" / "b.png")
    save(tmp_path / "input" / "c.png")
    save(tmp_path / "target" / "d.png")
    save(tmp_path / "input" / "e.png", size=(5, 5))
    save(tmp_path / "target" / "e.png", size=(10, 10))
    save(tmp_path / "input" / "f.png")
    (tmp_path / "target" / "f.png").write_bytes(b"nothing")
    save(tmp_path / "g.png")
    dataset = read_data(tmp_path, shape=ANY_RGB, mean=[0.5])
    (batch,) = dataset
    assert dataset.kind == "targets"
    assert batch.names == ("input/a.png", "input/b.jpg")
    assert batch.targets is not None
    np.testing.assert_allclose(batch.images[0], noisy.transpose(2, 0, 1) / 255 - 0.5, atol=1e-6)
    np.testing.assert_allclose(batch.targets[0], clean.transpose(2, 0, 1) / 255, atol=1e-6)
    assert dataset.skipped == (
        "input/c.png: has no partner in target",
        "target/d.png: has no partner in input",
        "g.png: is outside input and target",
        "input/e.png: is 5x5, its target 10x10",
        "input/f.png: its target cannot be read as an image",
    )


def test_folders_that_are_not_read_are_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "more" / "b.png")
    assert read_data(tmp_path, shape=ANY_RGB).skipped == (
        "more/: is a folder beside images, which is not read",
    )
    save(tmp_path / "x" / "y" / "b.png")
    (tmp_path / "a.png").unlink()
    assert read_data(tmp_path, shape=ANY_RGB).skipped == (
        "x/y/: is a folder too deep, which is not read",
    )


# What is skipped ---------------------------------------------------------------------------


def test_damaged_files_are_skipped_with_a_reason(tmp_path: Path) -> None:
    save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    save(tmp_path / "cut.jpg", size=(64, 64))
    jpeg = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "cut.ppm").write_bytes(b"P6 100 100 255\n123")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture", encoding="utf-8")
    (tmp_path / "text.txt").write_text("not a picture", encoding="utf-8")
    Image.new("RGB", (4, 4)).save(tmp_path / "gif.png", format="GIF")
    dataset = read_data(tmp_path, shape=ANY_RGB)
    assert names(dataset) == ["good.png"]
    reasons = dict(reason.split(": ", 1) for reason in dataset.skipped)
    assert set(reasons) == {"cut.png", "cut.jpg", "cut.ppm", "empty.png", "text.png", "gif.png"}
    assert reasons["empty.png"] == "is empty"
    assert reasons["text.png"] == reasons["gif.png"] == "cannot be read as an image"
    assert all(
        reasons[name].startswith("is damaged or truncated (")
        for name in ("cut.png", "cut.jpg", "cut.ppm")
    )


def test_files_cut_or_changed_anywhere_never_crash(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"):
        save(tmp_path / f"whole{suffix}", size=(12, 12))
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        for index in range(12):
            changed = bytearray(whole[: random.integers(1, len(whole))] if index % 2 else whole)
            for place in random.integers(0, len(changed), 4):
                changed[place] = random.integers(256)
            (tmp_path / f"{index}{suffix}").write_bytes(changed)
    dataset = read_data(tmp_path, shape=ANY_RGB)
    assert dataset.count + len(dataset.skipped) == 6 * 13
    assert dataset.count == len(names(dataset)) >= 6


def test_the_wrong_size_is_skipped_not_resized(tmp_path: Path) -> None:
    save(tmp_path / "a.png", size=(40, 40))
    save(tmp_path / "b.png", size=(32, 32))
    save(tmp_path / "c.png", size=(32, 40))
    dataset = read_data(tmp_path, shape=(3, 32, 32))
    assert dataset.skipped == (
        "a.png: is 40x40, the network takes 32x32",
        "c.png: is 32x40, the network takes 32x32",
    )
    assert dataset.count == 1
    assert read_data(tmp_path, shape=(3, 32, None)).count == 2


def test_bombs_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", size=(4, 4))
    save(tmp_path / "b.png", size=(12, 10))
    save(tmp_path / "c.png", size=(50, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_data(tmp_path, shape=ANY_RGB).skipped == (
        "b.png: has 12x10 pixels, more than Pillow's limit of 100",
        "c.png: has more pixels than Pillow's limit of 100",
    )


def test_a_png_that_declares_far_too_much_is_skipped(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    png = bytearray((tmp_path / "a.png").read_bytes())
    png[16:24] = struct.pack(">II", 60000, 60000)
    (tmp_path / "b.png").write_bytes(png)
    (reason,) = read_data(tmp_path, shape=ANY_RGB).skipped
    assert reason.startswith("b.png: ")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    save(outside / "secret.png")
    save(inside / "a.png")
    (inside / "again.png").symlink_to("a.png")
    (inside / "out.png").symlink_to(outside / "secret.png")
    (inside / "lost.png").symlink_to("nowhere.png")
    dataset = read_data(inside, shape=ANY_RGB)
    assert names(dataset) == ["a.png", "again.png"]
    assert dataset.skipped == (
        "lost.png: is a link to nowhere",
        "out.png: is a link out of the folder, which is not followed",
    )
    classes = tmp_path / "classes"
    save(classes / "b" / "1.png")
    (classes / "a").symlink_to(outside)
    dataset = read_data(classes, shape=ANY_RGB)
    assert dataset.skipped == ("a/: is a link out of the folder, which is not followed",)
    assert [batch.labels.tolist() for batch in dataset if batch.labels is not None] == [[1]]
    (tmp_path / "door").symlink_to(inside)
    assert read_data(tmp_path / "door", shape=ANY_RGB).count == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert read_data(tmp_path, shape=ANY_RGB).skipped == ("b.png: is not a regular file",)


def test_names_are_printable(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b\x1b[2J.png").write_bytes(b"nothing")
    (tmp_path / os.fsdecode(b"c\xff.png")).write_bytes(b"nothing")
    assert all(reason.isprintable() for reason in read_data(tmp_path, shape=ANY_RGB).skipped)


# Nothing left ------------------------------------------------------------------------------


def test_nothing_to_read_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    assert message(tmp_path / "no") == (
        f"{tmp_path / 'no'}: there is no such file or folder;"
        " give a folder of images, a .npy or a .npz file."
    )
    assert message(tmp_path) == f"{tmp_path}: the folder is empty; put images into it."
    (tmp_path / "a.txt").touch()
    assert message(tmp_path) == (
        f"{tmp_path}: the folder holds no images; images end in"
        " .png, .jpg, .jpeg, .bmp, .webp, .tif, .tiff, .ppm, .pgm."
    )
    assert message(tmp_path / "a.txt").endswith(
        ".txt files are not known; give a folder of images, a .npy or a .npz file."
    )
    assert "no such file" in message("x" * 5000)


def test_nothing_usable_names_the_first_reasons(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / f"{index}.png", size=(4, 4))
    assert message(tmp_path, shape=(3, 8, 8)) == (
        f"{tmp_path}: none of the 5 images can be used"
        " (0.png: is 4x4, the network takes 8x8; 1.png: is 4x4, the network takes 8x8;"
        " 2.png: is 4x4, the network takes 8x8; and 2 more);"
        " resize them to 8x8, or load the network for their size with --input."
    )


def test_a_network_that_takes_no_pictures_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for shape in ((4, None, None), (3, 8), (3, 8, 8, 8)):
        assert "pictures have 1 channel (luma) or 3 (RGB)" in message(tmp_path, shape=shape)


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for options in (
        {"mean": (1, 2)},
        {"std": (1, 0, 1)},
        {"mean": (float("nan"),)},
        {"batch": 0},
        {"limit": 0},
    ):
        with pytest.raises(UsageError):
            read_data(tmp_path, shape=ANY_RGB, **options)
