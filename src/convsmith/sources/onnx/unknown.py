"""The shapes that operators without a table row make, as far as ONNX itself can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
from onnx import TypeProto, helper, numpy_helper

from convsmith.graph import Input, Shape
from convsmith.sources.onnx.calls import Call

__all__ = ["UnknownShapes"]

_SMALL = 4096  # bytes: more than any tensor that holds sizes
_FAILURES = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    MemoryError,
)


class UnknownShapes:
    """Asks ONNX's shape inference, one node at a time, and the whole model where that fails.

    Args:
        model: The model; what is done here leaves it as it is.
        inputs: Its inputs with all sizes known.
    """

    def __init__(self, model: onnx.ModelProto, inputs: Sequence[Input]) -> None:
        self._model = model
        self._inputs = {value.name: value.shape for value in inputs}
        self._whole: Mapping[str, TypeProto] | None = None

    def shapes(self, call: Call) -> tuple[Shape | None, ...]:
        """Returns the shape of every output of a node; ``None`` where it stays unknown."""
        alone = self._infer_node(call)
        whole = self._types()
        return tuple(
            _static(alone.get(name)) or _static(whole.get(name)) if name else None
            for name in call.proto.output
        )

    def _infer_node(self, call: Call) -> Mapping[str, TypeProto]:
        proto, domain = call.proto, call.proto.domain.removeprefix("ai.onnx")
        opsets = {o.domain.removeprefix("ai.onnx"): o.version for o in self._model.opset_import}
        version = opsets.get(domain, 1)
        if not onnx.defs.has(proto.op_type, domain=proto.domain):
            return {}
        types, data = {}, {}
        for index, name in enumerate(proto.input):
            declared = self._types().get(name)
            if not name or declared is None or not declared.HasField("tensor_type"):
                continue
            code, shape = declared.tensor_type.elem_type, call.shapes[index]
            types[name] = helper.make_tensor_type_proto(code, shape)
            known = call.known[index]
            if known and known.data is not None and known.data.nbytes <= _SMALL:
                data[name] = numpy_helper.from_array(known.data, name)
        try:
            schema = onnx.defs.get_schema(proto.op_type, version, proto.domain)
            return onnx.shape_inference.infer_node_outputs(
                schema,
                proto,
                types,
                data,
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except _FAILURES:
            return {}

    def _types(self) -> Mapping[str, TypeProto]:
        """Element types, and shapes where they are plain, of all tensors of the model."""
        if self._whole is None:
            light = _without_weights(self._model)
            for value in light.graph.input:
                shape = self._inputs.get(value.name)
                if shape is not None:
                    code = value.type.tensor_type.elem_type
                    value.type.CopyFrom(helper.make_tensor_type_proto(code, shape))
            try:
                # It is not to follow numbers (data_prop), which the reader has done: for a long
                # vector whose numbers nobody knows it would make a placeholder of each.
                inferred = onnx.shape_inference.infer_shapes(light).graph
            except _FAILURES:
                inferred = light.graph
            values = (*inferred.input, *inferred.value_info, *inferred.output)
            self._whole = {value.name: value.type for value in values}
            for tensor in light.graph.initializer:
                self._whole[tensor.name] = helper.make_tensor_type_proto(
                    tensor.data_type, tensor.dims
                )
        return self._whole


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initializers are headers only."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if tensor.ByteSize() > _SMALL:
            header = onnx.TensorProto(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims
            )
            tensor.CopyFrom(header)
    return light


def _static(declared: TypeProto | None) -> Shape | None:
    if declared is None or not declared.tensor_type.HasField("shape"):
        return None
    dims = declared.tensor_type.shape.dim
    if all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
        return tuple(dim.dim_value for dim in dims)
    return None
