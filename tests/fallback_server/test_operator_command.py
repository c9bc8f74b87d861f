"""`fallback-server status|reload|label|split|rollback`, over real gRPC."""

import http.server
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading

import grpc
import pytest
from support.operator_servers import OperatorServer
from support.tls_files import CERTIFICATE, KEY

from fallback_server.catalog_tables import catalog_lines
from fallback_server.cli import main
from fallback_server.protocol.proto import edge_pb2 as edge


def a_catalog():
    half = edge.Model(name="half", labels={"stable": 12, "canary": 13}, default_version=13, traffic={12: 95, 13: 5})
    half.versions.add(version=12, state=30, package_fingerprint="sha256:0123456789abcdef")
    half.versions.add(version=13, state=30, queued_rows=7, expected_wait_ms=12.34)
    whole = edge.Model(name="whole", default_version=1)
    whole.versions.add(version=1, state=30)
    whole.versions.add(version=2, state=50, error="LoadFailed: no signature")
    return edge.CatalogUpdate(server_id="s-1", revision=3, models=[half, whole])


TABLE = [
    "MODEL  VERSION  STATE      LABELS  TRAFFIC   QUEUE     WAIT  PACKAGE",
    "half        13  AVAILABLE  canary      5 %  7 rows  12.3 ms  -",
    "half        12  AVAILABLE  stable     95 %       -        -  0123456789ab",
    "whole        2  END        -             -       -        -  -",
    "whole        1  AVAILABLE  -         100 %       -        -  -",
    "whole 2: LoadFailed: no signature",
]


@pytest.fixture
def server():
    with OperatorServer() as one:
        one.catalog = a_catalog()
        yield one


def run(capsys, *words):
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.strip()


def test_status_is_a_table(server, capsys):
    """A line for each version, newest first, and why loads have failed below."""
    assert run(capsys, "status", server.address) == (0, TABLE, "")
    assert run(capsys, "status", server.address, "whole")[1] == [
        "MODEL  VERSION  STATE      LABELS  TRAFFIC  QUEUE  WAIT  PACKAGE",
        "whole        2  END        -             -      -     -  -",
        "whole        1  AVAILABLE  -         100 %      -     -  -",
        TABLE[-1],
    ]
    server.catalog = edge.CatalogUpdate(server_id="s-1")
    assert run(capsys, "status", server.address)[1] == ["s-1 serves no model"]


def test_status_says_what_runs_a_version_and_why(server, capsys):
    """A column, and below it the choice between two forms with its figures."""
    m = edge.Model(name="m", default_version=1)
    m.versions.add(version=1, state=30, executor="litert", choice="LiteRT serves; median times: ...")
    m.versions.add(version=2, state=20)
    server.catalog = edge.CatalogUpdate(server_id="s-1", models=[m])
    assert run(capsys, "status", server.address)[1] == [
        "MODEL  VERSION  STATE      LABELS  TRAFFIC  QUEUE  WAIT  EXECUTOR  PACKAGE",
        "m            2  LOADING    -             -      -     -  -         -",
        "m            1  AVAILABLE  -         100 %      -     -  litert    -",
        "m 1: LiteRT serves; median times: ...",
    ]


def test_status_shows_models_without_versions_and_labels_that_wait(server, capsys):
    """With the reason, in the table and as JSON; and what an operator should know of a version that answers."""
    note = "base path /srv/later can't be read: No such file or directory"
    later = edge.Model(name="later", note=note, waiting_labels={"next": 9})
    m = edge.Model(name="m", default_version=1)
    m.versions.add(version=1, state=30, error="its files changed")
    server.catalog = edge.CatalogUpdate(server_id="s-1", models=[later, m])
    assert run(capsys, "status", server.address) == (
        0,
        [
            "MODEL  VERSION  STATE      LABELS  TRAFFIC  QUEUE  WAIT  PACKAGE",
            "later        -  -          -             -      -     -  -",
            "m            1  AVAILABLE  -         100 %      -     -  -",
            f"later: {note}",
            "later: label next waits for version 9",
            "m 1: its files changed",
        ],
        "",
    )
    assert run(capsys, "status", server.address, "later")[1][-2:] == [
        f"later: {note}",
        "later: label next waits for version 9",
    ]
    (model,) = json.loads(run(capsys, "status", server.address, "later", "--json")[1][0])["models"]
    assert (model["note"], model["waiting_labels"], model["versions"]) == (note, {"next": 9}, [])


