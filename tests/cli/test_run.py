"""``convsmith run``: what goes in, what comes out, and what is said about it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.random_weights import random_network

import convsmith as cs
from convsmith.cli.running import run
from convsmith.graph.evaluate import evaluate

Ran = tuple[int, str, str]
NOTATION = "3@12 > conv 8 3 > relu > gap > flatten > fc 10"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def ran(*arguments: object) -> Ran:
        code = run(["run", *map(str, arguments), "--no-tune"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ran


@pytest.fixture
def model(tmp_path: Path) -> Path:
    cs.save(random_network(NOTATION), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_arrays_in_arrays_out(command: Callable[..., Ran], model: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "made.npz"
    code, said, err = command(
        model, "--data", tmp_path / "images.npy", "-o", out, "--runs", 2, "--json"
    )
    data = json.loads(said)
    assert (code, data["schema"], data["images"], data["runs"]) == (0, "convsmith.run/1", 3, 2)
    assert err == f"convsmith: wrote {out}\n"
    net = cs.load(str(model))
    wanted = evaluate(net, {net.inputs[0].name: images})[net.outputs[0].value]
    (summary,) = data["outputs"]
    with np.load(out) as file:
        made = file[summary["name"]]
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)
    assert summary["least"] == pytest.approx(float(made.min()))
    assert summary["greatest"] == pytest.approx(float(made.max()))
    assert summary["mean"] == pytest.approx(float(made.mean()), rel=1e-4)
    for row, top in zip(made, summary["top"], strict=True):
        assert top["places"] == np.argsort(-row)[:5].tolist()


def test_pictures(command: Callable[..., Ran], model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(folder / "small.png")
    code, said, _ = command(
        model, "--data", folder, "--mean", ".5,.5,.5", "--std", ".2", "--runs", 1
    )
    assert code == 0
    assert "a.png: " in said
    assert "skipped 1: small.png" in said


def test_random_numbers_and_a_profile(command: Callable[..., Ran]) -> None:
    code, said, _ = command(NOTATION, "--random", "--runs", 3, "--profile", "--threads", 1)
    assert code == 0
    for part in ("the network has no weights: these are random", "median of 3 runs", "fc1"):
        assert part in said
    assert "1 thread" in said


def test_several_inputs_come_from_one_file(command: Callable[..., Ran], tmp_path: Path) -> None:
    from convsmith.graph import GraphBuilder
    from convsmith.graph.operators import Elementwise

    builder = GraphBuilder()
    for name in ("a", "b"):
        builder.input(name, (2, 3))
    cs.save(builder.build(builder.add(Elementwise(), "a", "b", name="s")), tmp_path / "s.onnx")
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.full((2, 3), 2, np.float32)}
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    code, said, _ = command(tmp_path / "s.onnx", "--data", tmp_path / "in.npz", "--json")
    assert (code, json.loads(said)["outputs"][0]["mean"]) == (0, 3.0)
    np.savez(tmp_path / "one.npz", a=arrays["a"])
    code, _, err = command(tmp_path / "s.onnx", "--data", tmp_path / "one.npz")
    assert (code, "there is no array 'b' in it" in err) == (2, True)
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    code, _, err = command(tmp_path / "s.onnx", "--data", tmp_path / "bad.npz")
    assert (code, "it cannot be read" in err) == (2, True)


def test_other_forms(command: Callable[..., Ran], tmp_path: Path) -> None:
    _, said, _ = command(NOTATION, "--random", "--runs", 0, "--format", "csv")
    assert [row["name"] for row in csv.DictReader(io.StringIO(said))] == ["y"]
    file = tmp_path / "run.md"
    assert command(NOTATION, "--random", "--runs", 1, "--profile", "-o", file)[0] == 0
    assert "| fc1 | fc 10 |" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NOTATION], "there is no data; give --data FILE or FOLDER, or --random"),
        ([NOTATION, "--random", "--data", "x.npy"], "--data and --random contradict each other"),
        ([NOTATION, "--data", "x.npy"], "it has no weights, only shapes"),
        ([NOTATION, "--random", "--runs", "-1"], "--runs"),
        ([NOTATION, "--random", "--mean", "a"], "--mean: 'a' is not a list of numbers"),
        (["nothing.onnx", "--random"], "nothing.onnx"),
    ],
)
def test_bad_usage(command: Callable[..., Ran], arguments: list[str], message: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_no_file_is_replaced_unasked(command: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "made.npz"
    out.write_bytes(b"mine")
    assert command(NOTATION, "--random", "--runs", 0, "-o", out)[0] == 2
    assert out.read_bytes() == b"mine"
    assert command(NOTATION, "--random", "--runs", 0, "-o", out, "--force")[0] == 0
    with np.load(out) as file:
        assert file["y"].shape == (1, 10)
