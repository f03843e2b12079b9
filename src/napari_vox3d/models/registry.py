"""Finding models: the ones shipped, the user's own, and published checkpoints."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from napari_vox3d.errors import ModelError
from napari_vox3d.models.card import ModelCard, Task
from napari_vox3d.models.model import CARD_FILE, WEIGHTS_FILE, Model, kept_weights
from napari_vox3d.models.preferences import data_folder, preferred_folder

SHIPPED = Path(__file__).parent / "weights"
CHECKPOINTS = (".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Installed:
    """A model that is found by its name.

    Parameters
    ----------
    card
        What it is.
    path
        File of the card.
    """

    card: ModelCard
    path: Path

    @property
    def shipped(self) -> bool:
        """Whether it came with this package."""
        return self.path.parent == SHIPPED

    @property
    def files(self) -> list[Path]:
        """Files of the card and, if it has any, the weights."""
        return [self.path, *([] if self.card.network is None else [weights_of(self.path)])]

    @property
    def size(self) -> int:
        """Bytes of its files, as far as they are there."""
        return sum(path.stat().st_size for path in self.files if path.is_file())


def model_folders() -> list[Path]:
    """Folders that hold the user's models, one folder each; new ones go into the first.

    They are those of the environment variable ``NAPARI_VOX3D_MODELS``, separated as in ``PATH``.
    Without it they are the one chosen in napari's Preferences, if any, and the one that lies with
    the user's application data. None need exist.
    """
    named = os.environ.get("NAPARI_VOX3D_MODELS", "").split(os.pathsep)
    folders = [Path(name).expanduser() for name in named if name]
    if folders:
        return folders
    preferred = preferred_folder()
    return [*([] if preferred is None else [preferred]), data_folder() / "models"]


def user_folder() -> Path:
    """Folder that new models go into, the first of `model_folders`."""
    return model_folders()[0]


def list_models(task: Task | None = None) -> list[ModelCard]:
    """Cards of the shipped and the user's models, shipped ones first.

    A damaged card of a user is left out with a warning. Of two models with one name the first
    counts.

    Parameters
    ----------
    task
        ``"elf"``, ``"picking"`` or ``"embedding"``; None for all.
    """
    return [model.card for model in installed_models(task)]


def installed_models(task: Task | None = None) -> list[Installed]:
    """Models as `list_models` gives them, each with the place of its files."""
    return list(_known(task).values())


def load_model(name_or_path: str | Path | Model = "default", task: Task | None = None) -> Model:
    """Find a model and open it; its weights are read when its network is first used.

    The same unchanged model is the same object each time, so that a network stays loaded.

    Parameters
    ----------
    name_or_path
        Name from `list_models`; ``"default"`` for the default of `task`; path of a model's folder
        or card; or path of a published checkpoint (.ckpt, .pt, .pth). A `Model` is given back.
    task
        What the model must be for; None if any will do.

    Raises
    ------
    ModelError
        If there is no such model, it is for another task, or its files are damaged.
    """
    model = name_or_path if isinstance(name_or_path, Model) else _find(name_or_path, task)
    if task is not None and model.card.task != task:
        raise ModelError(f"Model {model.card.name!r} is for {model.card.task}, not for {task}.")
    return model


def _find(name_or_path: str | Path, task: Task | None) -> Model:
    known = _known(task)
    name = str(name_or_path)
    if name == "default":
        if task is None:
            raise ModelError("Say for which task: each has a default model of its own.")
        cards = [model for model in known.values() if not model.card.needs_density]
        defaults = [model.path for model in cards if model.card.default]
        if not defaults:
            raise ModelError(f"There is no default model for {task}; name one of {_names(known)}.")
        return _open(defaults[0])
    if name in known:
        return _open(known[name].path)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _open(path / CARD_FILE)
    if path.is_file():
        return _open(path)
    elsewhere = _known(None).get(name)
    if elsewhere is not None:
        return _open(elsewhere.path)
    raise ModelError(f"There is no model or file {name!r}; known models are {_names(known)}.")


def _names(known: dict[str, Installed]) -> str:
    return ", ".join(known) or "none"


def _known(task: Task | None) -> dict[str, Installed]:
    known: dict[str, Installed] = {}
    for path in _card_files():
        try:
            card = ModelCard.read(path)
        except ModelError as error:
            warnings.warn(f"A model is left out. {error}", stacklevel=3)
            continue
        if task is None or card.task == task:
            known.setdefault(card.name, Installed(card, path))
    return known


def _card_files() -> Iterator[Path]:
    yield from sorted(SHIPPED.glob("*.json"))
    for folder in model_folders():
        yield from sorted(folder.glob(f"*/{CARD_FILE}"))


def weights_of(card: Path) -> Path:
    """Where the weights of the model with this card file must be."""
    return (
        card.with_name(WEIGHTS_FILE) if card.name == CARD_FILE else card.with_suffix(".safetensors")
    )


def _open(path: Path) -> Model:
    try:
        stamp = path.stat()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}).") from error
    return _open_once(path.resolve(), stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=8)
def _open_once(path: Path, _changed: int, _size: int) -> Model:
    if path.suffix.lower() in CHECKPOINTS:
        from napari_vox3d.models.checkpoint import model_from_checkpoint

        return model_from_checkpoint(path)
    if path.suffix.lower() != ".json":
        raise ModelError(
            f"{path}: is not a model. Name a model's folder, its card (.json) or a checkpoint "
            f"({', '.join(CHECKPOINTS)})."
        )
    card = ModelCard.read(path)
    if card.network is None:
        return Model(card)
    weights = weights_of(path)
    if not kept_weights(weights, card.sha256).is_file():
        raise ModelError(f"{weights}: is missing; the card {path.name} needs it beside itself.")
    return Model(card, weights=weights)
