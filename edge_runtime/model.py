"""What an application holds: one model, followed or pinned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec.structs import replace

from converter.artifact import PackageError, Signature
from edge_runtime.config import Cascade
from edge_runtime.errors import DeadlineExceeded, EdgeRuntimeError, InvalidInput, RuntimeClosed, ServerRefused
from edge_runtime.inputs import Inputs, deadline
from edge_runtime.many import Asking, answers
from edge_runtime.routing.chain import timed_out
from edge_runtime.routing.policy import POLICIES
from edge_runtime.target import Describer, Target, checked_unsure
from edge_runtime.types import Array, EngineReport, InferRequest, Policy, Reply

if TYPE_CHECKING:
    from edge_runtime.stream import Stream

Priority = Literal["high", "normal"]

REFUSALS = (InvalidInput, ServerRefused)
"""What may be for a signature that has changed."""


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
        return f"<Model {target.subject}, {target.router!r}>" if target else f"<Model {self.name}, closed>"

    @property
    def version(self) -> int | None:
        """The version that answers at present; None where a server decides."""
        return self._current().version

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, in the order of the output's last axis; empty where the package has none."""
        return self._current().installed_package.manifest.labels

    @property
    def signature(self) -> Signature:
        """The default signature, as callers see it: names, dtypes and shapes, and the scales of stored integers.

        Raises:
            InvalidInput: the version is not installed here.
        """
        target = self._current()
        return target.installed_package.manifest.signature(target.default)

    @property
    def engines(self) -> tuple[EngineReport, ...]:
        """What runs this model on the device, and why other devices don't; empty where it is not installed."""
        return self._current().engines

    @property
    def target(self) -> Target | None:
        """What requests go to at present; None before the first and after the last."""
        return self._target

    def retarget(self, target: Target | None) -> None:
        """The runtime's call: from now on requests go here; None once the runtime is closed."""
        self._target = target

    def preprocess(self, raw: Any, *, input: str | None = None, pixels: bool = False) -> Array:  # noqa: A002  the field's word
        """Raw values -> the array that `predict` takes, by the package's own preprocessing.

        Args:
            raw: Where the package decodes, resizes, frames or orders fields: one sample or a list of them, as bytes of
                an image or WAV, arrays, or dicts; the batch axis is added. Else an array of numbers (pixels, sensor
                counts), with the batch axis as `predict` takes it.
            input: The input's name, where the default signature has several.
            pixels: Stop at uint8 pixels, where the package has them folded into this input: a quarter of the bytes.

        Raises:
            InvalidInput: no such input, its name is needed, it takes no pixels, the values can't be preprocessed, or
                the version is not installed here.
        """
        target = self._current()
        manifest = target.installed_package.manifest
        signature = manifest.signature(target.default)
        names = [spec.name for spec in signature.inputs]
        name = input if input is not None or len(names) > 1 else names[0]
        if name is None or name not in names:
            raise InvalidInput(f"{self.name}: preprocess needs the name of one input out of {names}, got {input!r}")
        if pixels and name not in target.pixels.get(target.default, {}):
            raise InvalidInput(f"{target.subject}: input {name!r} takes no pixels: no variant has it folded")
        try:
            if pixels:
                return manifest.preprocess.pixels(name, raw, signature.input(name))
            return manifest.preprocess.apply(name, raw, signature.input(name))
        except (PackageError, ValueError, TypeError) as error:
            raise InvalidInput(f"{target.subject}: input {name!r} can't be preprocessed: {error}") from error

    def predict(
        self,
        inputs: Inputs,
        *,
        deadline_ms: float | None = None,
        signature: str | None = None,
        priority: Priority = "normal",
        policy: Policy | None = None,
        unsure: Cascade | None = None,
    ) -> Reply:
        """Answers one request: in this thread where an engine is idle, else from the queue or a server.

        Args:
            inputs: One array where the signature has one input, else arrays by input name; the batch axis first. They
                must not change until the call returns. Where a variant of the package has an input's preprocessing
                folded in, a uint8 array of raw pixels will do for it.
            deadline_ms: Milliseconds from now after which an answer is worthless; None waits.
            signature: The signature's name; None for `serving_default`, or the only one.
            priority: Where requests wait for the device, those of high priority run before the others of this version,
                whatever their deadlines.
            policy: Where the request may be answered, and where it is tried first; None for the model's or the
                runtime's.
            unsure: When an answer of the device's is unsure, so that a server is asked too: `on` below the package's
                threshold, or a threshold of 0..1 in its place; `off` never. None for the model's or the runtime's
                `cascade`.

        Raises:
            InvalidInput: see `InputCheck`; also a deadline that is not above 0, or a priority, policy or threshold
                that there is not.
            VersionNotAvailable, DeadlineExceeded, Overloaded, ServerFailed, ServerRefused, EngineFailed,
            RuntimeClosed: see `edge_runtime.errors`.
        """
        start_s = self._clock()
        deadline_s = None
        if not (deadline_ms is None and policy is None and unsure is None and priority == "normal"):
            deadline_s = self._deadline_s(start_s, deadline_ms, priority, policy, unsure)
        while True:
            target = self._current()
            request = self._request(target, inputs, signature, start_s, deadline_s, policy=policy)
            if priority != "normal":
                request = replace(request, priority=_rank(priority))
            if policy is not None:
                request = replace(request, policy=policy)
            executor = target.judging(unsure)
            try:
                reply = executor.infer(request)
            except RuntimeClosed:
                # The version was unloaded between the look at it and the call; the one that follows it answers.
                if self._target is target:
                    raise
            except EdgeRuntimeError as error:
                if isinstance(error, REFUSALS) and self.redescribed(target, request.described, deadline_s, policy):
                    continue
                target.meter.failed(error)
                raise
            else:
                target.meter.answered(reply)
                return reply

    async def predict_async(
        self,
        inputs: Inputs,
        *,
        deadline_ms: float | None = None,
        signature: str | None = None,
        priority: Priority = "normal",
        policy: Policy | None = None,
        unsure: Cascade | None = None,
    ) -> Reply:
        """As `predict`, awaitable; cancelling it frees the request's place. The inputs are copied."""
        import asyncio  # noqa: PLC0415  20 ms that an application without an event loop does not pay

        start_s = self._clock()
        deadline_s = self._deadline_s(start_s, deadline_ms, priority, policy, unsure)
        while True:
            target = self._current()
            request = await self._request_async(target, inputs, signature, start_s, deadline_s, policy=policy)
            request = _own(request, _rank(priority), policy)
            left_s = self._left_s(deadline_s)
            executor = target.judging(unsure)
            try:
                pending = executor.submit(request)
                reply = await asyncio.wait_for(asyncio.wrap_future(pending), left_s)
            except RuntimeClosed:
                if self._target is target:
                    raise
                continue
            except EdgeRuntimeError as error:
                asked = (target, request.described, deadline_s, policy)
                if isinstance(error, REFUSALS) and await asyncio.to_thread(self.redescribed, *asked):
                    continue
                target.meter.failed(error)
                raise
            except TimeoutError:
                at_hand: Callable[[], Reply] | None = getattr(pending, "at_hand", None)
                if at_hand is None:
                    late = timed_out(request, pending, self._clock())
                    target.meter.failed(late)
                    raise late from None
                reply = at_hand()
            target.meter.answered(reply)
            return reply

    def predict_many(
        self,
        requests: Iterable[Inputs],
        *,
        signature: str | None = None,
        priority: Priority = "normal",
        policy: Policy | None = None,
        unsure: Cascade | None = None,
        progress: bool = False,
    ) -> Iterator[Reply]:
        """Answers many requests at full throughput and in order, with at most 64 of them under way.

        Args:
            requests: Each what `predict` takes; read as the answers are taken, and copied.
            signature: As in `predict`.
            priority: As in `predict`.
            policy: As in `predict`.
            unsure: As in `predict`.
            progress: Show a progress bar on stderr; how far it goes is known where `requests` has a length.

        Raises:
            EdgeRuntimeError: of the request whose turn it is; those behind it are cancelled.
        """
        self._deadline_s(0.0, None, priority, policy, unsure)
        asking = Asking(signature, _rank(priority), policy, unsure)
        replies = answers(self, requests, asking, self._clock)
        return _shown(replies, self.name, requests) if progress else replies

    def stream(self, *, signature: str | None = None) -> Stream:
        """A stream of this model, for one that keeps state from frame to frame, as wake words do.

        It has an engine of its own on the CPU, is never batched, and stays with the version that answers now.

        Args:
            signature: The signature's name; None for the default one.

        Raises:
            InvalidInput: no such signature, or only servers have the version: the state must be here.
            Overloaded: as many streams are open as may be (`max_streams`).
            EngineFailed, PackageRefused: no engine can be made.
            RuntimeClosed: the runtime has been closed.
        """
        target = self._current()
        if target.open_stream is None:
            raise InvalidInput(f"{target.subject} is not installed on the device: a stream keeps its state here")
        return target.open_stream(signature, lambda: self._target.version if self._target else None)

    def described(self, policy: Policy | None = None) -> Target:
        """What requests go to at present; a server has been asked for its signatures, where it must be."""
        target = self._current()
        now_s = self._clock()
        try:
            if target.needs_description(now_s):
                self._describe(target, now_s, None, policy)
        except EdgeRuntimeError as error:
            target.failed(error)
            raise
        return target

    def _describe(self, target: Target, start_s: float, deadline_s: float | None, policy: Policy | None) -> None:
        """Asks for the signatures of a version that is not installed.

        Raises:
            VersionNotAvailable: the policy keeps the requests on the device; or as of `Describer.signatures`.
        """
        if (policy or target.policy) == "only_device":
            raise target.router.absence(target.model, target.version or target.label, confined=True)
        target.describe(self._describer.signatures(target, start_s, deadline_s), self._clock())

    def _left_s(self, deadline_s: float | None) -> float | None:
        return None if deadline_s is None else max(deadline_s - self._clock(), 0.0)

    def _request(
        self,
        target: Target,
        inputs: Inputs,
        signature: str | None,
        start_s: float,
        deadline_s: float | None,
        *,
        policy: Policy | None,
    ) -> InferRequest:
        """A checked request; what doesn't fit is held against a fresh description where there may be one.

        What goes wrong here is counted here.
        """
        try:
            if target.needs_description(start_s):
                self._describe(target, start_s, deadline_s, policy)
            seen = target.description
            try:
                return target.request(inputs, signature, start_s, deadline_s)
            except InvalidInput:
                if seen.described_s >= start_s or not self.redescribed(target, seen.generation, deadline_s, policy):
                    raise
                return target.request(inputs, signature, start_s, deadline_s)
        except EdgeRuntimeError as error:
            target.failed(error)
            raise

    async def _request_async(
        self,
        target: Target,
        inputs: Inputs,
        signature: str | None,
        start_s: float,
        deadline_s: float | None,
        *,
        policy: Policy | None,
    ) -> InferRequest:
        """As `_request`; another thread waits for what servers say."""
        import asyncio  # noqa: PLC0415  see `predict_async`

        try:
            if target.needs_description(start_s):
                describing = asyncio.to_thread(self._describe, target, start_s, deadline_s, policy)
                try:
                    await asyncio.wait_for(describing, self._left_s(deadline_s))
                except TimeoutError as error:
                    raise _named(error, target, start_s, deadline_s, self._clock()) from None
            seen = target.description
            try:
                return target.request(inputs, signature, start_s, deadline_s)
            except InvalidInput:
                asked = (target, seen.generation, deadline_s, policy)
                if seen.described_s >= start_s or not await asyncio.to_thread(self.redescribed, *asked):
                    raise
                return target.request(inputs, signature, start_s, deadline_s)
        except EdgeRuntimeError as error:
            target.failed(error)
            raise

    def redescribed(self, target: Target, seen: int, deadline_s: float | None, policy: Policy | None) -> bool:
        """Whether a refused request should be made again: servers describe what they have in another way now.

        They are asked where "the latest" answers, or a label: once for all that are refused meanwhile, and not again
        for a second where that has shown nothing new. See `Doubts.settled`.

        Args:
            target: What refused it.
            seen: The generation of the description that it was checked against.
            deadline_s: The request's.
            policy: Likewise; None for the target's.
        """
        if target.version is not None or (policy or target.policy) == "only_device":
            return False

        def ask(begun_s: float, until_s: float) -> None:
            target.describe(self._describer.signatures(target, begun_s, until_s), self._clock())

        return target.doubts.settled(seen, lambda: target.description.generation, ask, deadline_s, self._clock)

    def _deadline_s(
        self,
        start_s: float,
        deadline_ms: float | None,
        priority: str,
        policy: Policy | None,
        unsure: Cascade | None,
    ) -> float | None:
        """The instant of a call's deadline, once all that it asks beside its inputs has been checked.

        What goes wrong here is counted here.
        """
        try:
            if priority != "normal":
                _rank(priority)
            if policy is not None:
                _check_policy(policy)
            if unsure is not None:
                checked_unsure(unsure)
            return deadline(start_s, deadline_ms)
        except InvalidInput as error:
            target = self._target
            if target is not None:
                target.failed(error)
            raise

    def _current(self) -> Target:
        target = self._target
        if target is None:
            raise RuntimeClosed(f"model {self.name!r}: the runtime has been closed")
        return target