def test_a_reload_of_which_not_all_can_be_served(server, capsys):
    """The server's own words, and exit code 1: it was not refused; a reload that takes long may go on."""
    text = "1 servable(s) did not become available: {{name: later}: no version in /srv/later}"
    server.refuse_with = (grpc.StatusCode.UNKNOWN, text)
    code, _, err = run(capsys, "reload", server.address)
    assert (code, err) == (1, f"fallback-server: error: {server.address}: {text}")
    server.refuse_with = (grpc.StatusCode.DEADLINE_EXCEEDED, "")
    code, _, err = run(capsys, "reload", server.address)
    assert (code, err.partition("not answer ")[2]) == (
        1,
        "within 60 s; what was reloaded may still be loading: see its status",
    )


def test_status_as_json(server, capsys):
    """For programs: numbers as numbers."""
    code, (line,), _ = run(capsys, "status", server.address, "half", "--json")
    shown = json.loads(line)
    assert (code, shown["server_id"], shown["revision"]) == (0, "s-1", 3)
    (model,) = shown["models"]
    assert (model["labels"], model["traffic"]) == ({"canary": 13, "stable": 12}, {"12": 95.0, "13": 5.0})
    assert model["versions"][1] == {
        "version": 13,
        "state": "AVAILABLE",
        "error": "",
        "package_fingerprint": "",
        "preprocessing_fingerprint": "",
        "queued_rows": 7,
        "expected_wait_ms": 12.34,
        "executor": "",
        "choice": "",
    }


def test_a_shadow_and_a_rollback_are_shown(server, capsys):
    """A column where there is a shadow, a line where a rollback holds; and both as JSON."""
    server.catalog.models[0].shadow.CopyFrom(edge.Shadow(version=13, share=0.25))
    server.catalog.models[0].hold.CopyFrom(edge.Hold(version=12, above=13))
    server.catalog.models[1].hold.CopyFrom(edge.Hold(version=1))
    lines = run(capsys, "status", server.address)[1]
    assert lines[:2] == [
        "MODEL  VERSION  STATE      LABELS  TRAFFIC  SHADOW   QUEUE     WAIT  PACKAGE",
        "half        13  AVAILABLE  canary      5 %    25 %  7 rows  12.3 ms  -",
    ]
    assert lines[5:] == [
        "half: rolled back to version 12, until a version above 13 is available",
        "whole 2: LoadFailed: no signature",
        "whole: rolled back to version 1",
    ]
    half, whole = json.loads(run(capsys, "status", server.address, "--json")[1][0])["models"]
    assert (half["shadow"], whole["shadow"]) == ({"version": 13, "share": 0.25}, None)
    assert half["rolled_back"] == {"version": 12, "above": 13}
    assert whole["rolled_back"] == {"version": 1, "above": None}


