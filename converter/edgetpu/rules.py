"""Why an Edge TPU does not take an operator, by the table in `devices.operators`. Pure."""

from __future__ import annotations

from collections.abc import Callable

from converter.artifact import VARIABLE
from converter.graph import Operator, Tensor
from devices.operators import (
    EDGE_TPU_COMPILER,
    EDGE_TPU_MAX_RANK,
    EDGE_TPU_OPERATORS,
    MEAN_DEPTH_MULTIPLE,
    SOFTMAX_MAX_ELEMENTS,
    EdgeTpuOperator,
    Limit,
)

DATA_DTYPES = ("int8", "uint8")
"""Of what flows between operators."""

WITH_STATE = frozenset({"LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM"})
"""Their further inputs are gates and a state, in dtypes of their own."""

CONSTANT_DTYPES = (*DATA_DTYPES, "int32")
"""Of what is in the file: weights, and biases, axes, paddings."""


def wrong_unnoticed(operator: Operator) -> str:
    """Why the compiler, which does not refuse it, would make something wrong of the operator; empty as a rule."""
    return _one_scale(operator) if operator.name == "FULLY_CONNECTED" else ""


def objection(operator: Operator) -> str:
    """Why the operator is not taken, with the values that it is about; empty where it is."""
    if operator.custom:
        return f"{operator.name} is a custom operator"
    known = EDGE_TPU_OPERATORS.get(operator.name)
    if known is None:
        return f"{operator.name} is not among the operators that an Edge TPU takes"
    return (
        _dtypes(operator)
        or _sizes(operator)
        or _parameters(operator, known)
        or next((why for limit in known.limits if (why := _LIMITS[limit](operator))), "")
    )


def _data(operator: Operator) -> tuple[Tensor, ...]:
    given = operator.given[:1] if operator.name in WITH_STATE else operator.given
    return (*given, *operator.outputs)


def _dtypes(operator: Operator) -> str:
    for tensor in _data(operator):
        allowed = CONSTANT_DTYPES if tensor.constant else DATA_DTYPES
        if tensor.dtype not in allowed:
            what = "constant" if tensor.constant else "tensor"
            return f"{what} {_called(tensor)} is {tensor.dtype}, it must be {' or '.join(allowed)}"
        if not tensor.constant and tensor.quantization is None:
            return f"tensor {_called(tensor)} is {tensor.dtype} without quantization"
    return ""


def _sizes(operator: Operator) -> str:
    for tensor in _data(operator):
        if tensor.constant:
            continue
        if VARIABLE in tensor.shape:
            return f"tensor {_called(tensor)} has a variable size: {list(tensor.shape)}"
        outer = tensor.shape[:-EDGE_TPU_MAX_RANK]
        if any(size != 1 for size in outer):
            return (
                f"tensor {_called(tensor)} is {list(tensor.shape)}: "
                f"all but the innermost {EDGE_TPU_MAX_RANK} sizes must be 1"
            )
    return ""


def _parameters(operator: Operator, known: EdgeTpuOperator) -> str:
    for place in known.parameters:
        tensor = operator.input(place)
        if tensor is not None and not tensor.constant:
            return f"its input {place}, {_called(tensor)}, must be constant"
    return ""


def _called(tensor: Tensor, limit: int = 60) -> str:
    """The tensor's name; a fused one's names are many, and the last says what came out."""
    name = tensor.name.rsplit(";", 1)[-1]
    return repr(name if len(name) <= limit else f"...{name[-limit:]}")


def _no_fused_activation(operator: Operator) -> str:
    return "" if operator.activation == "NONE" else f"its fused activation {operator.activation} is not taken"


def _constant_input_zero(operator: Operator) -> str:
    constants = [one for one in operator.given if one.constant]
    if not constants:
        return ""
    if len(operator.given) != 2:
        return f"with a constant input it must have exactly 2 inputs, it has {len(operator.given)}"
    return "" if all(one.zero() for one in constants) else "its constant input must be all zeros"


def _same_dilation(operator: Operator) -> str:
    across, down = (operator.options.get(f"dilation_{axis}_factor", 1) for axis in "wh")
    return "" if across == down else f"its dilations must be the same in x and y, they are {across} and {down}"


