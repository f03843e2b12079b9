"""Models: cards and weights, shipped, the user's own, or published elsewhere."""

from napari_vox3d.models.card import (
    ELFInput,
    EmbeddingInput,
    ErrorBand,
    KnownRange,
    MetricTable,
    ModelCard,
    NetworkSpec,
    ParticleClass,
    PickingInput,
    Source,
)
from napari_vox3d.models.collection import add_model, remove_model
from napari_vox3d.models.model import Model
from napari_vox3d.models.registry import (
    Installed,
    installed_models,
    list_models,
    load_model,
    model_folders,
    user_folder,
)

__all__ = [
    "ELFInput",
    "EmbeddingInput",
    "ErrorBand",
    "Installed",
    "KnownRange",
    "MetricTable",
    "Model",
    "ModelCard",
    "NetworkSpec",
    "ParticleClass",
    "PickingInput",
    "Source",
    "add_model",
    "installed_models",
    "list_models",
    "load_model",
    "model_folders",
    "remove_model",
    "user_folder",
]
