from pathlib import Path

import pytest

from edge_runtime import InvalidConfig
from edge_runtime.config import read_options
from edge_runtime.tls_options import ROLE_NAME, TlsOptions
from fallback_server.pki import authority


def test_folder_gives_defaults(tmp_path):
    """A folder alone opens the store with no server."""
    options = read_options(tmp_path, {})
    assert options.store == tmp_path
    assert options.fallbacks == ()
    assert (options.engines, options.threads, options.delegates, options.isolation) == (None, None, None, "auto")


def test_toml_with_keyword_over_it(tmp_path):
    """A TOML file holds every option, its store is relative to it, and a keyword wins."""
    file = tmp_path / "runtime.toml"
    file.write_text(
        'store = "packages"\nfallback = ["mdns", "10.0.0.7:8500"]\ninsecure = true\nthreads = 3\nengines = 2\n'
    )
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
        ({"delegates": []}, "delegates: at least one is needed"),
        ({"delegates": ["tpu"]}, "delegates: .*'tpu'.*edgetpu"),
        ({"delegates": ["cpu", "cpu"]}, "each once"),
        ({"models": {"digits": {"delegates": ["external:"]}}}, "delegates: .*external"),
        ({"models": {"digits": {"engine": 1}}}, "engine"),
        ({"models": {"digits": {"weight": 0}}}, "weight: must be from 0.01 to 100, got 0"),
        ({"isolation": "thread"}, "isolation"),
        ({"watchdog_factor": 0.5}, "watchdog_factor: must be from 1"),
        ({"max_streams": 0}, "max_streams: must be from 1"),
        ({"thread": 2}, "thread"),
        ({"fallback": "nowhere"}, "'host:port'.*'nowhere'"),
        ({"fallback": "host:0"}, "port from 1 to 65535"),
        ({"fallback": ["mdns", "host:99999"]}, "host:99999"),
        ({"fallback": "10.0.0.7:8500"}, "10.0.0.7:8500 would be spoken to in plain text.*`tls`.*or insecure"),
        ({"fallback": ["mdns", "gpu-1.local:8500"]}, "gpu-1.local:8500 would be spoken to in plain text"),
        ({"tls": {}}, "tls: `ca` or `pins`"),
        ({"tls": {"ca": "a", "certificate": "b"}}, "`certificate` and `key` go together"),
        ({"tls": {"pins": ["abc"]}}, "tls.pins: .*64 hexadecimal digits.*'abc'"),
        ({"tls": {"pins": ["0" * 64], "crl": "x"}}, "tls.crl: needs `ca`"),
        ({"tls": {"ca": "a", "server_name": "a b"}}, "tls.server_name: .*'a b'"),
        ({"tls": {"ca": "a", "cert": "b"}}, "cert"),
        ({"tls": {"ca": "a"}, "insecure": True}, "insecure: excludes `tls`"),
        ({"batch_sizes": (0,)}, "batch_sizes: must be from 1"),
        ({"max_queued_requests": 0}, "max_queued_requests"),
        ({"max_queued_bytes": 0}, "max_queued_bytes"),
        ({"poll_interval_s": 0.0}, "poll_interval_s"),
        ({"fetch_bytes_s": 10}, "fetch_bytes_s: must be from 1000 to"),
        ({"store": [1]}, "`store` must be the path"),
    ],
)
def test_refusals(tmp_path, given, said):
    """A wrong option is refused with its name, the bound and the value."""
    with pytest.raises(InvalidConfig, match=said):
        read_options(tmp_path, given)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"])
def test_plain_text_with_this_machine(tmp_path, address):
    """Nobody else hears what is said on loopback."""
    assert read_options(tmp_path, {"fallback": address}).addresses == (address,)


@pytest.mark.parametrize("address", ["[::ffff:10.0.0.7]:1", "localhost.evil:1", "127.0.0.1.evil:1", "[fe80::1]:1"])
def test_plain_text_with_others(tmp_path, address):
    """Names that look like this machine's, and are not, are others."""
    with pytest.raises(InvalidConfig, match="plain text"):
        read_options(tmp_path, {"fallback": address})


def test_files_of_tls_are_relative_to_the_toml(tmp_path, monkeypatch):
    """As the store is; those of keywords are relative to where the application is when it opens."""
    pin = "AB:" * 31 + "CD"
    file = tmp_path / "runtime.toml"
    file.write_text(f'store = "."\nfallback = "10.0.0.7:8500"\n[tls]\nca = "pki/ca.pem"\npins = ["{pin}"]\n')
    tls = read_options(file, {}).tls
    assert (tls.ca, tls.pins, tls.server_name) == (tmp_path / "pki" / "ca.pem", ("ab" * 31 + "cd",), ROLE_NAME)
    monkeypatch.chdir(tmp_path)
    options = read_options(file, {"tls": TlsOptions(ca=Path("other.pem"), token_file=Path("/t"))}).anchored()
    assert (options.tls.ca, options.tls.token_file) == (tmp_path / "other.pem", Path("/t"))


def test_the_role_that_devices_look_for_is_the_one_that_servers_have():
    """Two folders that may not import each other say the same name."""
    assert ROLE_NAME == authority.ROLE_NAME


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


def test_a_models_options_win_over_the_runtimes(tmp_path):
    """What a model does not say is as the runtime has it; what it says is its own."""
    file = tmp_path / "runtime.toml"
    file.write_text(
        'store = "."\ndelegates = ["edgetpu", "cpu"]\nthreads = 2\n'
        '[models.digits]\ndelegates = ["cpu"]\nisolation = "process"\nweight = 3\n'
    )
    options = read_options(file, {})
    own, other = options.of("digits"), options.of("faces")
    assert (own.delegates, own.isolation, own.threads, own.weight) == (("cpu",), "process", 2, 3.0)
    assert (other.delegates, other.isolation, other.threads, other.weight) == (("edgetpu", "cpu"), "auto", 2, 1.0)


def test_cache_is_in_the_users_cache_folder(tmp_path, monkeypatch):
    """What may be lost is kept where XDG says, and nowhere where None is given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert read_options(tmp_path, {}).cache == tmp_path / "cache" / "edge-runtime"
    assert read_options(tmp_path, {"cache": None}).cache is None


def test_relative_paths_are_those_of_the_opening(tmp_path, monkeypatch):
    """Store, cache and libraries stay where they were when the application changes its directory; names stay names."""
    monkeypatch.chdir(tmp_path)
    own = {"delegates": ["external:lib/d.so?level=2", "external:d.so", "cpu"]}
    given = {"cache": "kept", "edgetpu_library": "./e.so", "models": {"a": own}, **own}
    options = read_options("store", given).anchored()
    assert (options.store, options.cache) == (tmp_path / "store", tmp_path / "kept")
    assert options.edgetpu_library == str(tmp_path / "e.so")
    assert options.delegates == (f"external:{tmp_path}/lib/d.so?level=2", "external:d.so", "cpu")
    assert options.models["a"].delegates == options.delegates
    assert options.anchored() == options
    assert read_options("/store", {"edgetpu_library": "e.so", "cache": None}).anchored().edgetpu_library == "e.so"


def test_a_directory_that_is_gone_is_named(tmp_path, monkeypatch):
    """A relative path means nothing where the current directory was removed."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InvalidConfig, match="the current directory is gone"):
        read_options("store", {}).anchored()
