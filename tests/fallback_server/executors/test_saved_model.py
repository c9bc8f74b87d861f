import numpy as np
import pytest

from fallback_server.core.errors import InvalidInput, LoadFailed
from fallback_server.executors.registry import default_registry
from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model
from fallback_server.protocol.proto import tensor_pb2 as pb

OPTIONS = SavedModelOptions()


@pytest.mark.slow
def test_signatures_are_taken_from_the_file(models):
    """Names, dtypes, shapes, and whether there is a batch axis; TensorFlow's own signatures can't be called."""
    executor = open_saved_model(models / "many" / "1", OPTIONS)
    assert sorted(executor.signatures) == ["gather", "serving_default", "wide"]
    signature = executor.signatures["serving_default"]
    assert {name: str(spec) for name, spec in signature.inputs.items()} == {
        "a": "float32 [-1, 2]",
        "b": "int32 [-1, 2]",
    }
    assert {name: str(spec) for name, spec in signature.outputs.items()} == {
        "sum": "float32 [-1, 2]",
        "twice": "int32 [-1, 2]",
    }
    assert signature.batches
    defined = pb.SignatureDefMap.FromString(executor.signature_defs)
    assert set(executor.signatures) < set(defined.signature_def)
    executor.close()


@pytest.mark.slow
def test_outputs_come_by_name(models):
    """Several inputs and outputs of several dtypes, strings among them."""
    executor = open_saved_model(models / "many" / "1", OPTIONS)
    a, b = np.float32([[1, 2], [3, 4]]), np.int32([[10, 20], [30, 40]])
    outputs = executor.run("serving_default", {"b": b, "a": a})
    np.testing.assert_array_equal(outputs["sum"], a + b)
    np.testing.assert_array_equal(outputs["twice"], b * 2)
    assert outputs["twice"].dtype == np.int32
    executor.close()
    text = open_saved_model(models / "text" / "1", OPTIONS)
    (out,) = text.run("serving_default", {"s": np.array([b"a", b"\xff"], object)}).values()
    assert out.tolist() == [b"a!", b"\xff!"]
    text.close()


@pytest.mark.slow
def test_values_that_the_model_refuses_are_the_requests_fault(models):
    """What TensorFlow calls an invalid argument is InvalidInput, in one line without the graph's node names."""
    executor = open_saved_model(models / "many" / "1", OPTIONS)
    with pytest.raises(InvalidInput) as refusal:
        executor.run("gather", {"index": np.int64([1, 7])})
    assert str(refusal.value) == "the model refused the values: indices[1] = 7 is not in [0, 3)"
    executor.close()


@pytest.mark.slow
def test_what_is_no_model_fails_to_load(models, tmp_path):
    """An empty folder, and a truncated file, raise with the path or the cause."""
    registry = default_registry(OPTIONS)
    with pytest.raises(LoadFailed, match=r"holds none of the files that make a model: saved_model\.pb"):
        registry.open(tmp_path)
    whole = (models / "scale" / "1" / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Exception, match=r"(?i)parse|proto"):
        registry.open(tmp_path)


def test_options_name_what_they_refuse():
    """A refusal says the name, the bound and the value."""
    with pytest.raises(ValueError, match="intra_op_parallelism must be at least 0, got -1"):
        SavedModelOptions(intra_op_parallelism=-1)
