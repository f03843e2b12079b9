"""Particles in tomograms: one score map per class, and the peaks in them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_vox3d.errors import InferenceError, ModelError
from napari_vox3d.inference.contrast import ContrastChoice, contrast_of
from napari_vox3d.inference.peaks import claims, find_peaks, keep_likeliest
from napari_vox3d.inference.tiles import Box, NetworkView
from napari_vox3d.models import Model, PickingInput, load_model
from napari_vox3d.picks import Picks
from napari_vox3d.provenance import Run, changed, model_name
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_vox3d.progress import Progress


def score_particles(
    volume: Volume,
    model: str | Path | Model = "default",
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    region: Sequence[slice | tuple[int, int]] | None = None,
    contrast: ContrastChoice | None = None,
    voxel_size: float | None = None,
    flips: bool = False,
) -> list[Volume]:
    """Score every place of a tomogram for every class of a model.

    The tomogram is normalised as a whole and rescaled on the fly if its voxel size is not the
    model's; it is read tile by tile and may be memory-mapped or dask. Beyond its edges it goes on
    as in a mirror, so that particles at the edges are found.

    Parameters
    ----------
    volume
        Tomogram, (z, y, x), of any real type.
    model
        Name from `list_models`, path of a model, or a `Model`, for picking.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    progress
        Called once the weights are loaded, and after each tile; may raise `Cancelled`.
    region
        Voxels to look for particles in, along z, y, x: slices or pairs (start, stop). Default: all.
        Maps reach farther by the largest distance between picks, so that particles at a face of
        the region are told from the flanks of others beyond it.
    contrast
        ``"dark"`` or ``"bright"``: how particles look against the solvent in this tomogram;
        ``"auto"``: find out, see `detect_contrast`. Default: as in the tomograms that the model
        was trained on.
    voxel_size
        Å, for a tomogram that does not say how large its voxels are, or says it wrongly.
    flips
        Average the probabilities over the tomogram and its mirror images along y, x, and both,
        which takes four times as long. There are no quarter turns: they would turn the missing
        wedge, which networks know where it was when they were trained.

    Returns
    -------
    list of Volume
        One for each class, named after it: probabilities (float32) on a grid of cells of a few
        voxels, in the frame of the whole tomogram. `metadata` holds what `find_particles` needs
        (radius, threshold, least distance, tomogram), the `Run`, and where it ran.

    Raises
    ------
    ModelError
        If the model cannot be found or is not for picking.
    InferenceError
        If the device or precision is not there, the region is empty, the tomogram has no spread
        of values, the voxel size is not positive, or not even small tiles fit in memory.
    Cancelled
        If `progress` raises it.

    Warns
    -----
    UserWarning
        If the tomogram does not say how large its voxels are: the model's size is then assumed.
    """
    from napari_vox3d.inference.dense import score_cells
    from napari_vox3d.inference.device import choose_device, choose_precision

    chosen = load_model(model, task="picking")
    card = chosen.card
    if not isinstance(card.input, PickingInput):
        raise ModelError(f"Model {card.name!r} is not for picking.")
    volume = _calibrated(volume, voxel_size, card.input.voxel_size)
    box = _box(region, volume.shape)
    where = choose_device(device)
    kind = choose_precision(precision, where)
    look = contrast_of(volume, contrast, card.input.contrast)
    view = NetworkView.of(
        volume,
        card.input.voxel_size,
        card.input.normalisation,
        inverted=look != card.input.contrast,
    )
    network = chosen.network(where)
    if progress is not None:
        progress(0, 1)  # statistics and weights took a while; a cancel may be waiting
    reach = max(max(c.radius, c.min_distance or 0.0) for c in card.classes)
    scored = _widened(box, np.ceil(reach / volume.voxel_size).astype(int), volume.shape)
    scores, first, stride = score_cells(
        network, card.outputs, view, scored, where, kind, progress, flips
    )
    centre = view.to_index(stride * (first + 0.5) - 0.5)  # of the first cell, in voxels
    run = Run(
        "score_particles",
        volume.source or volume.name,
        changed(
            device=(device, "auto"),
            precision=(precision, "auto"),
            region=(None if region is None else [[part.start, part.stop] for part in box], None),
            contrast=(contrast, None),
            voxel_size=(_plain(voxel_size), None),
            flips=(flips, False),
            member=(volume.metadata.get("member", 0), 0),
        ),
        model=model_name(model, card.name),
        sha256=card.sha256 or "",
        voxel_size=tuple(volume.voxel_size.tolist()),
    )
    about = {
        "tomogram": {
            "name": volume.name,
            "shape": volume.shape,
            "voxel_size": volume.voxel_size.tolist(),
            "origin": volume.origin.tolist(),
            "region": [(s.start, s.stop) for s in box],
        },
        "provenance": {
            "device": str(where),
            "precision": str(kind).removeprefix("torch."),
            "contrast": look,
            "stride": stride,
        },
        **run.as_metadata(),
    }
    return [
        Volume(
            score,
            volume.step * (stride * np.array(view.scale))[:, None],
            volume.to_world(centre),
            quantity="score",
            name=particle.name,
            source=volume.source,
            metadata={
                "radius": particle.radius,
                "threshold": particle.threshold,
                "min_distance": particle.min_distance or particle.radius,
                **about,
            },
        )
        for score, particle in zip(scores, card.classes, strict=True)
    ]


def find_particles(
    score_maps: Sequence[Volume],
    *,
    threshold: float | Mapping[str, float] | None = None,
    min_distance: float | Mapping[str, float] | None = None,
    classes: Sequence[str] | None = None,
) -> Picks:
    """Find the peaks of score maps.

    A peak is at least as high as its 26 neighbours and as the threshold. Its place is refined
    between the grid points: by parabolas through the logits, or, where particles are many cells
    large, so that their peaks are flat, by the centre of mass of the scores around. Of two peaks
    of one class nearer than `min_distance` the higher stays. Of two classes within the smaller of
    their radii the likelier stays, and the other one too if its odds are at least half as high: a
    place in doubt is picked for both. Odds are over the squared radius, see `peaks.claims`.

    Parameters
    ----------
    score_maps
        From `score_particles`.
    threshold
        Least score, one for all or by class; classes left out and None take the model's.
    min_distance
        Å between picks of one class, one for all or by class; classes left out and None take the
        model's.
    classes
        Names of the classes to find. Default: all that have a score map.

    Returns
    -------
    Picks
        Sorted by falling score, with radii, in the frame of the tomogram and inside the region
        asked for. `metadata` holds the `Run` of score maps from `score_particles`.

    Raises
    ------
    InferenceError
        If `threshold`, `min_distance` or `classes` names a class that has no score map.
    """
    for given in (threshold, min_distance, classes):
        _refuse_unknown(given, [score.name for score in score_maps])
    score_maps = [score for score in score_maps if classes is None or score.name in classes]
    if not score_maps:
        return Picks(np.zeros((0, 3)), np.zeros(0, str))
    thresholds = [_setting(threshold, score, "threshold") for score in score_maps]
    peaks = [find_peaks(score, least) for score, least in zip(score_maps, thresholds, strict=True)]
    kinds = np.repeat(np.arange(len(peaks)), [len(values) for _, values in peaks])
    positions = np.concatenate(
        [score.to_world(cells) for score, (cells, _) in zip(score_maps, peaks, strict=True)]
    )
    values = np.concatenate([heights for _, heights in peaks])
    tomogram = score_maps[0].metadata["tomogram"]
    voxel_size = np.array(tomogram["voxel_size"])
    positions = positions - tomogram["origin"]
    end = np.array(tomogram["shape"]) * voxel_size
    # half a cell beyond the last centres is still the tomogram's; a whole cell is not
    reach = score_maps[0].voxel_size / 2
    near = _within(positions, -reach, end + reach)
    positions = np.clip(positions, 0, end - voxel_size)
    radii = np.array([score.metadata["radius"] for score in score_maps])
    claimed = claims(values, radii[kinds])
    order = np.lexsort((-values, -claimed))
    order = order[near[order]]
    limits = np.minimum(radii[:, None], radii)
    np.fill_diagonal(limits, [_setting(min_distance, s, "min_distance") for s in score_maps])
    order = order[keep_likeliest(positions[order], kinds[order], claimed[order], limits)]
    low, high = (np.array(tomogram["region"]).T - 0.5) * voxel_size
    order = order[_within(positions[order], low, high)]
    order = order[np.argsort(-values[order], kind="stable")]
    names = np.array([score.name for score in score_maps])
    return Picks(
        positions[order],
        names[kinds[order]],
        values[order],
        radii=radii[kinds[order]],
        tomogram=tomogram["name"],
        shape=tomogram["shape"],
        voxel_size=voxel_size,
        metadata=_run_of(score_maps[0], threshold, min_distance, classes),
    )


def pick_particles(
    volume: Volume,
    model: str | Path | Model = "default",
    *,
    threshold: float | Mapping[str, float] | None = None,
    min_distance: float | Mapping[str, float] | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> Picks:
    """Score a tomogram and find its particles; see `score_particles` and `find_particles`."""
    maps = score_particles(volume, model, **options)
    return find_particles(maps, threshold=threshold, min_distance=min_distance, classes=classes)


def _run_of(
    score: Volume,
    threshold: float | Mapping[str, float] | None,
    min_distance: float | Mapping[str, float] | None,
    classes: Sequence[str] | None,
) -> dict[str, Any]:
    """Metadata of picks that were found in the map of a class and in its fellows."""
    run = Run.from_metadata(score.metadata)
    if run is None:
        return {}
    arguments = run.arguments | changed(
        threshold=(_plain(threshold), None),
        min_distance=(_plain(min_distance), None),
        classes=(None if classes is None else list(classes), None),
    )
    found = replace(run, function="pick_particles", arguments=arguments)
    return {"provenance": score.metadata["provenance"], **found.as_metadata()}


def _plain(given: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    if isinstance(given, Mapping):
        return {name: float(value) for name, value in given.items()}
    return None if given is None else float(given)


def _calibrated(volume: Volume, given: float | None, usual: float) -> Volume:
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise InferenceError(f"The voxel size must be a positive length in Å, not {given}.")
        return replace(volume, step=np.eye(3) * given, calibrated=True, coarser=())
    if volume.calibrated:
        return volume
    warnings.warn(
        f"Tomogram {volume.name!r} does not say how large its voxels are; {usual:g} Å is "
        "assumed, the size that the model was trained on.",
        stacklevel=3,
    )
    return replace(volume, step=np.eye(3) * usual, calibrated=True, coarser=())


def _box(region: Sequence[slice | tuple[int, int]] | None, shape: Sequence[int]) -> Box:
    parts = [slice(None)] * 3 if region is None else [
        part if isinstance(part, slice) else slice(*part) for part in region
    ]  # fmt: skip
    z, y, x = (slice(*part.indices(n)[:2]) for part, n in zip(parts, shape, strict=True))
    if any(part.stop <= part.start for part in (z, y, x)):
        raise InferenceError(f"The region {region} holds no voxels of the tomogram {tuple(shape)}.")
    return z, y, x


def _widened(box: Box, reach: NDArray[np.int64], shape: Sequence[int]) -> Box:
    z, y, x = (
        slice(max(0, part.start - more), min(n, part.stop + more))
        for part, more, n in zip(box, reach.tolist(), shape, strict=True)
    )
    return z, y, x


def _within(
    positions: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((positions >= low) & (positions < high), axis=1)
    return inside


def _refuse_unknown(
    given: float | Mapping[str, float] | Sequence[str] | None, names: Sequence[str]
) -> None:
    unknown = sorted(set(given) - set(names)) if isinstance(given, Mapping | Sequence) else []
    if unknown:
        raise InferenceError(f"No class is called {unknown[0]!r}; there are {', '.join(names)}.")


def _setting(given: float | Mapping[str, float] | None, score: Volume, name: str) -> float:
    own = float(score.metadata[name])
    if isinstance(given, Mapping):
        return given.get(score.name, own)
    return own if given is None else given
