"""What can be wrong with a package.

PackageError
├── PackageNotFound      nothing there, or no manifest in it
├── PackageExists        the place to publish to already holds this version
├── ManifestInvalid      the manifest can't be read, or says something impossible
├── FormatTooNew         written in a later format than this program reads
├── RawInvalid           raw values that the package's preprocessing can't be applied to
├── DecoderMissing       the library that decodes images is not installed
├── PackageUnreadable    the file system refuses to read a file of it
├── DigestMismatch       a file is truncated, altered or missing
├── SignatureRefused     no signature by a key that is trusted, where one is demanded
├── KeyInvalid           a file that should hold a key for signatures, and holds none
├── SigningUnavailable   the library for signatures is not installed
└── UnsafeArchive        an archive member that points outside, is no plain file, or is beyond the bounds
"""


class PackageError(Exception):
    """Base of everything that this folder refuses."""


class PackageNotFound(PackageError):
    """No package stands at the path that was given."""


class PackageExists(PackageError):
    """The version is already published there."""


class ManifestInvalid(PackageError):
    """The manifest is no JSON, misses a field, has one of a wrong type, or contradicts itself."""


class FormatTooNew(PackageError):
    """The package's `format_version` is later than the one that this program reads."""


class RawInvalid(PackageError):
    """Raw values are not what the preprocessing takes: no image, another sample rate, a field is missing."""


class DecoderMissing(PackageError):
    """Preprocessing decodes images, and Pillow is not installed."""


class PackageUnreadable(PackageError):
    """A file of the package can't be read: no permission, or a disk that fails; the cause is the OSError."""


class DigestMismatch(PackageError):
    """A file differs from what the manifest says of it: its size, its SHA-256, or that it exists."""


class SignatureRefused(PackageError):
    """A package's signature is missing, damaged, of another manifest, or by a key that is not trusted."""


class KeyInvalid(PackageError):
    """A file that should hold an Ed25519 key can't be read, or holds something else."""


class SigningUnavailable(PackageError):
    """Signatures are to be made or verified, and `cryptography` is not installed."""


class UnsafeArchive(PackageError):
    """An archive holds a path that escapes, a link, a device, too many members or too many bytes."""
