"""What every transport calls: finds the version, checks the request, queues it, and settles it. Knows no transport."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from fallback_server import classification
from fallback_server.batching.execution import Outcome
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import Array, BatchQueue, Task
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import ExecutionFailed, InvalidInput, ServerError, SignatureNotFound
from fallback_server.core.handle import ServableHandle
from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.executors.base import Signature, own_outputs
from fallback_server.leaving import code_received
from fallback_server.package_info import check_preprocessing
from fallback_server.predict_call import (
    DEFAULT_SIGNATURE,
    Answer,
    EntryPoint,
    Observe,
    PredictCall,
    PredictReply,
    Settle,
    Verb,
)
from fallback_server.served_model import ServedModel
from fallback_server.shadowing import Shadowing
from fallback_server.validation import check_inputs, check_output_filter

__all__ = [
    "DEFAULT_SIGNATURE",
    "Answer",
    "DataPlane",
    "EntryPoint",
    "Observe",
    "PredictCall",
    "PredictReply",
    "Settle",
    "Verb",
    "Versions",
]

_log = logging.getLogger(__name__)


class Versions(Protocol):
    """The versions that may answer; see `Control`."""

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means."""
        ...

    def shadow(self, name: str, answered: int) -> ServableHandle[ServedModel] | None:
        """A second version that a request is also to run on, unseen; None for most."""
        ...


class _Admitted:
    """A call that waits or runs: what is needed to settle it. The task's `Caller`."""

    __slots__ = ("call", "comparison", "handle", "settle", "signature")

    def __init__(self, call: PredictCall, handle: ServableHandle[ServedModel], signature: str, settle: Settle) -> None:
        self.call = call
        self.handle = handle
        self.signature = signature
        self.settle = settle
        self.comparison: Callable[[Mapping[str, Array] | None], None] | None = None

    @property
    def cancelled(self) -> bool:
        return self.call.left_s is not None

    def reply(self, outputs: dict[str, Array]) -> PredictReply:
        wanted = self.call.output_filter
        return PredictReply(
            outputs={name: outputs[name] for name in wanted} if wanted else outputs,
            servable_id=self.handle.servable_id,
            signature=self.signature,
        )


class _Joint:
    """Calls that one run answers: those of one version whose signatures read the same inputs. The task's `Caller`."""

    __slots__ = ("members",)

    def __init__(self, members: Sequence[_Admitted]) -> None:
        self.members = members

    @property
    def cancelled(self) -> bool:
        return all(member.cancelled for member in self.members)