@pytest.mark.parametrize(
    ("gone", "default", "shares", "told"),
    [
        ({13}, 12, {"12": 1.0}, [(13, 12)]),
        ({12, 13}, 14, {"14": 1.0}, [(12, 14), (13, 14)]),
    ],
)
def test_traffic_is_what_requests_get(server, capsys, gone, default, shares, told):
    """Of a split, those versions that are available; of one of which none is, the highest version; and that is told."""
    half = server.catalog.models[0]
    half.versions.add(version=14, state=30)
    half.default_version = default
    for version in half.versions:
        version.state = 50 if version.version in gone else 30
    lines = run(capsys, "status", server.address, "half")[1][1:]
    answers = [line.split()[1] for line in lines[:3] if "100 %" in line]
    assert answers == list(shares)
    assert sum("%" in line for line in lines) == 1
    assert lines[3:] == [
        f"half: version {absent} of the split is not available: requests that name no version get version {instead}"
        for absent, instead in told
    ]
    (model,) = json.loads(run(capsys, "status", server.address, "half", "--json")[1][0])["models"]
    assert (model["shares"], model["traffic"]) == (shares, {"12": 95.0, "13": 5.0})


def test_colours_are_for_terminals_alone():
    """They take no room in the table; a pipe has none."""
    coloured = catalog_lines(a_catalog(), colours=True)
    assert "\x1b[32mAVAILABLE\x1b[0m" in coloured[1]
    assert "\x1b[31mEND\x1b[0m      " in coloured[3]
    assert catalog_lines(a_catalog(), colours=False) == TABLE


def test_what_the_changes_say(server, capsys):
    """What has changed, from what to what; and the requests that went."""
    where = server.address
    assert run(capsys, "label", where, "half", "stable=13")[:2] == (
        0,
        ["half: label stable points to version 13; before: 12"],
    )
    assert run(capsys, "label", where, "half", "stable=")[1] == ["half: label stable is taken away; before: 12"]
    moved = [
        "half: version 13 -> 12",
        "  requests that name no version: version 12 95 %, version 13 5 % -> version 12",
        "  label stable: version 13 -> version 12",
    ]
    assert run(capsys, "rollback", where, "half")[1] == [*moved, "  --undo takes it back"]
    assert run(capsys, "rollback", where, "half", "--label=stable")[1][0] == moved[0]
    assert run(capsys, "rollback", where, "half", "--undo")[1] == moved
    split = ["half: requests that name no version: version 12; before: version 12 95 %, version 13 5 %"]
    assert run(capsys, "split", where, "half", "12=95", "13=.5")[1] == split
    assert run(capsys, "split", where, "half", "--clear")[1] == split
    assert run(capsys, "reload", where)[1] == ["reloaded: a, b"]
    assert server.asked == [
        edge.SetLabelRequest(model="half", label="stable", version=13),
        edge.SetLabelRequest(model="half", label="stable"),
        edge.RollbackRequest(model="half"),
        edge.RollbackRequest(model="half", label="stable"),
        edge.RollbackRequest(model="half", undo=True),
        edge.SetTrafficRequest(model="half", traffic={12: 95, 13: 0.5}),
        edge.SetTrafficRequest(model="half"),
        edge.ReloadRequest(),
    ]
    shown = json.loads(run(capsys, "rollback", where, "half", "--json")[1][0])
    assert (shown["to_version"], shown["moves"][0]["before"]) == (12, {"12": 0.95, "13": 0.05})
    assert json.loads(run(capsys, "split", where, "half", "--clear", "--json")[1][0])["after"] == {"12": 1.0}
    assert json.loads(run(capsys, "reload", where, "--json")[1][0]) == {"models": ["a", "b"], "removed": []}
    server.reloaded.removed.append("c")
    assert run(capsys, "reload", where)[1] == ["reloaded: a, b; removed: c"]


def test_a_rollback_tells_what_really_moves(server, capsys):
    """A label alone, or nothing."""
    del server.rolled.moves[0]
    label = ["half: label stable alone", "  label stable: version 13 -> version 12"]
    assert run(capsys, "rollback", server.address, "half", "--undo")[1] == label
    del server.rolled.moves[:]
    assert run(capsys, "rollback", server.address, "half", "--undo")[1] == ["half: requests get what they got before"]


