"""Scripts and commands that do what a `Run` did."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from napari_vox3d.errors import Vox3dError

if TYPE_CHECKING:
    from napari_vox3d.provenance import Run

_WIDTH = 88  # of a script
_COMPRESSED = (".gz", ".bz2", ".xz")
# Arguments that hold the sources of functions that work on several.
_SEVERAL = {
    "train_picker": "examples",
    "train_elf": "elfs",
    "pick_files": "tomograms",
    "predict_elf_files": "sources",
}


def script(run: Run, save_as: str) -> str:
    """Write Python that makes the result of a run; see `Run.as_script`."""
    write = _of(_SCRIPTS, run.function, "script")
    about = f"napari-vox3d {run.version}"
    if run.model:
        about += f", model {run.model}" + (f", sha256 {run.sha256}" if run.sha256 else "")
    lines = [f"# {about}"]
    if run.edited:
        lines += ["# The result was edited by hand; this makes it as it was before."]
    lines += [f"# Put a path here: {name!r} is not a file." for name in missing(run)]
    return "\n".join([*lines, *write(run, save_as), ""])


def command(run: Run, save_as: str) -> str:
    """Write the command that makes the result of a run; see `Run.as_command`."""
    return shlex.join(_of(_COMMANDS, run.function, "command")(run, save_as))


def missing(run: Run) -> list[str]:
    """Sources of a run that are no file here."""
    return [source for source in _flat(_sources(run)) if not Path(source).exists()]


def _of(
    table: Mapping[str, Callable[[Run, str], list[str]]], function: str, what: str
) -> Callable[[Run, str], list[str]]:
    if function not in table:
        raise Vox3dError(f"There is no {what} for {function}.")
    return table[function]


def _sources(run: Run) -> list[Any]:
    return run.arguments.get(_SEVERAL.get(run.function, ""), [run.source])


def _settings(run: Run) -> dict[str, Any]:
    """Arguments besides the sources, and the model."""
    settings = {key: v for key, v in run.arguments.items() if key not in _SEVERAL.values()}
    return {"model": run.model, **settings} if run.model else settings


def _script_of_elf(run: Run, save_as: str) -> list[str]:
    return [
        "import napari_vox3d as vox",
        "",
        _call("elf", "vox.predict_elf", [_path(run.source)], _settings(run)),
        _call("", "vox.write_volume", [save_as or _elf_file(run), _Name("elf")], {}),
    ]


def _tomogram(run: Run) -> tuple[str, dict[str, Any]]:
    """Statement that reads the tomogram, and the settings that are left for picking."""
    settings = dict(_settings(run))
    member = settings.pop("member", 0)
    if not member:
        return _call("tomogram", "vox.read_volume", [_path(run.source)], {}), settings
    return f"tomogram = vox.read_volumes({_path(run.source)!r})[{member}]", settings


def _script_of_scores(run: Run, save_as: str) -> list[str]:
    reading, settings = _tomogram(run)
    stem = save_as or f"{_stem(run.source)}_score"
    return [
        "import napari_vox3d as vox",
        "",
        reading,
        _call("maps", "vox.score_particles", [_Name("tomogram")], settings),
        "for score in maps:",
        f'    vox.write_volume({stem + "_"!r} + score.name + ".mrc", score)',
    ]


def _script_of_picks(run: Run, save_as: str) -> list[str]:
    reading, settings = _tomogram(run)
    return [
        "import napari_vox3d as vox",
        "",
        reading,
        _call("picks", "vox.pick_particles", [_Name("tomogram")], settings),
        _call("", "vox.write_picks", [save_as or _picks_file(run), _Name("picks")], {}),
    ]


def _script_of_picker(run: Run, save_as: str) -> list[str]:
    settings = dict(_settings(run))
    radii = settings.pop("classes", None)
    name = settings.pop("name", "my-picker")
    size = settings.pop("voxel_size", None)
    sized = "" if size is None else f", voxel_size={size!r}"
    imports = ["import napari_vox3d as vox"]
    imports += ["from napari_vox3d.training.drafts import Draft"]
    used = ["read_examples"] if radii is None else ["particle_classes", "read_examples"]
    imports += [f"from napari_vox3d.training.inputs import {', '.join(used)}"]
    lines = ["examples = ["]
    lines += [
        f"    *read_examples([{_path(tomogram)!r}], {[_path(file) for file in files]!r}{sized}),"
        for tomogram, files in _sources(run)
    ]
    lines += ["]"]
    given = ["vox.train_picker", "examples"]
    if radii is not None:
        known = "" if "network" in settings else settings.get("base", "default")
        more = f", vox.load_model({known!r}).card.classes" if known else ""
        lines += [f"classes = particle_classes({radii!r}{more})"]
        given += ["classes=classes"]
    return [*imports, "", *lines, *_train(given, name, settings, save_as)]


def _script_of_elf_model(run: Run, save_as: str) -> list[str]:
    settings = dict(_settings(run))
    name = settings.pop("name", "my-elf")
    return [
        "import napari_vox3d as vox",
        "from napari_vox3d.training.drafts import Draft",
        "from napari_vox3d.training.inputs import read_true_elf",
        "",
        "elfs = [",
        *(f"    read_true_elf({_path(source)!r})," for source in _sources(run)),
        "]",
        *_train(["vox.train_elf", "elfs"], name, settings, save_as),
    ]


def _train(given: list[str], name: str, settings: dict[str, Any], save_as: str) -> list[str]:
    folder = [save_as] if save_as else []
    return [
        _call("draft", "Draft.named", [name, *folder], {}),
        _call("model", "draft.train", [_Name(each) for each in given], settings),
        'print(f"Saved in {draft.folder}.")',
    ]


def _script_of_batch(run: Run, save_as: str) -> list[str]:
    settings = dict(_settings(run))
    folder = save_as or settings.pop("folder", "results")
    settings.pop("folder", None)
    sources = [_path(source) for source in _sources(run)]
    call = _call("outcomes", f"vox.{run.function}", [sources, folder], settings)
    return [
        "import napari_vox3d as vox",
        "",
        'if __name__ == "__main__":  # its workers import this file too',
        *("    " + line for line in call.splitlines()),
        "    for outcome in outcomes:",
        "        print(outcome.source, outcome.state, outcome.problem)",
    ]


_SCRIPTS: dict[str, Callable[[Run, str], list[str]]] = {
    "predict_elf": _script_of_elf,
    "score_particles": _script_of_scores,
    "pick_particles": _script_of_picks,
    "train_picker": _script_of_picker,
    "train_elf": _script_of_elf_model,
    "pick_files": _script_of_batch,
    "predict_elf_files": _script_of_batch,
}


class _Name(str):
    """Name in a script: written as it is, where any other text is quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _call(name: str, function: str, args: Sequence[Any], settings: Mapping[str, Any]) -> str:
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


