"""Which dimensions of the inputs are fixed before a model is lowered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from converter.artifact import VARIABLE, TensorSpec
from converter.errors import OptionInvalid

Shape = tuple[int, ...]
Shapes = dict[str, dict[str, Shape]]
"""By signature, then by input: the shape that it is to have."""


def resolve(asked: Mapping[str, Shape], inputs: Mapping[str, Sequence[TensorSpec]]) -> Shapes:
    """The shapes of all inputs, with those that were asked for in the place of the model's own.

    Args:
        asked: By input name; -1 keeps a dimension variable.
        inputs: By signature, its inputs as the model has them.

    Raises:
        OptionInvalid: no signature has such an input, or the shape contradicts the model's: another rank, another size
            where the model fixes one, a variable dimension where it fixes one, a size below 1.
    """
    known = sorted({spec.name for specs in inputs.values() for spec in specs})
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise OptionInvalid(f"shape: {unknown[0]!r} is no input of the model, which takes {known}")
    return {
        signature: {spec.name: _fixed(spec, asked[spec.name]) if spec.name in asked else spec.shape for spec in specs}
        for signature, specs in inputs.items()
    }


def with_batch(shapes: Shapes, batched: Sequence[str], rows: int) -> Shapes:
    """The same with the first dimension of every input set, in those signatures."""
    return {
        signature: {
            name: (rows, *shape[1:]) if signature in batched and shape[:1] == (VARIABLE,) else shape
            for name, shape in by_input.items()
        }
        for signature, by_input in shapes.items()
    }


def _fixed(spec: TensorSpec, asked: Shape) -> Shape:
    text = ",".join(map(str, asked))
    own = ",".join("any" if dim == VARIABLE else str(dim) for dim in spec.shape)
    if any(dim < 1 and dim != VARIABLE for dim in asked):
        raise OptionInvalid(f"shape: {spec.name}={text}: a size must be at least 1, or -1 to keep it variable")
    if len(asked) != len(spec.shape):
        raise OptionInvalid(
            f"shape: {spec.name}={text} has {len(asked)} dimensions, the model's [{own}] has {len(spec.shape)}"
        )
    for axis, (want, have) in enumerate(zip(asked, spec.shape, strict=True)):
        if have not in (VARIABLE, want):
            raise OptionInvalid(
                f"shape: {spec.name}={text}: dimension {axis} is fixed at {have} in the model's [{own}]"
            )
    return asked
