import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from support import converter_data as sources

from converter import data
from converter.artifact import InputPreprocess, Preprocess, Signature, TensorSpec
from converter.data.images import class_indices, subfolders
from converter.data.loading import kind_of
from converter.errors import DataInvalid, OptionInvalid

NOTHING = Preprocess()
DECODING = Preprocess(inputs={"in0": InputPreprocess(decode="image", resize=(2, 2), scale=1 / 10)})


def make_signature(*shapes, dtype="float32", output=(-1, 4)):
    inputs = tuple(TensorSpec(name=f"in{at}", dtype=dtype, shape=shape) for at, shape in enumerate(shapes))
    batched = all(shape[:1] == (-1,) for shape in (*shapes, output))
    outputs = (TensorSpec(name="y", dtype="float32", shape=output),)
    return Signature(name="s", inputs=inputs, outputs=outputs, batch_axis=0 if batched else None)


VECTOR = make_signature((-1, 3))
IMAGE = make_signature((-1, 2, 2, 3), output=(-1, 2))


@pytest.fixture
def load(tmp_path):
    """Loads data of any kind into a fresh folder."""

    def loaded(spec, signature=VECTOR, preprocess=NOTHING, **options):
        return data.load(spec, signature, preprocess, tmp_path / "laid out", **options)

    return loaded


def named(function):
    return f"support.converter_data:{function}"


@pytest.mark.parametrize("function", ["rows", "batches"])
def test_a_function_may_yield_samples_one_by_one_or_together(load, function):
    """With and without the batch axis the same data come out, labels too."""
    dataset = load(named(function))
    assert dataset.samples == 3
    assert dataset.arrays()["in0"].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert dataset.labels().tolist() == [0, 1, 2]
    assert [batch.inputs["in0"].shape for batch in dataset.batches()] == [(3, 3)]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("late_nan", r"in0: sample 5 holds nan"),
        ("fails_later", "raised RuntimeError after 1 samples: the camera is gone$"),
        ("of_lists", "sample 0 is a list; a dict"),
        ("label_lost", "sample 1 has no label"),
        ("label_found", "sample 1 has a label, the samples before it have none"),
        ("float_label", "sample 0: labels are float64"),
        ("extra_input", r"sample 0 has 'mask', which is no input; the model takes \['in0'\]"),
        ("growing", r"sample 1: in0 has the shape \[1, 4\], the model needs \[3\]"),
        ("pictures", r'sample 0: in0 is bytes.*decode = "image" and resize'),
        ("nothing", "no samples"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_their_index(load, function, says):
    """One line, with the sample, the value and what would fit."""
    with pytest.raises(DataInvalid, match=says) as caught:
        load(named(function))
    assert "\n" not in str(caught.value)


def test_samples_of_different_shapes_are_refused(load):
    """Where the model has a variable dimension, all samples still need one size."""
    with pytest.raises(DataInvalid, match=r"sample 1: in0 has the shape \[4\], the samples before it \[3\]"):
        load(named("growing"), make_signature((-1, -1)))


def test_a_function_that_never_ends_is_stopped(load):
    """The bound is named, and nothing is cut off silently."""
    with pytest.raises(DataInvalid, match="more than 50 samples"):
        load(named("endless"), max_samples=50)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no.such_module:f", "module 'no.such_module' can't be imported: ModuleNotFoundError"),
        ("support.converter_data:none", "has no 'none'"),
        ("support.converter_data:NOT_CALLABLE", "is a int, not a function"),
    ],
)
def test_functions_that_are_not_there_are_refused(load, text, says):
    """The module and the name are told."""
    with pytest.raises(OptionInvalid, match=says):
        load(text)


def test_a_function_in_the_current_directory_is_found(load, tmp_path, monkeypatch):
    """A user's file needs no installation."""
    (tmp_path / "my_samples_of_today.py").write_text("def make():\n    yield {'in0': [1.0, 2.0, 3.0]}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    assert load("my_samples_of_today:make").arrays()["in0"].tolist() == [[1, 2, 3]]


def test_strings_take_the_room_of_the_longest(load):
    """Text of any length goes in, as UTF-8."""
    dataset = load(named("words"), make_signature((-1,), dtype="string", output=(-1, 2)))
    assert dataset.arrays()["in0"].tolist() == [b"a", b"longer", "é".encode(), b"z"]


def test_a_model_for_a_batch_of_one_takes_one_sample_a_call(load):
    """Samples come without the axis, and the model gets it."""
    dataset = load(named("rows"), make_signature((1, 3), output=(1, 4)))
    assert [batch.inputs["in0"].shape for batch in dataset.batches()] == [(1, 3)] * 3
    assert dataset.keeps_axis


def test_images_are_preprocessed_and_labelled_by_their_folder(load, tmp_path):
    """Sorted folders are the classes; hidden files don't count; the file of each sample is known."""
    files = {"b/2.png": sources.grey(20), "a/1.png": sources.grey(10), "b/.hidden": b"", ".git/x": b"x"}
    folder = sources.folder_of_images(tmp_path / "photos", files)
    dataset = load(folder, IMAGE, DECODING)
    assert dataset.labels().tolist() == [0, 1]
    assert dataset.sources() == ("a/1.png", "b/2.png")
    np.testing.assert_allclose(dataset.arrays()["in0"][:, 0, 0, 0], [1.0, 2.0], rtol=1e-6)
    assert dataset.arrays()["in0"].shape == (2, 2, 2, 3)


def test_calibration_takes_folders_that_are_no_classes(load, tmp_path):
    """It needs no labels, so that one folder of a model with two classes does."""
    folder = sources.folder_of_images(tmp_path / "photos", {"of_monday/1.png": sources.grey(10)})
    assert load(folder, IMAGE, DECODING, use_labels=False).labels() is None


def test_images_without_folders_have_no_labels(load, tmp_path):
    """Enough for calibration."""
    dataset = load(sources.folder_of_images(tmp_path / "photos", {"1.png": sources.grey(10)}), IMAGE, DECODING)
    assert dataset.labels() is None
    assert dataset.samples == 1


FOUR = Signature(
    name="serving_default",
    inputs=IMAGE.inputs,
    outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 4)),),
    batch_axis=0,
)


