"""Which signature is a step, and which of its inputs take what the step before gave. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from fallback_server.core.errors import InvalidInput, PreconditionFailed, SignatureNotFound
from fallback_server.core.model_config import StepConfig
from fallback_server.executors.base import VARIABLE, Signature, TensorSpec

STEP_SIGNATURE = "step"
"""The signature of a step where nobody says another; else the default one, where that has a state."""

_STATE = re.compile(r"(?:^|[_./:-])(?:states?|hidden|cell|carry|cache)[0-9]*(?=$|[_./:-])", re.IGNORECASE)
"""Inputs that pass through a model under their names are common, such as keys. So a state must say that it is one."""

_BEFORE = re.compile(r"^(?:prev|previous|initial|in)_|_(?:in|prev|previous)(?=$|_[0-9]+$)", re.IGNORECASE)
"""What names an input as the state from before; it is left out where the output's name is looked for."""


def step_of(
    signatures: Mapping[str, Signature], asked: str, said: StepConfig, *, default: str
) -> tuple[Signature, dict[str, str]]:
    """The signature of a step, and its state: input -> the output that is its value in the next step.

    Args:
        signatures: Of the version, by name.
        asked: Which the caller names; empty for the model's own.
        said: What the operator says of the model: of one signature, the model's own where it names none.
        default: The signature that requests mean which name none.

    Raises:
        SignatureNotFound: there is none of that name.
        PreconditionFailed: it has no state, or what is said of it isn't so.
    """
    name = asked or said.signature
    names = [name] if name else [each for each in (STEP_SIGNATURE, default) if each in signatures]
    if not names:
        raise SignatureNotFound(
            f'Serving signature key "{STEP_SIGNATURE}" not found: name the one that is a step, of '
            f"{', '.join(sorted(signatures))}"
        )
    if name and name not in signatures:
        raise SignatureNotFound(f'Serving signature key "{name}" not found.')
    own = said.signature or next((each for each in (STEP_SIGNATURE, default) if each in signatures), None)
    for name in names:
        signature = signatures[name]
        # What is said of one signature says nothing of another that a caller names.
        is_said = bool(said.state) and own in (None, name)
        pairs = said_pairs(signature, said.state) if is_said else found_pairs(signature)
        if pairs:
            return signature, pairs
    raise PreconditionFailed(
        f'signature "{names[0]}" has no state: no input that is named as one, such as state or state_0, has an output '
        "of its shape named likewise, such as next_state; name them in [models.NAME.sequence]"
    )


def said_pairs(signature: Signature, state: Mapping[str, str]) -> dict[str, str]:
    """The state as an operator says.

    Raises:
        PreconditionFailed: the signature has no such input or output, or they don't fit each other.
    """
    for into, out in state.items():
        for what, name, there in (("input", into, signature.inputs), ("output", out, signature.outputs)):
            if name not in there:
                raise PreconditionFailed(
                    f'state {{ {into} = "{out}" }}: signature "{signature.name}" has no {what} {name!r}, it has '
                    f"{', '.join(sorted(there))}"
                )
        if not _fit(signature.inputs[into], signature.outputs[out]):
            raise PreconditionFailed(
                f'state {{ {into} = "{out}" }}: input {into!r} is {signature.inputs[into]}, output {out!r} is '
                f"{signature.outputs[out]}"
            )
    return dict(state)


def found_pairs(signature: Signature) -> dict[str, str]:
    """The state as the names say: an input that is named as one, and the first fitting output of `output_names`.

    Raises:
        PreconditionFailed: two inputs have the same output.
    """
    pairs: dict[str, str] = {}
    for into in sorted(signature.inputs):
        if not _STATE.search(into):
            continue
        spec = signature.inputs[into]
        fitting = (name for name in output_names(into) if name in signature.outputs)
        out = next((name for name in fitting if _fit(spec, signature.outputs[name])), None)
        if out is None:
            continue
        if out in pairs.values():
            other = next(name for name, used in pairs.items() if used == out)
            raise PreconditionFailed(
                f"output {out!r} could be the state of input {other!r} and of {into!r}: name it in "
                "[models.NAME.sequence]"
            )
        pairs[into] = out
    return pairs


def state_inputs(signature: Signature) -> frozenset[str]:
    """The inputs that are a state by their names, whether or not it can be told which output is theirs."""
    names = filter(_STATE.search, signature.inputs)
    return frozenset(name for name in names if any(out in signature.outputs for out in output_names(name)))


def output_names(into: str) -> Iterator[str]:
    """What the output is called that is the next value of a state, the likelier first."""
    bare = _BEFORE.sub("", into)
    stem, number = re.fullmatch(r"(.*?)(_?[0-9]*)", bare, re.DOTALL).groups()  # type: ignore[union-attr]  # fits any
    for name in dict.fromkeys((into, bare)):
        yield from (f"next_{name}", f"new_{name}", f"{name}_next", f"{name}_new", f"{name}_out", f"out_{name}")
    for after in ("next", "new", "out"):
        yield f"{stem}_{after}{number}"
    yield f"{bare}N"
    yield from dict.fromkeys((into, bare))


def _fit(into: TensorSpec, out: TensorSpec) -> bool:
    """Whether what comes out can go in."""
    if into.dtype != out.dtype:
        return False
    if into.shape is None or out.shape is None:
        return True
    return len(into.shape) == len(out.shape) and all(
        VARIABLE in (one, other) or one == other for one, other in zip(into.shape, out.shape, strict=True)
    )


def check_sent(pairs: Mapping[str, str], inputs: Mapping[str, object], *, held: bool) -> None:
    """Whether a request sends either no state or all of it, where nothing else is known of the others.

    Raises:
        InvalidInput: it sends some of it, and of the rest there is none.
    """
    lacking = sorted(pairs.keys() - inputs.keys())
    if not held and lacking and len(lacking) < len(pairs):
        raise InvalidInput(f"of the state {', '.join(lacking)} is missing: a sequence begins with all of it, or none")
