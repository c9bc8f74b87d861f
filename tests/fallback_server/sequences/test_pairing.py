import numpy as np
import pytest
from support.fallback_fakes import signature

from fallback_server.core.errors import ConfigRefused, InvalidInput, PreconditionFailed, SignatureNotFound
from fallback_server.core.model_config import StepConfig
from fallback_server.sequences.pairing import check_sent, found_pairs, said_pairs, step_of

S = (-1, 8)


def made(inputs, outputs, name="step"):
    return signature(dict.fromkeys(inputs, S), dict.fromkeys(outputs, S), name=name)


@pytest.mark.parametrize(
    ("inputs", "outputs", "pairs"),
    [
        (["x", "state"], ["y", "state"], {"state": "state"}),
        (["x", "state"], ["y", "state", "next_state"], {"state": "next_state"}),
        (["x", "state"], ["y", "new_state"], {"state": "new_state"}),
        (
            ["x", "state_0", "state_1"],
            ["next_state_0", "next_state_1"],
            {f"state_{i}": f"next_state_{i}" for i in (0, 1)},
        ),
        (["x", "state_0", "state_1"], ["state_0", "state_1", "y"], {"state_0": "state_0", "state_1": "state_1"}),
        (["x", "state_in"], ["state_out"], {"state_in": "state_out"}),
        (["x", "state_in_0"], ["state_out_0"], {"state_in_0": "state_out_0"}),
        (["x", "in_state"], ["out_state"], {"in_state": "out_state"}),
        (["x", "prev_state"], ["state"], {"prev_state": "state"}),
        (["x", "prev_state"], ["next_state"], {"prev_state": "next_state"}),
        (["input", "state", "sr"], ["output", "stateN"], {"state": "stateN"}),
        (["x", "encoder_states"], ["encoder_states_next"], {"encoder_states": "encoder_states_next"}),
        (["x", "hidden", "cell"], ["new_hidden", "new_cell"], {"hidden": "new_hidden", "cell": "new_cell"}),
        (["x", "decoder/State2"], ["decoder/State2"], {"decoder/State2": "decoder/State2"}),
        (["x", "key"], ["y", "key"], {}),
        (["x", "h"], ["y", "hn"], {}),
        (["x", "statement"], ["statement"], {}),
        (["x", "state"], ["y"], {}),
    ],
)
def test_names_tell_what_is_a_state(inputs, outputs, pairs):
    """An input that says that it is one, with an output of a name that says that it is the next."""
    assert found_pairs(made(inputs, outputs)) == pairs


@pytest.mark.parametrize(
    ("into", "out", "fits"),
    [
        (S, S, True),
        (S, (-1, 4), False),
        ((-1, -1), S, True),
        ((1, 8), S, True),
        (None, S, True),
        ((8,), S, False),
        ((S, np.float32), (S, np.float16), False),
    ],
)
def test_a_state_has_one_shape_and_dtype(into, out, fits):
    """What comes out must be able to go in."""
    found = found_pairs(signature({"x": S, "state": into}, {"state": out}))
    assert found == ({"state": "state"} if fits else {})


def test_an_output_for_two_states_has_to_be_told():
    """Neither is guessed."""
    with pytest.raises(
        PreconditionFailed, match="output 'state' could be the state of input 'prev_state' and of 'state'"
    ):
        found_pairs(made(["x", "state", "prev_state"], ["state"]))


def test_an_operator_names_any():
    """And hears what is not there, or doesn't fit."""
    step = signature({"x": S, "h": S, "k": (-1, 4)}, {"y": S, "hn": S})
    assert said_pairs(step, {"h": "hn"}) == {"h": "hn"}
    with pytest.raises(PreconditionFailed, match="has no input 'q', it has h, k, x"):
        said_pairs(step, {"q": "hn"})
    with pytest.raises(PreconditionFailed, match="has no output 'q', it has hn, y"):
        said_pairs(step, {"h": "q"})
    with pytest.raises(PreconditionFailed, match=r"input 'k' is float32 \[-1, 4\], output 'hn' is float32 \[-1, 8\]"):
        said_pairs(step, {"k": "hn"})
    with pytest.raises(ConfigRefused, match="output 'hn' is the next value of both 'h' and 'x'"):
        StepConfig(state={"h": "hn", "x": "hn"})


