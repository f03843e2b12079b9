"""Dense against patchwise picking with the shipped `CryoET3DCNN` on one tomogram.

    python benchmarks/dense_picking.py [--threads N] [--windows 64]

Dense is `score_particles` as users run it: a score at every 4th voxel. Patchwise is the published
way: one 64³ window after the other through the same network, here at every 8th voxel only, in
batches of eight; it is timed on some windows and extrapolated to all of them. The two do not give
equal scores: each separate window pads its own border with zeros.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import napari_vox3d as vox
from napari_vox3d.networks.cryoet_cnn import WINDOW

SHAPE = (184, 256, 256)
STRIDE, BATCH = 8, 8


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--windows", type=int, default=64, help="timed one by one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    volume = vox.Volume(values, 10.0, name="noise")
    model = vox.load_model("default", task="picking")
    network = model.network()  # weights are read and kept before the clock starts

    wall, used = time.perf_counter(), time.process_time()
    maps = vox.score_particles(volume, model, device="cpu")
    dense_wall, dense_cpu = time.perf_counter() - wall, time.process_time() - used
    places = int(np.prod(maps[0].shape))
    print(f"dense: {places} places at every {maps[0].voxel_size[0] / 10:.0f}th voxel, "
          f"{dense_wall:.1f} s, {dense_cpu:.1f} CPU-s")  # fmt: skip

    wall = time.perf_counter()
    picks = vox.find_particles(maps)
    print(f"find_particles: {1000 * (time.perf_counter() - wall):.0f} ms, {len(picks)} picks")

    windows = int(np.prod([n // STRIDE for n in SHAPE]))
    corners = np.random.default_rng(1).integers(0, np.array(SHAPE) - WINDOW, (options.windows, 3))
    patches = torch.stack(
        [torch.from_numpy(values[tuple(slice(c, c + WINDOW) for c in corner)])[None]
         for corner in corners]
    )  # fmt: skip
    wall, used = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for batch in patches.split(BATCH):
            network(batch).softmax(1)
    share = windows / options.windows
    patch_wall = share * (time.perf_counter() - wall)
    patch_cpu = share * (time.process_time() - used)
    print(f"patchwise: {windows} places at every {STRIDE}th voxel, {patch_wall:.0f} s, "
          f"{patch_cpu:.0f} CPU-s, extrapolated from {options.windows} windows")  # fmt: skip
    print(f"dense is {patch_cpu / dense_cpu:.0f} times cheaper (CPU time) for 8 times the places")


if __name__ == "__main__":
    main()
