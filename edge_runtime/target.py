"""What a model's requests go to at present: a version, its signatures, and a router to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from converter.artifact import Package, Signature
from edge_runtime.description import Description, Doubts, described
from edge_runtime.errors import EdgeRuntimeError, InvalidInput, RuntimeClosed
from edge_runtime.inputs import Inputs
from edge_runtime.pixels import Pixels
from edge_runtime.routing.cascade import Asked, CascadeExecutor
from edge_runtime.routing.router import Router
from edge_runtime.telemetry import Meter
from edge_runtime.types import EngineReport, Executor, InferRequest, Policy

if TYPE_CHECKING:
    from edge_runtime.stream import Stream

_DESCRIPTION_S = 10.0
"""How long a description of "the latest" or of a label is believed: the server may have moved it to a version with
other inputs. That of a numbered version is believed for ever. Nor is anything refused for it unseen: see
`Model.redescribed`."""


OpenStream = Callable[[str | None, Callable[[], int | None]], "Stream"]
"""Opens a stream through a signature; the second is asked for the version that the model answers as then."""


class Describer(Protocol):
    """Finds the signatures of a version that is not on the device."""

    def signatures(self, target: Target, start_s: float, deadline_s: float | None) -> dict[str, Signature]:
        """Asks the servers, and waits for the answer within the deadline.

        Raises:
            VersionNotAvailable, DeadlineExceeded, ServerFailed: nobody could say.
        """
        ...


class Target:
    """A version and the way to it; swapped whole when the version changes.

    Attributes:
        model: The model's name.
        version: The version that answers; None where only servers know which.
        label: The label, where a server must resolve it.
        router: Where its requests go.
        package: What is installed; None for a version that only servers have.
        key: What the loaded version is known by; None likewise.
        pixels: The inputs that take pixels; none where the version is not installed.
        open_stream: Opens a stream of it; None where the version is not installed.
        meter: Counts its requests.
        policy: Where its requests may be answered, if they don't say otherwise.
        executor: What answers them: the router, or that with the cascade around it.
        description: Its signatures, as they were last described; swapped whole, and read once by whoever needs several
            parts of it.
        doubts: Whether a refusal still holds that was for these signatures.
    """

    def __init__(
        self,
        model: str,
        version: int | None,
        label: str | None,
        router: Router,
        *,
        package: Package | None = None,
        key: tuple[str, int, tuple[int, int, int]] | None = None,
        pixels: Pixels | None = None,
        reports: Callable[[], tuple[EngineReport, ...]] | None = None,
        open_stream: OpenStream | None = None,
        meter: Meter | None = None,
        policy: Policy = "prefer_device",
        cascade: CascadeExecutor | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.label = label
        self.router = router
        self.package = package
        self.key = key
        self.pixels = pixels or {}
        self.open_stream = open_stream
        self.meter = meter or Meter()
        self.policy = policy
        self._cascade = cascade
        self.executor: Executor = router if cascade is None or not cascade.doubts else cascade
        self._fingerprint = "" if package is None else package.manifest.preprocess.fingerprint
        self._reports = reports
        self.description = Description()
        self.doubts = Doubts()
        self._describing = threading.Lock()
        if package is not None:
            self.describe({one.name: one for one in package.manifest.signatures}, 0.0)

    @property
    def default(self) -> str:
        """The default signature's name."""
        return self.description.default

    @property
    def subject(self) -> str:
        """`digits/3`, for messages."""
        return f"{self.model}/{self.version or self.label or 'latest'}"

    def judging(self, unsure: Asked | None) -> Executor:
        """What answers a request that says by itself when its answer is unsure; None says nothing.

        Raises:
            InvalidInput: as of `checked_unsure`.
        """
        if unsure is None:
            return self.executor
        asked = checked_unsure(unsure) or "off"
        return self.router if self._cascade is None or asked == "off" else self._cascade.asking(asked)

    @property
    def engines(self) -> tuple[EngineReport, ...]:
        """What runs the version on this device, and why it runs nowhere else; empty where it is not installed."""
        return () if self._reports is None else self._reports()

    @property
    def installed_package(self) -> Package:
        """The package.

        Raises:
            InvalidInput: only servers have the version.
        """
        if self.package is None:
            raise InvalidInput(f"{self.subject} is not installed on the device: it has no labels or preprocessing here")
        return self.package

    def needs_description(self, now_s: float) -> bool:
        """Whether a server must be asked for the signatures, for the first time or again."""
        return now_s >= self.description.valid_until_s

    def describe(self, signatures: dict[str, Signature], now_s: float) -> None:
        """Takes the signatures: from the package, or from the server that has the version."""
        with self._describing:
            self.description = described(
                self.description,
                self.subject,
                signatures,
                self.pixels,
                promised=self.package is not None,
                now_s=now_s,
                valid_until_s=float("inf") if self.version is not None else now_s + _DESCRIPTION_S,
            )

    def failed(self, error: EdgeRuntimeError) -> None:
        """Counts a request that failed before it went anywhere; one that met the runtime's closing is no failure."""
        if not isinstance(error, RuntimeClosed):
            self.meter.failed(error)

    def signature_name(self, signature: str | None) -> str:
        """The signature's own name; that of the default one for None.

        Raises:
            InvalidInput: there is no such signature.
        """
        description = self.description
        way = description.ways.get(signature) if signature is None or isinstance(signature, str) else None
        if way is None:
            raise self._unknown(description, signature)
        return way.name

    def request(self, inputs: Inputs, signature: str | None, start_s: float, deadline_s: float | None) -> InferRequest:
        """A checked request.

        Raises:
            InvalidInput: the signature is unknown, or the inputs don't fit it.
        """
        description = self.description
        way = description.ways.get(signature) if signature is None or isinstance(signature, str) else None
        if way is None:
            raise self._unknown(description, signature)
        check, name, batched, promised = way
        arrays, rows = check(inputs)
        return InferRequest(
            model=self.model,
            version=self.version,
            label=self.label,
            signature=name,
            inputs=arrays,
            rows=rows,
            batched=batched,
            guessed=self.package is None,
            start_s=start_s,
            deadline_s=deadline_s,
            policy=self.policy,
            fingerprint=self._fingerprint,
            promised=promised,
            described=description.generation,
        )

    def _unknown(self, description: Description, signature: object) -> InvalidInput:
        return InvalidInput(f"{self.subject}: signature {signature!r} is unknown; there are {description.names}")


def checked_unsure(unsure: Asked | None) -> Asked | None:
    """When a request's answer is unsure; None for what the model says.

    Raises:
        InvalidInput: it is neither `on`, `off` nor a threshold.
    """
    if unsure is None or (isinstance(unsure, str) and unsure in {"on", "off"}):
        return unsure
    if isinstance(unsure, bool) or not isinstance(unsure, int | float) or not 0 <= unsure <= 1:
        raise InvalidInput(f"unsure must be 'on', 'off' or a threshold from 0 to 1, got {unsure!r}")
    return unsure
