import time

import psutil
import pytest
from support import tflite_files

from converter import edgetpu
from converter.edgetpu import find_compiler, is_compiled
from converter.errors import OptionInvalid, TaskTimedOut, VariantUnusable
from converter.graph import read
from devices.operators import EDGE_TPU_CACHE_BYTES

pytestmark = pytest.mark.slow

LIMIT_S = 60.0


@pytest.fixture
def run(server, tflite, tmp_path):
    """Compiles one of the files with the stand-in for the compiler."""

    def compiled(mode="all", name="int8", *, segments=1, limit_s=LIMIT_S, program=None):
        program = program or tflite_files.install_compiler(tmp_path / "bin", mode)
        file = tflite / f"{name}.tflite"
        return server.run(edgetpu.compile, LIMIT_S, file, tmp_path / "work", str(program), segments, limit_s)

    return compiled


def test_a_compiled_file_comes_with_the_compilers_own_report(run):
    """The file holds the custom operator and its old names; sizes and mapping are the log's, costs the graph's."""
    found = run()
    (file,) = found.files
    assert file.name == "model_edgetpu.tflite"
    assert is_compiled(file)
    graph = read(file)
    assert [one.name for one in graph.operators] == [edgetpu.CUSTOM_OPERATOR]
    (signature,) = graph.signatures
    assert (list(signature.inputs), list(signature.outputs)) == (["image"], ["scores"])
    assert signature.inputs["image"].shape == (1, 8, 8, 3)
    assert found.version == "16.0.384591198"
    assert (found.report.by, found.report.first_unmapped, found.report.macs_mapped) == ("compiler", None, 1.0)
    assert found.report.parameter_bytes == 8 * 1024
    assert found.report.cache_bytes == pytest.approx(EDGE_TPU_CACHE_BYTES, rel=1e-3)


def test_what_is_left_on_the_cpu_is_told_in_the_compilers_words(run):
    """Half of the operators are mapped; the first that is not is named, with the share of the work before it."""
    report = run("half").report
    assert [one.mapped for one in report.operators] == [True, True, False, False, False]
    assert report.operators[2].reason == "More than one subgraph is not supported"
    assert report.first_unmapped == 2
    assert report.macs_mapped == pytest.approx((36 * 16 * 27 + 36 * 16 * 9) / (36 * 16 * 36 + 5760))


def test_segments_come_in_their_order(run):
    """Two files by the compiler's names, one report over both."""
    found = run(segments=2)
    assert [file.name for file in found.files] == [f"model_segment_{place}_of_2_edgetpu.tflite" for place in (0, 1)]
    assert all(is_compiled(file) for file in found.files)
    assert [one.operator for one in found.report.operators][-1] == "SOFTMAX"
    assert all(one.mapped for one in found.report.operators)
    assert found.report.parameter_bytes == 16 * 1024


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("refuses", r"Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'.*\(exit code 1\)"),
        ("crashes", "edgetpu_compiler: Internal compiler error"),
        ("none", "none of the operators of model_edgetpu.tflite is mapped"),
        ("says-nothing", "edgetpu_compiler: "),
    ],
)
def test_a_failed_compilation_is_told_by_the_logs_line(run, mode, says):
    """A refusal, a crash, a file without use and no file at all are failures of the variant."""
    with pytest.raises(VariantUnusable, match=says):
        run(mode)


def gone(path, limit_s=10.0):
    """Whether the process whose id the file holds is dead, or is soon."""
    try:
        process = psutil.Process(int(path.read_text()))
        deadline = time.monotonic() + limit_s
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_compiler_that_hangs_is_killed_behind_its_script_too(run, tmp_path):
    """The limit is kept; the program that a shell script started is gone."""
    script = tflite_files.install_wrapper(
        tmp_path / "outer", tflite_files.install_compiler(tmp_path / "inner", "hangs")
    )
    with pytest.raises(VariantUnusable, match=r"killed after its time limit of 3 s"):
        run(program=script, limit_s=3.0)
    assert gone(tmp_path / "work" / "compiled" / "pid")


def test_a_compiler_is_gone_when_its_task_is_killed(server, tflite, tmp_path):
    """Where the task's own limit is the shorter one, nothing is left running either."""
    program = str(tflite_files.install_compiler(tmp_path / "bin", "hangs"))
    with pytest.raises(TaskTimedOut):
        server.run(edgetpu.compile, 3.0, tflite / "int8.tflite", tmp_path / "work", program, 1, LIMIT_S)
    assert gone(tmp_path / "work" / "compiled" / "pid")


def test_what_would_be_computed_wrongly_is_not_compiled(run):
    """Dense layers with a scale for each output: a compiler of 2021 takes the file, and one of the scales for all."""
    with pytest.raises(VariantUnusable, match=r"FULLY_CONNECTED at '.*': its weights have 10 scales"):
        run(name="int8_dense_scales")


def test_a_variable_size_that_can_not_be_fixed_is_refused_before_the_compiler_runs(server, tmp_path):
    """The reason is ours, not the compiler's."""
    server.run(tflite_files.build_variable, 60.0, tmp_path)
    program = str(tflite_files.install_compiler(tmp_path / "bin"))
    with pytest.raises(VariantUnusable, match="variable dimension besides the batch"):
        server.run(edgetpu.compile, LIMIT_S, tmp_path / "steps.tflite", tmp_path / "work", program, 1, LIMIT_S)


def test_the_compiler_is_found_on_path_or_where_it_was_given(tmp_path, monkeypatch):
    """A name, a path, PATH; not there is None, and refused only where it was asked for."""
    program = tflite_files.install_compiler(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler(None) is None
    assert find_compiler(str(program)) == program
    with pytest.raises(OptionInvalid, match="'no_such_program' is no program"):
        find_compiler("no_such_program")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_compiler(None) == program
    assert find_compiler("edgetpu_compiler") == program


def test_without_a_compiler_nothing_is_compiled(tmp_path, monkeypatch):
    """None, before the file is looked at."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert edgetpu.compile(tmp_path / "none.tflite", tmp_path / "work", None, 1, LIMIT_S) is None