@pytest.mark.parametrize(
    ("folders", "names", "classes"),
    [
        (["cat", "dog"], ("dog", "bird", "cat", "fox"), {"cat": 2, "dog": 0}),
        (["a", "b", "c", "d"], (), {"a": 0, "b": 1, "c": 2, "d": 3}),
        (["0", "10", "2"], (), {"0": 0, "10": 10, "2": 2}),
        (["1", "3"], ("dog", "bird", "cat", "fox"), {"1": 1, "3": 3}),
    ],
)
def test_a_folders_class_is_its_name_or_its_number_or_its_place(folders, names, classes):
    """Numbers are numbers, whatever order their text has."""
    assert class_indices(Path("photos"), folders, names, FOUR) == classes


@pytest.mark.parametrize(
    ("folders", "names", "says"),
    [
        (["cat", "wolf"], ("dog", "bird", "cat"), "photos: subfolder 'wolf' is none of the class names 'dog', 'bird'"),
        (["cat", "dog", "fox"], (), "photos: 3 subfolders, and the outputs' last axes have {'scores': 4}: --labels"),
    ],
)
def test_a_class_that_would_be_a_guess_is_refused(folders, names, says):
    """A folder without a name, or fewer folders than classes and no names at all."""
    with pytest.raises(DataInvalid, match=says):
        class_indices(Path("photos"), folders, names, FOUR)


def test_an_empty_subfolder_is_a_class_too(tmp_path):
    """Else all that come after it would be off by one."""
    for name in ("a", "b", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "1.png").write_bytes(b"x")
    assert subfolders(tmp_path) == ["a", "b"]


def test_an_image_that_cannot_be_decoded_is_named(load, tmp_path):
    """With its index and file."""
    files = {"a/1.png": sources.grey(1), "a/2.png": sources.grey(2)[:50], "b/3.png": sources.grey(3)}
    folder = sources.folder_of_images(tmp_path / "photos", files)
    with pytest.raises(DataInvalid, match=r"sample 1 \(a/2.png\)") as caught:
        load(folder, IMAGE, DECODING)
    assert "\n" not in str(caught.value)


def test_images_need_a_preprocessing_that_decodes(load, tmp_path):
    """The error says what to add."""
    folder = sources.folder_of_images(tmp_path / "photos", {"1.png": sources.grey(1)})
    with pytest.raises(DataInvalid, match=r'decode = "image" and resize = \[height, width\] to \[inputs.in0\]'):
        load(folder, IMAGE)


def test_a_directory_serves_models_with_one_input(load, tmp_path):
    """Nobody can say which input a file is for."""
    folder = sources.folder_of_images(tmp_path / "photos", {"a/1.png": sources.grey(1)})
    with pytest.raises(DataInvalid, match=r"for models with one input, this one takes \['in0', 'in1'\]"):
        load(folder, make_signature((-1, 3), (-1, 2)))


def test_an_encoded_image_may_come_from_a_function(load):
    """Bytes go through the preprocessing, arrays do not."""
    dataset = load(named("pictures"), IMAGE, DECODING)
    np.testing.assert_allclose(dataset.arrays()["in0"][:, 1, 1, 2], [1.0, 2.0], rtol=1e-6)


def test_what_is_no_data_is_refused_before_anything_slow(tmp_path):
    """Nothing there, an empty directory, files beside folders, a file of another kind."""
    (tmp_path / "empty").mkdir()
    mixed = sources.folder_of_images(tmp_path / "mixed", {"a/1.png": b"x", "readme.txt": b"x"})
    (tmp_path / "data.csv").write_text("1,2,3\n" * 10)
    for spec, says in (
        (tmp_path / "none.npz", "no such file or directory"),
        ("none", "no such file or directory"),
        (tmp_path / "empty", "no files in it"),
        (mixed, "readme.txt lies beside the subfolders"),
        (tmp_path / "data.csv", r"no \.npz and no TFRecord"),
        (tmp_path / "module:function", "no such file"),
    ):
        with pytest.raises(DataInvalid, match=says):
            data.check(spec)
    data.check("module:function")


def test_the_kind_is_read_from_the_content(tmp_path):
    """Names do not matter; a gzipped file that is no TFRecord is refused."""
    np.savez(tmp_path / "data.npz", in0=np.zeros((1, 3)))
    (tmp_path / "data.npz").rename(tmp_path / "data.bin")
    assert kind_of(tmp_path / "data.bin") == "npz"
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"hello, this is text"))
    with pytest.raises(DataInvalid, match="no TFRecord"):
        kind_of(tmp_path / "text.gz")


def test_too_many_samples_in_a_file_are_refused(load, tmp_path):
    """Before anything is read."""
    np.savez(tmp_path / "data.npz", in0=np.zeros((9, 3)))
    with pytest.raises(DataInvalid, match="in0 holds 9 samples, at most 8 are taken"):
        load(tmp_path / "data.npz", max_samples=8)
