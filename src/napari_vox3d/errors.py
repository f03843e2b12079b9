"""The one family of errors that a user may meet."""

from __future__ import annotations

# Characters of a reason and of a message, which may quote a damaged file or another library.
_LONGEST, _LONGEST_OF_ALL = 300, 1000
# PyTorch's allocators and the libraries below only leave words.
_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "defaultcpuallocator",
    "bad_alloc",
    "alloc_failed",
    "invalid buffer size",
    "could not create a primitive",  # of oneDNN, which finds no room for its code
)


class Vox3dError(Exception):
    """Something a user can mend: the message says what is wrong, where, and what to do.

    The command line prints the message and exits with status 2; the windows show it as a
    napari notification. It is one line of printable characters, whatever it quotes.
    """

    def __str__(self) -> str:
        text = _shortened(" ".join(super().__str__().split()), _LONGEST_OF_ALL)
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


class FormatError(Vox3dError):
    """A file cannot be read or written in the format it claims to have.

    Parameters
    ----------
    path
        The file.
    reason
        What is wrong, in a short clause without a final stop; the message tells a long one in
        part.
    where
        Line, byte or field in the file, e.g. ``"line 7"``.
    hint
        What the user may do about it, a sentence.
    """

    def __init__(self, path: object, reason: str, *, where: str = "", hint: str = "") -> None:
        self.path, self.reason, self.where, self.hint = str(path), reason, where, hint
        reason = _shortened(reason, _LONGEST)
        place = f"{path}, {where}" if where else f"{path}"
        super().__init__(f"{place}: {reason}." + (f" {hint}" if hint else ""))


class ModelError(Vox3dError):
    """A model is unknown, damaged, or does not fit the data it was given."""


class InferenceError(Vox3dError):
    """A prediction could not be carried out on this machine or on this data."""


class NotEnoughMemory(InferenceError, MemoryError):
    """A computation was not begun, because it would not fit in memory."""


class Cancelled(Vox3dError):
    """Raised by a ``progress`` callback to stop the work it reports on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory of the processor or of a GPU ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)
    )


def as_sentence(error: BaseException) -> Vox3dError | None:
    """What a user can be told of an exception; None if it is a fault of the program."""
    if isinstance(error, Vox3dError) or not is_out_of_memory(error):
        return error if isinstance(error, Vox3dError) else None
    said = _shortened(str(error).split(". ")[0].rstrip(".") or "no memory is left", _LONGEST)
    return NotEnoughMemory(
        f"Memory ran out ({said}). Close other programs, or take a smaller part, a coarser grid "
        "or a smaller network."
    )
