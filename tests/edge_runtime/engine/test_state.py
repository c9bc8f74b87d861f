"""Files that keep state: told from those that don't, and run without it where requests share a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edge_models import rows, scale_model, scale_signature
from support.stateful_models import WAKE_WORDS, constant_model, counting_model, frames, wake_word_signature

from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.state import FreshSession, is_stateful
from edge_runtime.errors import EngineFailed


def _session(content: bytes, signature) -> InterpreterSession:
    return InterpreterSession(SessionSpec(subject="state/1", signatures=(signature,)), content)


@pytest.mark.parametrize("model", WAKE_WORDS)
def test_a_real_wake_word_model_keeps_state(model):
    """Streaming networks assign to variables at every run."""
    assert is_stateful(Path(model).read_bytes())


def test_variables_that_are_only_read_are_no_state():
    """A counter assigns at each run; a constant that CALL_ONCE sets does not, and a plain file has no variable."""
    assert is_stateful(counting_model())
    assert not is_stateful(constant_model())
    assert not is_stateful(scale_model(2.0))


@given(st.binary(max_size=64), st.integers(0, 2000), st.integers(0, 255))
def test_a_damaged_file_has_no_state(noise, at, byte):
    """Bytes that are no model, or a model with a wrong byte or a missing end, are answered without an error."""
    content = bytearray(counting_model())
    is_stateful(noise)
    is_stateful(bytes(content[:at]))
    content[at % len(content)] = byte
    is_stateful(bytes(content))


def test_every_run_is_a_first_one():
    """Behind a FreshSession a counter always says one, where the bare session counts on."""
    signature = scale_signature(batched=False)
    bare = _session(counting_model(), signature)
    fresh = FreshSession(lambda: _session(counting_model(), signature))
    zeros = np.zeros((1, 4), np.float32)
    assert [bare.run(signature.name, {"x": zeros})["y"][0, 0] for _ in range(3)] == [1, 2, 3]
    assert [fresh.run(signature.name, {"x": zeros})["y"][0, 0] for _ in range(3)] == [1, 1, 1]


def test_a_wake_word_does_not_depend_on_the_request_before():
    """A real model answers the same frame alike, whatever was asked before."""
    signature = wake_word_signature(WAKE_WORDS[0])
    fresh = FreshSession(lambda: _session(Path(WAKE_WORDS[0]).read_bytes(), signature))
    bare = _session(Path(WAKE_WORDS[0]).read_bytes(), signature)
    seen = frames(40)
    (name,) = (spec.name for spec in signature.inputs)

    def run(session, frame):
        (output,) = session.run(signature.name, {name: frame}).values()
        return int(output[0, 0])

    first = [run(fresh, frame) for frame in seen]
    assert first == [run(fresh, frame) for frame in reversed(seen)][::-1]
    assert first != [run(bare, frame) for frame in seen]


def test_it_closes_what_it_replaces():
    """No more than one session is open, a failed opening is reported and tried again, and a closed one runs no more."""
    signature = scale_signature()
    made, closed = [], []

    class _Counted(InterpreterSession):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def make():
        if len(made) == 2 and made[-1] is not None:
            made.append(None)
            raise EngineFailed("no memory")
        made.append(_Counted(SessionSpec(subject="state/1", signatures=(signature,)), scale_model(2.0)))
        return made[-1]

    fresh = FreshSession(make)
    for _ in range(2):
        fresh.run(signature.name, {"x": rows(1)})
    with pytest.raises(EngineFailed, match="no memory"):
        fresh.run(signature.name, {"x": rows(1)})
    np.testing.assert_array_equal(fresh.run(signature.name, {"x": rows(2)})["y"], rows(2) * 2)
    fresh.close()
    assert len(closed) == 3
    with pytest.raises(EngineFailed, match="closed"):
        fresh.run(signature.name, {"x": rows(1)})