def test_refusals_are_one_line(server, capsys):
    """The server's own text, and exit code 1."""
    text = "Request to assign label to version 14 of model half, which is not currently available for inference"
    server.refuse_with = (grpc.StatusCode.FAILED_PRECONDITION, text)
    for words in (["label", server.address, "half", "stable=14"], ["rollback", server.address, "half"]):
        assert run(capsys, *words) == (1, [], f"fallback-server: error: {server.address} refused: {text}")
    expected = "fallback-server: error: no model none here; there is: half, whole"
    assert run(capsys, "status", server.address, "none") == (1, [], expected)


def test_nobody_listens(capsys):
    """Said at once, in one line."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        address = f"127.0.0.1:{one.getsockname()[1]}"
    for command in (["status", address], ["reload", address]):
        assert run(capsys, *command) == (1, [], f"fallback-server: error: nobody listens at {address}")


def test_a_server_that_does_not_answer(capsys):
    """It is given up after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, _, err = run(capsys, "status", address, "--timeout_s=0.2")
    assert (code, err) == (1, f"fallback-server: error: {address} did not answer within 0.2 s")


def test_status_of_a_plain_tensorflow_serving(capsys):
    """Models that are named have their states; what it doesn't tell is said to be unknown."""
    with OperatorServer(ours=False) as plain:
        plain.states = {"half": {2: (30, ""), 1: (50, "no memory")}}
        code, lines, _ = run(capsys, "status", plain.address, "half")
        assert (code, lines[:4]) == (
            0,
            [
                "MODEL  VERSION  STATE",
                "half         2  AVAILABLE",
                "half         1  END",
                "half 1: no memory",
            ],
        )
        assert lines[4].startswith("the server tells states alone, as TensorFlow Serving does")
        shown = json.loads(run(capsys, "status", plain.address, "half", "--json")[1][0])
        assert shown["models"][0]["versions"][1] == {"version": 1, "state": "END", "error": "no memory"}
        assert "name them: status HOST:PORT MODEL" in run(capsys, "status", plain.address)[2]
        assert "refused: Could not find any versions of model x" in run(capsys, "status", plain.address, "x")[2]
        assert "is no fallback-server" in run(capsys, "rollback", plain.address, "half")[2]


def test_tls(tmp_path, capsys):
    """With the CA it is spoken; without, or with another, one line says what may be amiss."""
    (tmp_path / "ca.pem").write_bytes(CERTIFICATE)
    credentials = grpc.ssl_server_credentials([(KEY, CERTIFICATE)])
    with OperatorServer(credentials=credentials) as server:
        code, lines, _ = run(capsys, "status", server.address, f"--tls_ca={tmp_path}/ca.pem")
        assert (code, lines) == (0, ["s-1 serves no model"])
        code, _, err = run(capsys, "status", server.address)
        assert (code, err.endswith("does it speak TLS? --tls_ca=FILE")) == (1, True)
    with OperatorServer() as server:
        code, _, err = run(capsys, "status", server.address, f"--tls_ca={tmp_path}/ca.pem")
        assert (code, err.endswith("is the server's certificate signed by that CA?")) == (1, True)


