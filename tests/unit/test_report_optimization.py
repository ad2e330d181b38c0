"""What an optimization looks like: constructed results with fixed numbers, in every form.

To accept a change of the golden texts, run with ``CONVSMITH_UPDATE_GOLDEN=1`` and read the
difference.
"""

from __future__ import annotations

import base64
import csv as csv_files
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from tests.renaming import renamed

from convsmith.analysis import Analysis, analyze, fields
from convsmith.errors import OutputError, UsageError
from convsmith.graph import GraphBuilder, parse
from convsmith.graph.operators import Activation
from convsmith.optimization import Files, Optimization, Picture, Proof
from convsmith.report import csv, html, markdown, text
from convsmith.report.drawings.pictures import amplification, comparison
from convsmith.report.drawings.shapes import drawing
from convsmith.results import Result
from convsmith.rewrite import Choice, Metric, Plan, Rewriting, Verification
from convsmith.rewrite.verifying import OutputError as OutputLoss
from convsmith.runtime.timing import Timing

GOLDEN = Path(__file__).parents[1] / "golden"
REPOSITORY = Path(__file__).parents[2]
TEMPLATES = REPOSITORY / "src" / "convsmith" / "report" / "templates"

BEFORE = parse("1@24 > conv 8 5 p2 > relu > conv 1 3 p1")
AFTER = parse("1@24 > conv 2 5x1 p2x0 nobias > conv 8 1x5 p0x2 > relu > conv 1 3 p1")


def choice(layer: str, form: str, text: str, before: int, after: int, error: float) -> Choice:
    return Choice(
        layer=layer,
        form=form,
        variant="" if form == "keep" else "vertical-first",
        widths=() if form == "keep" else (2,),
        text=text,
        shape=(8, 1, 5, 5),
        macs_before=before,
        macs_after=after,
        error=error,
    )


def verification(metric: Metric | None, *, kept: bool = True) -> Verification:
    before = fields(BEFORE)["conv2"]
    return Verification(
        images=2,
        data="test images",
        layers={"conv1": 0.0321},
        outputs=(OutputLoss(name="y", relative=0.0123, largest=0.25, agreement=None),),
        metric=metric,
        fields={"y": (before, before if kept else fields(BEFORE)["conv1"])},
    )


def timing(*samples: float) -> Timing:
    return Timing(
        samples=samples, engine="Engine", version="1.2", threads=4, shapes={"x": (1, 1, 24, 24)}
    )


PSNR = Metric(name="psnr", unit="dB", before=30.02, after=29.96, reference=20.44)


def result(
    *, names: tuple[str, str] = ("conv1", "conv2"), speedup: float | None = 1.5
) -> Optimization:
    """An optimization; a speedup of ``None``: nothing was timed."""
    first, second = names
    plan = Plan(
        source="models/tiny.onnx",
        budget={"macs": 0.5},
        choices=(
            choice(
                first,
                "spatial",
                "conv 2 5x1 p2x0 nobias > conv 8 1x5 p0x2",
                115_200,
                51_840,
                0.0004,
            ),
            choice(second, "keep", "conv 1 3 p1", 41_472, 41_472, 0.0),
        ),
    )
    original = renamed(BEFORE, (first, "relu", second))
    rewritten = renamed(AFTER, (f"{first}.1", first, "relu", second), (first, first, "", ""))
    before, after = analyze(original), analyze(rewritten)
    verified = replace(verification(PSNR), layers={first: 0.0321})
    return Optimization(
        source="models/tiny.onnx",
        before=before,
        after=after,
        rewriting=Rewriting(
            original=original,
            net=rewritten,
            plan=plan,
            before=before.total,
            after=after.total,
            verification=verified,
        ),
        verification=verified,
        calibration_images=10,
        skipped=("a.png: is 10x10, the network takes 24x24",),
        timings={}
        if speedup is None
        else {"before": timing(3.0, 3.5, 3.25), "after": timing(2.0, 2.5, 2.25)},
        speedup=speedup,
        proof=Proof(original=4.7e-7, rewritten=6.1e-7),
        pictures=(),
        files=Files.at("build/demo"),
        notes=("Something to know.",),
        command=("convsmith", "optimize", "models/tiny.onnx", "--data", "my pictures"),
    )


RESULTS: Mapping[str, Result] = {
    "optimization": result(),
    "rewriting": result().rewriting,
    "plan": result().rewriting.plan,
    "verification": verification(PSNR, kept=False),
}


def check(name: str, found: str) -> None:
    file = GOLDEN / name
    if os.environ.get("CONVSMITH_UPDATE_GOLDEN"):
        file.write_text(f"{found}\n", encoding="utf-8")
    assert f"{found}\n" == file.read_text(encoding="utf-8")


