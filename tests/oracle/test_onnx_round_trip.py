"""Reading and writing ONNX, judged by ONNX Runtime: the same numbers and the same shapes.

Every model here is evaluated as it was read, and written back in both ways: by surgery on its file
and from scratch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from convsmith.graph import Graph
from convsmith.graph.evaluate import evaluate
from convsmith.graph.operators import Unsupported
from convsmith.sources.onnx import read_onnx, write_onnx
from convsmith.sources.onnx.opening import NEWEST_OPSET

Numbers = npt.NDArray[np.float32]
Weights = Mapping[str, tuple[int, ...]]


def network(
    text: str, weights: Weights | None = None, *, x: str = "1,4,9,10", opset: int = 13
) -> onnx.ModelProto:
    """A model with input ``x`` and output ``y``; its weights are random numbers."""
    imports = [helper.make_opsetid("", opset)]
    ir = max(helper.find_min_ir_version_for(imports), 8)
    text = text.replace("'", '"')
    model = parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["": {opset}]> '
        f"network (float[{x}] x) => (float[] y) {{ {text} }}"
    )
    generator = np.random.default_rng(0)
    used = set(re.findall(r"\b(\w+)[,)]", text))
    for name, shape in (weights or {}).items():
        if name not in used:
            continue
        data = generator.uniform(0.2, 1, shape).astype(np.float32)
        data *= generator.choice([-1, 1], shape) if name != "v" else 1
        model.graph.initializer.append(numpy_helper.from_array(data.astype(np.float32), name))
    return model


def run(path: Path, x: Numbers) -> list[Numbers]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def check(model: onnx.ModelProto, folder: Path, x: Numbers) -> Graph:
    """Reads a model, writes it in both ways and compares all that it computes."""
    source = folder / "source.onnx"
    source.write_bytes(model.SerializeToString())
    truth = run(source, x)
    for output, value in zip(model.graph.output, truth, strict=True):
        kind = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, value.shape)
        output.type.CopyFrom(kind)  # the checker wants to see the shape of an output
    source.write_bytes(model.SerializeToString())
    graph = read_onnx(source, shapes={"x": x.shape})
    assert [graph.shapes[output.value] for output in graph.outputs] == [t.shape for t in truth]
    assert not [node.op for node in graph.nodes if isinstance(node.op, Unsupported)]
    values = evaluate(graph, {"x": x})
    for output, want in zip(graph.outputs, truth, strict=True):
        np.testing.assert_allclose(values[output.value], want, rtol=1e-4, atol=1e-5)
    for name, written in (("same", graph), ("export", replace(graph, origin=None))):
        path = folder / f"{name}.onnx"
        write_onnx(written, path)
        onnx.checker.check_model(onnx.load(path), full_check=name == "export")
        for have, want in zip(run(path, x), truth, strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
        again = read_onnx(path, shapes={"x": x.shape})
        assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]
        assert [node.op for node in again.nodes] == [node.op for node in graph.nodes]
    return graph


W = {"w": (8, 4, 3, 3), "b": (8,)}
AFFINE = {"s": (4,), "b": (4,), "m": (4,), "v": (4,)}

CASES: dict[str, tuple[str, Weights]] = {
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, w, b)", W),
    "conv without bias": ("y = Conv(x, w)", W),
    "conv stride": ("y = Conv<strides=[2,3], pads=[1,1,1,1]>(x, w, b)", W),
    "conv dilated": ("y = Conv<dilations=[2,1], pads=[2,1,2,1]>(x, w, b)", W),
    "conv grouped": ("y = Conv<group=2>(x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}),
    "conv depthwise": ("y = Conv<group=4>(x, w, b)", {"w": (4, 1, 3, 3), "b": (4,)}),
    "conv asymmetric": ("y = Conv<pads=[0,1,2,0]>(x, w, b)", W),
    "conv 1x3": ("y = Conv<pads=[0,1,0,1]>(x, w)", {"w": (5, 4, 1, 3)}),
    "conv same upper": ("y = Conv<auto_pad='SAME_UPPER', strides=[2,2]>(x, w, b)", W),
    "conv same lower": ("y = Conv<auto_pad='SAME_LOWER', strides=[2,3]>(x, w, b)", W),
    "conv same even": ("y = Conv<auto_pad='SAME_UPPER'>(x, w)", {"w": (5, 4, 4, 2)}),
    "conv valid": ("y = Conv<auto_pad='VALID', strides=[2,2]>(x, w, b)", W),
    "deconv": ("y = ConvTranspose<strides=[2,2]>(x, w, b)", {"w": (4, 3, 3, 3), "b": (3,)}),
    "deconv padded": (
        "y = ConvTranspose<strides=[2,3], pads=[1,0,1,2], output_padding=[1,0]>(x, w)",
        {"w": (4, 3, 3, 4)},
    ),
    "deconv grouped": (
        "y = ConvTranspose<group=2, dilations=[2,1]>(x, w, b)",
        {"w": (4, 3, 3, 3), "b": (6,)},
    ),
    "deconv same upper": (
        "y = ConvTranspose<auto_pad='SAME_UPPER', strides=[2,2]>(x, w)",
        {"w": (4, 3, 3, 3)},
    ),
    "deconv same lower": (
        "y = ConvTranspose<auto_pad='SAME_LOWER', strides=[2,2]>(x, w)",
        {"w": (4, 3, 3, 3)},
    ),
    "deconv output shape": (
        "y = ConvTranspose<output_shape=[18,20], strides=[2,2]>(x, w)",
        {"w": (4, 3, 3, 3)},
    ),
    "deconv output shape upper": (
        "y = ConvTranspose<auto_pad='SAME_UPPER', output_shape=[18,20], strides=[2,2]>(x, w)",
        {"w": (4, 3, 3, 3)},
    ),
    "deconv larger output shape": (
        "y = ConvTranspose<output_shape=[20,22], strides=[2,2]>(x, w)",
        {"w": (4, 3, 3, 3)},
    ),
    "maxpool": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "maxpool ceil": ("y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)", {}),
    "maxpool ceil, window in the padding": (
        "y = MaxPool<kernel_shape=[1,2], strides=[2,3], pads=[0,1,0,1], ceil_mode=1>(x)",
        {},
    ),
    "maxpool dilated": ("y = MaxPool<kernel_shape=[3,2], dilations=[2,3]>(x)", {}),
    "maxpool same": (
        "y = MaxPool<kernel_shape=[2,2], strides=[2,2], auto_pad='SAME_UPPER'>(x)",
        {},
    ),
    "avgpool": ("y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", {}),
    "avgpool counting": (
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
        {},
    ),
    "avgpool ceil": ("y = AveragePool<kernel_shape=[2,3], strides=[2,2], ceil_mode=1>(x)", {}),
    "avgpool same": (
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad='SAME_LOWER'>(x)",
        {},
    ),
    "global pools": ("a = GlobalAveragePool(x) b = GlobalMaxPool(x) y = Add(a, b)", {}),
    "batch norm": ("y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)", AFFINE),
    "instance norm": ("y = InstanceNormalization<epsilon=0.01>(x, s, b)", AFFINE),
    "local response norm": ("y = LRN<size=3, alpha=0.5, beta=0.6, bias=2.0>(x)", {}),
    "relu": ("y = Relu(x)", {}),
    "leaky relu": ("y = LeakyRelu<alpha=0.3>(x)", {}),
    "prelu": ("y = PRelu(x, a)", {"a": (4, 1, 1)}),
    "prelu shared": ("y = PRelu(x, a)", {"a": (1,)}),
    "elu, selu, celu": ("a = Elu<alpha=0.5>(x) b = Selu(a) y = Celu<alpha=2.0>(b)", {}),
    "sigmoids": ("a = Sigmoid(x) b = HardSigmoid<alpha=0.3>(a) y = Tanh(b)", {}),
    "soft": ("a = Softplus(x) y = Softsign(a)", {}),
    "relu6": (
        "l = Constant<value_float=0.0>() h = Constant<value_float=6.0>() y = Clip(x, l, h)",
        {},
    ),
    "clip above": ("h = Constant<value_float=0.7>() y = Clip(x, , h)", {}),
    "softmax": ("y = Softmax<axis=1>(x)", {}),
    "log softmax": ("y = LogSoftmax(x)", {}),
    "unaries": ("a = Abs(x) b = Sqrt(a) c = Exp(b) d = Log(c) e = Neg(d) y = Erf(e)", {}),
    "reciprocal": ("a = Exp(x) b = Reciprocal(a) y = Floor(b)", {}),
    "arithmetic": (
        "a = Add(x, k) b = Sub(a, s) c = Mul(b, x) y = Div(c, k)",
        {"k": (4, 1, 1), "s": ()},
    ),
    "many": ("a = Max(x, k, k) b = Min(a, x) y = Sum(a, b, x)", {"k": (4, 1, 1)}),
    "pow": ("p = Constant<value_float=2.0>() y = Pow(x, p)", {}),
    "swish in two nodes": ("a = Sigmoid(x) y = Mul(x, a)", {}),
    "residual": ("a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) y = Add(b, x)", {"w": (4, 4, 3, 3)}),
    "concat": ("a = Relu(x) b = Conv(x, w) y = Concat<axis=1>(a, x, b)", {"w": (2, 4, 1, 1)}),
    "shuffled": (
        (
            "s = Constant<value_ints=[1,2,2,9,10]>() a = Reshape(x, s) "
            "b = Transpose<perm=[0,2,1,3,4]>(a) t = Constant<value_ints=[1,4,9,10]>() "
            "y = Reshape(b, t)"
        ),
        {},
    ),
    "split": ("n = Constant<value_ints=[1,3]>() a, b = Split<axis=1>(x, n) y = Mul(a, b)", {}),
    "option A shortcut": (
        (
            "s = Constant<value_ints=[0,0]>() e = Constant<value_ints=[9223372036854775807,100]>() "
            "t = Constant<value_ints=[2,3]>() d = Constant<value_ints=[2,2]>() "
            "a = Slice(x, s, e, t, d) p = Constant<value_ints=[0,2,0,0,0,2,0,0]>() y = Pad(a, p)"
        ),
        {},
    ),
    "pad by value": (
        (
            "p = Constant<value_ints=[0,0,1,2,0,0,3,-1]>() v = Constant<value_float=0.5>() "
            "y = Pad(x, p, v)"
        ),
        {},
    ),
    "pad by reflection": (
        "p = Constant<value_ints=[0,0,1,2,0,0,3,1]>() y = Pad<mode='reflect'>(x, p)",
        {},
    ),
    "flatten and gemm": ("a = Flatten(x) y = Gemm<transB=1>(a, w, b)", {"w": (5, 360), "b": (5,)}),
    "gemm": ("a = Flatten(x) y = Gemm<alpha=0.5, beta=2.0>(a, w, b)", {"w": (360, 5), "b": (1, 5)}),
    "gemm without bias": ("a = Flatten(x) y = Gemm(a, w)", {"w": (360, 5)}),
    "gemm with a scalar": ("a = Flatten(x) y = Gemm(a, w, b)", {"w": (360, 5), "b": ()}),
    "gemm turned": ("a = Flatten(x) y = Gemm<transA=1, transB=1>(a, w)", {"w": (5, 1)}),
    "gemm of values": ("a = Flatten(x) b = Relu(a) y = Gemm<transB=1>(a, b, c)", {"c": (1, 1)}),
    "gemm with a matrix": ("a = Flatten(x) y = Gemm(a, w, c)", {"w": (360, 5), "c": (1, 1)}),
    "matmul": ("a = Flatten(x) m = MatMul(a, w) y = Add(m, b)", {"w": (360, 5), "b": (5,)}),
    "matmul of images": ("y = MatMul(x, w)", {"w": (10, 6)}),
    "matmul from the left": ("y = MatMul(w, x)", {"w": (6, 9)}),
    "matmul of values": ("a = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, a)", {}),
    "squeezed head": (
        (
            "a = GlobalAveragePool(x) t = Constant<value_ints=[2,3]>() b = Squeeze(a, t) "
            "c = MatMul(b, w) y = Unsqueeze(c, t)"
        ),
        {"w": (4, 3)},
    ),
    "view(size(0), -1)": (
        (
            "s = Shape(x) i = Constant<value_int=0>() n = Gather<axis=0>(s, i) "
            "a = Constant<value_ints=[0]>() u = Unsqueeze(n, a) m = Constant<value_ints=[-1]>() "
            "c = Concat<axis=0>(u, m) y = Reshape(x, c)"
        ),
        {},
    ),
    "resize to the size of another": (
        (
            "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) s = Shape(x) "
            "a = Constant<value_ints=[2]>() b = Constant<value_ints=[4]>() z = Slice(s, a, b) "
            "q = Shape(p) o = Constant<value_ints=[0]>() r = Slice(q, o, a) "
            "c = Concat<axis=0>(r, z) u = Resize<mode='linear'>(p, , , c) y = Add(u, x)"
        ),
        {},
    ),
    "expand": ("s = Constant<value_ints=[2,4,9,10]>() y = Expand(x, s)", {}),
    "reductions": (
        (
            "a = ReduceMean<axes=[2,3]>(x) b = ReduceMax<axes=[-1]>(x) c = ReduceL2<axes=[2,3]>(b) "
            "t = Constant<value_ints=[1]>() d = ReduceSum<keepdims=0>(c, t) e = ReduceMin(a) "
            "f = Add(d, e) y = ReduceProd<axes=[0], keepdims=0>(f)"
        ),
        {},
    ),
    "dropout": ("d = Dropout(x) y = Identity(d)", {}),
    "cast": ("y = Cast<to=1>(x)", {}),
    "pixel shuffle": ("y = DepthToSpace<blocksize=2, mode='CRD'>(x)", {}),
    "depth to space": ("y = DepthToSpace<blocksize=2>(x)", {}),
    "one channel": ("i = Constant<value_int=-2>() y = Gather<axis=1>(x, i)", {}),
    "two uses of one weight": ("a = Conv(x, w) r = Relu(x) c = Conv(r, w) y = Add(a, c)", W),
    "weight through identity": ("k = Identity(w) y = Conv(x, k, b)", W),
    "several outputs of one": ("a = Relu(x) y = Identity(a)", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_network_computes_the_same_after_reading_and_writing(name: str, tmp_path: Path) -> None:
    text, weights = CASES[name]
    x = np.random.default_rng(1).standard_normal((1, 4, 9, 10)).astype(np.float32)
    check(network(text, weights), tmp_path, x)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    "alignment", ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"]
)
@pytest.mark.parametrize("target", ["scales", "sizes"])
def test_resizing(mode: str, alignment: str, target: str, tmp_path: Path) -> None:
    how = f"mode='{mode}', coordinate_transformation_mode='{alignment}', nearest_mode='floor'"
    if target == "scales":
        text = f"s = Constant<value_floats=[1.0,1.0,2.0,1.5]>() y = Resize<{how}>(x, , s)"
    else:
        text = f"s = Constant<value_ints=[1,4,5,17]>() y = Resize<{how}>(x, , , s)"
    x = np.random.default_rng(1).standard_normal((1, 4, 9, 10)).astype(np.float32)
    check(network(text), tmp_path, x)


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_resizing_to_the_nearest(rounding: str, tmp_path: Path) -> None:
    how = f"nearest_mode='{rounding}'"
    text = f"s = Constant<value_floats=[1.0,1.0,0.55,2.5]>() y = Resize<{how}>(x, , s)"
    x = np.random.default_rng(1).standard_normal((1, 4, 10, 10)).astype(np.float32)
    check(network(text, x="1,4,10,10"), tmp_path, x)


@pytest.mark.parametrize(
    ("shape", "text", "weights"),
    [
        ("2,4,11", "y = Conv<pads=[1,2], strides=[2], group=2>(x, w)", {"w": (6, 2, 3)}),
        ("2,4,11", "y = ConvTranspose<strides=[2]>(x, w)", {"w": (4, 2, 3)}),
        ("2,4,11", "y = MaxPool<kernel_shape=[3], ceil_mode=1, strides=[2]>(x)", {}),
        ("2,4,11", "y = PRelu(x, a)", {"a": (4, 1)}),
        ("2,3,5,6,7", "y = Conv<pads=[1,0,1,1,0,1]>(x, w)", {"w": (4, 3, 3, 2, 3)}),
        ("2,3,5,6,7", "y = ConvTranspose<strides=[1,2,1]>(x, w)", {"w": (3, 2, 2, 2, 2)}),
        ("2,3,5,6,7", "y = AveragePool<kernel_shape=[2,3,2], pads=[0,1,0,1,1,0]>(x)", {}),
        ("2,3,5,6,7", "y = GlobalAveragePool(x)", {}),
        ("2,6", "y = Softmax<axis=-1>(x)", {}),
        ("2,6", "y = BatchNormalization(x, s, b, m, v)", dict.fromkeys("sbmv", (6,))),
    ],
)
def test_other_numbers_of_axes(shape: str, text: str, weights: Weights, tmp_path: Path) -> None:
    sizes = tuple(map(int, shape.split(",")))
    x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
    check(network(text, weights, x=shape), tmp_path, x)


@pytest.mark.parametrize(
    ("opset", "text", "weights"),
    [
        (7, "y = Upsample<mode='nearest', scales=[1.0,1.0,2.0,3.0]>(x)", {}),
        (9, "s = Constant<value=float[4] {1, 1, 2, 3}>() y = Upsample<mode='linear'>(x, s)", {}),
        (10, "s = Constant<value=float[4] {1, 1, 2, 0.5}>() y = Resize<mode='nearest'>(x, s)", {}),
        (7, "y = Clip<min=0.0, max=6.0>(x)", {}),
        (7, "y = Clip<max=0.5>(x)", {}),
        (7, "y = Pad<pads=[0,0,1,1,0,0,2,0], value=1.5>(x)", {}),
        (7, "y = Slice<axes=[2,3], starts=[0,-5], ends=[7,1000]>(x)", {}),
        (7, "a, b = Split<axis=1>(x) y = Add(a, b)", {}),
        (9, "a, b = Split<axis=1, split=[2,2]>(x) y = Add(a, b)", {}),
        (7, "a = GlobalAveragePool(x) b = Squeeze<axes=[2,3]>(a) y = Softmax(b)", {}),
        (9, "a = GlobalAveragePool(x) y = Softmax(a)", {}),
        (11, "y = Softmax<axis=3>(x)", {}),
        (7, "y = BatchNormalization(x, s, b, m, v)", AFFINE),
        (9, "a = Flatten(x) y = Gemm<transB=1>(a, w, b)", {"w": (5, 360), "b": (5,)}),
        (11, "y = ReduceMean<axes=[2,3], keepdims=0>(x)", {}),
        (11, "a = Dropout<ratio=0.3>(x) y = Unsqueeze<axes=[0]>(a)", {}),
        (17, "y = LayerNormalization<axis=-2>(x, s, b)", {"s": (9, 10), "b": (9, 10)}),
        (18, "y = Mish(x)", {}),
        (18, "t = Constant<value_ints=[2,3]>() y = ReduceMax<keepdims=0>(x, t)", {}),
        (18, "a, b, c = Split<axis=2, num_outputs=3>(x) y = Concat<axis=2>(c, a, b)", {}),
        (18, ("p = Constant<value_ints=[1,2]>() v = Constant<value_float=0.0>() "
             "t = Constant<value_ints=[3]>() y = Pad(x, p, v, t)"), {}),
        (14, "y = HardSwish(x)", {}),
        (20, "a = Gelu(x) y = Gelu<approximate='tanh'>(a)", {}),
        (21, "y = GroupNormalization<num_groups=2>(x, s, b)", AFFINE),
        (22, "y = Conv<pads=[1,1,1,1]>(x, w, b)", W),
    ],
)  # fmt: skip
def test_opsets(opset: int, text: str, weights: Weights, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 4, 9, 10)).astype(np.float32)
    check(network(text, weights, opset=opset), tmp_path, x)


def test_the_newest_opset_is_read(tmp_path: Path) -> None:
    model = network("a = Conv(x, w, b) y = Swish(a)", W, opset=NEWEST_OPSET)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert [str(n.op)[:4] for n in read_onnx(tmp_path / "a.onnx").nodes] == ["Conv", "Acti"]


@pytest.mark.filterwarnings("ignore")  # the exporter that needs no further package is deprecated
@pytest.mark.parametrize("kind", ["head", "residual", "decoder"])
def test_what_torch_exports(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Shortcut(nn.Module):  # type: ignore[misc, name-defined]  # torch is optional
        """The parameter-free shortcut of CIFAR ResNets."""

        def forward(self, x: object) -> object:
            return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))  # type: ignore[index]

    class Residual(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
            self.right = Shortcut()

        def forward(self, x: object) -> object:
            return self.left(x) + self.right(x)

    networks: dict[str, Callable[[], Any]] = {
        "head": lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
            nn.LogSoftmax(1),
        ),
        "residual": Residual,
        "decoder": lambda: nn.Sequential(
            nn.ConvTranspose2d(4, 8, 3, 2, 1, 1),
            nn.PReLU(8),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(8, 4, 3, padding=1),
            nn.PixelShuffle(2),
        ),
    }
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 11)
    path = tmp_path / "torch.onnx"
    torch.onnx.export(
        networks[kind]().eval(), (x,), path, dynamo=False, input_names=["x"],
        dynamic_axes={"x": {0: "N", 2: "H", 3: "W"}},
    )  # fmt: skip
    check(onnx.load(path), tmp_path, x.numpy())
