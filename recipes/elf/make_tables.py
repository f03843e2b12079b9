"""Condense radial atomic densities into the table of form factors that the package ships.

Usage: ``python recipes/elf/make_tables.py TABLES_DIR [-o FILE.npz]``

`TABLES_DIR` holds one ``El.npz`` per element with ``r`` (bohr, logarithmic grid), ``rho``
(e/bohr³, valence density of the neutral pseudo-atom) and ``zval`` (valence electrons). The script
writes the form factors

    f(q) = 4π ∫ r² ρ(r) sin(qr)/(qr) dr,    f(0) = zval,

on one grid of q that is dense near zero, where wide atoms vary fast, and prints how well a cubic
spline through that grid agrees with the integral between its points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

BOHR = 0.529177210903
LARGEST_Q = 30.0  # 1/bohr: a grid of 0.055 Å; what is left beyond is printed
POINTS = 401


def form_factor(path: Path, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Form factor at wave numbers `q` (1/bohr), scaled so that f(0) is the electron count."""
    table = np.load(path)
    r, rho = table["r"], table["rho"]
    shells = 4 * np.pi * r**2 * rho * r * np.gradient(np.log(r))
    shells *= float(table["zval"]) / shells.sum()
    return np.concatenate(
        [np.sinc(part[:, None] * r / np.pi) @ shells for part in np.array_split(q, len(q) // 100)]
    )


def main() -> None:
    """Write the table and print its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, help="folder with El.npz radial densities")
    parser.add_argument("-o", "--output", type=Path, default=Path("form_factors.npz"))
    arguments = parser.parse_args()

    files = sorted(arguments.tables.glob("*.npz"), key=lambda p: atomic_numbers[p.stem])
    q = LARGEST_Q * np.linspace(0, 1, POINTS) ** 1.5
    between = np.sort(np.random.default_rng(0).uniform(0, LARGEST_Q, 2000))
    factors, worst = [], (0.0, "")
    for path in files:
        f = form_factor(path, q).astype(np.float32)
        exact = form_factor(path, between)
        error = np.abs(CubicSpline(q, f, bc_type=((1, 0.0), "not-a-knot"))(between) - exact).max()
        worst = max(worst, (error / f[0], path.stem))
        print(
            f"{path.stem:2s} zval {f[0]:5.1f}  error {error / f[0]:.1e}  left {f[-1] / f[0]:+.1e}"
        )
        factors.append(f)
    np.savez_compressed(
        arguments.output,
        elements=np.array([path.stem for path in files]),
        q=(q / BOHR).astype(np.float64),
        form_factors=np.array(factors),
    )
    size = arguments.output.stat().st_size
    print(f"{len(files)} elements, {size} bytes, largest error {worst[0]:.1e} of zval ({worst[1]})")


if __name__ == "__main__":
    main()