class DataPlane:
    """Answers requests and questions about models. Every method may be called from any thread, and none blocks."""

    def __init__(
        self,
        *,
        versions: Versions,
        options: BatchingOptions,
        clock: Callable[[], float],
        check_method_names: bool = False,
        observe: Observe | None = None,
    ) -> None:
        """Makes the scheduler, which is started and stopped by whoever made this.

        Args:
            versions: Who answers.
            options: How requests are merged.
            clock: Monotonic seconds.
            check_method_names: Whether Classify and Regress refuse signatures that don't say that they are for them.
            observe: Is told of each call. Must not raise, and must not block.
        """
        self._versions = versions
        self._check_method_names = check_method_names
        self._observe = observe
        self._shadowing = Shadowing()
        self.clock = clock
        self.scheduler = BatchScheduler(options=options, on_done=self._done, clock=clock)

    def predict(
        self, calls: Sequence[PredictCall], settle: Settle, *, here: bool = False, inline_s: float | None = None
    ) -> None:
        """Queues calls. Each is settled once: at once, in this thread, when it is refused, otherwise when it has run.

        A transport that gets several calls at a time should hand them over together: one lock for all of them.

        Args:
            calls: What is asked.
            settle: Takes the answers.
            here: Whether what is over sooner than another thread would begin it is run in this one: then `settle` has
                its answers before this returns. See `BatchScheduler.run_here`.
            inline_s: How long such a run may take; None: as the server's options say.
        """
        admitted, items = self._admitted(calls, settle)
        self._submit(admitted, items, here=here, inline_s=inline_s)

    def _admitted(
        self, calls: Sequence[PredictCall], settle: Settle
    ) -> tuple[list[_Admitted], list[tuple[BatchQueue, Task]]]:
        """Those of the calls that may be queued, with shadows, and what is queued for each; others are settled."""
        refused: list[tuple[PredictCall, Answer]] = []
        items: list[tuple[BatchQueue, Task]] = []
        admitted: list[_Admitted] = []
        now_s = self.clock()
        for call in calls:
            call.started_s = now_s
            found = self._admit(call, settle)
            if isinstance(found, ServerError):
                refused.append((call, found))
                continue
            caller, item = found
            admitted.append(caller)
            items.append(item)
            if (shadow := self._shadow(caller)) is not None:
                admitted.append(shadow[0])
                items.append(shadow[1])
        if refused:
            settle(refused)
        return admitted, items

    def _submit(
        self,
        callers: Sequence[_Admitted | _Joint],
        items: Sequence[tuple[BatchQueue, Task]],
        *,
        here: bool = False,
        inline_s: float | None = None,
    ) -> None:
        if not items:
            return
        refusals = self.scheduler.run_here(items, inline_s=inline_s) if here else self.scheduler.submit(items)
        for caller, refusal in zip(callers, refusals, strict=True):
            if refusal is None:
                continue
            for member in caller.members if isinstance(caller, _Joint) else (caller,):
                member.settle([(member.call, refusal)])
                self._let_go(member, refusal, refusal)

    def multi(self, calls: Sequence[PredictCall], settle: Settle) -> None:
        """Queues calls of one model that must all be answered by one version; each is settled as in `predict`.

        Those on the same examples whose signatures read the same inputs of the model are answered by one run of it.
        """
        try:
            # Held until all are queued: what the first gets the others get.
            with self._acquire(calls[0]) as handle:
                for call in calls:
                    call.target = ModelTarget(name=call.target.name, version=handle.servable_id.version)
                self._submit(*_joined(*self._admitted(calls, settle)))
        except ServerError as error:
            for call in calls:
                call.started_s = self.clock()
                self._tell(call, None, error)
            settle([(call, error) for call in calls])

    def refused(self, call: PredictCall, error: ServerError, servable_id: ServableId | None = None) -> None:
        """A transport has refused a call before it came here: it is counted as if it had been refused here.

        Args:
            call: As much of it as is known.
            error: Why.
            servable_id: The version that it was read for; None where none was looked at.
        """
        call.started_s = self.clock()
        self._tell(call, servable_id, error)
        if servable_id is not None:
            target = ModelTarget(name=servable_id.name, version=servable_id.version)
            with contextlib.suppress(ServerError), self._versions.acquire(target) as handle:
                handle.servable.statistics.settled(error, 0.0)

    def signature_defs(self, target: ModelTarget) -> tuple[ServableId, bytes]:
        """The version that answers, and its serialized SignatureDefMap.

        Raises:
            ServerError: as `Versions.acquire` says, or the target is at fault.
        """
        with self._versions.acquire(target) as handle:
            return handle.servable_id, handle.servable.executor.signature_defs

    def signatures(self, target: ModelTarget) -> tuple[ServableId, Mapping[str, Signature], str]:
        """The version that answers, its signatures by name, and its platform.

        Raises:
            ServerError: as in `signature_defs`.
        """
        with self._versions.acquire(target) as handle:
            return handle.servable_id, handle.servable.signatures, handle.servable.platform

    def _admit(self, call: PredictCall, settle: Settle) -> tuple[_Admitted, tuple[BatchQueue, Task]] | ServerError:
        """What is to be queued, or why it is refused, which whoever counts has been told by then."""
        try:
            handle = self._acquire(call)
        except ServerError as error:
            self._tell(call, None, error)
            return error
        try:
            name = call.signature or _entry_point(call, handle.servable)
            signature = self._signature(handle.servable, name, call)
            check_preprocessing(call.preprocessing, handle.servable.package, handle.servable_id)
            rows = check_inputs(signature, call.inputs)
            check_output_filter(signature, call.output_filter)
        except ServerError as error:
            self._tell(call, handle.servable_id, error)
            handle.servable.statistics.settled(error, 0.0)
            handle.close()
            return error
        except BaseException:
            handle.close()
            raise
        caller = _Admitted(call, handle, name, settle)
        task = Task(
            caller=caller, inputs=call.inputs, deadline_s=call.deadline_s, rows=rows, priority=_level(call.priority)
        )
        return caller, (handle.servable.queues[name], task)

    def _signature(self, servable: ServedModel, name: str, call: PredictCall) -> Signature:
        """The signature, which suits the verb; the call gets the inputs and outputs that the verb means."""
        if call.verb is Verb.PREDICT:
            return _found(servable, name)
        signature = servable.signatures.get(name)
        if signature is None:
            raise InvalidInput(f"No signature was found with the name: {name}")
        reads = classification.classify_outputs if call.verb is Verb.CLASSIFY else classification.regress_outputs
        call.output_filter = reads(signature, check_method=self._check_method_names)
        call.inputs = classification.example_inputs(call.examples or ())
        return signature

    def _acquire(self, call: PredictCall) -> ServableHandle[ServedModel]:
        if call.held is not None:
            return call.held.lend()
        if not call.target.name:
            raise InvalidInput("ModelSpec has no name specified.")
        return self._versions.acquire(call.target, call.client_key)

    def _shadow(self, caller: _Admitted) -> tuple[_Admitted, tuple[BatchQueue, Task]] | None:
        """The same request for a second version, whose answer is compared and seen by nobody."""
        call = caller.call
        if call.target.version is not None or call.target.label is not None:
            return None
        handle = self._versions.shadow(call.target.name, caller.handle.servable_id.version)
        if handle is None:
            return None
        try:
            check_preprocessing(call.preprocessing, handle.servable.package, handle.servable_id)
            rows = check_inputs(_found(handle.servable, caller.signature), call.inputs)
        except ServerError as error:
            # A version that can't take what the other answers must not look as good as one that agrees with it.
            handle.servable.statistics.settled(error, 0.0)
            handle.servable.statistics.uncompared()
            handle.close()
            return None
        compare = self._shadowing.begin(caller.handle.servable, handle.servable)
        if compare is None:
            handle.close()
            return None
        ghost = _Admitted(
            PredictCall(target=call.target, inputs=call.inputs, verb=call.verb), handle, caller.signature, _nobody
        )
        caller.comparison, ghost.comparison = compare.primary, compare.shadow
        ghost.call.started_s = call.started_s
        shadow = Task(caller=ghost, inputs=call.inputs, deadline_s=call.deadline_s, rows=rows)
        return ghost, (handle.servable.queues[caller.signature], shadow)

    def _done(self, outcomes: Sequence[Outcome]) -> None:
        """A batch has run: lets its version go, and hands the answers to whoever asked."""
        answers: dict[Settle, list[tuple[PredictCall, Answer]]] = {}
        settled: list[tuple[_Admitted, Answer, Answer]] = []
        for caller, outcome in _each(outcomes):
            answer = _answer(caller, outcome)
            answers.setdefault(caller.settle, []).append((caller.call, answer))
            # Before the answer is handed over: from then on a call that nobody waits for is one that was answered.
            settled.append((caller, answer, _received(caller.call, answer)))
        for settle, group in answers.items():
            settle(group)
        for caller, answer, received in settled:
            self._let_go(caller, answer, received)

    def _let_go(self, caller: _Admitted, answer: Answer, received: Answer) -> None:
        """A call has been settled: its version is told, compared, and let go.

        Args:
            caller: The call.
            answer: What came of it.
            received: What its caller got: that is what counts.
        """
        if caller.settle is not _nobody:
            self._tell(caller.call, caller.handle.servable_id, received)
        took_s = self.clock() - caller.call.started_s
        caller.handle.servable.statistics.settled(received if isinstance(received, ServerError) else None, took_s)
        if caller.comparison is not None:
            caller.comparison(answer.outputs if isinstance(answer, PredictReply) else None)
        caller.handle.close()

    def _tell(self, call: PredictCall, servable_id: ServableId | None, answer: Answer) -> None:
        if self._observe is not None:
            self._observe(call, servable_id, answer, self.clock() - call.started_s)


