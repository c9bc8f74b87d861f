"""Asks the further signatures of a model what the first one is asked, so that they are measured too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import Signature
from converter.data import Dataset
from converter.errors import ConverterError, OptionInvalid
from converter.evaluate import qualified
from converter.isolation import ForkServer
from converter.sources import source


@dataclass(frozen=True, kw_only=True)
class Others:
    """What became of the further signatures.

    Attributes:
        answers: By the name of each that was asked, its outputs' `.npy` files, as of `source.answer`.
        unasked: By the name of each of the others, why it was not.
    """

    answers: dict[str, dict[str, Path]]
    unasked: dict[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a sentence each."""
        return tuple(f"{self._told(name)}." for name in self.unasked)

    def check(self, metrics: Iterable[str]) -> None:
        """Refuses a metric for an output, `SIGNATURE:OUTPUT`, of a signature that was not asked.

        Raises:
            OptionInvalid: it says why not.
        """
        for metric in sorted(metrics):
            if (name := metric.partition(":")[0]) in self.unasked:
                raise OptionInvalid(f"metric: {metric!r}: {self._told(name)}")

    def _told(self, name: str) -> str:
        return f"signature {name!r} was only run, not measured: {self.unasked[name]}"


def ask_others(
    server: ForkServer, time_limit_s: float, model: source.SourceModel, dataset: Dataset, folder: Path
) -> Others:
    """Runs the original's further signatures over the data, each in a child process; `folder` is made."""
    first, *further = model.signatures
    others = Others(answers={}, unasked={})
    folder.mkdir()
    for place, signature in enumerate(further):
        if why := why_not(first, signature):
            others.unasked[signature.name] = why
            continue
        try:
            others.answers[signature.name] = server.run(
                source.answer, time_limit_s, model, signature, dataset, folder / str(place)
            )
        except ConverterError as error:
            # What a signature makes of another one's data is no reason to refuse the model.
            text = " ".join(str(error).split())
            others.unasked[signature.name] = f"the original fails on the data there: {text}"
    return others


def why_not(first: Signature, other: Signature) -> str:
    """Why data for the first signature can't be asked of another one; empty where they can."""
    data_for = f"the data are for {first.name!r}"
    if _taken(first) != _taken(other):
        return data_for
    if (first.batch_axis, _one_row(first)) != (other.batch_axis, _one_row(other)):
        return f"{data_for}, and its answers are not one for each sample as those are"
    if {one.name for one in first.outputs} & {qualified(other.name, one.name) for one in other.outputs}:
        return f"outputs of {first.name!r} are called as its own"
    return ""


def _taken(signature: Signature) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {spec.name: (spec.dtype, spec.shape) for spec in signature.inputs}


def _one_row(signature: Signature) -> bool:
    """Whether the samples' axis is a fixed one, as of `Dataset.keeps_axis`."""
    return all(spec.shape[:1] == (1,) for spec in (*signature.inputs, *signature.outputs))
