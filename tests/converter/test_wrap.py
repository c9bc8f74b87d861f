import hashlib
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support import tflite_files
from support.edge_models import rows, scale_model
from support.harmful_models import looping_model, wide_model

from converter import edgetpu, graph_edit, process_memory
from converter.artifact import Package, PackageExists
from converter.errors import DataInvalid, NoVariantMade, OptionInvalid, SourceInvalid
from converter.findings import FINDINGS_FILE, decode
from converter.graph import Graph, Operator, Tensor
from converter.wrap import WrapOptions, wrap
from converter.wrapped import risks_of, variant_name
from edge_runtime import Runtime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tflite(server, tmp_path_factory):
    return tflite_files.built(server, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def compiled(server, tflite, tmp_path_factory):
    """The int8 file, compiled by the stand-in; it has no signature, as the real compiler leaves it."""
    folder = tmp_path_factory.mktemp("compiled")
    program = str(tflite_files.install_compiler(folder / "bin"))
    found = server.run(edgetpu.compile, 60.0, tflite / "int8.tflite", folder / "work", program, 1, 60.0)
    return tflite_files.unsigned(found.files[0], folder / "model_edgetpu.tflite")


@pytest.fixture
def wrapped(server, tmp_path):
    """Wraps a file with the shared server; the result."""

    def run(model, **options):
        fields = {"name": "net", "version": 1, "output": tmp_path / "packages", **options}
        return wrap(WrapOptions(model=model, **fields), server=server)

    return run


def opened(result):
    return Package.open(result.package)


def predict(result, inputs):
    """What an application on a device gets of the package."""
    package = opened(result)
    with Runtime.open(package.path.parents[1], threads=1, poll_interval_s=3600.0) as runtime:
        return runtime.model(result.name).predict(inputs).outputs


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("float32", "float32"),
        ("float16", "float16"),
        ("dynamic", "dynamic"),
        ("int8", "int8"),
        ("int8_float_io", "int8-float-io"),
        ("uint8_io", "int8"),
    ],
)
def test_a_device_gets_the_files_own_answers(server, tflite, wrapped, name, variant):
    """Each kind of file becomes a variant of its name; callers see floats and a batch, and get what LiteRT gives."""
    result = wrapped(tflite / f"{name}.tflite")
    manifest = opened(result).manifest
    assert [one.name for one in manifest.variants] == [variant]
    assert result.chosen == {"default": variant}
    (signature,) = manifest.signatures
    assert (signature.name, signature.batch_axis) == ("serving_default", 0)
    assert str(signature.input("image")) == "float32[-1, 8, 8, 3]"
    assert str(signature.output("scores")) == "float32[-1, 10]"
    images = tflite_files.images(3)
    own = manifest.variants[0].signatures[0]
    scale = own.input("image").quantization
    stored = images if scale is None else scale.quantize(images, own.input("image").dtype)
    found = server.run(tflite_files.answers_in_batch, 60.0, tflite / f"{name}.tflite", stored)
    out = own.output("scores").quantization
    expected = found if out is None else out.dequantize(found)
    np.testing.assert_allclose(predict(result, {"image": images})["scores"], expected, rtol=0, atol=1e-6)


def test_what_is_said_of_the_package(tflite, wrapped):
    """Its source is the file, nothing was measured, and an int8 file brings what an Edge TPU would do with it."""
    file = tflite / "int8.tflite"
    result = wrapped(file)
    package = opened(result)
    assert package.manifest.source.format == "tflite"
    assert package.manifest.source.digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert package.manifest.evaluation_samples == result.evaluation_samples == 0
    assert "tensorflow" not in package.manifest.tools
    assert package.read("int8.tflite") == file.read_bytes()
    assert "Nothing was measured" in result.notes[0]
    assert decode(package.read(FINDINGS_FILE)).variants["int8"].edge_tpu.macs_mapped == 1.0


