"""What is not on this machine: tests that need it are skipped, unless every test is asked for."""

import os

import pytest


def require(there, what):
    """Skips the test where something is missing that not everybody has; fails it where EDGE_TESTS_COMPLETE is set."""
    if there:
        return
    if os.environ.get("EDGE_TESTS_COMPLETE"):
        pytest.fail(f"{what} is not installed, and EDGE_TESTS_COMPLETE asks for every test")
    pytest.skip(f"{what} is not installed")


def needs(there, what):
    """The same for a test as a mark, which then runs, and fails by itself."""
    return pytest.mark.skipif(
        not there and not os.environ.get("EDGE_TESTS_COMPLETE"), reason=f"{what} is not installed"
    )
