"""``convsmith calibrate``: from a folder to a file that a rewrite reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.random_weights import random_network

import convsmith as cs
from convsmith.cli.running import run
from convsmith.rewrite import Calibration

Ran = tuple[int, str, str]
Command = Callable[..., Ran]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and pictures, to work in."""
    cs.save(random_network("3@9 > conv 6 5 p2 > relu > conv 4 3 > gap"), tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    random = np.random.default_rng(0)
    for index in range(5):
        pixels = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def ran(*arguments: str) -> Ran:
        code = run(("calibrate", *arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


ALL = ("net.onnx", "--data", "data", "-o", "net.calibration")


def test_the_file_holds_what_python_would_collect(here: Path, command: Command) -> None:
    code, out, err = command(*ALL, "--mean", ".4,.5,.6", "--std", ".2,.2,.2")
    assert (code, err) == (0, "")
    assert out.startswith("calibration: 2 layers, 5 images, ")
    assert out.endswith("written: net.calibration\n")
    found = Calibration.load("net.calibration")
    wanted = cs.calibrate(cs.load("net.onnx"), "data", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    assert found.images == wanted.images == 5
    pixels = np.stack(
        [np.asarray(Image.open(file)) for file in sorted(Path("data").iterdir())]
    ).transpose(0, 3, 1, 2)
    image = (pixels / 255 - np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / 0.2
    (sample,) = (sample["x"] for sample in found.samples)
    assert sample == pytest.approx(image, abs=1e-5)
    for name, moments in wanted.moments.items():
        assert np.array_equal(found.moments[name].second, moments.second)


def test_a_limit_is_kept(here: Path, command: Command) -> None:
    assert command(*ALL, "--limit", "2")[1].startswith("calibration: 2 layers, 2 images, ")


def test_what_cannot_be_used_is_named(here: Path, command: Command) -> None:
    Image.new("RGB", (5, 5)).save("data/small.png")
    code, _, err = command(*ALL)
    assert code == 0
    assert "skipped small.png: is 5x5, the network takes 9x9" in err
    assert command(*ALL, "--force", "--quiet")[2] == ""


def test_too_few_images_are_mentioned(here: Path, command: Command) -> None:
    cs.save(random_network("3@9 > conv 4 9"), "wide.onnx")  # one window of 243 numbers an image
    _, _, err = command("wide.onnx", *ALL[1:])
    assert "more images would help" in err


def test_nothing_is_overwritten(here: Path, command: Command) -> None:
    Path("net.calibration").write_text("precious", "utf-8")
    code, out, err = command(*ALL)
    assert (code, out) == (2, "")
    assert "this file exists; choose another name or pass --force" in err
    assert Path("net.calibration").read_text("utf-8") == "precious"
    assert command(*ALL, "--force")[0] == 0


BAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no such model": (("nowhere.onnx", *ALL[1:]), "no such file 'nowhere.onnx'"),
    "no such folder": ((ALL[0], "--data", "nowhere", *ALL[3:]), "nowhere: there is no such file"),
    "a mean as a word": ((*ALL, "--mean", "grey"), "--mean: 'grey' is not a list of numbers"),
    "no folder to write to": ((*ALL[:4], "no/where"), "no/where: the folder 'no' does not exist"),
    "no data": ((ALL[0], *ALL[3:]), "Missing option '--data'"),
    "no weights": (("3@9 > conv 4 3", *ALL[1:]), "has no weights, only a shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_leaves_nothing(
    here: Path, command: Command, case: str
) -> None:
    before = sorted(here.rglob("*"))
    arguments, message = BAD[case]
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(here.rglob("*")) == before