def test_a_file_without_signatures_gets_one(server, tflite, wrapped, tmp_path):
    """Named after its tensors, and run by the device as any other; the note says so."""
    file = tflite_files.unsigned(tflite / "int8_float_io.tflite", tmp_path / "unsigned.tflite")
    result = wrapped(file)
    (signature,) = opened(result).manifest.signatures
    assert [spec.name for spec in signature.inputs] == ["image"]
    assert "no signature" in result.notes[-1]
    image = tflite_files.images(1)
    (expected,) = server.run(tflite_files.answers_in_order, 60.0, file, [image])
    (found,) = predict(result, {"image": image}).values()
    np.testing.assert_array_equal(found, expected)


def test_a_real_file_of_an_old_converter_is_wrapped(server, wrapped):
    """The emotion model that `fer` ships: no signature, fixed sizes, partly quantized weights."""
    file = tflite_files.shipped("fer", "emotion_model_quantized.tflite")
    if file is None:
        pytest.skip("fer is not installed")
    result = wrapped(file)
    assert result.chosen == {"default": "dynamic"}
    image = np.random.default_rng(0).uniform(size=(1, 64, 64, 1)).astype(np.float32)
    (expected,) = server.run(tflite_files.answers_in_order, 60.0, file, [image])
    (spec,) = opened(result).manifest.signatures[0].inputs
    (found,) = predict(result, {spec.name: image}).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_real_streaming_model_is_wrapped_with_a_warning(wrapped):
    """Its state lives in the interpreter, which the note says."""
    file = tflite_files.shipped("pymicro-wakeword", "alexa.tflite")
    if file is None:
        pytest.skip("pymicro-wakeword is not installed")
    result = wrapped(file)
    assert "keeps a state" in result.notes[-1]
    (spec,) = opened(result).manifest.signatures[0].inputs
    assert predict(result, {spec.name: np.zeros(spec.shape, np.float32)})


def test_a_fixed_batch_stays_fixed(wrapped, tmp_path):
    """Where no size is variable, there is no batch axis."""
    (tmp_path / "x.tflite").write_bytes(scale_model(2.0, batched=False))
    result = wrapped(tmp_path / "x.tflite")
    assert opened(result).manifest.signatures[0].batch_axis is None
    np.testing.assert_array_equal(predict(result, {"x": rows(1)})["y"], rows(1) * 2)


def test_the_compiled_file_is_a_variant_of_its_own(tflite, compiled, wrapped):
    """For machines with an Edge TPU: its fixed batch, and the other's names."""
    result = wrapped(tflite / "int8.tflite", edgetpu_model=compiled)
    package = opened(result)
    variant = package.manifest.variant("edgetpu")
    assert (variant.delegate, variant.file) == ("edgetpu", "model_edgetpu.tflite")
    (own,) = variant.signatures
    assert (own.name, own.batch_axis) == ("serving_default", 0)
    assert str(own.input("image")) == "int8[1, 8, 8, 3]"
    assert own.input("image").quantization == package.manifest.variant("int8").signatures[0].input("image").quantization
    assert result.chosen["default"] == "int8"
    assert result.chosen["coral-usb"] == result.chosen["coral-pcie"] == result.chosen["coral-dev-board"] == "edgetpu"
    assert "raspberry-pi-5" not in result.chosen
    found = schema.ModelT.InitFromPackedBuf(package.read("model_edgetpu.tflite"), 0).signatureDefs
    assert [(one.signatureKey, one.inputs[0].name, one.outputs[0].name) for one in found] == [
        (b"serving_default", b"image", b"scores")
    ]


def test_the_same_files_give_the_same_bytes(tflite, compiled, wrapped, tmp_path):
    """Archives of two runs are equal."""
    archives = []
    for place in ("a", "b"):
        wrapped(tflite / "int8.tflite", edgetpu_model=compiled, output=tmp_path / place)
        archives.append((tmp_path / place / "net-1.tar.gz").read_bytes())
    assert archives[0] == archives[1]


def test_labels_and_preprocessing_go_in(tflite, wrapped, tmp_path):
    """They are checked against the file's own tensors."""
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    (tmp_path / "preprocess.toml").write_text("[inputs.image]\nscale = 0.5\n")
    manifest = opened(
        wrapped(tflite / "int8.tflite", labels=tmp_path / "labels.txt", preprocess=tmp_path / "preprocess.toml")
    ).manifest
    assert manifest.labels == tuple("abcdefghij")
    assert manifest.preprocess_fingerprint == manifest.preprocess.fingerprint
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(DataInvalid, match="2 class names"):
        wrapped(tflite / "int8.tflite", labels=tmp_path / "labels.txt", version=2)


