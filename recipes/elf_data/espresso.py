"""Density and ELF of one crystal by Quantum ESPRESSO's pw.x and pp.x."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.cube import read_cube
from ase.io.espresso import write_espresso_in
from ase.units import Bohr
from numpy.typing import NDArray
from recipes.elf_data.elements import CUTOFF

Grid = NDArray[np.float64]
RHO, ELF = 0, 8  # pp.x's numbers for what it writes
SMEARING = 0.01  # Ry, cold smearing


class CalculationError(Exception):
    """Quantum ESPRESSO gave no result, in one sentence."""


@dataclass(frozen=True)
class Result:
    """Electron density (e/Å³) and ELF on the grid of the calculation, axes a, b, c."""

    rho: Grid
    elf: Grid
    cutoff: int


def calculate(
    atoms: Atoms, k_points: tuple[int, int, int], potentials: Path, cpu_limit: float
) -> Result:
    """Converge the density of `atoms` without spin, and take ρ and ELF from it.

    Parameters
    ----------
    atoms
        One cell of a crystal.
    k_points
        Points along a, b, c, the origin among them.
    potentials
        Folder with ``El.upf``.
    cpu_limit
        CPU seconds that each program may take.

    Raises
    ------
    CalculationError
        If a program fails, takes too long, or does not converge.
    """
    cutoff = max(CUTOFF[symbol] for symbol in atoms.get_chemical_symbols())
    with tempfile.TemporaryDirectory(prefix="elf_data.") as name:
        folder = Path(name)
        with (folder / "pw.in").open("w") as file:
            write_espresso_in(
                file,
                atoms,
                input_data=_settings(cutoff, len(atoms), potentials),
                pseudopotentials={s: f"{s}.upf" for s in set(atoms.get_chemical_symbols())},
                kpts=k_points,
                crystal_coordinates=True,
            )
        output = _run("pw.x", folder, cpu_limit)
        if "convergence has been achieved" not in output:
            raise CalculationError("the density did not converge")
        rho, elf = (_post_process(quantity, folder, cpu_limit) for quantity in (RHO, ELF))
    return Result(rho / Bohr**3, elf, cutoff)


def _settings(cutoff: int, count: int, potentials: Path) -> dict[str, dict[str, object]]:
    return {
        "control": {
            "calculation": "scf",
            "prefix": "crystal",
            "outdir": ".",
            "pseudo_dir": str(potentials.resolve()),
            "disk_io": "low",
        },
        "system": {
            "ecutwfc": cutoff,
            "ecutrho": 4 * cutoff,
            "occupations": "smearing",
            "smearing": "mv",
            "degauss": SMEARING,
        },
        "electrons": {
            "conv_thr": 4e-6 * count,  # ELF within 0.001
            "mixing_beta": 0.6,
            "electron_maxstep": 60,
            "diago_thr_init": 1e-4,
        },
    }


def _post_process(quantity: int, folder: Path, cpu_limit: float) -> Grid:
    """Write one quantity as a cube file and read it."""
    (folder / "pp.in").write_text(
        f"&inputpp prefix='crystal', outdir='.', plot_num={quantity}, filplot='plot' /\n"
        "&plot iflag=3, output_format=6, fileout='plot.cube' /\n"
    )
    _run("pp.x", folder, cpu_limit)
    with (folder / "plot.cube").open() as file:
        return read_cube(file)["data"]


def _run(program: str, folder: Path, cpu_limit: float) -> str:
    """Run `program` on its input file in `folder`; the limit counts CPU time, not waiting."""
    seconds = int(np.ceil(cpu_limit))
    result = subprocess.run(
        [program, "-in", f"{program[:2]}.in"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5)),
        check=False,
    )
    if "JOB DONE" not in result.stdout:
        raise CalculationError(f"{program} stopped: {_reason(result.stdout, result.returncode)}")
    return result.stdout


def _reason(output: str, code: int) -> str:
    """What QE printed between its lines of per cent signs, or that time was up."""
    boxes = output.split("%" * 60)
    if len(boxes) > 1:
        return " ".join(boxes[1].replace("%", " ").split())[:200]
    return "out of time" if code < 0 else f"exit status {code}"
