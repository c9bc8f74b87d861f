import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.artifact import Bench, Latency, decode_bench, encode_bench
from converter.artifact.bench import EngineTime, Refused

positive = st.floats(0.001, 1e9)
times = st.builds(
    lambda threads, median_us, more_us, runs: Latency(
        threads=threads, median_us=median_us, p90_us=median_us + more_us, runs=runs
    ),
    st.integers(1, 256),
    positive,
    st.floats(0, 1e9),
    st.integers(1, 10_000),
)
engine_times = st.builds(
    lambda median_us, more_us, runs, bare_us: EngineTime(
        device="cpu",
        variant="int8",
        threads=1,
        rows=4,
        median_us=median_us,
        p90_us=median_us + more_us,
        p99_us=median_us + 2 * more_us,
        rows_per_s=4e6 / median_us,
        runs=runs,
        bare_median_us=bare_us,
    ),
    positive,
    st.floats(0, 1e9),
    st.integers(1, 10_000),
    st.none() | positive,
)
benches = st.builds(
    Bench,
    format=st.just(1),
    package=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    version=st.integers(1, 2**63 - 1),
    digest=st.text(max_size=80),
    host=st.text(max_size=80),
    variants=st.dictionaries(st.text(max_size=20), st.lists(times, max_size=3).map(tuple), max_size=3),
    failed=st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3),
    engines=st.lists(engine_times, max_size=3).map(tuple),
    refused=st.lists(st.builds(Refused, device=st.text(), variant=st.text(), reason=st.text()), max_size=2).map(tuple),
)
FIELDS = {
    "format": 1,
    "package": "digits",
    "version": 3,
    "digest": "sha256:0",
    "host": "a board",
    "variants": {"int8": [{"threads": 1, "median_us": 2.0, "p90_us": 3.0, "runs": 9}]},
}


@given(benches)
def test_a_bench_comes_back_as_it_was(bench):
    """What is written is read, whatever the names and the numbers."""
    assert decode_bench(encode_bench(bench)) == bench


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bench_or_refused(data):
    """Nothing but one kind of error comes out of damaged files."""
    with contextlib.suppress(msgspec.DecodeError):
        decode_bench(data)


def test_the_format_is_plain():
    """Another program can write it: these fields, and nothing that must be computed."""
    bench = decode_bench(json.dumps(FIELDS).encode())
    assert bench.variants["int8"] == (Latency(threads=1, median_us=2.0, p90_us=3.0, runs=9),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"package": "../up"}, "../up"),
        ({"version": 0}, "version 0"),
        ({"host": 5}, "host"),
        ({"variants": {"int8": [{"threads": 0, "median_us": 2.0, "p90_us": 3.0, "runs": 9}]}}, "threads"),
        ({"variants": {"int8": [{"threads": 1, "median_us": 4.0, "p90_us": 3.0, "runs": 9}]}}, "impossible times"),
        ({"variants": {"int8": [{"threads": 1, "median_us": -1.0, "p90_us": 3.0, "runs": 9}]}}, "impossible times"),
    ],
)
def test_impossible_benches_are_refused(changes, said):
    """The fault is named."""
    with pytest.raises(msgspec.DecodeError, match=said.replace(".", r"\.")):
        decode_bench(json.dumps(FIELDS | changes).encode())


ENGINE = {
    "device": "cpu",
    "variant": "int8",
    "threads": 1,
    "rows": 4,
    "median_us": 2.0,
    "p90_us": 3.0,
    "p99_us": 4.0,
    "rows_per_s": 2e6,
    "runs": 9,
}


def test_files_of_both_ages_are_read():
    """One without engines has none; a field that is not known yet is passed over."""
    assert decode_bench(json.dumps(FIELDS).encode()).engines == ()
    found = decode_bench(json.dumps(FIELDS | {"engines": [ENGINE | {"p999_us": 5.0}], "later": 1}).encode())
    assert [(one.rows, one.p99_us, one.ratio) for one in found.engines] == [(4, 4.0, None)]


@pytest.mark.parametrize(
    "changes", [{"threads": 0}, {"rows": 0}, {"runs": 0}, {"median_us": 5.0}, {"p99_us": 2.5}, {"rows_per_s": 0.0}]
)
def test_impossible_engines_are_refused(changes):
    """A table of them would mislead."""
    with pytest.raises(msgspec.DecodeError, match=r"1 or more|impossible times"):
        decode_bench(json.dumps(FIELDS | {"engines": [ENGINE | changes]}).encode())


def test_a_file_that_is_too_large_is_not_read():
    """A bench file holds some hundred numbers."""
    with pytest.raises(msgspec.DecodeError, match="at most"):
        decode_bench(b" " * (2**20 + 1))
