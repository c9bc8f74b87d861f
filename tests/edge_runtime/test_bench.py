import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edge_models import publish_scale, scale_model, scale_signature

from converter.artifact import Manifest, Source, Variant, archive_path, decode_bench, publish
from converter.artifact.digest import file_entry
from devices import Machine
from edge_runtime import bench
from edge_runtime.bench_command import host_text
from edge_runtime.cli import main

FAST = ["--seconds", "0.001"]


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "packages"
    publish_scale(root, 1, 2.0)
    publish_scale(root, 2, 3.0)
    return root


@pytest.fixture
def mixed(tmp_path):
    """A package of a variant that runs, one that is no model and one for an accelerator."""
    contents = {"float32": scale_model(2.0), "broken": b"no model", "int8-edgetpu": b"for the Edge TPU"}
    files = {f"{name}.tflite": tmp_path / f"{name}.tflite" for name in contents}
    for name, content in contents.items():
        files[f"{name}.tflite"].write_bytes(content)
    entries = {name: file_entry(path) for name, path in files.items()}
    manifest = Manifest(
        format_version=2,
        model="mixed",
        version=1,
        signatures=(scale_signature(),),
        variants=tuple(
            Variant(
                name=name,
                file=f"{name}.tflite",
                size_bytes=len(content),
                signatures=(scale_signature(),),
                delegate="edgetpu" if "edgetpu" in name else "cpu",
            )
            for name, content in contents.items()
        ),
        chosen={"default": "float32"},
        source=Source(format="saved_model", digest="sha256:none"),
        files=entries,
    )
    return publish(files, manifest, tmp_path / "packages").path


def times(text):
    found = decode_bench(text.encode())
    return found, {name: [one.threads for one in entries] for name, entries in found.variants.items()}


def test_json_is_the_bench_file(packages, capsys):
    """The file names package, version, digest and this machine, and has an entry for each number of threads."""
    assert main(["bench", str(packages / "scale" / "1"), "--threads", "1,2", "--json", *FAST]) == 0
    found, threads = times(capsys.readouterr().out)
    assert (found.package, found.version, threads) == ("scale", 1, {"float32": [1, 2]})
    assert found.digest.startswith("sha256:")
    assert found.host
    assert all(one.runs >= bench.MIN_RUNS for one in found.variants["float32"])


def test_a_package_is_a_folder_an_archive_or_installed(packages, capsys):
    """A store's package is its latest version unless one is named."""
    for arguments, version in (
        ([str(archive_path(packages, "scale", 1))], 1),
        (["scale", "--store", str(packages)], 2),
        (["scale/1", "--store", str(packages)], 1),
    ):
        assert main(["bench", *arguments, "--json", *FAST]) == 0
        assert times(capsys.readouterr().out)[0].version == version


@pytest.mark.slow
def test_stderr_has_no_notes_of_litert(mixed):
    """Unless they are asked for; what else was written there comes through."""

    def stderr(*flags):
        program = (
            "import os, sys; from edge_runtime.cli import main; from edge_runtime import bench; time = bench.bench\n"
        )
        program += "def told(*given, **named): os.write(2, b'told\\n'); return time(*given, **named)\n"
        program += "bench.bench = told; sys.exit(main())"
        command = [sys.executable, "-c", program, *flags, "bench", str(mixed), "--variant", "float32", *FAST]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert stderr() == "told\n"
    assert "INFO: Created TensorFlow Lite XNNPACK delegate" in stderr("--debug")


def test_one_variant_that_fails_stops_no_other(mixed, capsys):
    """It is told with its reason; what needs an accelerator is left out."""
    assert main(["bench", str(mixed), "--json", *FAST]) == 0
    found, threads = times(capsys.readouterr().out)
    assert threads == {"float32": [1]}
    assert list(found.failed) == ["broken"]
    assert main(["bench", str(mixed), *FAST]) == 0
    out = capsys.readouterr().out
    assert "broken: not timed: " in out
    assert "edgetpu" not in out


def test_the_table_has_a_line_for_each_time(packages, capsys):
    """In the unit that fits, under headings."""
    assert main(["bench", str(packages / "scale" / "1"), "--threads", "1,2", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scale version 1 on ")
    assert lines[2].split() == ["variant", "threads", "median", "p90", "runs"]
    assert [line.split()[:2] for line in lines[3:]] == [["float32", "1"], ["float32", "2"]]
    assert lines[3].split()[3] == "µs"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{packages}/none"], 2, "give --store"),
        (["scale/3", "--store", "{packages}"], 2, "not installed; there are [1, 2]"),
        (["other", "--store", "{packages}"], 2, "there are ['mixed', 'scale']"),
        (["../scale", "--store", "{packages}"], 2, "'..'"),
        (["{package}", "--threads", "1,x"], 2, "'1,x'"),
        (["{package}", "--threads", "0"], 2, "from 1 to 256, got 0"),
        (["{package}", "--threads", "2,2"], 2, "different numbers"),
        (["{package}", "--seconds", "nan"], 2, "seconds: must be above 0"),
        (["{package}", "--variant", "int4"], 2, "there are float32, broken, int8-edgetpu"),
        (["{package}", "--variant", "int8-edgetpu"], 1, "needs the delegate 'edgetpu'"),
        (["{package}", "--variant", "broken"], 1, "no variant can be timed here: broken: "),
    ],
)
def test_what_cannot_be_timed_is_one_line_with_an_exit_code(packages, mixed, capsys, arguments, code, said):
    """As every other command's failure."""
    assert main(["bench", *(one.format(packages=packages, package=mixed) for one in arguments)]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def clock_of(steps):
    """A clock whose readings are these seconds apart; the last step for ever."""
    now_s, left = 0.0, list(steps)

    def clock():
        nonlocal now_s
        now_s += left.pop(0) if len(left) > 1 else left[0]
        return now_s

    return clock


def test_a_slow_model_is_still_called_often_enough():
    """Past its time a bench makes `MIN_RUNS` calls and no more, after the warm-up."""
    calls = io.StringIO()
    taken = bench.time_calls(lambda: calls.write("x"), 1.0, clock_of([10.0]))
    assert len(taken) == bench.MIN_RUNS
    assert len(calls.getvalue()) == bench.MIN_RUNS + bench.WARM_UP_RUNS


def test_a_fast_model_is_not_called_for_ever():
    """A clock that hardly moves ends at `MAX_RUNS`."""
    assert len(bench.time_calls(lambda: None, 1.0, clock_of([1e-9]))) == bench.MAX_RUNS


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_the_summary_is_the_calls(taken_s):
    """Nine of ten calls are within the p90, and the median is no more than it."""
    found = bench.summary(1, taken_s)
    assert found.runs == len(taken_s)
    assert found.median_us <= found.p90_us
    assert sum(one * 1e6 <= found.p90_us * 1.001 + 0.01 for one in taken_s) >= 0.9 * len(taken_s)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "Raspberry Pi 5", "cores": 4}, "Raspberry Pi 5, aarch64, 4 cores"),
        ({"cpu_model": "Xeon"}, "Xeon, aarch64"),
        ({}, "aarch64"),
    ],
)
def test_the_host_is_told_in_a_few_words(changes, text):
    """The board where it says what it is, else its processor."""
    described = dict.fromkeys(Machine.__struct_fields__) | {"architecture": "aarch64"} | changes
    assert host_text(Machine(**described)) == text


def test_json_goes_through_the_usual_tools(packages, capsys):
    """It is one JSON object on stdout, and nothing else is."""
    assert main(["bench", "scale/1", "--store", str(packages), "--json", *FAST]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == 1
