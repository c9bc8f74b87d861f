import numpy as np
import pytest
from support import converter_data as sources

from converter import data
from converter.artifact import InputPreprocess, Preprocess, Signature, TensorSpec
from converter.data.loading import kind_of
from converter.errors import DataInvalid

pytestmark = pytest.mark.slow

SIGNATURE = Signature(
    name="s",
    inputs=(
        TensorSpec(name="image", dtype="float32", shape=(-1, 2, 2, 3)),
        TensorSpec(name="size", dtype="int32", shape=(-1, 2)),
        TensorSpec(name="word", dtype="string", shape=(-1,)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 4)),),
    batch_axis=0,
)
DECODING = Preprocess(inputs={"image": InputPreprocess(decode="image", resize=(2, 2))})


def record(value, label=None, **changes):
    fields = {"image": [sources.grey(value)], "size": [value, 1], "word": [b"w%d" % value], **changes}
    return fields if label is None else {**fields, "label": [label]}


@pytest.fixture
def load(server, tmp_path):
    """Writes records and loads them, both in children with TensorFlow."""

    def loaded(records, *, compression="", preprocess=DECODING):
        path = tmp_path / "data.tfrecord"
        server.run(sources.write_tfrecord, 60.0, path, records, compression=compression)
        return server.run(data.load, 60.0, path, SIGNATURE, preprocess, tmp_path / "to")

    return loaded


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_every_kind_of_feature_reaches_its_input(load, compression):
    """Encoded images, integers, strings and labels, plain or gzipped."""
    dataset = load([record(7, 1), record(8, 0)], compression=compression)
    arrays = dataset.arrays()
    assert arrays["image"][:, 0, 0, 0].tolist() == [7, 8]
    assert arrays["size"].dtype == np.int32
    assert arrays["size"].tolist() == [[7, 1], [8, 1]]
    assert arrays["word"].tolist() == [b"w7", b"w8"]
    assert dataset.labels().tolist() == [1, 0]


def test_flat_floats_get_the_inputs_shape(load):
    """A float feature is what the model takes, in row-major order, and not preprocessed."""
    dataset = load([record(1, image=[float(value) for value in range(12)])])
    np.testing.assert_array_equal(dataset.arrays()["image"][0].ravel(), np.arange(12))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (record(1, size=[1]), "sample 1: size has 1 values, the model needs 2"),
        (record(1, size=[1.5, 2.0]), "size is float32, the model takes int32"),
        (record(1, mask=[1]), "sample 1 has 'mask', which is no input"),
        (record(1, image=[float("nan")] * 12), "image: sample 1 holds nan"),
        (record(1, image=[b"no image"]), "sample 1: "),
        ({"image": [1.0]}, "sample 1: image has 1 values"),
        (b"\xff\xff\xff", "record 1 is no tf.Example"),
    ],
)
def test_records_that_do_not_fit_are_refused_with_their_index(load, bad, says):
    """The feature, what it holds and what is needed."""
    with pytest.raises(DataInvalid, match=says):
        load([record(1), bad])


def test_a_damaged_file_is_refused_with_the_record(server, tmp_path):
    """The record's own checksum tells."""
    path = tmp_path / "data.tfrecord"
    server.run(sources.write_tfrecord, 60.0, path, [record(1), record(2)])
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    assert kind_of(path) == "tfrecord"
    with pytest.raises(DataInvalid, match="record 1 is damaged"):
        server.run(data.load, 60.0, path, SIGNATURE, DECODING, tmp_path / "to")
