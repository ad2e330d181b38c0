"""Convolutions as matrix products (pointwise, im2col, Strassen) against torch in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.random_convolutions import pairwise

from convsmith.conv import plan as plans
from convsmith.conv.algorithms import ALGORITHMS
from convsmith.conv.algorithms.pointwise import Pointwise, PointwiseTiling
from convsmith.conv.algorithms.product_kernels import Product
from convsmith.conv.algorithms.strassen import Strassen, StrassenTiling
from convsmith.conv.choice import EXACT
from convsmith.conv.plan import ConvPlan, plan_with
from convsmith.conv.spec import LAYOUTS, ConvSpec, Layout
from convsmith.errors import UnsupportedOperatorError
from convsmith.kernel.matrix import Parts
from convsmith.kernel.strassen import LEFT, RIGHT, block_of, error_growth, right_sums, sums
from convsmith.kernel.target import WIDTHS, host

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def poisoned_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read before it is written becomes NaN."""
    monkeypatch.setattr(plans, "workspace_poison", math.nan)


def _arrays(spec: ConvSpec, seed: int = 0) -> tuple[F32, F32, F32 | None, F32 | None]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> F32:
        return random.standard_normal(shape, np.float32)

    return (
        normal(*spec.input_shape),
        normal(*spec.weight_shape),
        normal(spec.filters) if spec.bias else None,
        normal(*spec.output_shape) if spec.residual else None,
    )


def _truth(
    spec: ConvSpec, x: Array, w: Array, bias: Array | None = None, residual: Array | None = None
) -> Array:
    """The convolution in float64, by torch."""
    import torch
    import torch.nn.functional as functional

    last = spec.layout == "channels_last"
    image = torch.from_numpy(np.moveaxis(x, -1, 1) if last else x).double()
    pads = [side for pair in reversed(spec.padding) for side in pair]
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[spec.rank - 1]
    y = convolve(
        functional.pad(image, pads),
        torch.from_numpy(w).double(),
        None if bias is None else torch.from_numpy(bias).double(),
        spec.stride,
        0,
        spec.dilation,
        spec.groups,
    )
    if last:
        y = y.movedim(1, -1)
    if residual is not None:
        y = y + torch.from_numpy(residual)
    acts = {
        "none": lambda t: t,
        "relu": torch.relu,
        "relu6": functional.relu6,
        "silu": functional.silu,
        "hardswish": functional.hardswish,
    }
    return np.asarray(acts[spec.activation](y).numpy())


def _largest_sum(spec: ConvSpec, x: Array, w: Array) -> float:
    """What error bounds are relative to: the largest sum of |w| of a filter, times max |x|."""
    weights = np.abs(w.astype(np.float64)).reshape(len(w), -1).sum(1)
    return float(weights.max() * np.abs(x).max(initial=0))


def _plans(name: str, spec: ConvSpec, lanes: int) -> Iterator[ConvPlan]:
    """Every tiling for 4 threads, of whatever size the spec is."""
    target = host().with_lanes(lanes)
    for tiling in ALGORITHMS[name].tilings(spec, target, 4):
        yield plan_with(spec, name, tiling, target=target)


def _check(made: ConvPlan) -> None:
    spec = made.spec
    x, w, bias, residual = _arrays(spec)
    y = made.prepare(w, bias)(x, residual=residual)
    truth = _truth(spec, x, w, bias, residual)
    assert y.shape == truth.shape
    if y.size:
        scale = _largest_sum(spec, x, w) + 10
        error = float(np.abs(y - truth).max())
        assert error <= made.error_bound * scale, (made.tiling, error)
        # The bound is a worst case; what is typical is far below it.
        assert error <= 2e-5 * max(1.0, float(np.abs(truth).max())), (made.tiling, error)


