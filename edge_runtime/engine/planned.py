"""Runs that are planned for fixed input shapes: what the interpreter's session and CompiledModel's have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Protocol

from edge_runtime.engine.base import SessionSpec
from edge_runtime.errors import EngineFailed
from edge_runtime.types import Arrays

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]
"""One for each input, in the signature's order."""

MAX_SHAPES = 4
"""Plans kept for different input shapes. Each holds its own packed weights, so that more would cost memory; fewer
would re-plan the graph whenever batch sizes alternate."""


class Call(Protocol):
    """A run that is ready for fixed input shapes."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Runs; the outputs are copies."""
        ...


class PlannedSession(ABC):
    """See `Session`. Plans a run for each combination of shapes that comes, and keeps the last few. Not thread-safe.

    Attributes:
        slots: 1.
    """

    slots = 1

    def __init__(self, spec: SessionSpec) -> None:
        """Takes what is to be run; whoever inherits sets `inputs` before the first run."""
        self.spec = spec
        self.inputs: dict[str, tuple[str, ...]] = {}
        self._calls: OrderedDict[tuple[str, Shapes], Call] = OrderedDict()
        # What ran last, so that a run like the one before it finds its plan without a key being made and hashed.
        self._signature: str | None = None
        self._shapes: tuple[tuple[str, Shape], ...] = ()
        self._call: Call | None = None

    def __repr__(self) -> str:
        shapes = [list(shapes) for _, shapes in self._calls]
        return f"<{type(self).__name__} {self.describe()}, planned for {shapes}>"

    @abstractmethod
    def describe(self) -> str:
        """What the repr says besides the shapes."""

    @abstractmethod
    def plan(self, signature: str, shapes: dict[str, Shape]) -> Call:
        """Makes ready for these shapes."""

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:  # noqa: ARG002  can't be interrupted
        """See `Session`."""
        try:
            call = self._call
            if call is not None and signature == self._signature:
                for name, shape in self._shapes:
                    if inputs[name].shape != shape:
                        break
                else:
                    return call(inputs)
            return self._planned(signature, tuple([inputs[name].shape for name in self.inputs[signature]]))(inputs)
        except KeyError as error:
            text = self._missing(signature, inputs) or explained(error)
            raise EngineFailed(f"{self.spec.subject}, signature {signature!r}: {text}") from error
        except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
            # What failed may be left half way: the next run plans anew.
            shapes = tuple([inputs[name].shape for name in self.inputs[signature]])
            self._forget(signature, shapes)
            raise EngineFailed(f"{self.spec.subject}, signature {signature!r}: {explained(error)}") from error

    def close(self) -> None:
        """Lets go of all that was planned."""
        self._signature, self._shapes, self._call = None, (), None
        self._calls.clear()

    def prepare(self, signature: str, shapes: Shapes) -> None:
        """Plans for shapes before they come, so that what is wrong with the file is said when it is loaded.

        Raises:
            EngineFailed: it can't be planned.
        """
        try:
            self._planned(signature, shapes)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineFailed(f"{self.spec.subject}: {explained(error)}") from error

    def _planned(self, signature: str, shapes: Shapes) -> Call:
        """What runs these shapes; the plan that was used longest ago gives way."""
        key = (signature, shapes)
        call = self._calls.get(key)
        if call is None:
            if len(self._calls) >= MAX_SHAPES:
                self._forget(*next(iter(self._calls)))
            call = self._calls[key] = self.plan(signature, dict(zip(self.inputs[signature], shapes, strict=True)))
        else:
            self._calls.move_to_end(key)
        self._signature, self._call = signature, call
        self._shapes = tuple(zip(self.inputs[signature], shapes, strict=True))
        return call

    def _missing(self, signature: str, inputs: Arrays) -> str:
        """Which name there is not, among those that there are; empty if none is missing."""
        names = self.inputs.get(signature)
        if names is None:
            return f"there is none of that name, but {', '.join(map(repr, self.inputs))}"
        missing = ", ".join(repr(name) for name in names if name not in inputs)
        return f"input {missing} is missing; given: {', '.join(map(repr, inputs)) or 'none'}" if missing else ""

    def _forget(self, signature: str, shapes: Shapes) -> None:
        self._calls.pop((signature, shapes), None)
        self._signature, self._shapes, self._call = None, (), None


def explained(error: Exception) -> str:
    """The library's text in one line, and what it means where the text alone does not say it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "edgetpu-custom-op" in text:
        return f"{text.rstrip('.')}: it is compiled for the Edge TPU, and runs on nothing else"
    return text