def changed(source, target, change):
    model = graph_edit.load(source)
    change(model)
    graph_edit.save(model, target)
    return target


def other_scale(model):
    subgraph = model.subgraphs[0]
    subgraph.tensors[subgraph.inputs[0]].quantization.scale = np.array([0.5], np.float32)


def other_shape(model):
    subgraph = model.subgraphs[0]
    subgraph.tensors[subgraph.outputs[0]].shape = np.array([1, 11], np.int32)


def two_outputs(model):
    subgraph = model.subgraphs[0]
    subgraph.outputs = [*subgraph.outputs, subgraph.inputs[0]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_scale, "input 0, '.*image.*', is quantized by scale 0.5, zero point -128"),
        (other_shape, r"output 0 is '.*' int8\[1, 11\], of the file before it '.*' int8\[-1, 10\]"),
        (two_outputs, "has 2 outputs, the file before it 1"),
    ],
)
def test_a_compiled_file_of_another_model_is_refused(tflite, compiled, wrapped, tmp_path, change, says):
    """Each difference is told with both sides, and nothing is published."""
    other = changed(compiled, tmp_path / "other_edgetpu.tflite", change)
    with pytest.raises(SourceInvalid, match=says):
        wrapped(tflite / "int8.tflite", edgetpu_model=other)
    assert not (tmp_path / "packages").exists()


def test_files_in_the_wrong_place_are_told(tflite, compiled, wrapped):
    """A compiled one first, and one that is not compiled second."""
    with pytest.raises(SourceInvalid, match="it is compiled for the Edge TPU and runs nowhere else"):
        wrapped(compiled)
    with pytest.raises(SourceInvalid, match="holds no edgetpu-custom-op"):
        wrapped(tflite / "int8.tflite", edgetpu_model=tflite / "int8.tflite")


def test_a_file_that_does_not_run_is_no_variant(wrapped, tmp_path):
    """An operator that LiteRT lacks: the error names it, nothing is published."""

    def unknown(model):
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"NoSuchOperator"

    (tmp_path / "x.tflite").write_bytes(scale_model(2.0))
    file = changed(tmp_path / "x.tflite", tmp_path / "custom.tflite", unknown)
    with pytest.raises(NoVariantMade, match="NoSuchOperator") as caught:
        wrapped(file)
    assert [(one.name, one.status) for one in caught.value.result.variants] == [("float32", "failed")]
    assert not (tmp_path / "packages").exists()


@pytest.mark.parametrize(
    "content",
    [b"nothing", scale_model(1.0)[:200], b"\0\0\0\xffTFL3" + b"\xff" * 64],
    ids=["other", "cut-off", "noise"],
)
def test_a_damaged_file_is_bad_input(wrapped, tmp_path, content):
    """No TFLite file, one cut off, and one of noise."""
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises((SourceInvalid, NoVariantMade), match=r"x\.tflite"):
        wrapped(tmp_path / "x.tflite")
    assert not (tmp_path / "packages").exists()


def test_what_is_wrong_before_anything_runs(wrapped, tmp_path):
    """A file that is not there, an impossible name, a version that is there already."""
    (tmp_path / "x.tflite").write_bytes(scale_model(2.0))
    with pytest.raises(OptionInvalid, match=r"none\.tflite: no such file"):
        wrapped(tmp_path / "none.tflite")
    with pytest.raises(OptionInvalid, match="model name"):
        wrapped(tmp_path / "x.tflite", name="../x")
    with pytest.raises(OptionInvalid, match="time limit"):
        wrapped(tmp_path / "x.tflite", time_limit_s=0.0)
    with pytest.raises(OptionInvalid, match="no directory that can be written"):
        wrapped(tmp_path / "x.tflite", output=tmp_path / "x.tflite")
    wrapped(tmp_path / "x.tflite")
    with pytest.raises(PackageExists, match="give --replace"):
        wrapped(tmp_path / "x.tflite")
    assert wrapped(tmp_path / "x.tflite", replace=True).package


