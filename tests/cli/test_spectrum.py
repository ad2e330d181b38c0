"""The verb on a trained network and on kernels of a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import convsmith as cs
from convsmith.cli.running import run as command
from convsmith.errors import UsageError

RESTORER = Path(__file__).parents[2] / "examples" / "restorer" / "restorer.onnx"
SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = command(["spectrum", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


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
def test_every_form(capsys: pytest.CaptureFixture[str], form: str) -> None:
    code, out, _ = run(capsys, str(RESTORER), "--layer", "conv8", "--format", form)
    assert code == 0
    assert "conv8" in out


@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_text_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    _, out, _ = run(capsys, str(RESTORER))
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
