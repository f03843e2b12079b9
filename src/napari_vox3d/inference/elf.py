"""Prediction of the electron localization function from atoms or an electron density."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from napari_vox3d.density import grid_shape, tsirelson_stash_elf
from napari_vox3d.density.elfnet_tables import elfnet_shape, superpose_elfnet_tables
from napari_vox3d.density.grids import interpolate, nearest_shape
from napari_vox3d.errors import InferenceError, ModelError
from napari_vox3d.inference.elf_inputs import (
    SAD,
    Shape,
    atomic_density,
    atoms_on,
    electron_density,
    foreign_electrons,
    network_inputs,
)
from napari_vox3d.inference.elf_limits import strangeness
from napari_vox3d.inference.elf_pass import run_whole_cell
from napari_vox3d.models import ELFInput, Model, ModelCard, list_models, load_model
from napari_vox3d.progress import Progress, part_of
from napari_vox3d.provenance import Run, changed, model_name
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

DEFAULT_SPACING = 0.2  # Å, where the user does not ask for one
# Shares of the whole when the density is there, and when the network has its inputs; on a CPU.
_SUPERPOSED, _DESCRIBED = 0.25, 0.5
_FINEST = 0.1  # Å: an ELF has no detail below, so finer grids are interpolated
_MOST_POINTS = 1000**3  # of the result: 8 GB while it is interpolated
_FROM_ATOMS = "superposed atomic densities"
_TABLES = "neutral_densities"


@overload
def predict_elf(
    source: Volume | Atoms | str | Path,
    model: str | Path | Model = ...,
    *,
    shape: Shape | None = ...,
    spacing: float | None = ...,
    device: str = ...,
    precision: str = ...,
    uncertainty: Literal[False] = ...,
    tables: str | Path | None = ...,
    memory: float | None = ...,
    progress: Progress | None = ...,
) -> Volume: ...


@overload
def predict_elf(
    source: Volume | Atoms | str | Path,
    model: str | Path | Model = ...,
    *,
    shape: Shape | None = ...,
    spacing: float | None = ...,
    device: str = ...,
    precision: str = ...,
    uncertainty: Literal[True],
    tables: str | Path | None = ...,
    memory: float | None = ...,
    progress: Progress | None = ...,
) -> tuple[Volume, Volume]: ...


def predict_elf(
    source: Volume | Atoms | str | Path,
    model: str | Path | Model = "default",
    *,
    shape: Shape | None = None,
    spacing: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    uncertainty: bool = False,
    tables: str | Path | None = None,
    memory: float | None = None,
    progress: Progress | None = None,
) -> Volume | tuple[Volume, Volume]:
    """Predict the electron localization function of a crystal.

    Most models are given the superposition of neutral atomic densities, computed from the atoms,
    and the values of a density are not looked at. Others are given the electron density itself.
    The default is a model of the second kind if there is one and the source is an electron density
    of as many electrons as the valence shells that the models know. A model trained at one grid
    spacing computes at the grid nearest to it, whatever grid is asked for, because its kernels
    know no other spacing; others compute on the grid asked for, unless it is finer than 0.1 Å. The
    result is brought to the grid asked for by periodic cubic splines.

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
    uncertainty
        Whether to say how far off the ELF may be at each point. Some models cannot.
    tables
        Folder ``neutral_densities`` of ELFNet, for its published checkpoints alone; by default
        the one beside the checkpoint.
    memory
        GB that the pass of the network may take, beside its inputs. Default: what is free. A
        FlatResNet3D that needs more keeps its activations in files, to the same result (`stream`).
    progress
        Called as ``progress(done, total)``; what it raises ends the prediction.

    Returns
    -------
    elf : Volume
        Quantity ``"elf"``, float32 values in [0, 1], periodic, with the atoms. On the grid of a
        source volume, step and origin are copied. `metadata` holds the `Run`, and under
        ``"provenance"`` what the input was and where the network ran; ``"expected error"``, the
        mean absolute error to be expected, and ``"error band"``, the share of the points that lie
        within the band and its mean half-width, if the model can say; and ``"notes"``, if the
        crystal is unlike all that the model was trained on, which is warned of too.
    uncertainty : Volume
        Only if asked for. Quantity ``"uncertainty"``: half-width of the band around the ELF that
        holds the truth at the share of the points that the model's card states (90 %).

    Raises
    ------
    ModelError
        If the model is unknown or damaged, needs tables that are not there, or cannot say how far
        off it may be.
    InferenceError
        If the source has no atoms or is not periodic, is not what the model predicts from, or the
        memory does not suffice.
    Vox3dError
        If a file cannot be read or an element has no atomic density.
    """
    given = _read(source)
    chosen = default_model(given) if model == "default" else load_model(model, task="elf")
    if uncertainty and chosen.card.uncertainty is None:
        raise ModelError(f"Model {chosen.card.name!r} cannot say how far off it may be.")
    folder = _tables_for(chosen, model, tables)
    report = progress or (lambda done, total: None)
    report(0, 1)
    grid = _grid(given, shape, spacing)
    if chosen.card.network is None:
        outcome = _promolecular(given, grid, report)
    else:
        limit = None if memory is None else 1e9 * memory
        outcome = _by_network(given, grid, chosen, folder, device, precision, limit, report)
    report(1, 1)
    for problem in outcome.notes:
        warnings.warn(f"{_formula(grid)}: {problem}", stacklevel=2)
    run = Run(
        "predict_elf",
        grid.source or grid.name or _formula(grid),
        changed(
            shape=(None if shape is None else [int(n) for n in shape], None),
            spacing=(_stated_spacing(given, shape, spacing), None),
            device=(device, "auto"),
            precision=(precision, "auto"),
            uncertainty=(uncertainty, False),
            tables=(None if tables is None else str(tables), None),
        ),
        model=model_name(model, chosen.card.name),
        sha256=chosen.card.sha256 or "",
        voxel_size=tuple(grid.voxel_size.tolist()),
    )
    made = {"training data": chosen.card.training, **outcome.settings}
    if outcome.notes:
        made["notes"] = outcome.notes
    elf = grid.with_values(
        np.clip(outcome.elf, 0, 1, dtype=np.float32),
        name=f"{_formula(grid)} ELF",
        metadata={"provenance": made, **run.as_metadata()},
    )
    if not uncertainty:
        return elf
    assert outcome.band is not None
    return elf, elf.with_values(
        outcome.band,
        quantity="uncertainty",
        name=f"{_formula(grid)} ELF uncertainty",
    )


@dataclass
class _Outcome:
    """ELF on the grid asked for, how it was made, what is to be said, and the band around it."""

    elf: NDArray[np.floating]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    band: NDArray[np.floating] | None = None


def default_model(given: Volume | Atoms) -> Model:
    """Choose for a user who names no model: that of the electron density, if it is given and known.

    Parameters
    ----------
    given
        Crystal, or a volume with or without one.

    Raises
    ------
    ModelError
        If there is no default model.
    """
    if not foreign_electrons(given):
        for card in list_models("elf"):
            if card.default and card.needs_density:
                return load_model(card.name, task="elf")
    return load_model("default", task="elf")


def stated_error(elf: Volume) -> str:
    """What a predicted ELF says about its error, as ``"expected error 0.031; 90 % band ±0.072"``.

    Both are means over the cell. Empty if the model could not say.
    """
    made = elf.metadata.get("provenance", {})
    if "expected error" not in made:
        return ""
    band = made["error band"]
    return (
        f"expected error {made['expected error']:.3f}; "
        f"{100 * band['share']:.0f} % band ±{band['mean half-width']:.3f}"
    )


def _input_of(card: ModelCard) -> ELFInput:
    assert isinstance(card.input, ELFInput)
    return card.input


def _tables_for(chosen: Model, model: str | Path | Model, tables: str | Path | None) -> Path | None:
    """Folder of the tables that a published checkpoint of ELFNet needs; None for other models."""
    if _input_of(chosen.card).density != "elfnet":
        return None
    if tables is not None:
        return Path(tables)
    beside = Path(model).parent / _TABLES if isinstance(model, (str, Path)) else None
    if beside is not None and beside.is_dir():
        return beside
    raise ModelError(
        f"Model {chosen.card.name!r} expects ELFNet's own atomic tables, since any other densities "
        f"would give it a wrong ELF: name ELFNet's folder {_TABLES} with tables=…, or put it "
        "beside the checkpoint."
    )


def _stated_spacing(
    given: Volume | Atoms, shape: Shape | None, spacing: float | None
) -> float | None:
    """Spacing that gives the same grid from a file that has one of its own beside the atoms."""
    if spacing is None and shape is None and not isinstance(given, Volume):
        return DEFAULT_SPACING
    return None if spacing is None else float(spacing)


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
    if np.prod(shape, dtype=float) > _MOST_POINTS:
        raise InferenceError(
            f"A grid of {'×'.join(map(str, shape))} points is more than can be computed here; take "
            "a larger spacing."
        )
    return Volume.on_lattice(np.broadcast_to(np.float32(0), shape), lattice, **fields)


def _promolecular(given: Volume | Atoms, grid: Volume, report: Progress) -> _Outcome:
    """Tsirelson–Stash ELF of the superposed densities on `grid`."""
    density = atomic_density(given, grid, grid.shape, part_of(report, 0, 0.5))
    elf = interpolate(tsirelson_stash_elf(density, part_of(report, 0.5, 1)).values, grid.shape)
    return _Outcome(elf, {"input": _FROM_ATOMS})


def _by_network(
    given: Volume | Atoms,
    grid: Volume,
    model: Model,
    tables: Path | None,
    device: str,
    precision: str,
    memory: float | None,
    report: Progress,
) -> _Outcome:
    """Run the network on its own grid."""
    import torch

    from napari_vox3d.inference.device import choose_device, choose_precision

    card, needs = model.card, _input_of(model.card)
    place = choose_device(device)
    dtype = choose_precision("float32" if precision == "auto" else precision, place)
    shape = _network_shape(grid, needs.spacing) if tables is None else elfnet_shape(grid.lattice)
    if max(shape) < 2:  # its normalisation compares points
        raise InferenceError("The network needs a grid of more than one point; give a finer one.")
    superposing = part_of(report, 0, _SUPERPOSED)
    density, said = _density(given, grid, card, shape, tables, superposing)
    network = model.network(place)
    if tables is None:
        describing = part_of(report, _SUPERPOSED, _DESCRIBED)
        values, cell = network_inputs(density, shape, needs.channels, describing), grid.cell
    else:  # ELFNet's arrays run along a, b, c
        turned = np.asarray(density.values, np.float32).T
        values, cell = np.stack([turned for _ in needs.channels]), grid.cell[::-1]
    inputs = torch.from_numpy(values)[None].to(place)
    passing = part_of(report, _DESCRIBED, 1)
    elf, scale = run_whole_cell(network, inputs, dtype, cell, passing, memory)
    settings: dict[str, Any] = {
        "input": said,
        "device": str(place),
        "precision": str(dtype).removeprefix("torch."),
        "network grid": list(shape),
    }
    notes = strangeness(card.known, grid.atoms, values)
    if card.needs_density and grid.atoms is not None:
        notes += [f"{_sentence(problem)}." for problem in [foreign_electrons(given)] if problem]
    outcome = _Outcome(interpolate(elf if tables is None else elf.T, grid.shape), settings, notes)
    if scale is not None and card.uncertainty is not None:
        band = interpolate(card.uncertainty.factor * scale, grid.shape)
        outcome.band = np.clip(band, 0, 1, dtype=np.float32)
        settings["expected error"] = float(card.uncertainty.mean_error * scale.mean())
        settings["error band"] = {
            "share": card.uncertainty.share,
            "mean half-width": float(outcome.band.mean()),
        }
    return outcome


def _density(
    given: Volume | Atoms,
    grid: Volume,
    card: ModelCard,
    shape: Shape,
    tables: Path | None,
    progress: Progress,
) -> tuple[Volume, str]:
    """What the network's channels are computed from, and how to call it."""
    if tables is not None:
        return superpose_elfnet_tables(atoms_on(grid), shape, tables), "ELFNet's atomic tables"
    if card.needs_density:
        return electron_density(given, card.name), "the electron density of the source"
    return atomic_density(given, grid, shape, progress), _FROM_ATOMS


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _network_shape(grid: Volume, spacing: float | None) -> Shape:
    if spacing is None and grid.voxel_size.min() >= _FINEST:
        return grid.shape
    return nearest_shape(grid.lattice, spacing or _FINEST)


def _formula(grid: Volume) -> str:
    return grid.name if grid.atoms is None else grid.atoms.get_chemical_formula()
