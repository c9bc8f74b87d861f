"""What fuzzers have found: inputs that a parser once answered with another error than its own, or not for long."""

import struct
import zipfile
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from fuzz.targets import TARGETS

from converter.arguments import read_config
from converter.errors import OptionInvalid
from converter.extras import DataInvalid, read_preprocess
from devices.errors import ProfileInvalid
from devices.profile import parse_profile
from edge_runtime.config import read_options
from edge_runtime.engine.state import is_stateful
from edge_runtime.errors import InvalidConfig
from edge_runtime.installing.inventory import QUOTA, read_quota
from edge_runtime.store import trust
from edge_runtime.store.store import Store
from fallback_server.access.certificates import CertificateReader
from fallback_server.access.file import read_access
from fallback_server.access.revocations import read_lists
from fallback_server.config import ConfigInvalid
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.notes import note_path, read_note
from fallback_server.core.unpacking import UnpackOptions, unpack
from fallback_server.package_info import STATEMENT, read_package
from fallback_server.toml_file import read_toml

LONG, DEEP, HEX = "x = " + "9" * 5000, "x = " + "[" * 5000, "x = 0x" + "f" * 5000


def read_policy(path):
    """Whether a store demands signatures, by this file."""
    policy = path.parent / trust.FOLDER / trust.POLICY
    policy.parent.mkdir()
    path.rename(policy)
    return trust.is_required(path.parent)


TOML = {
    "policy": (read_policy, InvalidConfig),
    "server": (read_toml, ConfigInvalid),
    "access": (read_access, ConfigInvalid),
    "device": (lambda path: read_options(path, {}), InvalidConfig),
    "profile": (lambda path: parse_profile(path.read_text(), origin="profile.toml"), ProfileInvalid),
    "preprocess": (lambda path: read_preprocess(path, ()), DataInvalid),
    "convert": (read_config, OptionInvalid),
}


@pytest.mark.parametrize("text", [LONG, DEEP, HEX], ids=["long", "deep", "hexadecimal"])
@pytest.mark.parametrize("reader", TOML)
def test_numbers_without_end_and_nesting_are_no_toml(tmp_path, reader, text):
    """Python's parser raises for them what is no error of TOML's."""
    read, refusal = TOML[reader]
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(refusal):
        read(tmp_path / "a.toml")


@pytest.mark.parametrize("reader", ["server", "access", "device"])
def test_a_key_of_a_million_parts_is_refused(tmp_path, reader):
    """Python's parser takes the square of them: an hour for a file of two megabytes."""
    read, refusal = TOML[reader]
    (tmp_path / "a.toml").write_text("a." * 1_000_000 + "b = 1")
    with pytest.raises(refusal, match="more than 1000 dots"):
        read(tmp_path / "a.toml")


@pytest.mark.parametrize("key", ["weight", "target_latency_ms", "shadow = {version = 1, share"])
def test_a_models_number_beyond_all_floats_is_refused(tmp_path, key):
    """And is not shown: it may be too long for that."""
    end = "}" if "{" in key else ""
    (tmp_path / "a.toml").write_text(f"[models.m]\nbase_path = '/m'\n{key} = 1{'0' * 400}{end}\n")
    with pytest.raises(ConfigInvalid, match="beyond 64 bits"):
        read_toml(tmp_path / "a.toml")


def test_a_demand_that_is_a_number_without_end_is_not_shown(tmp_path):
    """Python won't write it out."""
    (tmp_path / "a.toml").write_text("require_signature = 0x" + "f" * 5000)
    with pytest.raises(InvalidConfig, match="got a number that is too long"):
        read_policy(tmp_path / "a.toml")


def test_a_store_that_is_no_text_is_not_shown(tmp_path):
    """It may be a number that Python won't write out."""
    (tmp_path / "a.toml").write_text("store = 0x" + "f" * 5000)
    with pytest.raises(InvalidConfig, match="got a number that is too long"):
        read_options(tmp_path / "a.toml", {})


@pytest.mark.parametrize("name", ["\0", "\0a/"])
def test_a_zip_may_hold_a_name_without_a_character(tmp_path, name):
    """Names are cut at a 0, and Python's library fails at what is left of this one."""
    archive = tmp_path / "1.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("x" * len(name), b"content")
    archive.write_bytes(archive.read_bytes().replace(b"x" * len(name), name.encode()))
    (tmp_path / "into").mkdir()
    with pytest.raises(ArchiveRefused):
        unpack(archive, tmp_path / "into", UnpackOptions())


def test_files_of_json_may_be_nested_without_end(tmp_path):
    """A quota is refused by its name; a note and a package's statement are as none."""
    deep = '{"bytes": ' + "[" * 100_000
    (tmp_path / QUOTA).write_text(deep)
    with pytest.raises(InvalidConfig):
        read_quota(Store(tmp_path))
    version = tmp_path / "1"
    version.mkdir()
    (version / STATEMENT).write_text('{"a": ' + "[" * 100_000)
    assert read_package(version) is None
    note = note_path(version)
    note.parent.mkdir()
    note.write_text("[" * 4000)
    assert read_note(version) is None
    note.write_text('{"archive": "a", "size_bytes": Infinity, "mtime_ns": 1, "tree": "t"}')
    assert read_note(version) is None


def test_certificates_and_their_revocations_may_be_of_no_known_version():
    """Which cryptography tells by errors of its own kinds, some of them only when a part is looked at."""
    _, der, crl = TARGETS["certificates"].seeds()
    assert b"\2\1\2" in der
    assert CertificateReader().read(der) is not None
    assert CertificateReader().read(der.replace(b"\2\1\2", b"\2\1\5", 1)) is None
    with pytest.raises(ConfigInvalid, match="can't be read"):
        read_lists(crl.replace(b"AgEB", b"AgER", 1), b"")
    assert TARGETS["certificates"].read(crl) is None


def test_a_file_of_many_graphs_that_are_one_is_looked_at_for_a_while(tmp_path):
    """Its graphs' tensors are many more than its bytes: it is taken to keep state, which costs speed alone."""
    content = _many(3000)
    assert not is_stateful(content)
    assert is_stateful(_repeated(content, 3000))


def _many(count: int) -> bytes:
    """A TFLite file of one graph with so many tensors."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape = "x", [1]
    graph = schema.SubGraphT()
    graph.tensors = [tensor] * count
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _repeated(content: bytes, count: int) -> bytes:
    """The same, whose vector of graphs lies behind it now, and has the only one so many times."""
    out = bytearray(content + bytes(-len(content) % 4))
    (model,) = struct.unpack_from("<I", out)
    vtable = model - struct.unpack_from("<i", out, model)[0]
    field = model + struct.unpack_from("<H", out, vtable + 4 + 2 * 2)[0]
    vector = field + struct.unpack_from("<I", out, field)[0]
    graph = vector + 4 + struct.unpack_from("<I", out, vector + 4)[0]
    end = len(out)
    struct.pack_into("<I", out, field, end - field)
    places = range(end + 4, end + 4 + 4 * count, 4)
    # Offsets lead forward alone: so all of the file comes again behind them, with its graph.
    offsets = [places.stop + graph - place for place in places]
    return bytes(out) + struct.pack(f"<{count + 1}I", count, *offsets) + bytes(out)


def test_the_corpus_is_small():
    """It goes along with every copy of the project."""
    folder = Path(__file__).parent / "corpus"
    assert sum(path.stat().st_size for path in folder.glob("*")) < 2**20
