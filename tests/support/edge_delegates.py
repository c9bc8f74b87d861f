"""A real external delegate of LiteRT, built with the system's C compiler, that fails in the ways accelerators fail.

`build` makes one for `external:/path/lib.so?option=value`, which claims float32 ADD and MUL and `edgetpu-custom-op`;
`build_edgetpu` makes a `libedgetpu.so.1`, which claims the latter alone and finds its options in the environment's
`FAKE_EDGETPU`, as `option=value;option=value`, because the runtime gives that library nothing but `device`.

Options (numbers in decimal, 0 for never; an unknown one makes the library refuse):

| option | what it does |
|---|---|
| `device` | which device: `usb:0`; kept, and seen in the files below |
| `only` | the faults are those of this device alone, others are well |
| `refuse`, `crash_on_load` | no delegate is made; making one crashes |
| `refuse_model` | no model is taken |
| `delay_ms` | every run takes this much longer |
| `stall_every`, `stall_ms` | every n-th run takes the latter instead |
| `fail_at`, `fail_every` | the n-th, every n-th run fails |
| `hang_at`, `abort_at`, `abort_every`, `segfault_at` | likewise: never returns, aborts, crashes |
| `vanish_file` | the device is there while this file is: else none can be made, and every run fails |
| `when_file` | runs go wrong only while this file is there; only such runs are counted |
| `count_file` | a byte is appended at each run, the last character of the device (`.` without one) |
| `record_file` | a line `device=...` is appended whenever a delegate is made |
| `lock_dir` | a folder: a device is held by one process, others are refused as the busy device refuses |

Runs are counted in a process from its start; with a `count_file` its bytes are the count, so that `abort_at` is once
and for all. Each folder's library counts for itself.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")

_SOURCE = Path(__file__).with_name("edge_delegate.c")


def build(folder: Path, name: str = "libtestdelegate.so") -> Path:
    """The library for `external:`, in `folder`."""
    return Path(shutil.copy(_compiled(edgetpu=False), folder / name))


def build_edgetpu(folder: Path, name: str = "libedgetpu.so.1") -> Path:
    """The library of the Edge TPU, in `folder`."""
    return Path(shutil.copy(_compiled(edgetpu=True), folder / name))


def device(library: Path, **options: object) -> str:
    """The device string of the library: `external:/path/lib.so?delay_ms=5`."""
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return f"external:{library}" + (f"?{query}" if query else "")


def environment(**options: object) -> str:
    """What `FAKE_EDGETPU` must be for these options."""
    return ";".join(f"{key}={value}" for key, value in options.items())


def count(file: Path, device: str = "") -> int:
    """How many runs a `count_file` has seen, on all devices or on those whose last character is `device`."""
    seen = file.read_text() if file.exists() else ""
    return seen.count(device) if device else len(seen)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="delegates-")


@functools.cache
def _compiled(*, edgetpu: bool) -> Path:
    """Compiled once a process, which takes half a second."""
    assert COMPILER, "ask COMPILER first"
    library = Path(_folder().name) / ("edgetpu.so" if edgetpu else "external.so")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    flavour = ["-DEDGETPU"] if edgetpu else []
    subprocess.run([COMPILER, *flags, *flavour, "-o", str(library), str(_SOURCE), "-lm"], check=True)
    return library
