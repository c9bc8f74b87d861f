"""What operators and users write: text protos, TOML, certificates."""

from __future__ import annotations

import datetime as dt
import functools
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz.places import from_file
from fuzz.target import Target
from google.protobuf import text_format

from converter.artifact import Signature, TensorSpec
from converter.extras import DataInvalid, read_preprocess
from devices.errors import ProfileInvalid
from devices.profile import load_profiles, parse_profile
from edge_runtime.config import read_options
from edge_runtime.errors import InvalidConfig
from fallback_server import config_file
from fallback_server.access import certificates
from fallback_server.access.file import parse_access
from fallback_server.access.known_lists import KnownLists
from fallback_server.access.revocations import read_lists
from fallback_server.config import ConfigInvalid
from fallback_server.pki.authority import Authority, Pair, make_authority
from fallback_server.protocol.proto import model_config_pb2
from fallback_server.toml_file import read_toml

_PROTO_WORDS = (
    *(b"{", b"}", b"[", b"]", b"<", b">", b":", b";", b'"', b"'", b"#", b"\n", b"true", b"value", b"\\x00", b"\\777"),
    *(b"-1", b"0", b"9" * 30, b"0x7fffffff", b"1e400", b"nan", b"inf", b"[type.googleapis.com/x] {", b"\xff", b"\\U0"),
)

_MODELS = b"""model_config_list {
  config {
    name: "m" base_path: "/models/m" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 versions: 2 } }
    version_labels { key: "stable" value: 1 }
    traffic { weights { key: 1 value: 0.5 } weights { key: 2 value: 0.5 } }
    shadow { version: 2 share: 0.5 }
    sequence { signature: "step" state { key: "h" value: "h_out" } }
    weight: 2 target_latency_ms: 5 executor: "litert"
  }
}
"""
_BATCHING = b"""max_batch_size { value: 32 } batch_timeout_micros { value: 1000 } num_batch_threads { value: 4 }
max_enqueued_batches { value: 8 } thread_pool_name { value: "pool" } allowed_batch_sizes: 8 allowed_batch_sizes: 32
pad_variable_length_inputs: true enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }
"""

_TOML_WORDS = (
    *(b"[", b"]", b"[[", b"]]", b"{", b"}", b"=", b".", b",", b'"', b'"""', b"'", b"'''", b"#", b"\n", b"\r", b"\\u"),
    *(b"a.a.", b"1979-05-27T07:32:00Z", b"25:61:00", b"0x", b"nan", b"-inf", b"1e999", b"true", b"9" * 5000, b"\xff"),
    *(b"[a", b"[models.m]", b"x=", b"{a=", b"a={a=", b"1_0", b"\\uD800", b"\\UFFFFFFFF", b"\0"),
)

_SERVER_TOML = b"""rest_api_port = 8501
model_repository = "models"
[models.digits]
base_path = "digits"
version_policy = "latest(2)"
labels = { stable = 1, canary = 2 }
traffic = { 1 = 0.9, 2 = 0.1 }
shadow = { version = 2, share = 0.5 }
sequence = { signature = "step", state = { h = "h_out" } }
weight = 2
target_latency_ms = 5.0
[models.other]
base_path = "/other"
version_policy = [1, 3]
"""
_ACCESS_TOML = b"""[anonymous]
status = ["*"]
[tokens.line-3]
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
predict = ["press-*"]
[certificates."press-*"]
predict = ["press-*"]
[models.payroll]
only = ["line-3", "press-7"]
"""
_DEVICE_TOML = b"""store = "packages"
fallback = ["mdns", "10.0.0.7:8500"]
insecure = true
delegates = ["edgetpu:usb:0", "cpu"]
engines = 2
cascade = 0.5
fetch = "follow"
[models.digits]
policy = "prefer_server"
weight = 2.0
"""
_PREPROCESS_TOML = b"""[inputs.x]
decode = "image"
resize = [224, 224]
crop = 0.875
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[inputs.y]
fields = [{ name = "a" }, { name = "b", categories = ["c", "d"] }]
"""


def _text(read: Callable[[str], object]) -> Callable[[bytes], None]:
    """The reader of a text as one of bytes; who reads the file refuses what is no UTF-8."""

    def read_bytes(data: bytes) -> None:
        read(data.decode("utf-8"))

    return read_bytes


_SPEC = TensorSpec(name="x", dtype="float32", shape=(-1, 224, 224, 3))
_SIGNATURE = Signature(
    name="serving_default",
    inputs=(_SPEC, TensorSpec(name="y", dtype="float32", shape=(-1, 2))),
    outputs=(TensorSpec(name="z", dtype="float32", shape=(-1, 3)),),
    batch_axis=0,
)


_NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@functools.cache
def _pair() -> Pair:
    return make_authority("Plant", now=_NOW)


def _ssl_seed() -> bytes:
    config = model_config_pb2.SSLConfig(
        server_key=_pair().key_pem.decode(), server_cert=_pair().certificate_pem.decode(), client_verify=True
    )
    config.custom_ca = config.server_cert
    return text_format.MessageToString(config).encode()


