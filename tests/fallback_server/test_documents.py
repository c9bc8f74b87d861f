"""docs/tensorflow-serving.md and docs/operating.md leave out nothing that the code has, and name nothing else."""

import re
from pathlib import Path

import pytest
from support.rest_stand import halves, standing

from fallback_server.access.attempts import Attempts
from fallback_server.cli import _COMMANDS
from fallback_server.flag_table import DEFAULT_METRICS_PATH, FLAGS, REFUSED
from fallback_server.metrics import Metrics
from fallback_server.protocol import methods
from fallback_server.protocol.methods import Method
from fallback_server.sequences.figures import Ended, SequenceFigures
from fallback_server.transport import health

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SERVING = (DOCS / "tensorflow-serving.md").read_text("utf-8")
OPERATING = (DOCS / "operating.md").read_text("utf-8")

TESTS = sorted(set(re.findall(r"`([\w./]+\.py)::(\w+)`", SERVING + OPERATING)))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def rows(document):
    """The cells of every line of every table."""
    lines = [line for line in document.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def section(document, heading):
    """What stands below a heading, down to the next of its rank or above."""
    rank = heading.split(" ")[0]
    begin = document.index(f"\n{heading}\n") + len(heading)
    end = re.search(rf"\n#{{1,{len(rank)}}} ", document[begin:])
    return document[begin : begin + end.start()] if end else document[begin:]


def test_every_flag_stands_in_the_document():
    """TensorFlow Serving's in the table of flags or of refusals, ours beside them; and no other."""
    flags = section(SERVING, "## Flags")
    first = [set(re.findall(r"`--(\w+)`", row[0])) for row in rows(flags)]
    listed = set().union(*first)
    assert listed == {name for name, flag in FLAGS.items() if flag.serving} | set(REFUSED)
    assert sum(map(len, first)) == len(listed)
    ours = set(re.findall(r"`--(\w+)`", flags[flags.index("Ours alone") :]))
    assert ours == {name for name, flag in FLAGS.items() if not flag.serving}
    named = set(re.findall(r"`--(\w+)[=` ]", SERVING + OPERATING)) - {"switch", "flag", "noswitch"}
    operators = {"tls_ca", "tls_cert", "tls_key", "token_file", "timeout_s", "watch", "json", "label", "undo", "clear"}
    operators |= {"dir", "file", "name", "host", "days", "predict", "status", "admin"}
    assert named <= FLAGS.keys() | REFUSED.keys() | operators


def test_the_defaults_of_the_flags_are_the_code_s():
    """Where the table tells one: theirs / ours, or one for both."""
    for name, default in (
        ("port", "8500"),
        ("rest_api_timeout_in_ms", "30000"),
        ("max_num_load_retries", "5"),
        ("load_retry_interval_micros", "60000000"),
        ("num_load_threads", "2"),
        ("num_unload_threads", "1"),
        ("file_system_poll_wait_seconds", "1"),
        ("enable_batching", "true"),
        ("enable_model_warmup", "true"),
        ("saved_model_tags", "serve"),
    ):
        (told,) = [row[1] for row in rows(section(SERVING, "## Flags")) if row[0] == f"`--{name}`"]
        value = FLAGS[name].default
        assert told.rpartition("/ ")[2].strip("`") == default
        assert str(value).lower().removesuffix(".0") == default


def test_every_rpc_stands_in_the_document():
    """By its path, whoever has it."""
    offered = [each for module in (methods, health) for each in vars(module).values() if isinstance(each, Method)]
    assert len(offered) > 20
    assert [each.path for each in offered if f"`{each.path}`" not in SERVING] == []


def test_every_rest_path_stands_in_the_document(tmp_path):
    """With its method, and none that is not routed."""
    with standing({("half", 1): halves()}, tmp_path, metrics_path=DEFAULT_METRICS_PATH) as stand:
        routed = {f"{route.method} {route.path}" for route in stand.server.app.routes.routes}
    assert set(re.findall(r"`((?:GET|POST) /[^`]*)`", section(SERVING, "## REST"))) == routed


def test_every_metric_that_a_document_names_is_there():
    """TensorFlow Serving's and ours."""
    sequences = SequenceFigures()
    sequences.begun("m")
    sequences.answered("m", 2)
    sequences.ended("m", Ended.CLIENT)
    metrics = Metrics(catalog=list, sequences=sequences.snapshot, refused=Attempts().counts)
    metrics.batch(model="m", version=1, rows=1, padded_rows=1, queued_s=[0.1], run_s=0.1)
    metrics.load(model="m", version=1, seconds=1, ok=True)
    metrics.request(model="m", version=1, verb="Predict", entrypoint="GRPC", code="OK", latency_s=0.1)
    there = set(re.findall(r"^# TYPE (\S+) ", metrics.render()[0].decode(), re.MULTILINE))
    named = set(re.findall(r"(?::tensorflow:serving:|edge_fallback_)[:\w]*\w", SERVING + OPERATING))
    suffix = re.compile(r"_(total|sum|count|bucket)$")
    known = there | {suffix.sub("", name) for name in there}
    assert {name for name in named if not {name, suffix.sub("", name)} & known} == set()


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_a_test_that_a_document_names_exists(path, name):
    """Below tests/fallback_server/, or where its path begins with tests/."""
    file = ROOT / path if path.startswith("tests/") else ROOT / "tests" / "fallback_server" / path
    assert re.search(rf"^(async )?def {name}\(", file.read_text("utf-8"), re.MULTILINE), f"{path} has no {name}"


def test_every_table_has_as_many_cells_in_each_line():
    """A bar within a cell would move what follows it."""
    for document in (SERVING, OPERATING):
        for table in re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE):
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table[:200]


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_no_link_is_dead(document):
    """Files beside the document, and headings in it or in another."""
    for target in LINK.findall(document.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = document if not path else document.parent / path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, target


def test_every_command_stands_in_the_operators_document():
    """And shows what it is for."""
    assert [name for name in _COMMANDS if f"$ fallback-server {name} " not in OPERATING] == []
