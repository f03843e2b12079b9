"""The input of ELFNet's published checkpoints, from its own tables in a folder of the user.

ELFNet (https://github.com/Austin243/ELFNet, MIT) superposes what its folder ``neutral_densities``
holds for each element: the pseudo-atomic charge of a VASP POTCAR, which is a function of the wave
number, read as one of the distance. Its checkpoints know nothing else, so their input is made here
as theirs was: one image of each atom, the nearest one in fractional coordinates, cut off where the
table falls below 10⁻⁴, and scaled to the number of electrons. No other model should see it, and
the tables are VASP's: they are not shipped.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.density.grids import smooth_even
from napari_vox3d.errors import ModelError
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

_VALENCE = """
H1 He2 Li1 Be2 B3 C4 N5 O6 F7 Ne8 Na1 Mg2 Al3 Si4 P5 S6 Cl7 Ar8 K1 Ca2 Sc11 Ti12 V13 Cr14 Mn15
Fe16 Co17 Ni18 Cu11 Zn12 Ga13 Ge14 As15 Se16 Br17 Kr18 Rb9 Sr10 Y11 Zr12 Nb13 Mo14 Tc15 Ru16 Rh17
Pd18 Ag11 Cd12 In13 Sn14 Sb15 Te16 I17 Xe18 Cs9 Ba10 La11 Ce12 Pr13 Nd14 Pm15 Sm16 Eu17 Gd18 Tb19
Dy20 Ho21 Er22 Tm23 Yb24 Lu25 Hf12 Ta13 W14 Re15 Os16 Ir17 Pt18 Au11 Hg12 Tl13 Pb14 Bi15"""
VALENCE = {
    symbol: int(electrons) for symbol, electrons in re.findall(r"([A-Z][a-z]?)(\d+)", _VALENCE)
}

_BOHR = 0.5291772108
_WAVE = np.sqrt(2 * 680 / 27.211386)  # 1/bohr: plane waves up to 680 eV
_FAINT, _FARTHEST = 1e-4, 20.0  # of a table, and bohr
_LARGEST = 2**20  # bytes of a table
_EVERY = 16  # points: the grids of ELFNet's own predictions


def elfnet_shape(lattice: NDArray[np.floating]) -> tuple[int, int, int]:
    """Points along c, b, a on which ELFNet predicts.

    Parameters
    ----------
    lattice
        (3, 3) Å: rows a, b, c.
    """
    lengths = np.linalg.norm(lattice, axis=1)[::-1] / 0.529177
    c, b, a = (
        -(-smooth_even(np.ceil(length * _WAVE * 2 / np.pi)) // _EVERY) * _EVERY
        for length in lengths
    )
    return c, b, a


def superpose_elfnet_tables(
    atoms: Atoms, shape: tuple[int, int, int], folder: str | Path
) -> Volume:
    """Superpose ELFNet's tables as ELFNet does.

    Parameters
    ----------
    atoms
        Crystal.
    shape
        Points along (c, b, a), see `elfnet_shape`.
    folder
        ``neutral_densities`` of ELFNet, with a file ``El.pkl`` for each element.

    Returns
    -------
    Volume
        Quantity ``"ELFNet's superposed atomic tables"``: electrons per cell, no density in any
        unit that would be worth the name.

    Raises
    ------
    ModelError
        If an element has no table, or a file is no such table.
    """
    fractions = [np.arange(n) / n for n in shape]
    lattice = atoms.cell.array[::-1]  # c, b, a
    total = np.zeros(shape)
    symbols = atoms.get_chemical_symbols()
    for symbol, position in zip(symbols, atoms.get_scaled_positions()[:, ::-1], strict=True):
        distance, values = _table(Path(folder), symbol)
        values = values * VALENCE[symbol]
        dense = np.flatnonzero(values > _FAINT)
        if not dense.size:
            continue
        cut = min(distance[dense[-1]], _FARTHEST)
        c, b, a = (
            (axis - x + 0.5) % 1.0 - 0.5 for axis, x in zip(fractions, position, strict=True)
        )
        displacement = (
            c[:, None, None, None] * lattice[0]
            + b[:, None, None] * lattice[1]
            + a[:, None] * lattice[2]
        )
        r = np.linalg.norm(displacement, axis=-1) / _BOHR
        total += np.where(r <= cut, np.interp(r, distance, values, right=0.0), 0.0)
    electrons = sum(VALENCE[symbol] for symbol in symbols)
    if total.sum() > 0:
        total *= electrons * total.size / total.sum()
    return Volume.on_lattice(
        total,
        atoms.cell.array,
        quantity="ELFNet's superposed atomic tables",
        atoms=atoms,
        name=f"{atoms.get_chemical_formula()} ELFNet tables",
    )


def _table(folder: Path, symbol: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance in bohr, so called, and values of one element."""
    path = folder / f"{symbol}.pkl"
    if symbol not in VALENCE:
        raise ModelError(f"ELFNet does not know {symbol}.")
    try:
        if path.stat().st_size > _LARGEST:
            raise ModelError(f"{path}: is too large for a table of ELFNet.")
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
        distance, values = (_column(content[key]) for key in ("r_grid_bohr", "rho_neutral"))
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}). Name the folder neutral_densities of "
            "ELFNet, with a file for each element."
        ) from error
    except ModelError:
        raise
    except Exception as error:  # a hostile or damaged pickle can fail in any way
        raise ModelError(f"{path}: is not a table of ELFNet ({error!r}).") from error
    sound = distance.ndim == 1 and distance.shape == values.shape and len(distance) > 1
    if not sound or not (np.isfinite(values).all() and (np.diff(distance) > 0).all()):
        raise ModelError(f"{path}: is not a table of ELFNet (its columns do not fit).")
    return distance, values


def _column(numbers: Any) -> NDArray[np.float64]:
    """Numbers of a list as an array; lists in lists may grow without end."""
    if not isinstance(numbers, list) or not all(isinstance(x, float | int) for x in numbers):
        raise ValueError("a column is no list of numbers")
    return np.array(numbers, np.float64)


# The reader in C takes as much memory as a pickle asks for; the one in Python, what it holds.
class _PlainUnpickler(pickle._Unpickler):
    """Reader of dicts, lists, strings and numbers, and of nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        raise ModelError(f"It refers to {module}.{name}, which no table of ELFNet does.")