# Text -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("kind", RESULTS)
def test_text(kind: str, width: int) -> None:
    check(f"{kind}-{width}.txt", text(RESULTS[kind], width=width))


def test_text_with_colors() -> None:
    check("optimization-color.txt", text(RESULTS["optimization"], width=80, color=True))


@pytest.mark.parametrize("kind", RESULTS)
def test_markdown(kind: str) -> None:
    check(f"{kind}.md", markdown(RESULTS[kind]))


@pytest.mark.parametrize("kind", ["optimization", "rewriting", "plan"])
def test_csv_has_one_line_a_layer(kind: str) -> None:
    rows = list(csv_files.DictReader(io.StringIO(csv(RESULTS[kind]))))
    assert [row["name"] for row in rows] == ["conv1", "conv2"]
    assert rows[0]["text"] == "conv 2 5x1 p2x0 nobias > conv 8 1x5 p0x2"
    assert (rows[0]["macs_before"], rows[0]["macs_after"]) == ("115200", "51840")
    assert rows[0]["verified_error"] == ("" if kind == "plan" else "0.0321")
    assert (rows[1]["form"], rows[1]["verified_error"]) == ("keep", "")


def test_a_form_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="there is no CSV form of Verification; choose json or"):
        csv(RESULTS["verification"])


@pytest.mark.parametrize("width", [66, 80, 100, 140, 160, 240])
def test_no_line_is_too_wide_and_no_number_is_cut(width: int) -> None:
    long = ("encoder.blocks.0.attention.projection.conv", "decoder.layers.11.upsample.conv")
    shown = text(result(names=long), width=width)
    lines = shown.splitlines()
    assert max(map(cell_len, lines)) <= width
    counts = [f"{RESULTS['rewriting'].to_dict()[side]['macs']:,}" for side in ("before", "after")]
    assert all(count in shown for count in counts)


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (1.5, "fewer multiply-accumulates, 1.50x faster,"),
        (1.001, "fewer multiply-accumulates, as fast as before,"),
        (0.5, "fewer multiply-accumulates, 2.00x slower,"),
        (None, "fewer multiply-accumulates, PSNR"),
    ],
)
def test_faster_is_said_only_of_measured_time(speedup: float | None, words: str) -> None:
    shown = text(result(speedup=speedup), width=200)
    assert words in shown
    assert ("faster" in shown) == (speedup == 1.5)
    page = html(result(speedup=speedup))
    assert ("faster" in page) == (speedup == 1.5)
    assert ("No time was measured" in page) == (speedup is None)


def test_accuracy_is_counted_in_points() -> None:
    metric = Metric(name="accuracy", unit="%", before=91.25, after=90.5, reference=None)
    shown = text(verification(metric), width=80)
    assert re.search(r"accuracy +91.25 % +90.50 % +-0.75 points", shown)


def test_many_reasons_are_counted() -> None:
    many = replace(result(), skipped=tuple(f"{i}.png: broken" for i in range(9)))
    shown = text(many, width=80)
    assert "skipped 9 images" in shown
    assert "- 4.png: broken\n- and 4 more" in shown
    assert "8.png: broken" in html(many)


# Pages ----------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "\" onload='alert(1)' x=\"",
    "</style><img src=https://example.com/a.png>",
    "{{ 7919 * 7919 }}",
    "emoji 😀 & co",
    "line\nbreak\x1b[2J",
)