def test_a_port_that_speaks_http_1(capsys):
    """REST's port beside gRPC's is easily taken for it."""

    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as rest:
        threading.Thread(target=rest.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{rest.server_port}"
        expected = f"fallback-server: error: {address} speaks HTTP/1 and no gRPC: is it the port for REST?"
        assert run(capsys, "status", address) == (1, [], expected)
        rest.shutdown()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["status"], "HOST:PORT is missing"),
        (["status", "host"], "HOST:PORT is expected, got 'host'"),
        (["label", "a:1"], "MODEL is missing"),
        (["label", "a:1", "m"], "LABEL=VERSION is missing"),
        (["label", "a:1", "m", "stable"], "LABEL=VERSION is expected, got 'stable'"),
        (["label", "a:1", "m", "stable=x"], "LABEL=VERSION is expected, got 'stable=x'"),
        (["label", "a:1", "m", "stable=0"], "a label can't point to version 0"),
        (["rollback", "a:1"], "MODEL is missing"),
        (["rollback", "a:1", "m", "n"], "'n' is one word too many"),
        (["reload", "a:1", "--watch"], "--watch belongs to status"),
        (["status", "a:1", "--label=x"], "--label belongs to rollback"),
        (["status", "a:0"], "a port must be from 1 to 65535, got 0"),
        (["status", "a:65536"], "a port must be from 1 to 65535, got 65536"),
        (["status", "http://a:1"], "HOST:PORT is expected, got 'http://a:1'"),
        (["rollback", "a:1", ""], "a model needs a name"),
        (["rollback", "a:1", "m", "--undo", "--label=x"], "--undo takes the latest rollback back"),
        (["reload", "a:1", "--undo"], "--undo belongs to rollback"),
        (["status", "a:1", "--clear"], "--clear belongs to split"),
        (["split", "a:1", "m"], "VERSION=WEIGHT is missing; --clear ends a split"),
        (["split", "a:1", "m", "12=x"], "VERSION=WEIGHT is expected, such as 12=95, got '12=x'"),
        (["split", "a:1", "m", "12=-1"], "VERSION=WEIGHT is expected, such as 12=95, got '12=-1'"),
        (["split", "a:1", "m", "12=1", "012=2"], "version 12 is given two weights"),
        (["split", "a:1", "m", "12=1", "--clear"], "--clear takes no weights, got '12=1'"),
        (["status", "a:1", "--timeout_s=0"], "--timeout_s must be over 0 and at most 86400, got 0.0"),
        (["status", "a:1", "--jsn"], "--jsn is no flag; did you mean --json?"),
        (["status", "a:1", "--tls_ca=/nonexistent"], "--tls_ca=/nonexistent: No such file or directory"),
        (["status", "a:1", "--tls_key=/dev/null"], "TLS needs --tls_ca"),
        (["status", "a:1", "--tls_ca=/dev/null"], "--tls_ca=/dev/null holds no PEM certificate"),
        (["status", "a:1", "--tls_ca=/dev/zero"], "--tls_ca=/dev/zero: larger than 1048576 bytes"),
    ],
)
def test_command_lines_that_cannot_be_meant(words, text, capsys):
    """Exit code 2, before anybody is asked."""
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, [])
    assert text in err


def test_help(capsys):
    """Of all commands, with the exit codes."""
    code, out, _ = run(capsys, "rollback", "--help")
    assert code == 0
    assert any("--label=LABEL" in line for line in out)
    assert any(line.startswith("exit code: 0 done; 1 ") for line in out)


@pytest.mark.slow
def test_watch_redraws_a_terminal_and_ends_with_the_server(server):
    """The whole table with the time at every change of it, the screen cleared; exit code 1 when the server goes."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "fallback_server.cli", "status", server.address, "whole", "--watch"]
    process = subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, text=True)
    os.close(slave)
    shown = b""
    killer = threading.Timer(60, process.kill)
    killer.start()
    while b"no signature" not in shown:
        shown += os.read(master, 4096)
    other = a_catalog()
    other.models[0].versions[0].queued_rows += 1
    server.publish(other)  # It tells nothing new of the model that is asked for.
    changed = a_catalog()
    changed.models[1].versions[1].error = "mended soon"
    server.publish(changed)
    while b"mended soon" not in shown:
        shown += os.read(master, 4096)
    server.end_watches()
    assert process.wait(30) == 1
    assert process.stderr.read() == "fallback-server: error: the server has ended the watch\n"
    assert shown.count(b"\x1b[H\x1b[2J") == 2
    assert len(re.findall(rb"\[3J20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\r\nMODEL ", shown)) == 2
    assert b"\x1b[31mEND\x1b[0m" in shown
    killer.cancel()
    os.close(master)