def _joined(
    admitted: Sequence[_Admitted], items: Sequence[tuple[BatchQueue, Task]]
) -> tuple[list[_Admitted | _Joint], list[tuple[BatchQueue, Task]]]:
    """The same, with those that one run can answer as one task."""
    groups: dict[tuple[int, str], list[int]] = {}
    for index, caller in enumerate(admitted):
        signature = caller.handle.servable.signatures[caller.signature]
        examples = caller.call.examples
        alone = examples is None or not signature.inputs_id
        key = (-index - 1, "") if alone else (id(examples), signature.inputs_id)
        groups.setdefault(key, []).append(index)
    callers: list[_Admitted | _Joint] = []
    tasks: list[tuple[BatchQueue, Task]] = []
    for indices in groups.values():
        members = [admitted[index] for index in indices]
        servable = members[0].handle.servable
        queue = servable.joint_queue([member.signature for member in members]) if len(members) > 1 else None
        if queue is None:
            callers += members
            tasks += [items[index] for index in indices]
            continue
        joint = _Joint(members)
        one = items[indices[0]][1]
        callers.append(joint)
        task = Task(caller=joint, inputs=one.inputs, deadline_s=one.deadline_s, rows=one.size, priority=one.priority)
        tasks.append((queue, task))
    return callers, tasks


