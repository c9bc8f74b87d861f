"""Whether a model's loops convert: recurrent layers keep their steps in lists whose elements LiteRT wants static.

TensorFlow lowers such a list to one tensor of a fixed size. Where the elements' first dimension is the variable batch,
it can only take the batch for one (`_experimental_default_to_single_batch_in_tensor_list_ops`), and the file then
fails, or would answer wrong, with any other batch. So the model is lowered with a batch that *is* one. Loads
TensorFlow and LiteRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from converter.artifact import Signature
from converter.evaluate import blank
from converter.sources.graphs import reached, serve_graph
from converter.translate import Translator

Outcome = Literal["converts", "single_batch", "fails"]

_LISTS = frozenset({"TensorListReserve", "EmptyTensorList", "TensorListFromTensor", "TensorListSplit"})
_NEEDS_STATIC = "requires element_shape to be static"


def lists(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The nodes by which the signatures make lists of tensors."""
    return tuple(one.node.name for one in reached(serve_graph(path), names) if one.node.op in _LISTS)


def try_lowering(path: Path, signatures: Sequence[Signature], *, single_batch: bool = False) -> Outcome:
    """Lowers to float32, and runs the file on zeros: two rows where there is a batch axis.

    Args:
        path: The SavedModel.
        signatures: Those to lower, as it has them.
        single_batch: Take the batch in its lists for one.

    Returns:
        `converts`; `single_batch` where the lists' elements are not static, or the file does not run; `fails` where it
        can't be lowered for another reason, which has nothing to do with lists.
    """
    names = [signature.name for signature in signatures]
    try:
        content = Translator(path, names, single_batch_lists=single_batch).translate("float32")
    except Exception as error:  # noqa: BLE001  whatever it is, lowering will say it again
        return "single_batch" if _NEEDS_STATIC in f"{error}{error.__cause__}" else "fails"
    return "converts" if all(_runs(content, signature) for signature in signatures) else "single_batch"


def _runs(content: bytes, signature: Signature) -> bool:
    """Whether the file gives what the signature says."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  only in a child

    runner: Any = Interpreter(model_content=content).get_signature_runner(signature.name)
    rows = 2 if signature.batch_axis is not None else 1
    try:
        found = runner(**blank(signature, rows).inputs)
    except (RuntimeError, ValueError):
        return False
    return all(
        spec.accepts(found[spec.name].shape) and (signature.batch_axis is None or len(found[spec.name]) == rows)
        for spec in signature.outputs
    )
