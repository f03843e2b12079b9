"""The one family of errors that a user may meet."""

from __future__ import annotations

# Characters of a reason and of a message, which may quote a damaged file or another library.
_LONGEST, _LONGEST_OF_ALL = 300, 1000


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
