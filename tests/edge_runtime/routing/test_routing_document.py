"""docs/routing.md leaves out no reason and no policy that the code has, and names no other."""

import re
from pathlib import Path

import pytest

from edge_runtime.remote import freshness, lanes, silence, word
from edge_runtime.routing import breaker, budget, hedging, policy, watch
from edge_runtime.scheduling import slot

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "routing.md").read_text("utf-8")
FLAT = " ".join(TEXT.split())


def first_cells(heading):
    """The first cells of the table below a heading, and its rows."""
    begin = TEXT.index(f"\n## {heading}\n")
    section = TEXT[begin : TEXT.index("\n## ", begin + 1)]
    return {re.match(r"\| `([^`]+)`", line)[1]: line for line in section.splitlines() if line.startswith("| `")}


def test_every_reason_stands_in_the_document():
    """Each with who answered, as the code has it, and no reason that there isn't."""
    rows = first_cells("Reasons")
    assert set(rows) == set(policy.REASONS)
    for reason, row in rows.items():
        assert row.split(" | ")[1] == policy.REASONS[reason].partition(":")[0].partition(" answers")[0]


def test_every_policy_stands_in_the_document():
    """And no other."""
    assert set(first_cells("Policies")) == set(policy.POLICIES)


@pytest.mark.parametrize(
    "said",
    [
        f"within {policy.SAFE_SHARE:.0%} of the time".replace("%", " %"),
        {1.5: "late by no more than a half"}[policy.HOPE],
        {3: "fails three times in a row"}[breaker.FAILURES_TO_OPEN],
        {0.5: "left alone for half a second"}[breaker.FIRST_OPEN_S],
        f"up to {breaker.LONGEST_OPEN_S:.0f} s",
        {1.0: "once a second while requests want servers"}[freshness.REFRESH_S],
        {10.0: "every ten seconds otherwise"}[freshness.IDLE_S],
        {0.1: "at most one call in ten"}[budget.RETRY_SHARE],
        {0.05: "at most one copy for twenty requests"}[budget.HEDGE_SHARE],
        f"run takes {watch.MIN_OWN_MS:.0f} ms or longer",
        {0.25: "a quarter of what it is expected to take"}[watch.SLACK_SHARE],
        {0.1: "a tenth of the time that the request had as a whole"}[watch.LENGTH_SHARE],
        f"({watch.SLACK_S * 1e3:.0f} ms at least, {watch.MOST_SLACK_S * 1e3:.0f} ms at most)",
        f"{watch.GLANCE_S * 1e3:.0f} ms apart at least",
        {2.0: "twice as late as predicted"}[watch.UNSURE_FACTOR],
        {2.0: "more than twice their time"}[slot.STALLED_FACTOR],
        f"longer than {hedging.SHARE * 100:.0f} in 100",
        f"at least {hedging.MIN_ANSWERS} of them",
        {3: "three times in a row, each after it had been asked anew"}[word.TIMES],
        {12: "(twelve times where it splits requests"}[word.SPLIT_TIMES],
        {10.0: "for ten seconds it counts as what it does"}[word.HELD_S],
        {0.25: "no look for a quarter of a second"}[silence.MUTE_S],
        {4: "or four round trips"}[silence.MUTE_TRIPS],
        {0.5: "half a second apart at most: where its server"}[silence.LONGEST_S],
        {2: "while two calls are under way"}[lanes.MAX_BARE_IN_FLIGHT],
    ],
)
def test_the_figures_are_the_codes(said):
    """A constant that is changed is changed in the document too."""
    assert said in FLAT


def test_what_it_points_to_is_there():
    """Links to headings and files, and benchmarks."""
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in TEXT.splitlines()}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        assert target[1:] in headings if target.startswith("#") else (DOCS / target).exists(), target
    for path in re.findall(r"`(benchmarks/\w+\.py)`", TEXT):
        assert (DOCS.parent / path).exists(), path
