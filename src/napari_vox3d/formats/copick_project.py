"""Whole projects of copick: a ``config.json`` that says where runs, tomograms and picks are.

Everything goes through the copick library (https://github.com/copick/copick), so that projects on
other machines and read-only data under an overlay work as they do there. Parts of a project are
addressed as ``config.json::RUN``, ``config.json::RUN::TYPE@SPACING`` (a tomogram) and
``config.json::RUN::OBJECT:USER/SESSION`` (picks), the latter two by copick's own rules, in which
``*`` stands for anything. A run is a tomogram of `Picks`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.formats.copick import object_name, transformations
from napari_vox3d.formats.frame import SeveralTomograms, name_in, series_names
from napari_vox3d.formats.orientations import from_matrices
from napari_vox3d.picks import CLASS_COLOURS, Picks

if TYPE_CHECKING:
    from napari_vox3d.volume import Volume

_MARK = b'"pickable_objects"'
_USER, _SESSION = "vox3d", "0"  # session 0: by a tool


def is_project(path: Path) -> bool:
    """Whether a JSON file is the configuration of a project."""
    with path.open("rb") as file:
        return _MARK in file.read(1 << 16)


def read(path: str | Path, volume: Volume | None = None, part: str = "") -> Picks:
    """Read the picks of one run: all objects, users and sessions, or those that `part` names.

    Parameters
    ----------
    path
        Configuration of the project.
    volume
        The tomogram; its name chooses the run if `part` does not.
    part
        ``"RUN"`` or ``"RUN::OBJECT:USER/SESSION"``.

    Raises
    ------
    FormatError
        If copick is not installed or cannot open the project, or there is no such run.

    Warns
    -----
    UserWarning
        If an object has picks by several users or of several sessions.
    """
    path = Path(path)
    with _project(path) as root:
        name, _, wanted = part.partition("::")
        run = _run(path, root, name or (volume.name if volume else ""))
        return _picks(path, root, run, wanted)


def read_collection(path: str | Path) -> list[Picks]:
    """Read the picks of every run that has some.

    Raises
    ------
    FormatError
        If copick is not installed or cannot open the project.
    """
    path = Path(path)
    with _project(path) as root:
        return [_picks(path, root, run, "") for run in _runs(root).values() if run.picks]


def write(path: str | Path, picks: Picks) -> None:
    """Write picks into a project, or begin one; see `write_collection`."""
    write_collection(path, [picks])


def write_collection(path: str | Path, collection: Sequence[Picks]) -> None:
    """Write picks into the runs of a project that bear the names of their tomograms.

    They replace what this user, or ``vox3d`` where the project names none, had for the same object
    in the same session, and leave all else. Objects that the project does not know are added to it
    with their radii. Where there is no project, one begins: data lie in a folder beside the file.

    Raises
    ------
    FormatError
        If copick is not installed or cannot open the project, or it has tomograms and none is of
        the picks' name.

    Warns
    -----
    UserWarning
        If objects were added to a project that was there.
    """
    path = Path(path)
    begins = not path.exists()
    if begins:
        _begin(path)
    with _project(path) as root:
        added = _add_objects(root, collection)
        if added:
            root.save_config(str(path))
        if added and not begins:
            warnings.warn(f"{path.name} got new objects: {', '.join(added)}.", stacklevel=4)
        names = series_names([picks.tomogram or "tomogram" for picks in collection])
        for picks, name in zip(collection, names, strict=True):
            _write_run(path, root, name, picks)


def read_volumes(path: str | Path, part: str = "") -> list[Volume]:
    """Read a tomogram of a project.

    Parameters
    ----------
    path
        Configuration of the project.
    part
        ``"RUN"``, which may be left out if there is one, or ``"RUN::TYPE@SPACING"`` if the run has
        several tomograms.

    Returns
    -------
    list of Volume
        The tomogram, with its coarser levels; it bears the name of the run.

    Raises
    ------
    FormatError
        If copick is not installed or cannot open the project, there is no such run or tomogram or
        more than one, or the tomogram is not on this machine.
    """
    from napari_vox3d.formats import ome_zarr

    path = Path(path)
    with _project(path) as root:
        name, _, wanted = part.partition("::")
        run = _run(path, root, name)
        known = _tomograms(run)
        own = known if not wanted else {key: one for key, one in known.items() if key == wanted}
        if len(own) != 1:
            problem = "has no tomogram" if not own else f"has {len(own)} tomograms"
            choice = f"Choose one: {', '.join(f'{path.name}::{run.name}::{key}' for key in known)}."
            raise FormatError(
                path,
                f"{problem} {wanted}".rstrip() + f" of {run.name}",
                hint=choice if known else "",
            )
        ((_, tomogram),) = own.items()
        folder = Path(tomogram.static_path if tomogram.read_only else tomogram.overlay_path)
        if not folder.is_dir():
            raise FormatError(
                path,
                f"keeps {folder} on another machine",
                hint="Bring it here first, with `copick sync tomograms`.",
            )
    (volume, *_) = ome_zarr.read(folder)
    return [replace(volume, name=run.name)]


def tomograms_of(path: str | Path, part: str = "") -> list[str]:
    """Address one tomogram of each run of a project, or of the run that `part` names.

    Parameters
    ----------
    path
        Configuration of the project.
    part
        ``"RUN"``, ``"*::TYPE@SPACING"`` for those of one kind in every run, or both; nothing for
        all.

    Returns
    -------
    list of str
        ``"config.json::RUN::TYPE@SPACING"``, which `read_volume` reads.

    Raises
    ------
    FormatError
        If copick is not installed or cannot open the project, there is no such run or no tomogram,
        or a run has several and `part` does not choose.
    """
    path = Path(path)
    with _project(path) as root:
        name, _, wanted = part.partition("::")
        runs = _runs(root).values() if name in ("", "*") else [_run(path, root, name)]
        known = {run.name: [k for k in _tomograms(run) if wanted in ("", k)] for run in runs}
    several = next((keys for keys in known.values() if len(keys) > 1), None)
    if several:
        hint = f"Choose: {', '.join(f'{path.name}::*::{key}' for key in several)}."
        raise FormatError(path, "has several tomograms of one run", hint=hint)
    found = [f"{path}::{name}::{key}" for name, keys in known.items() for key in keys]
    if not found:
        raise FormatError(path, f"has no tomogram {wanted}".rstrip())
    return found


@contextmanager
def _project(path: Path) -> Iterator[Any]:
    """Open a project; what copick raises becomes one sentence."""
    try:
        import copick
    except ImportError:
        raise FormatError(
            path,
            "is a project of copick, which is not installed",
            hint="Install it: pip install 'napari-vox3d[copick]'.",
        ) from None
    try:
        yield copick.from_file(str(path))
    except (Vox3dError, UnicodeDecodeError):
        raise
    except Exception as error:  # fsspec, pydantic and others raise what they like
        said = " ".join(str(error).split())[:200]
        raise FormatError(path, f"is a project that copick cannot use ({said})") from error


def _runs(root: Any) -> dict[str, Any]:
    """Runs by name, in the order of their names."""
    return {run.name: run for run in sorted(root.runs, key=lambda run: run.name)}


def _run(path: Path, root: Any, name: str) -> Any:
    """Find the run of that name, or the only one if there is no name."""
    runs = _runs(root)
    own = name_in(runs, name) if name else None
    if own is None and not name and len(runs) == 1:
        own = next(iter(runs))
    if own is None:
        names = ", ".join(list(runs)[:5]) + (", …" if len(runs) > 5 else "")
        raise SeveralTomograms(
            path,
            f"holds {len(runs)} runs ({names})" + (f", none of them {name!r}" if name else ""),
            list(runs),
            hint=f"Name one of them: {path.name}::{next(iter(runs))}." if runs else "",
        )
    return runs[own]


def _tomograms(run: Any) -> dict[str, Any]:
    return {
        f"{tomogram.tomo_type}@{spacing.voxel_size:g}": tomogram
        for spacing in run.voxel_spacings
        for tomogram in spacing.tomograms
    }


def _picks(path: Path, root: Any, run: Any, wanted: str) -> Picks:
    """Picks of a run; objects give their radii, and colours go along."""
    from copick.util.uri import resolve_copick_objects

    sets = run.picks
    if wanted:
        sets = resolve_copick_objects(wanted, root, "picks", run_name=run.name)
        if not sets:
            raise FormatError(path, f"has no picks {wanted} of {run.name}")
    sets = [one for one in sets if one.points]
    _tell_of_doubles(path, run, sets)
    objects = [root.get_object(one.pickable_object_name) for one in sets]
    points = [point for one in sets for point in one.points]
    poses = [one.numpy()[1] for one in sets]
    turns = [pose if one.trust_orientation else np.tile(np.eye(4), (len(pose), 1, 1))
             for one, pose in zip(sets, poses, strict=True)]  # fmt: skip
    positions = [one.full_positions()[:, ::-1] for one in sets]
    counts = [len(one.points) for one in sets]
    radii = [None if known is None else known.radius for known in objects]
    spacings = {one.meta.voxel_spacing for one in sets} or {None}
    return Picks(
        np.concatenate([np.zeros((0, 3)), *positions]),
        np.repeat([one.pickable_object_name for one in sets] or [""], counts or [0]),
        np.array([np.nan if point.score is None else point.score for point in points]),
        from_matrices(np.concatenate([np.zeros((0, 4, 4)), *turns])[:, :3, :3]),
        None if not radii or None in radii else np.repeat(np.array(radii, float), counts),
        tomogram=run.name,
        voxel_size=spacings.pop() if len(spacings) == 1 else None,
        metadata={
            "colours": {
                known.name: "#{:02x}{:02x}{:02x}".format(*known.color[:3])
                for known in objects
                if known is not None and known.color
            }
        },
    )


def _tell_of_doubles(path: Path, run: Any, sets: Sequence[Any]) -> None:
    by_object: dict[str, list[Any]] = {}
    for one in sets:
        by_object.setdefault(one.pickable_object_name, []).append(one)
    for name, several in by_object.items():
        if len(several) > 1:
            owners = [f"{one.user_id}/{one.session_id}" for one in several]
            warnings.warn(
                f"{path.name}: {run.name} has picks of {name} by {', '.join(owners)}, and all were "
                f"read. {path.name}::{run.name}::{name}:{owners[0]} is one of them.",
                stacklevel=6,
            )


def _begin(path: Path) -> None:
    """Make the configuration of a project without objects, with its data beside it."""
    from napari_vox3d.formats.aside import write_aside

    folder = path.resolve().with_suffix("")
    config = {
        "config_type": "filesystem",
        "name": path.stem,
        "description": "Picks of napari-vox3d",
        "version": "1.0.0",
        "pickable_objects": [],
        "user_id": _USER,
        "session_id": _SESSION,
        "overlay_root": f"local://{folder}",
        "overlay_fs_args": {"auto_mkdir": True},
    }
    with write_aside(path) as aside:
        aside.write_text(json.dumps(config, indent=4), encoding="utf-8")


def _add_objects(root: Any, collection: Sequence[Picks]) -> list[str]:
    """Add the classes that a project does not know, and name them."""
    added = []
    for picks in collection:
        for label in picks.classes:
            name = object_name(label)
            if root.get_object(name) is not None:
                continue
            colour = CLASS_COLOURS[len(root.pickable_objects) % len(CLASS_COLOURS)]
            own = picks.labels == label
            radius = None if picks.radii is None else float(np.median(picks.radii[own]))
            rgba = (*bytes.fromhex(colour[1:]), 255)
            root.new_object(name, is_particle=True, radius=radius, color=rgba)
            added.append(name)
    return added


def _write_run(path: Path, root: Any, name: str, picks: Picks) -> None:
    from copick.models import CopickLocation, CopickPoint

    known = name_in(_runs(root), picks.tomogram)
    if known is None and not any(run.voxel_spacings for run in root.runs):
        root.new_run(known := name)  # a project of picks alone grows with them
    run = _run(path, root, known or name)
    poses = transformations(picks)
    scores = np.asarray(picks.scores)
    for label in picks.classes:
        target = run.new_picks(
            object_name(label),
            session_id=root.session_id or _SESSION,
            user_id=root.user_id or _USER,
            exist_ok=True,
        )
        target.points = [
            CopickPoint(
                location=CopickLocation(**dict(zip("zyx", picks.positions[n], strict=True))),
                transformation_=poses[n].tolist(),
                score=None if np.isnan(scores[n]) else float(scores[n]),
            )
            for n in np.flatnonzero(picks.labels == label)
        ]
        target.meta.voxel_spacing = (
            None if picks.voxel_size is None else float(picks.voxel_size[-1])
        )
        target.meta.trust_orientation = picks.angles is not None
        target.store()
