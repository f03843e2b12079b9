"""`Run`: what a result says about where it comes from, and how to get it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from napari_vox3d import __version__
from napari_vox3d.errors import Vox3dError

KEY = "run"  # in the metadata of volumes, picks, and layers
_MARK = "napari-vox3d run "  # before the JSON where a format holds free text
_WIDTH = 88  # of a script
_COMPRESSED = (".gz", ".bz2", ".xz")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Run:
    """One call of a public function.

    Parameters
    ----------
    function
        Public name in `napari_vox3d`: ``"predict_elf"``, ``"score_particles"``,
        ``"pick_particles"``, ``"train_picker"``, ``"train_elf"``, ``"pick_files"`` or
        ``"predict_elf_files"``.
    source
        Path of the file that it worked on, or the name of a layer that has none. What works on
        several has them among its arguments.
    arguments
        Keyword arguments that differ from the defaults, of JSON types. Some are written simpler
        than the functions take them: ``"examples"`` is a list of [tomogram, [pick files]],
        ``"classes"`` of `train_picker` are radii in Å by name, ``"elfs"`` are paths.
    model
        Name of the model, or the path it was loaded from; empty if there is none.
    sha256
        Of its weights; empty if it has none.
    version
        Of this package.
    voxel_size
        Å (z, y, x) of the tomogram, or of the grid of the result; six digits; or None.
    when
        Time of the call in ISO form.
    edited
        Whether somebody changed the result by hand since; the run gives it as it was before.
    """

    function: str
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    sha256: str = ""
    version: str = __version__
    voxel_size: tuple[float, float, float] | None = None
    when: str = field(default_factory=_now)
    edited: bool = False

    def __post_init__(self) -> None:
        if self.voxel_size is not None:
            z, y, x = (round(float(edge), 6) for edge in self.voxel_size)
            object.__setattr__(self, "voxel_size", (z, y, x))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Run | None:
        """Run in the metadata of a volume, of picks or of a layer; None if there is none."""
        stored = metadata.get(KEY)
        if not isinstance(stored, Mapping) or not {"function", "source"} <= stored.keys():
            return None
        known = {each.name: stored[each.name] for each in fields(cls) if each.name in stored}
        return cls(**known)

    def as_metadata(self) -> dict[str, Any]:
        """Give ``{"run": {…}}`` of JSON types, to be merged into metadata."""
        stored = asdict(self)
        if self.voxel_size is not None:
            stored["voxel_size"] = list(self.voxel_size)
        return {KEY: stored}

    @property
    def missing(self) -> list[str]:
        """Sources that are no file here; scripts and commands ask for their paths."""
        return [source for source in _flat(self._sources) if not Path(source).exists()]

    def as_script(self, *, save_as: str = "") -> str:
        """Write Python that makes the same result and saves it.

        Parameters
        ----------
        save_as
            File of the result, or folder of a trained model. Default: a name made from the
            source, in the working folder; for models, among the user's.

        Raises
        ------
        Vox3dError
            If there is no script for the function.
        """
        write = _of(_SCRIPTS, self.function, "script")
        about = f"napari-vox3d {self.version}"
        if self.model:
            about += f", model {self.model}" + (f", sha256 {self.sha256}" if self.sha256 else "")
        lines = [f"# {about}"]
        if self.edited:
            lines += ["# The result was edited by hand; this makes it as it was before."]
        lines += [f"# Put a path here: {name!r} is not a file." for name in self.missing]
        return "\n".join([*lines, *write(self, save_as), ""])

    def as_command(self, *, save_as: str = "") -> str:
        """Write the `vox3d` command that makes the same result and saves it.

        Parameters
        ----------
        save_as
            As for `as_script`.

        Raises
        ------
        Vox3dError
            If no command does what the function does.
        """
        return shlex.join(_of(_COMMANDS, self.function, "command")(self, save_as))

    @property
    def _sources(self) -> list[Any]:
        return self.arguments.get(_SEVERAL.get(self.function, ""), [self.source])

    @property
    def _settings(self) -> dict[str, Any]:
        """Arguments besides the sources, and the model."""
        settings = {key: v for key, v in self.arguments.items() if key not in _SEVERAL.values()}
        return {"model": self.model, **settings} if self.model else settings


_SEVERAL = {
    "train_picker": "examples",
    "train_elf": "elfs",
    "pick_files": "tomograms",
    "predict_elf_files": "sources",
}


def changed(**pairs: tuple[Any, Any]) -> dict[str, Any]:
    """Arguments that differ from their defaults, from pairs (value, default) by name."""
    return {name: value for name, (value, default) in pairs.items() if value != default}


def model_name(given: object, name: str) -> str:
    """Give what finds a model again: the name or path given, or its own name for the default."""
    return str(given) if isinstance(given, str | Path) and str(given) != "default" else name


def as_text(metadata: Mapping[str, Any], most: int) -> str:
    """Write the run in some metadata as one line of ASCII, for the comment of a file.

    Parameters
    ----------
    metadata
        Of a volume or of picks.
    most
        Characters that the file has room for.

    Returns
    -------
    str
        Empty if there is no run, or no room for all of it.
    """
    run = Run.from_metadata(metadata)
    if run is None:
        return ""
    stored = {name: value for name, value in run.as_metadata()[KEY].items() if value}
    text = _MARK + as_json(stored)
    return text if len(text) <= most else ""


def as_json(value: Any) -> str:
    """Write one line of ASCII that no program takes for more than a comment."""
    text = json.dumps(value, separators=(",", ":"))
    # RELION takes a comment with data_ or loop_ in it for the beginning of a table.
    return text.replace("data_", "data\\u005f").replace("loop_", "loop\\u005f")


def from_json(text: str) -> Any:
    """Read what `as_json` wrote; None if it is something else."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def split_text(text: str) -> tuple[str, dict[str, Any]]:
    """Split a comment into what else it says and the metadata that `as_text` wrote there.

    Parameters
    ----------
    text
        Comment of a file, with a run or without.

    Returns
    -------
    (str, dict)
        The text without the run, and ``{"run": {…}}``; empty if there is none that is whole.
    """
    before, found, stored = text.partition(_MARK)
    if not found:
        return text, {}
    try:
        run, end = json.JSONDecoder().raw_decode(stored)
    except ValueError:  # cut off, or edited
        return text, {}
    known = Run.from_metadata({KEY: run})
    if known is None:
        return text, {}
    return " ".join(filter(None, (before.strip(), stored[end:].strip()))), known.as_metadata()


