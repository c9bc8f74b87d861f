"""Real models, each with one number changed, that end the process of whoever runs them."""

import contextlib
import os
import random

import flatbuffers
import msgspec
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.edge_models import publish_scale, rows
from support.edge_stores import leftovers, state
from support.tflite_files import shipped

from converter.artifact import publish
from converter.artifact.digest import file_entry
from edge_runtime import EngineFailed, PackageRefused, Runtime
from edge_runtime.bare import bare_manifest
from edge_runtime.installing.first_run import try_package
from edge_runtime.installing.install import install

WAKE_WORD = shipped("pymicro-wakeword", "hey_jarvis.tflite")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WAKE_WORD, reason="pymicro-wakeword is not installed"),
]


def changed(content, change):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def writes_to(operator, tensor):
    """An operator of the second graph writes to another one's tensor."""

    def change(model):
        model.subgraphs[1].operators[operator].outputs = [tensor]

    return change


CRASHING = {
    "writes to the resource of another": writes_to(0, 4),
    "writes over an input": writes_to(8, 1),
    "writes over what comes later": writes_to(6, 10),
}
"""Found by changing numbers at random, with LiteRT 2.3."""


def package_of(content, folder):
    """A package of these bytes, which says of them what is true of the whole model."""
    manifest, _ = bare_manifest(WAKE_WORD)
    folder.mkdir()
    file = folder / "model.tflite"
    file.write_bytes(content)
    entry = file_entry(file)
    variant = msgspec.structs.replace(manifest.variants[0], file="model.tflite", size_bytes=entry.size_bytes)
    hostile = msgspec.structs.replace(
        manifest, model="hostile", variants=(variant,), files={"model.tflite": entry}, labels=()
    )
    return publish({"model.tflite": file}, hostile, folder / "out")


@pytest.mark.parametrize("name", CRASHING)
def test_a_model_that_crashes_is_refused_and_the_application_lives(tmp_path, name):
    """A child process crashes in place of this one, which answers on meanwhile; the store is as it was."""
    root = tmp_path / "store"
    install(publish_scale(tmp_path / "packages", 1, 2.0).path, root, trial=None)
    before = state(root)
    hostile = package_of(changed(WAKE_WORD.read_bytes(), CRASHING[name]), tmp_path / "hostile")
    with Runtime.open(root, cache=None, poll_interval_s=0.05) as runtime:
        with pytest.raises(PackageRefused, match=r"hostile/1 crashes its process on its first run.*killed by SIG"):
            install(hostile.path, root)
        assert runtime.model("scale").predict({"x": rows(1)}).outputs["y"].tolist() == (2 * rows(1)).tolist()
    assert state(root) == before
    assert not leftovers(root)


def variants_of(folder, contents):
    """A package of a variant for each (content, what changes what the manifest says of it); the first is chosen."""
    manifest, _ = bare_manifest(WAKE_WORD)
    files, variants = {}, []
    for number, (content, change) in enumerate(contents):
        file = files[f"{number}.tflite"] = folder / f"{number}.tflite"
        file.write_bytes(content)
        size_bytes = file_entry(file).size_bytes
        variant = msgspec.structs.replace(
            manifest.variants[0], name=f"v{number}", file=file.name, size_bytes=size_bytes
        )
        variants.append(change(variant))
    entries = {name: file_entry(file) for name, file in files.items()}
    several = msgspec.structs.replace(
        manifest, model="hostile", variants=tuple(variants), chosen={"default": "v0"}, files=entries, labels=()
    )
    return publish(files, several, folder / "out")


@pytest.mark.parametrize("evil", [0, 1])
def test_no_variant_that_crashes_is_installed(tmp_path, evil):
    """Neither the chosen one nor another, which the application may ask for later; it is named."""
    contents = [WAKE_WORD.read_bytes()] * 2
    contents[evil] = changed(contents[evil], CRASHING["writes over an input"])
    package = variants_of(tmp_path, [(content, lambda variant: variant) for content in contents])
    with pytest.raises(PackageRefused, match="crashes its process" + (".*variant v1, signature" if evil else "")):
        install(package.path, tmp_path / "store")
    assert not leftovers(tmp_path / "store")


def test_no_variant_that_crashes_hides_behind_one_that_needs_more_memory_than_there_is(tmp_path):
    """Which is passed over: nobody can run that here."""
    sound = WAKE_WORD.read_bytes()
    most = 2**31 - 1

    def widen(model):
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = [-1, most, most]

    def widened(variant):
        signature = variant.signatures[0]
        wide = msgspec.structs.replace(signature.inputs[0], shape=(-1, most, most))
        signature = msgspec.structs.replace(signature, inputs=(wide, *signature.inputs[1:]))
        return msgspec.structs.replace(variant, signatures=(signature, *variant.signatures[1:]))

    evil = changed(sound, CRASHING["writes over an input"])
    package = variants_of(
        tmp_path, [(sound, lambda same: same), (changed(sound, widen), widened), (evil, lambda same: same)]
    )
    with pytest.raises(PackageRefused, match=r"crashes its process.*variant v2, signature"):
        install(package.path, tmp_path / "store")


@pytest.mark.parametrize("seed", range(int(os.environ.get("EDGE_FUZZ_MODELS", "2"))))
def test_bytes_changed_at_random_are_installed_or_refused(tmp_path, seed):
    """Whatever comes of them in the child, it is one of our errors here. EDGE_FUZZ_MODELS says how many are tried."""
    chance = random.Random(seed)
    content = bytearray(WAKE_WORD.read_bytes())
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    root = tmp_path / "store"
    with contextlib.suppress(PackageRefused, EngineFailed):
        install(package_of(bytes(content), tmp_path / "hostile").path, root, trial=_try_briefly)
    assert set(state(root)) <= {"hostile"}
    assert not leftovers(root)


def _try_briefly(package):
    return try_package(package, limit_s=60.0)
