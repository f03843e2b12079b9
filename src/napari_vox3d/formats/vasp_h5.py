"""VASP's HDF5 files: charge density, partial charges and potentials of vaspwave.h5 and vaspout.h5.

The layout is the one that py4vasp reads (`py4vasp/_raw/definition.py`): grids are (component, z,
y, x). Charges are stored as density times cell volume, partial charges also times the number of
grid points, and both are held here in e/Å³. h5py is an optional dependency.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_vox3d.errors import FormatError
from napari_vox3d.formats.compression import (
    COMPRESSED_SUFFIXES,
    PLENTY,
    RATIO,
    is_compressed,
    open_bytes,
    read_whole,
)
from napari_vox3d.formats.poscar import element_symbol
from napari_vox3d.formats.vasp import CHARGE, POTENTIAL, Kind
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

PATTERNS = [
    f"*{name}*.h5{packed}" for name in ("vaspwave", "vaspout") for packed in
    ("", *COMPRESSED_SUFFIXES)
]  # fmt: skip

# The all-electron density lacks the core electrons, which py4vasp keeps apart as too coarse.
_GRIDS = {
    "charge/charge": ("charge", CHARGE),
    "results/charge/all_electron": ("all-electron valence", CHARGE),
    "results/charge/core": ("core", CHARGE),
    **{f"results/potential/{name}": (f"{name} potential", POTENTIAL)
       for name in ("total", "hartree", "ionic", "xc")},
}  # fmt: skip
_PARTIAL = "results/partial_charges"
_TYPES = "results/positions"
# Where a structure may stand, the last one first: its lattice and positions, and its elements.
_STRUCTURES = (
    (_TYPES, _TYPES),
    ("structure/positions", "structure/positions"),
    ("intermediate/ion_dynamics", _TYPES),
)


class _Grid(NamedTuple):
    """Components of one quantity as they are stored, (n, z, y, x)."""

    label: str
    kind: Kind
    values: NDArray[np.float64]
    times_points: bool = False


def holds_only_structure(path: Path) -> bool:
    """True if h5py is here to tell that the file has a structure and no grid."""
    try:
        with _opened(path) as file:
            return not any(name in file for name in (*_GRIDS, _PARTIAL)) and any(
                place in file for place, _ in _STRUCTURES
            )
    except FormatError:  # to be told when the file is read
        return False


def read(path: str | Path) -> list[Volume]:
    """Read every grid of a vaspwave.h5 or vaspout.h5.

    Parameters
    ----------
    path
        The file, plain or compressed. If it has no structure, as some vaspwave.h5, that of the
        vaspout.h5 beside it is taken.

    Returns
    -------
    list of Volume
        (c, b, a) float64 on the last structure of the run. Densities in e/Å³: total, then
        difference or the three components of the magnetisation. Potentials in eV: total, or up
        and down, or total and three components. Partial charges: for each k point and band.

    Raises
    ------
    FormatError
        If h5py is not installed, the file is damaged or of another program, or it has no grid or
        no structure.
    """
    path = Path(path)
    with _opened(path) as file:
        grids = list(_grids(path, file))
        if not grids:
            raise FormatError(
                path,
                "holds no charge density or potential of VASP",
                hint="VASP writes them with LCHARGH5 = T (vaspwave.h5) or WRT_POTENTIAL.",
            )
        atoms = _structure(path, file) or _structure_beside(path)
    return [volume for grid in grids for volume in _volumes(path, grid, atoms)]


def read_structure(path: str | Path) -> Atoms:
    """Read the last structure of a vaspout.h5 or vaspwave.h5.

    Raises
    ------
    FormatError
        If h5py is not installed, the file is damaged, or there is no structure.
    """
    path = Path(path)
    with _opened(path) as file:
        return _structure(path, file) or _structure_beside(path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open file; what h5py raises on damaged ones becomes a `FormatError`."""
    try:
        import h5py
    except ImportError as error:
        raise FormatError(
            path,
            "is an HDF5 file, and the package h5py is not installed",
            hint="Install it with `pip install h5py`.",
        ) from error
    source: Any = path
    if is_compressed(path):
        with open_bytes(path) as packed:
            source = io.BytesIO(read_whole(path, packed))
    try:
        with h5py.File(source, "r") as file:
            yield file
    except FormatError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(path, f"is a damaged HDF5 file ({error})") from error


