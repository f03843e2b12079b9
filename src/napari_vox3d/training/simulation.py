"""Simulated tomograms with known particles, for training and for measuring pickers.

Rigid density templates stand in random poses among vesicles, gold beads and a carbon edge. The
sample is projected at each tilt, every projection gets the microscope's contrast transfer function,
loses detail to radiation damage and gets white noise, and weighted back-projection gives the
tomogram, with the missing wedge, the defocus fringes and the noise spectrum that follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from napari_vox3d.errors import Vox3dError
from napari_vox3d.picks import Picks
from napari_vox3d.progress import Progress
from napari_vox3d.volume import Volume

TILTS = tuple(range(-60, 61, 3))  # degrees about the y axis
DEFOCUS = (30_000.0, 50_000.0)  # Å
_DISTRACTORS = 0.25  # of all particles
_WAVELENGTH = 0.0197  # Å at 300 kV
_SPHERICAL_ABERRATION = 2.7e7  # Å
_AMPLITUDE_CONTRAST = 0.07
_GOLD_RADIUS, _GOLD_DENSITY = 50.0, 6.0  # Å; protein is 1
_BILAYER, _LIPID_DENSITY = 25.0, 0.7  # Å between the two leaflets
_CARBON_THICKNESS, _CARBON_DENSITY = 200.0, 0.8  # Å

Array = NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Template:
    """A particle to be simulated.

    Parameters
    ----------
    density
        (z, y, x) array of bright protein, centred in its box, on any scale.
    label
        Class name; empty for a distractor, which is put in and not told.
    radius
        Å, that of the picks.
    voxel_size
        Å; None if it is the tomogram's.
    """

    density: Array
    label: str = ""
    radius: float = 0.0
    voxel_size: float | None = None


def simulate_tomogram(
    templates: Sequence[Template],
    *,
    shape: Shape = (96, 192, 192),
    voxel_size: float = 10.0,
    snr: float = 0.1,
    seed: int = 0,
    crowding: float = 0.15,
    tilts: Sequence[float] = TILTS,
    thickness: float | None = None,
    defocus: float | None = None,
    phases_flipped: bool = False,
    misalignment: float = 0.0,
    dose: float = 0.0,
    progress: Progress | None = None,
) -> tuple[Volume, Picks]:
    """Simulate one tomogram and tell what is in it.

    Parameters
    ----------
    templates
        Particles; labelled ones are drawn equally often, distractors one time in four.
    shape
        Voxels (z, y, x).
    voxel_size
        Å of the tomogram.
    snr
        Variance of the particles in the untilted projection over that of the noise.
    seed
        The same seed gives the same tomogram.
    crowding
        Share of the volume that the particles' spheres would take if all found room.
    tilts
        Degrees about the y axis.
    thickness
        Å of the ice that holds the particles, in the middle of the depth. Default: all of it.
    defocus
        Å of underfocus. Default: by chance between 3 and 5 µm.
    phases_flipped
        Whether the contrast transfer is corrected by its sign.
    misalignment
        Å: standard deviation, along both axes, of shifts that the tilt images are left with.
    dose
        Electrons per Å² of the whole series, taken from the lowest tilts to the highest.
    progress
        Called after each tilt; may raise `Cancelled`.

    Returns
    -------
    tuple of Volume and Picks
        Float32 tomogram with dark particles, and the particles, whose centres lie inside it:
        labels, radii and ZYZ angles (rot, tilt, psi); the intrinsic rotation
        Rz(rot)·Ry(tilt)·Rz(psi) turns the template into the particle.

    Raises
    ------
    Vox3dError
        If no template is labelled or the signal-to-noise ratio is not positive.
    """
    if not any(template.label for template in templates):
        raise Vox3dError("A simulation needs at least one labelled template.")
    if not snr > 0:
        raise Vox3dError(f"The signal-to-noise ratio must be positive, not {snr}.")
    rng = np.random.default_rng(seed)
    scenery, room = _scenery(shape, voxel_size, rng)
    if thickness is not None:
        room &= _slab(shape[0], thickness / voxel_size)
    particles = np.zeros(shape, np.float32)
    truth = _put_particles(particles, room, templates, voxel_size, crowding, rng)
    if defocus is None:
        defocus = rng.uniform(*DEFOCUS)
    microscope = _Microscope(defocus, voxel_size, phases_flipped)
    shifts = np.random.default_rng((seed, 1)).normal(size=(len(tilts), 2)) * misalignment
    before = dict(zip(sorted(tilts, key=abs), np.linspace(0, dose, len(tilts)), strict=True))
    signal = microscope.image(_project(torch.from_numpy(particles), 0.0))
    noise = float(signal.std()) / np.sqrt(snr)
    sample = torch.from_numpy(particles + scenery)
    values = torch.zeros(shape)
    for done, (tilt, shift) in enumerate(zip(tilts, shifts, strict=True), start=1):
        image = microscope.image(_project(sample, tilt), before[tilt], shift)
        image += torch.from_numpy(rng.standard_normal(tuple(image.shape), np.float32)) * noise
        _back_project(image, tilt, values)
        if progress is not None:
            progress(done, len(tilts))
    metadata = {
        "simulation": {
            "seed": seed,
            "projection_snr": snr,
            "tilts": [min(tilts), max(tilts), len(tilts)],
            "defocus": defocus,
            "phases_flipped": phases_flipped,
            "misalignment": misalignment,
            "dose": dose,
        }
    }
    name = f"simulated-{seed}"
    volume = Volume(
        (values / len(tilts)).numpy(), np.full(3, voxel_size), name=name, metadata=metadata
    )
    return volume, _picks(truth, name, shape, voxel_size)


@dataclass(frozen=True)
class _Particle:
    template: Template
    centre: NDArray[np.float64]  # voxels
    rotation: Rotation


def _picks(particles: Sequence[_Particle], name: str, shape: Shape, voxel_size: float) -> Picks:
    told = [p for p in particles if p.template.label]
    return Picks.from_indices(
        np.array([p.centre for p in told]).reshape(-1, 3),
        [p.template.label for p in told],
        voxel_size=voxel_size,
        angles=np.array([p.rotation.as_euler("ZYZ", degrees=True) for p in told]).reshape(-1, 3),
        radii=[p.template.radius for p in told],
        tomogram=name,
        shape=shape,
    )


def _scenery(
    shape: Shape, voxel_size: float, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """Vesicles, gold beads and at times a carbon edge; and where there is room beside them."""
    density = np.zeros(shape, np.float32)
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    megavoxels = density.size / 1e6
    for _ in range(rng.poisson(0.6 * megavoxels)):
        centre, radius = rng.uniform(0, shape), rng.uniform(150, 600) / voxel_size
        squash = rng.uniform(0.8, 1.25, 3)
        parts = [
            ((axis - c) * s) ** 2 for axis, c, s in zip((z, y, x), centre, squash, strict=True)
        ]
        distance = np.abs(np.sqrt(parts[0] + parts[1] + parts[2]) - radius) * voxel_size
        density += _LIPID_DENSITY * np.exp(-(((distance - _BILAYER / 2) / 8) ** 2)).astype("f4")
    for _ in range(rng.poisson(1.0 * megavoxels)):
        parts = [(axis - c) ** 2 for axis, c in zip((z, y, x), rng.uniform(0, shape), strict=True)]
        distance = np.sqrt(parts[0] + parts[1] + parts[2]) * voxel_size
        density[distance < _GOLD_RADIUS] = _GOLD_DENSITY
    if rng.random() < 0.4:
        hole = 6000 / voxel_size  # a hole 1.2 µm wide whose edge crosses the field
        side, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7) * shape[0]
        reach = hole + 0.25 * shape[1]
        outside = np.hypot(
            y - shape[1] / 2 - reach * np.sin(side), x - shape[2] / 2 - reach * np.cos(side)
        )
        film = np.abs(z - depth) * voxel_size < _CARBON_THICKNESS / 2
        density[film & (outside > hole + 0.45 * shape[1])] = _CARBON_DENSITY
    return density, density < 0.1


def _slab(depth: int, thickness: float) -> NDArray[np.bool_]:
    """Which slices (depth, 1, 1) lie within a slab in the middle."""
    inside: NDArray[np.bool_] = np.abs(np.arange(depth) - (depth - 1) / 2) <= thickness / 2
    return inside[:, None, None]


def _put_particles(
    density: Array,
    room: NDArray[np.bool_],
    templates: Sequence[Template],
    voxel_size: float,
    crowding: float,
    rng: np.random.Generator,
) -> list[_Particle]:
    """Add particles to `density` where they touch neither each other nor the scenery."""
    shape = density.shape
    labelled = [t for t in templates if t.label]
    distractors = [t for t in templates if not t.label]
    prepared = {id(t): _prepare(t, voxel_size) for t in templates}
    reach = ndimage.distance_transform_edt(room) if not room.all() else np.full(shape, np.inf)
    particles: list[_Particle] = []
    centres, sizes, filled = np.zeros((0, 3)), np.zeros(0), 0.0
    while filled < crowding * density.size:
        wants_distractor = distractors and rng.random() < _DISTRACTORS
        choice = distractors if wants_distractor else labelled
        template = choice[rng.integers(len(choice))]
        box, size = prepared[id(template)]
        filled += 4 / 3 * np.pi * size**3
        for _ in range(30):
            centre = rng.uniform(0, np.array(shape) - 1)
            near = np.linalg.norm(centres - centre, axis=1) < 0.95 * (sizes + size)
            if reach[tuple(np.rint(centre).astype(int))] > size + 1 and not near.any():
                rotation = Rotation.random(random_state=rng)
                _add(density, box, centre, rotation)
                particles.append(_Particle(template, centre, rotation))
                centres, sizes = np.vstack([centres, centre]), np.append(sizes, size)
                break
    return particles


def _prepare(template: Template, voxel_size: float) -> tuple[Array, float]:
    """Template with mean density 1 inside its surface, about its centre of mass; its radius.

    Both are in voxels of the tomogram.
    """
    density = template.density
    coarser = voxel_size / (template.voxel_size or voxel_size)
    inside = density > 0.2 * density.max()
    centre = np.array(ndimage.center_of_mass(inside))
    size = float(np.linalg.norm(np.argwhere(inside) - centre, axis=1).max()) / coarser
    if coarser > 1:  # no finer detail than the tomogram can show
        density = ndimage.gaussian_filter(density, 0.5 * np.sqrt(coarser**2 - 1))
    half = int(np.ceil(size)) + 3
    grid = np.arange(-half, half + 1) * coarser
    points = np.stack(np.meshgrid(grid, grid, grid, indexing="ij")) + centre[:, None, None, None]
    box = ndimage.map_coordinates(density / density[inside].mean(), points, order=1)
    return box.astype(np.float32), size


def _add(density: Array, box: Array, centre: NDArray[np.float64], rotation: Rotation) -> None:
    """Add a turned template about a fractional position; what falls outside is left out."""
    half = len(box) // 2
    corner = np.floor(centre).astype(int) - half
    low = np.maximum(corner, 0)
    high = np.minimum(corner + len(box) + 1, density.shape)
    # scipy turns (x, y, z) vectors, the arrays are (z, y, x)
    back = rotation.as_matrix().T[::-1, ::-1]
    offset = half + back @ (low - centre)
    part = ndimage.affine_transform(
        box, back, offset, output_shape=tuple((high - low).tolist()), order=1
    )
    density[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += part


class _Microscope:
    """Contrast transfer at one defocus (Å), for images with pixels of `voxel_size` Å."""

    def __init__(self, defocus: float, voxel_size: float, phases_flipped: bool) -> None:
        self._defocus, self._pixel, self._flipped = defocus, voxel_size, phases_flipped

    def image(
        self, projection: Tensor, dose: float = 0.0, shift: Sequence[float] = (0.0, 0.0)
    ) -> Tensor:
        """Contrast (X, Y) of a projected density after a dose (e/Å²), shifted (Å): dark protein."""
        kx = torch.fft.fftfreq(projection.shape[0], self._pixel)[:, None]
        ky = torch.fft.rfftfreq(projection.shape[1], self._pixel)
        k2 = kx**2 + ky**2
        phase = torch.pi * _WAVELENGTH * self._defocus * k2
        phase -= torch.pi / 2 * _SPHERICAL_ABERRATION * _WAVELENGTH**3 * k2**2
        transfer = -torch.sin(phase + np.arcsin(_AMPLITUDE_CONTRAST))
        if self._flipped:
            transfer = -transfer.abs()
        transfer *= torch.exp(-dose / 2 / _critical_dose(k2.sqrt()))
        moved = torch.polar(transfer, -2 * torch.pi * (kx * float(shift[0]) + ky * float(shift[1])))
        return torch.fft.irfft2(torch.fft.rfft2(projection) * moved, s=projection.shape)


def _critical_dose(frequency: Tensor) -> Tensor:
    """Electrons per Å² that leave 1/√e of the amplitude at a frequency (1/Å).

    The fit of Grant and Grigorieff, eLife 4, e06980 (2015), at 300 kV.
    """
    return 0.245 * frequency.clamp(min=1e-6) ** -1.665 + 2.81


def _project(density: Tensor, tilt: float) -> Tensor:
    """Line integrals (U, Y) through a slab (z, y, x) tilted about y; it goes on periodically in x.

    U covers the whole shadow of the slab.
    """
    depth, _, width = density.shape
    angle = np.deg2rad(tilt)
    rows = density.permute(0, 2, 1).contiguous()  # (z, x, y): whole lines along y are gathered
    u = torch.arange(width + depth) - (width + depth - 1) / 2
    shadow = torch.zeros(len(u), density.shape[1])
    for z in range(depth):
        x = (u - (z - (depth - 1) / 2) * np.sin(angle)) / np.cos(angle) + (width - 1) / 2
        left = torch.floor(x)
        weight = (x - left)[:, None]
        left = left.long()
        shadow += torch.lerp(rows[z, left % width], rows[z, (left + 1) % width], weight)
    return shadow / np.cos(angle)


def _back_project(image: Tensor, tilt: float, values: Tensor) -> None:
    """Add a ramp-weighted projection (U, Y) to the volume `values` (z, y, x)."""
    depth, _, width = values.shape
    angle = np.deg2rad(tilt)
    ramp = torch.fft.rfftfreq(len(image)).mul(2)[:, None]
    weighted = torch.fft.irfft(torch.fft.rfft(image, dim=0) * ramp, n=len(image), dim=0)
    x = torch.arange(width) - (width - 1) / 2
    for z in range(depth):
        u = x * np.cos(angle) + (z - (depth - 1) / 2) * np.sin(angle) + (len(image) - 1) / 2
        left = torch.floor(u).clamp(0, len(image) - 2)
        weight = (u - left)[:, None]
        left = left.long()
        values[z] += torch.lerp(weighted[left], weighted[left + 1], weight).T