def _of(
    table: Mapping[str, Callable[[Run, str], list[str]]], function: str, what: str
) -> Callable[[Run, str], list[str]]:
    if function not in table:
        raise Vox3dError(f"There is no {what} for {function}.")
    return table[function]


def _script_of_elf(run: Run, save_as: str) -> list[str]:
    return [
        "import napari_vox3d as vox",
        "",
        _call("elf", "vox.predict_elf", [_path(run.source)], run._settings),
        _call("", "vox.write_volume", [save_as or _elf_file(run)], {}, "elf"),
    ]


def _script_of_scores(run: Run, save_as: str) -> list[str]:
    stem = save_as or f"{_stem(run.source)}_score"
    return [
        "import napari_vox3d as vox",
        "",
        _call("tomogram", "vox.read_volume", [_path(run.source)], {}),
        _call("maps", "vox.score_particles", [], run._settings, "tomogram"),
        "for score in maps:",
        f'    vox.write_volume({stem + "_"!r} + score.name + ".mrc", score)',
    ]


def _script_of_picks(run: Run, save_as: str) -> list[str]:
    return [
        "import napari_vox3d as vox",
        "",
        _call("tomogram", "vox.read_volume", [_path(run.source)], {}),
        _call("picks", "vox.pick_particles", [], run._settings, "tomogram"),
        _call("", "vox.write_picks", [save_as or _picks_file(run)], {}, "picks"),
    ]


