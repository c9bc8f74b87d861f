"""LiteRT's CompiledModel as a session: the GPU, an NPU, and the CPU where XNNPACK's packed weights are kept.

It holds Python's interpreter lock while it runs (the classic interpreter lets it go), so that it stands in the way of
every other thread: it belongs into a worker process.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import VARIABLE
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.library import installed, interpreter_module
from edge_runtime.engine.planned import Call, PlannedSession, Shape
from edge_runtime.engine.tensors import GRAPH, check_tensors
from edge_runtime.engine.weights import WeightCache, may_pack
from edge_runtime.errors import EngineFailed, PackageRefused
from edge_runtime.types import Array, Arrays

_log = logging.getLogger(__name__)

_BUFFER_DTYPES = frozenset({"float32", "float16", "int32", "int8", "uint8", "bool"})
"""What LiteRT's TensorBuffer takes by name. Others go in and out as the bytes that they are."""

_MAX_REASON_CHARACTERS = 1000

_SOURCE_POSITION = re.compile(
    r"(?:INFO|WARNING|ERROR): \[[^\]]*\]:?|\b[EWI]\d{4}[ 0-9:.]+ [\w.]+:\d+\]|\N{BOX DRAWINGS LIGHT UP AND RIGHT}"
)

_NOISE = {
    "gpu": ("INFO", "I0000", "WARNING", "\N{BOX DRAWINGS LIGHT UP AND RIGHT}", "===", "third_party", " "),
    "npu": ("INFO", "I0000"),
}
"""How the lines begin that LiteRT prints whether it fails or not. An NPU's missing library is but a warning."""


class CompiledSession(PlannedSession):
    """See `PlannedSession`. Each combination of shapes has a model of its own: resizing one compiles it anew."""

    def __init__(self, spec: SessionSpec, content: bytes) -> None:
        """Compiles the file for the accelerator, for that alone: what it can't run whole, it does not run.

        Args:
            spec: What to open; `weight_cache` counts on the CPU only.
            content: The file.

        Raises:
            EngineFailed: the accelerator is not to be had, or refuses the file.
            PackageRefused: the file's tensors are not what the manifest says, or are strings.
        """
        super().__init__(spec)
        self._content = content
        self._weights: int | None = None
        fixed = self._check()
        self.inputs = {name: tuple(shapes) for name, shapes in fixed.items()}
        try:
            self._library = importlib.import_module("ai_edge_litert.compiled_model")
            self._environment: Any = self._library.Environment.create()
        except (ImportError, AttributeError, RuntimeError) as error:
            raise EngineFailed(f"{spec.subject}: {spec.device} needs a newer ai-edge-litert: {error}") from error
        if spec.delegate == "cpu" and spec.weight_cache:
            self._weights = self._packed_weights(Path(spec.weight_cache))
        try:
            self._spare: Any = self._model()
            self._accelerated = bool(self._spare.is_fully_accelerated())
            for name, shapes in fixed.items():
                if len(fixed) == 1 and not any(VARIABLE in shape for shape in shapes.values()):
                    self.prepare(name, tuple(shapes.values()))
        except EngineFailed:
            self.close()
            raise

    def describe(self) -> str:
        """The device, and whether all of the file runs on it."""
        kept = "" if self._weights is None else ", weights kept"
        return f"{self.spec.device}, {'fully' if self._accelerated else 'partly'} accelerated{kept}"

    def plan(self, signature: str, shapes: dict[str, Shape]) -> Call:
        """A model for these shapes."""
        if self._spare is not None:
            model, self._spare = self._spare, None
        else:
            model = self._model()
        return _CompiledCall(model, signature, shapes)

    def close(self) -> None:
        """Lets go of the models, the accelerator and the packed weights."""
        super().close()
        self._spare = self._environment = None
        if self._weights is not None:
            os.close(self._weights)
            self._weights = None

    def _check(self) -> dict[str, dict[str, Shape]]:
        """Holds the file against the manifest, by the interpreter, which says more of tensors than CompiledModel."""
        subject = self.spec.subject
        try:
            interpreter = interpreter_module().Interpreter(model_content=self._content)
        except (RuntimeError, ValueError, MemoryError, ImportError) as error:
            raise EngineFailed(f"{subject}: LiteRT can't load it: {error}") from error
        fixed = check_tensors(interpreter, self.spec)
        for signature in self.spec.signatures:
            strings = [each.name for each in (*signature.inputs, *signature.outputs) if each.dtype == "string"]
            if strings:
                raise PackageRefused(f"{subject}: {self.spec.device} takes no strings, as are {strings}")
        return fixed

    def _model(self) -> Any:
        """Compiles the file.

        Raises:
            EngineFailed: the accelerator refuses; the text has LiteRT's own words, and what it printed.
        """
        weights = "" if self._weights is None else f"/proc/self/fd/{self._weights}"
        try:
            return self._compiled(weights)
        except (RuntimeError, ValueError, MemoryError) as error:
            noise = _NOISE.get(self.spec.delegate)
            reason = _printed(lambda: self._compiled(weights), noise) if noise else ""
            said = _one_line(f"{error} {reason}")
            raise EngineFailed(f"{self.spec.subject}: {self.spec.device} can't run it: {said}") from error

    def _compiled(self, weights: str) -> Any:
        library = self._library
        accelerator = library.HardwareAccelerator[self.spec.delegate.upper()]
        # What a variant was measured with is what it computes with: a float32 file does not go through float16.
        options = library.Options(
            hardware_accelerators=accelerator,
            cpu_options=library.CpuOptions(num_threads=self.spec.threads, xnnpack_weight_cache_path=weights),
            gpu_options=library.GpuOptions(enforce_f32=True),
        )
        return library.CompiledModel.from_buffer(self._content, environment=self._environment, options=options)

    def _packed_weights(self, folder: Path) -> int | None:
        """The file's packed weights out of the folder, packed now if it has none; None if they can't be kept."""
        cache = WeightCache(folder, " ".join(installed()))
        try:
            opened = cache.open(self._content)
            if opened is not None or not may_pack():
                return opened
            memory = os.memfd_create("packed-weights")
            try:
                self._compiled(f"/proc/self/fd/{memory}")
                if os.fstat(memory).st_size == 0:
                    return None
                cache.keep(self._content, memory)
            finally:
                os.close(memory)
            return cache.open(self._content)
        except (OSError, RuntimeError, MemoryError) as error:
            _log.warning("%s: its packed weights can't be kept in %s: %s", self.spec.subject, folder, error)
            return None


