"""The package format: the contract between the converter, which writes packages, and whoever runs them.

Standard library, numpy and msgspec; imports nothing else of this project.
"""

from converter.artifact.bench import Bench, Latency, decode_bench, encode_bench
from converter.artifact.errors import (
    DecoderMissing,
    DigestMismatch,
    FormatTooNew,
    KeyInvalid,
    ManifestInvalid,
    PackageError,
    PackageExists,
    PackageNotFound,
    PackageUnreadable,
    RawInvalid,
    SignatureRefused,
    SigningUnavailable,
    UnsafeArchive,
)
from converter.artifact.package import Package
from converter.artifact.preprocess import InputPreprocess, Preprocess
from converter.artifact.preprocess_tables import TableField
from converter.artifact.schema import (
    FORMAT_VERSION,
    Cascade,
    FileEntry,
    Manifest,
    Metrics,
    Source,
    Variant,
    check_name,
    check_version,
)
from converter.artifact.signature import VARIABLE, Quantization, Signature, TensorSpec
from converter.artifact.store import archive_path, check_free, check_place, install, installed, publish, version_path

__all__ = [
    "FORMAT_VERSION",
    "VARIABLE",
    "Bench",
    "Cascade",
    "DecoderMissing",
    "DigestMismatch",
    "FileEntry",
    "FormatTooNew",
    "InputPreprocess",
    "KeyInvalid",
    "Latency",
    "Manifest",
    "ManifestInvalid",
    "Metrics",
    "Package",
    "PackageError",
    "PackageExists",
    "PackageNotFound",
    "PackageUnreadable",
    "Preprocess",
    "Quantization",
    "RawInvalid",
    "Signature",
    "SignatureRefused",
    "SigningUnavailable",
    "Source",
    "TableField",
    "TensorSpec",
    "UnsafeArchive",
    "Variant",
    "archive_path",
    "check_free",
    "check_name",
    "check_place",
    "check_version",
    "decode_bench",
    "encode_bench",
    "install",
    "installed",
    "publish",
    "version_path",
]
