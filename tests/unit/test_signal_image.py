"""The spectrum of images, before and after filters and layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convsmith.errors import UsageError
from convsmith.graph import parse
from convsmith.report import picture
from convsmith.signal import character, filter_kernel, frequencies, image_spectrum, response
from convsmith.signal.image import filtered, power

Array = NDArray[np.float64]


def wave(fy: float, fx: float, size: int = 64) -> Array:
    y, x = np.mgrid[0:size, 0:size]
    return np.asarray(np.cos(2 * math.pi * (fy * y + fx * x)))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("box:3", "low-pass"),
        ("box:4", "low-pass"),
        ("gaussian:1.5", "low-pass"),
        ("gaussian:10", "low-pass"),
        ("sobel-x", "band-pass 0°"),
        ("sobel-y", "band-pass 90°"),
        ("laplacian", "high-pass"),
        ("gabor:6:30", "band-pass 30°"),
        ("gabor:4:120:3", "band-pass 120°"),
    ],
)
def test_named_filters_come_out_as_what_they_are(name: str, label: str) -> None:
    assert character(filter_kernel(name)).label == label


def test_filters_by_hand() -> None:
    assert filter_kernel("box:3") == pytest.approx(np.full((3, 3), 1 / 9))
    gauss = filter_kernel("gaussian:2")
    assert gauss.sum() == pytest.approx(1)
    assert gauss[8, 8] / gauss[8, 10] == pytest.approx(math.exp(1 / 2))  # one sigma away
    slope = filtered(np.broadcast_to(np.arange(9.0), (1, 9, 9)), filter_kernel("sobel-x"))
    assert slope[0, 4, 1:-1] == pytest.approx(1)  # per pixel, to the right
    bowl = np.square(np.arange(9.0) - 4)
    bent = filtered(np.add.outer(bowl, bowl)[None], filter_kernel("laplacian"))
    assert bent[0, 1:-1, 1:-1] == pytest.approx(4)  # 2 along each axis
    assert filter_kernel("gabor:8:20").sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blur", "there is no filter 'blur'; choose from box:N"),
        ("box", "'box' is no filter; write box:N."),
        ("sobel-x:3", "'sobel-x:3' is no filter; write sobel-x."),
        ("gaussian:x", "'gaussian:x' has something else than numbers"),
        ("gaussian:nan", "has something else than numbers"),
        ("gaussian:0", "a standard deviation of 0 pixels is no width"),
        ("gaussian:1e9", "is no width of a filter; give a number above 0, up to 31.75."),
        ("box:2.5", "a box of 2.5 pixels is no filter"),
        ("box:9999", "give a whole number to 255."),
        ("gabor:1", "no wave is 1 pixels long"),
    ],
)
def test_what_is_no_filter(name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        filter_kernel(name)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["box:4", "sobel-y", "gabor:5:40:2"])
def test_a_filter_multiplies_the_power_by_its_response(name: str) -> None:
    """Around a torus without a window, exactly |H|^2."""
    image = np.random.default_rng(0).random((3, 48, 40))
    kernel = filter_kernel(name)
    after = power(filtered(image, kernel, border="wrap"), "none")
    gain = np.abs(response(kernel, (48, 40), axes=2)) ** 2
    assert np.allclose(after, gain * power(image, "none"), atol=1e-12)


def test_a_wave_lies_at_its_frequency() -> None:
    found = image_spectrum(wave(0.125, -0.25))
    i, j = np.unravel_index(int(found.before.power.argmax()), (64, 64))
    seen = frequencies(64)[i], frequencies(64)[j]
    assert seen in [(0.125, -0.25), (-0.125, 0.25)]
    assert found.before.direction == pytest.approx(math.degrees(math.atan2(0.125, 0.25)), abs=0.1)
    assert found.before.coherence > 0.95


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_the_slope_of_a_power_law(slope: float) -> None:
    """Noise whose power was made 1 / f^a."""
    rng = np.random.default_rng(1)
    grid = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij"))
    grid[0, 0] = 1
    noise = np.fft.fft2(rng.standard_normal((256, 256))) / grid ** (slope / 2)
    found = image_spectrum(np.fft.ifft2(noise).real)
    assert found.before.slope == pytest.approx(slope, abs=0.1)


def test_a_constant_has_no_power() -> None:
    part = image_spectrum(np.full((3, 17, 20), 0.7)).before
    assert part.variance < 1e-25
    assert (part.slope, part.direction, part.low, part.high) == (None, None, 0, 0)


def test_through_a_layer_is_through_its_filters() -> None:
    """A layer of two filters whose weights are those of known filters."""
    from dataclasses import replace

    from convsmith.graph import Constant

    net = parse("1@32 > conv 2 3 p1 > relu")
    taps = np.stack([filter_kernel("sobel-x"), filter_kernel("box:3")])[:, None]
    constants = dict(net.constants)
    weight, bias = net.nodes[0].parameters
    constants[weight] = Constant.of(taps.astype(np.float32))
    constants[bias] = Constant.of(np.zeros(2, np.float32))
    net = replace(net, constants=constants)
    image = np.random.default_rng(2).random((1, 32, 32))
    found = image_spectrum(image, through=net)
    assert (found.layer, len(found.maps)) == ("conv1", 2)
    inside = np.s_[1:-1, 1:-1]  # the layer pads with zeros
    for part, name in zip(found.maps, ("sobel-x", "box:3"), strict=True):
        want = filtered(image, filter_kernel(name))
        assert np.allclose(part.picture[0][inside], want[0][inside], atol=1e-6)
    assert found.after is not None
    both = (found.maps[0].power + found.maps[1].power) / 2
    assert np.allclose(found.after.power, both)
    assert image_spectrum(image, through=net, layer="relu1", most=1).left_out == 1


def test_cells_keep_the_mean() -> None:
    made = image_spectrum(np.random.default_rng(3).random((50, 37)), size=8).to_dict()
    assert np.shape(made["before"]["power"]) == (8, 8)
    even = image_spectrum(np.random.default_rng(3).random((48, 32)), size=8).to_dict()
    assert np.mean(even["before"]["power"]) == pytest.approx(even["before"]["variance"])


@pytest.mark.parametrize(
    ("image", "more", "message"),
    [
        (np.ones(4), {}, "float64 of shape (4,) is no image"),
        (np.ones((1, 8)), {}, "is no image"),
        (np.ones((4, 4), complex), {}, "complex128 of shape (4, 4) is no image"),
        (np.array([[1.0, np.inf], [0, 0]]), {}, "numbers that are not finite"),
        (np.broadcast_to(np.float32(0), (1 << 13, 1 << 13)), {}, "is too large to hold"),
        (np.ones((4, 4)), {"layer": "conv1"}, "there is no network that has a layer 'conv1'"),
        (np.ones((4, 4)), {"window": "tukey"}, "there is no window 'tukey'"),
        (np.ones((4, 4)), {"filter": np.ones(3)}, "taps of shape (3,) are no filter"),
        (np.ones((4, 4)), {"size": 1}, "show nothing"),
        (np.ones((4, 4)), {"through": parse("3@8 > conv 2 3")}, "the image is 1x4x4, the network"),
        (np.ones((4, 4)), {"through": parse("1@4 > relu")}, "it has no convolution"),
        (
            np.ones((4, 4)),
            {"through": parse("1@4 > relu"), "layer": "rel"},
            "no layer is called 'rel'; choose for example relu1",
        ),
    ],
)
def test_what_has_no_spectrum(image: Array, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        image_spectrum(image, **more)
    assert message in str(error.value)


def test_an_svg_cannot_be_broken_out_of() -> None:
    from xml.etree import ElementTree as ET

    name = "<script>alert(1)</script>\"'&\x1b\u202e🙂.png"
    found = image_spectrum(wave(0.1, 0.2), filter="box:3", source=name)
    root = ET.fromstring(picture(found, "svg"))
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds <= {"svg", "g", "title", "rect", "image", "line", "polyline", "text"}
    links = [element.get("href", "") for element in root.iter() if element.tag.endswith("image")]
    assert len(links) == 4
    assert all(link.startswith("data:image/png;base64,") for link in links)


def test_a_png_has_every_kernel() -> None:
    import io

    from PIL import Image

    from convsmith.signal import spectrum

    found = spectrum(np.random.default_rng(0).standard_normal((8, 3, 7, 7)))
    made = Image.open(io.BytesIO(picture(found, "png")))
    pixels = np.asarray(made.convert("L")) < 200
    one = spectrum(np.random.default_rng(0).standard_normal((1, 1, 7, 7)))
    alone = np.asarray(Image.open(io.BytesIO(picture(one, "png"))).convert("L")) < 200
    assert pixels.sum() > 12 * alone.sum()
