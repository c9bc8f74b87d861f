import os
import random

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.edge_delegates import build_edgetpu
from support.edge_models import publish_scale, rows, scale_model
from support.edgetpu_models import SCALE, edgetpu_model, int8_model
from support.tflite_files import shipped, unsigned

from converter.artifact import Quantization
from edge_runtime import InvalidConfig, InvalidInput, PackageRefused, Runtime
from edge_runtime.bare import MAX_FILE_BYTES, BareStore, PackageStore, bare_manifest, model_name, open_store
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.store.store import Store


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_file_is_its_own_manifest(tmp_path):
    """Names, dtypes and variable dimensions are the file's; its rows are never merged with those of others."""
    manifest, content = bare_manifest(write(tmp_path, "scale.tflite", scale_model(2.0)))
    (signature,), (variant,) = manifest.signatures, manifest.variants
    assert (manifest.model, manifest.version, manifest.labels) == ("scale", 1, ())
    assert (signature.name, signature.batch_axis) == ("serving_default", None)
    assert [(spec.name, str(spec)) for spec in (*signature.inputs, *signature.outputs)] == [
        ("x", "float32[-1, 4]"),
        ("y", "float32[-1, 4]"),
    ]
    assert (variant.delegate, variant.signatures, variant.size_bytes) == ("cpu", manifest.signatures, len(content))


def test_quantized_tensors_keep_their_dtype_and_scale(tmp_path):
    """Callers give what the file takes, and the signatures say what the integers stand for."""
    manifest, _ = bare_manifest(write(tmp_path, "int8.tflite", int8_model(2.0)))
    spec = manifest.signatures[0].inputs[0]
    assert (spec.dtype, spec.quantization) == ("int8", Quantization(scales=(SCALE,), zero_points=(0,)))


@pytest.mark.parametrize("signature", ["serving_default", None])
def test_an_edge_tpus_file_is_read_without_its_delegate(tmp_path, signature):
    """Its custom operator says what must run it; without signatures the tensors are taken in their order."""
    manifest, _ = bare_manifest(write(tmp_path, "scale_edgetpu.tflite", edgetpu_model(2.0, signature=signature)))
    assert manifest.variants[0].delegate == "edgetpu"
    (found,) = manifest.signatures
    assert (found.name, found.inputs[0].name, found.outputs[0].name) == ("serving_default", "x", "y")
    assert str(found.inputs[0]) == "int8[1, 4]"


def test_the_operators_name_in_a_description_is_no_operator(tmp_path):
    """A file that only mentions the Edge TPU's operator runs on the CPU."""
    content = scale_model(2.0, signature="edgetpu-custom-op")
    assert bare_manifest(write(tmp_path, "x.tflite", content))[0].variants[0].delegate == "cpu"


def test_a_file_without_signatures_runs_by_its_manifest(tmp_path):
    """The one signature that its manifest gives it stands for its graph."""
    path = unsigned(write(tmp_path, "scale.tflite", int8_model(2.0)), tmp_path / "unsigned.tflite")
    manifest, content = bare_manifest(path)
    assert [one.name for one in manifest.signatures] == ["serving_default"]
    session = InterpreterSession(SessionSpec(subject="scale", signatures=manifest.signatures), content)
    found = session.run("serving_default", {"x": np.array([[1, 2, 3, 4]], np.int8)})
    assert found["y"].tolist() == [[2, 4, 6, 8]]
    session.close()


@pytest.mark.skipif(not shipped("pymicro-wakeword", "alexa.tflite"), reason="pymicro-wakeword is not installed")
def test_a_real_file_with_a_state(tmp_path):
    """A streaming wake word's tensors are read as they are."""
    (signature,) = bare_manifest(shipped("pymicro-wakeword", "alexa.tflite"))[0].signatures
    assert [str(spec) for spec in (*signature.inputs, *signature.outputs)] == ["int8[1, 3, 40]", "uint8[1, 1]"]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("mobilenet_v2_edgetpu.tflite", "mobilenet_v2_edgetpu"),
        ("my model (2).tflite", "my_model__2_"),
        ("_.tflite", "model"),
        ("gr\xf6\xdfe.tflite", "gr__e"),
        ("a" * 200 + ".tflite", "a" * 128),
    ],
)
def test_names_are_made_valid(tmp_path, name, model):
    """A file may be called what a model may not."""
    assert model_name(tmp_path / name) == model


