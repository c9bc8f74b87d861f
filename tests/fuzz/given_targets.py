"""What a device's user gives it, and what it reads beside requests: pictures, arrays, certificates, figures."""

from __future__ import annotations

import datetime as dt
import functools
import io
import json
import ssl
import warnings
import wave
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from fuzz.places import from_file, place
from fuzz.target import Target
from PIL import Image
from support.snapshots import snapshot as one_snapshot

from converter.artifact.bench import Bench, EngineTime, Latency, Refused, decode_bench, encode_bench
from converter.artifact.errors import RawInvalid
from converter.artifact.preprocess_audio import decode_wav
from converter.artifact.preprocess_images import decode_image
from edge_runtime import predict_command, snapshot, top_view
from edge_runtime.environment import EngineKey, Environment
from edge_runtime.errors import InvalidConfig, InvalidInput
from edge_runtime.profiles import PROFILE_FORMAT, EngineProfile, read_profiles
from edge_runtime.remote.certificate import MAX_BYTES, read_certificate
from edge_runtime.remote.tls_files import read_material
from edge_runtime.tls_options import TlsOptions
from fallback_server.pki.authority import Authority, Pair, make_authority

_NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_DIGEST = "sha256:" + "0" * 64
_JSON_WORDS = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"-1", b"0", b"1e400", b"9" * 30, b"0.5", b"1e308"),
    *(b'{"a":' * 3000, b"[" * 3000, b"\\ud800", b"\xff", b"\\u001b", b"\\u202e", b"NaN", b"Infinity"),
)

# ---- certificates, and the files of TLS


@functools.cache
def _pair() -> Pair:
    return make_authority("Plant", now=_NOW)


@functools.cache
def _device() -> Pair:
    return Authority(_pair().certificate_pem, _pair().key_pem).device("press-7", now=_NOW)


@functools.cache
def _lists() -> bytes:
    return Authority(_pair().certificate_pem, _pair().key_pem).revocations([(7, _NOW)], 1, now=_NOW)


def _read_der(data: bytes) -> None:
    """Also what is told of it: none of that may fail later."""
    found = read_certificate(data)
    assert found.until
    assert found.owner.isprintable()
    assert len(found.fingerprint) == 64
    assert found.since_s < float("inf")


def _der_seeds() -> list[bytes]:
    authority = Authority(_pair().certificate_pem, _pair().key_pem)
    server = authority.server("gpu-1", [f"host-{number}.plant" for number in range(20)], now=_NOW)
    return [
        ssl.PEM_cert_to_DER_cert(one.decode())
        for one in (_pair().certificate_pem, _device().certificate_pem, server.certificate_pem)
    ]


_TLS = ("ca", "crl", "certificate", "key", "token_file")


def _read_tls(data: bytes) -> None:
    """A byte says which file it is; the others are sound."""
    folder = place() / "tls"
    folder.mkdir(exist_ok=True)
    sound = (_pair().certificate_pem, _lists(), _device().certificate_pem, _device().key_pem, b"token\n")
    files = dict(zip(_TLS, sound, strict=True))
    files[_TLS[data[0] % len(_TLS)] if data else "ca"] = data[1:]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    material = read_material(TlsOptions(**{name: folder / name for name in _TLS}))
    assert material.token.isprintable()
    assert isinstance(material.doubts(material) or material.withdraws(material), bool)
    assert material.own is None or material.own.until


def _tls_seeds() -> list[bytes]:
    pair, device = _pair(), _device()
    both = pair.certificate_pem + device.certificate_pem
    return [
        *(b"\0" + pem for pem in (pair.certificate_pem, both)),
        b"\1" + _lists(),
        b"\2" + device.certificate_pem,
        b"\3" + device.key_pem,
        b"\4token\n",
    ]


# ---- figures


def _read_stats(data: bytes) -> None:
    """What is believed can be shown, alone and beside a sound one before it."""
    found = snapshot.decode(data)
    for history in ([found], [one_snapshot(taken_s=1.0), found], [found, one_snapshot(taken_s=1e6)]):
        top_view.view(history, "here:1")