def _command_of_elf(run: Run, save_as: str) -> list[str]:
    target = ["-o", save_as or _elf_file(run)]
    return ["vox3d", "elf", _path(run.source), *target, *_options(_settings(run))]


def _command_of_picks(run: Run, save_as: str) -> list[str]:
    target = ["-o", save_as or _picks_file(run)]
    return ["vox3d", "pick", _path(run.source), *target, *_options(_settings(run))]


def _command_of_picker(run: Run, save_as: str) -> list[str]:
    settings = dict(_settings(run))
    radii = settings.pop("classes", {})
    tomograms = [tomogram for tomogram, _ in _sources(run)]
    files = [file for _, group in _sources(run) for file in group]
    if len(tomograms) > 1 and len(files) != len(tomograms):
        raise Vox3dError(
            "The command takes one pick file for each of several tomograms; save the picks of a "
            "tomogram together, or copy the script."
        )
    options = [part for file in files for part in ("--picks", _path(file))]
    settings = {"class": list(radii), "radius": radii, **settings}
    return ["vox3d", "train", *map(_path, tomograms), *options, *_saved(settings, save_as)]


def _command_of_elf_model(run: Run, save_as: str) -> list[str]:
    return ["vox3d", "train-elf", *map(_path, _sources(run)), *_saved(_settings(run), save_as)]


def _saved(settings: dict[str, Any], save_as: str) -> list[str]:
    return [*(["-o", save_as] if save_as else []), *_options(settings)]


def _command_of_batch(run: Run, save_as: str) -> list[str]:
    settings = {"jobs": 1, **_settings(run)}  # a batch even of one file
    folder = settings.pop("folder", "results")
    command = "pick" if run.function == "pick_files" else "elf"
    sources = map(_path, _sources(run))
    return ["vox3d", command, *sources, "-o", save_as or folder, *_options(settings)]


_COMMANDS: dict[str, Callable[[Run, str], list[str]]] = {
    "predict_elf": _command_of_elf,
    "pick_particles": _command_of_picks,
    "train_picker": _command_of_picker,
    "train_elf": _command_of_elf_model,
    "pick_files": _command_of_batch,
    "predict_elf_files": _command_of_batch,
}


def _options(settings: Mapping[str, Any]) -> list[str]:
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


_OPTIONS = {"classes": "class", "channels": "channel"}


def _flat(sources: Sequence[Any]) -> list[str]:
    return [one for each in sources for one in (_flat(each) if isinstance(each, list) else [each])]


def _path(source: str) -> str:
    """Path of a source; a gap to fill in if it is only the name of a layer."""
    if Path(source).exists() or PurePath(source).parent != PurePath():
        return source
    return f"PATH/TO/{source or 'FILE'}"


def _stem(source: str) -> str:
    return PurePath(_plain(source)).stem or "picks"


def _plain(source: str) -> str:
    name = PurePath(source).name
    return PurePath(name).stem if name.lower().endswith(_COMPRESSED) else name


def _elf_file(run: Run) -> str:
    return f"{_plain(run.source) or 'predicted'}.ELFCAR"


def _picks_file(run: Run) -> str:
    return f"{_stem(run.source)}.star"
