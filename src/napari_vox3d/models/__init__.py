"""Models: cards and weights, shipped, the user's own, or published elsewhere."""

from napari_vox3d.models.card import (
    ELFInput,
    MetricTable,
    ModelCard,
    NetworkSpec,
    ParticleClass,
    PickingInput,
)
from napari_vox3d.models.model import Model
from napari_vox3d.models.registry import list_models, load_model, user_folder

__all__ = [
    "ELFInput",
    "MetricTable",
    "Model",
    "ModelCard",
    "NetworkSpec",
    "ParticleClass",
    "PickingInput",
    "list_models",
    "load_model",
    "user_folder",
]
