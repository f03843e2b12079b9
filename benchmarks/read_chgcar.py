"""Time and memory of reading a CHGCAR, against pymatgen and ASE.

``python benchmarks/read_chgcar.py`` makes a CHGCAR of 160 × 160 × 160 points with augmentation
occupancies, reads it with each library in processes of their own, and prints the median time of
reading (imports excluded), the memory that reading added at its peak, and both as multiples of
this package's. Memory is read from /proc, so this runs on Linux only; pages of a memory-mapped
file count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms

from napari_vox3d import Volume
from napari_vox3d.formats import vasp

PREPARE = """
import json, re, sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
path = sys.argv[1]
{imports}
status = Path("/proc/self/status")
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 1024
times = []
before = peak()
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    found = {call}
    times.append(time.perf_counter() - start)
    if len(times) == 1:
        added = peak() - before
print(json.dumps({{"times": times, "mib": added, "mean": float({mean})}}))
"""
READERS = {
    "napari-vox3d": {
        "imports": "import ase\nfrom napari_vox3d.formats import vasp",
        "call": "vasp.read(path)",
        "mean": "found[0].values.mean() * found[0].volume",
    },
    "pymatgen": {
        "imports": "from pymatgen.io.vasp.outputs import Chgcar",
        "call": "Chgcar.from_file(path)",
        "mean": 'found.data["total"].mean()',
    },
    "ASE": {
        "imports": "from ase.calculators.vasp import VaspChargeDensity",
        "call": "VaspChargeDensity(path)",
        "mean": "found.chg[0].mean() * found.atoms[0].get_volume()",
    },
}


def make_chgcar(path: Path, points: int) -> None:
    """Write a made-up CHGCAR: positive values over several decades, 8 atoms, augmentation."""
    lattice = np.array([[8.0, 0, 0], [1, 8.0, 0], [0.5, 0.5, 9.0]])
    random = np.random.default_rng(0)
    values = 10.0 ** random.uniform(-6, 3, (points, points, points))
    atoms = Atoms("Si8", scaled_positions=random.uniform(size=(8, 3)), cell=lattice, pbc=True)
    line = "  0.2753636E+00 -0.3331354E-01  0.0000000E+00  0.1027381E-02  0.4070687E-01\n"
    text = "".join(f"augmentation occupancies {n:3d} {33:3d}\n" + line * 7 for n in range(1, 9))
    kept = {"after": {"quantity": "electron density", "text": text.encode()}}
    volume = Volume.on_lattice(
        values, lattice, quantity="electron density", atoms=atoms, metadata={"vasp": kept}
    )
    vasp.write(path, volume)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=160, help="grid points along each vector")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "CHGCAR"
        make_chgcar(path, arguments.points)
        print(f"CHGCAR of {arguments.points}³ points, {path.stat().st_size / 1e6:.0f} MB")
        print(f"{'':14}{'median s':>10}{'min s':>10}{'× ours':>8}{'MiB':>8}{'× ours':>8}")
        ours = None
        for name, reader in READERS.items():
            run = subprocess.run(
                [sys.executable, "-c", PREPARE.format(**reader), path, str(arguments.repeats)],
                capture_output=True,
                text=True,
                check=True,
            )
            result = json.loads(run.stdout)
            median, memory = statistics.median(result["times"]), result["mib"]
            ours = ours or (median, memory, result["mean"])
            assert np.isclose(result["mean"], ours[2], rtol=1e-9), name
            print(
                f"{name:14}{median:10.3f}{min(result['times']):10.3f}{median / ours[0]:8.1f}"
                f"{memory:8.0f}{memory / ours[1]:8.1f}"
            )


if __name__ == "__main__":
    main()
