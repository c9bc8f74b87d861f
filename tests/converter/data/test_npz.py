import zipfile

import numpy as np
import pytest

from converter.artifact import Signature, TensorSpec
from converter.data import MAX_BATCH_ROWS, cast, check_npz, load_npz
from converter.errors import DataInvalid


def make_signature(shapes, outputs=((-1, 4),), dtype="float32"):
    def specs(prefix, listed):
        return tuple(
            TensorSpec(name=f"{prefix}{index}", dtype=dtype, shape=tuple(shape)) for index, shape in enumerate(listed)
        )

    batched = all(shape[:1] == (-1,) for shape in (*shapes, *outputs))
    return Signature(
        name="s", inputs=specs("in", shapes), outputs=specs("out", outputs), batch_axis=0 if batched else None
    )


BATCHED = make_signature([(-1, 3)])
TWO = make_signature([(-1, 3), (-1, 2)])
FIXED = make_signature([(2, 3)], outputs=[(2,)])
BATCH_OF_ONE = make_signature([(1, 3)], outputs=[(1, 4)])


@pytest.fixture
def load(tmp_path):
    """Writes arrays to a .npz and loads it against a signature."""

    def loaded(signature, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return load_npz(tmp_path / "data.npz", signature, tmp_path / "laid out")

    return loaded


def rows(count, width=3):
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def test_a_dataset_holds_what_the_file_held(load):
    """Samples, labels and where they came from."""
    dataset = load(BATCHED, in0=rows(5), labels=np.arange(5))
    assert dataset.samples == 5
    assert dataset.origin.endswith("data.npz")
    assert dataset.labels().tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(dataset.arrays()["in0"], rows(5))


def test_batches_cover_every_sample_once_in_order(load):
    """Of a batched model, as many rows as fit go into one call."""
    dataset = load(BATCHED, in0=rows(MAX_BATCH_ROWS * 2 + 1))
    batches = list(dataset.batches())
    assert [batch.samples for batch in batches] == [MAX_BATCH_ROWS, MAX_BATCH_ROWS, 1]
    np.testing.assert_array_equal(np.concatenate([batch.inputs["in0"] for batch in batches]), rows(513))
    assert [batch.samples for batch in dataset.batches(200)] == [200, 200, 113]


def test_large_samples_make_small_batches(load):
    """A batch is bounded in bytes: two rows of 1.75 MB each fit into 4 MiB."""
    width = 1_750_000 // 4
    dataset = load(make_signature([(-1, width)]), in0=np.zeros((5, width), np.float32))
    assert [batch.samples for batch in dataset.batches()] == [2, 2, 1]


def test_a_model_without_batch_gets_one_sample_a_call(load):
    """The samples' axis is taken off."""
    dataset = load(FIXED, in0=np.zeros((4, 2, 3), np.float32))
    assert [batch.inputs["in0"].shape for batch in dataset.batches()] == [(2, 3)] * 4


def test_a_model_exported_for_a_batch_of_one_takes_samples_with_and_without_that_axis(load, tmp_path):
    """Both ways of writing the samples reach the model in its shape."""
    first = load(BATCH_OF_ONE, in0=rows(4))
    assert [batch.inputs["in0"].shape for batch in first.batches()] == [(1, 3)] * 4
    np.savez(tmp_path / "other.npz", in0=rows(4)[:, np.newaxis])
    second = load_npz(tmp_path / "other.npz", BATCH_OF_ONE, tmp_path / "other")
    assert [batch.inputs["in0"].shape for batch in second.batches()] == [(1, 3)] * 4


def test_spread_samples_reach_from_the_first_to_the_last(load):
    """Data sorted by class still give every class to the calibration."""
    dataset = load(BATCHED, in0=rows(100))
    assert [batch.start for batch in dataset.spread(4)] == [0, 33, 66, 99]
    assert all(batch.inputs["in0"].shape == (1, 3) for batch in dataset.spread(4))
    assert len(list(dataset.spread(1_000))) == 100


def test_an_input_may_be_called_labels(load):
    """Then it is an input and nothing else."""
    signature = Signature(
        name="s",
        inputs=(TensorSpec(name="labels", dtype="int64", shape=(-1,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)),),
        batch_axis=0,
    )
    dataset = load(signature, labels=np.arange(3))
    assert dataset.labels() is None
    assert list(dataset.files) == ["labels"]


def with_value(value, at):
    array = rows(5)
    array[at, 1] = value
    return array


@pytest.mark.parametrize(
    ("signature", "arrays", "says"),
    [
        (TWO, {"in0": rows(5)}, "no array for input 'in1'"),
        (BATCHED, {"in0": rows(5), "mask": rows(5)}, r"'mask' is no input .*\['in0'\]"),
        (BATCHED, {"image": rows(5)}, "'in0'.*'image'"),
        (BATCHED, {"in0": rows(5, 4)}, r"in0 has the shape \[5, 4\], the model needs \[samples, 3\]"),
        (BATCHED, {"in0": rows(5).ravel()}, r"\[15\]"),
        (BATCHED, {"in0": np.float32(3)}, r"shape \[\]"),
        (FIXED, {"in0": rows(2)}, r"needs \[samples, 2, 3\]"),
        (BATCHED, {"in0": rows(5).astype(str)}, "in0 is <U32, the model takes float32"),
        (BATCHED, {"in0": rows(5).astype(complex)}, "complex128"),
        (BATCHED, {"in0": with_value(np.nan, 3)}, "in0: sample 3 holds nan"),
        (BATCHED, {"in0": with_value(np.inf, 4)}, "sample 4 holds inf"),
        (BATCHED, {"in0": rows(5).astype(np.float64) + 1e300}, "as float32: sample 0 holds inf"),
        (TWO, {"in0": rows(5), "in1": rows(4, 2)}, "in1 holds 4 samples, in0 5"),
        (BATCHED, {"in0": rows(0)}, "no samples"),
        (BATCHED, {"in0": rows(5), "labels": np.arange(4)}, "4 labels for 5 samples"),
        (BATCHED, {"in0": rows(5), "labels": np.array([0, 1, -2, 1, 0])}, "label -2 of sample 2"),
        (BATCHED, {"in0": rows(5), "labels": rows(5)}, "one integer class"),
        (BATCHED, {"in0": rows(5), "labels": np.arange(5.0)}, "one integer class"),
    ],
)
def test_data_that_do_not_fit_are_refused_with_what_and_where(load, signature, arrays, says):
    """Each fault names the input, the value or shape, and what would fit, in one line."""
    with pytest.raises(DataInvalid, match=says) as caught:
        load(signature, **arrays)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "dtype", "fits"),
    [
        (np.array([1.5]), "float32", True),
        (np.array([1.5], np.float32), "float64", True),
        (np.array([255], np.uint8), "float32", True),
        (np.array([True]), "float32", True),
        (np.array([2**24]), "float32", True),
        (np.array([2**24 + 1]), "float32", False),
        (np.array([2**31 - 1]), "int32", True),
        (np.array([2**31]), "int32", False),
        (np.array([-1]), "uint8", False),
        (np.array([1.0]), "int32", False),
        (np.array([1]), "bool", False),
        (np.array([b"a"]), "string", True),
        (np.array([1]), "string", False),
    ],
)
def test_values_are_cast_only_where_they_survive(array, dtype, fits):
    """Integers must be exact in the new dtype, floats never become integers."""
    spec = TensorSpec(name="x", dtype=dtype, shape=(-1,))
    if fits:
        assert cast("x", array, spec).tolist() == array.tolist()
    else:
        with pytest.raises(DataInvalid):
            cast("x", array, spec)


def test_files_that_are_no_npz_are_refused(tmp_path):
    """Nothing there, text, one array, pickled objects, a damaged archive."""
    with pytest.raises(DataInvalid, match="no such file"):
        check_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("image,label\n")
    with pytest.raises(DataInvalid, match=r"no \.npz"):
        check_npz(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", rows(3))
    with pytest.raises(DataInvalid, match=r"no \.npz"):
        check_npz(tmp_path / "one.npy")


def test_pickled_objects_are_refused_and_not_loaded(load):
    """A .npz can carry code; it is not run."""
    with pytest.raises(DataInvalid, match="can't be read"):
        load(BATCHED, in0=np.array([{"a": 1}], dtype=object))


def test_a_damaged_npz_is_refused(tmp_path):
    """A flipped byte in an array is found by the archive's checksum."""
    path = tmp_path / "data.npz"
    np.savez(path, in0=rows(100))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["in0.npy"]
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataInvalid, match="'in0' can't be read"):
        load_npz(path, BATCHED, tmp_path / "to")