def _grids(path: Path, file: Any) -> Iterator[_Grid]:
    for name, (label, kind) in _GRIDS.items():
        if name in file:
            _require_content(path, file, name)
            yield _Grid(label, kind, _components(path, name, file[name]))
    if _PARTIAL in file:
        group = file[_PARTIAL]
        stored = group["parchg"]
        _require_content(path, file, f"{_PARTIAL}/parchg")
        if stored.ndim != 6:
            raise _misshapen(path, f"{_PARTIAL}/parchg", stored.shape)
        for k, point in enumerate(np.ravel(group["kpoints"])[: len(stored)]):
            for b, band in enumerate(np.ravel(group["bands"])[: stored.shape[1]]):
                # VASP's 0 stands for the sum over all that were asked for.
                which = [f"band {band}"] if band else []
                which += [f"k point {point}"] if point else []
                values = _components(path, f"{_PARTIAL}/parchg", stored[k, b])
                yield _Grid(" ".join(["partial charge", *which]), CHARGE, values, True)


def _require_content(path: Path, file: Any, name: str) -> None:
    """Raise `FormatError` if values are not in the file itself, or far more than it holds."""
    stored = file[name]
    if stored.external or stored.file.filename != file.filename:
        raise FormatError(path, "keeps values in another file", where=name)
    if stored.nbytes > max(PLENTY, RATIO * stored.id.get_storage_size()):
        size = " × ".join(map(str, stored.shape))
        raise FormatError(path, f"claims {size} values and holds few of them", where=name)


def _components(path: Path, name: str, stored: Any) -> NDArray[np.float64]:
    """Components as (n, z, y, x), of a dataset or of a part of one that was read."""
    if stored.ndim != 4 or len(stored) not in (1, 2, 4) or not min(stored.shape):
        raise _misshapen(path, name, stored.shape)
    return np.asarray(stored, np.float64)


def _misshapen(path: Path, name: str, shape: tuple[int, ...]) -> FormatError:
    size = " × ".join(map(str, shape))
    return FormatError(path, f"has a grid of impossible shape {size}", where=name)


def _structure(path: Path, file: Any) -> Atoms | None:
    """Last structure in the file, or None."""
    from ase import Atoms

    for place, types in _STRUCTURES:
        if f"{place}/position_ions" in file and f"{types}/ion_types" in file:
            break
    else:
        return None
    group, names = file[place], file[types]
    symbols = [element_symbol(name.decode()) for name in np.ravel(names["ion_types"])]
    # Runs keep every step, of which the last one belongs to the grids.
    scale = float(group["scale"][()]) if "scale" in group else 1.0
    lattice = scale * np.asarray(group["lattice_vectors"], float).reshape(-1, 3, 3)[-1]
    positions = np.asarray(group["position_ions"], float)
    positions = positions.reshape(-1, *positions.shape[-2:])[-1]
    if place == "structure/positions" and not group.get("direct_coordinates", np.ones(()))[()]:
        positions = scale * positions @ np.linalg.inv(lattice)
    symbols = np.repeat(symbols, np.ravel(names["number_ion_types"])).tolist()
    if len(symbols) != len(positions) or abs(np.linalg.det(lattice)) < 1e-9:
        raise FormatError(
            path, "has elements, positions and lattice that do not fit together", where=place
        )
    return Atoms(symbols, scaled_positions=positions, cell=lattice, pbc=True)


def _structure_beside(path: Path) -> Atoms:
    """Structure of the vaspout.h5 that VASP wrote along with a vaspwave.h5."""
    beside = path.with_name(path.name.replace("vaspwave", "vaspout"))
    if beside != path and beside.is_file():
        with _opened(beside) as file:
            atoms = _structure(beside, file)
        if atoms is not None:
            return atoms
    raise FormatError(
        path,
        "holds no structure",
        hint="Keep the vaspout.h5 of the same run beside it." if beside != path else "",
    )


def _volumes(path: Path, grid: _Grid, atoms: Atoms) -> Iterator[Volume]:
    values, kind = grid.values, grid.kind
    lattice = atoms.cell.array
    if kind.times_volume:
        values = values / abs(np.linalg.det(lattice))
    elif len(values) == 2:  # the mean of both spins and half their difference
        values = np.stack([values[0] + values[1], values[0] - values[1]])
    if grid.times_points:
        values = values / values[0].size
    formula = atoms.get_chemical_formula()
    count = len(values)
    channels = zip(values, kind.quantities(count), kind.channel_names(count), strict=True)
    for component, quantity, channel in channels:
        yield Volume.on_lattice(
            component,
            lattice,
            quantity=quantity,
            unit=kind.unit,
            atoms=atoms.copy(),
            name=" ".join(filter(None, (formula, grid.label, channel))),
            source=str(path),
            metadata={"vasp": {"dataset": grid.label, "channel": channel}},
        )
