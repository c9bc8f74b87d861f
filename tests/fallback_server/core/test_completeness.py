import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.completeness import missing, read_num_shards

PB, INDEX = "saved_model.pb", "variables/variables.index"


def shard(index, total):
    return f"variables/variables.data-{index:05d}-of-{total:05d}"


@pytest.mark.parametrize(
    ("files", "num_shards", "lack"),
    [
        ([PB], None, None),
        (["saved_model.pbtxt"], None, None),
        ([], None, "saved_model.pb is missing"),
        (["assets/words"], None, "saved_model.pb is missing"),
        ([PB, shard(0, 1)], None, "variables/variables.index is missing"),
        ([PB, INDEX], None, "variables/variables.data-* is missing"),
        ([PB, INDEX], 1, "variables/variables.data-00000-of-00001 is missing"),
        ([PB, INDEX, shard(0, 1)], 1, None),
        ([PB, INDEX, shard(0, 1)], None, None),
        ([PB, INDEX, shard(1, 3)], None, f"{shard(0, 3)}, {shard(2, 3)} are missing"),
        ([PB, INDEX, shard(0, 1)], 2, f"{shard(0, 2)}, {shard(1, 2)} are missing"),
        ([PB, INDEX], 5, f"{shard(0, 5)}, {shard(1, 5)}, {shard(2, 5)} and 2 others are missing"),
        ([PB, INDEX, "variables/variables.data-00000-of-99999999"], None, "at most 100000 are believed"),
    ],
)
def test_what_lacks(files, num_shards, lack):
    """Each listing lacks this."""
    folders = frozenset({"variables"}) if any(name.startswith("variables/") for name in files) else frozenset()
    found = missing(dict.fromkeys(files, 1), folders, num_shards)
    assert found == lack if lack is None else lack in found


def test_empty_files_are_a_copy_that_has_begun():
    """The graph and the index are never empty; a shard may be."""
    assert missing({PB: 0}, frozenset(), None) == "saved_model.pb is empty"
    folders = frozenset({"variables"})
    assert missing({PB: 1, INDEX: 0, shard(0, 1): 1}, folders, None) == "variables/variables.index is empty"
    assert missing({PB: 1, INDEX: 1, shard(0, 1): 0}, folders, 1) is None


@pytest.mark.parametrize(
    ("head", "num_shards"),
    [
        (bytes([0, 0, 6, 8, 1, 26, 2, 8, 1]), 1),
        (bytes([0, 0, 7, 8, 0xAC, 2, 26, 2, 8, 1]), 300),
        (b"", None),
        (bytes([0, 0, 6]), None),
        (bytes([0, 3, 6, 8, 1]), None),
        (bytes([0, 0, 2, 8, 0]), None),
        (bytes([0, 0, 4, 26, 2, 8, 1]), None),
    ],
)
def test_the_index_tells_the_number_of_shards(head, num_shards):
    """Read from its first entry; None where it can't be."""
    assert read_num_shards(head) == num_shards


@given(st.binary(max_size=64))
def test_no_index_does_harm(head):
    """Whatever stands there gives a bounded number or None."""
    found = read_num_shards(head)
    assert found is None or 1 <= found <= 100_000