def _stats_seeds() -> list[bytes]:
    return [snapshot.encode(one_snapshot()), snapshot.encode(one_snapshot(pid=7, program="\x1b[2J"))]


def _bench_seeds() -> list[bytes]:
    bench = Bench(
        format=1,
        package="digits",
        version=1,
        digest=_DIGEST,
        host="board",
        variants={"int8": (Latency(threads=1, median_us=10.0, p90_us=12.0, runs=5),)},
        failed={"edgetpu": "no stick"},
        engines=(
            EngineTime(
                device="cpu",
                variant="int8",
                threads=1,
                rows=1,
                median_us=1.0,
                p90_us=2.0,
                p99_us=3.0,
                rows_per_s=9.0,
                runs=3,
                bare_median_us=1.0,
                ratio=1.0,
                added_us=0.0,
            ),
        ),
        refused=(Refused(device="edgetpu:usb:0", variant="", reason="none"),),
    )
    return [encode_bench(bench)]


def _read_bench(data: bytes) -> None:
    found = decode_bench(data)
    assert decode_bench(encode_bench(found)) == found


def _read_profiles(path: Path) -> None:
    """A file that can't be believed counts as none."""
    for profile in read_profiles(path, _DIGEST).values():
        assert profile.seconds[1] > 0
        assert profile.of([1]) is not None


def _profile_seeds() -> list[bytes]:
    key = EngineKey(
        device="cpu",
        variant="int8",
        variant_sha256="0" * 64,
        threads=2,
        isolation="none",
        interpreter="ai-edge-litert",
        interpreter_version="2.0.2",
        environment=Environment(cpu="Cortex-A76", architecture="aarch64", cores=4, governor="ondemand"),
    )
    profile = EngineProfile(seconds={1: 0.01, 4: 0.03}, runs=9, tried=(1, 2, 4))
    entry = {"key": key, "profile": profile, "saved_unix_s": 1.5}
    return [msgspec.json.encode({"format": PROFILE_FORMAT, "digest": _DIGEST, "entries": [entry, entry]})]


# ---- what is predicted from

_SUFFIXES = (".npy", ".npz", ".json", ".png")


def _read_given(data: bytes) -> None:
    """A byte says what kind it is of."""
    path = place() / f"given{_SUFFIXES[data[0] % len(_SUFFIXES)] if data else '.npy'}"
    path.write_bytes(data[1:])
    found = predict_command.read_raw(path)
    arrays = found.values() if isinstance(found, predict_command._Archive) else [found]
    for array in arrays:
        if isinstance(array, np.ndarray):
            assert array.dtype.kind != "O"


def _given_seeds() -> list[bytes]:
    seeds = []
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["a", "b"]), np.zeros((0, 4), np.int8)):
        whole = io.BytesIO()
        np.save(whole, array)
        seeds.append(b"\0" + whole.getvalue())
    for save in (np.savez, np.savez_compressed):
        whole = io.BytesIO()
        save(whole, x=np.arange(6, dtype=np.uint8), y=np.ones(3))
        seeds.append(b"\1" + whole.getvalue())
    return [*seeds, b"\2" + json.dumps([{"a": 1.5, "b": "c"}, {"a": None}]).encode(), b"\3bytes"]


