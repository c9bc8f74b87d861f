"""What every transport calls: finds the version, checks the request, queues it, and settles it. Knows no transport."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fallback_server import classification, shadowing
from fallback_server.admitted import (
    Admitted,
    Checked,
    Joint,
    answer_of,
    each_caller,
    joined,
    nobody,
    received_by,
    task_for,
)
from fallback_server.batching.execution import Outcome
from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import BatchQueue, Task
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import InvalidInput, ServerError, SignatureNotFound
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.executors.base import Signature
from fallback_server.package_info import check_preprocessing, takes_preprocessing
from fallback_server.predict_call import (
    DEFAULT_SIGNATURE,
    Answer,
    EntryPoint,
    Fit,
    Observe,
    PredictCall,
    PredictReply,
    Settle,
    Verb,
)
from fallback_server.ready_calls import ReadyCalls
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

    def standing(self, target: ModelTarget) -> Standing[ServedModel] | None:
        """The version that every request of a target gets, whoever asks; None where that is no single one."""
        ...

    def shadow(self, name: str, answered: int) -> ServableHandle[ServedModel] | None:
        """A second version that a request is also to run on, unseen; None for most."""
        ...


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
        self._ready = ReadyCalls(versions=versions, scheduler=self.scheduler, observe=observe, clock=clock)
        self.at_once = self._ready.at_once  # Not by a method of its own: see there how short that is.
        self.all_at_once = self._ready.all_at_once

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

    def now(
        self, call: PredictCall, settle: Settle, *, inline_s: float | None = None, tried: bool = False
    ) -> Answer | None:
        """Answers a call in this thread, where its run is over sooner than another thread would begin it.

        As `predict` with `here` for one call, but that its answer is returned, a refusal too. None where it was queued:
        then `settle` has the answer, from another thread and perhaps before this returns.

        Args:
            call: What is asked.
            settle: Takes the answer where this does not return it.
            inline_s: As in `predict`.
            tried: Whether `at_once` was asked just before.
        """
        call.started_s = self.clock()
        like = call.like
        ready = None if like is None else like.ready
        if ready is not None and not tried and call.left_s is None and call.held is None:
            answer = self.at_once(
                call,
                call.inputs,
                deadline_s=call.deadline_s,
                inline_s=inline_s,
                preprocessing=call.preprocessing,
                refuses=call.refuses,
            )
            if answer is not None:
                return answer
            tried = True
        checked = self._checked(call)
        if isinstance(checked, ServerError):
            return checked
        handle, name, rows = checked
        shadow = self._shadow(call, handle)
        ready = None if like is None else like.ready
        is_ready = ready is not None and ready.versions is self._versions
        # What could not be run a moment ago is queued.
        if shadow is None and call.left_s is None and not (tried and is_ready):
            queue = handle.servable.queues[name]
            outcome = self.scheduler.run_alone(
                queue, call.inputs, rows=rows, deadline_s=call.deadline_s, inline_s=inline_s
            )
            if outcome is not None:
                answer = answer_of(call, handle.servable_id, name, outcome, call.refuses)
                self._count(call, handle, received_by(call, answer))
                if like is not None and not is_ready:
                    self._ready.make(call, like, checked)
                handle.close()
                return answer
        return self._queued(call, checked, settle, shadow)

    def _queued(
        self, call: PredictCall, checked: Checked, settle: Settle, shadow: ServableHandle[ServedModel] | None
    ) -> ServerError | None:
        """Queues a call that was checked; why not, where it is refused, which is counted by then."""
        caller, item = task_for(call, *checked, settle)
        admitted, items = [caller], [item]
        if shadow is not None and (other := self._ghost(caller, shadow)) is not None:
            admitted.append(other[0])
            items.append(other[1])
        refusals = self.scheduler.submit(items)
        for each, refusal in zip(admitted, refusals, strict=True):
            if refusal is not None:
                self._let_go(each, refusal, refusal)
        return refusals[0]

    def _admitted(
        self, calls: Sequence[PredictCall], settle: Settle
    ) -> tuple[list[Admitted], list[tuple[BatchQueue, Task]]]:
        """Those of the calls that may be queued, with shadows, and what is queued for each; others are settled."""
        refused: list[tuple[PredictCall, Answer]] = []
        items: list[tuple[BatchQueue, Task]] = []
        admitted: list[Admitted] = []
        now_s = self.clock()
        for call in calls:
            call.started_s = now_s
            checked = self._checked(call)
            if isinstance(checked, ServerError):
                refused.append((call, checked))
                continue
            caller, item = task_for(call, *checked, settle)
            admitted.append(caller)
            items.append(item)
            shadow = self._shadow(call, caller.handle)
            if shadow is not None and (other := self._ghost(caller, shadow)) is not None:
                admitted.append(other[0])
                items.append(other[1])
        if refused:
            settle(refused)
        return admitted, items

    def _submit(
        self,
        callers: Sequence[Admitted | Joint],
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
            for member in caller.members if isinstance(caller, Joint) else (caller,):
                member.settle([(member.call, refusal)])
                self._let_go(member, refusal, refusal)

    def multi(
        self, calls: Sequence[PredictCall], settle: Settle, *, here: bool = False, inline_s: float | None = None
    ) -> None:
        """Queues calls of one model that must all be answered by one version; each is settled as in `predict`.

        Those on the same examples whose signatures read the same inputs of the model are answered by one run of it.

        Args:
            calls: What is asked.
            settle: Takes the answers.
            here: As in `predict`.
            inline_s: As in `predict`.
        """
        try:
            # Held until all are queued: what the first gets the others get.
            with self._acquire(calls[0]) as handle:
                for call in calls:
                    call.target = ModelTarget(name=call.target.name, version=handle.servable_id.version)
                self._submit(*joined(*self._admitted(calls, settle)), here=here, inline_s=inline_s)
        except ServerError as error:
            for call in calls:
                call.started_s = self.clock()
                self._tell(call, None, error)
            error.with_traceback(None)  # See `_checked`.
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

    def _checked(self, call: PredictCall) -> Checked | ServerError:
        """Who answers, and what was found of the call; or why it is refused, which is counted by then."""
        try:
            handle = self._acquire(call)
        except ServerError as error:
            self._tell(call, None, error)
            # Its traceback leads to whoever has it in a variable: both would stay, and what was asked with them.
            return error.with_traceback(None)
        servable, like = handle.servable, call.like
        fit = None if like is None else like.fit
        known = fit is not None and fit.signatures is servable.signatures
        if fit is not None and known and takes_preprocessing(call.preprocessing, servable.package):
            return handle, fit.name, fit.rows
        try:
            name = call.signature or _entry_point(call, servable)
            signature = self._signature(servable, name, call)
            check_preprocessing(call.preprocessing, servable.package, handle.servable_id)
            rows = check_inputs(signature, call.inputs)
            check_output_filter(signature, call.output_filter)
        except ServerError as error:
            self._count(call, handle, error)
            handle.close()
            return error.with_traceback(None)
        except BaseException:
            handle.close()
            raise
        if like is not None:
            like.fit = Fit(servable.signatures, name, rows, servable.queues[name].in_process)
        return handle, name, rows

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

    def _shadow(self, call: PredictCall, handle: ServableHandle[ServedModel]) -> ServableHandle[ServedModel] | None:
        """A second version that the call is also to run on; None for most. Asked once for each call."""
        target = call.target
        if target.version is not None or target.label is not None:
            return None
        return self._versions.shadow(target.name, handle.servable_id.version)

    def _ghost(
        self, caller: Admitted, handle: ServableHandle[ServedModel]
    ) -> tuple[Admitted, tuple[BatchQueue, Task]] | None:
        """The same request for a second version, whose answer is compared and seen by nobody."""
        call = caller.call
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
        ghost = Admitted(
            PredictCall(target=call.target, inputs=call.inputs, verb=call.verb), handle, caller.signature, nobody
        )
        caller.comparison, ghost.comparison = compare.primary, compare.shadow
        ghost.call.started_s = call.started_s
        until_s = self.clock() + shadowing.LIMIT_S
        deadline_s = until_s if call.deadline_s is None else min(until_s, call.deadline_s)
        shadow = Task(caller=ghost, inputs=call.inputs, deadline_s=deadline_s, rows=rows)
        return ghost, (handle.servable.queues[caller.signature], shadow)

    def _done(self, outcomes: Sequence[Outcome]) -> None:
        """A batch has run: lets its version go, and hands the answers to whoever asked."""
        answers: dict[Settle, list[tuple[PredictCall, Answer]]] = {}
        settled: list[tuple[Admitted, Answer, Answer]] = []
        for caller, outcome in each_caller(outcomes):
            call = caller.call
            answer = answer_of(call, caller.handle.servable_id, caller.signature, outcome, call.refuses)
            answers.setdefault(caller.settle, []).append((call, answer))
            # Before the answer is handed over: from then on a call that nobody waits for is one that was answered.
            settled.append((caller, answer, received_by(call, answer)))
        for settle, group in answers.items():
            settle(group)
        for caller, answer, received in settled:
            self._let_go(caller, answer, received)

    def _let_go(self, caller: Admitted, answer: Answer, received: Answer) -> None:
        """A call has been settled: its version is told, compared, and let go.

        Args:
            caller: The call.
            answer: What came of it.
            received: What its caller got: that is what counts.
        """
        self._count(caller.call, caller.handle, received, seen=caller.settle is not nobody)
        if caller.comparison is not None:
            caller.comparison(answer.outputs if isinstance(answer, PredictReply) else None)
        caller.handle.close()

    def _count(
        self, call: PredictCall, handle: ServableHandle[ServedModel], answer: Answer, *, seen: bool = True
    ) -> None:
        """Tells the version what came of a call, and where somebody sees that whoever counts all calls too."""
        took_s = self.clock() - call.started_s
        if seen and self._observe is not None:
            self._observe(call, handle.servable_id, answer, took_s)
        handle.servable.statistics.settled(answer if isinstance(answer, ServerError) else None, took_s)

    def _tell(self, call: PredictCall, servable_id: ServableId | None, answer: Answer) -> None:
        if self._observe is not None:
            self._observe(call, servable_id, answer, self.clock() - call.started_s)


def _entry_point(call: PredictCall, servable: ServedModel) -> str:
    return (
        DEFAULT_SIGNATURE if call.entry_point is None else call.entry_point(call.target.name, servable.signatures).name
    )


def _found(servable: ServedModel, name: str) -> Signature:
    signature = servable.signatures.get(name)
    if signature is None:
        raise SignatureNotFound(f'Serving signature key "{name}" not found.')
    return signature
