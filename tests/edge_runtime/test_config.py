from pathlib import Path

import pytest

from edge_runtime import InvalidConfig
from edge_runtime.config import read_options


def test_folder_gives_defaults(tmp_path):
    """A folder alone opens the store with no server."""
    options = read_options(tmp_path, {})
    assert options.store == tmp_path
    assert options.fallbacks == ()
    assert options.engines == 1


def test_toml_with_keyword_over_it(tmp_path):
    """A TOML file holds every option, its store is relative to it, and a keyword wins."""
    file = tmp_path / "runtime.toml"
    file.write_text('store = "packages"\nfallback = ["mdns", "10.0.0.7:8500"]\nthreads = 3\nengines = 2\n')
    options = read_options(file, {"engines": 4})
    assert options.store == tmp_path / "packages"
    assert options.fallbacks == ("mdns", "10.0.0.7:8500")
    assert options.addresses == ("10.0.0.7:8500",)
    assert (options.threads, options.engines) == (3, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engines": 0}, "engines: must be from 1 to 256, got 0"),
        ({"threads": "two"}, "threads"),
        ({"thread": 2}, "thread"),
        ({"fallback": "nowhere"}, "'host:port'.*'nowhere'"),
        ({"fallback": "host:0"}, "port from 1 to 65535"),
        ({"fallback": ["mdns", "host:99999"]}, "host:99999"),
        ({"batch_sizes": (0,)}, "batch_sizes: must be from 1"),
        ({"max_queued_requests": 0}, "max_queued_requests"),
        ({"max_queued_bytes": 0}, "max_queued_bytes"),
        ({"poll_interval_s": 0.0}, "poll_interval_s"),
        ({"store": [1]}, "`store` must be the path"),
    ],
)
def test_refusals(tmp_path, given, said):
    """A wrong option is refused with its name, the bound and the value."""
    with pytest.raises(InvalidConfig, match=said):
        read_options(tmp_path, given)


def test_ipv6_address(tmp_path):
    """An IPv6 server is written in brackets."""
    assert read_options(tmp_path, {"fallback": "[::1]:8500"}).addresses == ("[::1]:8500",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engines = ", "no valid TOML"),
        ("engines = 2", "`store`.*missing"),
        ("store = [1]", r"`store` must be the path.*\[1\]"),
        ("store = 1", "`store` must be the path.*got 1"),
        ('store = ""', "`store` must be the path"),
        ("store = " + "[" * 100_000, "no valid TOML"),
    ],
)
def test_bad_toml(tmp_path, text, said):
    """A file that is no TOML, or names no store that could be a folder, is refused."""
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=said):
        read_options(file, {})


def test_missing_toml():
    """A file that is not there is refused by name."""
    with pytest.raises(InvalidConfig, match=r"absent\.toml: can't be read"):
        read_options(Path("absent.toml"), {})
