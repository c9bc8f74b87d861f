"""Looks at an archive's headers before tarfile does, which takes minutes, or all memory, for what is made for that."""

from __future__ import annotations

import re
import tarfile

MAX_RECORDS = 1 << 20
"""Of the extended headers of a whole archive: ten for each of a hundred thousand files."""

MAX_DIGITS = 100
"""In a row, of which nothing that an extended header tells has more than some twenty: before Python 3.11.10 and 3.12.6
tarfile looks through them once from each."""

_TYPE_AT = 156
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_RECORD = re.compile(rb"([1-9][0-9]{0,9}) ")
_DIGITS = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))


class HeaderCheck:
    """Is told of what tarfile reads of one archive, in its order: members' headers, and nothing of their content."""

    def __init__(self) -> None:
        self._follows: bytes = b""
        self._records = 0

    def see(self, data: bytes) -> None:
        """Checks a block, or what an extended header holds.

        Raises:
            ValueError: it is a header for all members that follow, which no package needs and which tarfile copies for
                each; or an extended one that is no row of records `LENGTH KEY=VALUE`, or holds more than is read.
        """
        follows, self._follows = self._follows, b""
        if follows in _EXTENDED:
            self._check_records(data)
        elif not follows and len(data) == tarfile.BLOCKSIZE:
            kind = data[_TYPE_AT : _TYPE_AT + 1]
            if kind == tarfile.XGLTYPE:
                raise ValueError("holds a header for all members that follow, as git archive writes it")
            if kind in _EXTENDED or kind in _NAMES:
                self._follows = kind

    def _check_records(self, data: bytes) -> None:
        """Those of sound archives follow each other to the zeros at their end; others overlap, each up to the last."""
        at = 0
        while at < len(data) and data[at]:
            length = _RECORD.match(data, at)
            end = at + int(length[1]) if length else 0
            if length is None or not data.endswith(b"\n", at, end) or end > len(data):
                raise ValueError("an extended header is damaged")
            if data.find(b"=", length.end(), end) <= length.end():
                raise ValueError("an extended header is damaged: a record has no name")
            at = end
            self._records += 1
            if self._records > MAX_RECORDS:
                raise ValueError(f"its extended headers hold more than {MAX_RECORDS} records")
        if data.count(b"\0", at) != len(data) - at:
            raise ValueError("an extended header is damaged")
        if _DIGITS.search(data):
            raise ValueError(f"an extended header holds more than {MAX_DIGITS} digits in a row")
