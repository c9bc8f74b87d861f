"""JSON values to arrays of a given dtype, and back: the rules and texts of TensorFlow Serving's REST interface.

A value is a scalar or nested lists of one shape. Numbers without a fraction may stand where floats are expected, never
the other way; nothing is rounded, cut or wrapped without a word. Strings are JSON strings, or bytes as
`{"b64": "..."}`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from fallback_server.core.errors import InvalidInput, ServerError, Unimplemented

Array = npt.NDArray[np.generic]
Json = Any

MAX_RANK = 64
"""numpy's limit."""

_SHOWN_CHARS = 200
"""How much of a value is quoted in a refusal."""

_TYPE_NAMES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}

_DTYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half", "object": "string"}
"""Where TensorFlow's name is not numpy's."""

_MANTISSA_BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


class RowRefused(ServerError):
    """A value within a row can't be read.

    Attributes:
        row: Which, of the value's outermost list.
        text: Why.
    """

    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row
        self.text = text


def is_b64(value: Json) -> bool:
    """Whether a value is bytes: an object of which `b64` is the only key, with a string."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def type_name(value: Json) -> str:
    """What JSON calls a value's type, as TensorFlow Serving spells it."""
    if isinstance(value, bool):
        return "True" if value else "False"
    return _TYPE_NAMES[type(value)]


def shown(value: Json) -> str:
    """A value as JSON, for a refusal; cut where it is long."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if _is_beyond_json(value):
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, (list, dict)):
        value = _head(value, depth=0)
    text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str).decode(errors="replace")
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def dtype_name(dtype: np.dtype[np.generic]) -> str:
    """TensorFlow's name of a dtype."""
    return _DTYPE_NAMES.get(dtype.name, dtype.name)


