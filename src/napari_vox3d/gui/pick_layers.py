"""`Picks` to napari's points layers and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import Vox3dError
from napari_vox3d.gui.appearance import class_colours
from napari_vox3d.gui.layers import (
    FRAME,
    SPHERES,
    LayerData,
    geometry,
    run_metadata,
    volume_from_layer,
)
from napari_vox3d.picks import REJECTED, UNDECIDED, Picks
from napari_vox3d.provenance import Run
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Points
    from numpy.typing import NDArray

REVIEW = "review"  # feature of picks that were reviewed; rejected ones stay in the layer
DEFAULT_DIAMETER = 150.0  # Å, for picks of unknown size: between an enzyme and a ribosome


def picks_layer(picks: Picks, volume: Volume | None = None, *,
                classes: Sequence[str] | None = None, **overrides: Any) -> LayerData:  # fmt: skip
    """Show picks as spheres of the particles' diameter, coloured by class.

    Parameters
    ----------
    picks
        Particles to show.
    volume
        The tomogram they were found in; its geometry is copied to the layer exactly.
    classes
        All classes in the order that fixes their colours. Default: those present.
    **overrides
        Keyword arguments of `napari.layers.Points`.

    Returns
    -------
    LayerData
        Points in voxel indices with the features ``class`` and ``score``; rejected ones are hidden.
    """
    size = picks.voxel_size if volume is None else np.diag(_orthogonal(volume).step)
    if size is None:
        size = np.ones(3)
    names = picks.classes if classes is None else list(classes)
    radii = DEFAULT_DIAMETER / 2 if picks.radii is None else picks.radii
    features = {"class": picks.labels.astype(object), "score": picks.scores}
    if picks.decisions is not None:
        features[REVIEW] = picks.decisions.astype(object)
    if picks.angles is not None:
        features |= dict(zip(("rot", "tilt", "psi"), picks.angles.T, strict=True))
    kwargs = {
        **FRAME,
        "name": f"{picks.tomogram} picks".strip(),
        "scale": size,
        "translate": np.zeros(3) if volume is None else volume.origin,
        "features": features,
        "size": np.full(len(picks), 2 * radii / size[-1]),  # napari multiplies by the last scale
        "face_color": "class" if len(picks) else "white",  # napari finds no colour for no class
        "face_color_cycle": class_colours([*names, *picks.classes])
        | picks.metadata.get("colours", {}),
        "border_color": "white",
        "border_width": 0.04,
        "opacity": 0.4,
        "shown": True if picks.decisions is None else picks.decisions != REJECTED,
        **SPHERES,
        "metadata": {"vox3d": picks, "provenance": dict(picks.metadata), **run_metadata(picks)},
    }
    return picks.positions / size, {**kwargs, **overrides}, "points"


def show_whole_spheres(viewer: ViewerModel, picks: Picks) -> None:
    """Let the slices of a viewer be thick enough that picks show wherever the plane cuts them.

    Images are not affected: they show the plane itself. Slices never get thinner.

    Parameters
    ----------
    viewer
        Viewer that shows, or is about to show, `picks_layer`.
    picks
        Picks with the largest particle.
    """
    diameter = DEFAULT_DIAMETER if picks.radii is None else 2 * picks.radii.max(initial=0)
    if not any(viewer.dims.thickness):
        for layer in viewer.layers:  # napari averages images over thick slices unless told not to
            if type(layer).__name__ == "Image":
                layer.projection_mode = "none"
    viewer.dims.ndim = max(viewer.dims.ndim, 3)
    *others, z, y, x = viewer.dims.thickness
    viewer.dims.thickness = (*others, *(max(diameter, old) for old in (z, y, x)))


def picks_from_layer(layer: Points, tomogram: Image | Volume | None = None, *,
                     unnamed: str = "particle", rejected: bool = False) -> Picks:  # fmt: skip
    """Picks of a points layer as the user left them: moved, added and deleted points count.

    Parameters
    ----------
    layer
        Points layer; class names come from the feature ``class`` or ``label``, sizes are
        diameters.
    tomogram
        The tomogram or its layer; positions are then relative to its first voxel and carry its
        shape and voxel size. Default: the layer's own scale.
    unnamed
        Class of the points that have none.
    rejected
        Whether to include picks that were rejected in a review.

    Returns
    -------
    Picks
        Positions in Å relative to the centre of the first voxel. The `Run` that found them says
        if they were edited since.

    Raises
    ------
    Vox3dError
        If the layer is not three-dimensional points.
    """
    if type(layer).__name__ != "Points":
        raise Vox3dError(f"{layer.name!r} is not a points layer.")
    if layer.ndim != 3:
        raise Vox3dError(f"{layer.name!r} has points of {layer.ndim} axes; picks have three.")
    step, origin, _ = geometry(layer)
    world = np.asarray(layer.data, float) @ step + origin
    before = layer.metadata.get("vox3d")
    before = before if isinstance(before, Picks) else Picks(np.zeros((0, 3)), "particle")
    features = layer.features
    unknown = layer.metadata.get("vox3d") is before and before.voxel_size is None
    size = None if unknown and np.allclose(step, np.eye(3)) else np.linalg.norm(step, axis=1)
    frame: dict[str, Any] = {"shape": before.shape, "voxel_size": size}
    if tomogram is not None:
        volume = tomogram if isinstance(tomogram, Volume) else volume_from_layer(tomogram)
        origin = volume.origin
        frame = {"shape": volume.shape, "voxel_size": volume.voxel_size, "tomogram": volume.name}
    angles = [features[name] for name in ("rot", "tilt", "psi") if name in features]
    picks = replace(
        before,
        positions=world - origin,
        labels=_labels(features, len(world), unnamed),
        scores=features["score"].to_numpy(float) if "score" in features else None,
        decisions=None,
        angles=np.stack(angles, axis=1) if len(angles) == 3 else None,
        radii=np.asarray(layer.size, float) / 2 * np.linalg.norm(step[-1]),
        **frame,
    )
    if REVIEW in features:
        picks = replace(picks, decisions=features[REVIEW].fillna(UNDECIDED).to_numpy(str))
        picks = picks if rejected else picks.kept
    run = Run.from_metadata(before.metadata)
    if run is None or same_picks(picks, before):
        return picks
    return replace(picks, metadata={**picks.metadata, **replace(run, edited=True).as_metadata()})


def points_in_layer(layer: Points, picks: Picks, volume: Volume | None = None
                    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Data and sizes that picks have in a layer, as `picks_from_layer` reads them.

    Parameters
    ----------
    layer
        Points layer.
    picks
        Picks with radii.
    volume
        What their positions are relative to. Default: the layer itself.

    Returns
    -------
    data
        (N, 3) in the coordinates of the layer.
    size
        (N,) diameters.
    """
    step, origin, _ = geometry(layer)
    shift = np.zeros(3) if volume is None else volume.origin - origin
    radii = np.full(len(picks), DEFAULT_DIAMETER / 2) if picks.radii is None else picks.radii
    return (picks.positions + shift) @ np.linalg.inv(step), 2 * radii / np.linalg.norm(step[-1])


def same_picks(picks: Picks, before: Picks) -> bool:
    """Whether picks have the classes of others, and lie within 0.001 Å of them."""
    return (
        len(picks) == len(before)
        and np.array_equal(picks.labels, before.labels)
        and np.allclose(picks.positions, before.positions, rtol=0, atol=1e-3)
    )


def _labels(features: Any, count: int, unnamed: str) -> NDArray[np.str_]:
    for column in ("class", "label"):
        if column in features:
            return features[column].fillna(unnamed).to_numpy(str)
    return np.full(count, unnamed)


def _orthogonal(volume: Volume) -> Volume:
    if not volume.is_orthogonal:
        raise Vox3dError(f"{volume.name or 'The volume'} is skewed; picks need axes along z, y, x.")
    return volume
