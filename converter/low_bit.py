"""Weights of 4 bits, by litert-quantizer. Runs in a child: the library is large."""

from __future__ import annotations

from converter.errors import VariantUnusable


def quantize_int4(float_model: bytes) -> bytes:
    """A float32 TFLite model with 4-bit weights, one scale an output channel; activations stay float32.

    Raises:
        VariantUnusable: the model has no operator whose weights can be stored so.
    """
    from litert_quantizer import quantizer, recipe  # noqa: PLC0415  only in a child

    worker = quantizer.Quantizer(bytearray(float_model))
    worker.load_quantization_recipe(recipe.dynamic_wi4_afp32())
    content = worker.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model
    if content is None or bytes(content) == float_model:
        raise VariantUnusable("int4: the model has no weights that can be stored in 4 bits")
    return bytes(content)
