"""Prediction of the electron localization function from superposed atomic densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.density import grid_shape, superpose_atoms, tsirelson_stash_elf
from napari_vox3d.density.grids import interpolate, nearest_shape, resample_waves
from napari_vox3d.density.invariants import density_invariants
from napari_vox3d.errors import InferenceError, ModelError
from napari_vox3d.models import ELFInput, Model, load_model
from napari_vox3d.provenance import Run, changed, model_name
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    import torch
    from ase import Atoms
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
Shape = tuple[int, int, int]

SAD = "superposed atomic density"
DEFAULT_SPACING = 0.2  # Å, where the user does not ask for one
_FINEST = 0.1  # Å: an ELF has no detail below, so finer grids are interpolated
_DENSITY_SPACING = 0.08  # Å: derivatives of hard atoms need this; coarser grids ring
_SLAB_WORK = 8e9  # multiply-adds of one slab on a CPU: about 0.3 s on two cores
_SLAB_WORK_DEVICE = 1e12
_SMALLER = 4  # a slab that did not fit is divided by this


def predict_elf(
    source: Volume | Atoms | str | Path,
    model: str | Path | Model = "default",
    *,
    shape: Shape | None = None,
    spacing: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Volume:
    """Predict the electron localization function of a crystal.

    The input of every model is the superposition of neutral atomic densities, computed from the
    atoms; the values of a density are not looked at. A model trained at one grid spacing computes
    at the grid nearest to it, whatever grid is asked for, because its kernels know no other
    spacing; others compute on the grid asked for, unless it is finer than 0.1 Å. The result is
    brought to the grid asked for by periodic cubic splines.

    Parameters
    ----------
    source
        Crystal, a volume that carries one (CHGCAR, …), or the path of a file with either. A volume
        without atoms serves if it is itself a superposition of atomic densities.
    model
        Name from `list_models`, path of a model, or a `Model`; ``"promolecule"`` needs no
        weights.
    shape
        Points of the result along (c, b, a). Default: those of a volume.
    spacing
        Å between points of the result, at most; instead of `shape`. Default for a bare crystal:
        0.2.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: float32, because half the bits
        change an ELF by up to 0.03.
    progress
        Called as ``progress(done, total)``; what it raises ends the prediction.

    Returns
    -------
    Volume
        Quantity ``"elf"``, float32 values in [0, 1], periodic, with the atoms. On the grid of a
        source volume, step and origin are copied. `metadata` holds the `Run`, and under
        ``"provenance"`` what the input was and where the network ran.

    Raises
    ------
    ModelError
        If the model is unknown or damaged, or needs densities that only its owner can supply.
    InferenceError
        If the source has no atoms or is not periodic, or the memory does not suffice.
    Vox3dError
        If a file cannot be read or an element has no atomic density.
    """
    chosen = load_model(model, task="elf")
    needs = chosen.card.input
    assert isinstance(needs, ELFInput)
    if needs.density == "elfnet":
        raise ModelError(
            f"Model {chosen.card.name!r} expects the atomic densities of ELFNet, which this "
            "package does not have; superposed densities of its own would give a wrong ELF."
        )
    report = progress or (lambda done, total: None)
    report(0, 1)
    given = _read(source)
    grid = _grid(given, shape, spacing)
    if chosen.card.network is None:
        values, settings = _promolecular(given, grid)
    else:
        values, settings = _by_network(given, grid, chosen, device, precision, report)
    report(1, 1)
    run = Run(
        "predict_elf",
        grid.source or grid.name or _formula(grid),
        changed(
            shape=(None if shape is None else [int(n) for n in shape], None),
            spacing=(None if spacing is None else float(spacing), None),
            device=(device, "auto"),
            precision=(precision, "auto"),
        ),
        model=model_name(model, chosen.card.name),
        sha256=chosen.card.sha256 or "",
        voxel_size=tuple(grid.voxel_size.tolist()),
    )
    made = {
        "input": "superposed atomic densities",
        "training data": chosen.card.training,
        **settings,
    }
    return grid.with_values(
        np.clip(values, 0, 1, dtype=np.float32),
        name=f"{_formula(grid)} ELF",
        metadata={"provenance": made, **run.as_metadata()},
    )


def _read(source: Volume | Atoms | str | Path) -> Volume | Atoms:
    """Volume or crystal of any source."""
    if not isinstance(source, (str, Path)):
        return source
    from napari_vox3d.formats import kind_of, read_atoms, read_volumes

    if kind_of(source) == "structure":
        atoms = read_atoms(source)
        atoms.info["source"] = str(source)
        return atoms
    return read_volumes(source)[0]


def _grid(given: Volume | Atoms, shape: Shape | None, spacing: float | None) -> Volume:
    """Empty ELF volume: the grid, atoms and source that the result will have."""
    if shape is not None and spacing is not None:
        raise InferenceError("Give either the shape of the grid or its spacing, not both.")
    fields: dict[str, Any] = {"quantity": "elf"}
    if isinstance(given, Volume):
        if not given.periodic:
            raise InferenceError(
                f"{given.name or 'This volume'} is not periodic: an ELF needs a crystal."
            )
        if given.atoms is None and given.quantity != SAD:
            raise InferenceError(
                f"{given.name or 'This volume'} carries no atoms, so that their densities cannot "
                "be superposed; give a structure or a volume file with one."
            )
        lattice = given.lattice
        fields |= {"atoms": given.atoms, "source": given.source, "origin": given.origin}
        if shape is None and spacing is None:
            return Volume(
                np.broadcast_to(np.float32(0), given.shape), given.step, periodic=True, **fields
            )
    else:
        lattice = given.cell.array
        fields |= {"atoms": given, "source": given.info.get("source", "")}
        if abs(np.linalg.det(lattice)) == 0:
            raise InferenceError(
                f"{given.get_chemical_formula()} has no cell: an ELF needs a crystal."
            )
    if shape is None:
        chosen = DEFAULT_SPACING if spacing is None else spacing
        if not (np.isfinite(chosen) and chosen > 0):
            raise InferenceError(f"The grid spacing must be a positive length in Å, not {chosen}.")
        shape = grid_shape(lattice, chosen)
    if len(shape) != 3 or min(shape) < 1:
        raise InferenceError(f"A grid has three axes (c, b, a) of at least one point, not {shape}.")
    return Volume.on_lattice(np.broadcast_to(np.float32(0), shape), lattice, **fields)


def atomic_density(given: Volume | Atoms, grid: Volume, shape: Shape) -> Volume:
    """Superposed atomic density over a cell, fine enough to be differentiated.

    Parameters
    ----------
    given
        A superposed density without atoms, which is handed back; anything else is not looked at.
    grid
        Volume with the cell, the origin and the atoms.
    shape
        (c, b, a) of the grid that descriptors are wanted on; the density's is a multiple of it.

    Raises
    ------
    Vox3dError
        If an element has no atomic density.
    """
    if isinstance(given, Volume) and given.atoms is None:
        return given
    assert grid.atoms is not None
    crystal = grid.atoms.copy()
    crystal.set_cell(grid.lattice)
    crystal.pbc = True
    crystal.positions -= grid.origin[::-1]
    return superpose_atoms(crystal, _refined(grid, shape))


def _refined(grid: Volume, shape: Shape) -> Shape:
    """Multiple of `shape` that is fine enough to differentiate atomic densities on."""
    spacing = np.linalg.norm(grid.cell, axis=1) / shape
    c, b, a = (
        int(n * np.ceil(h / _DENSITY_SPACING - 1e-6)) for n, h in zip(shape, spacing, strict=True)
    )
    return c, b, a


def _promolecular(
    given: Volume | Atoms, grid: Volume
) -> tuple[NDArray[np.floating], dict[str, Any]]:
    """Tsirelson–Stash ELF of the superposed densities on `grid`; no settings."""
    density = atomic_density(given, grid, grid.shape)
    return interpolate(tsirelson_stash_elf(density).values, grid.shape), {}


def network_inputs(density: Volume, shape: Shape, channels: Sequence[str]) -> NDArray[np.float32]:
    """Input channels of a network on a grid over the cell of a superposed atomic density.

    Parameters
    ----------
    density
        Superposed atomic density in e/Å³.
    shape
        (c, b, a) of the network's grid.
    channels
        ``"sad"``: the density; ``"log_sad"``: its logarithm; ``"promolecular_elf"``: its
        Tsirelson–Stash ELF; ``"invariants"``: the 24 channels of `density_invariants`.

    Returns
    -------
    ndarray
        (channels, c, b, a) float32.

    Raises
    ------
    ModelError
        If a channel has another name.
    """
    parts: list[NDArray[np.floating]] = []
    for channel in channels:
        if channel == "sad":
            parts.append(resample_waves(density.values, shape)[None])
        elif channel == "log_sad":
            parts.append(np.log(np.maximum(resample_waves(density.values, shape), 1e-3))[None])
        elif channel == "promolecular_elf":
            parts.append(interpolate(tsirelson_stash_elf(density).values, shape)[None])
        elif channel == "invariants":
            parts.append(density_invariants(density, shape))
        else:
            raise ModelError(f"No input channel is called {channel!r}; the card may be too new.")
    return np.concatenate(parts).astype(np.float32, copy=False)


def _by_network(
    given: Volume | Atoms, grid: Volume, model: Model, device: str, precision: str, report: Progress
) -> tuple[NDArray[np.floating], dict[str, Any]]:
    """Run the network on its own grid; its ELF on `grid`, and how it was run."""
    import torch

    from napari_vox3d.inference.device import choose_device, choose_precision

    needs = model.card.input
    assert isinstance(needs, ELFInput)
    place = choose_device(device)
    dtype = choose_precision("float32" if precision == "auto" else precision, place)
    shape = _network_shape(grid, needs.spacing)
    network = model.network(place)
    density = atomic_density(given, grid, shape)
    inputs = torch.from_numpy(network_inputs(density, shape, needs.channels))[None].to(place)
    values = _run(network, inputs, dtype, grid, report)
    settings = {
        "device": str(place),
        "precision": str(dtype).removeprefix("torch."),
        "network grid": list(shape),
    }
    return interpolate(values, grid.shape), settings


def _network_shape(grid: Volume, spacing: float | None) -> Shape:
    if spacing is None and grid.voxel_size.min() >= _FINEST:
        return grid.shape
    return nearest_shape(grid.lattice, spacing or _FINEST)


def _run(
    network: torch.nn.Module,
    inputs: torch.Tensor,
    dtype: torch.dtype,
    grid: Volume,
    report: Progress,
) -> NDArray[np.float32]:
    """One pass over a whole cell, in slabs that become smaller until they fit."""
    import torch

    from napari_vox3d.inference.device import autocast, free_memory, is_out_of_memory
    from napari_vox3d.networks.slabs import count_ticks, in_slabs

    net: Any = getattr(network, "net", network)
    device, shape = inputs.device, inputs.shape[2:]
    lattice = torch.from_numpy(grid.cell.astype(np.float32))[None].to(device)
    work = _SLAB_WORK if device.type == "cpu" else _SLAB_WORK_DEVICE
    slab = max(1, int(work / net.work_per_voxel()))
    while True:
        total, done = count_ticks(network, shape, slab), 0

        def tick() -> None:
            nonlocal done
            report(done, total)  # noqa: B023 - used before the next round begins
            done += 1

        try:
            with in_slabs(network, slab, tick), autocast(device, dtype):
                main, _ = network(inputs, lattice)
            return main[0, 0].float().cpu().numpy()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory(device)
        if slab <= shape[1] * shape[2]:
            raise InferenceError(_what_fits(net, shape, grid, device))
        slab //= _SMALLER


def _what_fits(net: Any, shape: Sequence[int], grid: Volume, device: torch.device) -> str:
    from napari_vox3d.networks.memory import available_memory

    need, have = net.peak_bytes(shape, 1), available_memory(device)
    spacing = float(np.linalg.norm(grid.cell, axis=1).max() / max(shape))
    coarser = spacing * max(1.1, (need / max(have, 1)) ** (1 / 3))
    return (
        f"A grid of {'×'.join(map(str, shape))} points needs about {need / 1e9:.1f} GB and "
        f"{have / 1e9:.1f} GB are free on {device}; a spacing of {coarser:.2f} Å would fit."
    )


def _formula(grid: Volume) -> str:
    return grid.name if grid.atoms is None else grid.atoms.get_chemical_formula()
