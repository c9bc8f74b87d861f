"""Two keys that sign packages, the same in every process that tests."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from converter.artifact.signing import SigningKey

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"k" * 32))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"o" * 32))
