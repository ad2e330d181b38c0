"""Follows one forward pass and writes down which operator made which tensor.

Two kinds of tensors meet in a pass. *Symbolic* ones depend on an input of the network; they
live on the meta device, so that nothing is computed for them, and each stands for a value of
the graph. All others are *constants*: weights and what is computed from weights and numbers
alone. Those are computed for real, so that a weight behind ``weight_norm``, a table of anchors
or a mean image made in ``forward`` arrives in the graph with its elements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Constant, GraphBuilder, Provenance
from convsmith.graph.operators import Reshape, Unsupported
from convsmith.sources.torch.arguments import (
    bind,
    on_device,
    replace_tensors,
    tensors_in,
    written_tensors,
)
from convsmith.sources.torch.boxes import box_of, put_into
from convsmith.sources.torch.call import LATER, MAPPINGS, Call, Unmapped
from convsmith.sources.torch.derivations import Derivations
from convsmith.sources.torch.memory import (
    as_constant,
    meta_like,
    numpy_name,
    overlap,
    same_elements,
    storage_of,
)
from convsmith.sources.torch.naming import Names
from convsmith.sources.torch.results import is_certain
from convsmith.sources.torch.twin import Twin

__all__ = ["Recorder"]

_FACTORIES = frozenset(
    [
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "new_empty_strided",
    ]
)
_READS_DATA = frozenset(
    [
        "item",
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "allclose",
        "nonzero",
        "masked_select",
        "unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
    ]
)
# The second argument lends its shape or its type to the first.
_SHAPED_LIKE: Mapping[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
    "to": lambda x, like: x.to(like.dtype) if isinstance(like, torch.Tensor) else x,
    "type_as": lambda x, like: x.to(like.dtype),
    "expand_as": lambda x, like: x.expand(like.shape),
    "view_as": lambda x, like: x.view(like.shape),
    "reshape_as": lambda x, like: x.reshape(like.shape),
}
# These would fall apart into so many steps that nobody recognizes them.
_KEPT_WHOLE = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell"])

Thunk = Callable[[], str]


class Recorder(TorchDispatchMode):
    """Builds the graph of everything that runs while it is active.

    Attributes:
        builder: The graph so far.
        names: What things are called.
        device: Where constants are computed: that of the weights.
    """

    def __init__(self, twin: Twin) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.builder = GraphBuilder()
        self.names = Names(twin.names, twin.keys)
        self._twin = twin
        devices = (t.device for t in twin.tensors if not t.is_meta)
        self.device = next(devices, torch.device("cpu"))
        self._values: dict[int, str | Thunk] = {}
        self._constants: dict[int, str] = {}
        self._views: dict[tuple[Any, ...], str] = {}
        self._learnable = set(twin.learnable)
        self._derivations = Derivations()
        self._uncast: dict[int, torch.Tensor] = {}
        self._meta: dict[int, torch.Tensor] = {}
        self._flat: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        self._stands_for: dict[int, int] = {}
        self._sharing: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
        self._alive: list[torch.Tensor] = []
        # Memory that others look at: the user, and the constants of the graph.
        self._shown: set[int] = set()
        for tensor in twin.tensors:
            if id(tensor) in twin.originals:
                continue  # its copy looks at the same memory
            memory = storage_of(tensor)
            self._shown.add(memory)
            self._alive.append(tensor)
            self._sharing[memory].append(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's compiler need not be kept away, nor loaded for that: it rests while we read."""
        return False

    # Values --------------------------------------------------------------------------------

    def input(self, name: str, tensor: torch.Tensor) -> None:
        """Adds an input of the network, which a meta tensor stands for."""
        made = self.builder.input(
            self.names.free(name), tuple(tensor.shape), numpy_name(tensor.dtype)
        )
        self.define(tensor, made)

    def define(self, tensor: torch.Tensor, value: str | Thunk) -> None:
        """Says which value a symbolic tensor stands for, or how to get it when it is used."""
        self._keep(tensor)
        if not tensor.is_meta and id(tensor) not in self._values:
            self._meta.pop(id(tensor), None)
        self._values[id(tensor)] = value

    def _keep(self, tensor: torch.Tensor) -> None:
        self._alive.append(tensor)
        sharing = self._sharing[self._memory(tensor)]
        if not sharing or all(other is not tensor for other in sharing):
            sharing.append(tensor)

    def _memory(self, tensor: torch.Tensor) -> int:
        """The identity of the memory of a tensor, the same for a real one and its stand-ins."""
        memory = storage_of(tensor)
        return self._stands_for.get(memory, memory)

    def value_of(self, tensor: torch.Tensor) -> str | None:
        """The value that a symbolic tensor stands for; ``None`` for a constant."""
        value = self._values.get(id(tensor))
        if callable(value):
            value = self._values[id(tensor)] = value()
        return value

    def are_constants(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether none of them depends on an input of the network."""
        return self._values.keys().isdisjoint(map(id, tensors))

    def constant(self, tensor: torch.Tensor | Constant, name: str) -> str:
        """The name of a constant, which is put into the graph when it is new.

        A tensor of the module is named by its state-dict key, any other one ``name``. Two views
        that show the same elements are one constant.
        """
        if isinstance(tensor, Constant):
            return self.builder.constant(self.names.free(name), tensor)
        if id(tensor) in self._constants:
            return self._constants[id(tensor)]
        self._alive.append(tensor)
        memory = storage_of(tensor)
        view = (memory, tensor.storage_offset(), tensor.shape, tensor.stride())
        known = self._views.get(view)
        if known is None:
            key = self._twin.names.get(id(tensor))
            if key not in self._twin.keys or self.builder.has_constant(key):
                key = self.names.free(key or name)
            known = self.builder.constant(
                key, as_constant(tensor, learnable=id(tensor) in self._learnable)
            )
            self._views[view] = known
            self._shown.add(memory)
        self._constants[id(tensor)] = known
        return known

    def derived(self, tensor: torch.Tensor) -> str | None:
        """The value of a constant that is more than its weights; ``None`` for all others."""
        call = self._derivations.call(tensor, self)
        if call is None:
            return None
        try:
            made = MAPPINGS[call.name](call)
        except Unmapped:
            return None
        if not isinstance(made, str):
            return None
        self._check_shape(call, made, tensor)
        self._values[id(tensor)] = made
        return made

    def result(self, tensor: torch.Tensor, name: str) -> str:
        """The value of something that the network returns, symbolic or constant."""
        return self.value_of(tensor) or self.constant(tensor, name)

    # The pass ------------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Records one call; torch calls this for every operator."""
        kwargs = kwargs or {}
        tensors = list(tensors_in([*args, *kwargs.values()]))
        name = func.overloadpacket.__name__
        if self._values.keys().isdisjoint(map(id, tensors)):
            return self._compute(func, tensors, args, kwargs)
        if name in _SHAPED_LIKE and id(args[0]) not in self._values:
            with self:
                return _SHAPED_LIKE[name](args[0], args[1])
        if name in _FACTORIES:
            return self._make(func, args, kwargs)
        if self._uncast:
            args, kwargs, tensors = self._without_autocast(tensors, args, kwargs)
        if name in _READS_DATA:
            raise SourceError(
                f"forward reads the elements of a tensor (aten.{name})",
                place=self.names.path or type(self._twin.module).__name__,
                remedy="what it does depends on data; give an ONNX export",
            )
        base = name.rstrip("_") if not name.endswith("__") else name
        if base not in MAPPINGS and base not in _KEPT_WHOLE and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        return self._record(base, func, tensors, args, kwargs)

    def _without_autocast(
        self, tensors: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any], list[torch.Tensor]]:
        """Undoes casts of weights alone: autocast does not know that meta tensors are values."""
        symbolic = {t.dtype for t in tensors if id(t) in self._values}
        originals = {
            id(tensor): self._uncast[id(tensor)]
            for tensor in tensors
            if id(tensor) in self._uncast
            and tensor.dtype not in symbolic
            and self._uncast[id(tensor)].dtype in symbolic
        }
        args = replace_tensors(args, originals)
        kwargs = {key: replace_tensors(value, originals) for key, value in kwargs.items()}
        return args, kwargs, list(tensors_in([*args, *kwargs.values()]))

    def _compute(
        self,
        func: torch._ops.OpOverload,
        tensors: Sequence[torch.Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Computes a constant for real, without touching the user's memory."""
        written = written_tensors(func, args, kwargs)
        if any(self._shows_in_values(tensor) for tensor in written):
            return self._record(
                func.overloadpacket.__name__.rstrip("_"), func, tensors, args, kwargs
            )
        if any(id(tensor) in self._twin.originals for tensor in written):
            return written[0]  # a closure over the user's own module: its state stays
        for tensor in written:
            self._derivations.forget(tensor)
            self._make_writable(tensor)
        if any(tensor.is_meta for tensor in tensors):
            args, kwargs = self._to_meta(args), self._to_meta(kwargs)
        else:
            args, kwargs = on_device(args, self.device), on_device(kwargs, self.device)
        result = func(*args, **kwargs)
        cast = func.overloadpacket.__name__ in ("to", "_to_copy") and result is not args[0]
        if cast and result.is_floating_point():
            self._uncast[id(result)] = args[0]
        learnable = [tensor for tensor in tensors if id(tensor) in self._learnable]
        if learnable and not written:
            self._derivations.note(func, args, kwargs, learnable, tensors, result)
        for tensor in tensors_in(result):
            self._keep(tensor)
            if learnable:
                self._learnable.add(id(tensor))
        return result

    def _shows_in_values(self, target: torch.Tensor) -> bool:
        """Whether writing to a constant would change a symbolic tensor that shares its memory."""
        sharing = self._sharing.get(self._memory(target), ())
        return any(id(t) in self._values and overlap(t, target) for t in sharing)

    def _make_writable(self, target: torch.Tensor) -> None:
        """Moves a tensor, and those that share its memory, away from what must not change."""
        others = (t for t in self._sharing[storage_of(target)] if t is not target)
        sharing = [target, *(t for t in others if not t.is_meta)]
        if storage_of(target) in self._shown:
            memory = target.untyped_storage().clone()
            for tensor in sharing:
                tensor.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())
        for tensor in sharing:
            if overlap(tensor, target):
                self._constants.pop(id(tensor), None)

    def _make(
        self, func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Makes a constant that takes only its shape from a symbolic tensor."""
        result = func(*self._to_meta(args), **{**kwargs, "device": self.device})
        if "empty" in func.overloadpacket.__name__:
            result.zero_()
        self._keep(result)
        return result

    def _record(
        self,
        base: str,
        func: torch._ops.OpOverload,
        tensors: Sequence[torch.Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        arguments = bind(func, args, kwargs)
        written = written_tensors(func, args, kwargs)
        if is_certain(base, func._overloadname, arguments, tensors):
            made = self._record_certain(base, func, arguments, written)
            if made is not None:
                return made
        result = self._run(base, func, tensors, args, kwargs)
        call = Call(
            name=base,
            overload=func._overloadname,
            arguments=arguments,
            outputs=tuple(tensors_in(result)),
            recorder=self,
        )
        if not call.outputs:
            return result
        values = self._map(call)
        stand_ins = {id(meta): real for real, meta in self._stand_ins(tensors)}
        result = replace_tensors(result, stand_ins)
        for tensor in written:
            self._write(tensor, values[0], base)
        for tensor, value in zip(tensors_in(result), values, strict=True):
            self.define(tensor, value)
        return result

    def _record_certain(
        self,
        base: str,
        func: torch._ops.OpOverload,
        arguments: Mapping[str, Any],
        written: Sequence[torch.Tensor],
    ) -> torch.Tensor | None:
        """Records a call without running it; ``None`` if torch must say what is wrong with it."""
        target = written[0] if written else None
        call = Call(
            name=base,
            overload=func._overloadname,
            arguments=arguments,
            outputs=(),
            recorder=self,
        )
        try:
            value = MAPPINGS[base](call)
        except (ConvsmithError, Unmapped):
            return None
        if not isinstance(value, str):
            return None
        shape = self.builder.shapes[value]
        if shape is None:
            return None
        if target is None:
            result = torch.empty(shape, dtype=call.first.dtype, device="meta")
            self.define(result, value)
            return result
        if not target.is_meta or target.shape != shape:
            return None
        self._write(target, value, base)
        return target

    def _run(
        self,
        base: str,
        func: torch._ops.OpOverload,
        tensors: Sequence[torch.Tensor],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if base == "batch_norm" and not bind(func, args, kwargs)["training"]:
            return torch.empty_like(self._to_meta(args[0]))  # torch's own way takes milliseconds
        try:
            return func(*self._to_meta(args), **self._to_meta(kwargs))
        except NotImplementedError as error:
            raise SourceError(
                f"nobody can tell the shape of what aten.{base} makes before it has run",
                place=self.names.path or type(self._twin.module).__name__,
                remedy="what it does depends on data; give an ONNX export",
            ) from error
        except RuntimeError as error:
            shapes = ", ".join("x".join(map(str, t.shape)) or "scalar" for t in tensors)
            raise RuntimeError(f"aten.{base} of {shapes}: {error}") from error

    def _stand_ins(
        self, tensors: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(t, self._meta[id(t)]) for t in tensors if id(t) in self._meta]

    def _map(self, call: Call) -> list[str | Thunk]:
        """Adds the nodes of a call; returns the value of every output, or how to get it."""
        mapper = MAPPINGS.get(call.name)
        values: tuple[str, ...] = ()
        if mapper is not None:
            try:
                made = mapper(call)
                values = (made,) if isinstance(made, str) else made
            except Unmapped:
                mapper = None
            for value, tensor in zip(values, call.outputs, strict=False):
                self._check_shape(call, value, tensor)
        if mapper is None:
            return list(self._unsupported(call, call.outputs))
        rest = call.outputs[len(values) :]
        return [*values, *(self._later(call, tensor) for tensor in rest)]

    def _check_shape(self, call: Call, value: str, tensor: torch.Tensor) -> None:
        shape = self.builder.shapes[value]
        if shape != tuple(tensor.shape):
            raise SourceError(
                f"aten.{call.name} makes {tuple(tensor.shape)}, convsmith reads it as {shape}",
                place=self.names.path,
                remedy="this is a mistake in convsmith; please report it",
            )

    def _later(self, call: Call, tensor: torch.Tensor) -> Thunk:
        values = {id(t): value for t in call.tensors() if (value := self.value_of(t))}

        def make() -> str:
            now = {key: self._values[key] for key in values}
            self._values.update(values)  # the arguments may have been written to since
            try:
                if call.name in LATER:
                    return LATER[call.name](call)
                return self._unsupported(call, (tensor,))[0]
            finally:
                self._values.update(now)

        return make

    def _unsupported(self, call: Call, outputs: Sequence[torch.Tensor]) -> tuple[str, ...]:
        shapes = tuple(tuple(tensor.shape) for tensor in outputs)
        weights = [t for t in call.tensors() if self.value_of(t) is None]
        name = self.names.unique(self.names.base_name(call.name, weights))
        inputs = [
            self.value_of(tensor) or self.constant(tensor, f"{name}.operand")
            for tensor in call.tensors()
        ]
        return self.builder.add_all(
            Unsupported(kind=f"aten.{call.name}", shapes=shapes),
            *inputs,
            name=name,
            provenance=Provenance(path=self.names.path, origin=f"aten.{call.name}"),
        )

    # Writing in place ----------------------------------------------------------------------

    def _write(self, target: torch.Tensor, value: str | Thunk, operator: str) -> None:
        """Gives a tensor a new value, and with it all others that share its memory."""
        others = [t for t in self._sharing[self._memory(target)] if t is not target]
        self.define(target, value)
        for other in others:
            if same_elements(other, target):
                self.define(other, self._reshaped(target, other))
            elif overlap(other, target):
                self.define(other, self._patched(other, target, operator))

    def _reshaped(self, source: torch.Tensor, view: torch.Tensor) -> Thunk:
        value = self._values[id(source)]

        def make() -> str:
            name = value() if callable(value) else value
            if view.shape == source.shape:
                return name
            op = Reshape(shape=tuple(view.shape))
            return self.builder.add(op, name, name=self.names.unique(self.names.base_name("view")))

        return make

    def _patched(self, whole: torch.Tensor, part: torch.Tensor, operator: str) -> Thunk:
        """A tensor of which some elements were written."""
        before = self._values.get(id(whole))
        written = self._values[id(part)]
        box = box_of(part, whole)

        def make() -> str:
            old = before() if callable(before) else before
            old = old or self.constant(whole, f"{self.names.next_name(operator)}.operand")
            new = written() if callable(written) else written
            if box is not None:
                return put_into(self, old, new, box)
            name = self.names.unique(self.names.base_name(operator))
            return self.builder.add(
                Unsupported(kind=f"aten.{operator}_", shapes=(tuple(whole.shape),)),
                old,
                new,
                name=name,
                provenance=Provenance(path=self.names.path, origin=f"aten.{operator}_"),
            )

        return make

    def _stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """A meta tensor for a real one that became symbolic; those that shared memory still do."""
        memory = storage_of(tensor), tensor.dtype
        if memory not in self._flat:
            count = tensor.untyped_storage().nbytes() // tensor.element_size()
            self._flat[memory] = torch.empty(count, dtype=tensor.dtype, device="meta")
            self._stands_for[storage_of(self._flat[memory])] = memory[0]
        flat = self._flat[memory]
        return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _to_meta(self, arguments: Any) -> Any:
        """The same arguments with a meta tensor in place of every real one."""
        match arguments:
            case torch.Tensor():
                if arguments.is_meta:
                    return arguments
                if id(arguments) not in self._meta:
                    self._alive.append(arguments)
                    is_value = id(arguments) in self._values
                    make = self._stand_in if is_value else meta_like
                    self._meta[id(arguments)] = make(arguments)
                return self._meta[id(arguments)]
            case torch.device():
                return torch.device("meta")
            case list() | tuple():
                return type(arguments)(self._to_meta(item) for item in arguments)
            case Mapping():
                return {key: self._to_meta(item) for key, item in arguments.items()}
        return arguments
