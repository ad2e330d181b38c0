"""The verb that writes the page of a network."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.benches import made_bench

from convsmith.cli.report import EXAMPLES
from convsmith.cli.running import run as command

RESTORER = Path(__file__).parents[2] / "examples" / "restorer" / "restorer.onnx"
NOTATION = "3@32 > conv 8 3 p1 > relu > conv 4 3/2 p1"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = command(["report", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def data(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8")
    )
    assert found is not None
    made: dict[str, Any] = json.loads(found[1])
    return made


def test_it_writes_one_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, NOTATION)
    assert (code, out, err) == (0, "", "convsmith: wrote report.html\n")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    content = (tmp_path / "report.html").read_text("utf-8")
    assert "default-src 'none'" in content
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]*", content)
    layers = data(tmp_path / "report.html")["layers"]
    assert layers["name"] == ["conv1", "relu1", "conv2"]
    code, _, err = run(capsys, NOTATION)
    assert code == 2
    assert "--force" in err
    assert run(capsys, NOTATION, "--force", "--quiet") == (0, "", "")


def test_the_footer_says_how_it_was_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert run(capsys, str(RESTORER), "--input", "1,1,48,48", "-o", str(page))[0] == 0
    content = page.read_text("utf-8")
    assert hashlib.sha256(RESTORER.read_bytes()).hexdigest() in content
    assert "SHA-256 of the file" in content
    assert f"convsmith report {RESTORER} --input 1,1,48,48 -o {page}" in content


def test_a_redacted_page_names_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "holiday.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(picture)
    source = "secret_input : 3@16x16\nplan_b = conv 8 3 (secret_input)\nreturn treasure = plan_b"
    page = tmp_path / "page.html"
    arguments = ("--image", str(picture), "-o", str(page), "--redact")
    assert run(capsys, source, *arguments)[0] == 0
    content = page.read_text("utf-8")
    for word in ("secret", "plan_b", "treasure", "holiday", str(tmp_path), tmp_path.name):
        assert word not in content
    assert "convsmith report SOURCE --image IMAGE -o page.html --redact" in content
    assert "data:image/jpeg" in content
    plain = tmp_path / "plain.html"
    assert run(capsys, source, "--image", str(picture), "-o", str(plain))[0] == 0
    assert "holiday" in plain.read_text("utf-8")  # else there was nothing to leave out


def test_times_stand_at_their_layers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    times, page = tmp_path / "times.json", tmp_path / "page.html"
    times.write_text(made_bench(layers=2).to_json(), "utf-8")
    assert run(capsys, NOTATION, "--bench", str(times), "-o", str(page))[0] == 0
    kernels = data(page)["kernels"]
    assert kernels["of"] == [[0, 0], [2, 1]]
    winograd = kernels["groups"][0][1]
    assert winograd[:3] == ["winograd", "algorithm", 1.0]
    assert winograd[4] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bench", "none.json"), "the bench cannot be read: No such file"),
        (("--image", "none.png"), "the picture is gone"),
        (("--plan", "none.json"), "none.json"),
        (("--effective", "conv1"), "only a torch module"),
        (("-o", "nowhere/page.html"), "nowhere"),
    ],
)
def test_what_cannot_be_used_is_said(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, NOTATION, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_effective_fields_of_a_torch_module(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "factory_of_a_page.py").write_text(
        "import torch\n\ndef net():\n    return torch.nn.Sequential(\n"
        "        torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 1, 3, padding=1))\n",
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("factory_of_a_page:net", "--input", "1,1,9,9", "--effective", "1")
    assert run(capsys, *arguments)[0] == 0
    (found,) = data(tmp_path / "report.html")["effective"]
    assert (found["layer"], found["position"]) == (1, [4, 4])
    assert found["picture"].startswith("data:image/png")
    assert "no layer 'nothing'" in run(capsys, *arguments[:-1], "nothing", "--force")[2]


def test_the_examples_begin_with_the_verb() -> None:
    lines = [line for line in EXAMPLES.splitlines() if line.startswith("convsmith")]
    assert len(lines) == 3
    assert all(line.startswith("convsmith report ") for line in lines)
