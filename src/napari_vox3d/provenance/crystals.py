"""Scripts and commands of what is read off a crystal; a file holds its volume, or a run made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_vox3d.errors import Vox3dError
from napari_vox3d.provenance.wording import (
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


class _Analysis(NamedTuple):
    result: str  # variable in a script
    statement: str  # what is done with it; {} stands for a file
    command: str  # of vox3d; empty if there is none
    file: str  # end of the name of what is written


ANALYSES = {
    "find_maxima": _Analysis("found", "vox.write_picks({!r}, found)", "maxima", "maxima.csv"),
    "isosurface": _Analysis("surface", "print(surface.vertices, surface.faces)", "", ""),
    "lattice_plane": _Analysis("plane", "vox.write_volume({!r}, plane)", "slice", "plane.cube"),
    "line_profile": _Analysis(
        "line", "print(line.distances, line.values)", "profile", "profile.csv"
    ),
    "compare_volumes": _Analysis(
        "found", "vox.write_volume({!r}, found.difference)", "compare", "difference.cube"
    ),
    "supercell": _Analysis(
        "cells", "vox.write_volume({!r}, cells)", "supercell", "supercell.cube"
    ),
    "volume_statistics": _Analysis("found", "print(found)", "statistics", "values.csv"),
}  # fmt: skip
_OTHERS = ("reference", "colour_by")  # arguments that are volumes too


def script(run: Run, save_as: str) -> list[str]:
    """Lines of Python that make the result of a run."""
    analysis, arguments = ANALYSES[run.function], _without_reading(run.arguments)
    lines = ["import napari_vox3d as vox", "", *_reading("volume", run.source, run.arguments)]
    for key in arguments.keys() & _OTHERS:
        lines += _reading(key, arguments[key]["source"], arguments[key])
        arguments[key] = Name(key)
    for key in arguments.keys() & {"start", "stop", "origin"}:
        if not isinstance(arguments[key], int):
            a, b, c = arguments[key]
            arguments[key] = Name(f"volume.origin + ({c:g}, {b:g}, {a:g}) @ volume.cell")
    made = call(analysis.result, f"vox.{run.function}", [Name("volume")], arguments)
    return [*lines, made, analysis.statement.format(save_as or _file(run, analysis))]


def command(run: Run, save_as: str) -> list[list[str]]:
    """Commands, one after another, that make the result of a run."""
    analysis, arguments = ANALYSES[run.function], _without_reading(run.arguments)
    if not analysis.command:
        raise Vox3dError("No command does that; copy the script.")
    before, source = _made(run.source, run.arguments)
    words = ["vox3d", analysis.command, source]
    if "reference" in arguments:
        reference = arguments.pop("reference")
        more, other = _made(reference["source"], reference)
        before += [step for step in more if step not in before]
        words.append(other)
    words += [_words(arguments.pop(key)) for key in ("start", "stop") if key in arguments]
    words += map(str, arguments.pop("repeats", []))
    words += ["-o", save_as or _file(run, analysis)]
    if "hkl" in arguments:
        words += ["--hkl", _words(arguments.pop("hkl"))]
        words += ["--through", _words(arguments.pop("origin", [0, 0, 0]))]
    return [*before, [*words, *options(arguments)]]


def sources(run: Run) -> list[str]:
    """Give the files, or layers without one, that a run takes its volumes from."""
    others = [run.arguments[key]["source"] for key in _OTHERS if key in run.arguments]
    return [run.source, *others]


def _without_reading(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in ("member", "made_by")}


def _prediction(arguments: Mapping[str, Any]) -> Run | None:
    """Run that makes the volume, if no file holds it."""
    from napari_vox3d.provenance import KEY, Run

    return Run.from_metadata({KEY: arguments.get("made_by")})


def _reading(name: str, source: str, arguments: Mapping[str, Any]) -> list[str]:
    """Statement that reads or predicts a volume."""
    run, path = _prediction(arguments), path_of(source)
    if run is not None:
        return [call(name, "vox.predict_elf", [path], settings_of(run))]
    member = arguments.get("member", 0)
    if member:
        return [f"{name} = vox.read_volumes({path!r})[{member}]"]
    return [call(name, "vox.read_volume", [path], {})]


def _made(source: str, arguments: Mapping[str, Any]) -> tuple[list[list[str]], str]:
    """Commands that make the file of a volume, and its name."""
    run, path = _prediction(arguments), path_of(source)
    if run is not None:
        target = elf_file(run)
        return [["vox3d", "elf", path, "-o", target, *options(settings_of(run))]], target
    if arguments.get("member"):
        raise Vox3dError("Commands take the first volume of a file; copy the script.")
    return [], path


def _words(place: int | Sequence[float]) -> str:
    return str(place) if isinstance(place, int) else " ".join(f"{x:g}" for x in place)


def _file(run: Run, analysis: _Analysis) -> str:
    return f"{plain(run.source) or 'crystal'}_{analysis.file}"
