"""Scripts and commands that do what a `Run` did."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from napari_vox3d.errors import Vox3dError
from napari_vox3d.provenance import crystals
from napari_vox3d.provenance.files import uncertainty_file
from napari_vox3d.provenance.wording import (
    SEVERAL,
    Name,
    call,
    elf_file,
    options,
    path_of,
    plain,
    settings_of,
)

if TYPE_CHECKING:
    from napari_vox3d.provenance import Run


def script(run: Run, save_as: str) -> str:
    """Write Python that makes the result of a run; see `Run.as_script`."""
    about = f"napari-vox3d {run.version}"
    if run.model:
        about += f", model {run.model}" + (f", sha256 {run.sha256}" if run.sha256 else "")
    lines = [f"# {about}"]
    if run.edited:
        lines += ["# The result was edited by hand; this makes it as it was before."]
    lines += [f"# Put a path here: {name!r} is not a file." for name in missing(run)]
    write = _of(_SCRIPTS, run.function, "script")
    return "\n".join([*lines, *write(run, save_as), ""])


def command(run: Run, save_as: str) -> str:
    """Write the command that makes the result of a run; see `Run.as_command`."""
    if run.function in crystals.ANALYSES:
        return " && ".join(map(shlex.join, crystals.command(run, save_as)))
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
    if run.function in crystals.ANALYSES:
        return crystals.sources(run)
    return run.arguments.get(SEVERAL.get(run.function, ""), [run.source])


def _script_of_elf(run: Run, save_as: str) -> list[str]:
    settings, target = settings_of(run), save_as or elf_file(run)
    made = {"elf": target}
    if settings.get("uncertainty"):
        made["uncertainty"] = uncertainty_file(target)
    return [
        "import napari_vox3d as vox",
        "",
        call(", ".join(made), "vox.predict_elf", [path_of(run.source)], settings),
        *(call("", "vox.write_volume", [path, Name(name)], {}) for name, path in made.items()),
    ]


def _tomogram(run: Run) -> tuple[str, dict[str, Any]]:
    """Statement that reads the tomogram, and the settings that are left for picking."""
    settings = dict(settings_of(run))
    member = settings.pop("member", 0)
    if not member:
        return call("tomogram", "vox.read_volume", [path_of(run.source)], {}), settings
    return f"tomogram = vox.read_volumes({path_of(run.source)!r})[{member}]", settings


def _script_of_scores(run: Run, save_as: str) -> list[str]:
    reading, settings = _tomogram(run)
    stem = save_as or f"{_stem(run.source)}_score"
    return [
        "import napari_vox3d as vox",
        "",
        reading,
        call("maps", "vox.score_particles", [Name("tomogram")], settings),
        "for score in maps:",
        f'    vox.write_volume({stem + "_"!r} + score.name + ".mrc", score)',
    ]


def _script_of_picks(run: Run, save_as: str) -> list[str]:
    reading, settings = _tomogram(run)
    return [
        "import napari_vox3d as vox",
        "",
        reading,
        call("picks", "vox.pick_particles", [Name("tomogram")], settings),
        call("", "vox.write_picks", [save_as or _picks_file(run), Name("picks")], {}),
    ]


def _script_of_similar(run: Run, save_as: str) -> list[str]:
    reading, settings = _tomogram(run)
    positions, label = settings.pop("like"), settings.pop("label")
    radius = settings.pop("radius", None)
    target = save_as or _picks_file(run)
    return [
        "import napari_vox3d as vox",
        "",
        reading,
        call(
            "examples", "vox.Picks", [positions, label], {} if radius is None else {"radii": radius}
        ),
        call("picks", "vox.find_similar", [Name("tomogram"), Name("examples")], settings),
        call("", "vox.write_picks", [target, Name("picks")], {}),
    ]


def _script_of_picker(run: Run, save_as: str) -> list[str]:
    settings = dict(settings_of(run))
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
        f"    *read_examples([{path_of(tomogram)!r}], {list(map(path_of, files))!r}{sized}),"
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
    settings = dict(settings_of(run))
    name = settings.pop("name", "my-elf")
    return [
        "import napari_vox3d as vox",
        "from napari_vox3d.training.drafts import Draft",
        "from napari_vox3d.training.inputs import read_true_elf",
        "",
        "elfs = [",
        *(f"    read_true_elf({path_of(source)!r})," for source in _sources(run)),
        "]",
        *_train(["vox.train_elf", "elfs"], name, settings, save_as),
    ]


def _train(given: list[str], name: str, settings: dict[str, Any], save_as: str) -> list[str]:
    folder = [save_as] if save_as else []
    return [
        call("draft", "Draft.named", [name, *folder], {}),
        call("model", "draft.train", [Name(each) for each in given], settings),
        'print(f"Saved in {draft.folder}.")',
    ]


def _script_of_batch(run: Run, save_as: str) -> list[str]:
    settings = dict(settings_of(run))
    folder = save_as or settings.pop("folder", "results")
    settings.pop("folder", None)
    sources = [path_of(source) for source in _sources(run)]
    made = call("outcomes", f"vox.{run.function}", [sources, folder], settings)
    return [
        "import napari_vox3d as vox",
        "",
        'if __name__ == "__main__":  # its workers import this file too',
        *("    " + line for line in made.splitlines()),
        "    for outcome in outcomes:",
        "        print(outcome.source, outcome.state, outcome.problem)",
    ]


_SCRIPTS: dict[str, Callable[[Run, str], list[str]]] = {
    "predict_elf": _script_of_elf,
    "score_particles": _script_of_scores,
    "pick_particles": _script_of_picks,
    "find_similar": _script_of_similar,
    "train_picker": _script_of_picker,
    "train_elf": _script_of_elf_model,
    "pick_files": _script_of_batch,
    "predict_elf_files": _script_of_batch,
    **dict.fromkeys(crystals.ANALYSES, crystals.script),
}


def _command_of_elf(run: Run, save_as: str) -> list[str]:
    target = ["-o", save_as or elf_file(run)]
    return ["vox3d", "elf", path_of(run.source), *target, *options(settings_of(run))]


def _command_of_picks(run: Run, save_as: str) -> list[str]:
    target = ["-o", save_as or _picks_file(run)]
    return ["vox3d", "pick", path_of(run.source), *target, *options(settings_of(run))]


def _command_of_picker(run: Run, save_as: str) -> list[str]:
    settings = dict(settings_of(run))
    radii = settings.pop("classes", {})
    tomograms = [tomogram for tomogram, _ in _sources(run)]
    files = [file for _, group in _sources(run) for file in group]
    if len(tomograms) > 1 and len(files) != len(tomograms):
        raise Vox3dError(
            "The command takes one pick file for each of several tomograms; save the picks of a "
            "tomogram together, or copy the script."
        )
    picks = [part for file in files for part in ("--picks", path_of(file))]
    settings = {"class": list(radii), "radius": radii, **settings}
    return ["vox3d", "train", *map(path_of, tomograms), *picks, *_saved(settings, save_as)]


def _command_of_elf_model(run: Run, save_as: str) -> list[str]:
    return ["vox3d", "train-elf", *map(path_of, _sources(run)), *_saved(settings_of(run), save_as)]


def _saved(settings: dict[str, Any], save_as: str) -> list[str]:
    return [*(["-o", save_as] if save_as else []), *options(settings)]


def _command_of_batch(run: Run, save_as: str) -> list[str]:
    settings = {"jobs": 1, **settings_of(run)}  # a batch even of one file
    folder = settings.pop("folder", "results")
    command = "pick" if run.function == "pick_files" else "elf"
    sources = map(path_of, _sources(run))
    return ["vox3d", command, *sources, "-o", save_as or folder, *options(settings)]


_COMMANDS: dict[str, Callable[[Run, str], list[str]]] = {
    "predict_elf": _command_of_elf,
    "pick_particles": _command_of_picks,
    "train_picker": _command_of_picker,
    "train_elf": _command_of_elf_model,
    "pick_files": _command_of_batch,
    "predict_elf_files": _command_of_batch,
}


def _flat(sources: Sequence[Any]) -> list[str]:
    return [one for each in sources for one in (_flat(each) if isinstance(each, list) else [each])]


def _stem(source: str) -> str:
    return PurePath(plain(source)).stem or "picks"


def _picks_file(run: Run) -> str:
    return f"{_stem(run.source)}.star"