def graph_of(*dtypes, rim="float32", weights=None):
    flow = [Tensor(index=place, name="t", dtype=dtype, shape=(1, 4)) for place, dtype in enumerate(dtypes)]
    stored = weights or [None] * len(dtypes)
    operators = tuple(
        Operator(
            index=place,
            name="FULLY_CONNECTED",
            inputs=(
                one,
                Tensor(index=9, name="w", dtype=kept, shape=(4, 4), data=np.zeros(1, np.uint8)) if kept else None,
            ),
            outputs=(one,),
        )
        for place, (one, kept) in enumerate(zip(flow, stored, strict=True))
    )
    ends = (Tensor(index=8, name="x", dtype=rim, shape=(1, 4)),)
    return Graph(inputs=ends, outputs=ends, operators=operators)


@pytest.mark.parametrize(
    ("graph", "name"),
    [
        (graph_of("float32", weights=["float32"]), "float32"),
        (graph_of("float32", weights=["float16"]), "float16"),
        (graph_of("float32", "float32", weights=["int8", "float32"]), "dynamic"),
        (graph_of("float32", weights=["int4"]), "int4"),
        (graph_of("int8", "int8", rim="int8"), "int8"),
        (graph_of("uint8", rim="uint8"), "int8"),
        (graph_of("int8"), "int8-float-io"),
        (graph_of("int16", rim="int16"), "int16x8"),
        (graph_of("int8", "float32"), "mixed"),
        (graph_of(), "float32"),
    ],
)
def test_variants_are_called_what_they_are(graph, name):
    """As the conversion calls what it makes itself."""
    assert variant_name(graph) == name


def divided_by(divisor, name="FLOOR_MOD"):
    whole = Tensor(index=0, name="x", dtype="int32", shape=(1,))
    operator = Operator(index=0, name=name, inputs=(whole, divisor), outputs=(whole,))
    return Graph(inputs=(whole,), outputs=(whole,), operators=(operator,))


@pytest.mark.parametrize(
    ("graph", "risks"),
    [
        (divided_by(Tensor(index=1, name="y", dtype="int32", shape=(1,))), ("divisions of whole numbers (FLOOR_MOD)",)),
        (divided_by(Tensor(index=1, name="y", dtype="float32", shape=(1,)), "DIV"), ()),
        (divided_by(Tensor(index=1, name="y", dtype="int32", shape=(1,), data=np.ones(4, np.uint8))), ()),
        (replace(graph_of(), others=frozenset({"WHILE"})), ("a loop (WHILE)",)),
        (
            replace(graph_of(), others=frozenset({"WHILE", "FLOOR_DIV", "DIV"})),
            ("a loop (WHILE)", "divisions of whole numbers (FLOOR_DIV)"),
        ),
        (graph_of("float32"), ()),
    ],
)
def test_what_zeros_do_not_show_is_found(graph, risks):
    """Loops, and divisions of whole numbers by what a request gives: not by constants, nor of real numbers."""
    assert risks_of(graph) == risks


def test_a_file_with_a_loop_is_wrapped_with_a_warning(wrapped, tmp_path):
    """It ends on zeros, and never on ones: the note says that this was not tried, and what helps."""
    file = tmp_path / "loop.tflite"
    file.write_bytes(looping_model(by_value=True))
    note = wrapped(file).notes[-1]
    assert "has a loop (WHILE)" in note
    assert "isolation='process'" in note


def test_a_small_file_that_takes_gigabytes_is_refused(tmp_path, monkeypatch):
    """It is ended at the bound, however much the machine has, in a process as the command starts it."""
    monkeypatch.setattr(process_memory, "FIRST_RUN_BYTES", 200 * 2**20)
    file = tmp_path / "wide.tflite"
    file.write_bytes(wide_model(side=30_000))
    with pytest.raises(NoVariantMade, match=r"does not run.*\(limit: 20[0-9] MiB\)"):
        wrap(WrapOptions(model=file, name="wide", version=1, output=tmp_path / "packages"))