def _script_of_picker(run: Run, save_as: str) -> list[str]:
    settings = dict(run._settings)
    radii = settings.pop("classes", None)
    name = settings.pop("name", "my-picker")
    imports = ["import napari_vox3d as vox"]
    imports += ["from napari_vox3d.training.drafts import Draft"]
    used = ["read_examples"] if radii is None else ["particle_classes", "read_examples"]
    imports += [f"from napari_vox3d.training.inputs import {', '.join(used)}"]
    lines = ["examples = ["]
    lines += [
        f"    *read_examples([{_path(tomogram)!r}], {[_path(file) for file in files]!r}),"
        for tomogram, files in run._sources
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
    settings = dict(run._settings)
    name = settings.pop("name", "my-elf")
    return [
        "import napari_vox3d as vox",
        "from napari_vox3d.training.drafts import Draft",
        "from napari_vox3d.training.inputs import read_true_elf",
        "",
        "elfs = [",
        *(f"    read_true_elf({_path(source)!r})," for source in run._sources),
        "]",
        *_train(["vox.train_elf", "elfs"], name, settings, save_as),
    ]


def _train(given: list[str], name: str, settings: dict[str, Any], save_as: str) -> list[str]:
    folder = [save_as] if save_as else []
    return [
        _call("draft", "Draft.named", [name, *folder], {}),
        _call("model", "draft.train", [], settings, *given),
        'print(f"Saved in {draft.folder}.")',
    ]


def _script_of_batch(run: Run, save_as: str) -> list[str]:
    settings = dict(run._settings)
    folder = save_as or settings.pop("folder", "results")
    settings.pop("folder", None)
    sources = [_path(source) for source in run._sources]
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


def _call(
    name: str, function: str, args: Sequence[Any], settings: Mapping[str, Any], *before: str
) -> str:
    """Statement ``name = function(before…, args…, settings…)``, on several lines if it is long.

    `before` are variables; a file name comes before the variable that is written to it.
    """
    values = [repr(value) for value in args]
    variables = list(before)
    parts = values + variables if not settings else variables + values
    parts += [f"{key}={value!r}" for key, value in settings.items()]
    start = f"{name} = {function}(" if name else f"{function}("
    line = f"{start}{', '.join(parts)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([start, *(f"    {part}," for part in parts), ")"])


def _command_of_elf(run: Run, save_as: str) -> list[str]:
    target = ["-o", save_as or _elf_file(run)]
    return ["vox3d", "elf", _path(run.source), *target, *_options(run._settings)]


def _command_of_picks(run: Run, save_as: str) -> list[str]:
    target = ["-o", save_as or _picks_file(run)]
    return ["vox3d", "pick", _path(run.source), *target, *_options(run._settings)]


def _command_of_picker(run: Run, save_as: str) -> list[str]:
    settings = dict(run._settings)
    radii = settings.pop("classes", {})
    tomograms = [tomogram for tomogram, _ in run._sources]
    files = [file for _, group in run._sources for file in group]
    if len(tomograms) > 1 and len(files) != len(tomograms):
        raise Vox3dError(
            "The command takes one pick file for each of several tomograms; save the picks of a "
            "tomogram together, or copy the script."
        )
    options = [part for file in files for part in ("--picks", _path(file))]
    settings = {"class": list(radii), "radius": radii, **settings}
    return ["vox3d", "train", *map(_path, tomograms), *options, *_saved(settings, save_as)]


def _command_of_elf_model(run: Run, save_as: str) -> list[str]:
    return ["vox3d", "train-elf", *map(_path, run._sources), *_saved(run._settings, save_as)]


def _saved(settings: dict[str, Any], save_as: str) -> list[str]:
    return [*(["-o", save_as] if save_as else []), *_options(settings)]


def _command_of_batch(run: Run, save_as: str) -> list[str]:
    settings = dict(run._settings)
    folder = settings.pop("folder", "results")
    command = "pick" if run.function == "pick_files" else "elf"
    sources = map(_path, run._sources)
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
