"""What every transport calls: finds the version, checks the request, queues it, and settles it. Knows no transport."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fallback_server.batching.execution import Outcome
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import Array, BatchQueue, Task
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import ExecutionFailed, InvalidInput, ModelNotFound, ServerError, SignatureNotFound
from fallback_server.core.handle import ServableHandle
from fallback_server.core.manager import Manager
from fallback_server.core.servable import ServableId, ServableState
from fallback_server.core.target import ModelTarget
from fallback_server.served_model import ServedModel
from fallback_server.validation import check_inputs, check_output_filter

_log = logging.getLogger(__name__)

DEFAULT_SIGNATURE = "serving_default"
"""What an empty signature name means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictReply:
    """What a prediction gave, and who gave it."""

    outputs: Mapping[str, Array]
    servable_id: ServableId
    signature: str


class PredictCall:
    """One prediction that is asked for.

    Attributes:
        target: Which version.
        signature: Its name; empty for `DEFAULT_SIGNATURE`.
        inputs: By name; not yet checked.
        output_filter: The outputs that are wanted; empty for all.
        deadline_s: The instant, of the data plane's clock, after which the answer is worthless; None for none.
        cancelled: Set by the transport when nobody waits any more.
    """

    __slots__ = ("cancelled", "deadline_s", "inputs", "output_filter", "signature", "target")

    def __init__(
        self,
        *,
        target: ModelTarget,
        signature: str = "",
        inputs: Mapping[str, Array],
        output_filter: Sequence[str] = (),
        deadline_s: float | None = None,
    ) -> None:
        self.target = target
        self.signature = signature
        self.inputs = inputs
        self.output_filter = output_filter
        self.deadline_s = deadline_s
        self.cancelled = False


class Settle(Protocol):
    """Takes answers back to a transport, in any thread; several at once where a batch gave several."""

    def __call__(self, answers: Sequence[tuple[PredictCall, PredictReply | ServerError]], /) -> None:
        """Must not raise, and must not block."""


class _Admitted:
    """A call that waits or runs: what is needed to settle it. The task's `Caller`."""

    __slots__ = ("call", "handle", "settle", "signature")

    def __init__(self, call: PredictCall, handle: ServableHandle[ServedModel], signature: str, settle: Settle) -> None:
        self.call = call
        self.handle = handle
        self.signature = signature
        self.settle = settle

    @property
    def cancelled(self) -> bool:
        return self.call.cancelled

    def reply(self, outputs: dict[str, Array]) -> PredictReply:
        wanted = self.call.output_filter
        return PredictReply(
            outputs={name: outputs[name] for name in wanted} if wanted else outputs,
            servable_id=self.handle.servable_id,
            signature=self.signature,
        )


class DataPlane:
    """Answers predictions and questions about models. Every method may be called from any thread, and none blocks."""

    def __init__(self, *, manager: Manager[ServedModel], options: BatchingOptions, clock: Callable[[], float]) -> None:
        self._manager = manager
        self.clock = clock
        self.scheduler = BatchScheduler(options=options, on_done=self._done, clock=clock)

    def predict(self, calls: Sequence[PredictCall], settle: Settle) -> None:
        """Queues calls. Each is settled once: at once, in this thread, when it is refused, otherwise when it has run.

        A transport that gets several calls at a time should hand them over together: one lock for all of them.
        """
        answers: list[tuple[PredictCall, PredictReply | ServerError]] = []
        items: list[tuple[BatchQueue, Task]] = []
        admitted: list[_Admitted] = []
        for call in calls:
            try:
                caller, queue, task = self._admit(call, settle)
            except ServerError as error:
                answers.append((call, error))
            else:
                admitted.append(caller)
                items.append((queue, task))
        if items:
            for caller, refusal in zip(admitted, self.scheduler.submit(items), strict=True):
                if refusal is not None:
                    caller.handle.close()
                    answers.append((caller.call, refusal))
        if answers:
            settle(answers)

    def signature_defs(self, target: ModelTarget) -> tuple[ServableId, bytes]:
        """The version that answers, and its serialized SignatureDefMap.

        Raises:
            ServerError: as `Manager.acquire` says, or the target is at fault.
        """
        with self._acquire(target) as handle:
            return handle.servable_id, handle.servable.executor.signature_defs

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """The states of a model's versions, the highest first; of one alone, when the target names it.

        Raises:
            InvalidInput: no name, or an unknown label.
            ModelNotFound: nothing is known of the model, or of the version.
        """
        _check_target(target)
        states = self._manager.states(target.name)
        if target.version is not None:
            states = tuple(state for state in states if state.servable_id.version == target.version)
            if not states:
                raise ModelNotFound(f"Could not find version {target.version} of model {target.name}")
        if not states:
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        return states

    def _admit(self, call: PredictCall, settle: Settle) -> tuple[_Admitted, BatchQueue, Task]:
        handle = self._acquire(call.target)
        try:
            name = call.signature or DEFAULT_SIGNATURE
            signature = handle.servable.signatures.get(name)
            if signature is None:
                raise SignatureNotFound(f'Serving signature key "{name}" not found.')  # noqa: TRY301  one exit for all
            rows = check_inputs(signature, call.inputs)
            check_output_filter(signature, call.output_filter)
        except BaseException:
            handle.close()
            raise
        caller = _Admitted(call, handle, name, settle)
        task = Task(caller=caller, inputs=call.inputs, deadline_s=call.deadline_s, rows=rows)
        return caller, handle.servable.queues[name], task

    def _acquire(self, target: ModelTarget) -> ServableHandle[ServedModel]:
        _check_target(target)
        return self._manager.acquire(target.name, target.version)

    def _done(self, outcomes: Sequence[Outcome]) -> None:
        """A batch has run: lets its version go, and hands the answers to whoever asked."""
        answers: dict[Settle, list[tuple[PredictCall, PredictReply | ServerError]]] = {}
        for task, outcome in outcomes:
            caller = task.caller
            assert isinstance(caller, _Admitted)
            answers.setdefault(caller.settle, []).append((caller.call, _answer(caller, outcome)))
            caller.handle.close()
        for settle, settled in answers.items():
            settle(settled)


def _answer(caller: _Admitted, outcome: dict[str, Array] | ServerError) -> PredictReply | ServerError:
    if isinstance(outcome, ServerError):
        return outcome
    try:
        return caller.reply(outcome)
    except KeyError as error:
        _log.exception("%s: the model left out an output that its signature has", caller.handle)
        return ExecutionFailed(f"the model gave no output {error.args[0]!r}")


def _check_target(target: ModelTarget) -> None:
    if not target.name:
        raise InvalidInput("ModelSpec has no name specified.")
    if target.label is not None:
        raise InvalidInput(f"Unrecognized servable version label: {target.label}")
