import json

import numpy as np
import pytest
from support.edge_folded_models import publish_folded
from support.edge_models import publish_scale
from support.preprocess_cases import encoded, wav

from converter.artifact import InputPreprocess, Preprocess, TableField
from edge_runtime import InvalidInput
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
