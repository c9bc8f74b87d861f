"""Looks at a file for an accelerator that is not here, without running it. Loads LiteRT: only in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from converter.errors import VariantUnusable

EDGE_TPU_OPERATOR = "edgetpu-custom-op"
"""The custom operator that edgetpu_compiler puts in the place of all that it has mapped."""


def check_compiled(files: Sequence[Path]) -> None:
    """Refuses what edgetpu_compiler did not write.

    Args:
        files: A model, or its segments in order.

    Raises:
        VariantUnusable: one is no TFLite file, or nothing in it is for the Edge TPU.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  only in a child

    for file in files:
        try:
            # LiteRT verifies the whole file here; the delegate is asked for only when tensors are allocated.
            interpreter = Interpreter(model_path=str(file))
        except (RuntimeError, ValueError) as error:
            raise VariantUnusable(f"{file.name}: LiteRT can't load it: {error}") from error
        del interpreter
        operators = custom_operators(file.read_bytes())
        if EDGE_TPU_OPERATOR not in operators:
            raise VariantUnusable(f"{file.name}: holds no {EDGE_TPU_OPERATOR}: it was not compiled for the Edge TPU")


def custom_operators(content: bytes) -> set[str]:
    """The names of the custom operators in a TFLite file that LiteRT has verified."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(index) for index in range(model.OperatorCodesLength()))
    return {name.decode(errors="replace") for code in codes if (name := code.CustomCode())}
