"""What people bring to a training: tomograms with their picks, and crystals with their ELF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from napari_vox3d.errors import FormatError, Vox3dError
from napari_vox3d.formats import read_picks, read_volume
from napari_vox3d.models import ParticleClass
from napari_vox3d.picks import CLASS_COLOURS, Picks
from napari_vox3d.volume import Volume

Example = tuple[Volume, Picks]
Labels = Literal["all", "some"]  # of the particles of a class, which picks may tell

_TRUE_ELFS = ("ELFCAR*", "*.cube", "*.zip")


def read_examples(
    tomograms: Sequence[str | Path],
    files: Sequence[str | Path],
    voxel_size: float | None = None,
) -> list[Example]:
    """Read tomograms and find the picks of each.

    Parameters
    ----------
    tomograms
        Volume files.
    files
        Pick files. For one tomogram all are of it; one file for several tomograms is searched for
        the name of each; otherwise there is one for each tomogram in the same order.
    voxel_size
        Å, for tomograms that do not say how large their voxels are, or say it wrongly.

    Raises
    ------
    Vox3dError
        If the numbers of files do not fit, a voxel size is unknown, or a tomogram has no picks.
    """
    volumes = [read_volume(path) for path in tomograms]
    if voxel_size is not None:
        step = np.eye(3) * voxel_size
        volumes = [replace(volume, step=step, calibrated=True) for volume in volumes]
    if len(volumes) == 1:
        groups = [list(files)]
    elif len(files) == 1:
        groups = [list(files) for _ in volumes]
    elif len(files) == len(volumes):
        groups = [[file] for file in files]
    else:
        raise Vox3dError(
            f"{len(files)} pick files for {len(volumes)} tomograms: give one for each in the same "
            "order, or one with the picks of all."
        )
    examples = []
    for volume, group in zip(volumes, groups, strict=True):
        picks = Picks.concatenate([read_picks(file, volume) for file in group])
        check_example(volume, picks)
        examples.append((volume, picks))
    return examples


def check_example(volume: Volume, picks: Picks) -> None:
    """See that a picker can learn from a tomogram and its picks.

    Raises
    ------
    Vox3dError
        If the voxel size is unknown, or no pick lies in the tomogram.
    """
    name = volume.name or "the tomogram"
    if not volume.calibrated:
        raise Vox3dError(f"The voxel size of {name} is unknown; set it in its header first.")
    picks = picks.kept
    if not len(picks):
        raise Vox3dError(f"There are no picks to learn from in {name}.")
    index = picks.positions / volume.voxel_size
    if not ((index > -1) & (index < volume.shape)).all(axis=1).any():
        raise Vox3dError(f"None of the picks lies in {name}; they may be of another tomogram.")


def known_radii(
    examples: Iterable[Picks], known: Iterable[ParticleClass] = ()
) -> dict[str, float | None]:
    """Radius of each class in Å, by name in alphabetical order.

    Parameters
    ----------
    examples
        Picks of one or more tomograms.
    known
        Classes of the model that training starts from; their radii win.

    Returns
    -------
    dict
        None where nobody says.
    """
    radii: dict[str, float | None] = {}
    measured: dict[str, list[float]] = {}
    for picks in examples:
        for name in picks.classes:
            own = [] if picks.radii is None else picks.radii[picks.labels == name].tolist()
            measured.setdefault(name, []).extend(own)
    given = {kind.name: kind.radius for kind in known}
    for name, values in sorted(measured.items()):
        radii[name] = given.get(name, float(np.median(values)) if values else None)
    return radii


def particle_classes(
    radii: Mapping[str, float | None], known: Iterable[ParticleClass] = ()
) -> list[ParticleClass]:
    """Describe the classes to learn.

    Parameters
    ----------
    radii
        Å by name.
    known
        Classes of the model that training starts from; they stay as there but for their radii.

    Raises
    ------
    Vox3dError
        If a radius is unknown.
    """
    old = {kind.name: kind.model_dump() for kind in known}
    taken = [fields["colour"] for fields in old.values()]
    free = [colour for colour in CLASS_COLOURS if colour not in taken] or CLASS_COLOURS
    kinds = []
    for n, (name, radius) in enumerate(radii.items()):
        if not radius:
            raise Vox3dError(f"How large is {name!r}? Give its radius in Å.")
        fields = old.get(name, {"name": name, "colour": free[n % len(free)]})
        kinds.append(ParticleClass(**fields | {"radius": radius}))
    return kinds


def counted(number: int, what: str) -> str:
    """Say how many there are: ``"1 tomogram"``, ``"2 tomograms"``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def read_true_elf(path: str | Path) -> Volume:
    """Read an ELF to learn from.

    Parameters
    ----------
    path
        ELFCAR, or a cube file whose comment does not say that it holds something else.

    Raises
    ------
    FormatError
        If there is no ELF in the file, or no atoms with it.
    """
    volume = read_volume(path)
    if volume.quantity not in ("elf", "density"):  # cube files need not say what they hold
        raise FormatError(path, f"holds {volume.quantity!r}, not an ELF")
    if volume.atoms is None:
        raise FormatError(path, "carries no atoms", hint="Give an ELFCAR or a cube file.")
    low, high = float(np.min(volume.values)), float(np.max(volume.values))
    if low < -0.1 or high > 1.1:
        raise FormatError(
            path, f"holds values from {low:.3g} to {high:.3g}; an ELF lies between 0 and 1"
        )
    return volume


def read_true_elfs(paths: Iterable[str | Path]) -> list[Volume]:
    """Read ELFs to learn from.

    Parameters
    ----------
    paths
        Files as for `read_true_elf`; shards of `recipes/elf_data` (.zip); and folders, of which
        every ``ELFCAR*``, ``*.cube`` and ``*.zip`` is read, those in folders inside too.

    Raises
    ------
    FormatError
        If a file holds no ELF, or there is none in a folder.
    """
    from napari_vox3d.training.elf_shards import shard_elfs

    elfs: list[Volume] = []
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(file for name in _TRUE_ELFS for file in path.rglob(name))
            if not files:
                raise FormatError(path, f"holds no file like {', '.join(_TRUE_ELFS)}")
        for file in files:
            elfs += shard_elfs(file) if file.suffix == ".zip" else [read_true_elf(file)]
    return elfs
