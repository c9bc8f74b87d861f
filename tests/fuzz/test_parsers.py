"""Every parser of bytes from outside takes any input, or refuses it by its own error, soon and in bounded memory."""

from random import Random

import pytest
from fuzz.mutation import mutated
from fuzz.target import Feeder
from fuzz.targets import TARGETS, corpus_of, starts_of
from hypothesis import given, settings
from hypothesis import strategies as st

SOME = 150
"""Examples of a target; `make fuzz` gives a million and more."""

names = pytest.mark.parametrize("name", TARGETS)


@names
def test_what_is_mutated_is_sound(name):
    """A fuzzer that begins with nothing that the parser takes would see its first refusal alone."""
    target = TARGETS[name]
    for seed in target.seeds():
        assert len(seed) <= target.max_bytes, "it would be cut off"
    feeder = Feeder(target)
    for seed in target.seeds():
        feeder.feed(seed)
    assert feeder.accepted


@names
def test_what_once_found_something_finds_nothing_more(name):
    """The corpus: inputs that reached another branch, or a fault that is mended since."""
    feeder = Feeder(TARGETS[name])
    for data in corpus_of(name):
        feeder.feed(data)


@names
def test_sound_inputs_with_changes_are_taken_or_refused(name, record_property):
    """By bytes, by words of the language and field by field; nothing but the parser's own error comes out."""
    target = TARGETS[name]
    starts = starts_of(target)
    feeder = Feeder(target)

    @settings(max_examples=SOME)
    @given(st.integers(0, 2**64 - 1))
    def run(number):
        data = mutated(Random(number), starts, words=target.words, message=target.message)
        feeder.feed(data[: target.max_bytes])

    run()
    record_property("inputs", feeder.inputs)


@names
def test_noise_is_taken_or_refused(name):
    """Bytes that were never any sound input; shrunk by hypothesis where they find a fault."""
    target = TARGETS[name]
    feeder = Feeder(target)

    @settings(max_examples=SOME // 3)
    @given(
        st.binary(max_size=min(target.max_bytes, 200)) | st.lists(st.sampled_from([*target.words, b" "])).map(b"".join)
    )
    def run(data):
        feeder.feed(data[: target.max_bytes])

    run()
