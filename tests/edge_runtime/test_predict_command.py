import json

import numpy as np
import pytest
from support.edge_folded_models import publish_folded
from support.edge_models import publish_scale, scale_model
from support.edgetpu_models import edgetpu_model
from support.preprocess_cases import encoded, wav

from converter.artifact import InputPreprocess, Preprocess, TableField, archive_path
from edge_runtime import InvalidConfig, InvalidInput, Runtime
from edge_runtime.cli import main
from edge_runtime.predict_command import named_files, plain, read_raw

FIELDS = InputPreprocess(fields=tuple(TableField(name=name, default=0.0) for name in "abcd"))


@pytest.fixture
def store(tmp_path):
    """Packages of y = 2 x over four columns: `sound` takes a WAV, `table` a record, `scale` plain numbers."""
    root = tmp_path / "packages"
    steps = {"sound": InputPreprocess(decode="wav"), "table": FIELDS, "scale": InputPreprocess(scale=0.5)}
    for model, step in steps.items():
        publish_scale(root, 1, 2.0, model=model, preprocess=Preprocess(inputs={"x": step}))
    return root


@pytest.fixture
def predicted(store, capsys):
    def run(model, *arguments):
        code = main(["predict", str(store), model, *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return json.loads(out)["outputs"]["y"] if code == 0 else err

    return run


def test_a_file_goes_through_decode(tmp_path, predicted):
    """With --raw its bytes are preprocessed, alone or by the input's name."""
    file = tmp_path / "clip.wav"
    file.write_bytes(wav([[16384], [0], [0], [-16384]]))
    assert predicted("sound", file, "--raw") == [[1.0, 0.0, 0.0, -1.0]]
    assert predicted("sound", f"x=@{file}", "--raw") == [[1.0, 0.0, 0.0, -1.0]]


def test_json_holds_records(tmp_path, predicted):
    """One by field, or a list of them."""
    file = tmp_path / "people.json"
    file.write_text('{"a": 1, "d": 2}')
    assert predicted("table", file, "--raw") == [[2.0, 0.0, 0.0, 4.0]]
    file.write_text('[{"a": 1}, {"b": 3}]')
    assert predicted("table", file, "--raw") == [[2.0, 0.0, 0.0, 0.0], [0.0, 6.0, 0.0, 0.0]]


def test_arrays_by_name(tmp_path, predicted):
    """A .npy can be given for an input by its name, raw or not."""
    file = tmp_path / "x.npy"
    np.save(file, np.ones((1, 4), np.float32))
    assert predicted("scale", f"x=@{file}") == [[2.0] * 4]
    assert predicted("scale", f"x=@{file}", "--raw") == [[1.0] * 4]


def test_pixels_of_a_folded_input_need_no_raw(tmp_path, predicted, store):
    """A uint8 .npy is answered as the pixels that it holds."""
    publish_folded(store, 2)
    file = tmp_path / "x.npy"
    np.save(file, np.full((1, 4), 192, np.uint8))
    assert predicted("scale", file) == predicted("scale", file, "--raw") == [[1.0] * 4]


@pytest.mark.parametrize(
    ("model", "name", "content", "says"),
    [
        ("sound", "a.wav", b"RIFF", "can't be preprocessed: preprocessing of 'x': 4 bytes are no WAV"),
        ("scale", "a.jpg", encoded(np.zeros((4, 4, 3), np.uint8)), "it takes arrays, got bytes; decode is not set"),
        ("table", "a.json", b'{"a": 1, "e": 2}', "field 'e' is not known"),
        ("table", "a.json", b'{"a": ', "a.json: can't be read as JSON"),
        ("table", "a.json", b"[" * 100_000, "a.json: can't be read as JSON"),
        ("sound", "none.wav", None, "none.wav: can't be read: No such file"),
    ],
)
def test_files_that_do_not_fit_are_one_line(tmp_path, predicted, model, name, content, says):
    """Bad input by the file or the input, without a traceback."""
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    err = predicted(model, file, "--raw")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["a.npy", "b.npy"], "a.npy: of several inputs each is given as NAME=@FILE"),
        (["x=@a.npy", "b.npy"], "b.npy: of several"),
        (["x=@a.npy", "x=@b.npy"], "given twice"),
        (["=@a.npy"], "name is missing"),
    ],
)
def test_several_files_need_names(items, says):
    """Each input by its name, once."""
    with pytest.raises(InvalidInput, match=says):
        named_files(items)


def test_an_archive_is_no_single_input(tmp_path):
    """A .npz under an input's name says what to do instead."""
    np.savez(tmp_path / "x.npz", x=np.zeros(1))
    with pytest.raises(InvalidInput, match=r"a \.npz holds arrays by input name; give it alone"):
        plain({"x": read_raw(tmp_path / "x.npz")})


LABELS = ("a", "b", "c", "d")


@pytest.fixture
def package(tmp_path):
    """A package of y = 2 x, with labels; raw values are halved. Beside it its archive."""
    return publish_scale(
        tmp_path / "elsewhere",
        3,
        2.0,
        labels=LABELS,
        preprocess=Preprocess(inputs={"x": InputPreprocess(scale=0.5)}),
    )


@pytest.fixture
def inputs(tmp_path):
    """Two .npy files."""
    paths = [tmp_path / "up.npy", tmp_path / "down.npy"]
    for path, values in zip(paths, (np.arange(4), np.arange(4)[::-1]), strict=True):
        np.save(path, values[np.newaxis].astype(np.float32))
    return paths


