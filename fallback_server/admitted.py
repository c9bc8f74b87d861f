"""Calls that were checked: what waits for each, whom one run answers, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from fallback_server.batching.execution import Outcome
from fallback_server.batching.queue import Array, BatchQueue, Task
from fallback_server.core.errors import ExecutionFailed, ServerError
from fallback_server.core.handle import ServableHandle
from fallback_server.core.servable import ServableId
from fallback_server.executors.base import own_outputs
from fallback_server.leaving import code_received
from fallback_server.predict_call import Answer, PredictCall, PredictReply, Refuses, Settle
from fallback_server.served_model import ServedModel

_log = logging.getLogger(__name__)

Checked = tuple[ServableHandle[ServedModel], str, int]
"""Who answers a call, which is held; the signature's name, and the rows."""


class Admitted:
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
        """See `Caller`."""
        return self.call.left_s is not None


class Joint:
    """Calls that one run answers: those of one version whose signatures read the same inputs. The task's `Caller`."""

    __slots__ = ("members",)

    def __init__(self, members: Sequence[Admitted]) -> None:
        self.members = members

    @property
    def cancelled(self) -> bool:
        """See `Caller`."""
        return all(member.cancelled for member in self.members)


def joined(
    admitted: Sequence[Admitted], items: Sequence[tuple[BatchQueue, Task]]
) -> tuple[list[Admitted | Joint], list[tuple[BatchQueue, Task]]]:
    """The same, with those that one run can answer as one task."""
    groups: dict[tuple[int, str], list[int]] = {}
    for index, caller in enumerate(admitted):
        signature = caller.handle.servable.signatures[caller.signature]
        examples = caller.call.examples
        alone = examples is None or not signature.inputs_id
        key = (-index - 1, "") if alone else (id(examples), signature.inputs_id)
        groups.setdefault(key, []).append(index)
    callers: list[Admitted | Joint] = []
    tasks: list[tuple[BatchQueue, Task]] = []
    for indices in groups.values():
        members = [admitted[index] for index in indices]
        servable = members[0].handle.servable
        queue = servable.joint_queue([member.signature for member in members]) if len(members) > 1 else None
        if queue is None:
            callers += members
            tasks += [items[index] for index in indices]
            continue
        joint = Joint(members)
        one = items[indices[0]][1]
        callers.append(joint)
        task = Task(caller=joint, inputs=one.inputs, deadline_s=one.deadline_s, rows=one.size, priority=one.priority)
        tasks.append((queue, task))
    return callers, tasks


def each_caller(outcomes: Sequence[Outcome]) -> Iterator[tuple[Admitted, dict[str, Array] | ServerError]]:
    """Caller by caller, each with its own outputs."""
    for task, outcome in outcomes:
        caller = task.caller
        if isinstance(caller, Joint):
            for member in caller.members:
                yield member, outcome if isinstance(outcome, ServerError) else own_outputs(member.signature, outcome)
        else:
            assert isinstance(caller, Admitted)
            yield caller, outcome


def task_for(
    call: PredictCall, handle: ServableHandle[ServedModel], name: str, rows: int, settle: Settle
) -> tuple[Admitted, tuple[BatchQueue, Task]]:
    """What waits for a call that was checked, and where."""
    caller = Admitted(call, handle, name, settle)
    task = Task(
        caller=caller,
        inputs=call.inputs,
        deadline_s=call.deadline_s,
        rows=rows,
        priority=_level(call.priority),
        exact=call.held is not None,  # A step of a sequence: what it leaves behind stays, with all that was padded.
    )
    return caller, (handle.servable.queues[name], task)


def _level(priority: int) -> int:
    """One of three: further steps would let whom nobody knows overtake others by more than a second."""
    return (priority > 0) - (priority < 0)


def nobody(answers: Sequence[tuple[PredictCall, Answer]]) -> None:
    """Who waits for the answer of a shadow."""


def received_by(call: PredictCall, answer: Answer) -> Answer:
    """The answer; where nobody waits for it any more, why not."""
    if call.left_s is None:
        return answer
    return code_received(came_s=call.started_s, deadline_s=call.deadline_s, left_s=call.left_s)


def answer_of(
    call: PredictCall,
    servable_id: ServableId,
    name: str,
    outcome: dict[str, Array] | ServerError,
    refuses: Refuses | None,
) -> Answer:
    """What comes of a call, or of one like it, by what came of its run.

    Args:
        call: What is asked.
        servable_id: Of a version that is held.
        name: Of its signature.
        outcome: Of the run.
        refuses: As of a call.
    """
    if isinstance(outcome, ServerError):
        return outcome
    wanted = call.output_filter
    try:
        outputs = {name: outcome[name] for name in wanted} if wanted else outcome
    except KeyError as error:
        _log.exception("%s: the model left out an output that its signature has", servable_id)
        return ExecutionFailed(f"the model gave no output {error.args[0]!r}")
    reply = PredictReply(outputs=outputs, servable_id=servable_id, signature=name)
    return reply if refuses is None else refuses(reply) or reply
