"""Memory maps that outlive their files: one that was cut short is an error, not the end."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.errors import FormatError

_COPIED = 1 << 28  # bytes; what is larger stays a view of the file
_SOON_READ_AGAIN = 1 << 22  # bytes; smaller parts are planes that somebody goes through


def guarded(values: Any) -> Any:
    """Guard what is a memory map; anything else is left as it is."""
    return values.view(MappedValues) if isinstance(values, np.memmap) else values


class MappedValues(np.memmap):
    """Read-only memory map that asks before it reads whether its file is still as long.

    The system ends a program that reads a map beyond the end of its file, and other programs write
    files anew while they are open here. A removed or replaced file stays readable.

    Parts of up to 256 MB are copies, so that nobody reads the file through them later.

    Raises
    ------
    FormatError
        When it is indexed, if the file was cut short.
    """

    _mmap: mmap.mmap | None  # of NumPy, which does not tell; None for copies

    def __getitem__(self, index: Any) -> Any:
        if self._mmap is None:  # a copy
            return self.view(np.ndarray)[index]
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        if self._mmap.size() < start + len(self._mmap):
            raise FormatError(
                self.filename,
                "was made shorter by another program while it was open",
                hint="Open it again.",
            )
        found = super().__getitem__(index)
        if isinstance(found, np.ndarray) and found.nbytes <= _COPIED:
            copy = found.view(np.ndarray).copy(order="K")
            if copy.nbytes > _SOON_READ_AGAIN and hasattr(mmap, "MADV_DONTNEED"):
                # Pages of the file would count as memory of this program as long as it is open.
                self._mmap.madvise(mmap.MADV_DONTNEED)
            return copy
        return found

    def __array_wrap__(
        self, array: NDArray[Any], context: Any = None, return_scalar: bool = False
    ) -> Any:
        """Give plain arrays and numbers as results, as `numpy.memmap` does."""
        plain = array.view(np.ndarray)
        return plain[()] if return_scalar or plain.ndim == 0 else plain