def _own(request: InferRequest, rank: int, policy: Policy | None) -> InferRequest:
    """The request with arrays of its own: the caller may refill a frame's buffer while the request waits."""
    request.inputs.update({name: np.array(array) for name, array in request.inputs.items()})
    policy = policy or request.policy
    if (rank, policy) == (request.priority, request.policy):
        return request
    return replace(request, priority=rank, policy=policy)


def _shown(replies: Iterator[Reply], name: str, requests: Iterable[Inputs]) -> Iterator[Reply]:
    """The replies, counted by a progress bar."""
    from tqdm import tqdm  # noqa: PLC0415  10 ms that only who looks at it pays

    total = len(requests) if isinstance(requests, Sized) else None
    with tqdm(total=total, desc=name, unit=" requests") as bar:
        for reply in replies:
            bar.update()
            yield reply


def _check_policy(policy: Policy) -> None:
    """Checks the policy of a request.

    Raises:
        InvalidInput: there is no such policy.
    """
    if policy not in POLICIES:
        raise InvalidInput(f"policy must be one of {', '.join(map(repr, POLICIES))}, got {policy!r}")


def _rank(priority: str) -> int:
    """What the queue orders by.

    Raises:
        InvalidInput: there is no such priority.
    """
    if priority == "normal":
        return 1
    if priority == "high":
        return 0
    raise InvalidInput(f"priority must be 'high' or 'normal', got {priority!r}")


def _named(
    error: TimeoutError, target: Target, start_s: float, deadline_s: float | None, now_s: float
) -> EdgeRuntimeError:
    if isinstance(error, EdgeRuntimeError):
        return error
    limit_ms = ((deadline_s or now_s) - start_s) * 1e3
    return DeadlineExceeded(target.subject, limit_ms, {"asking a server for the signatures": (now_s - start_s) * 1e3})
