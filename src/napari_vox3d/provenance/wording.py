"""Words and statements that scripts and commands are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_vox3d.provenance import Run

_WIDTH = 88  # of a script
_COMPRESSED = (".gz", ".bz2", ".xz")
# Arguments that hold the sources of functions that work on several.
SEVERAL = {
    "train_picker": "examples",
    "train_elf": "elfs",
    "pick_files": "tomograms",
    "predict_elf_files": "sources",
}
_OPTIONS = {"classes": "class", "channels": "channel"}


def settings_of(run: Run) -> dict[str, Any]:
    """Arguments besides the sources, and the model."""
    settings = {key: v for key, v in run.arguments.items() if key not in SEVERAL.values()}
    return {"model": run.model, **settings} if run.model else settings


class Name(str):
    """Name in a script: written as it is, where any other text is quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def call(name: str, function: str, args: Sequence[Any], settings: Mapping[str, Any]) -> str:
    """Statement ``name = function(args…, settings…)``, on several lines if it is long."""
    start = f"{name} = {function}(" if name else f"{function}("
    parts = [repr(each) for each in args] + [f"{key}={v!r}" for key, v in settings.items()]
    line = f"{start}{', '.join(parts)})"
    if len(line) <= _WIDTH:
        return line
    parts = [_literal(each) for each in args]
    parts += [f"{key}={_literal(value)}" for key, value in settings.items()]
    return "\n".join([start, *(f"    {part}," for part in parts), ")"])


def _literal(value: Any) -> str:
    """Write an argument, a long list or mapping on a line for each of its parts."""
    text = repr(value)
    if len(text) + 4 <= _WIDTH or not isinstance(value, list | Mapping):
        return text
    parts = (
        [f"{key!r}: {each!r}" for key, each in value.items()]
        if isinstance(value, Mapping)
        else [repr(each) for each in value]
    )
    return "\n".join([text[0], *(f"        {part}," for part in parts), f"    {text[-1]}"])


def options(settings: Mapping[str, Any]) -> list[str]:
    """Options of a command: lists and values by class repeat theirs, True stands alone."""
    words: list[str] = []
    for key, value in settings.items():
        option = "--" + _OPTIONS.get(key, key.replace("_", "-"))
        if key == "region":
            words += [option, ",".join(f"{start}:{stop}" for start, stop in value)]
        elif key == "shape":
            words += [option, *map(str, value)]
        elif isinstance(value, Mapping):
            words += [
                part for name, number in value.items() for part in (option, f"{name}={number}")
            ]
        elif isinstance(value, list):
            words += [part for each in value for part in (option, str(each))]
        elif value is True:
            words += [option]
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words


def path_of(source: str) -> str:
    """Path of a source; a gap to fill in if it is only the name of a layer."""
    if Path(source).exists() or PurePath(source).parent != PurePath():
        return source
    return f"PATH/TO/{source or 'FILE'}"


def plain(source: str) -> str:
    """Give the name of a file without folder and compression."""
    name = PurePath(source).name
    return PurePath(name).stem if name.lower().endswith(_COMPRESSED) else name


def elf_file(run: Run) -> str:
    """Name the file of the ELF that a run predicts."""
    return f"{plain(run.source) or 'predicted'}.ELFCAR"