def _read_certificate(data: bytes) -> None:
    """Half of it is a certificate, in DER or PEM; half a list of those that are revoked."""
    certificates.CertificateReader().read(data)
    read_lists(data, make_authority_pem())


def make_authority_pem() -> bytes:
    """The authority's certificate."""
    return _pair().certificate_pem


def _certificate_seeds() -> list[bytes]:
    authority = Authority(_pair().certificate_pem, _pair().key_pem)
    leaf = authority.device("press-7", now=_NOW).certificate_pem
    return [leaf, ssl.PEM_cert_to_DER_cert(leaf.decode()), authority.revocations([(7, _NOW)], 1, now=_NOW)]


_CONFIG = ("fallback_server.config_file", "fallback_server.config_proto", "fallback_server.model_list")
_SETTINGS = ("fallback_server.toml_file", "fallback_server.access", "fallback_server.model_list", "tomllib")

TARGETS: Sequence[Target] = (
    Target(
        name="model_config",
        read=from_file(config_file.read_model_configs, ".config"),
        refusals=(ConfigInvalid,),
        seeds=lambda: [_MODELS],
        words=_PROTO_WORDS,
        modules=_CONFIG,
    ),
    Target(
        name="batching",
        read=from_file(config_file.read_batching, ".pbtxt"),
        refusals=(ConfigInvalid,),
        seeds=lambda: [_BATCHING],
        words=_PROTO_WORDS,
        modules=_CONFIG,
    ),
    Target(
        name="monitoring",
        read=from_file(config_file.read_metrics_path, ".config"),
        refusals=(ConfigInvalid,),
        seeds=lambda: [b'prometheus_config { enable: true path: "/metrics" }'],
        words=_PROTO_WORDS,
        modules=_CONFIG,
    ),
    Target(
        name="ssl_config",
        read=from_file(config_file.read_tls, ".config"),
        refusals=(ConfigInvalid,),
        seeds=lambda: [_ssl_seed()],
        words=_PROTO_WORDS,
        modules=_CONFIG,
    ),
    Target(
        name="server_toml",
        read=from_file(read_toml, ".toml"),
        refusals=(ConfigInvalid,),
        seeds=lambda: [_SERVER_TOML],
        words=_TOML_WORDS,
        modules=_SETTINGS,
        max_bytes=2**14,
    ),
    Target(
        name="access_toml",
        read=_text(lambda text: parse_access(text, Path("access.toml"))),
        refusals=(ConfigInvalid, UnicodeDecodeError),
        seeds=lambda: [_ACCESS_TOML],
        words=_TOML_WORDS,
        modules=_SETTINGS,
        max_bytes=2**14,
    ),
    Target(
        name="device_toml",
        read=from_file(lambda path: read_options(path, {}), ".toml"),
        refusals=(InvalidConfig,),
        seeds=lambda: [
            _DEVICE_TOML,
            b'store = "p"\nfallback = "mdns"\n[tls]\nca = "ca.pem"\npins = ["%s"]\n' % (b"0" * 64),
        ],
        words=_TOML_WORDS,
        modules=("edge_runtime.config", "tomllib"),
        max_bytes=2**14,
    ),
    Target(
        name="profile_toml",
        read=_text(lambda text: parse_profile(text, origin="profile.toml")),
        refusals=(ProfileInvalid, UnicodeDecodeError),
        seeds=lambda: [
            path.read_bytes() for path in sorted(Path("devices/profiles").glob("*.toml")) if load_profiles()
        ],
        words=_TOML_WORDS,
        modules=("devices", "tomllib"),
        max_bytes=2**14,
    ),
    Target(
        name="preprocess_toml",
        read=from_file(lambda path: read_preprocess(path, _SIGNATURE), ".toml"),
        refusals=(DataInvalid,),
        seeds=lambda: [_PREPROCESS_TOML],
        words=_TOML_WORDS,
        modules=("converter.extras", "converter.artifact", "tomllib"),
        max_bytes=2**14,
    ),
    Target(
        name="certificates",
        read=_read_certificate,
        refusals=(ConfigInvalid,),
        seeds=_certificate_seeds,
        modules=("fallback_server.access",),
    ),
    Target(
        name="known_lists",
        read=from_file(lambda path: KnownLists(path).check([], make_authority_pem()), ".json"),
        refusals=(ConfigInvalid,),
        seeds=lambda: [b'{"lists": [{"authority": "a:b", "name": "CN=Plant", "number": 7, "since_s": 1767225600.0}]}'],
        words=(
            b"null",
            b"true",
            b"NaN",
            b"-Infinity",
            b"1e999",
            b"9" * 400,
            b"[" * 99,
            b'"',
            b"\\ud800",
            b"\xff",
            b"{}",
        ),
        modules=("fallback_server.access", "json"),
    ),
)
"""All of them."""