class _CompiledCall:
    """A model with buffers for fixed shapes."""

    def __init__(self, model: Any, signature: str, shapes: dict[str, Shape]) -> None:
        there = model.get_signature_list()
        if signature not in there:
            # A file without signatures, by whatever name its manifest gives the only graph: else it was refused.
            signature = GRAPH
        index = 0 if signature == GRAPH else model.get_signature_index(signature)
        key, names = list(there.items())[index]
        details = model.get_input_tensor_details(key)
        for name in names["inputs"]:
            shape = shapes[_called(signature, name, details)]
            if tuple(details[name]["shape"]) != shape:
                model.resize_input_tensor_by_name(key, name, shape)
        # Read again: the outputs' shapes follow the inputs'.
        results = model.get_output_tensor_details(key)
        self._index = index
        self._model = model
        self._inputs = model.create_input_buffers(index)
        self._outputs = model.create_output_buffers(index)
        self._writes = tuple(
            (_called(signature, name, details), np.dtype(details[name]["dtype"]), buffer)
            for name, buffer in zip(names["inputs"], self._inputs, strict=True)
        )
        self._reads = tuple(
            (_called(signature, name, results), np.dtype(results[name]["dtype"]), tuple(results[name]["shape"]), buffer)
            for name, buffer in zip(names["outputs"], self._outputs, strict=True)
        )

    def __call__(self, inputs: Arrays) -> Arrays:
        for name, dtype, buffer in self._writes:
            array = inputs[name]
            if array.dtype != dtype:  # LiteRT would take the bytes of whatever comes
                raise TypeError(f"input {name!r} is {array.dtype}, the file takes {dtype}")
            buffer.write(array if dtype.name in _BUFFER_DTYPES else _bytes_of(array))
        self._model.run_by_index(self._index, self._inputs, self._outputs)
        return {name: _read(buffer, dtype, shape) for name, dtype, shape, buffer in self._reads}


def _called(signature: str, name: str, details: dict[str, dict[str, Any]]) -> str:
    """What callers call a tensor: a file without signatures has the tensors' own names."""
    return str(details[name]["name"]) if signature == GRAPH else name


def _bytes_of(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.int8)


def _read(buffer: Any, dtype: np.dtype[Any], shape: Shape) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.name in _BUFFER_DTYPES:
        values: Array = buffer.read(count, dtype)
    else:
        values = buffer.read(count * dtype.itemsize, np.int8).view(dtype)
    return values.reshape(shape)


def _printed(attempt: Callable[[], object], noise: tuple[str, ...]) -> str:
    """Why an attempt fails, out of what LiteRT prints, since its errors don't say it.

    For its time all that the process prints to standard error lands here, and is printed afterwards.
    """
    try:
        standard_error = os.dup(2)
    except OSError:  # closed, as in some services
        return ""
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 2)
            with contextlib.suppress(RuntimeError, ValueError, MemoryError):
                attempt()
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
        file.seek(0)
        printed = file.read()
    with contextlib.suppress(OSError):
        os.write(2, printed)
    lines = [line for line in printed.decode("utf-8", errors="replace").splitlines() if line.strip()]
    said = dict.fromkeys(line.strip() for line in lines if not line.startswith(noise))
    return " ".join(said)


def _one_line(text: str) -> str:
    """LiteRT's words without where they stand in its source."""
    return " ".join(_SOURCE_POSITION.sub(" ", text).split())[:_MAX_REASON_CHARACTERS]