def test_damaged_files_are_refused_and_crash_nothing(tmp_path):
    """LiteRT verifies the bytes first: whatever is changed in them, the answer is a manifest or PackageRefused."""
    good = [edgetpu_model(2.0, signature=None), int8_model(2.0)]
    source = random.Random(5)
    refused = 0
    for number in range(200):
        content = bytearray(good[number % 2])
        for _ in range(source.randint(1, 4)):
            content[source.randrange(8, len(content))] = source.randrange(256)
        path = write(tmp_path, "x.tflite", content[: source.randrange(8, len(content))] if number % 5 == 0 else content)
        try:
            bare_manifest(path)
        except PackageRefused:
            refused += 1
    assert 40 <= refused < 200


def changed(change):
    model = schema.ModelT.InitFromPackedBuf(scale_model(2.0), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: setattr(model.signatureDefs[0], "subgraphIndex", 7), "a signature is of graph 7; there are 1"),
        (lambda model: setattr(model, "subgraphs", None), "it holds no graph"),
    ],
)
def test_what_litert_would_crash_at_is_refused(tmp_path, change, says):
    """Its verifier lets these pass."""
    with pytest.raises(PackageRefused, match=says):
        bare_manifest(write(tmp_path, "x.tflite", changed(change)))


def test_what_is_no_model_is_named(tmp_path):
    """Not there, a folder, a pipe, too large, another format: each is one line."""
    with pytest.raises(PackageRefused, match="no TFLite file: bytes 4 to 8 are b' a p'"):
        bare_manifest(write(tmp_path, "a.tflite", b"just a picture"))
    with pytest.raises(PackageRefused, match=r"none.tflite: can't be read: No such file"):
        bare_manifest(tmp_path / "none.tflite")
    os.mkfifo(tmp_path / "pipe.tflite")
    with pytest.raises(PackageRefused, match="not a file"):
        bare_manifest(tmp_path / "pipe.tflite")
    with pytest.raises(InvalidConfig, match="not a file"):
        BareStore(tmp_path)
    with pytest.raises(InvalidConfig, match="No such file"):
        BareStore(tmp_path / "none.tflite")
    with (tmp_path / "huge.tflite").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(PackageRefused, match="2147483648 bytes, a TFLite file has at most 2147483647"):
        bare_manifest(tmp_path / "huge.tflite")


def test_a_bare_store_presents_one_version(tmp_path):
    """It opens, reads verified bytes through a link too, and knows nothing else."""
    path = write(tmp_path, "v2.tflite", scale_model(2.0))
    (tmp_path / "scale.tflite").symlink_to(path.name)
    store = BareStore(tmp_path / "scale.tflite")
    assert (store.installed(), store.labels("scale")) == ({"scale": [1]}, {})
    package = store.open("scale", 1)
    assert package.read(package.manifest.variants[0].file) == path.read_bytes()
    assert str(package) == "scale/1"
    for asked in (("other", 1), ("scale", 2)):
        with pytest.raises(PackageRefused, match="holds scale/1"):
            store.open(*asked)
        assert store.stamp(*asked) == (0, 0, 0)
    with pytest.raises(InvalidConfig, match="no store of packages"):
        store.label("scale", "stable", 1)


def test_a_file_that_changes_is_another_publication(tmp_path):
    """Its stamp and digest change; one that is gone is no longer installed; one that is damaged is refused."""
    path = write(tmp_path, "scale.tflite", scale_model(2.0))
    store = BareStore(path)
    before, digest = store.stamp("scale", 1), store.open("scale", 1).digest
    write(tmp_path, "new.tflite", scale_model(3.0)).replace(path)
    assert store.stamp("scale", 1) != before
    assert store.open("scale", 1).digest != digest
    path.write_bytes(b"\0\0\0\0TFL3")
    with pytest.raises(PackageRefused, match=r"scale.tflite: can't be used as a model"):
        store.open("scale", 1)
    path.unlink()
    assert store.installed() == {}


def test_bytes_that_change_after_the_opening_are_not_run(tmp_path):
    """What is read is what the manifest was made from."""
    path = write(tmp_path, "scale.tflite", scale_model(2.0))
    package = BareStore(path).open("scale", 1)
    path.write_bytes(scale_model(3.0))
    with pytest.raises(Exception, match="the manifest says"):
        package.read("scale.tflite")