class Page(HTMLParser):
    """What a browser would find: elements, and what they would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def hostile_analysis() -> Analysis:
    builder = GraphBuilder()
    x = builder.input("x", (1, 1, 4, 4))
    for name in HOSTILE:
        x = builder.add(Activation(kind="relu"), x, name=name)
    return analyze(builder.build((HOSTILE[0], x), source=HOSTILE[0]))


def pages() -> dict[str, str]:
    before = hostile_analysis()
    whole = replace(
        result(names=(HOSTILE[0], HOSTILE[1])),
        source=HOSTILE[0],
        before=before,
        skipped=HOSTILE,
        notes=HOSTILE,
        pictures=(picture(name=HOSTILE[2]),),
        command=HOSTILE,
    )
    return {"analysis": html(before), "optimization": html(whole)}


def picture(*, channels: int = 1, side: int = 16, name: str = "input/a.png") -> Picture:
    generator = np.random.default_rng(0)
    wanted = generator.uniform(0.2, 0.8, (channels, side, side)).astype(np.float32)
    noise = generator.normal(0, 0.01, wanted.shape).astype(np.float32)
    return Picture(
        name=name, given=wanted + 10 * noise, wanted=wanted, before=wanted, after=wanted + noise
    )


@pytest.mark.parametrize("kind", ["analysis", "optimization"])
def test_names_cannot_act(kind: str) -> None:
    page = Page(pages()[kind])
    assert page.tags.count("script") == (1 if kind == "analysis" else 2)  # one holds data only
    kinds = [value for tag, name, value in page.attributes if (tag, name) == ("script", "type")]
    assert kinds == ([] if kind == "analysis" else ["application/json"])
    assert page.tags.count("style") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "example.com" not in "".join(page.values("src") + page.values("href"))
    assert HOSTILE[0] in page.text
    assert "62710561" not in page.text
    assert "emoji 😀 & co" in page.text
    assert "line\\nbreak\\x1b[2J" in page.text
    assert "\x1b" not in page.text


@pytest.mark.parametrize("kind", ["analysis", "optimization"])
def test_a_page_loads_nothing(kind: str) -> None:
    page = Page(pages()[kind])
    for name in ("src", "href", "srcset", "action", "data", "style"):
        assert all(value.startswith(("data:image/png;base64,", "#")) for value in page.values(name))
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    policy = next(v for v in page.values("content") if "default-src" in v)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r"url\((?!#)", pages()[kind])
    assert "@import" not in pages()[kind]


def test_headings_and_cells_agree() -> None:
    for page in pages().values():
        for table in re.findall(r"<table.*?</table>", page, flags=re.DOTALL):
            columns = table.count('<th scope="col"')
            for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL):
                assert len(re.findall(r"<t[dh]\b", row)) == columns


def test_the_page_has_the_numbers_of_the_text() -> None:
    page = Page(html(result()))
    for words in ("1.50×", "30.02 dB → 29.96 dB", "7 × 7", "my pictures", "6.1e-07", "Engine 1.2"):
        assert words in page.text


def test_a_result_without_time_metric_or_pictures_has_a_page() -> None:
    bare = replace(
        result(speedup=None), verification=verification(None), proof=None, notes=(), skipped=()
    )
    shown = Page(html(bare)).text
    assert "output error" in shown
    assert "Skipped" not in shown


def test_a_page_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    result().to_html(file)
    with pytest.raises(OutputError, match="this file exists"):
        result().to_html(file)
    result().to_html(file, overwrite=True)
    analyze(BEFORE).to_html(tmp_path / "b.html")


# Pictures -------------------------------------------------------------------------


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L")])
def test_pictures_keep_their_pixels(channels: int, mode: str) -> None:
    shown = comparison(picture(channels=channels), 8)
    image = decoded(shown.wanted.data)
    assert image.mode == mode
    expected = np.rint(picture(channels=channels).wanted * 255)
    found = np.asarray(image).reshape(16, 16, -1)[..., 0]
    assert (found == expected[0]).all()
    assert shown.name == "a.png"


def test_the_difference_is_amplified_around_grey() -> None:
    one = picture()
    shown = np.asarray(decoded(comparison(one, 8).difference.data)).astype(float) / 255
    expected = np.clip(0.5 + 8 * (one.after - one.before)[0], 0, 1)
    assert np.abs(shown - expected).max() < 1 / 255


@pytest.mark.parametrize(("apart", "factor"), [(0.0, 1), (0.6, 1), (0.06, 8), (1e-6, 64)])
def test_the_amplification_is_a_power_of_two_that_fits(apart: float, factor: int) -> None:
    one = picture()
    assert amplification([replace(one, after=one.before + apart)]) == factor
    assert amplification([]) == 1


def test_psnr_is_that_of_the_pictures() -> None:
    one = picture()
    shown = comparison(replace(one, after=one.wanted + np.float32(0.1)), 1)
    assert shown.after.psnr == "20.00 dB"
    assert comparison(replace(one, given=one.given[:, ::2, ::2]), 1).given.psnr == ""


def test_of_a_large_picture_the_middle_is_shown() -> None:
    shown = comparison(picture(side=600), 1)
    assert (shown.wanted.width, shown.wanted.height) == (512, 512)
    assert shown.size == "600 × 600, middle 512 shown"


def test_receptive_fields_are_drawn_to_scale() -> None:
    seen = fields(BEFORE)
    made = drawing(seen["conv2"], (1, 1, 200, 100), before=seen["conv1"])
    assert made is not None
    assert (made.width, made.height) == (32, 32)
    assert [(box.width, box.x, box.kind) for box in made.boxes] == [
        (5, 13.5, "is-before"),
        (7, 12.5, "is-after"),
    ]
    assert drawing(seen["conv2"], (1, 1, 200)) is None


# Packaging ------------------------------------------------------------------------


def test_a_wheel_has_the_templates(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="wheels are built by setuptools, which is not here")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=ignored)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    files = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "templates" in name}
    assert files == {file.name for file in TEMPLATES.iterdir()}
    assert {"base.html", "page.css", "field.js"} < files