POINTWISE: tuple[dict[str, Any], ...] = (
    {"size": (7, 7), "channels": 40, "filters": 70},
    {
        "size": (14, 14), "channels": 37, "filters": 48, "batch": 2, "activation": "relu",
        "residual": True,
    },
    {"size": (9, 8), "channels": 16, "filters": 24, "stride": (2, 2), "batch": 3},
    {
        "size": (13, 11), "channels": 24, "filters": 36, "stride": (3, 2), "groups": 3,
        "bias": False, "activation": "silu",
    },
    {"size": (41,), "channels": 8, "filters": 16, "stride": (3,)},
    {"size": (200,), "channels": 9, "filters": 3, "activation": "hardswish"},
    {"size": (5, 9, 8), "channels": 6, "filters": 33, "stride": (2, 1, 2), "batch": 2},
    {"size": (4, 4, 9), "channels": 12, "filters": 32, "groups": 2, "residual": True},
    {"size": (1, 1), "channels": 512, "filters": 10, "activation": "relu6"},
    {"size": (16, 33), "channels": 128, "filters": 130},
    {"size": (32, 16), "channels": 513, "filters": 17},
    {"size": (33, 28), "channels": 30, "filters": 64, "stride": (2, 2), "batch": 0},
)  # fmt: skip

IM2COL: tuple[dict[str, Any], ...] = (
    {"size": (7, 9), "channels": 5, "filters": 7, "kernel": (3, 3), "padding": ((1, 1),) * 2},
    {
        "size": (28, 17), "channels": 32, "filters": 64, "kernel": (3, 3), "batch": 2,
        "padding": ((1, 1),) * 2, "activation": "relu", "residual": True,
    },
    {
        "size": (30, 31), "channels": 3, "filters": 40, "kernel": (7, 7), "stride": (2, 2),
        "padding": ((3, 3),) * 2,
    },
    {
        "size": (13, 11), "channels": 24, "filters": 36, "kernel": (3, 2), "dilation": (2, 3),
        "padding": ((1, 2), (0, 3)), "groups": 3, "bias": False, "activation": "silu",
    },
    {
        "size": (40,), "channels": 8, "filters": 16, "kernel": (5,), "stride": (3,),
        "padding": ((2, 1),), "batch": 3,
    },
    {"size": (9000,), "channels": 40, "filters": 5, "kernel": (5,), "padding": ((7, 9),)},
    {
        "size": (5, 9, 8), "channels": 6, "filters": 33, "kernel": (3, 3, 3), "stride": (2, 1, 2),
        "dilation": (1, 2, 1), "padding": ((1, 1), (2, 2), (0, 1)),
    },
    {"size": (14, 14), "channels": 32, "filters": 32, "kernel": (1, 1)},
    # More padding than input: rows and columns of the matrix that are zeros.
    {"size": (2, 3), "channels": 4, "filters": 4, "kernel": (2, 2), "padding": ((5, 5), (4, 6))},
    {
        "size": (9, 3), "channels": 4, "filters": 8, "kernel": (2, 2), "padding": ((5, 5), (4, 6)),
        "stride": (3, 4), "groups": 4,
    },
    {"size": (0, 3), "channels": 2, "filters": 3, "kernel": (2, 2), "padding": ((1, 1), (0, 0))},
    {"size": (6, 6), "channels": 3, "filters": 4, "kernel": (3, 3), "batch": 0},
)  # fmt: skip

STRASSEN: tuple[dict[str, Any], ...] = (
    {"size": (16, 16), "channels": 128, "filters": 128},
    {
        "size": (13, 17), "channels": 131, "filters": 133, "batch": 2, "activation": "relu",
        "residual": True,
    },
    {"size": (257,), "channels": 130, "filters": 150, "bias": False},
    {"size": (5, 9, 8), "channels": 145, "filters": 160, "batch": 0},
)  # fmt: skip


def _pointwise(given: dict[str, Any], layout: Any) -> ConvSpec:
    return ConvSpec(**{"kernel": (1,) * len(given["size"]), "layout": layout} | given)