STEP = made(["x", "state"], ["y", "state"])
PLAIN = made(["x"], ["y"], "serving_default")
BOTH = {"step": STEP, "serving_default": PLAIN}


@pytest.mark.parametrize(
    ("signatures", "asked", "said", "name"),
    [
        (BOTH, "", "", "step"),
        ({"serving_default": STEP}, "", "", "serving_default"),
        ({"step": PLAIN, "serving_default": STEP}, "", "", "serving_default"),
        ({**BOTH, "other": STEP}, "other", "", "other"),
        ({**BOTH, "other": STEP}, "", "other", "other"),
        ({**BOTH, "other": STEP}, "step", "other", "step"),
    ],
)
def test_which_signature_is_a_step(signatures, asked, said, name):
    """What the caller says, else the operator, else the names."""
    found, pairs = step_of(signatures, asked, StepConfig(signature=said), default="serving_default")
    assert found is signatures[name]
    assert pairs == {"state": "state"}


def test_what_is_said_of_one_signature_is_not_said_of_others():
    """A caller may name another, whose own names tell; unless there is no signature that it could mean but that."""
    odd = made(["x", "h"], ["y", "hn"], "decode")
    signatures = {**BOTH, "decode": odd}
    said = StepConfig(signature="decode", state={"h": "hn"})
    assert step_of(signatures, "", said, default="serving_default") == (odd, {"h": "hn"})
    assert step_of(signatures, "step", said, default="serving_default") == (STEP, {"state": "state"})
    with pytest.raises(PreconditionFailed, match="has no state"):
        step_of(signatures, "serving_default", said, default="serving_default")
    unnamed = StepConfig(state={"h": "hn"})
    assert step_of({**signatures, "step": odd}, "", unnamed, default="serving_default") == (odd, {"h": "hn"})
    assert step_of({"decode": odd}, "decode", unnamed, default="serving_default") == (odd, {"h": "hn"})
    with pytest.raises(PreconditionFailed, match="has no input 'h'"):
        step_of(signatures, "", unnamed, default="serving_default")
    with pytest.raises(PreconditionFailed, match='"decode" has no state'):
        step_of(signatures, "decode", unnamed, default="serving_default")


@pytest.mark.parametrize(
    ("signatures", "asked", "error", "text"),
    [
        (BOTH, "none", SignatureNotFound, 'Serving signature key "none" not found.'),
        ({"a": STEP, "b": STEP}, "", SignatureNotFound, '"step" not found: name the one that is a step, of a, b'),
        (BOTH, "serving_default", PreconditionFailed, 'signature "serving_default" has no state'),
        ({"serving_default": PLAIN}, "", PreconditionFailed, 'signature "serving_default" has no state'),
    ],
)
def test_what_is_no_step_is_told(signatures, asked, error, text):
    """By name."""
    with pytest.raises(error, match=text):
        step_of(signatures, asked, StepConfig(), default="serving_default")


def test_a_sequence_begins_with_all_of_a_state_or_none():
    """Of what the server holds a part may be replaced."""
    pairs = {"state_0": "a", "state_1": "b"}
    check_sent(pairs, {"x": 1}, held=False)
    check_sent(pairs, {"x": 1, "state_0": 1, "state_1": 1}, held=False)
    check_sent(pairs, {"x": 1, "state_0": 1}, held=True)
    with pytest.raises(InvalidInput, match="of the state state_1 is missing"):
        check_sent(pairs, {"x": 1, "state_0": 1}, held=False)