def _wav_seeds() -> list[bytes]:
    seeds = []
    for channels, width in ((1, 2), (2, 1), (1, 3), (2, 4)):
        whole = io.BytesIO()
        with wave.open(whole, "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(16000)
            file.writeframes(bytes(range(24)) * channels)
        seeds.append(whole.getvalue())
    return seeds


def _read_wav(data: bytes) -> None:
    clip = decode_wav(data, None)
    assert (clip.ndim, clip.dtype) == (1, np.float32)
    assert len(clip) > 0
    assert -1 <= clip.min() <= clip.max() <= 1


def _read_image(data: bytes) -> None:
    with warnings.catch_warnings(action="ignore"):  # Of damaged EXIF.
        pixels = decode_image(data)
    assert (pixels.ndim, pixels.shape[2:], pixels.dtype) == (3, (3,), np.uint8)


def _image_seeds() -> list[bytes]:
    image = Image.fromarray(np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = []
    for form, options in (
        *(("JPEG", {"exif": exif}), ("PNG", {"exif": exif}), ("WEBP", {}), ("BMP", {}), ("GIF", {}), ("PPM", {})),
        *(("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"})),
    ):
        whole = io.BytesIO()
        image.save(whole, form, **options)
        seeds.append(whole.getvalue())
    animated = io.BytesIO()
    image.convert("P").save(animated, "GIF", save_all=True, append_images=[image.convert("P")] * 2)
    return [*seeds, animated.getvalue()]


TARGETS: Sequence[Target] = (
    Target(
        name="certificate_der",
        read=_read_der,
        refusals=(ValueError,),
        seeds=_der_seeds,
        words=(b"\x30\x80", b"\x30\x82", b"\x30\x84\xff", b"\x06\3\x55\4\3", b"\x06\3\x55\x1d\x11", b"\x82\0", b"\x18"),
        modules=("edge_runtime.remote.certificate",),
        max_bytes=MAX_BYTES,
    ),
    Target(
        name="tls_files",
        read=_read_tls,
        refusals=(InvalidConfig,),
        seeds=_tls_seeds,
        words=(
            *(b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"-----BEGIN X509 CRL-----\n"),
            *(b"-----BEGIN PRIVATE KEY-----\n", b"\n", b"=", b"\0", b"\xff", b" "),
        ),
        modules=("edge_runtime.remote.tls_files", "edge_runtime.remote.certificate"),
        max_bytes=2**14,
    ),
    Target(
        name="stats",
        read=_read_stats,
        refusals=(ValueError,),
        seeds=_stats_seeds,
        words=_JSON_WORDS,
        modules=("edge_runtime.snapshot", "edge_runtime.top_view", "edge_runtime.figures", "edge_runtime.screen_text"),
        max_bytes=2**15,
    ),
    Target(
        name="bench",
        read=_read_bench,
        refusals=(msgspec.DecodeError,),
        seeds=_bench_seeds,
        words=_JSON_WORDS,
        modules=("converter.artifact.bench", "converter.artifact.schema"),
        max_bytes=2**15,
    ),
    Target(
        name="profiles",
        read=from_file(_read_profiles, ".profile.json"),
        refusals=(),
        seeds=_profile_seeds,
        words=_JSON_WORDS,
        modules=("edge_runtime.profiles",),
        max_bytes=2**15,
    ),
    Target(
        name="predict_files",
        read=_read_given,
        refusals=(InvalidInput,),
        seeds=_given_seeds,
        words=(b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x93NUMPY", b"'<f4'", b"'|O'", b"(2, 3)", b"(1099511627776,)", b"("),
        modules=("edge_runtime.predict_command", "numpy.lib.format", "zipfile"),
        max_bytes=2**14,
    ),
    Target(
        name="wav",
        read=_read_wav,
        refusals=(RawInvalid,),
        seeds=_wav_seeds,
        words=(b"RIFF", b"WAVE", b"fmt ", b"data", b"LIST", b"\xfe\xff", b"\xff\xff\xff\xff", b"\1\0"),
        modules=("converter.artifact.preprocess_audio", "wave"),
    ),
    Target(
        name="images",
        read=_read_image,
        refusals=(RawInvalid,),
        seeds=_image_seeds,
        words=(b"\x89PNG\r\n\x1a\n", b"IHDR", b"IDAT", b"acTL", b"\xff\xd8", b"\xff\xe1", b"Exif\0\0", b"II*\0"),
        modules=("converter.artifact.preprocess_images", "PIL"),
        max_bytes=2**13,
    ),
)
"""All of them."""
