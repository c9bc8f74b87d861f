"""Runs edgetpu_compiler where there is one. It is Google's, a program for x86-64 Linux, last released in 2021."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from converter import graph_edit
from converter.edgetpu import compiler_log
from converter.edgetpu.mapping import CUSTOM_OPERATOR, assemble, foretell
from converter.edgetpu.rules import wrong_unnoticed
from converter.edgetpu.static import static_batch
from converter.errors import OptionInvalid, VariantUnusable
from converter.findings import EdgeTpuReport
from converter.graph import Graph, read

PROGRAM = "edgetpu_compiler"

MAX_LOG_BYTES = 2**20
"""Of the compiler's output: a line for each kind of operator. What is over is cut off."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler made of a file.

    Attributes:
        files: The compiled file, or its segments in the order in which they run. A single file has the signature of
            what was compiled.
        report: What is mapped, by the compiler's own log.
        version: The compiler's, as it says it; empty where it does not.
    """

    files: tuple[Path, ...]
    report: EdgeTpuReport
    version: str


def find_compiler(compiler: str | None) -> Path | None:
    """The program: at the path or by the name that was given, else `edgetpu_compiler` on PATH; None if not there.

    Raises:
        OptionInvalid: one was given and is not there, or can't be run.
    """
    found = shutil.which(compiler or PROGRAM)
    if found is None:
        if compiler is None:
            return None
        raise OptionInvalid(f"Edge TPU compiler: {compiler!r} is no program, neither as a path nor on PATH")
    return Path(found).absolute()


def compile(  # noqa: A001  the program's own verb
    file: Path, folder: Path, compiler: str | None, segments: int, time_limit_s: float
) -> Compiled | None:
    """Compiles a full int8 file for the Edge TPU, with fixed sizes and a batch of one. Only in a child.

    Args:
        file: The TFLite file; it is not changed.
        folder: Where the compiler works and its files are left; made if absent, and must not hold other things.
        compiler: See `find_compiler`.
        segments: Into how many files the model is cut, at least 1; more than one for as many Edge TPUs in a row.
        time_limit_s: The compiler is killed after this many seconds.

    Returns:
        None where no compiler was given and none is there.

    Raises:
        OptionInvalid: see `find_compiler`.
        VariantUnusable: it can't be compiled; the message has the line of the compiler's log that says why. Likewise
            for what the compiler would take and compute wrongly.
    """
    program = find_compiler(compiler)
    if program is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    source, out = folder / "model.tflite", folder / "compiled"
    static_batch(file, source)
    graph = read(source)
    for operator in graph.operators:
        if why := wrong_unnoticed(operator):
            raise VariantUnusable(f"{operator.name} at {operator.output_name!r}: {why}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [str(program), "-s", "-o", str(out)]
    if segments > 1:
        command += ["-n", str(segments)]
    code, log = _run([*command, str(source)], folder, time_limit_s)
    files = _written(out, source.stem, segments)
    missing = [one.name for one in files if not one.is_file()]
    if code or missing:
        raise VariantUnusable(f"{PROGRAM}: {compiler_log.fault(log)}{f' (exit code {code})' if code > 0 else ''}")
    for one in files:
        if not read(one).uses(CUSTOM_OPERATOR):
            raise VariantUnusable(f"{PROGRAM}: none of the operators of {one.name} is mapped to the Edge TPU")
    if segments == 1:
        _keep_signature(graph, files[0])
    return Compiled(files=files, report=_report(graph, log), version=compiler_log.version(log))


def _written(out: Path, stem: str, segments: int) -> tuple[Path, ...]:
    """The names that the compiler gives to its files."""
    if segments == 1:
        return (out / f"{stem}_edgetpu.tflite",)
    return tuple(out / f"{stem}_segment_{index}_of_{segments}_edgetpu.tflite" for index in range(segments))


def _run(command: list[str], folder: Path, time_limit_s: float) -> tuple[int, str]:
    """Its exit code, and the end of what it wrote."""
    # A file and not a pipe: a pipe would be held open by what a killed wrapper leaves running.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise VariantUnusable(f"{PROGRAM}: {command[0]} can't be run: {error.strerror}") from error
        try:
            code = process.wait(time_limit_s)
        except subprocess.TimeoutExpired as error:
            _kill_tree(process.pid)
            process.wait()
            raise VariantUnusable(f"{PROGRAM}: killed after its time limit of {time_limit_s:g} s") from error
        output.seek(max(0, output.seek(0, os.SEEK_END) - MAX_LOG_BYTES))
        return code, output.read(MAX_LOG_BYTES).decode(errors="replace")


def _kill_tree(pid: int) -> None:
    """The process and what it has started: the compiler comes behind a shell script."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
            _kill_tree(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _keep_signature(graph: Graph, compiled: Path) -> None:
    """Gives the compiled file the names of the signature that it came from: a compiler of 2021 knows of none."""
    found = read(compiled)
    if not graph.signatures or len(graph.signatures) > 1 or found.signatures:
        return
    signature = graph.signatures[0]
    inputs = {tensor.index: name for name, tensor in signature.inputs.items()}
    outputs = {tensor.index: name for name, tensor in signature.outputs.items()}
    model = graph_edit.load(compiled)
    graph_edit.set_signature(
        model,
        signature.name,
        [inputs[one.index] for one in graph.inputs],
        [outputs[one.index] for one in graph.outputs],
    )
    graph_edit.save(model, compiled)


def _report(graph: Graph, log: str) -> EdgeTpuReport:
    found = compiler_log.sections(log)
    foretold = [one.mapped for one in foretell(graph).operators]
    reasons: list[str] = []
    for number, section in enumerate(found):
        start = len(reasons)
        # The segments cut the graph one after another; the last one has what is left.
        stop = len(graph.operators) if number == len(found) - 1 else start + sum(row.count for row in section.rows)
        names = [one.name for one in graph.operators[start:stop]]
        reasons += compiler_log.statuses(names, foretold[start:stop], section.rows)
    if not found:
        raise VariantUnusable(f"{PROGRAM}: its log can't be read: {compiler_log.fault(log)}")
    return assemble(
        graph,
        reasons,
        by_rules=False,
        parameter_bytes=sum(one.on_chip_bytes + one.streamed_bytes for one in found),
        cache_bytes=sum(one.on_chip_bytes + one.remaining_bytes for one in found),
    )
