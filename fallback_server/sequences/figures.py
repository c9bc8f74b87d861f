"""What sequences have come to, for whoever watches the server."""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


class Ended(enum.Enum):
    """Why a stream has ended."""

    CLIENT = "client"
    """Its caller has said that it ends, or went between two steps."""
    LEFT = "left"
    """Its caller was gone, or its deadline over, while a step was under way."""
    IDLE = "idle"
    """Its caller was silent for too long."""
    BOUND = "bound"
    """More was open, took memory, or waited than may."""
    REFUSED = "refused"
    """A request of it was at fault, or meant what is not served."""
    FAILED = "failed"
    """A step failed."""
    WORKER = "worker"
    """The model's process has died."""
    UNLOADED = "unloaded"
    """Its version was to be unloaded."""
    STOPPED = "stopped"
    """The server stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFigures:
    """Of one model.

    Attributes:
        begun: Sequences whose first request was taken.
        live: Those of them that have not ended.
        ended: Streams by why they have; of the model without a name, those that named none, or none that answers.
        steps: That were answered.
        batches: Steps of streams that one run answered -> how many runs did.
    """

    begun: int
    live: int
    ended: Mapping[Ended, int]
    steps: int
    batches: Mapping[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What was counted.

    Attributes:
        state_bytes: What the states take now.
        models: By name. Of models that answered, so there are as many as are configured in time, and "".
    """

    state_bytes: int
    models: Mapping[str, ModelFigures]


class _Model:
    __slots__ = ("batches", "begun", "ended", "live", "steps")

    def __init__(self) -> None:
        self.begun = 0
        self.live = 0
        self.ended: Counter[Ended] = Counter()
        self.steps = 0
        self.batches: Counter[int] = Counter()


class SequenceFigures:
    """Counts. For any thread.

    Attributes:
        state_bytes: What the states take; set by whoever holds them.
    """

    def __init__(self) -> None:
        self.state_bytes = 0
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}

    def begun(self, model: str) -> None:
        """A version has taken the first request of a stream."""
        with self._lock:
            figures = self._of(model)
            figures.begun += 1
            figures.live += 1

    def ended(self, model: str, why: Ended) -> None:
        """A stream has ended.

        Args:
            model: That it began with; empty where it did not begin.
            why: See there.
        """
        with self._lock:
            figures = self._of(model)
            figures.ended[why] += 1
            figures.live -= bool(model)

    def answered(self, model: str, steps: int) -> None:
        """One run has answered so many steps."""
        with self._lock:
            figures = self._of(model)
            figures.steps += steps
            figures.batches[steps] += 1

    def snapshot(self) -> Snapshot:
        """What there is."""
        with self._lock:
            models = {
                name: ModelFigures(
                    begun=each.begun,
                    live=each.live,
                    ended=dict(each.ended),
                    steps=each.steps,
                    batches=dict(each.batches),
                )
                for name, each in self._models.items()
            }
        return Snapshot(state_bytes=self.state_bytes, models=models)

    def _of(self, model: str) -> _Model:
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = _Model()
        return found
