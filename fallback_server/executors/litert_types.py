"""Which types of tensors an operator of a TFLite file may be given in the server's own process. Pure.

LiteRT looks at few of them. It writes floats into a tensor of bytes, or reads bytes as floats, and so what lies behind
them: other memory of the process. What is missing here need not be wrong, and runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

_FLOAT32, _FLOAT16, _INT32, _UINT8, _INT64, _BOOL, _INT16, _INT8 = 0, 1, 2, 3, 4, 6, 7, 9

_SHAPES = frozenset({_INT32, _INT64})
_SCALED = frozenset({_UINT8, _INT16, _INT8})

_COMPARING = frozenset({58, 61, 62, 63, 71, 72})
_CAST, _EMBEDDING_LOOKUP, _ONE_HOT = 53, 7, 85
_MADE: Mapping[int, tuple[tuple[frozenset[int], frozenset[int]], ...]] = MappingProxyType(
    {
        6: ((_SCALED | {_FLOAT16}, frozenset({_FLOAT32})),),
        114: ((_SCALED | {_FLOAT32, _INT32}, _SCALED),),
        _EMBEDDING_LOOKUP: (
            (frozenset({_INT8, _UINT8}), frozenset({_FLOAT32})),
            *((frozenset({kind}), frozenset({kind})) for kind in (_FLOAT32, _INT8, _UINT8)),
        ),
    }
)
"""DEQUANTIZE, QUANTIZE, EMBEDDING_LOOKUP -> of which types they make which."""

_OF_ANY: Mapping[int, frozenset[int]] = MappingProxyType(
    {56: _SHAPES, 79: _SHAPES, 77: _SHAPES, 110: frozenset({_INT32})}
)
"""ARG_MAX, ARG_MIN, SHAPE, RANK -> what they give, of whatever they are given."""

_APART: Mapping[int, tuple[int, frozenset[int]]] = MappingProxyType(
    {
        36: (1, _SHAPES | {_INT16}),
        107: (1, _SHAPES | {_INT16}),
        _EMBEDDING_LOOKUP: (0, frozenset({_INT32})),
        _ONE_HOT: (0, _SHAPES),
        64: (0, frozenset({_BOOL})),
        123: (0, frozenset({_BOOL})),
    }
)
"""GATHER, GATHER_ND, EMBEDDING_LOOKUP, ONE_HOT, SELECT, SELECT_V2 -> the place of what chooses, and its types."""

_MULTIPLYING = frozenset({3, 4, 9, 67, 126, 132})
_PRODUCTS = frozenset(
    {
        (_FLOAT32, _FLOAT32, _FLOAT32, _FLOAT32),
        (_FLOAT32, _INT8, _FLOAT32, _FLOAT32),
        (_FLOAT32, _UINT8, _FLOAT32, _FLOAT32),
        (_INT8, _INT8, _INT32, _INT8),
        (_UINT8, _UINT8, _INT32, _UINT8),
        (_INT16, _INT8, _INT64, _INT16),
        (_INT16, _INT8, _INT32, _INT16),
    }
)
"""What comes in, weights, bias, output."""

_BATCH_MATMUL, _TRANSPOSE_CONV = 126, 67


def go_together(code: int, given: Sequence[int | None], found: Sequence[int], shaping: Sequence[int]) -> bool:
    """Whether an operator may be given these types.

    Args:
        code: The operator.
        given: The types of what it reads; None where it does without.
        found: The types of what it writes.
        shaping: The places of the inputs that say shapes.
    """
    if any(place < len(given) and given[place] not in (None, *_SHAPES) for place in shaping):
        return False
    if code in _MULTIPLYING:
        return _is_product(code, given, found)
    apart = set(shaping)
    if code in _APART:
        place, kinds = _APART[code]
        if place >= len(given) or given[place] not in kinds:
            return False
        apart.add(place)
    data = {kind for place, kind in enumerate(given) if place not in apart and kind is not None}
    return code == _CAST or _follows(code, data, frozenset(found))


def _follows(code: int, data: set[int], found: frozenset[int]) -> bool:
    """Whether outputs are of the types that an operator makes of its data."""
    if code in _OF_ANY:
        return found <= _OF_ANY[code]
    if code in _COMPARING:
        return len(data) == 1 and found == {_BOOL}
    if code in _MADE:
        return any(data <= kinds and found <= made for kinds, made in _MADE[code])
    return len(data) == 1 and found == data


def _is_product(code: int, given: Sequence[int | None], found: Sequence[int]) -> bool:
    """Whether what comes in, weights, bias and output are of types that LiteRT multiplies."""
    places = (2, 1, 3) if code == _TRANSPOSE_CONV else (0, 1, 2)
    data, weights, bias = (given[place] if place < len(given) else None for place in places)
    if code == _BATCH_MATMUL and _INT16 in (data, weights):
        return data == weights and tuple(found) == (_INT16,)
    return len(found) == 1 and any(
        (data, weights, found[0]) == (known[0], known[1], known[3]) and bias in (None, known[2]) for known in _PRODUCTS
    )
