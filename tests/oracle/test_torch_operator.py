"""The torch operator: under torch's own checks, its gradients, compiled, exported and copied."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import os
import threading
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from tests.random_convolutions import ACTIVATED
from torch import Tensor, nn

from convsmith.acceleration import PlannedConv, conv
from convsmith.conv.spec import ACTIVATIONS
from convsmith.errors import ConvsmithError, ShapeError

Arguments = tuple[Any, ...]
OPERATOR = torch.ops.convsmith.conv.default


def arguments(
    rank: int = 2, *, kind: torch.dtype = torch.float32, bias: bool = True, residual: bool = False,
    activation: str = "none", last: bool = False, grad: bool = False, **changes: Any,
) -> Arguments:  # fmt: skip
    """A small convolution of rank 1 to 3 with asymmetric padding, stride, dilation and groups."""
    torch.manual_seed(0)
    size, padding = (6, 5, 4)[:rank], [1, 0, 0, 2, 1, 1][: 2 * rank]
    x = torch.randn(2, 4, *size, dtype=kind)
    if last:
        order = (0, rank + 1, *range(1, rank + 1))
        x = torch.randn(2, *size, 4, dtype=kind).permute(order)
    weight = torch.randn(6, 2, *(2,) * rank, dtype=kind)
    given = {"stride": [2, 1, 1][:rank], "dilation": [1, 2, 1][:rank], "groups": 2, **changes}
    made: list[Any] = [x, weight, torch.randn(6, dtype=kind) if bias else None, None]
    rest = [given["stride"], padding, given["dilation"], given["groups"], activation, "exact", 20.0]
    if residual:
        made[3] = torch.randn_like(conv(*made, *rest[:4], "none", *rest[5:]))
    for tensor in made:
        if tensor is not None:
            tensor.requires_grad_(grad)
    return (*made, *rest)


def plain(call: Arguments) -> Tensor:
    """The same by torch."""
    x, weight, bias, residual, stride, padding, dilation, groups, activation, *_ = call
    pairs = [padding[at : at + 2] for at in range(0, len(padding), 2)]
    padded = F.pad(x, [side for pair in reversed(pairs) for side in pair])
    run = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
    y = run(padded, weight, bias, stride, 0, dilation, groups)
    y = y if residual is None else y + residual
    return ACTIVATED[activation](y)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_it_is_torchs_convolution(rank: int, kind: torch.dtype, last: bool) -> None:
    for activation, bias, residual in product(ACTIVATIONS, (False, True), (False, True)):
        call = arguments(
            rank, kind=kind, last=last, bias=bias, residual=residual, activation=activation
        )
        made = conv(*call)
        torch.testing.assert_close(made, plain(call), rtol=1e-5, atol=1e-5)
        assert made.dtype == kind
        order = (0, *range(2, rank + 2), 1) if last else range(rank + 2)
        assert made.permute(*order).is_contiguous()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(kind: torch.dtype) -> None:
    call = arguments(kind=kind)
    wide = tuple(t.float() if isinstance(t, Tensor) else t for t in call)
    assert torch.equal(conv(*call), conv(*wide).to(kind))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch_finds_nothing_wrong_with_the_operator(rank: int, last: bool) -> None:
    torch.library.opcheck(OPERATOR, arguments(rank, last=last, activation="relu"))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_torch_finds_nothing_wrong_with_its_gradients(activation: str) -> None:
    call = arguments(activation=activation, residual=True, grad=True)
    torch.library.opcheck(OPERATOR, call)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradients_are_derivatives(rank: int) -> None:
    activations = ACTIVATIONS if rank == 2 else ("silu",)
    for activation, bias, residual in product(activations, (False, True), (False, True)):
        call = arguments(
            rank, kind=torch.float64, activation=activation, bias=bias, residual=residual, grad=True
        )
        assert torch.autograd.gradcheck(OPERATOR, call, fast_mode=True)


def test_second_gradients_are_derivatives() -> None:
    call = arguments(1, kind=torch.float64, activation="silu", residual=True, grad=True)
    assert torch.autograd.gradgradcheck(OPERATOR, call, fast_mode=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_in_float32_are_those_of_torch(activation: str) -> None:
    call = arguments(activation=activation, residual=True, grad=True)
    inputs = [t for t in call if isinstance(t, Tensor)]
    seed = torch.randn_like(conv(*call))
    made = torch.autograd.grad(conv(*call), inputs, seed)
    for one, other in zip(made, torch.autograd.grad(plain(call), inputs, seed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_only_where_they_are_wanted() -> None:
    call = arguments(residual=True)
    call[1].requires_grad_(True)
    conv(*call).sum().backward()
    assert call[1].grad is not None
    assert call[0].grad is None
    assert call[2].grad is None


def test_wrong_shapes_are_refused() -> None:
    call = arguments()
    with pytest.raises(ShapeError, match=r"w has shape \(6, 2, 2, 2\), not 3 axes; conv1d takes"):
        conv(call[0][:, :, :, 0], *call[1:])
    with pytest.raises(ConvsmithError, match="w has 2 channels per group, x 3"):
        conv(call[0][:, :3].contiguous(), *call[1:])
    with pytest.raises(ShapeError, match="has 2 axes, not 3 to 5"):
        conv(call[0][0, 0], *call[1:])


# The module -----------------------------------------------------------------------


def layer(**changes: Any) -> PlannedConv:
    torch.manual_seed(1)
    given: dict[str, Any] = {
        "stride": (2, 1), "padding": ((1, 0), (2, 1)), "groups": 2, "activation": "relu", **changes,
    }  # fmt: skip
    return PlannedConv(torch.randn(6, 2, 3, 2), torch.randn(6), **given)


def expected(module: PlannedConv, x: Tensor) -> Tensor:
    (top, bottom), (left, right) = module.padding
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, module.weight, module.bias, module.stride, groups=2).relu()


IMAGE = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "x",
    [
        IMAGE,
        IMAGE.to(memory_format=torch.channels_last),
        IMAGE.transpose(2, 3),
        IMAGE[:, :, ::2, 1:],
        IMAGE[:0],
        IMAGE[:1].expand(3, -1, -1, -1),
        torch.randn(1, 4, 40, 3),
    ],
    ids=["whole", "channels_last", "transposed", "sliced", "empty", "expanded", "other"],
)
def test_the_module_takes_any_input(x: Tensor) -> None:
    module = layer()
    torch.testing.assert_close(module(x), expected(module, x), rtol=1e-5, atol=1e-5)


def test_one_image_without_a_batch() -> None:
    module = layer()
    torch.testing.assert_close(module(IMAGE[0]), module(IMAGE)[0])


def test_weights_that_change_are_packed_again() -> None:
    module, other = layer(), layer(activation="none")
    before = module(IMAGE)
    with torch.no_grad():
        module.weight.mul_(2)
        assert module.bias is not None
        module.bias.mul_(2)
    torch.testing.assert_close(module(IMAGE), 2 * before)
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(IMAGE), before)
    for factor in (3.0, 5.0):  # new tensors, which may lie where old ones lay
        module.weight = nn.Parameter(factor * other.weight, requires_grad=False)
        gc.collect()
        torch.testing.assert_close(module(IMAGE), expected(module, IMAGE), rtol=1e-5, atol=1e-4)
    module.double().float()
    torch.testing.assert_close(module(IMAGE), expected(module, IMAGE), rtol=1e-5, atol=1e-4)


def test_gradients_go_through_the_module_where_they_are_wanted() -> None:
    module, x = layer(), IMAGE.clone().requires_grad_(True)
    module(x).sum().backward()
    (wanted,) = torch.autograd.grad(expected(module, x).sum(), x)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, wanted, rtol=1e-4, atol=1e-4)
    module.bias.requires_grad_(True)  # type: ignore[union-attr]
    assert module(IMAGE).requires_grad


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_under_torch_compile(backend: str) -> None:
    module = layer()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    with torch.no_grad():
        for x in (IMAGE, IMAGE[:1], IMAGE.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("strict", [False, True])
def test_under_torch_export_with_any_batch(strict: bool) -> None:
    module = layer()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (IMAGE,), dynamic_shapes=({0: batch},), strict=strict)
    assert "convsmith.conv" in str(program.graph)
    for x in (IMAGE, IMAGE[:1], torch.randn(7, 4, 9, 8)):
        torch.testing.assert_close(program.module()(x), module(x))


def test_a_dispatch_mode_sees_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        layer()(IMAGE)
    assert "convsmith.conv.default" in seen


def test_copies_are_independent_and_equal() -> None:
    module = layer()
    wanted = module(IMAGE)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(IMAGE), wanted)
    with torch.no_grad():
        twin.weight.zero_()
    assert torch.equal(module(IMAGE), wanted)
    held = io.BytesIO()
    torch.save(module, held)
    held.seek(0)
    loaded = torch.load(held, weights_only=False)
    assert torch.equal(loaded(IMAGE), wanted)
    assert set(module.state_dict()) == {"weight", "bias"}


def _child(module: PlannedConv, wanted: Tensor, queue: Any) -> None:
    queue.put(bool(torch.equal(module(IMAGE), wanted)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_runs_it_too() -> None:
    module = layer()
    wanted = module(IMAGE)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(module, wanted, queue))
    child.start()
    assert queue.get(timeout=120)
    child.join()
    assert child.exitcode == 0


def test_eight_threads_share_a_module() -> None:
    module, wrong = layer(), []
    images = [torch.randn(n % 3 + 1, 4, 9 + n % 4, 8) for n in range(12)]
    wanted = [expected(module, x) for x in images]
    fresh = copy.deepcopy(module)

    def work() -> None:
        for _ in range(10):
            for x, y in zip(images, wanted, strict=True):
                if not torch.allclose(fresh(x), y, rtol=1e-4, atol=1e-4):
                    wrong.append(x.shape)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_print_and_plan_say_what_it_is() -> None:
    module = layer()
    assert str(module) == (
        "PlannedConv(4, 6, kernel_size=(3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), "
        "dilation=(1, 1), groups=2, activation=relu)"
    )
    assert module.plan_for(IMAGE).spec.groups == 2
