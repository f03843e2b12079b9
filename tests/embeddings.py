"""A small untrained embedding, and a tomogram of two kinds of particles that it tells apart."""

import numpy as np
import torch

from napari_vox3d.models import EmbeddingInput, Model, ModelCard, NetworkSpec
from napari_vox3d.networks import build
from napari_vox3d.picks import Picks
from napari_vox3d.volume import Volume


def embedding(name="tiny"):
    spec = NetworkSpec(
        name="EncoderNet3d", arguments={"channel": 4, "layers": [1, 1], "out_length": 8}
    )
    torch.manual_seed(0)
    state = build(spec.name, **spec.arguments).state_dict()
    card = ModelCard(
        name=name,
        title="Tiny embedding",
        task="embedding",
        network=spec,
        input=EmbeddingInput(voxel_size=20.0, normalisation="robust", edge=12),
        training="None.",
        licence="BSD-3-Clause",
        version="1",
    )
    return Model(card, state)


def tomogram(seed=0):
    """Dark balls and dark rods in noise, 20 of each, and where they are."""
    rng = np.random.default_rng(seed)
    shape = (40, 100, 100)
    values = rng.normal(0, 0.1, shape).astype("f4")
    grid = np.stack(
        np.meshgrid([8, 32], np.arange(12, 100, 25), np.arange(10, 100, 20), indexing="ij"), -1
    ).reshape(-1, 3)
    labels = np.array(["ball", "rod"])[rng.permutation(np.arange(len(grid)) % 2)]
    places = np.indices(shape)
    for place, label in zip(grid, labels, strict=True):
        offset = places - place[:, None, None, None]
        reach = (3.5, 3.5, 3.5) if label == "ball" else (1.5, 1.5, 8.0)
        values -= 2 * (sum((o / r) ** 2 for o, r in zip(offset, reach, strict=True)) < 1)
    picks = Picks.from_indices(grid, labels, voxel_size=20.0, radii=70.0, tomogram="t", shape=shape)
    return Volume(values, 20.0, name="t"), picks
