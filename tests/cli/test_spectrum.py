"""The verb on a trained network and on kernels of a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.random_weights import random_network

import convsmith as cs
from convsmith.cli.running import run as command
from convsmith.errors import UsageError

RESTORER = Path(__file__).parents[2] / "examples" / "restorer" / "restorer.onnx"
"""It has 11,104 kernels, which take seconds."""
SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = command(["spectrum", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a network of few kernels."""
    file = tmp_path_factory.mktemp("spectrum") / "network.onnx"
    net = random_network("1@32 > conv 8 9 p4 > relu > conv 8 5 p2 > relu > conv 4 3/2 p1")
    cs.save(net, file)
    return str(file)


def test_a_network_whose_size_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(RESTORER), "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made["schema"] == "convsmith.spectrum/1"
    assert [layer["name"] for layer in made["layers"]] == [f"conv{i}" for i in range(1, 9)]
    assert made["layers"][1]["kernels"] == 1024
    first = made["kernels"][0]
    assert np.shape(first["magnitude"]) == (32, 32)
    # Parseval, from what was printed: mean power is the kernel's energy.
    taps = np.array(first["taps"])
    assert np.mean(np.square(first["magnitude"])) == pytest.approx((taps**2).sum())


@pytest.mark.parametrize("form", ["text", "csv", "markdown", "html"])
def test_every_form(capsys: pytest.CaptureFixture[str], network: str, form: str) -> None:
    code, out, _ = run(capsys, network, "--layer", "conv3", "--format", form)
    assert code == 0
    assert "conv3" in out


@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_text_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, network: str, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    _, out, _ = run(capsys, network)
    assert "conv3" in out
    assert max(map(len, out.splitlines())) <= max(int(width), 76)


def test_kernels_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "kernels.npy", np.stack([SOBEL, SOBEL.T, np.ones((3, 3))]))
    code, out, _ = run(capsys, str(tmp_path / "kernels.npy"), "--json")
    assert code == 0
    kinds = [(k["kind"], k["direction"]) for k in json.loads(out)["kernels"]]
    assert kinds == [("band-pass", 0), ("band-pass", 90), ("low-pass", None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.npy"], "nothing.npy: there is no such file; check the name."),
        (["3@32 > conv 8 3"], "no convolution has weights and a kernel"),
        ([str(RESTORER), "--layer", "conv9"], "no convolution to look at is called 'conv9'"),
        ([str(RESTORER), "--size", "1"], "size 1 and most 256 show nothing"),
    ],
)
def test_what_cannot_be_shown(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_objects_in_a_file_are_not_unpickled(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    code, _, err = run(capsys, str(tmp_path / "evil.npy"))
    assert code == 2
    assert "evil.npy" in err


def test_from_python() -> None:
    made = cs.spectrum(np.stack([[SOBEL, SOBEL.T]]), most=1)
    assert (made.kernels[0].character.label, made.left_out) == ("band-pass 0°", 1)
    assert made.layers[0].kinds == (("band-pass", 2),)
    with pytest.raises(UsageError, match=r"complex128 of shape \(3,\) is no kernel"):
        cs.spectrum(np.ones(3, complex))


def test_groups_and_strides_of_a_layer(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Conv2d(4, 4, (3, 1), stride=2, groups=2, bias=False)
    net = cs.load(module, input=(1, 4, 8, 8))
    made = cs.spectrum(net)
    assert [(k.filter, k.channel) for k in made.kernels] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3),
    ]  # fmt: skip
    assert (made.layers[0].kernel, made.layers[0].stride) == ((3,), (2,))


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    from PIL import Image

    y, x = np.mgrid[0:40, 0:48]
    pixels = 127 + 60 * np.cos(x / 2) + 60 * np.cos(y / 9)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


def test_an_image_before_and_after_a_filter(
    capsys: pytest.CaptureFixture[str], photograph: Path
) -> None:
    code, out, err = run(capsys, str(photograph), "--filter", "gaussian:3", "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made["schema"] == "convsmith.image-spectrum/1"
    assert made["kernel"]["kind"] == "low-pass"
    assert made["before"]["shape"] == made["after"]["shape"] == [1, 40, 48]
    # Waves of 12.6 and of 57 pixels: a Gaussian of 3 leaves 0.11 and 0.90 of them.
    assert made["after"]["variance"] < 0.6 * made["before"]["variance"]
    for form in ("text", "csv", "markdown", "html"):
        code, out, _ = run(capsys, str(photograph), "--filter", "sobel-x", "--format", form)
        assert code == 0
        assert "after" in out


def test_an_image_through_a_network_of_open_size(
    capsys: pytest.CaptureFixture[str], photograph: Path
) -> None:
    arguments = (str(photograph), "--through", str(RESTORER), "--layer", "conv2", "--json")
    code, out, err = run(capsys, *arguments, "--most", "3")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert (made["layer"], len(made["maps"]), made["left_out"]) == ("conv2", 3, 29)
    assert made["after"]["shape"] == [32, 40, 48]
    code, out, err = run(capsys, *arguments, "--input", "1,1,32,24")
    assert (code, err) == (0, "")
    assert json.loads(out)["before"]["shape"] == [1, 32, 24]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str, ending: str
) -> None:
    file = tmp_path / f"sheet.{ending}"
    code, out, err = run(capsys, network, "--most", "4", "-o", str(file))
    assert (code, out, err) == (0, "", f"convsmith: wrote {file}\n")
    assert file.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<svg ")
    code, _, err = run(capsys, network, "-o", str(file))
    assert code == 2
    assert "--force" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "blur"], "there is no filter 'blur'"),
        (["--layer", "conv1"], "there is no network that has a layer 'conv1'"),
        (["--filter", "box:3", "--through", str(RESTORER)], "contradict each other"),
        (["--through", str(RESTORER), "--layer", "conv"], "no layer is called 'conv'"),
        (["--through", "zoo:vgg16"], "vgg16"),
        (["--through", str(RESTORER), "--input", "1,1,99,99"], "the image is 1x40x48"),
        (["--mean", "a"], "--mean: 'a' is not a list of numbers"),
    ],
)
def test_what_cannot_be_done_to_an_image(
    capsys: pytest.CaptureFixture[str], photograph: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, str(photograph), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "internal" not in err


def test_a_damaged_or_huge_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    chunk += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    (tmp_path / "text.png").write_bytes(b"no picture")
    for name in ("bomb.png", "text.png", "none.png"):
        code, out, err = run(capsys, str(tmp_path / name))
        assert (code, out) == (2, "")
        assert name in err


def test_options_for_images_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(RESTORER), "--filter", "box:3")
    assert code == 2
    assert "--filter is for images" in err
    code, _, err = run(capsys, "3@8 > conv 2 3", "-o", "x.tex")
    assert code == 2