def _strassen(spec: ConvSpec, lanes: int = 16) -> tuple[ConvPlan, ConvPlan]:
    """One and two levels, whether they pay or not."""
    target = host().with_lanes(lanes)
    one = Strassen().tilings(spec, target, 4)[0]
    return (
        plan_with(spec, "strassen", one, target=target),
        plan_with(spec, "strassen", replace(one, levels=2, pixel_blocks=2), target=target),
    )


class TestAgainstFloat64:
    @pytest.mark.parametrize(("given", "lanes", "layout"), pairwise(POINTWISE))
    def test_pointwise(self, given: dict[str, Any], layout: str, lanes: int) -> None:
        for made in _plans("pointwise", _pointwise(given, layout), lanes):
            _check(made)

    @pytest.mark.parametrize(("given", "lanes", "layout"), pairwise(IM2COL))
    def test_im2col(self, given: dict[str, Any], layout: Layout, lanes: int) -> None:
        for made in _plans("im2col", ConvSpec(**given, layout=layout), lanes):
            _check(made)

    @pytest.mark.parametrize(("given", "lanes", "layout"), pairwise(STRASSEN))
    def test_strassen(self, given: dict[str, Any], layout: str, lanes: int) -> None:
        for made in _strassen(_pointwise(given, layout), lanes):
            _check(made)

    @pytest.mark.parametrize("rows", [1, 3, 6, 13])
    def test_pointwise_takes_every_way_at_every_size(self, rows: int) -> None:
        """Tiles of all heights, with tails on every side, wherever the pixels are read from."""
        for layout, flat, ways in (
            ("channels_first", True, ("place", "local", "staged")),
            ("channels_first", False, ("staged",)),
            ("channels_last", False, ("place", "local")),
        ):
            spec = _pointwise(
                {"size": (5, 2 * rows + 3), "channels": rows + 2, "filters": 3 * rows + 1}, layout
            )
            for way in ways:
                tiling = PointwiseTiling(
                    rows=rows, vectors=1 + rows % 3, pixels_in_lanes=flat, way=way,  # type: ignore[arg-type]
                    pixel_blocks=1, weight_blocks=1,
                )  # fmt: skip
                _check(plan_with(spec, "pointwise", tiling, target=host().with_lanes(8)))


class TestTheOracle:
    def test_a_wrong_kernel_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        right = Product.pack

        def wrong(self: Product, weights: Array) -> Array:
            packed = right(self, weights)
            packed[-1] += 1e-3  # one of the weights
            return packed

        spec = _pointwise({"size": (16, 16), "channels": 16, "filters": 16}, "channels_first")
        made = plan_with(spec, "pointwise")
        _check(made)
        monkeypatch.setattr(Product, "pack", wrong)
        with pytest.raises(AssertionError):
            _check(made)


class TestReferences:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_they_are_the_convolution(self, layout: str) -> None:
        for name, specs in (
            ("pointwise", [_pointwise(given, layout) for given in POINTWISE]),
            ("im2col", [ConvSpec(**given, layout=layout) for given in IM2COL]),  # type: ignore[arg-type]
            ("strassen", [_pointwise(given, layout) for given in STRASSEN]),
        ):
            for spec in specs:
                x, w, _, _ = (a if a is None else a.astype(np.float64) for a in _arrays(spec))
                assert x is not None
                assert w is not None
                plain = replace(spec, bias=False, residual=False, activation="none")
                made = plan_with(plain, name)
                y = made.method.reference(plain, x, w, made.tiling)
                np.testing.assert_allclose(y, _truth(plain, x, w), rtol=1e-9, atol=1e-9)


