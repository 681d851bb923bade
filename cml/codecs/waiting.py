"""Waiting for other threads awake: to be woken takes longer than a small part of a picture.

Without the interpreter's lock, which the others need to end; so the loop is compiled, and its reads are atomic, which
no compiler takes out of a loop.
"""

from typing import Any

from numba import njit, types
from numba.extending import intrinsic

from cml.codecs.compiled import announced

_TURNS = 1 << 18  # about a tenth of a millisecond: who is not done then is worth a sleep
_GRACE = 1 << 13  # microseconds, in which the last to end lets go of the interpreter
_operation: Any = intrinsic  # untyped, since callers do not give the first argument, numba's own


@_operation
def _read(typing: Any, flags: Any, index: Any) -> Any:
    """flags[index], int64, as it is in memory now."""
    if not (isinstance(flags, types.Array) and flags.dtype == types.int64 and isinstance(index, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(flags)(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(flags, types.intp), generate


@announced("the wait for threads (a second)")
@njit(cache=True, nogil=True)
def wait_awake(flags):
    """Wait until all `flags`, int64 (n,), are set, but not for long; whether they are."""
    turns = _TURNS
    for i in range(flags.size):
        while _read(flags, i) == 0:
            turns -= 1
            if turns == 0:
                return False
    turns = _GRACE
    while turns > 0:
        turns -= _read(flags, 0)
    return True
