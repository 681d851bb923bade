"""Vectors of sixteen float32 for numba kernels, so that their speed does not hang on what a compiler makes of loops.

`load`, `store`, `splat`, `lift` and `multiply_add` become the vector instructions of the processor, in pieces where it
has none that wide; products and sums are fused where it can. Indices are in samples and are not checked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 16


class _Vector(types.Type):
    """The numba type of sixteen float32."""

    def __init__(self):
        super().__init__(name="float32x16")


_VECTOR = _Vector()
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_FUSED = ("contract",)
# Untyped, since callers do not give the first argument, numba's own.
_operation: Any = intrinsic


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, _FLOATS)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


def _is_line(kind: Any) -> bool:
    return isinstance(kind, types.Array) and kind.ndim == 1 and kind.layout == "C" and kind.dtype == types.float32


@_operation
def load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16], of a contiguous float32 array of one axis."""
    if not (_is_line(array) and isinstance(index, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *arguments), align=4)

    return _VECTOR(array, types.intp), generate


@_operation
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + 16] = value."""
    if not (_is_line(array) and isinstance(index, types.Integer) and value is _VECTOR):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line, at, values = arguments
        builder.store(values, _address(context, builder, signature.args[0], line, at), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


def _spread(builder: Any, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    )


@_operation
def splat(typing: Any, number: Any) -> Any:
    """A float32 in all sixteen places."""
    if number != types.float32:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _spread(builder, arguments[0])

    return _VECTOR(number), generate


@_operation
def lift(typing: Any, target: Any, first: Any, second: Any, weight: Any) -> Any:
    """target + weight * (first + second), all vectors."""
    if any(kind is not _VECTOR for kind in (target, first, second, weight)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        t, a, b, w = arguments
        return builder.fadd(t, builder.fmul(w, builder.fadd(a, b), flags=_FUSED), flags=_FUSED)

    return _VECTOR(target, first, second, weight), generate


@_operation
def multiply_add(typing: Any, total: Any, first: Any, second: Any) -> Any:
    """total + first * second, all vectors."""
    if any(kind is not _VECTOR for kind in (total, first, second)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        t, a, b = arguments
        return builder.fadd(t, builder.fmul(a, b, flags=_FUSED), flags=_FUSED)

    return _VECTOR(total, first, second), generate
