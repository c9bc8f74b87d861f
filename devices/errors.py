"""What this folder refuses.

DevicesError
├── ProfileInvalid     a profile's file can't be read, or says something impossible
├── UnknownProfile     no profile has that name
└── UnknownDelegate    no delegate has that name, or its device string is none
"""


class DevicesError(Exception):
    """Base of everything that this folder refuses."""


class ProfileInvalid(DevicesError):
    """The profile is no TOML, misses a field, has an unknown one or one of a wrong type, or contradicts itself."""


class UnknownProfile(DevicesError):
    """No profile of that name is there."""


class UnknownDelegate(DevicesError):
    """No delegate is called so."""
