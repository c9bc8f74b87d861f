"""What an application holds: one model, followed or pinned."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Protocol

import numpy.typing as npt

from converter.artifact import Package, Signature
from edge_runtime.errors import EdgeRuntimeError, InvalidInput, Overloaded, RuntimeClosed
from edge_runtime.inputs import InputCheck, Inputs, default_signature
from edge_runtime.routing.router import Router
from edge_runtime.scheduling.batcher import late
from edge_runtime.types import Array, InferRequest, Reply

_MANY_IN_FLIGHT = 64
"""Requests that `predict_many` has under way: enough to keep batches full, few enough to bound memory."""


class Describer(Protocol):
    """Finds the signatures of a version that is not on the device."""

    def signatures(self, target: Target, start_s: float, deadline_s: float | None) -> dict[str, Signature]:
        """Asks the servers, and waits for the answer within the deadline.

        Raises:
            VersionNotAvailable, DeadlineExceeded, ServerFailed: nobody could say.
        """
        ...


class Target:
    """What a model's requests go to at present; swapped whole when the version changes.

    Attributes:
        version: The version that answers; None where only servers know the model.
        label: The label, where a server must resolve it.
        router: Where its requests go.
        package: What is installed; None for a version that only servers have.
        checks: The input checks by signature name, and the default's under None; empty until a server was asked.
        default: The default signature's name.
    """

    def __init__(
        self, model: str, version: int | None, label: str | None, router: Router, package: Package | None
    ) -> None:
        self.model = model
        self.version = version
        self.label = label
        self.router = router
        self.package = package
        self.default = ""
        self.checks: dict[str | None, InputCheck] = {}
        if package is not None:
            self.describe({one.name: one for one in package.manifest.signatures})

    @property
    def subject(self) -> str:
        """`digits/3`, for messages."""
        return f"{self.model}/{self.version or self.label or 'latest'}"

    def describe(self, signatures: dict[str, Signature]) -> None:
        """Takes the signatures: from the package, or from the server that has the version."""
        default = default_signature(signatures.values()).name
        checks: dict[str | None, InputCheck] = {
            name: InputCheck(self.subject, signature) for name, signature in signatures.items()
        }
        checks[None] = checks[default]
        self.default = default
        self.checks = checks

    def request(self, inputs: Inputs, signature: str | None, start_s: float, deadline_s: float | None) -> InferRequest:
        """A checked request.

        Raises:
            InvalidInput: the signature is unknown, or the inputs don't fit it.
        """
        check = self.checks.get(signature)
        if check is None:
            known = sorted(name for name in self.checks if name is not None)
            raise InvalidInput(f"{self.subject}: signature {signature!r} is unknown; there are {known}")
        arrays, rows = check(inputs)
        return InferRequest(
            model=self.model,
            version=self.version,
            label=self.label,
            signature=signature or self.default,
            inputs=arrays,
            rows=rows,
            start_s=start_s,
            deadline_s=deadline_s,
        )


class Model:
    """A model of a runtime. Thread-safe. Made by `Runtime.model`."""

    def __init__(self, name: str, pin: int | str | None, describer: Describer, clock: Callable[[], float]) -> None:
        """Takes what the runtime gives; `retarget` follows before the first use."""
        self.name = name
        self.pin = pin
        self._describer = describer
        self._clock = clock
        self._target: Target | None = None

    def __repr__(self) -> str:
        target = self._target
        return f"<Model {target.subject if target else self.name}, {target.router if target else 'closed'!r}>"

    @property
    def version(self) -> int | None:
        """The version that answers at present; None where a server decides."""
        return self._current().version

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the output's last axis; empty where the package has none."""
        package = self._package()
        return package.manifest.labels

    def preprocess(self, raw: npt.ArrayLike, *, input: str | None = None) -> Array:  # noqa: A002  the field's word
        """Raw values (pixels, sensor counts) -> the array that `predict` takes, by the package's own preprocessing.

        Args:
            raw: With the batch axis, as `predict` takes it.
            input: The input's name, where the default signature has several.

        Raises:
            InvalidInput: no such input, or its name is needed.
        """
        manifest = self._package().manifest
        signature = manifest.signature(self._current().default)
        names = [spec.name for spec in signature.inputs]
        name = input if input is not None or len(names) > 1 else names[0]
        if name is None or name not in names:
            raise InvalidInput(f"{self.name}: preprocess needs the name of one input out of {names}, got {input!r}")
        return manifest.preprocess.apply(name, raw, signature.input(name))

    def predict(self, inputs: Inputs, *, deadline_ms: float | None = None, signature: str | None = None) -> Reply:
        """Answers one request: in this thread where an engine is idle, else from the queue or a server.

        Args:
            inputs: One array where the signature has one input, else arrays by input name; the batch axis first.
            deadline_ms: Milliseconds from now after which an answer is worthless; None waits.
            signature: The signature's name; None for `serving_default`, or the only one.

        Raises:
            InvalidInput: see `InputCheck`; also a deadline that is not above 0.
            VersionNotAvailable, DeadlineExceeded, Overloaded, ServerFailed, ServerRefused, EngineFailed,
            RuntimeClosed: see `edge_runtime.errors`.
        """
        start_s = self._clock()
        deadline_s = None if deadline_ms is None else start_s + _seconds(deadline_ms)
        while True:
            target = self._current()
            if not target.checks:
                self._describe(target, start_s, deadline_s)
            request = target.request(inputs, signature, start_s, deadline_s)
            try:
                return target.router.infer(request)
            except RuntimeClosed:
                # The version was unloaded between the look at it and the call; the one that follows it answers.
                if self._target is target:
                    raise

    async def predict_async(
        self, inputs: Inputs, *, deadline_ms: float | None = None, signature: str | None = None
    ) -> Reply:
        """As `predict`, awaitable; cancelling it frees the request's place."""
        import asyncio  # noqa: PLC0415  20 ms that an application without an event loop does not pay

        start_s = self._clock()
        deadline_s = None if deadline_ms is None else start_s + _seconds(deadline_ms)
        target = self._current()
        if not target.checks:
            await asyncio.to_thread(self._describe, target, start_s, deadline_s)
        request = target.request(inputs, signature, start_s, deadline_s)
        future = asyncio.wrap_future(self._submit(target, request))
        if deadline_s is None:
            return await future
        try:
            return await asyncio.wait_for(future, max(deadline_s - self._clock(), 0.0))
        except TimeoutError as error:
            if isinstance(error, EdgeRuntimeError):
                raise
            raise late(request, self._clock(), {}) from None

    def predict_many(self, requests: Iterable[Inputs], *, signature: str | None = None) -> Iterator[Reply]:
        """Answers many requests at full throughput and in order, with a bounded number of them under way.

        Args:
            requests: Each what `predict` takes; read as the answers are taken.
            signature: As in `predict`.

        Raises:
            EdgeRuntimeError: of the request whose turn it is; those under way are cancelled.
        """
        under_way: deque[Future[Reply]] = deque()
        try:
            for inputs in requests:
                while (future := self._try_submit(inputs, signature, wait=not under_way)) is None:
                    yield under_way.popleft().result()
                under_way.append(future)
                if len(under_way) >= _MANY_IN_FLIGHT:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    @property
    def target(self) -> Target | None:
        """What requests go to at present; None before the first and after the last."""
        return self._target

    def retarget(self, target: Target | None) -> None:
        """The runtime's call: from now on requests go here; None once the runtime is closed."""
        self._target = target

    def _try_submit(self, inputs: Inputs, signature: str | None, *, wait: bool) -> Future[Reply] | None:
        """The request's future; None if the queue is full and an answer can be taken first."""
        start_s = self._clock()
        target = self._current()
        if not target.checks:
            self._describe(target, start_s, None)
        try:
            return self._submit(target, target.request(inputs, signature, start_s, None))
        except Overloaded:
            if wait:
                raise
            return None

    def _submit(self, target: Target, request: InferRequest) -> Future[Reply]:
        try:
            return target.router.submit(request)
        except RuntimeClosed:
            current = self._current()
            if current is target:
                raise
            return current.router.submit(request)

    def _describe(self, target: Target, start_s: float, deadline_s: float | None) -> None:
        """Asks for the signatures of a version that is not installed; once, since they never change."""
        target.describe(self._describer.signatures(target, start_s, deadline_s))

    def _package(self) -> Package:
        target = self._current()
        if target.package is None:
            raise InvalidInput(
                f"{target.subject} is not installed on the device: it has no labels or preprocessing here"
            )
        return target.package

    def _current(self) -> Target:
        target = self._target
        if target is None:
            raise RuntimeClosed(f"model {self.name!r}: the runtime has been closed")
        return target


def _seconds(deadline_ms: float) -> float:
    if not (deadline_ms > 0 and math.isfinite(deadline_ms)):
        raise InvalidInput(f"deadline_ms must be above 0 and finite, got {deadline_ms}")
    return deadline_ms / 1e3
