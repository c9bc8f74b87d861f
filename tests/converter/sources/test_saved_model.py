import pytest
from support import source_models

from converter.artifact import TensorSpec
from converter.errors import SourceInvalid, ToolMissing
from converter.sources.saved_model import check_directory, declared, make_signature

slow = pytest.mark.slow


def test_what_is_plainly_no_saved_model_is_refused_at_once(tmp_path):
    """Nothing there, a file, an empty directory, anything else: each says what it is."""
    with pytest.raises(SourceInvalid, match="no such directory"):
        check_directory(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceInvalid, match="a file; a SavedModel is a directory"):
        check_directory(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceInvalid, match="is empty"):
        check_directory(tmp_path / "empty")
    with pytest.raises(SourceInvalid, match="no SavedModel"):
        check_directory(tmp_path)


@pytest.mark.parametrize("names", [["checkpoint"], ["model.index", "model.data-00000-of-00001"]])
def test_a_checkpoint_is_called_one(tmp_path, names):
    """With how to export it instead."""
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(SourceInvalid, match=r"checkpoint.*export"):
        check_directory(tmp_path)


def test_the_folder_above_the_versions_is_pointed_into(tmp_path):
    """A serving layout NAME/VERSION/ given without the version names a version that would do."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").write_bytes(b"")
    with pytest.raises(SourceInvalid, match=r"did you mean .*2"):
        check_directory(tmp_path)


def spec(name, shape):
    return TensorSpec(name=name, dtype="float32", shape=shape)


@pytest.mark.parametrize(
    ("inputs", "outputs", "batch_axis"),
    [
        ([(-1, 3)], [(-1, 4)], 0),
        ([(-1, 3), (-1,)], [(-1, 4)], 0),
        ([(1, 3)], [(1, 4)], None),
        ([(-1, 3), (2, 3)], [(-1, 4)], None),
        ([(-1, 3)], [()], None),
        ([(-1, 3)], [(4,)], None),
    ],
)
def test_the_batch_axis_is_where_every_first_dimension_is_variable(inputs, outputs, batch_axis):
    """One fixed first dimension, or a scalar, and requests can't be joined."""
    made = make_signature(
        "s",
        [spec(f"i{index}", shape) for index, shape in enumerate(inputs)],
        [spec(f"o{index}", shape) for index, shape in enumerate(outputs)],
    )
    assert made.batch_axis == batch_axis


@slow
def test_a_signature_is_read_as_the_model_describes_it(server, models):
    """Names, dtypes and shapes straight from the SavedModel, sorted by name; scalars and integers as they are."""
    (found,) = server.run(declared, 60.0, models / "three_inputs", ["serving_default"])
    assert [(one.name, str(one)) for one in found.inputs] == [
        (name, "float32[-1, 4]") for name in ("alpha", "mid", "zeta")
    ]
    assert [(one.name, str(one)) for one in found.outputs] == [("sum", "float32[-1, 4]")]
    (found,) = server.run(declared, 60.0, models / "one_by_one", ["serving_default"])
    assert [(one.name, str(one)) for one in found.outputs] == [("positive", "int32[]"), ("sums", "float32[3]")]


@slow
def test_an_unknown_signature_is_answered_with_the_known_ones(server, models):
    """The user sees what there is."""
    with pytest.raises(SourceInvalid, match="no signature 'predict'; it has: brightness, serving_default"):
        server.run(declared, 60.0, models / "cnn", ["serving_default", "predict"])


@slow
def test_a_graph_for_training_only_is_refused_with_its_tags(server, models):
    """Without the tag `serve` there is nothing to convert."""
    with pytest.raises(SourceInvalid, match="no graph tagged 'serve'; it has: train"):
        server.run(declared, 60.0, models / "untagged", ["serving_default"])


@slow
def test_a_damaged_file_is_refused(server, tmp_path):
    """Bytes that are no SavedModel are told as such."""
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    with pytest.raises(SourceInvalid, match="damaged"):
        server.run(declared, 60.0, tmp_path, ["serving_default"])
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(SourceInvalid, match="no graph"):
        server.run(declared, 60.0, tmp_path, ["serving_default"])


@slow
def test_where_keras_2_is_missing_its_models_say_so(server, sources):
    """TensorFlow's own words are about an attribute `add_slot`."""
    with pytest.raises(ToolMissing, match=r"needs tf_keras \(pip install tf_keras\)"):
        server.run(source_models.load_without_tf_keras, 60.0, sources / "keras_2_optimizer")