def test_a_packages_directory_is_a_store_of_one(tmp_path):
    """Wherever it lies and whatever its folders are called; one that takes its place must be of the same version."""
    published = publish_scale(tmp_path / "packages", 3, 2.0, labels=("a", "b", "c", "d"))
    elsewhere = tmp_path / "elsewhere"
    published.path.rename(elsewhere)
    store = PackageStore(elsewhere)
    assert store.installed() == {"scale": [3]}
    assert store.open("scale", 3).manifest.labels == ("a", "b", "c", "d")
    assert store.stamp("scale", 3) != (0, 0, 0)
    elsewhere.rename(tmp_path / "gone")
    publish_scale(tmp_path / "packages", 4, 2.0).path.rename(elsewhere)
    with pytest.raises(PackageRefused, match="now holds scale/4, and was opened as scale/3"):
        store.open("scale", 3)


def test_what_lies_at_a_path_is_found_out(tmp_path):
    """A file, a package's directory or a folder of packages; a folder may end in .tflite."""
    package = publish_scale(tmp_path / "packages.tflite", 1, 2.0)
    assert isinstance(open_store(write(tmp_path, "x.tflite", scale_model(2.0))), BareStore)
    assert isinstance(open_store(package.path), PackageStore)
    assert isinstance(open_store(tmp_path / "packages.tflite"), Store)
    with pytest.raises(InvalidConfig, match="no such directory"):
        open_store(tmp_path / "none")


def test_a_runtime_opens_a_bare_file(tmp_path):
    """Its only model needs no name; a file that takes its place answers after the next look."""
    path = write(tmp_path, "scale.tflite", scale_model(2.0))
    with Runtime.open(path, poll_interval_s=3600) as runtime:
        model = runtime.model()
        assert (model.name, model.version, model.labels) == ("scale", 1, ())
        assert runtime.model("scale") is model
        assert (model.predict(rows(2)).outputs["y"] == rows(2) * 2).all()
        write(tmp_path, "new.tflite", scale_model(3.0)).replace(path)
        runtime.refresh()
        assert (model.predict(rows(1)).outputs["y"] == rows(1) * 3).all()
        path.unlink()
        runtime.refresh()
        assert (model.predict(rows(1)).outputs["y"] == rows(1) * 3).all()


def test_a_quantized_bare_file_takes_its_own_integers(tmp_path):
    """As a pycoral user passes them; real numbers are refused with what is needed."""
    path = write(tmp_path, "scale.tflite", int8_model(2.0))
    with Runtime.open(path) as runtime:
        assert runtime.model().signature.inputs[0].quantization == Quantization(scales=(SCALE,), zero_points=(0,))
        assert runtime.model().predict(np.array([[1, 2, 3, -4]], np.int8)).outputs["y"].tolist() == [[2, 4, 6, -8]]
        with pytest.raises(InvalidInput, match=r"must be int8\[-1, 4\]"):
            runtime.model().predict(rows(1))


def test_one_of_several_models_needs_a_name(tmp_path):
    """A folder of packages is asked by name, a package's directory need not be."""
    package = publish_scale(tmp_path / "packages", 1, 2.0)
    with Runtime.open(tmp_path / "packages") as runtime, pytest.raises(InvalidConfig, match="say which model"):
        runtime.model()
    with Runtime.open(package.path) as runtime:
        assert runtime.model().name == "scale"


@pytest.mark.slow
@pytest.mark.parametrize("signature", ["serving_default", None])
def test_an_edge_tpus_bare_file_runs_on_its_library(tmp_path, signature):
    """On a real shared library that claims its operator; the CPU is refused, with the reason."""
    library = build_edgetpu(tmp_path)
    path = write(tmp_path, "scale_edgetpu.tflite", edgetpu_model(2.0, signature=signature))
    with Runtime.open(path, delegates=["edgetpu", "cpu"], edgetpu_library=str(library)) as runtime:
        model = runtime.model()
        reply = model.predict(np.array([[1, 2, 3, -4]], np.int8))
        assert (reply.place, reply.outputs["y"].tolist()) == ("device:edgetpu", [[2, 4, 6, -8]])
        assert [(one.device, one.state) for one in model.engines] == [("edgetpu", "ready"), ("cpu", "refused")]
