"""What reading a file begins with: its address, whether it may be read, its format's module."""

from __future__ import annotations

import json
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from napari_vox3d.errors import FormatError, Vox3dError


def split_address(path: str | Path) -> tuple[Path, str]:
    """Split ``FILE::PART`` into the file and what is meant of it, often nothing."""
    if "::" not in str(path) or Path(path).exists():
        return Path(path), ""
    file, _, part = str(path).partition("::")
    return Path(file), part


def format_module(name: str) -> Any:
    """Module of a format, imported when it is first needed."""
    return import_module(f"{__package__}.{name}")


def readable(path: str | Path) -> Path:
    """Return the path if there is a file, or a zarr folder, with content that may be read."""
    path = Path(path)
    try:
        if path.is_dir():
            if format_module("ome_zarr").is_zarr(path):
                return path
            raise FormatError(path, "is a folder", hint="Give a file or an OME-Zarr folder.")
        if not path.exists():
            raise FormatError(path, "does not exist")
        empty = path.stat().st_size == 0
    except OSError as error:
        raise FormatError(path, f"cannot be opened ({error.strerror})") from error
    if empty:
        raise FormatError(path, "is empty")
    if not os.access(path, os.R_OK):
        raise FormatError(path, "may not be read (permission denied)")
    return path


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn what damaged files and the file system raise into a `FormatError`.

    Readers tell of the damage that files usually have. What they did not foresee is named after
    the error that it led to.
    """
    try:
        with np.errstate(all="ignore"):  # what becomes infinite is found and refused
            yield
    except (FormatError, Warning):
        raise
    except Vox3dError as error:  # of something that knows no file
        raise FormatError(path, str(error).rstrip(".")) from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(path, f"holds damaged compressed data ({error})") from error
    except UnicodeDecodeError as error:
        raise FormatError(path, "is not the text file that its name promises") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise FormatError(path, "needs more memory than there is") from error
    except Exception as error:
        what = ": ".join(filter(None, (type(error).__name__, str(error))))
        raise FormatError(path, f"cannot be understood ({what})") from error


def parse_json(path: Path, text: str | bytes) -> Any:
    """Value of a JSON text.

    Raises
    ------
    FormatError
        If it is none, with the line; or lists or numbers in it have no end.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason, line = f"is not valid JSON ({error.msg})", f"line {error.lineno}"
        raise FormatError(path, reason, where=line) from None
    except UnicodeDecodeError:
        raise
    except ValueError as error:  # whole numbers of thousands of digits
        raise FormatError(path, f"is not valid JSON ({error})") from None
    except RecursionError:
        raise FormatError(path, "is not valid JSON (nested too deep)") from None