def test_a_package_answers_a_line_for_each_file(package, inputs, capsys):
    """Straight from its directory or its archive, with its labels, the best first."""
    up, down = inputs
    for source in (package.path, archive_path(package.path.parents[1], "scale", 3)):
        assert main(["predict", str(source), str(up), str(down), "--top", "2"]) == 0
        assert capsys.readouterr().out == f"{up}: d 6.0000  c 4.0000\n{down}: a 6.0000  b 4.0000\n"
    assert main(["predict", str(package.path), str(up), "--raw", "--top", "1"]) == 0
    assert capsys.readouterr().out == f"{up}: d 3.0000\n"


def test_a_package_answers_an_object_for_each_file(package, inputs, capsys):
    """As JSON, a line each, with the file's name."""
    assert main(["predict", str(package.path), *map(str, inputs), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["input"], one["version"]) for one in found] == [(str(path), 3) for path in inputs]
    assert found[0]["outputs"] == {"y": [[0.0, 2.0, 4.0, 6.0]]}


def test_a_package_preprocesses_what_is_no_array(tmp_path, store, capsys):
    """A clip goes through the package's preprocessing by itself, alone or by the input's name."""
    file = tmp_path / "clip.wav"
    file.write_bytes(wav([[16384], [0], [0], [-16384]]))
    for given in (str(file), f"x=@{file}"):
        assert main(["predict", str(store / "sound" / "1"), given, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["outputs"]["y"] == [[1.0, 0.0, 0.0, -1.0]]


def test_a_bare_file_answers_with_labels_that_are_given(tmp_path, inputs, capsys):
    """Without a package; labels come from a file."""
    model, labels = tmp_path / "scale.tflite", tmp_path / "labels.txt"
    model.write_bytes(scale_model(2.0))
    labels.write_text("3 three\n2 two\n")
    assert main(["predict", str(model), str(inputs[0]), "--labels", str(labels), "--top", "3"]) == 0
    assert capsys.readouterr().out == f"{inputs[0]}: three 6.0000  two 4.0000  1 2.0000\n"
    assert main(["predict", str(model), str(inputs[0])]) == 0
    assert capsys.readouterr().out == f"{inputs[0]}: [0. 2. 4. 6.]\n"


def test_a_delegate_is_passed_on(package, inputs, capsys):
    """Where to run is checked by the runtime."""
    assert main(["predict", str(package.path), str(inputs[0]), "--delegate", "cpu"]) == 0
    capsys.readouterr()
    assert main(["predict", str(package.path), str(inputs[0]), "--delegate", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{package}", "{x}", "--label", "stable"], "is one package; labels are a store's"),
        (["{store}", "scale"], "after it come the MODEL and its INPUT, got 'scale' only"),
        (["{store}/none.tflite", "{x}"], "none.tflite: no such directory or file"),
        (["{package}", "{x}", "--top", "0"], "--top: must be at least 1"),
        (["{x}", "{x}"], "no .tar.gz"),
        (["{package}", "{jpg}"], "a bare model takes .npy"),
    ],
)
def test_what_can_not_be_is_one_line(package, inputs, store, tmp_path, capsys, arguments, says):
    """A line on stderr, and the code for bad input."""
    jpg = tmp_path / "a.jpg"
    jpg.write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    filled = [one.format(package=package.path, store=store, x=inputs[0], jpg=jpg) for one in arguments]
    assert main(["predict", *filled]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_classes_have_one_order_everywhere(package, tmp_path, capsys):
    """As `tasks.classify` has them: of equal scores the lower id first, and NaN is none's."""
    x = tmp_path / "x.npy"
    np.save(x, np.array([[np.nan, 1, 2, 2], [1, 1, 1, 1], [np.nan] * 4], np.float32))
    assert main(["predict", str(package.path), str(x)]) == 0
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "c 4.0000  d 4.0000  b 2.0000",
        "a 2.0000  b 2.0000  c 2.0000  d 2.0000",
        "no class: every score is NaN",
    ]


def test_a_file_for_an_edge_tpu_says_what_it_needs(tmp_path, inputs, capsys):
    """It is sound: the machine lacks what it is for, and the text says what to ask for."""
    model = tmp_path / "scale_edgetpu.tflite"
    model.write_bytes(edgetpu_model(2.0))
    assert main(["predict", str(model), str(inputs[0]), "--delegate", "cpu"]) == 1
    err = capsys.readouterr().err
    assert "scale_edgetpu is compiled for an Edge TPU, and runs on nothing else" in err
    assert "may use here are cpu: no Edge TPU was found, or asked for. Ask for it (--delegate edgetpu" in err
    assert "`edge-run doctor` says what it lacks" in err


def test_damage_is_bad_input(tmp_path, inputs, capsys, store):
    """In a bare file as in a store."""
    model = tmp_path / "damaged.tflite"
    model.write_bytes(scale_model(2.0)[:200])
    assert main(["predict", str(model), str(inputs[0])]) == 2
    assert "damaged.tflite: can't be used as a model" in capsys.readouterr().err
    next((store / "scale" / "1").rglob("*.tflite")).write_bytes(b"damaged")
    assert main(["predict", str(store), "scale", str(inputs[0])]) == 2
    assert main(["predict", str(store), "scale", str(inputs[0]), "--version", "1"]) == 2


def test_a_manifest_that_is_no_file_is_named(tmp_path, inputs, capsys):
    """The folder is then neither a package nor a store, whichever command looks."""
    (tmp_path / "odd" / "manifest.json").mkdir(parents=True)
    for arguments in (["predict", str(tmp_path / "odd"), str(inputs[0])], ["bench", str(tmp_path / "odd")]):
        assert main(arguments) == 2
        assert "manifest.json: not a file" in capsys.readouterr().err
    with pytest.raises(InvalidConfig, match=r"manifest\.json: not a file"):
        Runtime.open(tmp_path / "odd")
