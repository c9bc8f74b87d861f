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


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A model that takes serialized examples, and one whose first dimension is a time axis."""
    import tensorflow as tf

    def signature(function, name, shape, dtype=tf.float32):
        return tf.function(function, input_signature=[tf.TensorSpec(shape, dtype, name=name)])

    module = tf.Module()
    features = {"a": tf.io.FixedLenFeature([2], tf.float32)}
    weights = tf.constant(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    module.examples = signature(lambda s: {"a": tf.io.parse_example(s, features)["a"]}, "s", [None], tf.string)
    module.forward = signature(lambda x: {"y": tf.cumsum(x)}, "x", [None, 2])
    module.backward = signature(lambda x: {"y": tf.cumsum(x, reverse=True)}, "x", [None, 2])
    module.total = signature(lambda x: {"y": tf.reduce_sum(x, axis=0, keepdims=True)[: tf.shape(x)[0]]}, "x", [None, 2])
    module.dense = signature(lambda x: {"y": tf.nn.softmax(x @ weights)}, "x", [None, 64])
    module.random = signature(lambda x: {"y": x + tf.random.uniform(tf.shape(x))}, "x", [None, 2])
    names = ("examples", "forward", "backward", "total", "dense", "random")
    path = tmp_path_factory.mktemp("odd") / "1"
    tf.saved_model.save(module, str(path), signatures={name: getattr(module, name) for name in names})
    executor = open_saved_model(path, OPTIONS)
    yield executor
    executor.close()


@pytest.mark.slow
def test_a_refusal_that_quotes_bytes_is_the_requests_fault(odd):
    """TensorFlow quotes the request, and bytes that are no text can't become its exception: InvalidInput."""
    with pytest.raises(InvalidInput, match="the model refused the values"):
        odd.run("examples", {"s": np.array([b"\xff\xff"], object)})


@pytest.mark.slow
def test_a_model_whose_rows_mix_is_not_merged(odd):
    """A variable first dimension that is a time axis is no batch, though rows are kept; rounding and chance pass."""
    batches = {name: signature.batches for name, signature in odd.signatures.items()}
    assert (batches["forward"], batches["backward"], batches["total"]) == (False, False, False)
    assert (batches["dense"], batches["random"], batches["examples"]) == (True, True, True)
