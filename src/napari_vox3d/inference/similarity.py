"""Finding, ranking and grouping particles by how alike they look, without training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_vox3d.errors import InferenceError
from napari_vox3d.picks import Picks
from napari_vox3d.progress import part_of
from napari_vox3d.provenance import Run, changed, model_name
from napari_vox3d.volume import Volume

if TYPE_CHECKING:
    from napari_vox3d.inference.contrast import ContrastChoice
    from napari_vox3d.inference.embedding import Array
    from napari_vox3d.models import Model
    from napari_vox3d.progress import Progress

CANDIDATES = 600  # places that are looked at closely
_NEARER = 2 / 3  # of the distance: as near candidates may be, of which the most alike one stays
THRESHOLD = 0.8  # likeness: four in five of the examples have it
_ANYTHING = 1e6  # less than any likeness, and a number that scripts can hold
_MOST_GROUPS = 8
_LOOKED_AT = 1500  # picks whose distances are computed, of very many


def find_similar(
    volume: Volume,
    picks: Picks,
    model: str | Path | Model = "default",
    *,
    among: Picks | None = None,
    threshold: float = THRESHOLD,
    min_distance: float | None = None,
    candidates: int = CANDIDATES,
    device: str = "auto",
    precision: str = "auto",
    contrast: ContrastChoice | None = None,
    progress: Progress | None = None,
) -> Picks:
    """Find more particles that look like some picks.

    The mean of the picks is a filter that finds places of their size in the whole tomogram. The
    best of them are embedded as `embed_picks` does, and ranked by the `likeness` of their vectors
    and of their answers to the filter.

    Parameters
    ----------
    volume
        The tomogram, (z, y, x), of any real type.
    picks
        Examples in it, all of one kind; ten are good, and five can do. Rejected ones do not count,
        here and in `among`.
    model
        Name from `list_models`, path of a model, or a `Model`, for embedding.
    among
        Picks to choose from. Default: look everywhere.
    threshold
        Least likeness.
    min_distance
        Å between two found ones, and from one to an example. Default: 1.5 times the examples'
        radius, or 100 Å where they carry none. Not used with `among`.
    candidates
        Places that are looked at closely, a hundredth of a second each. Not used with `among`.
    device, precision, contrast
        As for `embed_picks`.
    progress
        Called several times a second; may raise `Cancelled`.

    Returns
    -------
    Picks
        By falling likeness, which is their score: 0 for a place like any other, 1 for one like the
        mean of the examples. From `among`, with its labels; or new ones without the examples, with
        their label and radius.

    Raises
    ------
    ModelError
        If the model cannot be found or is not for embedding.
    InferenceError
        If there are no examples, a pick lies outside the tomogram, the device or precision is not
        there, or the tomogram has no spread of values.
    Cancelled
        If `progress` raises it.

    Warns
    -----
    UserWarning
        If the tomogram does not say how large its voxels are: the model's size is then assumed.
    """
    from napari_vox3d.inference.candidates import MeanParticle, apart, in_memory
    from napari_vox3d.inference.embedding import Embedder, places_of

    picks = picks.kept
    if not len(picks):
        raise InferenceError("Similar particles are found from examples; give at least one pick.")
    embedder = Embedder(volume, model, device=device, precision=precision, contrast=contrast)
    known = embedder.view.from_index(places_of(picks, volume))
    if among is None:
        embedder.view = in_memory(embedder.view, part_of(progress, 0, 0.2))
        mean = MeanParticle(embedder.view, known, embedder.edge)
        distance = _spacing(picks) if min_distance is None else min_distance
        least = distance / embedder.voxel_size
        places: NDArray[np.floating] = mean.peaks(_NEARER * least, candidates)
        index = np.clip(embedder.view.to_index(places), 0, np.array(volume.shape) - 1)
        chosen = _new_picks(volume, picks, index)
    else:
        mean = MeanParticle(embedder.view, known, embedder.edge)
        chosen = among.kept
        places = embedder.view.from_index(places_of(chosen, volume))
    if not len(places):
        return replace(chosen, scores=None)
    examples = embedder.at(known, part_of(progress, 0.3, 0.35))
    vectors = embedder.at(places, part_of(progress, 0.35, 1))
    answers = mean.answers(places)
    scale = vectors.std() / max(float(answers.std()), 1e-12)  # counts as one more direction
    vectors = np.column_stack([vectors, scale * answers])
    examples = np.column_stack([examples, scale * mean.own_answers])
    found = likeness(vectors, examples)
    order = np.argsort(-found, kind="stable")
    order = order[found[order] >= threshold]
    if among is None and len(order):
        order = order[apart(places[order], least, len(order))]
    chosen = replace(chosen.select(order), scores=found[order])
    if among is not None:
        return chosen
    settings = changed(
        threshold=(max(float(threshold), -_ANYTHING), THRESHOLD),
        min_distance=(min_distance, None),
        candidates=(candidates, CANDIDATES),
        device=(device, "auto"),
        precision=(precision, "auto"),
        contrast=(contrast, None),
        member=(volume.metadata.get("member", 0), 0),
    )
    run = Run(
        "find_similar",
        volume.source or volume.name,
        _described(picks) | settings,
        model=model_name(model, embedder.model.card.name),
        sha256=embedder.model.card.sha256 or "",
        voxel_size=tuple(volume.voxel_size.tolist()),
    )
    return replace(chosen, metadata={**chosen.metadata, **run.as_metadata()})


def likeness(vectors: Array, examples: Array, *, among: Array | None = None) -> NDArray[np.float64]:
    """How alike vectors are to examples, in the directions that tell those from the others.

    The directions are Fisher's: differences count less where all vectors differ.

    Parameters
    ----------
    vectors
        (N, D), from `embed_picks`.
    examples
        (M, D), of one kind, from the same tomogram.
    among
        (K, D) vectors that the examples are told from. Default: `vectors`.

    Returns
    -------
    ndarray
        (N,) 0 for the mean of `among`, 1 for the mean of `examples`.

    Raises
    ------
    InferenceError
        If there are no examples.
    """
    if not len(examples):
        raise InferenceError("Likeness is measured from examples; give at least one.")
    if not len(vectors):
        return np.zeros(0)
    others = np.asarray(vectors if among is None else among, float)
    middle = others.mean(axis=0)
    count, size = others.shape
    spread = np.atleast_2d(np.cov(others.T, bias=True))
    share = size / (size + count)  # of a spread that is the same in all directions
    even = max(float(np.trace(spread)) / size, 1e-12)
    spread = (1 - share) * spread + share * even * np.eye(size)
    towards = np.asarray(examples, float).mean(axis=0) - middle
    direction = np.linalg.solve(spread, towards)
    length = max(float(towards @ direction), 1e-12)
    found: NDArray[np.float64] = (vectors - middle) @ direction / length
    return found


def cluster_picks(embedding: Array, count: int | None = None) -> NDArray[np.intp]:
    """Group picks by what they look like: k-means of their vectors, begun from Ward's tree.

    Parameters
    ----------
    embedding
        (N, D), from `embed_picks`.
    count
        Number of groups. Default: from 2 to 8, the number whose groups are the clearest by their
        silhouettes.

    Returns
    -------
    ndarray
        (N,) numbers of groups; 0 is the largest. There may be fewer groups where picks look
        exactly the same.

    Raises
    ------
    InferenceError
        If `count` is not between 1 and the number of picks.
    """
    from scipy.cluster.hierarchy import ward

    total = len(embedding)
    if count is not None and not 1 <= count <= total:
        raise InferenceError(f"{total} picks cannot be put into {count} groups.")
    if total < 3 and count in (None, 1):
        return np.zeros(total, np.intp)
    vectors = np.asarray(embedding, float)
    tree = ward(vectors[:: _step(vectors)])
    counts = range(2, min(_MOST_GROUPS, total - 1) + 1) if count is None else [count]
    tried = [_groups(vectors, tree, n) for n in counts]
    if len(tried) == 1:
        return tried[0]
    return max(tried, key=lambda groups: _clearness(vectors, groups))


def _groups(vectors: NDArray[np.float64], tree: NDArray[np.float64], count: int
            ) -> NDArray[np.intp]:  # fmt: skip
    """Groups by falling size: those of a tree of some vectors, moved until they are at rest."""
    from scipy.cluster.hierarchy import fcluster
    from scipy.cluster.vq import kmeans2

    some = vectors[:: _step(vectors)]
    branches = fcluster(tree, count, "maxclust")
    centres = np.array([some[branches == n].mean(axis=0) for n in np.unique(branches)])
    groups = kmeans2(vectors, centres, iter=50, minit="matrix")[1]
    found, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    numbers = np.empty(len(found), np.intp)
    numbers[np.argsort(-sizes, kind="stable")] = np.arange(len(found))
    return numbers[groups]


def _step(vectors: NDArray[np.float64]) -> int:
    return -(-len(vectors) // _LOOKED_AT)


def _clearness(vectors: NDArray[np.float64], groups: NDArray[np.intp]) -> float:
    """Mean silhouette: how much nearer vectors are to their own group than to the next one."""
    from scipy.spatial.distance import cdist

    step = _step(vectors)
    vectors, groups = vectors[::step], groups[::step]
    distances = cdist(vectors, vectors)
    members = groups[:, None] == np.unique(groups)
    sums, counts = distances @ members, members.sum(axis=0)
    own = np.where(members, sums / np.maximum(counts - 1, 1), 0).sum(axis=1)
    other = np.where(members, np.inf, sums / counts).min(axis=1)
    return float(((other - own) / np.maximum(own, other)).mean())


def _spacing(picks: Picks) -> float:
    return 100.0 if picks.radii is None else 1.5 * float(np.median(picks.radii))


def _described(picks: Picks) -> dict[str, object]:
    """Examples, as a script can make them."""
    return {
        "like": picks.positions.round(1).tolist(),
        "label": _label(picks),
        **({} if picks.radii is None else {"radius": round(float(np.median(picks.radii)), 1)}),
    }


def _label(picks: Picks) -> str:
    return str(Counter(picks.labels.tolist()).most_common(1)[0][0])


def _new_picks(volume: Volume, picks: Picks, places: NDArray[np.float64]) -> Picks:
    return Picks(
        places * volume.voxel_size,
        np.full(len(places), _label(picks)),
        radii=None if picks.radii is None else np.full(len(places), np.median(picks.radii)),
        tomogram=volume.name or picks.tomogram,
        shape=volume.shape,
        voxel_size=volume.voxel_size,
    )
