"""`Volume` and `ase.Atoms` to napari layers and back; `pick_layers` does the same for picks.

Every layer is measured in Å: its ``units`` are ångström and its axes are (z, y, x), because napari
ignores all units as soon as one layer has others. `LayerData` is napari's own triple (data,
keyword arguments, layer type), so nothing here imports napari.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.appearance import cell_tubes, class_colours, volume_look
from napari_vox3d.gui.tomograms import check_axis_order
from napari_vox3d.picks import Picks
from napari_vox3d.provenance import Run
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from ase import Atoms
    from napari.layers import Image, Layer
    from numpy.typing import NDArray

LayerData = tuple[Any, dict[str, Any], str]

FRAME = {"units": "angstrom", "axis_labels": ("z", "y", "x")}
# In a slice each sphere is the disc in which the plane cuts it.
SPHERES = {"shading": "spherical", "projection_mode": "rescale_spherical"}
CELL_COLOUR = (0.6, 0.65, 0.7, 1.0)


def volume_layer(volume: Volume, **overrides: Any) -> LayerData:
    """Show a volume as an image layer.

    A grid with axes along z, y, x is shown as it is. Any other is shown resampled on an
    orthogonal box, because napari slices sheared layers wrongly in 2D (napari#2616); the native
    volume stays in ``metadata["vox3d"]`` for computing.

    Parameters
    ----------
    volume
        Numbers to show; a memory-mapped file is not loaded.
    **overrides
        Keyword arguments of `napari.layers.Image` that win over the ones chosen here.

    Returns
    -------
    LayerData
        (data, keyword arguments, ``"image"``); the data are a list if there are coarser levels.
    """
    shown = _shown(volume)
    name = volume.name or volume.quantity
    kwargs = {
        **FRAME,
        **volume_look(volume, shown.values),
        "name": name if volume.calibrated else f"{name} (voxel size unknown)",
        "scale": np.diag(shown.step),
        "translate": shown.origin,
        "projection_mode": "none",
        "metadata": {
            "vox3d": volume,
            "vox3d_shown": shown,
            "provenance": _provenance(volume),
            **run_metadata(volume),
        },
    }
    if shown.coarser:
        levels = [shown.values, *(level.values for level in shown.coarser)]
        return levels, {"multiscale": True, **kwargs, **overrides}, "image"
    return shown.values, {**kwargs, **overrides}, "image"


def volume_layers(volumes: Sequence[Volume]) -> list[LayerData]:
    """Show the grids of one file: the first visible, the others hidden, atoms and cell once."""
    layers = [volume_layer(volume, visible=n == 0) for n, volume in enumerate(volumes)]
    first = volumes[0]
    if first.periodic:
        layers.append(cell_layer(first))
    if first.atoms is not None:
        layers.append(atoms_layer(first))
    return layers


def structure_layers(atoms: Atoms, name: str = "", source: str = "") -> list[LayerData]:
    """Show a structure: atoms, and the unit cell if it has one."""
    provenance = {"source": source}
    name = name or atoms.get_chemical_formula()
    layers = [atoms_layer(atoms, name=name, metadata={"vox3d": atoms, "provenance": provenance})]
    if atoms.cell.rank == 3:
        layers.insert(0, cell_layer(atoms, name=f"{name} cell"))
    return layers


def atoms_layer(source: Volume | Atoms, **overrides: Any) -> LayerData:
    """Show atoms as spheres with the colours of Jmol, scaled by their covalent radius.

    Parameters
    ----------
    source
        `ase.Atoms`, or a volume that carries them; periodic ones are moved into the cell shown.
    **overrides
        Keyword arguments of `napari.layers.Points`.

    Returns
    -------
    LayerData
        Points at the Cartesian positions (z, y, x), with the feature ``element``.

    Raises
    ------
    Vox3dError
        If the volume has no atoms.
    """
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors

    atoms = source.atoms if isinstance(source, Volume) else source
    if atoms is None:
        raise Vox3dError(f"{source.name or 'This volume'} carries no atoms.")
    shown = _wrapped(atoms, source)
    diameters = 0.7 * covalent_radii[shown.numbers]  # small enough to see density and bonds
    # napari slices points half a data unit around the plane; one data unit of the largest
    # diameter keeps every sphere that the plane cuts.
    unit = float(diameters.max(initial=0.3))
    kwargs = {
        **FRAME,
        "name": _name(source, atoms, "atoms"),
        "scale": (unit,) * 3,
        "features": {"element": np.array(shown.get_chemical_symbols(), dtype=object)},
        "face_color": jmol_colors[shown.numbers],
        "border_color": "black",
        "border_width": 0.03,
        "size": diameters / unit,
        **SPHERES,
        "metadata": {"vox3d": atoms, "provenance": {"source": getattr(source, "source", "")}},
    }
    return shown.positions[:, ::-1] / unit, {**kwargs, **overrides}, "points"


def cell_layer(source: Volume | Atoms, **overrides: Any) -> LayerData:
    """Show the unit cell as twelve thin tubes, in 3D and, projected, in every 2D slice.

    Parameters
    ----------
    source
        A volume (edges of its grid) or `ase.Atoms` (edges of their cell).
    **overrides
        Keyword arguments of `napari.layers.Surface`.

    Returns
    -------
    LayerData
        Surface of the tubes; napari hides lines of any other kind where a slice does not meet
        their ends.
    """
    volume = isinstance(source, Volume)
    cell = source.cell if volume else source.cell.array[::-1, ::-1]
    vertices, faces = cell_tubes(cell, radius=0.01 * np.abs(np.linalg.det(cell)) ** (1 / 3))
    # napari keeps vertices up to half a data unit away from a slice; one data unit of twice the
    # size of the cell keeps all of them.
    unit = 2 * float(np.ptp(vertices, axis=0).max())
    kwargs = {
        **FRAME,
        "name": _name(source, source.atoms if volume else source, "cell"),
        "scale": (unit,) * 3,
        "translate": source.origin if volume else np.zeros(3),
        "vertex_colors": np.tile(CELL_COLOUR, (len(vertices), 1)),
        "shading": "none",
        "metadata": {"provenance": {"source": getattr(source, "source", "")}},
    }
    return (vertices / unit, faces), {**kwargs, **overrides}, "surface"


def score_layer(score_map: Volume, *, classes: Sequence[str] | None = None,
                **overrides: Any) -> LayerData:  # fmt: skip
    """Show the score map of one class, hidden, in the colour of that class.

    Parameters
    ----------
    score_map
        Scores in [0, 1]; its name is the class.
    classes
        All classes in the order that fixes their colours.
    **overrides
        Keyword arguments of `napari.layers.Image`.

    Returns
    -------
    LayerData
        Image layer that adds its light to the tomogram below it.
    """
    colour = class_colours(classes or [score_map.name])[score_map.name]
    look = {
        "name": f"{score_map.name} score",
        "colormap": colour,
        "blending": "additive",
        "rendering": "attenuated_mip",
        "contrast_limits": (0.0, 1.0),
        "visible": False,
    }
    return volume_layer(score_map, **{**look, **overrides})


def volume_from_layer(layer: Image, point: Sequence[float] | None = None) -> Volume:
    """Volume that an image layer shows.

    Parameters
    ----------
    layer
        Image layer, of this plugin or any other. Its data, be they numpy, dask or zarr, are
        neither copied nor read. The further levels of a multiscale layer become
        `Volume.coarser`.
    point
        World coordinates of the slices shown, as ``viewer.dims.point`` has them: they choose the
        volume of a layer that has several, along channels or time. Default: there must be one.

    Returns
    -------
    Volume
        The native volume if the layer still shows it; else the layer's data with its scale,
        affine, translation and units. Layers in pixels are not calibrated.

    Raises
    ------
    Vox3dError
        If the layer is not an image with axes z, y and x, or has several volumes and `point` is
        None.
    """
    if type(layer).__name__ not in ("Image", "Labels"):
        raise Vox3dError(f"{layer.name!r} is not an image layer.")
    if getattr(layer, "rgb", False):
        raise Vox3dError(
            f"{layer.name!r} is a colour image; choose a layer with one value a voxel."
        )
    if layer.ndim < 3:
        raise Vox3dError(f"{layer.name!r} has {layer.ndim} axes; a volume has three (z, y, x).")
    check_axis_order(layer)
    place = _place(layer, point)
    levels = [_taken(level, place) for level in (layer.data if layer.multiscale else [layer.data])]
    step, origin, calibrated = geometry(layer, place)
    native, shown = (layer.metadata.get(key) for key in ("vox3d", "vox3d_shown"))
    if not isinstance(native, Volume):
        name = " ".join([layer.name, *(f"[{n}]" for n in place)])
        whole = Volume(levels[0], step, origin, calibrated=calibrated, name=name)
    else:
        same_step = np.allclose(step, shown.step)
        same_place = same_step and np.allclose(origin, shown.origin)
        from_file = _same_values(levels[0], native, shown)
        if same_place and from_file:
            return native
        same_grid = same_place and native.is_orthogonal and levels[0].shape == native.shape
        whole = replace(
            native, values=levels[0], step=step, origin=origin, name=layer.name, coarser=(),
            calibrated=native.calibrated if same_step else calibrated,
            periodic=native.periodic and same_grid, atoms=native.atoms if same_grid else None,
            source=native.source if from_file else "",
        )  # fmt: skip
    if len(levels) == 1:
        return whole
    factors = _whole_factors(layer.downsample_factors[:, -3:], levels)
    coarser = [
        # The levels cover the same box, so that coarse voxels have their centres further in.
        replace(whole, values=values, step=step * factor[:, None],
                origin=origin + (factor - 1) / 2 @ step)
        for values, factor in zip(levels[1:], factors[1:], strict=True)
    ]  # fmt: skip
    return replace(whole, coarser=tuple(coarser))


def atoms_from_layer(layer: Layer) -> Atoms:
    """Atoms of a layer that shows a structure or a volume with atoms.

    Parameters
    ----------
    layer
        Layer made by `structure_layers`, `atoms_layer` or `volume_layer`.

    Returns
    -------
    ase.Atoms
        The atoms as they were read.

    Raises
    ------
    Vox3dError
        If the layer knows no atoms.
    """
    held = layer.metadata.get("vox3d")
    atoms = held.atoms if isinstance(held, Volume) else held
    if atoms is None or isinstance(atoms, Picks):
        raise Vox3dError(f"{layer.name!r} knows no atoms; open a POSCAR, CIF or CHGCAR.")
    return atoms


def _shown(volume: Volume) -> Volume:
    if np.issubdtype(volume.values.dtype, np.complexfloating):
        import dask.array

        volume = volume.with_values(abs(dask.array.asarray(volume.values)))
    if volume.is_orthogonal:
        return volume
    from napari_vox3d.density.resampling import orthogonal_box

    return orthogonal_box(volume)


def _same_values(data: Any, native: Volume, shown: Volume) -> bool:
    # A resampled box is in memory and may have been copied with its layer; a native grid may be
    # a large file, and another array of the same values does as well there.
    return data is shown.values or (
        shown.values is not native.values
        and data.shape == shown.shape
        and bool(np.array_equal(data, shown.values))
    )


def _wrapped(atoms: Atoms, source: Volume | Atoms) -> Atoms:
    """Copy with every atom in the cell that is shown, from -1/2 voxel on as the image is."""
    shown = atoms.copy()
    if not isinstance(source, Volume) or not source.periodic:
        if shown.cell.rank == 3:
            shown.wrap(pbc=True, eps=1e-4)
        return shown
    index = source.to_index(shown.positions[:, ::-1])
    index = (index + 0.5) % source.shape - 0.5
    shown.positions = source.to_world(index)[:, ::-1]
    return shown


def _name(source: Volume | Atoms, atoms: Atoms | None, what: str) -> str:
    name = source.name if isinstance(source, Volume) else ""
    name = name or ("" if atoms is None else atoms.get_chemical_formula())
    return f"{name} {what}".strip()


def run_metadata(made: Volume | Picks) -> dict[str, Any]:
    """Metadata of a layer that say by which run its content was made; none if nobody knows."""
    run = Run.from_metadata(made.metadata)
    return {} if run is None else run.as_metadata()


def _provenance(volume: Volume) -> dict[str, Any]:
    return {
        "source": volume.source,
        "quantity": volume.quantity,
        "unit": volume.unit,
        "calibrated": volume.calibrated,
        **volume.metadata,
    }


def _place(layer: Layer, point: Sequence[float] | None) -> tuple[int, ...]:
    """Index along the axes before z, y and x: none of most layers."""
    counts = layer.data.shape[:-3]
    if any(count > 1 for count in counts) and point is None:
        shape = " × ".join(map(str, layer.data.shape))
        raise Vox3dError(f"{layer.name!r} holds several volumes ({shape}); crop it to one.")
    if point is None:
        return (0,) * len(counts)
    index = np.rint(layer.world_to_data(point)[: len(counts)]).astype(int)
    return tuple(np.clip(index, 0, np.array(counts, int) - 1).tolist())


def _taken(values: Any, place: tuple[int, ...]) -> Any:
    """One volume of an array of several; nothing is read."""
    if not place:
        return values
    if not isinstance(values, np.ndarray):
        import dask.array

        values = dask.array.asarray(values)
    return values[place]


def geometry(
    layer: Layer, place: tuple[int, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Step and origin of the last three axes in Å, and whether their units are a length at all."""
    import pint

    first = np.array([*place, 0, 0, 0], float)
    directions = np.eye(len(first))[-3:]
    origin = np.asarray(layer.data_to_world(first))
    step = np.array([layer.data_to_world(first + axis) for axis in directions]) - origin
    step, origin = step[:, -3:], origin[-3:]
    try:
        to_angstrom = np.array([(1 * unit).to("angstrom").magnitude for unit in layer.units[-3:]])
    except pint.DimensionalityError:
        return step, origin, False
    return step * to_angstrom, origin * to_angstrom, True


def _whole_factors(factors: NDArray[np.float64], levels: Sequence[Any]) -> NDArray[np.float64]:
    """Factors between the levels of a pyramid, (levels, 3), whole ones where they can be meant.

    napari divides the shapes, and 25 voxels become 12 or 13 when they are halved.
    """
    whole = np.maximum(np.rint(factors), 1)
    shapes = np.array([level.shape for level in levels])
    return np.where(np.abs(shapes - shapes[0] / whole) < 1, whole, factors)
