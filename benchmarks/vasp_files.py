"""Reading and writing CHGCAR and ELFCAR, beside pymatgen and ASE."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Measured, Row, compare, number, ratio, times

POINTS, FEW = 160, 48
COPY = 10e9  # bytes a second that one core reads at least from memory, for the floor


def measure(quick: bool) -> Iterator[Row]:
    """Read and write a crystal on a grid."""
    points = FEW if quick else POINTS
    what = f"CHGCAR {points}³"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "CHGCAR"
        make_chgcar(path, points)
        yield from _reading(path, what, points)
        yield from _reading_packed(path, what)
        yield from _writing(folder, points)


def _reading(path: Path, what: str, points: int) -> Iterator[Row]:
    readers = {"ours": read_ours, "pymatgen-core": read_pymatgen, "ASE": read_ase}
    found = compare(readers, str(path))
    ours = found.pop("ours")
    size = path.stat().st_size
    floor = times(size / COPY)
    for peer, other in found.items():
        # sums of the same numbers in another order
        assert np.allclose(other.answer[0], ours.answer[0], rtol=1e-9), peer
        assert other.answer[1] == ours.answer[1], "the last digit"
        yield Row(
            f"read {what}", peer, ratio(other, ours), "×", 15, 25,
            said=_said(ours, other), floor=f"{number(size / 1e6, 'MB')} once from memory: {floor}",
        )  # fmt: skip
    together = size + 8 * points**3
    yield Row(
        f"read {what}, peak memory", "file and array", ours.memory / together, "×", 1.5, 1.2,
        least=False, said=f"{number(ours.memory / 1e6, 'MB')} of {number(together / 1e6, 'MB')}",
        floor="1× while the file is memory-mapped",
    )  # fmt: skip


def _reading_packed(path: Path, what: str) -> Iterator[Row]:
    packed = path.with_name("CHGCAR.gz")
    with path.open("rb") as plain, gzip.open(packed, "wb", compresslevel=6) as file:
        shutil.copyfileobj(plain, file)
    if shutil.which("gzip") is None:
        yield Row(f"read {what}.gz", "gzip -dc", None, "×", 1.3, 1.1, least=False, said="no gzip")
        return
    found = compare({"ours": read_ours, "gzip": unpack}, str(packed))
    ours, alone = found["ours"], found["gzip"]
    yield Row(
        f"read {what}.gz", "gzip -dc alone", 1 / ratio(alone, ours), "×", 1.3, 1.1, least=False,
        said=_said(ours, alone), floor="1× if numbers are read while the rest is unpacked",
    )  # fmt: skip


def _writing(folder: str, points: int) -> Iterator[Row]:
    writers = {
        "CHGCAR": {"pymatgen-core": write_pymatgen, "ASE": write_ase},
        "ELFCAR": {"pymatgen-core": write_pymatgen},
    }
    for name, peers in writers.items():
        found = compare({"ours": write_ours, **peers}, name, folder, points, rounds=3)
        ours = found.pop("ours")
        size = (Path(folder) / f"{name}.ours").stat().st_size
        for peer, other in found.items():
            yield Row(
                f"write {name} {points}³", peer, ratio(other, ours), "×", 10, 25,
                said=_said(ours, other),
                floor=f"{number(size / 1e6, 'MB')} to memory: {times(size / COPY)}",
            )  # fmt: skip


def _said(ours: Measured, other: Measured) -> str:
    return f"{times(ours.typical)} and {times(other.typical)}"


def read_ours(path: str) -> Callable[[], Any]:
    """Read with this package."""
    import ase  # noqa: F401

    from napari_vox3d.formats import vasp

    def read() -> list[float]:
        (volume,) = vasp.read(path)
        factor = volume.volume
        return [float(volume.values.mean() * factor), _last(volume.values, factor)]

    return read


def _last(values: Any, factor: float) -> float:
    return float(f"{values[-1, -1, -1] * factor:.10e}")  # the digits of the file


def read_pymatgen(path: str) -> Callable[[], Any]:
    """Read with pymatgen."""
    from pymatgen.io.vasp.outputs import Chgcar

    def read() -> list[float]:
        values = Chgcar.from_file(path).data["total"]
        return [float(values.mean()), _last(values, 1)]

    return read


def read_ase(path: str) -> Callable[[], Any]:
    """Read with ASE."""
    from ase.calculators.vasp import VaspChargeDensity

    def read() -> list[float]:
        found = VaspChargeDensity(path)
        volume = found.atoms[0].get_volume()
        return [float(found.chg[0].mean() * volume), _last(found.chg[0], volume)]

    return read


def unpack(path: str) -> Callable[[], Any]:
    """Unpack with gzip, to nowhere."""
    return lambda: subprocess.run(["gzip", "-dc", path], stdout=subprocess.DEVNULL).returncode


def write_ours(name: str, folder: str, points: int) -> Callable[[], Any]:
    """Write with this package."""
    from napari_vox3d.formats import vasp

    volume = crystal(points, "elf" if name == "ELFCAR" else "electron density")
    vasp.write(Path(folder) / name, crystal(8, volume.quantity))  # imports
    return lambda: vasp.write(Path(folder) / f"{name}.ours", volume)


def write_pymatgen(name: str, folder: str, points: int) -> Callable[[], Any]:
    """Write with pymatgen."""
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp.inputs import Poscar
    from pymatgen.io.vasp.outputs import Chgcar, Elfcar

    volume = crystal(points, "elf" if name == "ELFCAR" else "electron density")
    structure = Poscar(AseAtomsAdaptor.get_structure(volume.atoms))
    values = volume.values.T * (1 if name == "ELFCAR" else volume.volume)
    found = (Elfcar if name == "ELFCAR" else Chgcar)(structure, {"total": values})
    return lambda: found.write_file(str(Path(folder) / f"{name}.pymatgen"))


def write_ase(name: str, folder: str, points: int) -> Callable[[], Any]:
    """Write with ASE, which knows no ELFCAR."""
    from ase.calculators.vasp import VaspChargeDensity

    volume = crystal(points, "electron density")
    found = VaspChargeDensity(None)
    found.atoms, found.chg = [volume.atoms], [volume.values.T]
    return lambda: found.write(str(Path(folder) / f"{name}.ase"), format="chgcar")


def crystal(points: int, quantity: str, metadata: dict[str, Any] | None = None) -> Any:
    """Made-up crystal of 8 atoms with positive values over several decades."""
    from ase import Atoms

    from napari_vox3d import Volume

    lattice = np.array([[8.0, 0, 0], [1, 8.0, 0], [0.5, 0.5, 9.0]])
    random = np.random.default_rng(0)
    values = 10.0 ** random.uniform(-6, 3 if quantity == "electron density" else 0, 3 * (points,))
    atoms = Atoms("Si8", scaled_positions=random.uniform(size=(8, 3)), cell=lattice, pbc=True)
    return Volume.on_lattice(
        values, lattice, quantity=quantity, atoms=atoms, metadata=metadata or {}
    )


def make_chgcar(path: Path, points: int) -> None:
    """Write a CHGCAR with augmentation occupancies."""
    from napari_vox3d.formats import vasp

    line = "  0.2753636E+00 -0.3331354E-01  0.0000000E+00  0.1027381E-02  0.4070687E-01\n"
    text = "".join(f"augmentation occupancies {n:3d} {33:3d}\n" + line * 7 for n in range(1, 9))
    kept = {"vasp": {"after": {"quantity": "electron density", "text": text.encode()}}}
    vasp.write(path, crystal(points, "electron density", kept))
