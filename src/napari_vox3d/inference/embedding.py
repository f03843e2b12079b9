"""What particles look like, as vectors: near each other for particles that look alike."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.errors import InferenceError, ModelError
from napari_vox3d.inference.contrast import ContrastChoice, contrast_of
from napari_vox3d.inference.tiles import NetworkView
from napari_vox3d.models import EmbeddingInput, Model, load_model
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_vox3d.progress import Progress

Array = NDArray[np.float32]
_BATCH = 16  # cubes of a pass: a quarter of a second on one core


def embed_picks(
    volume: Volume,
    picks: Picks,
    model: str | Path | Model = "default",
    *,
    device: str = "auto",
    precision: str = "auto",
    contrast: ContrastChoice | None = None,
    progress: Progress | None = None,
) -> Array:
    """Describe the look of each pick by a vector; alike particles have alike vectors.

    Parameters
    ----------
    volume
        The tomogram, (z, y, x), of any real type; it may be memory-mapped or dask.
    picks
        Places in it; only their positions matter.
    model
        Name from `list_models`, path of a model, or a `Model`, for embedding.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    contrast
        ``"dark"`` or ``"bright"``: how particles look against the solvent in this tomogram;
        ``"auto"``: find out. Default: as in the tomograms that the model was trained on.
    progress
        Called with the picks done, several times a second; may raise `Cancelled`.

    Returns
    -------
    ndarray
        (N, D) float32, of length 1: their scalar products are cosines.

    Raises
    ------
    ModelError
        If the model cannot be found or is not for embedding.
    InferenceError
        If a pick lies outside the tomogram, the device or precision is not there, or the tomogram
        has no spread of values.
    Cancelled
        If `progress` raises it.

    Warns
    -----
    UserWarning
        If the tomogram does not say how large its voxels are: the model's size is then assumed.
    """
    embedder = Embedder(volume, model, device=device, precision=precision, contrast=contrast)
    return embedder.at(embedder.view.from_index(places_of(picks, volume)), progress)


def places_of(picks: Picks, volume: Volume) -> NDArray[np.float64]:
    """(N, 3) voxels of the tomogram that picks lie at.

    Raises
    ------
    InferenceError
        If one lies outside.
    """
    index = picks.positions / volume.voxel_size
    inside = (index >= -1) & (index <= volume.shape)  # clicks at the border may be half a voxel off
    outside = int((~inside.all(axis=1)).sum())
    if outside:
        raise InferenceError(
            f"{outside} of {len(picks)} picks lie outside {volume.name or 'the tomogram'}; bring "
            "them to its grid first."
        )
    return index


class Embedder:
    """A model at work on one tomogram.

    Parameters
    ----------
    volume, model, device, precision, contrast
        As for `embed_picks`.

    Attributes
    ----------
    model
        The model.
    view
        The tomogram as the model sees it.
    voxel_size
        Å of the view.
    edge
        Voxels of the view along an edge of the cube around a particle.
    """

    def __init__(
        self,
        volume: Volume,
        model: str | Path | Model = "default",
        *,
        device: str = "auto",
        precision: str = "auto",
        contrast: ContrastChoice | None = None,
    ) -> None:
        from napari_vox3d.inference.device import choose_device, choose_precision

        self.model = load_model(model, task="embedding")
        taken = self.model.card.input
        if not isinstance(taken, EmbeddingInput):
            raise ModelError(f"Model {self.model.card.name!r} is not for embedding.")
        if not volume.calibrated:
            warnings.warn(
                f"Tomogram {volume.name!r} does not say how large its voxels are; "
                f"{taken.voxel_size:g} Å is assumed, the size that the model was trained on.",
                stacklevel=3,
            )
        self._device = choose_device(device)
        self._precision = choose_precision(precision, self._device)
        self.voxel_size, self.edge = taken.voxel_size, taken.edge
        inverted = contrast_of(volume, contrast, taken.contrast) != taken.contrast
        self.view = NetworkView.of(volume, taken.voxel_size, taken.normalisation, inverted)
        self._network = self.model.network(self._device)

    def at(self, centres: NDArray[np.floating], progress: Progress | None = None) -> Array:
        """(N, D) vectors of the places (N, 3) in voxels of the view."""
        vectors = []
        for begin in range(0, len(centres), _BATCH):
            if progress is not None:
                progress(begin, len(centres))
            cubes = cut_out(self.view, centres[begin : begin + _BATCH], self.edge)
            vectors.append(embed(self._network, cubes, self._device, self._precision))
        if progress is not None and len(centres):
            progress(len(centres), len(centres))
        if not vectors:
            nothing = np.zeros((1, *(self.edge,) * 3), np.float32)
            return embed(self._network, nothing, self._device, self._precision)[:0]
        return np.concatenate(vectors)


def cut_out(view: NetworkView, centres: NDArray[np.floating], edge: int) -> Array:
    """Cubes (N, edge, edge, edge) about places (N, 3) in voxels of a view, to the next voxel."""
    begins = np.floor(centres - edge / 2 + 1).astype(int)  # rounding would favour even numbers
    return np.stack([view.read(begin, begin + edge) for begin in begins])


@cache
def window(edge: int) -> Array:
    """(edge, edge, edge) weights: a ball with a soft surface, so that neighbours count less."""
    reach = (edge - 1) / 2
    distance = np.linalg.norm(np.indices((edge,) * 3) - reach, axis=0) / reach
    weights: Array = (0.5 + 0.5 * np.cos(np.pi * np.clip(2 * distance - 1, 0, 1))).astype("f4")
    return weights


def embed(network: nn.Module, cubes: Array, device: torch.device, precision: torch.dtype) -> Array:
    """(N, D) vectors of length 1 of cubes (N, edge, edge, edge)."""
    import torch
    from torch.nn.functional import normalize

    from napari_vox3d.inference.device import autocast

    weighted = torch.from_numpy(cubes * window(cubes.shape[-1]))[:, None].to(device)
    with torch.inference_mode(), autocast(device, precision):
        vectors = network(weighted)
    found: Array = normalize(vectors.float(), dim=1).cpu().numpy()
    return found
