"""Baseline: how well the true templates find their particles in the tomograms of `figures.py`.

    python recipes/picking/template_matching.py TEMPLATES RUN

Matched filters at 20 Å: the spectrum of the tomogram is made white, templates are turned 318 ways,
get the missing wedge and the contrast transfer of 4 µm, and compete for every place. Thresholds
are the best for these very tomograms, so the figures are what no such search exceeds. RUN is that
of `train.py`, whose test tomograms are taken.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from figures import PLAIN, Tests, measure, score_map, unseen
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tomograms import CLASSES, read_templates

import napari_vox3d as vox
from napari_vox3d import Volume
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.training.simulation import DEFOCUS
from napari_vox3d.training.thresholds import best_threshold

TURNS = 318
_CELL = 20.0  # Å
_LEAST, _MOST = 3.0, 100.0  # standard deviations of the noise
_WAVELENGTH = 0.0197  # Å, of electrons at 300 kV
_AMPLITUDE_CONTRAST = 0.07
_STEEPEST = 60.0  # degrees


def main() -> None:
    """Print a row for each measure and difficulty."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("templates", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--each", type=int, default=3, help="tomograms of each difficulty")
    options = parser.parse_args()
    densities = read_templates(options.templates)
    known = [densities[name] for name in CLASSES]
    tomograms = unseen(options.templates, options.run / "tomograms", **PLAIN)
    for name, all_ in tomograms.items():
        examples = all_[: options.each]
        one: Tests = {name: examples}
        maps = {volume.name: match(volume, known) for volume, _ in examples}
        found = [vox.find_particles(maps[volume.name], threshold=0.05) for volume, _ in examples]
        true = [picks for _, picks in examples]
        best = {beta: {kind.name: best_threshold(found, true, kind, beta)
                       for kind in CLASSES.values()} for beta in (1.0, 4.0)}  # fmt: skip
        for row in measure(lambda volume: maps[volume.name], one, best):  # noqa: B023 - at once
            print(row, flush=True)


def match(volume: Volume, densities: Sequence[NDArray[np.float32]]) -> list[Volume]:
    """Score maps of the five classes: logarithms of correlations, in deviations of the noise.

    Parameters
    ----------
    volume
        Tomogram of 10 Å voxels with dark particles, tilted about y.
    densities
        Template of each class, in 10 Å voxels.
    """
    view = NetworkView.of(volume, 10, "robust")
    cells = [n // 2 for n in volume.shape]
    values = view.read((0, 0, 0), [2 * n for n in cells])
    values = -values.reshape(cells[0], 2, cells[1], 2, cells[2], 2).mean((1, 3, 5))
    waves = torch.fft.rfftn(torch.from_numpy(values))
    noise = _amplitude(waves)
    transfer, white = _transfer(cells) / noise, waves / noise
    found = [_correlate(white, transfer, density, cells) for density in densities]
    around = [ndimage.maximum_filter(each, 3) for each in found]
    maps = []
    for n, kind in enumerate(CLASSES.values()):
        # whatever the contrast, the likeliest class is that of the highest correlation
        others = np.max([each for k, each in enumerate(around) if k != n], axis=0)
        sure = np.log(np.maximum(found[n], _LEAST) / _LEAST) / np.log(_MOST / _LEAST)
        score = np.minimum(sure, 1) * (found[n] >= others)
        maps.append(score_map(volume, score, kind, _CELL))
    return maps


def _correlate(
    white: torch.Tensor, transfer: torch.Tensor, density: NDArray[np.float32], cells: Sequence[int]
) -> NDArray[np.float32]:
    """Highest correlation of any turn, in standard deviations of the noise."""
    solid = density / density[density > 0.2 * density.max()].mean()
    middle = np.array(ndimage.center_of_mass(solid > 0.2))
    half = int(np.ceil(np.linalg.norm(density.shape) / 4))
    grid = np.stack(np.meshgrid(*[np.arange(-half, half + 1) * 2.0] * 3, indexing="ij"))
    smooth = ndimage.uniform_filter(solid, 2, origin=-1)
    highest, spreads = np.full(tuple(cells), -np.inf, np.float32), []
    for turn in _turns():
        points = np.einsum("ij,jzyx->izyx", turn.T, grid) + middle[:, None, None, None] - 0.5
        box = np.zeros(tuple(cells), np.float32)
        box[tuple(slice(0, 2 * half + 1) for _ in range(3))] = ndimage.map_coordinates(
            smooth, points, order=1
        )
        box = np.roll(box, [-half] * 3, axis=(0, 1, 2))
        waves = torch.fft.rfftn(torch.from_numpy(box)) * transfer
        waves[0, 0, 0] = 0
        back = torch.fft.irfftn(waves, s=list(cells))
        found = torch.fft.irfftn(white * waves.conj(), s=list(cells)) / back.norm()
        np.maximum(highest, found.numpy(), out=highest)
        spreads.append(float(found.std()))
    return highest / np.mean(spreads)


def _turns() -> list[NDArray[np.float64]]:
    """Matrices of turns spread evenly: a super-Fibonacci spiral (Alexa, CVPR 2022)."""
    s = np.arange(TURNS) + 0.5
    t, d = s / TURNS, 2 * np.pi * s
    psi = 1.533751168755204288118041
    r, big = np.sqrt(t), np.sqrt(1 - t)
    alpha, beta = d / np.sqrt(2), d / psi
    spiral = np.stack([r * np.sin(alpha), r * np.cos(alpha),
                       big * np.sin(beta), big * np.cos(beta)], axis=1)  # fmt: skip
    return list(Rotation.from_quat(spiral).as_matrix())


def _transfer(cells: Sequence[int]) -> torch.Tensor:
    """Contrast transfer inside of what the tilts cover, on the half spectrum."""
    kz, ky = (torch.fft.fftfreq(n, _CELL)[:, None] for n in cells[:2])
    kx = torch.fft.rfftfreq(cells[2], _CELL)
    kz, ky = kz[:, None], ky[None]
    covered = kz.abs() <= np.tan(np.deg2rad(_STEEPEST)) * kx.abs() + 0.5 / (cells[0] * _CELL)
    phase = torch.pi * _WAVELENGTH * float(np.mean(DEFOCUS)) * (kx**2 + ky**2 + kz**2)
    return torch.sin(phase + _AMPLITUDE_CONTRAST).abs() * covered


def _amplitude(waves: torch.Tensor) -> torch.Tensor:
    """Root mean square of the spectrum at each frequency's distance from zero."""
    sizes = (waves.shape[0], waves.shape[1], 2 * (waves.shape[2] - 1))
    kz, ky = (torch.fft.fftfreq(n)[:, None] for n in sizes[:2])
    kx = torch.fft.rfftfreq(sizes[2])
    shell = ((kz[:, None] ** 2 + ky[None] ** 2 + kx**2).sqrt() * 128).round().long()
    power = torch.zeros(int(shell.max()) + 1).index_add_(
        0, shell.flatten(), (waves.abs() ** 2).flatten()
    )
    count = torch.bincount(shell.flatten())
    return (power / count).sqrt()[shell].clamp(min=1e-9)


if __name__ == "__main__":
    main()
