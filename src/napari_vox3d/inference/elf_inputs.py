"""What ELF networks are given: descriptors of superposed atoms or of an electron density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_vox3d.density import superpose_atoms, tsirelson_stash_elf
from napari_vox3d.density.grids import interpolate, resample_waves
from napari_vox3d.density.invariants import density_invariants
from napari_vox3d.density.owners import describe_owners
from napari_vox3d.density.superposition import valence_electrons
from napari_vox3d.errors import InferenceError, ModelError, Vox3dError
from napari_vox3d.progress import Progress, part_of
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

Shape = tuple[int, int, int]

SAD = "superposed atomic density"
DENSITY = "electron density"
_DENSITY_SPACING = 0.08  # Å: derivatives of hard atoms need this; coarser grids ring
_MOST_DENSE = 1e12  # e/Å³: far beyond any nucleus, and its squares still are float32
_COUNT = 0.01  # by which the number of electrons may differ from that of the atoms


def atomic_density(
    given: Volume | Atoms, grid: Volume, shape: Shape, progress: Progress | None = None
) -> Volume:
    """Superposed atomic density over a cell, fine enough to be differentiated.

    Parameters
    ----------
    given
        A superposed density without atoms, which is handed back; anything else is not looked at.
    grid
        Volume with the cell, the origin and the atoms.
    shape
        (c, b, a) of the grid that descriptors are wanted on; the density's is a multiple of it.
    progress
        Called as ``progress(done, total)``; what it raises ends the superposition.

    Raises
    ------
    Vox3dError
        If an element has no atomic density, or there are no atoms.
    """
    if isinstance(given, Volume) and given.atoms is None:
        return given
    return superpose_atoms(atoms_on(grid), _refined(grid, shape), progress=progress)


def atoms_on(grid: Volume) -> Atoms:
    """Atoms of a volume in the frame of its grid, whose first point is then their origin.

    Raises
    ------
    InferenceError
        If it carries none.
    """
    if grid.atoms is None:
        raise InferenceError(
            f"{grid.name or 'This volume'} carries no atoms, which the model asks for; "
            "give the structure, or a volume file with one."
        )
    crystal = grid.atoms.copy()
    crystal.set_cell(grid.lattice)
    crystal.pbc = True
    crystal.positions -= grid.origin[::-1]
    return crystal


def _refined(grid: Volume, shape: Shape) -> Shape:
    """Multiple of `shape` that is fine enough to differentiate atomic densities on."""
    spacing = np.linalg.norm(grid.cell, axis=1) / shape
    c, b, a = (
        int(n * np.ceil(h / _DENSITY_SPACING - 1e-6)) for n, h in zip(shape, spacing, strict=True)
    )
    return c, b, a


def electron_density(given: Volume | Atoms, model: str) -> Volume:
    """Electron density that the user gives.

    Parameters
    ----------
    given
        What the user gives.
    model
        Name of the model that wants it.

    Raises
    ------
    InferenceError
        If it is no electron density in e/Å³, or its values are no densities.
    """
    if isinstance(given, Volume) and given.quantity == DENSITY and given.unit == "e/Å³":
        values = np.asarray(given.values)
        wrong = int(np.count_nonzero(~(np.abs(values) < _MOST_DENSE)))
        if wrong or np.iscomplexobj(values):
            what = f"{wrong} values that are NaN or far too large" if wrong else "complex values"
            raise InferenceError(
                f"{given.name or 'The electron density'} holds {what}; predict from the structure, "
                "or mend the file."
            )
        return given
    what = f"a volume of {given.quantity}" if isinstance(given, Volume) else "a structure alone"
    raise InferenceError(
        f"Model {model!r} predicts from the electron density itself, such as a CHGCAR holds, and "
        f"{what} does not tell it; choose a model that needs the atoms only."
    )


def foreign_electrons(given: Volume | Atoms) -> str:
    """What is wrong with a density for models that know the valence shells of this package.

    Parameters
    ----------
    given
        What the user gives.

    Returns
    -------
    str
        Empty if it is an electron density with as many electrons as the valence shells of its
        atoms have in the atomic densities that models are trained with.
    """
    if not isinstance(given, Volume) or given.quantity != DENSITY or given.unit != "e/Å³":
        return "there is no electron density"
    if given.atoms is None:
        return "the electron density comes without atoms, so its electrons cannot be counted"
    try:
        expected = valence_electrons(given.atoms)
    except (KeyError, Vox3dError):
        return "an element of it has no atomic density"
    found = float(np.mean(given.values, dtype=np.float64) * abs(np.linalg.det(given.lattice)))
    if abs(found - expected) <= _COUNT * expected:
        return ""
    return (
        f"the electron density holds {found:.2f} electrons, and the valence shells that models "
        f"know have {expected:g}"
    )


def network_inputs(
    density: Volume,
    shape: Shape,
    channels: Sequence[str],
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Input channels of a network on a grid over the cell of a density.

    Parameters
    ----------
    density
        Superposed atomic density or electron density in e/Å³, whichever the model is given.
    shape
        (c, b, a) of the network's grid.
    channels
        ``"sad"``: the density; ``"log_sad"``: its logarithm; ``"promolecular_elf"``: its
        Tsirelson–Stash ELF; ``"invariants"``: the 24 channels of `density_invariants`;
        ``"owners"``: the 20 of `describe_owners`, for which the density needs its atoms.
    progress
        Called as ``progress(done, total)``; what it raises ends the description.

    Returns
    -------
    ndarray
        (channels, c, b, a) float32.

    Raises
    ------
    ModelError
        If a channel has another name.
    InferenceError
        If the density has no atoms and a channel needs them.
    Vox3dError
        If an element has no atomic density.
    """
    parts: list[NDArray[np.floating]] = []
    for n, channel in enumerate(channels):
        part = part_of(progress, n / len(channels), (n + 1) / len(channels))
        part(0, 1)
        if channel == "sad":
            parts.append(resample_waves(density.values, shape)[None])
        elif channel == "log_sad":
            parts.append(np.log(np.maximum(resample_waves(density.values, shape), 1e-3))[None])
        elif channel == "promolecular_elf":
            parts.append(interpolate(tsirelson_stash_elf(density, part).values, shape)[None])
        elif channel == "invariants":
            parts.append(density_invariants(density, shape, part))
        elif channel == "owners":
            parts.append(describe_owners(atoms_on(density), shape, part))
        else:
            raise ModelError(f"No input channel is called {channel!r}; the card may be too new.")
    return np.concatenate(parts).astype(np.float32, copy=False)