def _default_weights(operator: Operator) -> str:
    found = operator.options.get("weights_format", 0)
    return "" if found == 0 else f"its weights' format must be the default, it is {found}"


def _one_scale(operator: Operator) -> str:
    weights = operator.input(1)
    count = len(weights.quantization.scales) if weights and weights.quantization else 1
    if count == 1:
        return ""
    return (
        f"its weights have {count} scales, one for each output: {EDGE_TPU_COMPILER} is older than that in dense layers "
        "(convert with one scale: disable_per_channel_quantization_for_dense_layers)"
    )


def _one_dimensional(operator: Operator) -> str:
    shape = operator.outputs[0].shape
    return "" if all(size == 1 for size in shape[:-1]) else f"its output must be one-dimensional, it is {list(shape)}"


def _at_most_16000(operator: Operator) -> str:
    count = operator.outputs[0].shape[-1:] or (1,)
    return (
        ""
        if count[0] <= SOFTMAX_MAX_ELEMENTS
        else f"it has {count[0]} elements, at most {SOFTMAX_MAX_ELEMENTS} are taken"
    )


def _depth_multiple(operator: Operator) -> str:
    shape = operator.given[0].shape
    if len(shape) - 1 not in _axes(operator) or shape[-1] % MEAN_DEPTH_MULTIPLE == 0:
        return ""
    return f"a reduction over the channels needs a multiple of {MEAN_DEPTH_MULTIPLE} of them, there are {shape[-1]}"


def _not_batch(operator: Operator) -> str:
    if operator.name == "PAD":
        paddings = operator.inputs[1].integers() if operator.inputs[1] else None
        rank = len(operator.given[0].shape)
        touched = rank > EDGE_TPU_MAX_RANK and any((paddings or (0, 0))[:2])
    else:
        data = operator.outputs[0] if operator.name == "PACK" else operator.given[-1 if operator.name == "SPLIT" else 0]
        touched = len(data.shape) > 1 and 0 in _axes(operator)
    return "it is along the batch" if touched else ""


def _axes(operator: Operator) -> tuple[int, ...]:
    """The axes that it is along, counted from the front."""
    found: tuple[int, ...]
    if operator.name == "PACK":
        found, rank = (operator.options.get("axis", 0),), len(operator.outputs[0].shape)
    else:
        place = 0 if operator.name == "SPLIT" else 1
        tensor = operator.input(place)
        found = (tensor.integers() if tensor else None) or ()
        rank = len(operator.given[1 - place].shape)
    return tuple(axis % rank for axis in found) if rank else ()


def _alpha_one_dimensional(operator: Operator) -> str:
    alpha = operator.input(1)
    if alpha is None or all(size == 1 for size in alpha.shape[:-1]):
        return ""
    return f"its alpha must be one-dimensional (Keras: shared_axes=[1, 2]), it is {list(alpha.shape)}"


def _leading_ones(operator: Operator) -> str:
    shape = operator.given[0].shape
    asked = tuple(axis % len(shape) for axis in operator.options.get("squeeze_dims") or ()) if shape else ()
    removed = sorted(asked or [axis for axis, size in enumerate(shape) if size == 1])
    return "" if removed == list(range(len(removed))) else f"only leading 1s may be removed, not axes {removed}"


def _plain_slice(operator: Operator) -> str:
    strides = operator.inputs[3].integers() if len(operator.inputs) > 3 and operator.inputs[3] else None
    if strides and any(stride != 1 for stride in strides):
        return f"all its strides must be 1, they are {list(strides)}"
    for mask in ("ellipsis_mask", "new_axis_mask"):
        if operator.options.get(mask, 0):
            return f"its {mask} must be 0, it is {operator.options[mask]}"
    return ""


_LIMITS: dict[Limit, Callable[[Operator], str]] = {
    "no-fused-activation": _no_fused_activation,
    "constant-input-zero": _constant_input_zero,
    "same-dilation": _same_dilation,
    "default-weights": _default_weights,
    "one-scale": _one_scale,
    "one-dimensional": _one_dimensional,
    "at-most-16000": _at_most_16000,
    "depth-multiple": _depth_multiple,
    "not-batch": _not_batch,
    "alpha-one-dimensional": _alpha_one_dimensional,
    "leading-ones": _leading_ones,
    "plain-slice": _plain_slice,
}
