"""Every example that ``--help`` shows runs, on small files of the names that it uses.

Of those that measure time it is only checked that they are understood.
"""

from __future__ import annotations

import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import onnx
import pytest
from PIL import Image
from tests.random_weights import random_network
from typer.main import get_command

import convsmith as cs
from convsmith import cli
from convsmith.cli.app import app
from convsmith.cli.running import run
from convsmith.linting.baseline import write_baseline

_MEASURING = ("bench", "--measure", "--latency", "--sweep", "--runs")
"""What takes minutes because it measures time; tests of those verbs run them on less."""


def examples() -> list[str]:
    """The commands of all verbs, as they stand."""
    found: dict[str, None] = {}
    for module in iter_modules(cli.__path__):
        loaded = import_module(f"convsmith.cli.{module.name}")
        for name in ("EXAMPLES", "_EXAMPLES"):
            text = getattr(loaded, name, "").replace("\\\n", " ")
            lines = (line for line in text.splitlines() if line.startswith("convsmith "))
            found.update(dict.fromkeys(re.sub(r" +", " ", line) for line in lines))
    return list(found)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    random = np.random.default_rng(0)
    net = random_network("3@32 > conv 8 3 p1 > relu > conv 8 3 p1 > relu > gap > flatten > fc 3")
    cs.save(net, folder / "network.onnx")
    cs.save(net, folder / "classifier.onnx")
    small = random_network("3@32 > conv 8 3 p1 > relu > gap > flatten > fc 3")
    cs.save(small, folder / "smaller.onnx")
    _save_for_any_size(folder / "network.onnx", folder / "any_size.onnx")
    (folder / "photographs").mkdir()
    pixels = random.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "photographs" / f"{index}.png")
    Image.fromarray(pixels[0]).save(folder / "photograph.jpg")
    np.save(folder / "images.npy", random.random((2, 3, 32, 32)).astype(np.float32))
    np.save(folder / "kernels.npy", random.random((3, 3, 3)))
    calibration = cs.calibrate(net, [random.random((8, 3, 32, 32)).astype(np.float32)])
    calibration.save(folder / "network.calibration")
    made = cs.rewrite(net, macs=0.6, calibration=calibration, strategy="fast")
    for name in ("smaller.plan.json", "plan.json"):
        made.plan.save(folder / name)
    (folder / "baseline.json").write_text(cs.analyze(net).to_json(), "utf-8")
    found = cs.bench(net, algorithms=["direct"], peers="none", threads=1, rounds=1)
    (folder / "times.json").write_text(found.to_json(), "utf-8")
    shutil.copy(folder / "plan.json", folder / "edited.plan.json")
    restorer = folder / "examples" / "restorer"
    for kind in ("calibration", "test"):
        shutil.copytree(folder / "photographs", restorer / "photographs" / kind)
    shutil.copy(folder / "network.onnx", restorer / "restorer.onnx")
    write_baseline(folder / "known.json", cs.lint(net).findings)
    return folder


def _save_for_any_size(file: Path, copy: Path) -> None:
    model = onnx.load(file)
    for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if axis != 1:
            dim.dim_param = f"d{axis}"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "d0"
    del model.graph.value_info[:]
    onnx.save(model, copy)


def test_every_verb_has_examples() -> None:
    verbs = {shlex.split(example)[1] for example in examples()}
    there = {getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert verbs == there - {"doctor"}


@pytest.mark.parametrize("example", examples())
def test_an_example_runs(
    example: str,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(example.partition(" > budgets.html")[0])[1:]
    if any(word in words for word in _MEASURING):
        verb = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
        verb.make_context(words[0], words[1:])
        return
    folder = shutil.copytree(files, tmp_path / "here")
    if "--input" in words:
        shutil.copy(folder / "any_size.onnx", folder / "network.onnx")
        words = [word.replace("8,3,224,224", "2,3,40,40") for word in words]
    for option in ("-o", "--write-baseline"):
        if option in words:
            written = Path(words[words.index(option) + 1])
            for file in folder.glob(f"{written.stem}.*"):
                if file.name not in words or file.name == written.name:
                    file.unlink()
    monkeypatch.chdir(folder)
    capsys.readouterr()
    code = run(words)
    captured = capsys.readouterr()
    assert code in ((0, 1) if words[0] in ("lint", "diff") else (0,)), captured.err
    if "-o" in words:
        assert (folder / words[words.index("-o") + 1]).exists()