def _each(outcomes: Sequence[Outcome]) -> Iterator[tuple[_Admitted, dict[str, Array] | ServerError]]:
    """Caller by caller, each with its own outputs."""
    for task, outcome in outcomes:
        caller = task.caller
        if isinstance(caller, _Joint):
            for member in caller.members:
                yield member, outcome if isinstance(outcome, ServerError) else own_outputs(member.signature, outcome)
        else:
            assert isinstance(caller, _Admitted)
            yield caller, outcome


def _level(priority: int) -> int:
    """One of three: further steps would let whom nobody knows overtake others by more than a second."""
    return (priority > 0) - (priority < 0)


def _entry_point(call: PredictCall, servable: ServedModel) -> str:
    return (
        DEFAULT_SIGNATURE if call.entry_point is None else call.entry_point(call.target.name, servable.signatures).name
    )


def _found(servable: ServedModel, name: str) -> Signature:
    signature = servable.signatures.get(name)
    if signature is None:
        raise SignatureNotFound(f'Serving signature key "{name}" not found.')
    return signature


def _nobody(answers: Sequence[tuple[PredictCall, Answer]]) -> None:
    """Who waits for the answer of a shadow."""


def _received(call: PredictCall, answer: Answer) -> Answer:
    """The answer; where nobody waits for it any more, why not."""
    if call.left_s is None:
        return answer
    return code_received(came_s=call.started_s, deadline_s=call.deadline_s, left_s=call.left_s)


def _answer(caller: _Admitted, outcome: dict[str, Array] | ServerError) -> Answer:
    if isinstance(outcome, ServerError):
        return outcome
    try:
        return caller.reply(outcome)
    except KeyError as error:
        _log.exception("%s: the model left out an output that its signature has", caller.handle)
        return ExecutionFailed(f"the model gave no output {error.args[0]!r}")
