import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.compiled_models import compiled_model
from support.converter_packages import CONTENT, manifest_for, publish_toy, write_files
from support.edge_models import scale_model, scale_signature

from converter import inspection
from converter.artifact import (
    Bench,
    Cascade,
    DigestMismatch,
    Latency,
    ManifestInvalid,
    PackageNotFound,
    Preprocess,
    Quantization,
    Variant,
    archive_path,
    encode_bench,
    publish,
)
from converter.artifact.digest import file_entry
from converter.compare import compare
from converter.errors import OptionInvalid, VariantUnusable
from converter.findings import Findings, VariantFindings, encode
from converter.report import table


def test_inspecting_says_what_the_manifest_says(tmp_path):
    """The directory and the archive give the same, each under its own path."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    archive = archive_path(tmp_path / "out", "toy", 1)
    found, packed = inspection.inspect(package.path).to_dict(), inspection.inspect(archive).to_dict()
    assert found["package"] == str(package.path)
    assert packed == {**found, "package": str(archive)}
    assert found["chosen"] == {"default": "float32"}
    assert [(one["name"], one["status"], one["size_bytes"]) for one in found["variants"]] == [
        ("float32", "ok", 500),
        ("int8", "ok", 150),
    ]


def test_a_damaged_package_is_not_inspected(tmp_path):
    """Nothing is shown of what can't be trusted."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    (package.path / "float32.tflite").write_bytes(b"x" * 500)
    with pytest.raises(DigestMismatch):
        inspection.inspect(package.path)
    with pytest.raises(PackageNotFound):
        inspection.inspect(tmp_path / "none")


@pytest.mark.slow
def test_verifying_runs_every_variant(cnn_package):
    """A package that was made here runs."""
    assert [one.status for one in inspection.verify(cnn_package[1] / "cnn-1.tar.gz").variants] == ["ok"] * 3


@pytest.mark.slow
def test_a_variant_that_does_not_run_is_a_failure_of_its_own(tmp_path):
    """Files that are whole but no models: each is told, and the command goes on."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    found = inspection.verify(package.path)
    assert [one.status for one in found.variants] == ["failed", "failed"]
    assert all(one.error for one in found.variants)
    shutil.rmtree(package.path)


FINDINGS = Findings(variants={"int8": VariantFindings()}, budget="0.5 points", notes=("A note.",))


def with_findings(tmp_path, data):
    content = {**CONTENT, "evaluation.json": data}
    files = write_files(tmp_path / "files", content)
    kept = manifest_for(write_files(tmp_path / "files"))
    entries = {name: file_entry(path) for name, path in files.items()}
    return publish(files, msgspec.structs.replace(kept, files=entries), tmp_path / "out")


def bench_file(tmp_path, measured, /, **changes):
    fields = {
        "format": 1,
        "package": "toy",
        "version": 1,
        "digest": measured.digest,
        "host": "a board",
        "variants": {"int8": (Latency(threads=4, median_us=2.0, p90_us=3.0, runs=9),)},
        "failed": {"float32": "too large"},
        **changes,
    }
    path = tmp_path / "bench.json"
    path.write_bytes(encode_bench(Bench(**fields)))
    return path


def test_findings_are_read_where_the_package_has_them(tmp_path):
    """Their notes are told with the package; without the file there is nothing to tell."""
    package = with_findings(tmp_path, encode(FINDINGS))
    found = inspection.examine(package.path)
    assert found.findings == FINDINGS
    assert found.result.notes == ("A note.",)
    assert inspection.findings_at(found.result) == FINDINGS
    assert inspection.examine(publish_toy(tmp_path / "other", tmp_path / "o2").path).findings == Findings()


@pytest.mark.parametrize("data", [b"{", b'{"variants": 3}', b"\xff\xfe", b"[" * 5_000])
def test_findings_that_are_none_are_the_packages_fault(tmp_path, data):
    """Whatever the digest says of them."""
    package = with_findings(tmp_path, data)
    with pytest.raises(ManifestInvalid, match=r"evaluation\.json"):
        inspection.inspect(package.path)


def test_the_threshold_of_the_cascade_is_told(tmp_path):
    """In the table for a person and in the JSON; of a variant without one nothing is said."""
    files = write_files(tmp_path / "files")
    made = manifest_for(files)
    cascade = Cascade(
        output="p", confidence="max", threshold=0.75, escalation_rate=0.26, accuracy=0.9, source_accuracy=0.91
    )
    variants = (made.variants[0], msgspec.structs.replace(made.variants[1], cascade=cascade))
    package = publish(files, msgspec.structs.replace(made, variants=variants), tmp_path / "out")
    found = inspection.inspect(package.path)
    told = [line for line in table(found).splitlines() if "for a server" in line]
    said = "26.00% of them, those with a confidence below 0.75 in 'p'; then 90.00% are right, and 91.00% by the server"
    assert told == [f"answers of int8 that are for a server: {said} alone"]
    assert [one["cascade"] for one in found.to_dict()["variants"]] == [None, msgspec.to_builtins(cascade)]


def test_a_devices_times_stand_beside_the_package(tmp_path):
    """Under the device's name; what could not be timed is a note."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    found = inspection.inspect(package.path, bench_file(tmp_path, package))
    assert found.bench_host == "a board"
    assert found.variants[1].bench == (Latency(threads=4, median_us=2.0, p90_us=3.0, runs=9),)
    assert found.variants[0].bench == ()
    assert found.notes == ("float32 could not be timed on a board: too large",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"package": "other"}, "is of other/1, the package is toy/1"),
        ({"version": 2}, "is of toy/2, the package is toy/1"),
        ({"digest": "sha256:1"}, "of another build of toy/1"),
        ({"variants": {"int4": ()}}, "the variant 'int4', which toy/1 lacks"),
    ],
)
def test_anothers_times_are_refused(tmp_path, changes, said):
    """Both are named."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    with pytest.raises(OptionInvalid, match=said):
        inspection.inspect(package.path, bench_file(tmp_path, package, **changes))


def test_a_bench_file_that_is_none_is_refused(tmp_path):
    """Missing, or something else."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    with pytest.raises(OptionInvalid, match="No such file"):
        inspection.inspect(package.path, tmp_path / "none.json")
    (tmp_path / "text.json").write_text("median: 3 ms")
    with pytest.raises(OptionInvalid, match="nothing that `edge-run bench --json` wrote"):
        inspection.inspect(package.path, tmp_path / "text.json")


