"""What is asked of the data plane, and what it answers."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fallback_server.batching.queue import Array
from fallback_server.core.errors import ServerError
from fallback_server.core.handle import ServableHandle, Standing
from fallback_server.core.servable import ServableId
from fallback_server.core.target import ModelTarget
from fallback_server.executors.base import Signature
from fallback_server.served_model import ServedModel

PRIORITIES = {"high": 1, "low": -1}
"""The words for them; whatever else is said is normal."""

DEFAULT_SIGNATURE = "serving_default"
"""What an empty signature name means."""


class Verb(enum.Enum):
    """What is asked of a signature."""

    PREDICT = "Predict"
    CLASSIFY = "Classify"
    REGRESS = "Regress"


@dataclass(kw_only=True, slots=True)  # Not frozen: that makes one take twice as long.
class PredictReply:
    """What a run gave, and who gave it."""

    outputs: Mapping[str, Array]
    servable_id: ServableId
    signature: str


EntryPoint = Callable[[str, Mapping[str, Signature]], Signature]
"""A protocol's rule: of a model, by its name, and its signatures the one that is meant where none is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """All that was found for requests that are alike. It keeps nothing alive of the version that answers them.

    But whoever looks versions up: one that lives on after a server was closed has that server's router and manager.

    Attributes:
        standing: Who answers them.
        name: Of the signature.
        rows: How many they have.
        versions: Those that it was found among: messages are learnt for all servers of a process.
    """

    standing: Standing[ServedModel]
    name: str
    rows: int
    versions: object


MOST_VAIN = 8
"""Requests in a row that were to be answered without being looked at, and could not be run at once: those after them
are looked at, which has to be done anyway, until one could be."""


class Fit(NamedTuple):
    """That requests fit a version.

    Attributes:
        signatures: The version's: as long as it has these very ones, what follows is so.
        name: Of the signature that is meant.
        rows: How many they have.
        in_process: Whether it runs in this process.
    """

    signatures: Mapping[str, Signature]
    name: str
    rows: int
    in_process: bool


class Likeness:
    """What requests have in common that differ in the values of their inputs alone; for any thread.

    Attributes:
        fit: What was found of one that has passed all checks, and holds for the others; None before there was one.
        ready: How they are answered without being looked at; None where they are to be.
        pause: So many of them come before it is tried again to have them ready.
        vain: So many of them in a row were ready, and could not be run at once.
    """

    __slots__ = ("fit", "pause", "ready", "vain")

    def __init__(self) -> None:
        self.fit: Fit | None = None
        self.ready: Ready | None = None
        self.pause = 0
        self.vain = 0

    def in_vain(self) -> None:
        """One that was ready could not be run at once. Of two threads that count at once one may be lost."""
        self.vain += 1
        if self.vain >= MOST_VAIN:
            self.ready, self.vain = None, 0

    def forget(self) -> None:
        """Another version may answer them."""
        self.ready = self.fit = None
        self.pause = 0


class PredictCall:
    """One run that is asked for.

    Attributes:
        target: Which version.
        signature: Its name; empty for what `entry_point` says.
        inputs: By name; not yet checked.
        output_filter: The outputs that are wanted; empty for all.
        deadline_s: The instant, of the data plane's clock, after which the answer is worthless; None for none.
        verb: What is asked: the rules for signature and outputs follow from it.
        examples: Serialized Examples in place of inputs, for CLASSIFY and REGRESS.
        priority: Over 0 is served before others of its signature, under 0 after them; see `policy.precedence_s`.
        client_key: Who asks: where traffic is split, equal keys get the same version. Empty: nobody in particular.
        preprocessing: The fingerprint of what made the inputs; empty where that is not said.
        entrypoint: For the metrics: "GRPC" or "REST".
        entry_point: Finds the signature where none is named; None for `DEFAULT_SIGNATURE`. May raise ServerError.
        like: What it has in common with others, where that is known: those have the same target, signature, inputs but
            for their values, output filter, verb and entry point.
        refuses: Why a reply to it can't be sent, None for one that can; None where every reply can.
        wants_content: Whether the caller asks for tensors as they are in memory, in a protocol that has two forms.
        held: Who answers, where the caller holds that, and does so until the call is settled; None for whom the target
            means.
        started_s: When it came to the data plane.
        left_s: When the transport found that nobody waits any more, of the data plane's clock; None while somebody
            does, or has the answer.
    """

    __slots__ = (
        "client_key",
        "deadline_s",
        "entry_point",
        "entrypoint",
        "examples",
        "held",
        "inputs",
        "left_s",
        "like",
        "output_filter",
        "preprocessing",
        "priority",
        "refuses",
        "signature",
        "started_s",
        "target",
        "verb",
        "wants_content",
    )

    def __init__(
        self,
        *,
        target: ModelTarget,
        signature: str = "",
        inputs: Mapping[str, Array] | None = None,
        output_filter: Sequence[str] = (),
        deadline_s: float | None = None,
        verb: Verb = Verb.PREDICT,
        examples: Sequence[bytes] | None = None,
        client_key: bytes = b"",
        preprocessing: str = "",
        entrypoint: str = "GRPC",
        entry_point: EntryPoint | None = None,
        priority: int = 0,
        held: ServableHandle[ServedModel] | None = None,
        like: Likeness | None = None,
    ) -> None:
        self.target = target
        self.signature = signature
        self.inputs: Mapping[str, Array] = inputs or {}
        self.output_filter = output_filter
        self.deadline_s = deadline_s
        self.verb = verb
        self.examples = examples
        self.client_key = client_key
        self.preprocessing = preprocessing
        self.entrypoint = entrypoint
        self.entry_point = entry_point
        self.priority = priority
        self.held = held
        self.like = like
        self.refuses: Refuses | None = None
        self.wants_content = False
        self.started_s = 0.0
        self.left_s: float | None = None


Answer = PredictReply | ServerError


class Settle(Protocol):
    """Takes answers back to a transport, in any thread; several at once where a batch gave several."""

    def __call__(self, answers: Sequence[tuple[PredictCall, Answer]], /) -> None:
        """Must not raise, and must not block."""


Refuses = Callable[[PredictReply], ServerError | None]
"""Why a reply can't be sent, None for one that can. Must not raise."""

Observe = Callable[[PredictCall, ServableId | None, Answer, float], None]
"""Is told of each call that was settled: the version that had it, if one had; the answer; the seconds that it took."""