class TestMemory:
    SPECS = (
        _pointwise({"size": (7, 9), "channels": 21, "filters": 19}, "channels_first"),
        _pointwise({"size": (7, 9), "channels": 21, "filters": 19}, "channels_last"),
        _pointwise(
            {"size": (7, 9), "channels": 20, "filters": 18, "stride": (2, 2), "groups": 2},
            "channels_first",
        ),
        _pointwise(
            {"size": (7, 9), "channels": 21, "filters": 19, "stride": (2, 3)}, "channels_last"
        ),
        _pointwise({"size": (12, 12), "channels": 129, "filters": 131}, "channels_first"),
        _pointwise({"size": (12, 12), "channels": 129, "filters": 131}, "channels_last"),
    )

    @pytest.mark.parametrize("lanes", WIDTHS)
    @pytest.mark.parametrize("name", ["pointwise", "im2col", "strassen"])
    def test_nothing_around_the_buffers_is_read_or_written(self, name: str, lanes: int) -> None:
        for spec in self.SPECS:
            if ALGORITHMS[name].refuses(spec):
                continue
            for made in _plans(name, spec, lanes):
                x, w, bias, _ = _arrays(spec)
                # NaN around the input: a number read from there would show in the sums.
                guarded = np.full(x.size + 512, np.nan, np.float32)
                guarded[256:-256] = x.ravel()
                held = np.full(math.prod(spec.output_shape) + 512, 123.0, np.float32)
                out = held[256:-256].reshape(spec.output_shape)
                prepared = made.prepare(w, bias)
                prepared(guarded[256:-256].reshape(x.shape), out)
                assert np.isfinite(out).all(), made
                assert (held[:256] == 123.0).all(), made
                assert (held[-256:] == 123.0).all(), made

    @pytest.mark.parametrize("name", ["pointwise", "im2col", "strassen"])
    def test_the_workspace_is_as_large_as_it_says(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handed: list[F32] = []

        def with_canary(elements: int) -> F32:
            held = plans.aligned(elements + 256)
            held[:elements] = np.nan
            held[elements:] = 123.0
            handed.append(held[elements:])
            return held

        monkeypatch.setattr(plans, "_workspace", with_canary)
        for spec in self.SPECS:
            if not ALGORITHMS[name].refuses(spec):
                for made in _plans(name, spec.with_batch(2), 16):
                    x, w, bias, _ = _arrays(made.spec)
                    made.prepare(w, bias)(x, members=3)
                    assert (handed[-1] == 123.0).all(), made
        assert handed

    def test_a_residual_may_be_the_output_itself(self) -> None:
        for name in ("pointwise", "im2col", "strassen"):
            spec = replace(self.SPECS[4], residual=True)
            x, w, bias, residual = _arrays(spec)
            assert residual is not None
            prepared = plan_with(spec, name).prepare(w, bias)
            apart = prepared(x, residual=residual)
            assert np.array_equal(prepared(x, residual, residual=residual), apart)


class TestThreads:
    @pytest.mark.parametrize("name", ["pointwise", "im2col", "strassen"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_their_number_changes_no_bit(self, name: str, layout: str) -> None:
        spec = _pointwise({"size": (15, 14), "channels": 150, "filters": 140, "batch": 2}, layout)
        x, w, bias, _ = _arrays(spec)
        for made in _plans(name, spec, 16):
            prepared = made.prepare(w, bias)
            results = [prepared(x, members=members) for members in (1, 2, 3, 4)]
            assert all(np.array_equal(results[0], y) for y in results[1:]), made


def _inputs(kind: str, x: F32, w: F32) -> tuple[F32, F32]:
    """Random, after a ReLU, and badly scaled: the last with rows and pixels 1e4 apart."""
    if kind == "relu":
        return np.maximum(x, 0), w
    if kind == "badly scaled":
        random = np.random.default_rng(1)
        rows = 10 ** random.uniform(-2, 2, (len(w), *(1,) * (w.ndim - 1)))
        pixels = 10 ** random.uniform(-2, 2, (1, 1, *x.shape[2:]))
        return (x * pixels).astype(np.float32), (w * rows).astype(np.float32)
    return x, w


class TestAccuracy:
    SPEC = ConvSpec(size=(24, 24), channels=512, filters=256, kernel=(1, 1), bias=False)

    @pytest.mark.parametrize("kind", ["random", "relu", "badly scaled"])
    @pytest.mark.parametrize("name", ["pointwise", "im2col", "strassen"])
    def test_errors_stay_under_the_bound(self, name: str, kind: str) -> None:
        x, w, _, _ = _arrays(self.SPEC)
        x, w = _inputs(kind, x, w)
        truth = _truth(self.SPEC, x, w)
        found = _strassen(self.SPEC) if name == "strassen" else [plan_with(self.SPEC, name)]
        for made in found:
            error = np.abs(made.prepare(w)(x) - truth).max()
            assert 0 < error <= made.error_bound * _largest_sum(self.SPEC, x, w)

    def test_a_plain_product_is_accurate_output_by_output(self) -> None:
        """Its bound holds for the terms of each output, however small they are."""
        x, w, _, _ = _arrays(self.SPEC)
        x, w = _inputs("badly scaled", x, w)
        terms = _truth(self.SPEC, np.abs(x), np.abs(w))
        for name in ("pointwise", "im2col"):
            made = plan_with(self.SPEC, name)
            error = np.abs(made.prepare(w)(x) - _truth(self.SPEC, x, w))
            assert (error <= made.error_bound * terms).all()

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_expected_ratio_is_the_measured_one(self, layout: Layout) -> None:
        spec = replace(self.SPEC, layout=layout)
        for kind, share in (("relu", 1.0), ("random", 0.9)):
            x, w, _, _ = _arrays(spec)
            x, w = _inputs(kind, x, w)
            truth = _truth(spec, x, w)

            def rms(made: ConvPlan, x: F32 = x, w: F32 = w, truth: Array = truth) -> float:
                return float(np.sqrt(np.mean((made.prepare(w)(x) - truth) ** 2)))

            direct = rms(plan_with(spec, "direct"))
            for name in ("pointwise", "im2col"):
                assert rms(plan_with(spec, name)) == pytest.approx(direct, rel=0.1)
            for made in _strassen(spec):
                assert rms(made) / direct == pytest.approx(share * made.error_ratio, rel=0.1)

    @pytest.mark.parametrize("name", ["pointwise", "im2col"])
    def test_exact_algorithms_keep_nan_where_it_is(self, name: str) -> None:
        x, w, _, _ = _arrays(self.SPEC)
        x[0, 5, 3, 7] = np.nan
        y = plan_with(self.SPEC, name).prepare(w)(x)
        hit = np.isnan(y)
        assert hit[:, :, 3, 7].all()
        assert hit.sum() == self.SPEC.filters


class TestSpread:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("size", [(32, 32), (16, 56), (1024,), (13, 17), (8, 8, 16)])
    def test_nan_stays_within_the_tile_that_the_plan_names(
        self, size: tuple[int, ...], layout: str
    ) -> None:
        spec = _pointwise({"size": size, "channels": 128, "filters": 128, "bias": False}, layout)
        random = np.random.default_rng(3)
        for made in _strassen(spec):
            x, w, _, _ = _arrays(spec)
            assert len(made.spread) == spec.rank
            at = tuple(int(random.integers(n)) for n in size)
            place = (0, 3, *at) if layout == "channels_first" else (0, *at, 3)
            x[place] = np.inf
            y = made.prepare(w)(x)
            bad = ~np.isfinite(y if layout == "channels_first" else np.moveaxis(y, -1, 1))
            everywhere: tuple[int | slice, ...] = (0, slice(None), *at)
            assert bad[everywhere].all()
            inside = np.zeros(size, bool)
            inside[
                tuple(
                    slice(p // s * s, p // s * s + s) for p, s in zip(at, made.spread, strict=True)
                )
            ] = True
            assert not bad[0][:, ~inside].any(), made

    def test_blocks_that_fit_rows_spread_over_few_of_them(self) -> None:
        spec = _pointwise({"size": (32, 64), "channels": 128, "filters": 128}, "channels_first")
        made = plan_with(spec, "strassen", replace(_strassen(spec)[0].tiling, vectors=1))
        assert made.spread == (1, 2 * made.target.lanes)


class TestOperations:
    def test_plain_products_count_the_definition(self) -> None:
        spec = ConvSpec(size=(5, 6), channels=4, filters=6, kernel=(1, 1), groups=2, batch=3)
        for name in ("pointwise", "im2col"):
            counted = plan_with(spec, name).operations
            assert (counted.mults, counted.adds) == (3 * 6 * 30 * 2, 3 * 6 * 30 * (2 - 1))

    def test_a_level_of_strassen_saves_an_eighth(self) -> None:
        spec = ConvSpec(size=(64, 64), channels=256, filters=256, kernel=(1, 1))
        one, two = _strassen(spec)
        assert one.operations.mults * 8 == spec.macs * 7
        assert two.operations.mults * 64 == spec.macs * 49
        assert one.operations.adds > one.operations.mults

    def test_border_blocks_count_whole(self) -> None:
        spec = ConvSpec(
            size=(11, 13), channels=129, filters=131, kernel=(1, 1), layout="channels_last"
        )
        made = plan_with(spec, "strassen")
        lanes = made.target.lanes
        filters = -(-131 // (2 * lanes)) * lanes
        assert made.operations.mults == 7 * 72 * filters * 65


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "given", "words"),
        [
            ("pointwise", {"kernel": (3, 3)}, "more than one element"),
            ("pointwise", {"padding": ((1, 0), (0, 0))}, "padded pixel"),
            ("pointwise", {"groups": 256}, "channel by itself"),
            ("strassen", {"kernel": (3, 3)}, "more than one element"),
            ("strassen", {"padding": ((1, 0), (0, 0))}, "padded pixel"),
            ("strassen", {"stride": (2, 1)}, "stride 1"),
            ("strassen", {"groups": 2}, "one group"),
            ("strassen", {"channels": 127}, "127 channels are too few"),
            ("strassen", {"filters": 4}, "4 filters are too few"),
            ("strassen", {"size": (7, 7)}, "49 pixels are too few"),
        ],
    )
    def test_they_say_why(self, name: str, given: dict[str, Any], words: str) -> None:
        base: dict[str, Any] = {
            "size": (20, 20), "channels": 256, "filters": 256, "kernel": (1, 1),
        }  # fmt: skip
        with pytest.raises(UnsupportedOperatorError, match=words):
            plan_with(ConvSpec(**base | given), name)

    def test_im2col_is_exact_and_strassen_is_not(self) -> None:
        assert "im2col" in EXACT
        assert "strassen" not in EXACT
        assert not ALGORITHMS["im2col"].refuses(ConvSpec(**STRASSEN[0], kernel=(1, 1)))


class TestStrassenTables:
    @pytest.mark.parametrize("levels", [1, 2])
    def test_the_products_add_up_to_the_product(self, levels: int) -> None:
        """Exactly, over the integers: the tables and how the results are put together."""
        n = 2**levels
        random = np.random.default_rng(0)
        a, b = random.integers(-9, 9, (2, n, n))
        left, right = (
            np.array([[int(c) for c in row] for row in sums(table, levels)])
            for table in (LEFT, RIGHT)
        )
        order = [block_of(i, j, levels) for i in range(n) for j in range(n)]
        flat_a, flat_b = np.empty(n * n, int), np.empty(n * n, int)
        flat_a[order], flat_b[order] = a.ravel(), b.ravel()
        shared = np.array(right_sums(list(flat_b[:, None]), levels))[:, 0]
        assert np.array_equal(shared, right @ flat_b)
        products = (left @ flat_a) * shared

        def together(p: Array) -> Array:
            if len(p) == 1:
                return p
            p1, p2, p6, p7, p4, p3, p5 = (together(part) for part in p.reshape(7, -1))
            return np.concatenate(
                [p1 + p2, p1 + p6 + p3 + p5, p1 + p6 + p7 + p4, p1 + p6 + p7 + p5]
            )

        assert np.array_equal(together(products)[order].reshape(n, n), a @ b)

    def test_errors_grow_as_derived(self) -> None:
        """Chains of float32 additions, in the order of the kernels, against one long chain."""
        depth, samples = 48, 6000
        random = np.random.default_rng(5)
        a, b = random.standard_normal((2, 2, 2, depth, samples)).astype(np.float32)
        b = b.swapaxes(0, 1)  # [channels' half][tiles' half][channel]; a is [row][half][channel]

        def chain(start: Array, left: Array, right: Array) -> Array:
            for x, y in zip(left, right, strict=True):  # a product alone is exact, as in an FMA
                start = (start.astype(float) + x.astype(float) * y.astype(float)).astype("f4")
            return start

        def combined(row: tuple[Any, ...], blocks: Array) -> Array:
            flat = blocks.reshape(4, depth, samples).astype(float)
            return np.tensordot([float(c) for c in row], flat, 1).astype("f4")

        zero = np.zeros(samples, "f4")
        # P1, P1 + P2, P1 + P6, those + P7, those + P4; P1 + P6 + P3; P5: as multiply_tiles has it.
        p1, p12, u2, u3, c21, u2p3, p5 = range(7)
        made: dict[int, Array] = {}
        starts = {p1: None, p12: p1, u2: p1, u3: u2, c21: u3, u2p3: u2, p5: None}
        for product, (buffer, start) in enumerate(starts.items()):
            before = zero if start is None else made[start]
            sides = combined(LEFT[product], a), combined(RIGHT[product], b)
            made[buffer] = chain(before, *sides)
        blocks = [[made[p12], made[u2p3] + made[p5]], [made[c21], made[u3] + made[p5]]]
        squares = np.zeros(2)
        for i, j in np.ndindex(2, 2):
            left, right = (side.reshape(2 * depth, samples) for side in (a[i], b[:, j]))
            truth = np.einsum("cs,cs->s", left.astype(float), right.astype(float))
            for which, got in enumerate((blocks[i][j], chain(zero, left, right))):
                squares[which] += np.mean((got - truth) ** 2)
        chained, entered = error_growth()
        # Beside the chains: the sums of blocks are rounded about once per side, a product twice.
        extra = 2 * entered * 2 * depth / (depth * (2 * depth + 1))
        assert squares[0] / squares[1] == pytest.approx(chained + extra, rel=0.1)

    def test_a_wrong_sign_would_be_seen(self) -> None:
        wrong = np.array([[float(c) for c in row] for row in LEFT])
        wrong[4] = -wrong[4]
        a, b = np.arange(4.0), np.array([1.0, 2.0, 3.0, 7.0])
        right = np.array([[float(c) for c in row] for row in RIGHT])
        p = (wrong @ a) * (right @ b)
        assert p[0] + p[2] + p[3] + p[4] != (a.reshape(2, 2) @ b.reshape(2, 2))[1, 0]


class TestParts:
    @pytest.mark.parametrize("total", [1, 2, 13, 14, 15, 49, 196, 256])
    def test_they_cover_everything_once_and_evenly(self, total: int) -> None:
        for most in (1, 2, 3, 14, 300):
            parts = Parts.of(total, most=most)
            sizes = [parts.start(i + 1) - parts.start(i) for i in range(parts.count)]
            assert parts.start(0) == 0
            assert sum(sizes) == total
            assert max(sizes) <= most
            assert max(sizes) - min(sizes) <= 1
            assert max(sizes) == parts.longest

    def test_tilings_say_how_they_cut(self) -> None:
        spec = ConvSpec(size=(56, 56), channels=256, filters=64, kernel=(1, 1))
        texts = [str(t) for t in Pointwise().tilings(spec, host(), 4)]
        assert len(set(texts)) == len(texts) <= 4
        assert (
            str(
                StrassenTiling(
                    levels=1, rows=14, vectors=2, lanes=16, pixel_blocks=3, weight_blocks=4
                )
            )
            == "levels 1 tile 14x2x16 blocks 3x4"
        )
