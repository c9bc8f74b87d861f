"""Small packages without TensorFlow: their files are bytes that nobody runs."""

import io
import os
import signal
import sys
import tarfile
from pathlib import Path

from converter.artifact import (
    FORMAT_VERSION,
    InputPreprocess,
    Manifest,
    Preprocess,
    Quantization,
    Signature,
    Source,
    TensorSpec,
    Variant,
    publish,
)
from converter.artifact.digest import file_entry

CONTENT = {"float32.tflite": b"float" * 100, "sub/int8.tflite": b"int" * 50}


def signature(dtype="float32", quantization=None):
    return Signature(
        name="serving_default",
        inputs=(TensorSpec(name="image", dtype=dtype, shape=(-1, 8, 8, 1), quantization=quantization),),
        outputs=(TensorSpec(name="scores", dtype=dtype, shape=(-1, 10), quantization=quantization),),
        batch_axis=0,
    )


def write_files(folder, content=None):
    """The files of a package, not yet in one: by their path in it."""
    files = {}
    for name, data in (CONTENT if content is None else content).items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files[name] = path
    return files


def manifest_for(files, **changes):
    entries = {name: file_entry(path) for name, path in files.items()}
    int8 = signature("int8", Quantization(scales=(0.5,), zero_points=(-3,)))
    first, second = sorted(entries)
    fields = {
        "format_version": FORMAT_VERSION,
        "model": "toy",
        "version": 1,
        "signatures": (signature(),),
        "variants": (
            Variant(name="float32", file=first, size_bytes=entries[first].size_bytes, signatures=(signature(),)),
            Variant(name="int8", file=second, size_bytes=entries[second].size_bytes, signatures=(int8,)),
        ),
        "chosen": {"default": "float32"},
        "source": Source(format="saved_model", digest="sha256:0"),
        "files": entries,
        "labels": tuple("0123456789"),
        "preprocess": Preprocess(inputs={"image": InputPreprocess(scale=0.5)}),
        **changes,
    }
    return Manifest(**fields)


def publish_toy(folder, output, *, content=None, replace=False, **changes):
    """Publishes a toy package; `changes` are fields of its manifest."""
    files = write_files(folder, content)
    return publish(files, manifest_for(files, **changes), output, replace=replace)


def tar_gz(path, members):
    """Writes a `.tar.gz` of (TarInfo or name, bytes) pairs, whatever they are."""
    with tarfile.open(path, "w:gz") as tar:
        for head, data in members:
            info = tarfile.TarInfo(head) if isinstance(head, str) else head
            if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tree_bytes(root):
    """Every file's bytes by its path."""
    root = Path(root)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def die_while_publishing(folder, output, at):
    """Publishes and is killed with SIGKILL at the `at`th of the calls that touch the disk."""
    count = 0

    def die(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.mkdir", "shutil.copyfile") and str(output) in str(arguments):
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    files = write_files(folder)
    manifest = manifest_for(files)
    sys.addaudithook(die)
    publish(files, manifest, output)
