"""`fallback-server check`: against real files, certificates and ports."""

import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.fallback_archives import SAVED_MODEL, link, write
from support.tls_files import CERTIFICATE, KEY, OTHER_KEY

from fallback_server import archive_check
from fallback_server.archive_check import archive_fault
from fallback_server.check_command import certificate_fault, check, look, model_warnings, port_fault
from fallback_server.cli import main
from fallback_server.config import TlsFiles
from fallback_server.core.archive import Unpacker
from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, VersionPolicy
from fallback_server.core.scan import read_archive
from fallback_server.core.servable import ServableId
from fallback_server.core.unpacking import UnpackOptions
from fallback_server.flags import parse
from fallback_server.settings import read


def version(folder, number, *, files=("saved_model.pb",)):
    for name in files:
        path = folder / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def run(*flags):
    return check(read(parse(flags)))


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (("saved_model.pb",), ""),
        (("saved_model.pbtxt",), ""),
        (("other",), "is not complete: saved_model.pb is missing"),
        (("saved_model.pb", "variables/variables.data-00000-of-00001"), "variables.index is missing"),
        (
            ("saved_model.pb", "variables/variables.index", "variables/variables.data-00001-of-00002"),
            "variables/variables.data-00000-of-00002 is missing",
        ),
    ],
)
def test_what_a_version_lacks(tmp_path, files, lacks):
    """The graph, the index, and every shard."""
    version(tmp_path, 3, files=files)
    found = look(tmp_path).versions[3]
    assert lacks in found
    assert bool(found) is bool(lacks)


def test_versions_are_numbers_as_folders_or_archives(tmp_path):
    """Leading zeros are allowed; other names, hidden ones and numbers that no int64 holds are none."""
    for name in ("1", "002", "x", ".3", "99999999999999999999"):
        version(tmp_path, name)
    for name in ("4.tar.gz", "5.zip", "6.tar.zst", "7.tar", "1.tgz"):
        (tmp_path / name).touch()
    assert sorted(look(tmp_path).versions) == [1, 2, 4, 5, 6]
    assert look(tmp_path / "none").fault == f"{tmp_path}/none can't be read: No such file or directory"


def config(**changes):
    return ModelConfig(**{"name": "m", "base_path": Path("/m"), **changes})


def specific(*versions):
    return VersionPolicy(kind=PolicyKind.SPECIFIC, versions=versions)


@pytest.mark.parametrize(
    ("changes", "versions", "warnings"),
    [
        ({}, {1: ""}, []),
        ({}, {1: "has no x", 2: ""}, []),
        ({}, {1: "", 2: "has no x"}, ["model m: version 2 has no x; it is waited for"]),
        ({"labels": {"a": 1}}, {1: "", 2: "has no x"}, ["model m: version 2 has no x; it is waited for"]),
        ({"version_policy": specific(1)}, {1: "has no x"}, ["model m: version 1 has no x; it is waited for"]),
        ({}, {}, ["model m: no version in /m; a version is a folder or an archive that is named by its number"]),
        ({"version_policy": specific(1, 3)}, {1: ""}, ["model m: version 3 is to be served, and is not in /m"]),
        (
            {"labels": {"a": 1}},
            {1: "", 2: ""},
            ["model m: label a waits for version 1, which is not served; 2 would be"],
        ),
        ({"traffic": {1: 1.0, 2: 1.0}}, {1: "", 2: ""}, ["model m: traffic names version 1, which is not served"]),
        ({"shadow": Shadow(version=3, share=1.0)}, {2: ""}, ["model m: shadow names version 3, which is not served"]),
        (
            {"version_policy": specific(3), "labels": {"a": 3}},
            {1: ""},
            ["model m: version 3 is to be served", "model m: label a waits for version 3, and none is served"],
        ),
    ],
)
def test_what_would_not_be_served_as_it_is_configured(changes, versions, warnings):
    """Labels, traffic and shadow should name versions that would be served."""
    found = model_warnings(config(**changes), versions)
    assert len(found) == len(warnings)
    assert all(one.startswith(text) for one, text in zip(found, warnings, strict=True)), found