def test_a_report_can_be_written_of_a_package(tmp_path):
    """From what lies in it alone; the result says where it is."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    found = inspection.inspect(package.path, report=tmp_path / "deep" / "report.html")
    assert found.report == str(tmp_path / "deep" / "report.html")
    assert "toy version 1" in (tmp_path / "deep" / "report.html").read_text("utf-8")


@pytest.mark.parametrize("report", [Path(), Path("folder")])
def test_a_report_that_would_be_a_folder_is_refused(tmp_path, report):
    """An empty path too, which is the current folder."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OptionInvalid, match="a directory, where a file"):
        inspection.inspect(package.path, report=tmp_path / report)


def test_a_file_that_the_manifest_does_not_list_is_refused_when_verified(tmp_path):
    """No digest vouches for it: a stray file, or a link; to look into the rest is no harm."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    for name in ("sub/stray", "link"):
        stray = package.path / name
        stray.symlink_to(tmp_path) if name == "link" else stray.write_text("x")
        with pytest.raises(DigestMismatch, match=f"{name}', which the manifest does not list"):
            inspection.verify(package.path)
        assert inspection.inspect(package.path).name == "toy"
        stray.unlink()


@pytest.mark.slow
def test_a_file_that_is_not_what_the_manifest_says_is_a_failure(tmp_path):
    """It runs, and its digest is right; but its tensors are another variant's, so a device would feed it wrongly."""
    files = write_files(tmp_path / "files", {"float32.tflite": scale_model(2.0), "int8.tflite": scale_model(3.0)})
    signature = scale_signature()
    stored = Quantization(scales=(0.5,), zero_points=(-3,))
    (x,) = (msgspec.structs.replace(one, dtype="int8", quantization=stored) for one in signature.inputs)
    kept = manifest_for(files)
    variants = tuple(
        msgspec.structs.replace(one, signatures=(said,))
        for one, said in zip(kept.variants, (signature, msgspec.structs.replace(signature, inputs=(x,))), strict=True)
    )
    manifest = msgspec.structs.replace(kept, signatures=(signature,), variants=variants, preprocess=Preprocess())
    package = publish(files, manifest, tmp_path / "out")
    first, second = inspection.verify(package.path).variants
    assert (first.status, second.status) == ("ok", "failed")
    assert "input 'x' is float32[-1, 4] in the file, the manifest says int8[-1, 4]" in second.error
    np.savez(tmp_path / "data.npz", x=np.ones((2, 4), np.float32))
    data = tmp_path / "data.npz"
    for names in (("float32", "int8"), ("int8", "float32")):
        with pytest.raises(VariantUnusable, match="input 'x' is float32"):
            compare(package.path, package.path, data=data, variants=names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (compiled_model(), "ok", "needs an Edge TPU"),
        (compiled_model("other-op"), "failed", "holds no edgetpu-custom-op"),
        (b"TFL3" * 40, "failed", "LiteRT can't load it"),
    ],
)
def test_what_an_edge_tpu_runs_is_looked_at(tmp_path, content, status, said):
    """It can't be run here; that it is what the compiler writes can be seen."""
    names = {"model_edgetpu.tflite": content, "plain.tflite": scale_model(2.0)}
    files = write_files(tmp_path / "files", names)
    entries = {name: file_entry(path) for name, path in files.items()}
    variants = tuple(
        Variant(
            name=name,
            file=file,
            size_bytes=entries[file].size_bytes,
            signatures=(scale_signature(),),
            delegate=delegate,
        )
        for name, file, delegate in (
            ("float32", "plain.tflite", "cpu"),
            ("int8-edgetpu", "model_edgetpu.tflite", "edgetpu"),
        )
    )
    manifest = msgspec.structs.replace(
        manifest_for(write_files(tmp_path / "toy")),
        signatures=(scale_signature(),),
        variants=variants,
        files=entries,
        preprocess=Preprocess(),
    )
    found = inspection.verify(publish(files, manifest, tmp_path / "out").path)
    assert [one.status for one in found.variants] == ["ok", status]
    assert said in " ".join([found.variants[1].error or "", *found.notes])
