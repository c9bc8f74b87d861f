"""What runs a file: the session, the narrow waist below an engine.

Engine (codec) -> Session: InterpreterSession           in this process
CompiledSession              GPU and NPU, over LiteRT's CompiledModel
ThreadSession(of a session)  in this process, given up when it hangs
ProcessSession               in a device's worker process, which holds one of the above
PipelineSession(of several)  the segments of a cut model, one a device
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from converter.artifact import Signature
from edge_runtime.types import Arrays

Loss = tuple[str, Literal["crashed", "stuck", "vanished"]]
"""Why something can be used no more: in words, and by cause."""


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to open a session of a file, as plain values: it travels to worker processes as it is.

    Attributes:
        subject: What errors call it: `digits/3, variant int8`.
        delegate: Whose factory makes it, one of `devices.DELEGATES`.
        device: The device string that it stands for: `cpu`, `edgetpu:usb:0`, `external:/opt/lib.so?option=value`.
        signatures: The file's own tensors. Empty for a file without signatures, such as a segment: then there is one
            signature, named "", with the file's tensors by their names.
        library: The delegate's shared library, by name or path; empty where it has none.
        options: What the library is given.
        threads: Of one run.
        keeps_state: Whether what the file remembers goes from a run to the next, as a stream wants it. Else each run
            begins anew.
        weight_cache: Where XNNPACK's packed weights are kept; empty for nowhere.
    """

    subject: str
    delegate: Literal["cpu", "edgetpu", "gpu", "npu", "external"] = "cpu"
    device: str = "cpu"
    signatures: tuple[Signature, ...] = ()
    library: str = ""
    options: dict[str, str] = {}
    threads: int = 1
    keeps_state: bool = False
    weight_cache: str = ""


class Worker(Protocol):
    """A process that a session runs in, perhaps with others. Thread-safe."""

    @property
    def loss(self) -> Loss | None:
        """Why it can be used no more; None while it can."""
        ...

    def end(self, reason: str, cause: Literal["crashed", "stuck", "vanished"]) -> None:
        """Kills it with all that runs there, and returns at once; whoever asked to be told of its death is."""
        ...

    def close(self) -> None:
        """Kills and reaps it, and frees what it had. Again: does nothing."""
        ...


class Session(Protocol):
    """A file that is loaded and ready. One caller at a time, unless `slots` says otherwise.

    One that runs in worker processes has them as `workers`: it is lost with any of them. Others have no such attribute,
    and nothing to do with a worker's death.
    """

    @property
    def slots(self) -> int:
        """How many callers may be in `run` at once; above 1 for a pipeline only."""
        ...

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """Runs one signature with the file's own dtypes. The outputs are copies.

        Args:
            signature: Its name.
            inputs: By input name.
            limit_s: Seconds after which the run is stuck; None for no limit. A session that runs in the caller's
                thread can't be interrupted and ignores it.

        Raises:
            EngineLost: the session is gone (crashed, stuck, closed underneath) and must be replaced.
            EngineFailed: this run failed; the session may be used again.
        """
        ...

    def close(self) -> None:
        """Frees it; also one that is lost. Never waits for a run that is stuck."""
        ...