def test_the_versions_served_are_those_that_the_server_would_choose(tmp_path, capsys):
    """An incomplete one displaces none; an archive that can't be unpacked does, and a warning says so."""
    for name in ("a", "b", "c", "d"):
        version(tmp_path / name, 2)
        version(tmp_path / name, 3)
    (tmp_path / "a" / "5").mkdir()
    (tmp_path / "b" / "4.tar.gz").write_text("junk")
    write(tmp_path / "c" / "4.tar.gz", SAVED_MODEL)
    write(tmp_path / "d" / "4.zip", {"readme": b"x"})
    (tmp_path / "server.toml").write_text("".join(f'[models.{name}]\nbase_path = "{name}"\n' for name in "abcd"))
    assert main(["check", str(tmp_path / "server.toml"), "--port=0", "--rest_api_port=0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line[1:2] == " "] == ["3", "none", "4", "none"]
    counts = "version 4 can't be loaded, and counts for the version policy all the same"
    assert [line for line in lines if line.startswith("warning")] == [
        f"warning: model a: version 5 in {tmp_path}/a/5 is not complete: saved_model.pb is missing; it is waited for",
        f"warning: model b: {counts}: {tmp_path}/b/4.tar.gz is truncated or damaged: Not a gzipped file (b'ju')",
        f"warning: model d: {counts}: {tmp_path}/d/4.zip: saved_model.pb is missing",
    ]


def test_a_large_archive_is_not_read_to_its_end(tmp_path, monkeypatch):
    """A check before each start has no time for that."""
    archive = write(tmp_path / "1.tar.gz", SAVED_MODEL | {"variables/x": b"x" * 100_000})
    archive.write_bytes(archive.read_bytes()[:-4])
    assert "damaged" in archive_fault(ServableId("m", 1), archive)
    monkeypatch.setattr(archive_check, "MAX_CHECKED_BYTES", 50_000)
    assert archive_fault(ServableId("m", 1), archive) == ""


REFUSED = {
    "a path out": [("../x", b"x")],
    "a link out": [("etc", link("/etc"))],
    "a link nowhere": [("words", link("assets/none"))],
    "too deep": [("a/b/c/saved_model.pb", b"graph")],
    "a folder as the graph": [("saved_model.pb", None)],
    "an empty graph": [("saved_model.pb", b"")],
    "a device": [("null", {"type": tarfile.CHRTYPE})],
    "a member twice": [("a", b"x"), ("a", b"y")],
    "a file as a folder": [("a", b"x"), ("a/b", b"y")],
    "no version": [("7/saved_model.pb", b"graph")],
    "a shard too few": [("variables/variables.data-00000-of-00002", b"x")],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_server_would_refuse_of_an_archive_is_found(tmp_path, name):
    """In its own words, and without a trace beside the archive."""
    members = REFUSED[name]
    graph = [] if any("saved_model" in path for path, _ in members) else [("saved_model.pb", b"graph")]
    archive = write(tmp_path / "m" / "1.tar.gz", [*graph, *members])
    fault = archive_fault(ServableId("m", 1), archive)
    assert [path.name for path in archive.parent.iterdir()] == ["1.tar.gz"]
    version = AspiredVersion(path=archive.parent / "1", fingerprint=read_archive(archive)[0], archive=archive)
    with pytest.raises(ArchiveRefused) as refused:
        Unpacker().prepare(ServableId("m", 1), version)
    strip = re.compile(r"/[^ ']*/")
    assert strip.sub("", fault) == strip.sub("", str(refused.value))


@pytest.mark.parametrize("members", [SAVED_MODEL, {"1/saved_model.pb": b"xx"}, SAVED_MODEL | {"b": link("assets")}])
def test_a_sound_archive_has_no_fault(tmp_path, members):
    """Also one whose links stay inside; but what is more than may be unpacked is found."""
    archive = write(tmp_path / "1.zip", members)
    assert archive_fault(ServableId("m", 1), archive) == ""
    assert "at most 1 are allowed" in archive_fault(ServableId("m", 1), archive, UnpackOptions(max_bytes=1))


def test_key_and_certificate():
    """They must belong together; the CA must be one."""
    assert certificate_fault(TlsFiles(key_pem=KEY, certificate_pem=CERTIFICATE, client_ca_pem=CERTIFICATE)) == ""
    assert "key values mismatch" in certificate_fault(TlsFiles(key_pem=OTHER_KEY, certificate_pem=CERTIFICATE))
    bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert "don't go together" in certificate_fault(TlsFiles(key_pem=KEY, certificate_pem=bad))
    assert "don't go together" in certificate_fault(
        TlsFiles(key_pem=KEY, certificate_pem=CERTIFICATE, client_ca_pem=bad)
    )


def test_ports():
    """Taken by somebody, on an address that is not here, or free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert port_fault("127.0.0.1", taken.getsockname()[1]) == "in use"
    assert port_fault("127.0.0.1", 0) == ""
    assert port_fault("192.0.2.1", 0).startswith("192.0.2.1:0 can't be listened on: ")


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    """Flags, files and network, each fault a line; a port that is in use is but a note.

    What a server starts with and waits for is a warning: a check before each start must not keep healthy models down.
    """
    version(tmp_path / "a", 1, files=("x",))
    (tmp_path / "models.toml").write_text(f"""
    [models.a]
    base_path = "{tmp_path}/a"
    labels = {{stable = 7}}
    [models.b]
    base_path = "{tmp_path}/b"
    """)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = [f"--port={port}", "--rest_api_port=0", "--mdns_interfaces=nosuch9", "--grpc_socket_path=/nosuch/a"]
        report = run(f"--config={tmp_path}/models.toml", *flags)
        assert f"note: --port={port} is in use at the moment" in report.lines
    texts = [
        "--grpc_socket_path=/nosuch/a: /nosuch is no directory",
        "--mdns_interfaces: nosuch9 is no interface or address of this machine",
    ]
    warned = [
        f"warning: model a: version 1 in {tmp_path}/a/1 is not complete: saved_model.pb is missing; it is waited for",
        "warning: model a: label stable waits for version 7, and none is served",
        f"warning: model b: {tmp_path}/b can't be read: No such file or directory; it is waited for",
    ]
    assert report.lines[-3:] == tuple(warned)
    assert len(report.faults) == len(texts), report.faults
    assert all(fault.startswith(text) for fault, text in zip(report.faults, texts, strict=True)), report.faults


def test_models_are_looked_at_also_where_flags_are_at_fault(tmp_path):
    """One fault doesn't hide another."""
    report = run(f"--model_base_path={tmp_path}", "--max_batch_size=0", "--mixed_precision=x")
    assert [fault.split()[0] for fault in report.faults] == ["--mixed_precision", "--max_batch_size"]
    assert report.lines[-1].startswith(f"warning: model default: no version in {tmp_path}; ")


def test_what_would_be_served_is_shown(tmp_path, capsys):
    """Addresses, batches, and a table of the models; exit code 0."""
    for number in (1, 2, 3):
        version(tmp_path / "a", number)
    version(tmp_path / "b", 7)
    (tmp_path / "server.toml").write_text(f"""
    port = 0
    allowed_batch_sizes = [2, 4]
    model_repository = "{tmp_path}"
    [models.a]
    base_path = "a"
    version_policy = "latest(2)"
    labels = {{stable = 2}}
    traffic = {{2 = 95, 3 = 5}}
    """)
    assert main(["check", str(tmp_path / "server.toml")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "gRPC on 127.0.0.1:any (plain text), REST on 127.0.0.1:any, metrics at /monitoring/prometheus/metrics",
        f"batches of up to 4 rows, {_threads(out)} at a time; in sizes 2, 4",
        "",
        "MODEL  VERSIONS SERVED  ON DISK  POLICY     LABELS    TRAFFIC    BASE PATH",
        f"a      2, 3             1, 2, 3  latest(2)  stable=2  2=95, 3=5  {tmp_path}/a",
        f"b      7                7        latest(1)  -         -          {tmp_path}/b",
    ]


def _threads(out):
    return out.split(" rows, ")[1].split()[0]


def test_a_shadow_is_shown_and_what_is_refused_leaves_no_empty_line(tmp_path, capsys):
    """A column where a model has one; and no blank line before a table or an error that stands alone."""
    version(tmp_path / "half", 1)
    version(tmp_path / "half", 2)
    config = tmp_path / "server.toml"
    text = '[models.half]\nbase_path = "half"\nversion_policy = "all"\nshadow = { version = 2, share = 0.25 }\n'
    config.write_text("bogus = 1\n" + text)
    assert main(["check", str(config)]) == 2
    out, err = capsys.readouterr()
    heading, row = out.splitlines()
    assert heading.split()[-4:] == ["TRAFFIC", "SHADOW", "BASE", "PATH"]
    assert row.split()[-4:] == ["-", "2:", "25", "%", str(tmp_path / "half")][-4:]
    assert err.count("\n") == 1
    assert main(["check", "--bogus"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_command_loads_neither_tensorflow_nor_grpc(tmp_path):
    """It is quick, and needs nothing of the extra; exit code 2 with the faults on stderr."""
    script = (
        "import sys; from fallback_server.cli import main\n"
        f"assert main(['check', '--model_base_path={tmp_path}/none', '--rest_api_port=0', '--port=0']) == 2\n"
        "assert not {'tensorflow', 'grpc._channel'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"fallback-server: error: --model_base_path={tmp_path}/none")
