"""SavedModel -> the bytes of one TFLite file, without calibration. Loads TensorFlow: runs in a child.

`tf.lite.TFLiteConverter.from_saved_model(...).convert()` loads the model three times before it translates it: to look
at its signatures, for a graph that is used for statistics only, and for the source lines in messages. That is two
thirds of the time on a MobileNet, and none of it reaches the file. Here the same converter object is made, and its
translation is called by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from converter.errors import OperatorsUnsupported
from converter.sources.graphs import SERVE_TAG, serve_graph
from converter.sources.operators import describe, unsupported

Scheme = Literal["float32", "float16", "dynamic"]

_FAKE_QUANT = frozenset(
    {
        "FakeQuantWithMinMaxVars",
        "FakeQuantWithMinMaxVarsPerChannel",
        "FakeQuantWithMinMaxArgs",
        "QuantizeAndDequantizeV2",
        "QuantizeAndDequantizeV3",
    }
)
"""Operators by which a model was trained for quantization: with them the float file is no base for an int8 one."""


class Translator:
    """A SavedModel's way to TFLite files.

    Attributes:
        trained_for_quantization: Whether it holds operators that imitate quantization.
    """

    def __init__(self, saved_model: Path, signatures: Sequence[str], *, single_batch_lists: bool) -> None:
        """Reads the graph, and no weights; SourceInvalid where there is none to serve.

        Args:
            saved_model: The directory.
            signatures: The names of those that go into the file.
            single_batch_lists: Whether tensor lists, which recurrent layers use, are of one batch row: without it
                such layers can't be translated with a variable batch.
        """
        self._saved_model = saved_model
        self._signatures = list(signatures)
        self._single_batch_lists = single_batch_lists
        self._graph = serve_graph(saved_model).graph_def
        functions = self._graph.library.function
        nodes = (*self._graph.node, *(node for function in functions for node in function.node_def))
        self.trained_for_quantization = any(node.op in _FAKE_QUANT for node in nodes)

    def translate(self, scheme: Scheme) -> bytes:
        """The model, its weights stored by the scheme.

        Raises:
            OperatorsUnsupported: it has operators that LiteRT lacks.
            Exception: whatever TensorFlow raises where the model can't be converted so.
        """
        import tensorflow as tf  # noqa: PLC0415  only in a child

        converter = self._converter()
        if scheme != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if scheme == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return self._convert(converter)

    def translate_calibrated(self, samples: Any) -> bytes:
        """The float model with the ranges of its activations, for one that was trained for quantization.

        Args:
            samples: A function that gives an iterator over samples, as TensorFlow takes them.
        """
        import tensorflow as tf  # noqa: PLC0415  only in a child

        converter = self._converter()
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = samples
        converter._experimental_calibrate_only = True  # noqa: SLF001  as TensorFlow's own QuantizationDebugger does
        return self._convert(converter)

    def _converter(self) -> Any:
        import tensorflow as tf  # noqa: PLC0415  only in a child
        from tensorflow.lite.python import lite  # noqa: PLC0415

        converter = lite.TFLiteSavedModelConverterV2(str(self._saved_model), {SERVE_TAG}, self._signatures)
        if converter.saved_model_dir is None:
            # A SavedModel from before 2020 has to be frozen first, which only the long way does.
            converter = tf.lite.TFLiteConverter.from_saved_model(
                str(self._saved_model), signature_keys=self._signatures, tags={SERVE_TAG}
            )
        converter._experimental_default_to_single_batch_in_tensor_list_ops = self._single_batch_lists  # noqa: SLF001
        return converter

    def _convert(self, converter: Any) -> bytes:
        try:
            if getattr(converter, "saved_model_dir", None) is None:
                return bytes(converter.convert())
            return bytes(converter._convert_from_saved_model(self._graph))  # noqa: SLF001
        except Exception as error:
            if operators := unsupported(str(error)):
                raise OperatorsUnsupported(describe(operators)) from error
            raise
