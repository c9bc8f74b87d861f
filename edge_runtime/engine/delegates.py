"""The table of delegates: who opens a session on what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec

from converter.artifact import VARIABLE, Signature
from edge_runtime.engine.base import Session, SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.state import FreshSession, is_stateful
from edge_runtime.errors import EngineFailed

_log = logging.getLogger(__name__)

_MIN_CACHED_BYTES = 2**20
"""A smaller file is packed in less time than its packed weights are checked."""


def open_session(spec: SessionSpec, content: bytes) -> Session:
    """Opens a session of a file in this process.

    Args:
        spec: What to open. Where it names no library, the one that its device string says is taken.
        content: The file, verified.

    Raises:
        EngineFailed: the delegate, its device or the file is not to be had.
        PackageRefused: the file's tensors are not what the manifest says.
    """
    factory = FACTORIES[spec.delegate]
    if not spec.keeps_state and is_stateful(content):
        return FreshSession(lambda: factory(spec, content))
    return factory(spec, content)


def keeps_weights(spec: SessionSpec, content: bytes) -> bool:
    """Whether a session on the CPU reads its packed weights from `spec.weight_cache`.

    CompiledModel, which alone can, needs to know the size of every output before it runs. So a size that varies must
    be the batch's, and a tensor without dimensions may be one whose size the file leaves open.
    """
    return bool(
        spec.delegate == "cpu"
        and spec.weight_cache
        and len(content) >= _MIN_CACHED_BYTES
        and spec.signatures
        and all(_sized(signature) for signature in spec.signatures)
    )


def _sized(signature: Signature) -> bool:
    return all(each.dtype != "string" for each in (*signature.inputs, *signature.outputs)) and all(
        each.shape and all(size != VARIABLE or axis == signature.batch_axis for axis, size in enumerate(each.shape))
        for each in signature.outputs
    )


def _open_cpu(spec: SessionSpec, content: bytes) -> Session:
    if keeps_weights(spec, content):
        try:
            return _open_compiled(spec, content)
        except EngineFailed as error:
            _log.info("%s: runs without packed weights that are kept: %s", spec.subject, error)
    return InterpreterSession(spec, content)


def _open_compiled(spec: SessionSpec, content: bytes) -> Session:
    from edge_runtime.engine.compiled import CompiledSession  # noqa: PLC0415  most devices have but a CPU

    return CompiledSession(spec, content)


def _open_delegate(spec: SessionSpec, content: bytes) -> Session:
    from devices import DevicesError, device_string  # noqa: PLC0415  most devices have but a CPU

    try:
        device = device_string(spec.device)
    except DevicesError as error:
        raise EngineFailed(f"{spec.subject}: {error}") from error
    library = spec.library or device.library
    if not library:
        raise EngineFailed(f"{spec.subject}: {spec.device} has no library on this system")
    options = {**device.options, **spec.options}
    return InterpreterSession(msgspec.structs.replace(spec, library=library, options=options), content)


FACTORIES: Mapping[str, Callable[[SessionSpec, bytes], Session]] = {
    "cpu": _open_cpu,
    "edgetpu": _open_delegate,
    "external": _open_delegate,
    "gpu": _open_compiled,
    "npu": _open_compiled,
}
"""By the delegate's name."""
