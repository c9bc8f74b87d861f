import numpy as np
import pytest

from converter.data import Batch, Dataset
from converter.errors import VariantUnusable
from converter.outputs import OutputWriter, by_sample, comparable


def batch(start, samples):
    return Batch(start=start, samples=samples, inputs={})


def dataset(samples, *, keeps_axis=True):
    return Dataset(origin="x", samples=samples, files={}, keeps_axis=keeps_axis)


def test_batches_are_put_one_after_the_other(tmp_path):
    """The file holds all samples in order."""
    writer = OutputWriter(tmp_path / "out", ["y"], dataset(5))
    writer.add(batch(0, 3), {"y": np.ones((3, 2))})
    writer.add(batch(3, 2), {"y": np.zeros((2, 2))})
    assert np.load(writer.finish()["y"]).tolist() == [[1, 1]] * 3 + [[0, 0]] * 2


def test_outputs_of_single_samples_are_stacked(tmp_path):
    """A model without batch gives [4] for each sample; the file holds [samples, 4]."""
    writer = OutputWriter(tmp_path / "out", ["y"], dataset(2, keeps_axis=False))
    for index in range(2):
        writer.add(batch(index, 1), {"y": np.full(4, index)})
    assert np.load(writer.finish()["y"]).tolist() == [[0] * 4, [1] * 4]


def test_an_output_that_loses_rows_is_refused():
    """As many rows must come out as went in."""
    with pytest.raises(VariantUnusable, match=r"\[1, 2\] for 3 samples"):
        by_sample("y", np.ones((1, 2)), batch(0, 3), keeps_axis=True)


def test_outputs_whose_shape_depends_on_the_sample_are_refused(tmp_path):
    """They can't be compared; both shapes are named."""
    writer = OutputWriter(tmp_path / "out", ["y"], dataset(2))
    writer.add(batch(0, 1), {"y": np.ones((1, 2))})
    with pytest.raises(VariantUnusable, match=r"\[3\] for sample 1, and \[2\] before"):
        writer.add(batch(1, 1), {"y": np.ones((1, 3))})


def test_strings_are_kept_as_digests(tmp_path):
    """They have one size, and are equal where the strings are."""
    writer = OutputWriter(tmp_path / "out", ["y"], dataset(3))
    words = np.array([b"word", b"a longer word", b"word"], dtype=object)
    writer.add(batch(0, 3), {"y": words})
    kept = np.load(writer.finish()["y"])
    assert kept.dtype.kind == "S"
    assert kept[0] == kept[2] != kept[1]
    assert (kept == comparable(words)).all()


def test_numbers_are_compared_as_they_are():
    """Nothing is copied."""
    values = np.ones(3)
    assert comparable(values) is values
