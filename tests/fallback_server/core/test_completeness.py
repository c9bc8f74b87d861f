import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import graph_models
from support.edge_models import publish_scale

from fallback_server.core.completeness import missing, read_num_shards, restores
from fallback_server.core.scan import read_lack, read_restores, read_tree

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
        (["model.tflite"], None, None),
        (["manifest.json", "manifest.sha256", "variants/float32.tflite"], None, None),
        (["model.py", "helpers.py", "assets/words"], None, None),
        (["model.tflite", "variables/variables.index"], None, "saved_model.pb is missing"),
        (["fingerprint.pb", "model.tflite"], None, "saved_model.pb is missing"),
        ([PB, INDEX, "model.tflite"], 1, "variables/variables.data-00000-of-00001 is missing"),
        ([PB, INDEX, "variables/variables.data-00000-of-99999999"], None, "at most 100000 are believed"),
    ],
)
def test_what_lacks(files, num_shards, lack):
    """Each listing lacks this."""
    found = missing(dict.fromkeys(files, 1), num_shards)
    assert found == lack if lack is None else lack in found


def test_empty_files_are_a_copy_that_has_begun():
    """The graph and the index are never empty; a shard may be."""
    assert missing({PB: 0}, None) == "saved_model.pb is empty"
    assert missing({PB: 1, INDEX: 0, shard(0, 1): 1}, None) == "variables/variables.index is empty"
    assert missing({PB: 1, INDEX: 1, shard(0, 1): 0}, 1) is None
    assert missing({"model.tflite": 0}, None) == "model.tflite is empty"


def test_a_graph_that_reads_variables_lacks_them():
    """One that reads none is complete without."""
    assert missing({PB: 1}, None, restores=True) == "variables/variables.index is missing"
    assert missing({PB: 1}, None, restores=False) is None


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 20))
def test_an_operation_is_found_wherever_a_chunk_ends(before, after, size):
    """By its tag, its length and its name; in a text behind `op:`."""
    for name, mark in (("saved_model.pb", b"\x12\x0aVariableV2"), ("saved_model.pbtxt", b'op: "VariableV2"')):
        data = before + mark + after
        assert restores(name, [data[at : at + size] for at in range(0, len(data), size)])
    assert not restores("saved_model.pb", [b"VariableV2", b"\x0a\x0aVariableV2", b"\x12\x0bVariableV2"])


@pytest.mark.slow
def test_graphs_that_tensorflow_saved(tmp_path, tensorflow):
    """Those with variables read them, those of TensorFlow 2 restore something in any case, and frozen ones do neither.

    The latter alone are complete without.
    """
    tensorflow.run(graph_models.write_all, 300.0, tmp_path)
    found = {path.name: read_restores(path) for path in tmp_path.iterdir()}
    assert {name for name, reads in found.items() if not reads} == {"frozen", "frozen_text"}
    assert len(found) == 8
    for name, reads in found.items():
        assert read_lack(tmp_path / name, read_tree(tmp_path / name)) is None
        for file in (tmp_path / name / "variables").iterdir():
            file.unlink()
        lack = read_lack(tmp_path / name, read_tree(tmp_path / name))
        assert lack == ("variables/variables.index is missing" if reads else None)


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


def test_a_package_lacks_what_its_manifest_lists(tmp_path):
    """Until each file is there in its size; one whose manifest can't be read is not taken either."""
    package = publish_scale(tmp_path, 1, 2.0)
    assert read_lack(package.path, read_tree(package.path)) is None
    file = package.path / "variants" / "float32.tflite"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert read_lack(package.path, read_tree(package.path)) == ("variants/float32.tflite is missing, or not whole")
    (package.path / "manifest.json").write_bytes(b"{")
    assert "manifest.json can't be read" in read_lack(package.path, read_tree(package.path))
