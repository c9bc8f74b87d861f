"""Asks the model that servers answer with, where it is another than the one that is converted.

A device that is unsure of an answer asks a server (`cascade`). Which answers it should be unsure of depends on what the
server makes of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from converter.artifact import Signature
from converter.data import Dataset
from converter.errors import OptionInvalid
from converter.evaluate import Reference, qualified
from converter.sources import saved_model


def ask_server_model(
    apart: Callable[..., Path], path: Path, signatures: tuple[Signature, ...], reference: Reference, folder: Path
) -> Reference:
    """The reference, with what that model answers to the evaluation data.

    Args:
        apart: Runs a function with its arguments in a child process.
        path: The model's SavedModel.
        signatures: Of the model that is converted, the one that the data are for first.
        reference: What the variants are measured against.
        folder: Is made.

    Raises:
        SourceInvalid: it can't be read, or fails on the data.
        TaskFailed: its process does.
        OptionInvalid: it does not take the same inputs or give the same scores, or there are no labels to go by.
    """
    name = next(iter(reference.labelled), None)
    if name is None:
        raise OptionInvalid("server model: the evaluation data have no labels of class scores to find a threshold by")
    signature, output = next(
        (one, spec.name)
        for place, one in enumerate(signatures)
        for spec in one.outputs
        if name == (qualified(one.name, spec.name) if place else spec.name)
    )
    file = apart(answer, path, signature, output, reference.dataset, folder)
    mine, theirs = (np.load(one, mmap_mode="r").shape for one in (reference.outputs[name], file))
    if mine != theirs:
        raise OptionInvalid(
            f"server model: output {output!r} of {path} has the shape {list(theirs)}, the model's own {list(mine)}"
        )
    note = f"The threshold of the cascade is found against {path.name}, which was named as the servers' model."
    return dataclasses.replace(reference, servers={name: file}, notes=(*reference.notes, note))


def answer(path: Path, signature: Signature, output: str, dataset: Dataset, folder: Path) -> Path:
    """Runs the SavedModel over the data; the `.npy` in `folder` with all samples' values of that output.

    Loads TensorFlow: only in a child process.

    Raises:
        SourceInvalid: it can't be loaded, has no such signature, or fails on the data.
        OptionInvalid: the signature takes other inputs, or has no such output.
    """
    (found,) = saved_model.declared(path, (signature.name,))
    mine, theirs = ({spec.name: spec.dtype for spec in specs} for specs in (signature.inputs, found.inputs))
    if mine != theirs:
        raise OptionInvalid(f"server model: {path} takes the inputs {theirs}, the model that is converted {mine}")
    outputs = tuple(spec for spec in found.outputs if spec.name == output)
    if not outputs:
        there = ", ".join(sorted([*(spec.name for spec in found.outputs), *found.unranked]))
        raise OptionInvalid(f"server model: {path} has no output {output!r} of a known rank; it has {there}")
    asked = msgspec.structs.replace(signature, outputs=outputs)
    return saved_model.answer(path, asked, dataset, folder)[output]
