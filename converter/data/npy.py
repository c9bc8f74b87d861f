"""Arrays written to `.npy` files piece by piece, their length known only at the end."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from converter.data.dataset import Array


class NpyWriter:
    """Writes one `.npy` file, rows after rows. Used in a `with`; the header says the right length after `close`."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Makes the file.

        Args:
            path: Where to.
            dtype: Of the values; no objects.
            shape: Of one row, without the first axis.
        """
        self.path = path
        self.dtype = dtype
        self.shape = shape
        self.rows = 0
        self._file = path.open("wb")
        self._write_header()
        self._data_at = self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rows: Array) -> None:
        """Appends an array of `shape` rows, in the file's dtype."""
        assert rows.shape[1:] == self.shape
        np.ascontiguousarray(rows, dtype=self.dtype).tofile(self._file)
        self.rows += len(rows)

    def close(self) -> None:
        """Writes the header again, now with the number of rows."""
        if self._file.closed:
            return
        with self._file:
            self._file.seek(0)
            self._write_header()
            assert self._file.tell() == self._data_at, "numpy leaves room for the first axis to grow"

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
