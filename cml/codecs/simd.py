"""Vectors of sixteen float32 for numba kernels, so that their speed does not hang on what a compiler makes of loops.

`load`, `store`, `splat`, `lift`, `multiply_add` and the others become the vector instructions of the processor, in
pieces where it has none that wide; products and sums are fused where it can. Indices are in samples, not checked.
"""

from collections.abc import Iterable
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
_SAMPLES = (types.float32, types.uint8, types.uint16)
# Untyped, since callers do not give the first argument, numba's own.
_operation: Any = intrinsic


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any):
        super().__init__(manager, kind, _FLOATS)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


def _is_line(kind: Any, dtype: Any = types.float32) -> bool:
    return isinstance(kind, types.Array) and kind.ndim == 1 and kind.layout == "C" and kind.dtype == dtype


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
    kind = ir.VectorType(number.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
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


def _mask(order: Iterable[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), [ir.Constant(ir.IntType(32), place) for place in order])


def _shift(first: int) -> Any:
    """An operation that takes sixteen samples of two vectors side by side, from number `first` on."""

    @_operation
    def shift(typing: Any, left: Any, right: Any) -> Any:
        if left is not _VECTOR or right is not _VECTOR:
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.shuffle_vector(*arguments, _mask(range(first, first + LANES)))

        return _VECTOR(left, right), generate

    return shift


last_and, but_first = _shift(LANES - 1), _shift(1)
"""The last sample of one vector and all of another but its last; all of one but its first and the first of another."""


@_operation
def put(typing: Any, vector: Any, lane: Any, other: Any) -> Any:
    """A vector with one sample, that of this number, of another."""
    if vector is not _VECTOR or other is not _VECTOR or not isinstance(lane, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kept, number, taken = arguments
        wanted = _spread(builder, builder.trunc(number, ir.IntType(32)))
        return builder.select(builder.icmp_signed("==", _mask(range(LANES)), wanted), taken, kept)

    return _VECTOR(vector, types.intp, other), generate


@_operation
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], of one axis, without waiting for it."""
    if not (isinstance(array, types.Array) and array.ndim == 1 and isinstance(index, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), [byte] + [word] * 3)
        )
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [address, ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _deal(places: int) -> Any:
    """An operation that deals samples out: array[index + k + places * i] to buffer[at + k * hop + i], i = 0 ... 15.

    The samples, LANES * places of them, are float32 or unsigned integers.
    """

    @_operation
    def deal(typing: Any, buffer: Any, at: Any, hop: Any, array: Any, index: Any) -> Any:
        if not (_is_line(buffer) and any(_is_line(array, kind) for kind in _SAMPLES)):
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, start, step, source, place = arguments
            data = context.make_array(array)(context, builder, source).data
            together = ir.VectorType(data.type.pointee, LANES * places).as_pointer()
            samples = builder.load(builder.bitcast(builder.gep(data, [place]), together), align=1)
            for k in range(places):
                part = builder.shuffle_vector(samples, samples, _mask([*range(k, LANES * places, places)]))
                part = part if array.dtype == types.float32 else builder.uitofp(part, _FLOATS)
                builder.store(part, _address(context, builder, buffer, target, start), align=4)
                start = builder.add(start, step)
            return context.get_dummy_value()

        return types.void(buffer, types.intp, types.intp, array, types.intp), generate

    return deal


def _weave(places: int) -> Any:
    """The reverse, held to [-1, 1]: buffer[at + k * hop + i] to array[index + k + places * i], i = 0 ... 15."""

    @_operation
    def weave(typing: Any, array: Any, index: Any, buffer: Any, at: Any, hop: Any) -> Any:
        if not (_is_line(buffer) and _is_line(array)):
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, place, source, start, step = arguments
            parts = []
            for _ in range(places):
                part = builder.load(_address(context, builder, buffer, source, start), align=4)
                parts.append([_held(builder, part)])
                start = builder.add(start, step)
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [_zip(builder, parts[k], parts[k + half]) for k in range(half)]
            for k, vector in enumerate(parts[0]):
                there = builder.add(place, ir.Constant(place.type, LANES * k))
                builder.store(vector, _address(context, builder, array, target, there), align=4)
            return context.get_dummy_value()

        return types.void(array, types.intp, buffer, types.intp, types.intp), generate

    return weave


def _zip(builder: Any, first: list[Any], second: list[Any]) -> list[Any]:
    half = range(LANES // 2)
    low = _mask([k for i in half for k in (i, LANES + i)])
    high = _mask([k for i in half for k in (LANES // 2 + i, LANES + LANES // 2 + i)])
    return [builder.shuffle_vector(a, b, m) for a, b in zip(first, second, strict=True) for m in (low, high)]


def _held(builder: Any, vector: Any) -> Any:
    for sign, limit in (("<", -1.0), (">", 1.0)):
        end = ir.Constant(_FLOATS, [ir.Constant(ir.FloatType(), limit)] * LANES)
        vector = builder.select(builder.fcmp_ordered(sign, vector, end), end, vector)
    return vector


deal8, deal16 = _deal(8), _deal(16)
weave8, weave16 = _weave(8), _weave(16)
