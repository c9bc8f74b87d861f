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
    placing,
    publish,
)
from converter.artifact.digest import file_entry

PUBLISHING = ("replace", "beside", "copy_to", "sign", "before_moving")

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


def publish_toy(folder, output, *, content=None, **options):
    """Publishes a toy package; options that `publish` does not have are fields of its manifest."""
    files = write_files(folder, content)
    own = {name: options.pop(name) for name in PUBLISHING if name in options}
    return publish(files, manifest_for(files, **options), output, **own)


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


STEPS = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree")
"""What Python tells audit hooks before it touches the disk."""


def stop_while_publishing(stop, folders, folder, output, at, **options):
    """Publishes a toy, and calls `stop` before the `at`th of the calls that touch the disk below `folders`."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event in STEPS and any(str(one) in str(arguments) for one in folders):
            count += 1
            if count == at:
                stop()

    own = {name: options.pop(name) for name in PUBLISHING if name in options}
    files = write_files(folder)
    manifest = manifest_for(files, **options)
    sys.addaudithook(hook)
    publish(files, manifest, output, **own)


def no_exchange():
    """From here on this process runs on a system that can't exchange two names in one step."""
    placing._exchange = lambda one, other: False


def die():
    """Ends the process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_publishing(folder, output, at, *, exchange=True, **options):
    """Publishes and is killed with SIGKILL at the `at`th of its steps on disk."""
    if not exchange:
        no_exchange()
    folders = [output, *filter(None, [options.get("copy_to")])]
    stop_while_publishing(die, folders, folder, output, at, **options)


class InterruptedHere(BaseException):
    """Stands for an exception that comes at any moment, as `KeyboardInterrupt`."""


def interrupt_while_publishing(folder, output, at, *, exchange=True, **options):
    """Publishes and is interrupted at the `at`th of its steps; the process ends with 1 then."""
    if not exchange:
        no_exchange()

    def interrupt():
        raise InterruptedHere

    folders = [output, *filter(None, [options.get("copy_to")])]
    try:
        stop_while_publishing(interrupt, folders, folder, output, at, **options)
    except InterruptedHere:
        sys.exit(1)
