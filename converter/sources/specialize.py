"""Writes a SavedModel again with fixed input shapes, so that what is lowered from it has them. Loads TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.artifact import VARIABLE, ManifestInvalid, Signature, TensorSpec
from converter.errors import SourceInvalid
from converter.sources.messages import said
from converter.sources.saved_model import Declared, declared, load, make_signature
from converter.sources.shapes import Shape, Shapes

_ROWS = (2, 3)
_SIZES = ((64, 96), (8, 12), (2, 3))
"""What variable dimensions are set to, to see which of an output's follow: the first pair that the model takes.

A net that halves its images five times needs 64; one that takes at most ten steps takes no more than 2.
"""


def specialize(path: Path, shapes: Shapes, folder: Path) -> tuple[Signature, ...]:
    """Saves to `folder` a model with these signatures, which call those of `path`.

    An output dimension that the SavedModel leaves open is found by running it on zeros and on ones, of two sizes.

    Args:
        path: The SavedModel.
        shapes: By signature, then by input, what shape it is to have; -1 is variable.
        folder: Is made.

    Returns:
        The signatures, in the order of `shapes`.

    Raises:
        SourceInvalid: the SavedModel can't be loaded, or can't run with these shapes.
    """
    import tensorflow as tf  # noqa: PLC0415  only in a child

    model = load(path)
    module = tf.Module()
    module.inner = model  # owns the variables and tables
    functions, signatures = {}, []
    for one in declared(path, shapes):
        function = model.signatures[one.name]
        outputs, follows = _outputs(path, function, one, shapes[one.name])
        functions[one.name] = _wrapped(tf, function, one, shapes[one.name], outputs)
        signatures.append(_signature(path, one, shapes[one.name], outputs, follows=follows))
    tf.saved_model.save(module, str(folder), signatures=functions)
    return tuple(signatures)


def _wrapped(tf: Any, function: Any, one: Declared, shapes: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> Any:
    specs = {
        spec.name: tf.TensorSpec(_open(shapes[spec.name]), tf.dtypes.as_dtype(spec.dtype), name=spec.name)
        for spec in one.inputs
    }

    def call(**inputs: Any) -> dict[str, Any]:
        found = dict(function(**inputs))
        for name, shape in outputs.items():
            # Not tf.ensure_shape: LiteRT has no such operator.
            found[name].set_shape(_open(shape))
        return found

    return tf.function(call).get_concrete_function(**specs)


def _open(shape: Shape) -> list[int | None]:
    return [None if dim == VARIABLE else dim for dim in shape]


def _signature(
    path: Path, one: Declared, shapes: Mapping[str, Shape], outputs: Mapping[str, Shape], *, follows: bool
) -> Signature:
    dtypes = {**one.unranked, **{spec.name: spec.dtype for spec in one.outputs}}
    try:
        made = make_signature(
            one.name,
            [TensorSpec(name=spec.name, dtype=spec.dtype, shape=shapes[spec.name]) for spec in one.inputs],
            [TensorSpec(name=name, dtype=dtype, shape=outputs[name]) for name, dtype in dtypes.items()],
        )
    except ManifestInvalid as error:
        raise SourceInvalid(f"{path}: {error}") from error
    if follows or made.batch_axis is None:
        return made
    return Signature(name=made.name, inputs=made.inputs, outputs=made.outputs, batch_axis=None)


def _outputs(path: Path, function: Any, one: Declared, shapes: Mapping[str, Shape]) -> tuple[dict[str, Shape], bool]:
    """The outputs' shapes for inputs of these shapes, and whether their first dimension is the number of rows."""
    known: dict[str, Shape | None] = {**dict.fromkeys(one.unranked), **{spec.name: spec.shape for spec in one.outputs}}
    runs, problem = _runs(function, one.inputs, shapes)
    if not runs:
        unranked = sorted(name for name, shape in known.items() if shape is None)
        if unranked or any(shapes[spec.name] != spec.shape for spec in one.inputs):
            raise SourceInvalid(
                f"{path}: signature {one.name!r} does not run with the inputs {_text(shapes)}: {problem}"
            )
        return {name: shape for name, shape in known.items() if shape is not None}, True
    first, second = runs
    found = {name: _merged(shape, first[name], second[name]) for name, shape in sorted(known.items())}
    follows = all(run[name][:1] == (rows,) for rows, run in zip(_ROWS, runs, strict=True) for name in found)
    return found, follows


def _merged(declared_shape: Shape | None, first: Shape, second: Shape) -> Shape:
    """What is declared stands; what is open is fixed where both runs agree on it."""
    own = declared_shape or (VARIABLE,) * len(first)
    if not len(own) == len(first) == len(second):
        return own
    # None of a kind may be the answer to zeros alone (no box, no word): such a dimension stays open.
    return tuple(a if dim == VARIABLE and a == b > 0 else dim for dim, a, b in zip(own, first, second, strict=True))


def _runs(
    function: Any, inputs: Sequence[TensorSpec], shapes: Mapping[str, Shape]
) -> tuple[list[dict[str, Shape]], str]:
    """The outputs' shapes in two runs, or nothing and why the last attempt failed."""
    problem = ""
    for sizes in _SIZES:
        try:
            return [
                _shapes_out(function, _filled(inputs, shapes, (rows, size), value))
                for rows, size, value in zip(_ROWS, sizes, (0, 1), strict=True)
            ], ""
        except Exception as error:  # noqa: BLE001  the model decides what it takes
            problem = said(error)
    return [], problem


def _shapes_out(function: Any, inputs: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in function(**inputs).items()}


def _filled(
    inputs: Sequence[TensorSpec], shapes: Mapping[str, Shape], sizes: tuple[int, int], value: int
) -> dict[str, Any]:
    """One value everywhere; `sizes` are those of a variable first dimension and of other variable ones."""
    import tensorflow as tf  # noqa: PLC0415  only in a child

    made = {}
    for spec in inputs:
        shape = [sizes[axis > 0] if dim == VARIABLE else dim for axis, dim in enumerate(shapes[spec.name])]
        filled = tf.fill(shape, str(value) if spec.dtype == "string" else value)
        made[spec.name] = filled if spec.dtype == "string" else tf.cast(filled, tf.dtypes.as_dtype(spec.dtype))
    return made


def _text(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name}={','.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
