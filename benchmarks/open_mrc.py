"""Time and memory of opening a large tomogram, next to `mrcfile.mmap`.

A sparse float32 file of 4 GB is made in a temporary folder and opened by each reader in a process
of its own; a reader's imports are done before its clock starts. Prints the median open time of
several runs, and by how much the resident memory had grown after opening and after taking the
central slice.

    python benchmarks/open_mrc.py [--edge 1024] [--runs 7]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

READERS = {
    "napari_vox3d.read_volume": ("napari_vox3d.formats.mrc", "read({!r})[0].values"),
    "mrcfile.mmap": ("mrcfile", "mmap({!r}).data"),
}
MEASURE = """
import importlib, json, resource, sys, time
import napari_vox3d.formats, numpy

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6

module = importlib.import_module(sys.argv[1])
getattr(module, sys.argv[2].split("(")[0])
before, start = resident(), time.perf_counter()
values = eval("module." + sys.argv[2])
seconds, opened = time.perf_counter() - start, resident() - before
float(values[values.shape[0] // 2].mean())
print(json.dumps([seconds * 1e3, opened, resident() - before]))
"""


def make_tomogram(path: Path, edge: int) -> None:
    """Write the header of an (edge, edge, edge) float32 tomogram and leave the rest a hole."""
    with mrcfile.new(path, np.zeros((1, 1, 1), np.float32)) as file:
        for name in ("nx", "ny", "nz", "mx", "my", "mz"):
            file.header[name] = edge
        file.header.cella = (edge * 10.0,) * 3
    with path.open("r+b") as file:
        file.truncate(1024 + 4 * edge**3)


def measure(module: str, call: str) -> list[float]:
    """Open once in a fresh process: milliseconds, MB after opening, MB after one slice."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, module, call], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=1024, help="voxels along each edge")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tomogram.mrc"
        make_tomogram(path, options.edge)
        print(f"{path.stat().st_size / 1e9:.2f} GB, float32, median of {options.runs} runs")
        print(f"{'':26}{'open, ms':>10}{'MB':>8}{'MB, one slice':>16}")
        for name, (module, call) in READERS.items():
            runs = [measure(module, call.format(str(path))) for _ in range(options.runs)]
            time, opened, sliced = map(statistics.median, zip(*runs, strict=True))
            print(f"{name:26}{time:10.2f}{opened:8.1f}{sliced:16.1f}")


if __name__ == "__main__":
    main()
