import pytest

from fallback_server.config import ConfigInvalid
from fallback_server.core.model_config import StepConfig
from fallback_server.flags import parse
from fallback_server.sequences.options import SequenceOptions
from fallback_server.settings import options_of


def read(path, text, *flags):
    path.write_text(text)
    return options_of(parse([f"--config={path}", *flags]))


def test_flags_and_the_file_say_how_sequences_are_held(tmp_path):
    """Streams of a version that is unloaded are ended before its runs are."""
    model = '[models.m]\nbase_path = "m"\n[models.m.sequence]\nsignature = "s"\nstate = { h = "hn", c = "cn" }\n'
    text = "max_sequences = 5\nsequence_idle_s = 2.5\n" + model
    options = read(tmp_path / "server.toml", text, "--max_sequence_bytes=77", "--max_unload_wait_s=100")
    assert options.sequences == SequenceOptions(
        max_sequences=5, max_sequence_bytes=77, sequence_idle_s=2.5, drain_s=90.0
    )
    (config,) = options.source.configs
    assert config.sequence == StepConfig(signature="s", state={"h": "hn", "c": "cn"})


def test_all_that_is_wrong_is_told(tmp_path):
    """By the names of the flags, and the keys of the file."""
    text = (
        '[models.m]\nbase_path = "m"\nsequence = { signature = 1, state = { a = "x", b = "x" } }\n'
        '[models.n]\nbase_path = "n"\nsequence = { steps = 1 }\n'
        '[models.o]\nbase_path = "o"\nsequence = { state = { a = "x", b = "x", c = "y" } }\n'
        '[models.p]\nbase_path = "p"\nsequence = { state = { a = 1 } }\n'
    )
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path / "server.toml", text, "--max_sequences=-1", "--sequence_idle_s=0")
    told = "\n".join(caught.value.faults)
    for fault in (
        "--max_sequences must be at least 0, got -1",
        "--sequence_idle_s must be over 0 and at most 86400, got 0",
        "models.m.sequence.signature must be a text, got 1",
        "models.n.sequence.steps is not known; signature, state are",
        "output 'x' is the next value of both 'a' and 'b'",
        "models.p.sequence.state.a must be a text, got 1",
    ):
        assert fault in told