def decode_b64(value: Json) -> bytes:
    """The bytes of `{"b64": "..."}`; white space and missing padding are no fault.

    Raises:
        InvalidInput: it is no such object, or no base64.
    """
    if not is_b64(value):
        raise InvalidInput(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        bare = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput("Unable to base64 decode") from error


def read_array(value: Json, dtype: np.dtype[np.generic], *, rows: bool = False) -> Array:
    """A JSON value as an array, in the shape that its lists have.

    Args:
        value: A scalar, or lists.
        dtype: The array's; `object` for strings, which become bytes.
        rows: Whether the outermost list is one of instances, so that a refusal names the instance.

    Raises:
        InvalidInput: lists of different sizes, or a value that is none of the dtype's.
        RowRefused: the same, where `rows` is set.
        Unimplemented: no JSON value stands for the dtype.
    """
    reader = _reader(dtype)
    if reader is None:
        raise Unimplemented(f"Conversion of JSON Value: {shown(value)} to type: {dtype_name(dtype)}")
    try:
        shape, flat = _flatten(value, rows=rows)
        try:
            array = reader(flat, dtype)
        except _BadItem as error:
            raise RowRefused(_row_of(error.index, shape), str(error)) from error
    except RowRefused as error:
        if rows:
            raise
        raise InvalidInput(error.text) from error
    return array.reshape(shape)


class _BadItem(Exception):
    """The value at `index` of the flat list is at fault."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(text)
        self.index = index


def _reader(dtype: np.dtype[np.generic]) -> Callable[[list[Json], np.dtype[np.generic]], Array] | None:
    if dtype.name in _MANTISSA_BITS:
        return _floats
    return {"i": _integers, "u": _integers, "b": _bools, "O": _strings}.get(dtype.kind)


def _head(value: Json, depth: int) -> Json:
    """As much of a value as is quoted: of a large one, the rest would be made into text for nothing."""
    if isinstance(value, list):
        return [_head(item, depth + 1) for item in value[:_SHOWN_CHARS]] if depth < 10 else "..."
    if isinstance(value, dict):
        return {key: _head(item, depth + 1) for key, item in list(value.items())[:20]} if depth < 10 else "..."
    return f"a number of {value.bit_length()} bits" if _is_beyond_json(value) else value


def _is_beyond_json(value: Json) -> bool:
    """Whether a value is an integer that orjson can't write."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def _flatten(value: Json, *, rows: bool) -> tuple[tuple[int, ...], list[Json]]:
    """The shape of nested lists, and their values in one list; level by level, so that no depth is a recursion."""
    if type(value) is not list:
        return (), [value]
    shape = [len(value)]
    flat = value
    while flat and type(flat[0]) is list:
        _check_level(flat, shape, rows=rows)
        shape.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
        if len(shape) > MAX_RANK:
            raise RowRefused(0, f"lists are nested deeper than {MAX_RANK} levels")
    if list in set(map(type, flat)):
        index = next(index for index, item in enumerate(flat) if type(item) is list)
        if rows and len(shape) == 1:
            raise RowRefused(index, f"Expecting tensor size: 1 but got: {_count(flat[index])}")
        rank = len(shape) - rows
        raise RowRefused(_row_of(index, shape), f"Encountered list at unexpected level: {rank} expected < {rank}")
    return tuple(shape), flat


def _check_level(flat: Sequence[Json], shape: Sequence[int], *, rows: bool) -> None:
    """All items of a level must be lists of one size."""
    size = len(flat[0])
    if set(map(type, flat)) == {list} and set(map(len, flat)) == {size}:
        return
    index = next(index for index, item in enumerate(flat) if type(item) is not list or len(item) != size)
    item, row = flat[index], _row_of(index, shape)
    level = len(shape) - rows
    if not level:
        raise RowRefused(row, f"Expecting tensor size: {_count(flat[0])} but got: {_count(item)}")
    if type(item) is not list:
        raise RowRefused(
            row,
            f"JSON Value: {shown(item)} found at incorrect level: {level + 1} in the JSON DOM. "
            f"Expected at level: {level + _depth(flat[0])}",
        )
    raise RowRefused(row, f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {size}")


def _row_of(index: int, shape: Sequence[int]) -> int:
    return index // max(1, math.prod(shape[1:]))


def _depth(value: Json) -> int:
    depth = 0
    while type(value) is list:
        depth += 1
        value = value[0] if value else None
    return depth


def _count(value: Json) -> int:
    """How many values are in nested lists."""
    level = [value]
    count = 0
    while level:
        count += sum(type(item) is not list for item in level)
        level = list(chain.from_iterable(item for item in level if type(item) is list))
    return count


def _check_types(flat: Sequence[Json], allowed: set[type], dtype: np.dtype[np.generic]) -> None:
    if set(map(type, flat)) <= allowed:
        return
    index = next(index for index, item in enumerate(flat) if type(item) not in allowed)
    raise _wrong_type(flat, index, dtype)


def _wrong_type(flat: Sequence[Json], index: int, dtype: np.dtype[np.generic]) -> _BadItem:
    value = flat[index]
    name = dtype_name(dtype)
    return _BadItem(index, f"JSON Value: {shown(value)} Type: {type_name(value)} is not of expected type: {name}")


def _lossy(flat: Sequence[Json], index: int, dtype: np.dtype[np.generic]) -> _BadItem:
    name = dtype_name(dtype)
    return _BadItem(index, f"Cannot convert JSON value: {shown(flat[index])} to {name} without loss of precision.")


def _floats(flat: list[Json], dtype: np.dtype[np.generic]) -> Array:
    """Refuses what the dtype can't hold: a number that would become infinite, an integer beyond the mantissa."""
    _check_types(flat, {int, float}, dtype)
    bound = 2 ** _MANTISSA_BITS[dtype.name] - 1
    try:
        wide = np.array(flat, np.float64)
    except OverflowError:
        raise _lossy(flat, _first(flat, lambda value: type(value) is int and abs(value) > bound), dtype) from None
    # Only where a number is that large need one look at each.
    if wide.size and (np.abs(wide) > bound).any():
        index = _first(flat, lambda value: type(value) is int and abs(value) > bound)
        if index >= 0:
            raise _lossy(flat, index, dtype)
    if dtype == np.float64:
        return wide
    with np.errstate(over="ignore"):
        narrow = wide.astype(dtype)
    overflown = np.isinf(narrow) & np.isfinite(wide)
    if overflown.any():
        raise _lossy(flat, int(overflown.argmax()), dtype)
    return narrow


def _integers(flat: list[Json], dtype: np.dtype[np.generic]) -> Array:
    _check_types(flat, {int}, dtype)
    bounds = np.iinfo(dtype)  # type: ignore[type-var]
    try:
        wide = np.array(flat, np.uint64 if dtype == np.uint64 else np.int64)
    except OverflowError:
        wide = None
    if wide is None or (wide.size and (int(wide.min()) < bounds.min or int(wide.max()) > bounds.max)):
        raise _wrong_type(flat, _first(flat, lambda value: not bounds.min <= value <= bounds.max), dtype)
    return wide.astype(dtype)


def _bools(flat: list[Json], dtype: np.dtype[np.generic]) -> Array:
    _check_types(flat, {bool}, dtype)
    return np.array(flat, np.bool_)


def _strings(flat: list[Json], dtype: np.dtype[np.generic]) -> Array:
    _check_types(flat, {str, dict}, dtype)
    array = np.empty(len(flat), object)
    for index, value in enumerate(flat):
        try:
            array[index] = value.encode() if type(value) is str else decode_b64(value)
        except InvalidInput as error:
            raise _BadItem(index, str(error)) from error
        except UnicodeEncodeError:
            raise _BadItem(index, "a string has half of a surrogate pair, which has no UTF-8") from None
    return array


def _first(flat: Iterable[Json], wrong: Callable[[Json], bool]) -> int:
    """The index of the first value that is wrong; -1 where none is."""
    return next((index for index, value in enumerate(flat) if wrong(value)), -1)
