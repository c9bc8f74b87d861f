"""What can go wrong on the device, by fault.

EdgeRuntimeError
├── InvalidConfig          an option is unknown, of a wrong type or out of its bounds   (ValueError)
├── InvalidInput           an input's name, shape or dtype is not the signature's       (ValueError)
├── PackageRefused         a package is damaged, unsafe, too new, or has no usable variant
├── EngineFailed           an interpreter can't be made, or its run failed
│   └── EngineLost         it crashed, hangs or its device vanished; it is replaced
├── VersionNotAvailable    neither installed nor served by any server that was asked    (LookupError)
├── DeadlineExceeded       no answer in time; says where the time went                  (TimeoutError)
├── Overloaded             the queue is full or too long, and no server can take the request
├── StreamBusy             two threads are in one stream                                (RuntimeError)
├── ServerFailed           servers were asked, and failed or refused
└── RuntimeClosed          the runtime has been closed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edge_runtime.types import Tried


class EdgeRuntimeError(Exception):
    """Base of everything that this package raises."""


class InvalidConfig(EdgeRuntimeError, ValueError):
    """An option is unknown, of a wrong type or out of its bounds; the text says the name, the bound and the value."""


class InvalidInput(EdgeRuntimeError, ValueError):
    """An input does not fit the signature; the text names the input, what was expected and what came.

    Attributes:
        tried: The servers that were asked, in order, with times, where they said so; else empty.
    """

    tried: tuple[Tried, ...] = ()


class PackageRefused(EdgeRuntimeError):
    """A package in the store can't be used; the cause is the package error."""


class EngineFailed(EdgeRuntimeError):
    """An interpreter could not be made for a variant, or failed while it ran."""


class EngineLost(EngineFailed):
    """An engine is gone: its process died, it hangs, or its device was pulled out.

    Attributes:
        cause: `crashed`, `stuck` or `vanished`.
    """

    def __init__(self, text: str, cause: Literal["crashed", "stuck", "vanished"]) -> None:
        self.cause = cause
        super().__init__(text)


class VersionNotAvailable(EdgeRuntimeError, LookupError):
    """Nobody has the version that was asked for.

    Attributes:
        model: The model's name.
        version: The version or label that was asked for; None for the latest.
        installed: The versions of the model that are on the device.
        asked: What each server that was asked said, by `host:port`.
    """

    def __init__(
        self, model: str, version: int | str | None, installed: Sequence[int], asked: Mapping[str, str], hint: str = ""
    ) -> None:
        self.model = model
        self.version = version
        self.installed = tuple(installed)
        self.asked = dict(asked)
        number = f"label {version!r}" if isinstance(version, str) else f"version {version}"
        wanted = "latest version" if version is None else number
        on_device = ", ".join(map(str, self.installed)) or "none"
        servers = "; ".join(f"{name}: {said}" for name, said in self.asked.items()) or "none"
        super().__init__(
            f"model {model!r}: {wanted} is not available. Installed: {on_device}. Servers asked: {servers}."
            + (f" {hint}" if hint else "")
        )


class DeadlineExceeded(EdgeRuntimeError, TimeoutError):
    """The deadline passed without an answer.

    Attributes:
        spent_ms: Where the time went, in milliseconds, by stage.
    """

    def __init__(self, subject: str, deadline_ms: float, spent_ms: Mapping[str, float]) -> None:
        self.spent_ms = dict(spent_ms)
        spent = ", ".join(f"{stage} {value:.1f} ms" for stage, value in self.spent_ms.items())
        super().__init__(f"{subject}: no answer within {deadline_ms:.1f} ms; spent: {spent}")


class Overloaded(EdgeRuntimeError):
    """The device's queue is full, or too long for the deadline, and there is no server to take the request."""


class StreamBusy(EdgeRuntimeError, RuntimeError):
    """A second thread came into a stream while one was in it: their frames would be mixed."""


class ServerFailed(EdgeRuntimeError):
    """No server answered.

    Attributes:
        asked: What each server said, by `host:port`.
        lacking: Whether every one of them lacks the version or can't be reached: then nobody has it.
        tried: Those that were asked, in order, with times; empty where that is not known.
    """

    def __init__(self, subject: str, asked: Mapping[str, str], *, lacking: bool, tried: Sequence[Tried] = ()) -> None:
        self.asked = dict(asked)
        self.lacking = lacking
        self.tried = tuple(tried)
        said = "; ".join(f"{address}: {text}" for address, text in self.asked.items())
        super().__init__(f"{subject}: no server answered. Asked: {said or 'none is known'}.")


class ServerRefused(EdgeRuntimeError):
    """A server refused: its signature, preprocessing or package is not what the request believes.

    Attributes:
        tried: The servers that were asked, in order, with times; empty where that is not known.
    """

    tried: tuple[Tried, ...] = ()


class RuntimeClosed(EdgeRuntimeError):
    """The runtime, or the version that a request was for, has been closed."""
