"""SECURITY.md promises nothing that no test shows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w./]+\.py)::(\w+)`")

TABLES = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", DOCUMENT, re.MULTILINE)]
THREATS = [
    line
    for head, _, *lines in TABLES
    if head == "| who | what they would do | what stops them | shown by |"
    for line in lines
]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_there_are_threats():
    """To servers, to devices, and to what both stand on."""
    assert len(THREATS) > 20


@pytest.mark.parametrize("threat", THREATS, ids=lambda line: "-".join(cells(line)[1].split()[:6]))
def test_every_threat_is_met_by_tests_that_exist(threat):
    """Who, what they would do, what stops them, and at least one test of that, by its file and name."""
    assert len(cells(threat)) == 4
    named = NAMED.findall(cells(threat)[3])
    assert named
    assert NAMED.sub("", cells(threat)[3]).strip() == ""
    for path, name in named:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), f"{path}::{name}"


def test_every_test_that_is_named_anywhere_in_it_exists():
    """Outside of the tables, too."""
    for path, name in NAMED.findall(DOCUMENT):
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"


def test_its_links_lead_somewhere():
    """To files, and to headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENT):
        path, _, anchor = target.partition("#")
        text = (ROOT / path).read_text("utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
